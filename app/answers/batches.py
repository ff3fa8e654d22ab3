"""Many prompts: what is typed, what is opened from a file, and what is shown of the neurons found. Pure."""

import json
import math
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from app.serving import resources
from app.serving.access import require_allowed, require_batch
from app.serving.settings import configuration
from app.serving.worker import Reason, RefusedError, Report
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.neuron import Neuron

MAX_PROMPTS = 50
MAX_ROWS = 5000
_MAX_UNPACKED = 512 * 2**20  # bytes
_MAX_LISTED = 2000


@dataclass(frozen=True, slots=True)
class Asked:
    """One prompt of many; target: one token as text, None for the top prediction."""

    prompt: str
    target: str | None = None


def parse_lines(text: str, most: int = MAX_PROMPTS) -> tuple[list[Asked], int]:
    r"""Prompts and how many are beyond the limit.

    >>> parse_lines("The capital of France is\t Paris\n\nThank you very")
    ([Asked(prompt='The capital of France is', target=' Paris'), Asked(prompt='Thank you very', target=None)], 0)
    """
    found = []
    for line in text.splitlines():
        prompt, _, target = line.partition("\t")
        if prompt.strip():
            found.append(Asked(prompt, target.rstrip("\t") or None))
    return found[:most], max(0, len(found) - most)


def as_lines(pairs: Iterable[tuple[str, str]]) -> str:
    """The text that stands for prompts with targets."""
    return "\n".join(f"{prompt}\t{target}" for prompt, target in pairs)


def read_upload(name: str, data: bytes) -> list[dict[str, Any]]:
    """The rows of a file made by ``python -m app.attribution --prompts … --out …``, checked.

    Raises:
        AtlasError: it is no such file, or too large; the message says what is wrong with it.
    """
    from app.attribution.batch import ENDINGS, read_rows

    ending = Path(name).suffix.lower()
    if ending not in ENDINGS:
        raise AtlasError(f"Only files that end in {' or '.join(ENDINGS)} can be opened.")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"upload{ending}"
        path.write_bytes(data)
        if ending == ".parquet":
            _require_small(path)
        rows: list[dict[str, Any]] = []
        try:
            for row in read_rows(path):
                rows.append(_checked(row, len(rows) + 1))
                if len(rows) > MAX_ROWS:
                    raise AtlasError(f"The file has more than {MAX_ROWS:,} prompts.")
        except (AtlasError, RecursionError, MemoryError) as error:
            message = str(error).replace(str(path), "The file") or "it is nested too deeply"
            raise AtlasError(f"The file cannot be opened: {message}") from error
    if not rows:
        raise AtlasError("The file holds no prompts.")
    return rows


def _require_small(path: Path) -> None:
    """A small Parquet file may unpack to anything."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        meta = pq.ParquetFile(path).metadata
        size = sum(meta.row_group(group).total_byte_size for group in range(meta.num_row_groups))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise AtlasError("The file cannot be opened: it is no Parquet file.") from error
    if size > _MAX_UNPACKED or meta.num_rows > MAX_ROWS:
        raise AtlasError(f"The file is too large: at most {MAX_ROWS:,} prompts and {_MAX_UNPACKED >> 20} MB unpacked.")


def _checked(row: Any, number: int) -> dict[str, Any]:
    """A row with what the aggregate needs, and nothing else."""
    from app.attribution.frames import ROLES

    if not isinstance(row, dict) or not isinstance(row.get("prompt"), str):
        raise AtlasError(f"row {number} is no analysis of a prompt.")
    if row.get("error"):
        return {"prompt": row["prompt"], "error": str(row["error"])}
    kept: dict[str, Any] = {"prompt": row["prompt"], "model": str(row.get("model", ""))}
    for name in ROLES.values():
        listed = row.get(name)
        if listed is None:
            continue
        if not isinstance(listed, list) or len(listed) > _MAX_LISTED:
            raise AtlasError(f"in row {number}, {name} is no list of at most {_MAX_LISTED:,} neurons.")
        kept[name] = [_neuron(one, number, name) for one in listed]
    if len(kept) == 2:
        raise AtlasError(f"row {number} has none of the lists of neurons that an analysis has.")
    return kept


def _neuron(one: Any, number: int, name: str) -> dict[str, Any]:
    try:
        label = Neuron.parse(str(one["neuron"])[:40]).label
        score = float(one["score"])
        activation = None if one.get("activation") is None else float(one["activation"])
    except (AtlasError, KeyError, TypeError, ValueError, AttributeError) as error:
        shown = json.dumps(one, default=str)[:60]
        raise AtlasError(f"in row {number}, {name} holds {shown}, which is no neuron with a score.") from error
    if not math.isfinite(score) or (activation is not None and not math.isfinite(activation)):
        raise AtlasError(f"in row {number}, {name} holds a score that is no finite number.")
    return {"neuron": label, "score": score, **({} if activation is None else {"activation": activation})}


def narrowed(table: pd.DataFrame, role: str, layers: tuple[int, int] | None, least: int) -> pd.DataFrame:
    """The rows of an aggregate that are asked for, in its order."""
    rows = table[(table["role"] == role) & (table["prompts"] >= least)]
    if layers is None:
        return rows
    of = rows["neuron"].map(lambda label: Neuron.parse(label).layer)
    return rows[(of >= layers[0]) & (of <= layers[1])]


# What the page of many prompts asks of the model: each prompt's analysis, and their lists put together. All of it is


@dataclass(frozen=True)
class Aggregate:
    """Neurons over many prompts (`aggregate.aggregate`), and the prompts that could not be analysed, with why."""

    frame: pd.DataFrame
    failed: tuple[tuple[str, str], ...]


def row(atlas: Catalogue, asked: Asked) -> dict[str, Any]:
    """One of many prompts, as the object that the shell would write; see `forms.to_json`."""
    require_allowed(asked.prompt)

    def make(report: Report) -> dict[str, Any]:
        from app.attribution import Settings, analyse
        from app.attribution.frames import to_json

        model = resources.ready(atlas, report)
        try:
            limits = configuration()
            settings = Settings(
                target=asked.target, suppressing=True, max_tokens=limits.max_tokens, memory_mb=limits.memory_mb
            )
            ranges = resources.ranges_of(atlas.info.build_id, atlas)
            return to_json(analyse(model, asked.prompt, settings, ranges=ranges, report=report))
        except RefusedError:
            raise
        except AtlasError as error:
            return {"prompt": asked.prompt, "error": str(error)}

    try:
        return resources.workshop().result("row", (atlas.info.build_id, asked), make)
    except RefusedError as error:
        if error.reason is not Reason.TIME:
            raise
        return {"prompt": asked.prompt, "error": str(error)}  # the others go on, and it may be asked for again


def known_aggregate(atlas: Catalogue, asked: tuple[Asked, ...]) -> Aggregate | None:
    """The aggregate, where it was made before."""
    known: Aggregate | None = resources.workshop().known("aggregate", (atlas.info.build_id, asked))
    return known


def aggregate(atlas: Catalogue, asked: tuple[Asked, ...]) -> Aggregate:
    """The lists of many prompts, put together; each prompt's `row` is asked for first."""
    require_batch(len(asked))
    rows = [row(atlas, one) for one in asked]

    def make(_report: Report) -> Aggregate:
        from app.attribution.frames import aggregate

        failed = tuple((one["prompt"], one["error"]) for one in rows if "error" in one)
        return Aggregate(aggregate(rows), failed)

    return resources.workshop().result("aggregate", (atlas.info.build_id, asked), make)
