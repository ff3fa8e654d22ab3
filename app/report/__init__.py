"""One explained prompt as files to keep: a report that opens offline, JSON, and tables, several in one archive.

``python -m app.report "The capital of France is" --out report.html`` writes the same from the shell. Knows no
Streamlit.
"""

import io
import json
import re
import shlex
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from app.attribution.prompt import Method
from app.state.address import MODEL, address, shared
from app.state.selections import DEFAULT_TOP, Map, PromptSelection, Rule
from db.catalogue.store import Catalogue
from db.lazy import lazy_import
from db.neuron import NeuronKind
from db.records import BuildStamp

if TYPE_CHECKING:
    import pandas as pd

    from app.attribution import drilldowns, frames, results
    from app.report import contents
    from db.catalogue import export
else:  # `--help` is to be quick
    contents, export = lazy_import("app.report.contents"), lazy_import("db.catalogue.export")
    drilldowns = lazy_import("app.attribution.drilldowns")
    frames, results = lazy_import("app.attribution.frames"), lazy_import("app.attribution.results")

ROWS = 50
"""Neurons in a table of the report; the JSON and the tables hold all that were found."""
_PLAIN = re.compile(r"[a-z0-9]+")
_LONGEST = 60
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The time of every file in an archive: the same tables are the same archive."""


def written_at(when: datetime | None = None) -> str:
    """A time, or now, such as “2026-01-31 10:20 UTC”."""
    return (when or datetime.now(UTC)).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def on_server(base: str, link: str) -> str:
    """A page's address on the server whose start page is at `base`; as it is where that is not known."""
    return urljoin(base, link) if urlsplit(base).scheme in ("http", "https") else link


@dataclass(frozen=True, slots=True)
class Origin:
    """What was asked, and of which server: how the figures are had again."""

    question: PromptSelection
    """With its place: the address opens the page as it was."""
    base: str = ""
    """The address of the app's start page; empty where it is not known, as in the shell."""
    model: str = "demo"
    """As the shell's ``--model`` takes it."""
    made: datetime | None = None
    """When; None is now."""

    def address(self, build: BuildStamp | None) -> str:
        """The page's address with its build, where there is one; without its server where that is not known."""
        link = (
            address(self.question.page_name, self.question.params()) if build is None else shared(self.question, build)
        )
        return on_server(self.base, link)

    def over_http(self) -> str:
        """The address at which programs get the same figures as JSON."""
        asked = self.question
        return on_server(self.base, f"api/v1/{address(asked.page_name, {**asked.params(), MODEL: self.model})}")

    def command(self) -> str | None:
        """The shell command that writes the same report; None where a shell cannot be given such a prompt."""
        asked = self.question
        if any(not one.isprintable() and one != "\n" for one in asked.prompt):
            return None
        options = {
            "--model": None if self.model == "demo" else self.model,
            "--target-id": asked.target,
            "--distractor-id": asked.distractor,
            "--position": asked.position,
            "--top": None if asked.top == DEFAULT_TOP else asked.top,
            "--conventions": None if asked.rule is Rule.EXACT else asked.rule,
            "--method": None if asked.method is Method.ADDED else asked.method,
        }
        words = [part for name, value in options.items() if value is not None for part in (name, str(value))]
        words += ["--no-bos"] if asked.bare else []
        words += ["--chat"] if asked.chat else []
        words += ["--lens"] if asked.place.map is Map.LENS else []
        words = ["python", "-m", "app.report", *words, "--out", "report.html", "--", asked.prompt]
        return " ".join(map(shlex.quote, words))


@dataclass(frozen=True)
class Material:
    """What the files are made from."""

    analysis: "results.Analysis"
    catalogue: Catalogue | None
    """Where the neurons' tokens are; of the same model. Without one, the tables of neurons are without them."""
    origin: Origin
    lens: "pd.DataFrame | None" = None
    """The logit lens (`frames.lens_frame`), where it was asked for."""
    rows: int = ROWS
    """Neurons in each of the report's tables."""
    flow: "results.Flow | None" = None
    """The strongest moves of heads; None where there is no model to ask."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """What else was asked of the prompt, as ``python -m app.attribution --json`` writes it, by its keys."""


@dataclass(frozen=True, slots=True)
class FileForm:
    """A kind of file."""

    name: str
    ending: str
    write: Callable[[Material], bytes]
    hint: str


def file_name(form: FileForm, prompt: str) -> str:
    """What a download is called: some of the prompt's letters and digits, so that nothing in it can mislead.

    >>> file_name(FILES["html"], "The capital of France is")
    'atlas-the-capital-of-france-is.html'
    """
    words = _PLAIN.findall(prompt.lower())
    return "-".join(["atlas", *words])[:_LONGEST].rstrip("-") + form.ending


def tables(material: Material) -> "dict[str, pd.DataFrame]":
    """Every list of the analysis in full, by its name."""
    analysis, contrast = material.analysis, material.analysis.contrast
    named = {
        "predictions": frames.predictions_frame(analysis),
        "layers": frames.layers_frame(analysis),
        "heads": frames.heads_frame(analysis),
        "ffn_value_neurons": frames.value_neurons_frame(analysis, NeuronKind.FFN),
        "attention_value_neurons": frames.value_neurons_frame(analysis, NeuronKind.ATTENTION),
    }
    lists = {}
    if analysis.suppressing_certificates:
        lists["ffn_suppressing_neurons"] = analysis.ffn_suppressing_neurons
        lists["attention_suppressing_neurons"] = analysis.attention_suppressing_neurons
    if analysis.query is not None:
        named["query_ffn_neurons"] = frames.query_neurons_frame(analysis.query.ffn_neurons)
        named["query_layers"] = frames.query_layers_frame(analysis.query)
    if contrast is not None:
        named["contrast_layers"] = frames.layers_frame(contrast)
        named["contrast_heads"] = frames.heads_frame(contrast)
        lists["contrast_ffn_neurons"] = contrast.ffn_neurons
        lists["contrast_attention_neurons"] = contrast.attention_neurons
        lists["contrast_ffn_opposing_neurons"] = contrast.ffn_opposing
        lists["contrast_attention_opposing_neurons"] = contrast.attention_opposing
    named |= {name: frames.neurons_frame(analysis, found) for name, found in lists.items()}
    if material.flow is not None:
        named["moves"] = frames.flow_frame(material.flow)
    if material.lens is not None:
        named["logit_lens"] = material.lens
    return named


def _report(material: Material) -> bytes:
    return contents.html(material)


def _json(material: Material) -> bytes:
    """The whole analysis and its moves, as ``python -m app.attribution --json --flow`` writes them."""
    analysis = {**results.to_json(material.analysis), **material.more}
    if material.flow is not None:
        analysis["flow"] = drilldowns.to_json(material.flow)
    return json.dumps(analysis, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")


def _archive(ending: str, material: Material) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, frame in tables(material).items():
            entry = zipfile.ZipInfo(f"{name}.{ending}", _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, export.as_bytes(frame, ending))
    return buffer.getvalue()


FILES = {
    "html": FileForm("Report", ".html", _report, "to read and to print"),
    "json": FileForm("JSON", ".json", _json, "the whole analysis"),
    "csv": FileForm("CSV", "-csv.zip", partial(_archive, "csv"), "its tables for spreadsheets, zipped"),
    "parquet": FileForm("Parquet", "-parquet.zip", partial(_archive, "parquet"), "its tables for programs, zipped"),
}
"""By the name that the shell's ``--form`` takes."""
