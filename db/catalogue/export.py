"""Whole answers as files: CSV for spreadsheets, JSON and Parquet for programs; and a build as one file.

JSON and Parquet hold every value exactly. In CSV a text that begins as a formula would (= + - @, a tab or a line
break, also after spaces or in full width) gets an apostrophe before it, so that no spreadsheet computes it: a token
" =SUM" is a token, whoever chose the vocabulary. ``token_id`` tells which token it is in any case.
"""

import json
import os
import shutil
import unicodedata
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from db.files import sync
from db.errors import AtlasError
from db.neuron import Neuron, Sign
from db.queries import concept_of, filters_of
from db.records import ConceptNeuron, Hit, Neighbour, NeuronCard, SimilarNeuron

if TYPE_CHECKING:
    from db.catalogue.store import Catalogue


# Answers as data frames, for notebooks, charts and exports. Column names are ASCII.

_HIT_COLUMNS = ["neuron", "kind", "layer", "head", "index", "sign", "rank", "token_id", "token", "logit", "z"]
_CARD_COLUMNS = ["sign", "rank", "token_id", "token", "logit", "z"]
_NEURON_COLUMNS = ["neuron", "kind", "layer", "head", "index"]


def hits_frame(hits: Sequence[Hit]) -> pd.DataFrame:
    """One row a hit, in the order given; ``head`` is missing for FFN neurons."""
    rows = [
        (
            hit.neuron.label,
            str(hit.neuron.kind),
            hit.neuron.layer,
            hit.neuron.head,
            hit.neuron.index,
            str(hit.sign),
            hit.rank,
            hit.token.token_id,
            hit.token.display,
            hit.logit,
            hit.z,
        )
        for hit in hits
    ]
    return pd.DataFrame(rows, columns=_HIT_COLUMNS).astype({"head": "Int64"})


def card_frame(card: NeuronCard) -> pd.DataFrame:
    """One row a stored token of the neuron: the promoted ones by rank, then the suppressed ones by rank."""
    rows = [
        (str(sign), rank, entry.token.token_id, entry.token.display, entry.logit, entry.z)
        for sign, entries in ((Sign.PROMOTES, card.top), (Sign.SUPPRESSES, card.bottom))
        for rank, entry in enumerate(entries, start=1)
    ]
    return pd.DataFrame(rows, columns=_CARD_COLUMNS)


def concept_frame(neurons: Sequence[ConceptNeuron]) -> pd.DataFrame:
    """One row an end of a neuron, in the order given; ``matched`` lists its tokens of the concept by rank."""
    rows = [
        (
            *_columns(found.neuron),
            str(found.sign),
            found.score,
            len(found.matched),
            " ".join(entry.token.display for entry in found.matched),
        )
        for found in neurons
    ]
    columns = [*_NEURON_COLUMNS, "sign", "score", "tokens", "matched"]
    return pd.DataFrame(rows, columns=columns).astype({"head": "Int64"})


def similar_frame(found: Sequence[SimilarNeuron]) -> pd.DataFrame:
    """One row a neuron, most alike first; ``shared`` lists the tokens in common."""
    rows = [
        (
            *_columns(other.neuron),
            other.similarity,
            other.opposite,
            len(other.shared),
            " ".join(token.display for token in other.shared),
        )
        for other in found
    ]
    columns = [*_NEURON_COLUMNS, "similarity", "opposite", "tokens", "shared"]
    return pd.DataFrame(rows, columns=columns).astype({"head": "Int64"})


def neighbours_frame(neighbours: Sequence[Neighbour]) -> pd.DataFrame:
    """One row a neighbour, nearest first."""
    rows = [(near.rank, near.token.token_id, near.token.display, near.cosine) for near in neighbours]
    return pd.DataFrame(rows, columns=["rank", "token_id", "token", "cosine"])


def _columns(neuron: Neuron) -> tuple[str, str, int, int | None, int]:
    return neuron.label, str(neuron.kind), neuron.layer, neuron.head, neuron.index


EVERYTHING = 2**31 - 1
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def safe_cell(text: str) -> str:
    """The text as it may stand in a spreadsheet.

    >>> safe_cell("=1+1"), safe_cell("  -x"), safe_cell(" Paris"), safe_cell("＝1")
    ("'=1+1", "'  -x", ' Paris', "'＝1")
    """
    bare = unicodedata.normalize("NFKC", text.lstrip(" \xa0\u3000\ufeff\u200b"))
    return "'" + text if bare.startswith(_FORMULA) or text.startswith(_FORMULA) else text


def frame_of(catalogue: "Catalogue", options: Namespace) -> "pd.DataFrame":
    """The whole answer to what the options ask; ``token`` is a token's display form, ``text`` its own text."""
    frame = _answer(catalogue, options)
    if "token_id" in frame:
        known = catalogue.tokens(int(token_id) for token_id in frame["token_id"])
        texts = [known[int(token_id)].text for token_id in frame["token_id"]]
        frame.insert(list(frame.columns).index("token") + 1, "text", texts)
    return frame


def _answer(catalogue: "Catalogue", options: Namespace) -> "pd.DataFrame":
    limit, offset = EVERYTHING if options.limit is None else options.limit, options.offset
    match options.what:
        case "search":
            ids = [token.token_id for token in catalogue.tokens_of(options.text)]
            return hits_frame(catalogue.search_token(ids, filters_of(options), limit=limit, offset=offset))
        case "concept":
            concept = concept_of(catalogue, options)
            found = catalogue.concept_neurons(concept, filters_of(options), limit=limit, offset=offset)
            return concept_frame(found)
        case "similar":
            most = 100 if options.limit is None else options.limit
            return similar_frame(catalogue.similar(Neuron.parse(options.text), limit=most))
        case "neuron":
            return card_frame(catalogue.neuron(Neuron.parse(options.text)))
        case "token":
            return neighbours_frame(catalogue.neighbours(catalogue.tokens_of(options.text)[0].token_id))
        case _:
            return catalogue.overview()


def to_csv(frame: "pd.DataFrame") -> str:
    """The frame as CSV (RFC 4180), texts made safe for spreadsheets."""
    safe = frame.copy()
    for name in safe.columns:
        if safe[name].map(type).isin([str, Sign]).any():
            safe[name] = [safe_cell(str(value)) for value in safe[name]]
    # With any other line end, a carriage return within a text would stand there unquoted and end the row.
    return str(safe.to_csv(index=False, lineterminator="\r\n"))


def to_json(frame: "pd.DataFrame") -> str:
    """The frame as a list of objects; floats in full, what is missing as null."""
    rows = frame.astype(object).where(frame.notna(), None).to_dict(orient="records")
    return json.dumps(rows, allow_nan=False)


def write(frame: "pd.DataFrame", path: Path | None, form: str | None) -> str:
    """Write the frame to a file and return a line that says so; without a file, return its text.

    Raises:
        AtlasError: an unknown ending, Parquet without a file, or a file that cannot be written.
    """
    form = form or (path.suffix.removeprefix(".").lower() if path else "") or "csv"
    if form not in ("csv", "json", "parquet"):
        raise AtlasError(f"“{form[:20]}” is no format to export to: use csv, json or parquet, or say --format.")
    if path is None:
        if form == "parquet":
            raise AtlasError("Parquet is no text: give a file to write it to, --to FILE.")
        return (to_csv(frame) if form == "csv" else to_json(frame)).removesuffix("\r\n")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if form == "parquet":
            frame.to_parquet(temporary, index=False)
        else:
            text = to_csv(frame) if form == "csv" else to_json(frame)
            temporary.write_bytes(text.encode("utf-8", "surrogatepass"))
        temporary.replace(path)
    except OSError as error:
        raise AtlasError(f"{path} could not be written ({error.strerror or error}).") from error
    finally:
        temporary.unlink(missing_ok=True)
    return f"{len(frame):,} rows written to {path}"


def copy_build(source: Path, target: Path) -> str:
    """Copy a build's file; it is one file and answers from anywhere (``--catalogue FILE``).

    Raises:
        AtlasError: the target exists, or cannot be written.
    """
    if target.exists():
        raise AtlasError(f"{target} exists already: give another name, or delete it.")
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        shutil.copyfile(source, temporary)
        sync(temporary)
        temporary.rename(target)
    except OSError as error:
        raise AtlasError(f"{target} could not be written ({error.strerror or error}).") from error
    finally:
        temporary.unlink(missing_ok=True)
    return f"{source.name} copied to {target}, {target.stat().st_size:,} bytes"
