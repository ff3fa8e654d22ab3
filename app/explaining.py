"""What the pages ask of the model: an analysis, and one step further into it. Everything is remembered.

A question is a :class:`PromptSelection` without its place. Each answer depends on the build and the question (and on
what is named beside), works in the workshop, and may raise an AtlasError that says what is wrong with the question.
"""

import time
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd

from app import resources
from app.address import Head
from app.batches import Asked
from app.selection import PromptSelection
from app.work import Report
from db.catalogue import Catalogue
from db.errors import AtlasError
from db.neuron import Neuron

if TYPE_CHECKING:
    from app.attribution import Analysis, PromptRun
    from app.attribution.details import Activations
    from app.attribution.heads import ThroughHead
    from app.attribution.results import Query, ValueNeuron

T = TypeVar("T")


def analysis(atlas: Catalogue, question: PromptSelection, watch: Report | None = None) -> "Analysis":
    """The whole analysis of a prompt."""
    ranges = resources.ranges_of(atlas.info.build_id, atlas)

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
            report("Neurons that raised and lowered the target, and what switched them on …")
            explained = explain(run, ranges)
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
        )
        run = run_prompt(model, question.prompt, settings)
        runs.put(key, run)
    return run


def _detail(
    atlas: Catalogue, question: PromptSelection, name: str, what: Hashable, find: Callable[["PromptRun"], T]
) -> T:
    """One step further: `find` asks the prompt's run."""

    def make(report: Report) -> T:
        import torch

        run = _run(atlas, question.question, report)
        with torch.inference_mode():
            return find(run)

    return resources.workshop().result("detail", (atlas.info.build_id, question.question, name, what), make)


def source_positions(atlas: Catalogue, question: PromptSelection, head: Head) -> pd.DataFrame:
    """What a head took from each source position; see `details.positions_frame`."""
    from app.attribution.details import positions_frame

    return _detail(atlas, question, "positions", head, lambda run: positions_frame(run, *head))


def pattern(atlas: Catalogue, question: PromptSelection, head: Head) -> pd.DataFrame:
    """A head's attention pattern; see `details.pattern_frame`."""
    from app.attribution.details import pattern_frame

    return _detail(atlas, question, "pattern", head, lambda run: pattern_frame(run, *head))


def lens(atlas: Catalogue, question: PromptSelection) -> pd.DataFrame:
    """The logit lens; see `details.lens_frame`."""
    from app.attribution.details import lens_frame

    return _detail(atlas, question, "lens", None, lens_frame)


def own_query(
    atlas: Catalogue, question: PromptSelection, neuron: Neuron, position: int | None
) -> "tuple[ValueNeuron, Query]":
    """What switched on one value neuron alone."""
    from app.attribution.details import own_query

    return _detail(atlas, question, "own", (neuron, position), lambda run: own_query(run, neuron, position))


def through_head(atlas: Catalogue, neuron: Neuron, head: Head) -> "ThroughHead":
    """A query neuron read through a head; the same on every prompt."""

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
    question = PromptSelection(text)

    def make(report: Report) -> "tuple[tuple[str, ...], Activations]":
        from app.attribution.details import activations

        run = _run(atlas, question, report)
        return tuple(token.display for token in run.tokens), activations(run, neuron)

    return resources.workshop().result("detail", (atlas.info.build_id, question, "active", neuron), make, watch)


def target_id(atlas: Catalogue, question: PromptSelection, text: str) -> int:
    """The token that a typed target stands for: of “London” and “ London” the one more probable here."""

    def find(run: "PromptRun") -> int:
        from app.attribution.prompt import target_of

        found = {target_of(run.model, text)}
        with suppress(AtlasError):
            found.add(target_of(run.model, f" {text}"))
        return max(found, key=lambda token_id: float(run.log_probabilities[token_id]))

    return _detail(atlas, question, "target", text, find)


@dataclass(frozen=True)
class Aggregate:
    """Neurons over many prompts (`aggregate.aggregate`), and the prompts that could not be analysed, with why."""

    frame: pd.DataFrame
    failed: tuple[tuple[str, str], ...]


def row(atlas: Catalogue, asked: Asked) -> dict[str, Any]:
    """One of many prompts, as the object that the shell would write; see `forms.to_json`."""
    ranges = resources.ranges_of(atlas.info.build_id, atlas)

    def make(report: Report) -> dict[str, Any]:
        from app.attribution import Settings, analyse
        from app.attribution.forms import to_json

        model = resources.ready(atlas, report)
        try:
            settings = Settings(target=asked.target, suppressing=True)
            return to_json(analyse(model, asked.prompt, settings, ranges=ranges))
        except AtlasError as error:
            return {"prompt": asked.prompt, "error": str(error)}

    return resources.workshop().result("row", (atlas.info.build_id, asked), make)


def known_aggregate(atlas: Catalogue, asked: tuple[Asked, ...]) -> Aggregate | None:
    """The aggregate, where it was made before."""
    known: Aggregate | None = resources.workshop().known("aggregate", (atlas.info.build_id, asked))
    return known


def aggregate(atlas: Catalogue, asked: tuple[Asked, ...]) -> Aggregate:
    """The lists of many prompts, put together; each prompt's `row` is asked for first."""
    rows = [row(atlas, one) for one in asked]

    def make(_report: Report) -> Aggregate:
        from app.attribution.aggregate import aggregate

        failed = tuple((one["prompt"], one["error"]) for one in rows if "error" in one)
        return Aggregate(aggregate(rows), failed)

    return resources.workshop().result("aggregate", (atlas.info.build_id, asked), make)
