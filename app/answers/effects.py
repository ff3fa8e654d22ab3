"""Which lists of neurons the prompt page shows, of the whole model or of a part; and their measured effects, which are
made aside (`Workshop.begun`) while the page shows the scores.
"""

import logging
import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

from app.answers import explain, stored
from app.answers.explain import found_within
from app.answers.reading import Reading, arranged, by_effect, having, how_found
from app.attribution import measured as sweeps
from app.attribution.measured import ALL, Measured
from app.attribution.results import CONTRAST_LISTS, LISTS, Analysis, Query, QueryNeuron, ValueNeuron
from app.serving import access, resources
from app.serving.access import require_allowed
from app.serving.settings import Mode, configuration, public
from app.serving.worker import LeftError, Report
from app.state.selections import ListOrder, Place, PromptSelection, Show
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.lazy import lazy_import
from db.neuron import NeuronKind, Part

if TYPE_CHECKING:
    import torch

    from app.attribution import PromptRun
    from app.attribution import analysis as analyses
else:
    torch = lazy_import("torch")
    analyses = lazy_import("app.attribution.analysis")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Listed:
    """Neurons of one kind, and in half a sentence how they were found; a part's own are complete."""

    kind: NeuronKind
    neurons: tuple[ValueNeuron, ...]
    found: str


def scope_of(place: Place) -> Part | None:
    """The part that is looked into; None for the whole model.

    >>> scope_of(Place(layer=23, ffn=True)).label
    'L23.ffn'
    """
    if place.layer is None:
        return None
    if place.head is not None:
        return replace(Part.of(place.head), position=place.source)
    return Part(place.layer, NeuronKind.FFN if place.ffn else None)


def listed(reading: Reading, selection: PromptSelection, atlas: Catalogue, watch: Report | None = None) -> list[Listed]:
    """The lists for the place and the sign that are chosen. Where the model cannot be asked (a stored analysis on a
    server without it) a part's list is what the overall one holds of it, and says so.
    """
    place = selection.place

    def chosen(one: Listed) -> Listed:
        found = having(one.neurons, place.having, atlas)
        words = f"{len(found)} of these {len(one.neurons)}, {one.found}" if place.having.strip() else one.found
        order = None if place.order in (ListOrder.SCORE, ListOrder.EFFECT) else place.order  # the lists' own, at first
        if place.order in (None, ListOrder.EFFECT):
            found = by_effect(found, lowered=place.show is Show.LOWERED)
        return replace(one, neurons=arranged(found, order, place.reverse), found=words)

    return [chosen(one) for one in _lists(reading, selection, atlas, watch)]


def query_listed(found: Query, place: Place, atlas: Catalogue) -> tuple[QueryNeuron, ...]:
    """The query neurons of a layer, or all of them, as they are searched and ordered."""
    within = [one for one in found.ffn_neurons if place.layer in (None, one.neuron.layer)]
    return arranged(having(within, place.having, atlas), place.order, place.reverse)


def _lists(reading: Reading, selection: PromptSelection, atlas: Catalogue, watch: Report | None) -> list[Listed]:
    show, scope = selection.place.show, scope_of(selection.place)
    if scope is None:
        return [Listed(kind, reading.lists[show, kind], "of the whole model") for kind in NeuronKind]
    try:
        lists = _lists_within(selection, atlas, watch)
    except AtlasError as error:
        return [
            Listed(
                kind,
                reading.found(show, kind, selection.place),
                f"those among the overall {len(reading.lists[show, kind])}, since the part’s own list could not be "
                f"made ({public(str(error))})",
            )
            for kind in scope.kinds
        ]
    job, effects = _of_part(atlas, selection, lists), None
    with suppress(AtlasError):
        effects = job and resources.workshop().known("effects", job.key)
    if effects:
        found = iter(effects)
        lists = [
            replace(each, neurons=tuple(replace(one, effect=next(found)) for one in each.neurons)) for each in lists
        ]
    return lists


def _lists_within(selection: PromptSelection, atlas: Catalogue, watch: Report | None = None) -> list[Listed]:
    """The own lists of the part that is looked into; none where that is the whole model.

    Raises:
        AtlasError: they cannot be made.
    """
    scope, lowered, method = scope_of(selection.place), selection.place.show is Show.LOWERED, selection.method
    if scope is None or selection.place.show is Show.QUERY:
        return []
    found = {kind: found_within(atlas, selection, scope, kind, watch, lowered=lowered) for kind in scope.kinds}
    return [
        Listed(kind, one.neurons, f"the strongest of this part: {how_found(one.certificate, method=method)}")
        for kind, one in found.items()
    ]


# Measured effects: of all that an analysis lists, and of a part's own lists.

_log = logging.getLogger(__name__)
_LOOK_SECONDS = 0.05
_NOT_STORED = "Effects were not stored with this explanation, and this server has no model to measure them."


@dataclass(frozen=True, slots=True)
class Job:
    """Effects that are still to be measured.

    Attributes:
        key: what they depend on.
        make: measures them.
    """

    key: Hashable
    make: Callable[[Report], Any]

    def begin(self) -> str | None:
        """Have them measured, or go on with it; what is being done, None once that has ended. Ask again within seconds.

        Raises:
            RefusedError: too much work is waiting.
        """
        piece = resources.workshop().begun("effects", self.key, self.make)
        return None if piece.finished.is_set() else piece.stage

    def ends_within(self, seconds: float) -> bool:
        """Wait for its end so long at most, or until the page is drawn anew; whether it has ended. Every question of a
        page draws a part of it, in the browser too, which takes a tenth of a second from what is waited for.
        """
        desk = resources.workshop()
        piece, until = desk.begun("effects", self.key, self.make), time.monotonic() + seconds
        while not piece.finished.wait(_LOOK_SECONDS) and time.monotonic() < until:
            desk.asker.look()
        return piece.finished.is_set()


def measured(atlas: Catalogue, question: PromptSelection, watch: Report | None = None) -> Analysis:
    """The whole analysis with the measured effects of all that it lists, of its heads and its sub-layers.

    Raises:
        AtlasError: there is no analysis, or no model to measure them with.
    """
    found = with_effects(atlas, question, explain.analysis(atlas, question, watch))
    if _has_effects(found):
        return found
    require_allowed(question.prompt, question.top)
    job = _of_all(atlas, question, found)
    return resources.workshop().result("effects", job.key, lambda report: cast(Analysis, job.make(report)), watch)


def with_effects(atlas: Catalogue, question: PromptSelection, analysis: Analysis) -> Analysis:
    """The analysis with those of its measured effects that are known."""
    if _has_effects(analysis):
        return analysis
    for job in (_of_all(atlas, question, analysis), _of_raised(atlas, question, analysis)):
        with suppress(AtlasError):  # `unmeasured` says what went wrong
            known: Analysis | None = resources.workshop().known("effects", job.key)
            if known is not None:
                return known
    return analysis


def unmeasured(atlas: Catalogue, selection: PromptSelection, analysis: Analysis) -> Job | str | None:
    """What of the figures on the prompt page is to be measured next: a job, or a sentence that says why it cannot be;
    None where all that is shown is there.
    """
    lowered = selection.place.show is Show.LOWERED
    there = _has_effects(analysis) if lowered else _has_raised(analysis)
    if not access.has_model():
        return None if there else _NOT_STORED
    try:
        require_allowed(selection.prompt, selection.top)
        jobs = [_of_part(atlas, selection, _lists_within(selection, atlas))]
        if not there:
            jobs.append((_of_all if lowered else _of_raised)(atlas, selection, analysis))
        return next((job for job in jobs if job and resources.workshop().known("effects", job.key) is None), None)
    except AtlasError as error:
        return public(str(error))


def _has_raised(analysis: Analysis) -> bool:
    """Whether what raised the answer is measured; with a distractor, what favoured the one over the other."""
    return (analysis.contrast or analysis).head_effects is not None


def _has_effects(analysis: Analysis) -> bool:
    scored = (analysis, LISTS), (analysis.contrast, CONTRAST_LISTS)
    lists = [getattr(one, name) for one, names in scored if one is not None for name in names]
    return _has_raised(analysis) and all(neurons[0].effect is not None for neurons in lists if neurons)


def _of_raised(atlas: Catalogue, selection: PromptSelection, analysis: Analysis) -> Job:
    """What the page shows first: without the lists of what lowered the answer, which take as long again."""
    lists = (LISTS if analysis.contrast is None else CONTRAST_LISTS)[:2]
    return _of_lists(atlas, selection, analysis, tuple(lists))


def _of_all(atlas: Catalogue, selection: PromptSelection, analysis: Analysis) -> Job:
    return _of_lists(atlas, selection, analysis, (*LISTS, *CONTRAST_LISTS))


def _of_lists(atlas: Catalogue, selection: PromptSelection, analysis: Analysis, lists: tuple[str, ...]) -> Job:
    question = selection.question

    def measure(asked: "PromptRun", report: Report) -> Analysis:
        known = with_effects(atlas, selection, analysis)
        return analyses.measured(asked, known, report, question.top, lists)

    return Job((atlas.info.build_id, question, analysis.seconds, lists), _measuring(atlas, question, measure))


def _of_part(atlas: Catalogue, selection: PromptSelection, lists: Sequence[Listed]) -> Job | None:
    """Makes effects in the order of the lists; None where there are no lists."""
    neurons = [one for each in lists for one in each.neurons]
    if not neurons:
        return None

    def measure(asked: "PromptRun", report: Report) -> list[float]:
        return analyses.effects_within(asked, neurons, report)

    place = (scope_of(selection.place), selection.place.show)
    return Job((atlas.info.build_id, selection.question, *place), _measuring(atlas, selection.question, measure))


def _measuring(
    atlas: Catalogue, question: PromptSelection, measure: Callable[["PromptRun", Report], T]
) -> Callable[[Report], T]:
    """The work on the workshop's thread, whose report may do others' work in between."""

    def make(report: Report) -> T:
        def outside(stage: str) -> None:
            with torch.inference_mode(False):
                report(stage)

        try:
            asked = explain.run_of(atlas, question, report)
            with torch.inference_mode():
                return measure(asked, outside)
        except (AtlasError, LeftError):
            raise
        except Exception as error:  # nobody waits for it, so it would be tried again and again
            _log.exception("measuring failed")
            raise AtlasError("Measuring failed, by a fault of ours. The server’s log has the details.") from error

    return make


# All FFN neurons, measured: a minute or more, so it is begun by a button, and what is measured is kept.

LISTED = 100
"""Neurons of each sign that are shown."""


def all_measured(atlas: Catalogue, selection: PromptSelection, analysis: Analysis) -> Measured | float:
    """The FFN neurons that do most of all, where all are measured; else how many are, from 0 to 1."""
    kept = stored.detail(atlas, selection, "effects", ALL)
    if isinstance(kept, Measured):
        return kept
    with suppress(AtlasError):
        known: Measured | None = resources.workshop().known("effects", _every(atlas, selection).key)
        if known is not None:
            return known
    whole = replace(analysis, checkpoint=analysis.checkpoint or atlas.info.checkpoint)  # which older versions left out
    return sweeps.share_measured(whole, sweeps.kept_folder())


def why_not_all(atlas: Catalogue, selection: PromptSelection) -> str:
    """Why this server measures no FFN neurons beyond those that are listed; empty where it does."""
    try:
        require_allowed(selection.prompt, selection.top)
        if configuration().mode is Mode.DEMO:
            return (
                "This server is a demonstration and measures the listed neurons only. Measure all on your own machine."
            )
        resources.workshop().known("effects", _every(atlas, selection).key)
    except AtlasError as error:
        return public(str(error))
    return ""


def measure_all(atlas: Catalogue, selection: PromptSelection) -> str | None:
    """Begin or go on; what is being done, None once that has ended. Ask again within seconds, or it stops.

    Raises:
        RefusedError: too much work is waiting.
    """
    return _every(atlas, selection).begin()


def _every(atlas: Catalogue, selection: PromptSelection) -> Job:
    def measure(asked: "PromptRun", report: Report) -> Measured:
        sweep = sweeps.Sweep.of(asked, sweeps.kept_folder())
        steps, desk = sweep.steps(), resources.workshop()
        while True:
            report(f"{sweep.done:,} of {len(sweep.effects):,} FFN neurons measured")
            with desk.shop.untimed():  # others come between two chunks, so that nobody waits for it
                if next(steps, None) is None:
                    break
        return sweep.result(LISTED)

    key = (atlas.info.build_id, selection.question, ALL)
    return Job(key, _measuring(atlas, selection.question, measure))
