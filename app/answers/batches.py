"""Many prompts: what was typed or opened from a file, each prompt's analysis, and which neurons stand in many lists."""

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from pydantic import AfterValidator, BaseModel, Field, FiniteFloat, ValidationError, create_model

from app import attribution
from app.answers import explain
from app.answers.reading import FILTER_DEPTH as _TOKENS
from app.answers.reading import arranged, exists, having
from app.attribution.frames import Said, said_of
from app.attribution.frames import aggregate as aggregate_frame
from app.attribution.prompt import PromptLine, lines_of
from app.attribution.results import to_json
from app.serving import resources
from app.serving.access import require_allowed, require_batch
from app.serving.worker import Reason, RefusedError, Report
from app.state.selections import ManySelection, PromptSelection
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.lazy import lazy_import
from db.neuron import Neuron
from db.records import NeuronTokens
from db.workspace.records import ROLES

arrow, parquet = lazy_import("pyarrow"), lazy_import("pyarrow.parquet")
batch = lazy_import("app.attribution.batch")

MAX_PROMPTS = 50
MAX_ROWS = 5000
_MAX_UNPACKED = 512 * 2**20  # bytes
_MAX_LISTED = 2000


def parse_lines(text: str, most: int = MAX_PROMPTS) -> tuple[list[PromptLine], int]:
    r"""Prompts, one per line with its target after a tab, and how many are beyond the limit.

    A browser's field shows a lone carriage return as the end of a line, so here it is one.


    >>> parse_lines("The capital of France is\t Paris\n\nThank you very")  # doctest: +NORMALIZE_WHITESPACE
    ([PromptLine(prompt='The capital of France is', target=' Paris', distractor=None, position=None),
      PromptLine(prompt='Thank you very', target=None, distractor=None, position=None)], 0)
    """
    found = []
    for line in lines_of(text.replace("\r\n", "\n").replace("\r", "\n")):
        prompt, _, target = line.partition("\t")
        if prompt.strip():
            found.append(PromptLine(prompt, target.rstrip("\t") or None))
    return found[:most], max(0, len(found) - most)


def as_lines(pairs: Iterable[tuple[str, str]]) -> str:
    """Prompts with targets as the text that `parse_lines` reads."""
    return "\n".join(f"{prompt}\t{target}" for prompt, target in pairs)


# The neurons of many prompts, put together.


@dataclass(frozen=True)
class Aggregate:
    """Neurons over many prompts.

    Attributes:
        frame: one row per role and neuron; see `frames.aggregate`.
        prompts: how many were analysed.
        failed: prompts that could not be analysed, and why.
        models: whose analyses they are: names, and identities of checkpoints, empty in files of older versions.
        said: of each prompt that was analysed, what the model says.
    """

    frame: pd.DataFrame
    prompts: int
    failed: tuple[tuple[str, str], ...]
    models: tuple[tuple[str, str], ...]
    said: tuple[Said, ...] = ()

    def is_of(self, atlas: Catalogue) -> bool:
        """Whether all are of the catalogue's model, so that its tokens are those of their neurons."""
        own = atlas.info
        return all(
            checkpoint == own.checkpoint if checkpoint else name == own.model for name, checkpoint in self.models
        )


def aggregate_of(rows: list[dict[str, Any]]) -> Aggregate:
    """Rows as `row` and `read_upload` make them, put together."""
    failed = tuple((one["prompt"], one["error"]) for one in rows if "error" in one)
    analysed = [one for one in rows if "error" not in one]
    models = sorted({(one.get("model", ""), one.get("checkpoint") or "") for one in analysed})
    said = tuple(map(said_of, analysed))
    return Aggregate(aggregate_frame(rows), len(said), failed, tuple(models), said)


def row(atlas: Catalogue, asked: PromptLine) -> dict[str, Any]:
    """One of many prompts, as the object that the shell would write; see `results.to_json`."""
    require_allowed(asked.prompt)

    def make(report: Report) -> dict[str, Any]:
        model = resources.ready(atlas, report)
        settings = asked.applied(explain.settings_of(PromptSelection(asked.prompt)))
        ranges = resources.ranges_of(atlas.info.build_id, atlas)
        try:
            return to_json(attribution.analyse(model, asked.prompt, settings, ranges=ranges, report=report))
        except RefusedError:
            raise
        except AtlasError as error:
            return {"prompt": asked.prompt, "error": str(error)}

    try:
        return resources.workshop().result("row", (atlas.info.build_id, asked), make)
    except RefusedError as error:
        if error.reason is not Reason.TIME:
            raise
        return {"prompt": asked.prompt, "error": str(error)}  # the others go on, and this one may be tried again


def known_aggregate(atlas: Catalogue, asked: tuple[PromptLine, ...]) -> Aggregate | None:
    """The aggregate, where it was made before."""
    known: Aggregate | None = resources.workshop().known("aggregate", (atlas.info.build_id, asked))
    return known


def aggregate(atlas: Catalogue, asked: tuple[PromptLine, ...]) -> Aggregate:
    """The lists of many prompts, put together; analyses each prompt that was not analysed before."""
    require_batch(len(asked))
    rows = [row(atlas, one) for one in asked]
    return resources.workshop().result("aggregate", (atlas.info.build_id, asked), lambda _report: aggregate_of(rows))


# What is shown of them.


@dataclass(frozen=True, slots=True)
class NeuronRow:
    """One neuron of an aggregate.

    Attributes:
        neuron: which.
        prompts: how many prompts have it in their list.
        score: its mean over those, nats.
        activation: its mean over those, signed; None for query neurons.
        tokens: its strongest tokens; None where the catalogue has no such neuron, or the file is of another model.
    """

    neuron: Neuron
    prompts: int
    score: float
    activation: float | None
    tokens: NeuronTokens | None


def neurons(frame: pd.DataFrame, asked: ManySelection, atlas: Catalogue | None) -> tuple[NeuronRow, ...]:
    """All neurons of a role that fulfil what is asked, in its order; without their tokens, by which they are searched
    where there is a catalogue of their own model.
    """
    frame = frame[(frame["role"] == asked.role) & (frame["prompts"] >= asked.least)]
    figures = zip(frame["neuron"], frame["prompts"], frame["mean_score"], frame["mean_activation"], strict=True)
    rows = [
        NeuronRow(Neuron.parse(label), int(prompts), score, None if pd.isna(activation) else activation, None)
        for label, prompts, score, activation in figures
    ]
    if asked.layers is not None:
        rows = [one for one in rows if asked.layers[0] <= one.neuron.layer <= asked.layers[1]]
    return arranged(having(rows, asked.having, atlas), asked.order, asked.reverse)


def with_tokens(rows: Sequence[NeuronRow], atlas: Catalogue | None) -> list[NeuronRow]:
    """The rows with their neurons' tokens, which are read in one query; without a catalogue as they are."""
    if atlas is None:
        return list(rows)
    strongest = atlas.strongest_tokens([one.neuron for one in rows if exists(one.neuron, atlas)], _TOKENS)
    return [replace(one, tokens=strongest.get(one.neuron)) for one in rows]


# A file of analyses, which may come from anywhere.


class _Entry(BaseModel):
    """A neuron with what the aggregate needs of it."""

    neuron: Annotated[str, AfterValidator(lambda label: Neuron.parse(label[:40]).label)]
    score: FiniteFloat
    activation: FiniteFloat | None = None
    effect: FiniteFloat | None = None


class _Token(BaseModel):
    """What the model says, or could."""

    id: Annotated[int, Field(ge=0)]
    text: Annotated[str, Field(max_length=1000)]
    probability: FiniteFloat


class _Display(BaseModel):
    """The display form of a token."""

    id: int
    display: Annotated[str, Field(max_length=1000)]


class _Row(BaseModel):
    """One prompt, without its lists of neurons."""

    prompt: str
    model: str = ""
    checkpoint: str | None = None
    error: str | None = None
    target: _Token | None = None
    predictions: list[_Token] | None = None
    displays: list[_Display] | None = None


_LISTS: Any = dict.fromkeys(ROLES.values(), (Annotated[list[_Entry], Field(max_length=_MAX_LISTED)] | None, None))
_FullRow = create_model("_FullRow", __base__=_Row, **_LISTS)


def read_upload(name: str, data: bytes) -> list[dict[str, Any]]:
    """The rows of a file made by ``python -m app.attribution --prompts … --out …``, checked.

    Raises:
        AtlasError: it is no such file, or too large; the message says what is wrong with it.
    """
    ending = Path(name).suffix.lower()
    if ending not in batch.ENDINGS:
        raise AtlasError(f"Only files that end in {' or '.join(batch.ENDINGS)} can be opened.")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"upload{ending}"
        path.write_bytes(data)
        if ending == ".parquet":
            _require_small(path)
        rows: list[dict[str, Any]] = []
        try:
            for found in batch.read_rows(path):
                rows.append(_checked(found, len(rows) + 1))
                if len(rows) > MAX_ROWS:
                    raise AtlasError(f"It has more than {MAX_ROWS:,} prompts.")
        except (AtlasError, RecursionError, MemoryError) as error:
            message = str(error).replace(str(path), "The file") or "it is nested too deeply"
            raise AtlasError(f"The file cannot be opened: {message}") from error
    if not rows:
        raise AtlasError("The file holds no prompts.")
    return rows


def _require_small(path: Path) -> None:
    """A small Parquet file may unpack to anything."""
    try:
        meta = parquet.ParquetFile(path).metadata
        size = sum(meta.row_group(group).total_byte_size for group in range(meta.num_row_groups))
    except (OSError, ValueError, arrow.ArrowException) as error:
        raise AtlasError("The file cannot be opened: it is no Parquet file.") from error
    if size > _MAX_UNPACKED or meta.num_rows > MAX_ROWS:
        raise AtlasError(f"The file is too large: at most {MAX_ROWS:,} prompts and {_MAX_UNPACKED >> 20} MB unpacked.")


def _checked(found: Any, number: int) -> dict[str, Any]:
    """A row with what the aggregate needs, and nothing else."""
    try:
        kept: dict[str, Any] = _FullRow.model_validate(found).model_dump(exclude_none=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise AtlasError(f"in row {number}, {place or 'the whole'} is wrong: {first['msg']}.") from error
    if kept.get("error"):
        return {"prompt": kept["prompt"], "error": kept["error"]}
    if not kept.keys() & ROLES.values():
        raise AtlasError(f"row {number} has none of an analysis' lists of neurons.")
    return kept
