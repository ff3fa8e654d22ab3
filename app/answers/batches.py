"""Many prompts: what was typed or opened from a file, each prompt's analysis, and which neurons stand in many lists."""

import tempfile
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import numpy as np
import pandas as pd
from pydantic import AfterValidator, BaseModel, Field, FiniteFloat, ValidationError, create_model

from app import attribution
from app.answers import explain
from app.answers.reading import FILTER_DEPTH as _TOKENS
from app.answers.reading import arranged, exists, having
from app.attribution import sets
from app.attribution.form import OF_MANY
from app.attribution.frames import AT_MEAN, Said, said_of
from app.attribution.frames import aggregate as aggregate_frame
from app.attribution.prompt import PromptLine, lines_of
from app.attribution.results import to_json
from app.attribution.sets import Figures, listed_figures
from app.serving import resources
from app.serving.access import require_allowed, require_batch
from app.serving.settings import public
from app.serving.worker import Reason, RefusedError, Report
from app.state.selections import ManySelection, PromptSelection
from app.words import nats
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.lazy import lazy_import
from db.neuron import Neuron, NeuronKind
from db.records import NeuronTokens
from db.workspace.records import ROLES

arrow, parquet = lazy_import("pyarrow"), lazy_import("pyarrow.parquet")
batch = lazy_import("app.attribution.batch")

if TYPE_CHECKING:
    from app.attribution.measured import Means
    from indexer.language_model import LanguageModel

T = TypeVar("T")
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
        together: by kind, what each answer lost without ten neurons, and on average without as many random ones of the
            same layers, nats; empty where nothing was measured.
        no_means: why no neuron was replaced by its mean; empty where that is as asked.
    """

    frame: pd.DataFrame
    prompts: int
    failed: tuple[tuple[str, str], ...]
    models: tuple[tuple[str, str], ...]
    said: tuple[Said, ...] = ()
    together: sets.Pairs = field(default_factory=dict)
    no_means: str = ""

    @property
    def controls(self) -> str:
        """What the strongest hold together, beside random neurons; empty where nothing was measured."""
        return sets.controls({"an answer": self.together}, sets.OF_LISTS, nats)

    def is_of(self, atlas: Catalogue) -> bool:
        """Whether all are of the catalogue's model, so that its tokens are those of their neurons."""
        own = atlas.info
        return all(
            checkpoint == own.checkpoint if checkpoint else name == own.model for name, checkpoint in self.models
        )


def aggregate_of(rows: list[dict[str, Any]], no_means: str = "") -> Aggregate:
    """Rows as `row` and `read_upload` make them, put together."""
    failed = tuple((one["prompt"], one["error"]) for one in rows if "error" in one)
    analysed = [one for one in rows if "error" not in one]
    models = sorted({(one.get("model", ""), one.get("checkpoint") or "") for one in analysed})
    said = tuple(map(said_of, analysed))
    together = sets.together_of(analysed)
    return Aggregate(aggregate_frame(rows), len(said), failed, tuple(models), said, together, no_means)


Tell = Callable[[float, str], None]
"""Says how much is done, from 0 to 1, and what is being done."""


def row(atlas: Catalogue, asked: PromptLine, measure: bool = False) -> dict[str, Any]:
    """One of many prompts, as the object that the shell would write, perhaps with measured effects; see
    `results.to_json`.
    """
    require_allowed(asked.prompt)

    def make(report: Report) -> dict[str, Any]:
        model = resources.ready(atlas, report)
        settings = _settings(asked, measure)
        ranges = resources.ranges_of(atlas.info.build_id, atlas)
        try:
            return to_json(attribution.analyse(model, asked.prompt, settings, ranges=ranges, report=report))
        except RefusedError:
            raise
        except AtlasError as error:
            return {"prompt": asked.prompt, "error": public(str(error))}

    try:
        return resources.workshop().result("row", (atlas.info.build_id, asked, measure), make)
    except RefusedError as error:
        if error.reason is not Reason.TIME:
            raise
        # The others go on, and this one may be tried again.
        return {"prompt": asked.prompt, "error": public(str(error))}


def _settings(asked: PromptLine, measure: bool) -> attribution.Settings:
    settings = explain.settings_of(PromptSelection(asked.prompt))
    return asked.applied(replace(settings, measure=settings.top if measure else 0))


def rows(
    atlas: Catalogue, asked: Sequence[PromptLine], measure: bool, tell: Tell, share: float = 1.0
) -> list[dict[str, Any]]:
    """Of each prompt its row; they are a share of what is to be done.

    Raises:
        RefusedError: there are too many.
    """
    require_batch(len(asked))
    found = []
    for done, one in enumerate(asked):
        tell(share * done / len(asked), f"{done + 1} of {len(asked)}: {one.prompt[:60]}")
        found.append(row(atlas, one, measure))
    return found


def aggregate(atlas: Catalogue, asked: tuple[PromptLine, ...], measure: bool, tell: Tell) -> Aggregate:
    """The lists of many prompts, put together; analyses each prompt that was not analysed before."""
    key, shop = (atlas.info.build_id, asked, measure), resources.workshop()
    known: Aggregate | None = shop.known("aggregate", key)
    if known is not None:
        return known
    found = rows(atlas, asked, measure, tell, 0.75 if measure else 1.0)
    usable = tuple(line for line, one in zip(asked, found, strict=True) if "error" not in one)
    over = _means(atlas, usable) if measure else ""
    for done, (line, one) in enumerate(zip(asked, found, strict=True)):
        if not isinstance(over, str) and "error" not in one:
            tell(0.75 + done / len(asked) / 4, f"Its neurons at their means, {done + 1} of {len(asked)}")
            at_means = partial(batch.at_means, line=line, row=one, settings=_settings(line, False), means=over)
            found[done] = _figures(atlas, ("at means", line, usable), at_means)
    tell(1.0, "Putting their lists together …")
    no_means = over if isinstance(over, str) else ""
    return shop.result("aggregate", key, lambda _report: aggregate_of(found, no_means))


def _means(atlas: Catalogue, usable: tuple[PromptLine, ...]) -> "Means | str":
    """`batch.means_over` prompts."""

    def make(report: Report) -> "Means | str":
        settings, model = explain.settings_of(PromptSelection("")), resources.ready(atlas, report)
        made: Means | str = batch.means_over(model, usable, settings, report)
        return made

    return resources.workshop().result("figures", (atlas.info.build_id, "means", usable), make)


def _figures(atlas: Catalogue, key: tuple[Hashable, ...], find: Callable[["LanguageModel"], T]) -> T:
    """What is found of one prompt by the model; made once."""

    def make(report: Report) -> T:
        return find(resources.ready(atlas, report))

    return resources.workshop().result("figures", (atlas.info.build_id, *key), make)


# One set of prompts against another.

SMALL_Q = 0.05


@dataclass(frozen=True)
class Compared:
    """Two sets of prompts.

    Attributes:
        frame: the neurons; see `sets.specificity`.
        first: the first set alone.
        second: the other.
        everywhere: every neuron was scored on every prompt; else one that a list lacks counts as 0.
    """

    frame: pd.DataFrame
    first: Aggregate
    second: Aggregate
    everywhere: bool

    def is_of(self, atlas: Catalogue) -> bool:
        """Whether both are of the catalogue's model."""
        return self.first.is_of(atlas) and self.second.is_of(atlas)

    @property
    def is_measured(self) -> bool:
        """Whether the neurons are ranked, and p and q are, by what was measured."""
        return "effect_p" in self.frame

    @property
    def controls(self) -> str:
        """What ten neurons hold together in either set, beside random ones; empty where nothing was measured."""
        held = self.first.together, self.second.together
        which = sets.PARTICULAR if self.everywhere else sets.OF_LISTS
        return sets.controls(dict(zip(sets.ANSWERS, held, strict=True)), which, nats)

    @property
    def no_means(self) -> str:
        """Why no neuron was replaced by its mean; empty where that is as asked."""
        return self.first.no_means

    @property
    def how(self) -> str:
        """How the figures were found and what they can say, in a few sentences."""
        sizes = self.first.prompts, self.second.prompts
        chosen = (
            f"{len(self.frame):,} neurons: those of each kind whose scores vary most over all {sum(sizes)} prompts. "
        )
        if self.everywhere:
            found = f"Each was {'scored and measured' if self.is_measured else 'scored'} on every prompt"
        else:
            found = "The lists of the prompts say how they scored; on a prompt whose lists lack a neuron it counts as 0"
        few = int((self.frame["effect_q" if self.is_measured else "q"] <= SMALL_Q).sum())
        return (
            f"{chosen}{found}, an attention neuron with all that it wrote there, from every source position. With "
            f"{sizes[0]} prompts against {sizes[1]}, p can be no smaller than {sets.least_p(*sizes):.2g}; {few:,} "
            f"neurons have q ≤ {SMALL_Q:g}."
        )


def compared_of(
    first: list[dict[str, Any]], second: list[dict[str, Any]], figures: Figures | None = None, no_means: str = ""
) -> Compared:
    """Two sets of rows, by their lists where there are no `figures` of their usable prompts.

    Raises:
        AtlasError: they are of different models, or a set has no usable prompt.
    """
    both = aggregate_of(first, no_means), aggregate_of(second)
    if both[0].prompts and both[1].prompts and both[0].models != both[1].models:
        raise AtlasError("The two sets are of different models, so that their neurons are not the same ones.")
    usable = [one for one in (*first, *second) if "error" not in one]
    found = figures or listed_figures(usable)
    frame = sets.specificity(found, np.arange(len(usable)) < both[0].prompts)
    return Compared(frame, *both, found.everywhere)


def compared(
    atlas: Catalogue, first: tuple[PromptLine, ...], second: tuple[PromptLine, ...], measure: bool, tell: Tell
) -> Compared:
    """One set of prompts against another, each neuron scored on every prompt and, if asked for, measured there; made
    once.

    Raises:
        RefusedError: a set has too many prompts.
        AtlasError: none of a set can be explained.
    """
    key, shop = (atlas.info.build_id, first, second, measure), resources.workshop()
    known: Compared | None = shop.known("aggregate", key)
    if known is not None:
        return known
    made = rows(atlas, first, False, tell, 0.25) + rows(atlas, second, False, tell, 0.25)
    usable = [place for place, one in enumerate(made) if "error" not in one]
    neurons = listed_figures([made[place] for place in usable]).neurons
    lines = tuple((first + second)[place] for place in usable)
    over = _means(atlas, lines) if measure else ""
    found = []
    for done, line in enumerate(lines):
        tell(0.5 + done / len(lines) / 3, f"Its neurons on every prompt, {done + 1} of {len(lines)}")
        means = None if isinstance(over, str) else over
        on = partial(batch.figures_on, line=line, settings=_settings(line, measure), neurons=neurons, means=means)
        found.append(_figures(atlas, (line, neurons, means and lines, measure), on))
    figures = batch.figures_of(found, neurons) if found else None
    if figures and measure:
        chosen = sets.most_particular(figures, np.array(usable) < len(first))
        for done, (place, line) in enumerate(zip(usable, lines, strict=True)):
            tell(0.8 + done / len(lines) / 5, f"Ten neurons at once, and random ones, {done + 1} of {len(lines)}")
            on = partial(batch.together_on, line=line, settings=_settings(line, measure), chosen=chosen)
            made[place] |= _figures(atlas, (line, str(chosen)), on)
    why = over if isinstance(over, str) else ""

    def make(_report: Report) -> Compared:
        return compared_of(made[: len(first)], made[len(first) :], figures, why)

    return shop.result("aggregate", key, make)


# What is shown of them.

Row = TypeVar("Row", "NeuronRow", "Particular")


@dataclass(frozen=True, slots=True)
class NeuronRow:
    """One neuron of an aggregate.

    Attributes:
        neuron: which.
        prompts: how many prompts have it in their list.
        score: its mean over those, nats.
        activation: its mean over those, signed; None for query neurons.
        effect: the mean of what was measured over those, nats; None where nothing was.
        of_mean: likewise where it was replaced by its mean over the prompts, not by nothing.
        tokens: its strongest tokens; None where the catalogue has no such neuron, or the file is of another model.
    """

    neuron: Neuron
    prompts: int
    score: float
    activation: float | None
    effect: float | None
    of_mean: float | None
    tokens: NeuronTokens | None


@dataclass(frozen=True, slots=True)
class Particular:
    """One neuron of two sets of prompts: means over each, in nats.

    Attributes:
        neuron: which.
        first: mean score in the first set.
        second: in the other.
        difference: of the two.
        effect: difference of the mean measured effects; None where these are not known.
        of_mean: likewise where it was replaced by its mean over both sets, not by nothing.
        p: see `sets.permutation_p`; of the measured difference where that is known of all, else of the scores'.
        q: see `sets.false_discoveries`.
        tokens: its strongest tokens; None where the catalogue has no such neuron, or the file is of another model.
    """

    neuron: Neuron
    first: float
    second: float
    difference: float
    effect: float | None
    of_mean: float | None
    p: float
    q: float
    tokens: NeuronTokens | None


def neurons(frame: pd.DataFrame, asked: ManySelection, atlas: Catalogue | None) -> tuple[NeuronRow, ...]:
    """All neurons of a role that fulfil what is asked, in its order; without their tokens, by which they are searched
    where there is a catalogue of their own model.
    """
    frame = frame[(frame["role"] == asked.role) & (frame["prompts"] >= asked.least)]
    missing = [None] * len(frame)
    columns = ("neuron", "prompts", "mean_score", "mean_activation", "mean_effect", AT_MEAN)
    rows = [
        NeuronRow(Neuron.parse(label), int(prompts), score, _number(active), _number(effect), _number(of_mean), None)
        for label, prompts, score, active, effect, of_mean in zip(
            *(frame.get(name, missing) for name in columns), strict=True
        )
    ]
    return _asked_for(rows, asked, atlas)


def _number(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)


def particular(found: Compared, asked: ManySelection, atlas: Catalogue | None) -> tuple[Particular, ...]:
    """The same of two sets; the role is a kind of neuron, or none."""
    frame = found.frame
    if asked.role in set(NeuronKind):
        frame = frame[frame["kind"] == asked.role]
    columns = ["mean_a", "mean_b", "difference", "effect_difference", f"{sets.OF_MEAN}_difference"]
    columns += ["effect_p", "effect_q"] if found.is_measured else ["p", "q"]
    missing = [None] * len(frame)
    figures = zip(frame["neuron"], *(frame.get(name, missing) for name in columns), strict=True)
    rows = [
        Particular(Neuron.parse(label), first, second, difference, _number(effect), _number(of_mean), p, q, None)
        for label, first, second, difference, effect, of_mean, p, q in figures
    ]
    return _asked_for(rows, asked, atlas)


def _asked_for(rows: Sequence[Row], asked: ManySelection, atlas: Catalogue | None) -> tuple[Row, ...]:
    if asked.layers is not None:
        rows = [one for one in rows if asked.layers[0] <= one.neuron.layer <= asked.layers[1]]
    return arranged(having(rows, asked.having, atlas), asked.order, asked.reverse)


def with_tokens(rows: Sequence[Row], atlas: Catalogue | None) -> list[Row]:
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
    effect_of_mean: FiniteFloat | None = None


class _Token(BaseModel):
    """What the model says, or could."""

    id: Annotated[int, Field(ge=0)]
    text: Annotated[str, Field(max_length=1000)]
    probability: FiniteFloat


class _Display(BaseModel):
    """The display form of a token."""

    id: int
    display: Annotated[str, Field(max_length=1000)]


class _Together(BaseModel):
    """What the strongest hold together, beside random ones."""

    effect: FiniteFloat
    controls: Annotated[list[FiniteFloat], Field(max_length=1000)]


class _Row(BaseModel):
    """One prompt, without its lists of neurons."""

    prompt: str
    model: str = ""
    checkpoint: str | None = None
    error: str | None = None
    target: _Token | None = None
    predictions: list[_Token] | None = None
    displays: list[_Display] | None = None
    together: dict[NeuronKind, _Together] | None = None


_LISTS: Any = dict.fromkeys(ROLES.values(), (Annotated[list[_Entry], Field(max_length=_MAX_LISTED)] | None, None))
_OURS = (
    "Open a file that `python -m app.attribution --prompts FILE --out FILE` wrote; prompts themselves go into the "
    "field above."
)
_FullRow = create_model("_FullRow", __base__=_Row, **_LISTS)


def read_upload(name: str, data: bytes) -> list[dict[str, Any]]:
    """The rows of a file made by ``python -m app.attribution --prompts … --out …``, checked.

    Raises:
        AtlasError: it is no such file, or too large; the message says what is wrong with it.
    """
    ending = Path(name).suffix.lower()
    if ending not in OF_MANY:
        raise AtlasError(f"Only files that end in {' or '.join(OF_MANY)} can be opened.")
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
            message = str(error).replace(str(path), "it") or "it is nested too deeply."
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
        if place in ("", "prompt"):
            raise AtlasError(f"row {number} is no analysis. {_OURS}") from error
        wrong = "is missing" if first["type"] == "missing" else "is not what an analysis holds there"
        raise AtlasError(f"in row {number}, {place} {wrong}. {_OURS}") from error
    if kept.get("error"):
        return {"prompt": kept["prompt"], "error": kept["error"]}
    if not kept.keys() & ROLES.values():
        raise AtlasError(f"row {number} has none of an analysis’ lists of neurons. {_OURS}")
    return kept
