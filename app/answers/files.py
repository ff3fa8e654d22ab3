"""Whole results as files to download, and the shell command that writes the same."""

import io
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from app.state.selections import By, SearchSelection
from db.catalogue.concepts import WIDEN
from db.catalogue.export import to_csv, to_json
from db.questions import ConceptSearch, Filters, Search, parameters, shell_options

MAX_BUILD_BYTES = 300_000_000
"""A larger build is not handed through the page; it is copied where it lies."""


@dataclass(frozen=True, slots=True)
class Form:
    """A kind of file."""

    name: str
    ending: str
    mime: str
    write: Callable[[pd.DataFrame], bytes]


def parquet_of(frame: pd.DataFrame) -> bytes:
    """A data frame as Parquet, every value exact."""
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    return buffer.getvalue()


def csv_of(frame: pd.DataFrame) -> bytes:
    """A data frame as CSV; text that a spreadsheet would compute gets an apostrophe in front."""
    return to_csv(frame).encode("utf-8", "surrogatepass")


FORMS = (
    Form("CSV", "csv", "text/csv", csv_of),
    Form("JSON", "json", "application/json", lambda frame: to_json(frame).encode("utf-8", "surrogatepass")),
    Form("Parquet", "parquet", "application/vnd.apache.parquet", parquet_of),
)


def command(selection: SearchSelection, by: By, model: str) -> str | None:
    """The shell command that exports the same rows; None where the shell cannot ask for them."""
    if not selection.text or selection.tokens is not None or selection.avoided or selection.exact:
        return None
    conditions = {one.field: getattr(selection.conditions, one.field) for one in parameters(Filters)}
    if by is By.TOKEN:
        question: Search | ConceptSearch = Search(text=selection.text, **conditions)
    else:
        question = ConceptSearch(
            text=selection.text,
            widen=0 if selection.narrow else WIDEN,
            add=selection.added,
            drop=selection.dropped,
            **conditions,
        )
    what = "search" if by is By.TOKEN else "concept"
    words = ["python", "-m", "db", "export", what, "--model", model, *shell_options(question)]
    return " ".join(map(shlex.quote, [*words, "--to", "neurons.csv", "--", selection.text]))


def copy_command(path: Path, model: str) -> str:
    """The shell command that copies a whole build."""
    return " ".join(map(shlex.quote, ["python", "-m", "db", "export", "--model", model, "--build", path.name]))
