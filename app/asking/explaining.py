"""What the pages ask of the model: an analysis, and one step further into it. Everything is remembered.

A question is a :class:`PromptSelection` without its place. Each answer depends on the build and the question (and on
what is named beside), works in the workshop, and may raise an AtlasError that says what is wrong with the question.
"""

import time
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import pandas as pd

from app.asking import stored
from app.serving import resources
from app.serving.configuration import configuration
from app.serving.limits import require_allowed
from app.serving.work import Report
from app.state.address import Head
from app.state.selection import PromptSelection
from db.catalogue import Catalogue
from db.errors import AtlasError
from db.neuron import Neuron, NeuronKind

if TYPE_CHECKING:
    from app.attribution import Analysis, PromptRun
    from app.attribution.details import Activations
    from app.attribution.keys import KeySide
    from app.attribution.prompt import PromptToken
    from app.attribution.results import Flow, Found, Prediction, Query, ThroughHead, ValueNeuron
    from app.attribution.scope import Scope

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
        from app.attribution.contrast import contrast
        from app.attribution.flow import contrast_flow, flow

        return flow(run) if run.distractor_id is None else contrast_flow(run, contrast(run, run.distractor_id, 0))

    return _detail(atlas, question, "flow", None, find)


def found_within(
    atlas: Catalogue,
    question: PromptSelection,
    scope: "Scope",
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
        from app.attribution.suggest import tokens_beginning

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
