"""What the pages ask of the model: an analysis, and one step further into it. Everything is remembered."""

import time
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd

from app.answers import stored
from app.answers.reading import Reading, head_after
from app.answers.stored import workspace_to_write
from app.attribution.details_form import DETAILS, TOP
from app.serving import logs, resources
from app.serving.access import require_allowed
from app.serving.settings import configuration
from app.serving.worker import Report
from app.state import address
from app.state.selections import Map, Place, PromptSelection, Show, question_key
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.neuron import Head, Neuron, NeuronKind, Part
from db.workspace import AnalysisEntry, Saved
from db.workspace.records import MAX_TITLE

if TYPE_CHECKING:
    from app.attribution import PromptRun
    from app.attribution.details import Activations
    from app.attribution.keys import KeySide
    from app.attribution.prompt import PromptToken
    from app.attribution.results import Analysis, Flow, Found, Prediction, Query, ThroughHead, ValueNeuron


T = TypeVar("T")


def analysis(atlas: Catalogue, question: PromptSelection, watch: Report | None = None) -> "Analysis":
    """The whole analysis of a prompt: the stored one where there is one, else the model's."""
    found = stored.answer(atlas, question)
    if found is not None:
        return found.analysis
    require_allowed(question.prompt, question.top)

    def make(report: Report) -> "Analysis":
        import torch

        from app.attribution import explain
        from app.attribution.results import Seconds

        resources.ready(atlas, report)
        started = time.perf_counter()
        run = _run(atlas, question.question, report)
        forward = time.perf_counter() - started
        with torch.inference_mode():
            report("Layers and heads …")
            _ = run.at_attention, run.at_ffn
            explained = explain(run, resources.ranges_of(atlas.info.build_id, atlas), report)
        return replace(explained, seconds=Seconds(0.0, forward, time.perf_counter() - started))

    return resources.workshop().result("analysis", (atlas.info.build_id, question.question), make, watch)


def _run(atlas: Catalogue, question: PromptSelection, report: Report) -> "PromptRun":
    """The prompt's run, from the shelf where it is still there. On the workshop's thread only."""
    runs, key = resources.runs(), (atlas.info.build_id, question)
    run = runs.get(key)
    if run is None:
        model = resources.ready(atlas, report)
        report("Running the prompt …")
        from app.attribution import Conventions, Settings, run_prompt

        settings = Settings(
            top=question.top,
            target=question.target,
            distractor=question.distractor,
            position=question.position,
            conventions=Conventions(question.rule.value),
            suppressing=True,
            max_tokens=configuration().max_tokens,
            memory_mb=configuration().memory_mb,
        )
        run = run_prompt(model, question.prompt, settings)
        runs.put(key, run)
    return run


@dataclass(frozen=True)
class Preview:
    """What a prompt's next token may be, without any attribution."""

    tokens: "tuple[PromptToken, ...]"
    predictions: "tuple[Prediction, ...]"


def preview(atlas: Catalogue, text: str, watch: Report | None = None) -> Preview:
    """The tokens of a text that is being typed, and what may come next. Its run is not kept: the next letter needs
    another.
    """
    require_allowed(text)

    def make(report: Report) -> Preview:
        import torch

        from app.attribution import Settings, run_prompt

        model = resources.ready(atlas, report)
        with torch.inference_mode():
            run = run_prompt(model, text, Settings(max_tokens=configuration().max_tokens))
            return Preview(run.tokens, run.predictions())

    return resources.workshop().result("preview", (atlas.info.build_id, text), make, watch)


def _detail(
    atlas: Catalogue,
    question: PromptSelection,
    name: str,
    what: Hashable,
    find: Callable[["PromptRun"], T],
    watch: Report | None = None,
) -> T:
    """One step further: the stored answer where there is one, else `find` asks the prompt's run."""
    kept = stored.detail(atlas, question, name, what)
    if kept is not stored.MISSING:
        answer: T = kept
        return answer
    stored.require_model_for_more(atlas, question)
    require_allowed(question.prompt, question.top)

    def make(report: Report) -> T:
        import torch

        run = _run(atlas, question.question, report)
        with torch.inference_mode():
            return find(run)

    return resources.workshop().result("detail", (atlas.info.build_id, question.question, name, what), make, watch)


def source_positions(atlas: Catalogue, question: PromptSelection, head: Head) -> pd.DataFrame:
    """What a head took from each source position; see `details.positions_frame`."""

    def find(run: "PromptRun") -> pd.DataFrame:
        from app.attribution.details import positions_frame

        return positions_frame(run, *head)

    return _detail(atlas, question, "positions", head, find)


def pattern(atlas: Catalogue, question: PromptSelection, head: Head) -> pd.DataFrame:
    """A head's attention pattern; see `details.pattern_frame`."""

    def find(run: "PromptRun") -> pd.DataFrame:
        from app.attribution.details import pattern_frame

        return pattern_frame(run, *head)

    return _detail(atlas, question, "pattern", head, find)


def lens(atlas: Catalogue, question: PromptSelection) -> pd.DataFrame:
    """The logit lens; see `details.lens_frame`."""

    def find(run: "PromptRun") -> pd.DataFrame:
        from app.attribution.details import lens_frame

        return lens_frame(run)

    return _detail(atlas, question, "lens", None, find)


def flow(atlas: Catalogue, question: PromptSelection) -> "Flow":
    """What heads moved from where, the strongest of all layers; see `flow.flow`. With a distractor, by their shares."""

    def find(run: "PromptRun") -> "Flow":
        from app.attribution.analysis import contrast
        from app.attribution.heads import contrast_flow, flow

        return flow(run) if run.distractor_id is None else contrast_flow(run, contrast(run, run.distractor_id, 0))

    return _detail(atlas, question, "flow", None, find)


def found_within(
    atlas: Catalogue,
    question: PromptSelection,
    scope: Part,
    kind: NeuronKind,
    watch: Report | None = None,
    *,
    lowered: bool,
) -> "Found":
    """The strongest neurons of one part of the model alone; see `within`. With a distractor, by their shares."""

    def find(run: "PromptRun") -> "Found":
        from app.attribution import within

        if run.distractor_id is not None:
            return within.shares_within(run, scope, kind, question.top, opposing=lowered)
        if lowered:
            ranges = resources.ranges_of(atlas.info.build_id, atlas)
            return within.lowering_within(run, scope, kind, question.top, ranges)
        return within.raising_within(run, scope, kind, question.top)

    return _detail(atlas, question, "within", (scope.label, kind, lowered), find, watch)


def beginning(atlas: Catalogue, question: PromptSelection, text: str) -> "tuple[Prediction, ...]":
    """Tokens that begin as a typed text does, the most probable here first."""

    def find(run: "PromptRun") -> "tuple[Prediction, ...]":
        from app.attribution.run import tokens_beginning

        return tokens_beginning(run, text)

    return _detail(atlas, question, "beginning", text, find)


def own_query(
    atlas: Catalogue, question: PromptSelection, neuron: Neuron, position: int | None
) -> "tuple[ValueNeuron, Query]":
    """What switched on one value neuron alone."""

    def find(run: "PromptRun") -> "tuple[ValueNeuron, Query]":
        from app.attribution.details import own_query

        return own_query(run, neuron, position)

    return _detail(atlas, question, "own", (neuron, position), find)


def through_head(
    atlas: Catalogue, neuron: Neuron, head: Head, question: PromptSelection | None = None
) -> "ThroughHead":
    """A query neuron read through a head; the same on every prompt, and with a question's stored answer stored too."""
    if question is not None:
        kept = stored.detail(atlas, question, "through", (neuron, head))
        if kept is not stored.MISSING:
            found: ThroughHead = kept
            return found
        stored.require_model_for_more(atlas, question)

    def make(_report: Report) -> "ThroughHead":
        from app.attribution.heads import through_head

        return through_head(resources.model_of(atlas), neuron, *head)

    return resources.workshop().result("detail", (atlas.info.build_id, "through", neuron, head), make)


def on_prompt(atlas: Catalogue, question: PromptSelection, neuron: Neuron) -> "tuple[ValueNeuron, ...]":
    """One neuron's scores and activations on a prompt; an attention neuron's once a source position."""
    return _detail(atlas, question, "neuron", neuron, lambda run: run.value_neurons(neuron))


def activations(
    atlas: Catalogue, text: str, neuron: Neuron, watch: Report | None = None
) -> "tuple[tuple[str, ...], Activations]":
    """The tokens of a text, in display form, and how active a neuron is at each."""
    require_allowed(text)
    question = PromptSelection(text)

    def make(report: Report) -> "tuple[tuple[str, ...], Activations]":
        from app.attribution.details import activations

        run = _run(atlas, question, report)
        return tuple(token.display for token in run.tokens), activations(run, neuron)

    return resources.workshop().result("detail", (atlas.info.build_id, question, "active", neuron), make, watch)


def key_sides(atlas: Catalogue, neuron: Neuron, watch: Report | None = None) -> "tuple[KeySide, ...]":
    """Which tokens' embeddings switch a neuron on; the same on every prompt. See `keys.key_sides`."""

    def make(report: Report) -> "tuple[KeySide, ...]":
        import torch

        model = resources.ready(atlas, report)
        report(f"Reading every token’s embedding with {neuron.label} …")
        from app.attribution.keys import key_sides

        with torch.inference_mode():
            return key_sides(model, neuron)

    return resources.workshop().result("detail", (atlas.info.build_id, "keys", neuron), make, watch)


def target_id(atlas: Catalogue, question: PromptSelection, text: str) -> int:
    """The token that a typed target stands for: of “London” and “ London” the one more probable here."""

    def find(run: "PromptRun") -> int:
        from app.attribution.prompt import target_of

        found = {target_of(run.model, text)}
        with suppress(AtlasError):
            found.add(target_of(run.model, f" {text}"))
        return max(found, key=lambda token_id: float(run.log_probabilities[token_id]))

    return _detail(atlas, question, "target", text, find)


# Which lists of neurons the prompt page shows: the overall ones, or those of the part that is looked into.


@dataclass(frozen=True, slots=True)
class Listed:
    """Neurons of one kind, and in half a sentence how they were found; a part's own are complete."""

    kind: NeuronKind
    neurons: "tuple[ValueNeuron, ...]"
    found: str


def scope_of(place: Place) -> Part | None:
    """The part that is looked into; None for the whole model.

    >>> scope_of(Place(layer=23, head=Head(23, 4), source=3)).label
    'L23.H4@3'
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
    show, scope = selection.place.show, scope_of(selection.place)
    if scope is None:
        return [Listed(kind, reading.lists[show, kind], "of the whole model") for kind in NeuronKind]
    lists = []
    for kind in scope.kinds:
        try:
            part = found_within(atlas, selection, scope, kind, watch, lowered=show is Show.LOWERED)
        except AtlasError as error:
            held, every = reading.found(show, kind, selection.place), len(reading.lists[show, kind])
            words = f"those among the overall {every}, since the part's own list could not be made ({error})"
            lists.append(Listed(kind, held, words))
        else:
            proof = part.certificate
            exactly = "all known exactly" if proof.bound == "linear" else f"{proof.scored:,} scored exactly, proven"
            lists.append(Listed(kind, part.neurons, f"the strongest of the {proof.total:,} of this part, {exactly}"))
    return lists


# What is shown on the prompt page as it is kept: the analysis, and what was looked at in it.


def suggested_title(selection: PromptSelection, analysis: "Analysis") -> str:
    """A title to start from: the prompt and what is explained, in display form where it cannot be written."""
    text = "".join(one if one.isprintable() else " " for one in selection.prompt)
    words = " ".join(text.split()) or "A prompt"
    end = f" →{analysis.target.token.display.replace('␣', ' ')}"
    if analysis.contrast is not None:
        end += f", not{analysis.contrast.distractor.token.display.replace('␣', ' ')}"
    room = MAX_TITLE - len(end)
    return (words if len(words) <= room else words[: room - 1] + "…") + end[:MAX_TITLE]


def draft(title: str, selection: PromptSelection, analysis: "Analysis", atlas: Catalogue) -> AnalysisEntry:
    """The view as it is kept: the analysis, and what was looked at in it."""
    from app.attribution.frames import to_json

    return AnalysisEntry(
        title=title,
        model=atlas.info.model,
        build_id=atlas.info.build_id,
        unembedding_hash=analysis.unembedding_hash,
        address=address.address("prompt", selection.params()).partition("?")[2],
        question=question_key(selection),
        result=to_json(analysis) | {TOP: selection.top, DETAILS: details(_looked_at(selection, analysis, atlas))},
    )


Answers = list[tuple[str, Any, Callable[[], Any]]]
"""Question, what it is about, and how it is answered."""


def details(answers: Answers) -> dict[str, dict[str, Any]]:
    """Answers as JSON, by question and what each is about; one that fails is left out."""
    from app.attribution import details_form

    found: dict[str, dict[str, Any]] = {}
    for name, what, ask in answers:
        try:
            found.setdefault(name, {})[details_form.label_of(what)] = details_form.to_json(name, ask())
        except AtlasError as error:
            logs.event("not_kept", question=name, reason=type(error).__name__)
    return found


def _looked_at(selection: PromptSelection, analysis: "Analysis", atlas: Catalogue) -> Answers:
    """What the page asks one step further, at the place that is shown."""
    place = selection.place
    answers: Answers = [("flow", None, partial(flow, atlas, selection))]
    if place.map is Map.LENS:
        answers.append(("lens", None, partial(lens, atlas, selection)))
    if place.head is not None:
        answers.append(("positions", place.head, partial(source_positions, atlas, selection, place.head)))
        answers.append(("pattern", place.head, partial(pattern, atlas, selection, place.head)))
    if place.own is not None:
        answers.append(("own", place.own, partial(own_query, atlas, selection, *place.own)))
    if place.read is not None:
        head = place.through or head_after(place.read, analysis, atlas.info.heads)
        if head is not None:
            through = partial(through_head, atlas, place.read, head, selection)
            answers.append(("through", (place.read, head), through))
    return answers


def save(title: str, selection: PromptSelection, analysis: "Analysis", atlas: Catalogue) -> Saved:
    """Keep what is shown.

    Raises:
        AtlasError: it cannot be kept; the message says why.
    """
    return workspace_to_write().save(draft(title, selection, analysis, atlas))
