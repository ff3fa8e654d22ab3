"""analyse(...) -> Analysis: everything one prompt yields; and the strongest neurons of one part of the model alone."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from app.attribution.ablation import Effects, how_measured
from app.attribution.measured import target_ranks, together
from app.attribution.prompt import FFN_READERS, Settings
from app.attribution.results import (
    CONTRAST_LISTS,
    LISTS,
    Analysis,
    Contrast,
    Found,
    Query,
    Seconds,
    SublayerScores,
    ValueNeuron,
    Within,
)
from app.attribution.run import PromptRun, Ranges, given_catalogue, own_catalogue, run_prompt
from app.attribution.score import array
from db import command_line
from db.catalogue.builds import folders_called
from db.catalogue.store import Catalogue
from db.neuron import NeuronKind, Part
from indexer.checkpoint import locate
from indexer.language_model import LanguageModel, load_model

# Target against distractor: shares of a difference of logits (README, Method; the "logit minus" of arXiv 2402.02872).


def contrast(run: PromptRun, distractor: int, k: int) -> Contrast:
    """Every sub-layer's, head's, source position's and neuron's share of the difference of logits, in nats."""
    stream, unembedding, weights = run.stream, run.model.unembedding, run.model.weights
    direction = (unembedding.folded[run.target_id] - unembedding.folded[distractor]) / run.scale
    here = stream.position
    constant = unembedding.constant(run.settings.conventions)
    final = unembedding.logits(stream.layer_input[-1, here], run.scale, run.settings.conventions)
    favouring = {kind: run.linear(kind, direction, k)[0] for kind in NeuronKind}
    opposing = {
        kind: tuple(replace(one, score=-one.score) for one in run.linear(kind, -direction, k)[0]) for kind in NeuronKind
    }
    positions = []
    for layer in range(run.model.dimensions.layers):
        activation = stream.attention_activation(layer)  # [H, T, D]
        slopes = (weights.attention_values(layer) @ direction).view(activation.shape[0], 1, -1)
        positions.append((activation * slopes).sum(dim=2))
    return Contrast(
        distractor=run.token_probability(distractor),
        logit_difference=float(final[run.target_id] - final[distractor]),
        embedding=float(stream.layer_input[0, here] @ direction),
        constant=0.0 if constant is None else float(constant[run.target_id] - constant[distractor]),
        layers=SublayerScores(
            array(stream.attention_output[:, here] @ direction), array(stream.ffn_output[:, here] @ direction)
        ),
        heads=array(run.head_contributions @ direction),
        positions=array(torch.stack(positions)),
        ffn_neurons=favouring[NeuronKind.FFN],
        attention_neurons=favouring[NeuronKind.ATTENTION],
        ffn_opposing=opposing[NeuronKind.FFN],
        attention_opposing=opposing[NeuronKind.ATTENTION],
    )


def load(model: str) -> LanguageModel:
    """Load a model by “demo”, folder or hub id, its architecture row checked (see `indexer.checkpoint.locate`)."""
    return load_model(locate(model))


def _no_one(_stage: str) -> None:
    """Listens to no report."""


def analyse(
    model: LanguageModel,
    prompt: str,
    settings: Settings | None = None,
    *,
    ranges: Ranges | None = None,
    report: Callable[[str], None] = _no_one,
    **changes: Any,
) -> Analysis:
    """Explain one prompt.

    Args:
        model: see `load`.
        prompt: the text.
        settings: what to analyse.
        ranges: what a catalogue knows of the neurons' extreme logits (`run.StoredRanges`), for the suppressing
            neurons.
        report: told what is being done, stage by stage; what it raises ends the analysis.
        changes: single settings, changed: ``analyse(model, text, top=10)``.

    Raises:
        AtlasError: the prompt, the position or a token is unusable; the message says why.
    """
    return run_and_explain(model, prompt, replace(settings or Settings(), **changes), ranges, report)[1]


def run_and_explain(
    model: LanguageModel,
    prompt: str,
    settings: Settings,
    ranges: Ranges | None = None,
    report: Callable[[str], None] = _no_one,
) -> tuple[PromptRun, Analysis]:
    """The same with the run, of which more can be asked."""
    started = time.perf_counter()
    report("Running the prompt …")
    run = run_prompt(model, prompt, settings)
    forward = time.perf_counter() - started
    with torch.inference_mode():
        analysis = measured(run, explain(run, ranges, report), report)
    return run, replace(analysis, seconds=Seconds(0.0, forward, time.perf_counter() - started))


def explain(run: PromptRun, ranges: Ranges | None = None, report: Callable[[str], None] = _no_one) -> Analysis:
    """The analysis of a prompt that was run; `seconds` are all 0. `report` is told each stage, and may raise."""
    settings = run.settings
    # The query step may want more value neurons than are shown.
    counts = {
        NeuronKind.FFN: max(settings.top, FFN_READERS) if settings.top else 0,
        NeuronKind.ATTENTION: max(settings.top, settings.query_top) if settings.top else 0,
    }
    report("Heads, and neurons that raised the target …")
    heads, raising = run.heads_and_raising(counts, ranges)
    ffn, attention = raising[NeuronKind.FFN][0], raising[NeuronKind.ATTENTION][0]
    wanted = settings.suppressing and settings.top
    report("Neurons that lowered it …")
    lowering = {kind: run.lowering(kind, settings.top, ranges) for kind in NeuronKind} if wanted else {}
    report("What switched them on …")
    return Analysis(
        model=run.model.name,
        family=run.model.family,
        checkpoint=run.model.checkpoint.identity,
        unembedding_hash=run.model.unembedding.hash,
        conventions=settings.conventions,
        method=settings.method,
        prompt=run.prompt,
        bos=run.settings.bos,
        chat=run.settings.chat,
        notices=run.notices,
        tokens=run.tokens,
        position=run.stream.position,
        target=run.token_probability(run.target_id),
        predictions=run.predictions(),
        layers=run.layer_scores(),
        heads=array(heads),
        ffn_value_neurons=ffn[: settings.top],
        attention_value_neurons=attention[: settings.top],
        ffn_suppressing_neurons=lowering[NeuronKind.FFN][0] if lowering else (),
        attention_suppressing_neurons=lowering[NeuronKind.ATTENTION][0] if lowering else (),
        certificates={kind: proof for kind, (_, proof) in raising.items()},
        suppressing_certificates={kind: proof for kind, (_, proof) in lowering.items()},
        query=_query(run, ffn, attention) if settings.query_top and ffn and attention else None,
        contrast=None if run.distractor_id is None else contrast(run, run.distractor_id, settings.top),
        seconds=Seconds(0.0, 0.0, 0.0),
    )


_Scored = TypeVar("_Scored", Analysis, Contrast)


def measured(
    run: PromptRun,
    analysis: Analysis,
    report: Callable[[str], None] = _no_one,
    count: int | None = None,
    lists: Sequence[str] = (*LISTS, *CONTRAST_LISTS),
) -> Analysis:
    """The analysis with the measured effect of the first `count` neurons of each list and their ranks of the target,
    with the effect of every head and sub-layer, and of the ten strongest neurons together; as it is where nothing is to
    be measured. Effects of a contrast are on the difference that it explains. What is measured already is not measured
    again.

    Args:
        run: the prompt.
        analysis: of it.
        report: told what is being done.
        count: None is `settings.measure`.
        lists: names from `LISTS` and `CONTRAST_LISTS`; of each, none or at least the two that raised.
    """
    count = run.settings.measure if count is None else count
    if not count:
        return analysis
    effects = Effects.of(run, report)
    found = _with_effects(effects, analysis, [name for name in LISTS if name in lists], count)
    found = replace(found, notices=tuple(dict.fromkeys((*found.notices, *how_measured(run.model)))))
    if analysis.contrast is None:
        return found
    against = replace(effects, minus=run.distractor_id)
    wanted = [name for name in CONTRAST_LISTS if name in lists]
    return replace(found, contrast=_with_effects(against, analysis.contrast, wanted, count))


def _with_effects(effects: Effects, scored: _Scored, lists: Sequence[str], count: int) -> _Scored:
    def unmeasured(name: str) -> tuple[ValueNeuron, ...]:
        return tuple(one for one in getattr(scored, name)[:count] if one.effect is None)

    listed = [one for name in lists for one in unmeasured(name)]
    changed: dict[str, Any] = {}
    first = bool(lists) and scored.head_effects is None
    if first:
        measured_effects, heads, layers = effects.listed(listed)
        changed |= {"head_effects": heads, "layer_effects": layers}
    else:
        measured_effects = effects.neurons(listed)
    found: Iterator[ValueNeuron] = (
        replace(one, effect=effect, rank=rank)
        for one, effect, rank in zip(listed, measured_effects, target_ranks(effects.run, listed), strict=True)
    )
    for name in lists:
        changed[name] = tuple(
            next(found) if place < count and one.effect is None else one
            for place, one in enumerate(getattr(scored, name))
        )
    if first:
        raised = zip((NeuronKind.FFN, NeuronKind.ATTENTION), (changed[name] for name in lists[:2]), strict=True)
        changed["together"] = together(effects, {kind: neurons for kind, neurons in raised if neurons})
    return replace(scored, **changed)


def _query(run: PromptRun, ffn: tuple[ValueNeuron, ...], attention: tuple[ValueNeuron, ...]) -> Query:
    settings = run.settings
    reading = run.readers(attention[: settings.query_top])
    keys = range(len(run.model.architecture.ffn_keys))
    behind_ffn = [run.readers(ffn[:FFN_READERS], key) for key in keys]
    layers = {"ffn": behind_ffn[0], "attention": reading}
    if len(behind_ffn) > 1:
        layers["ffn_up"] = behind_ffn[1]
    skipped_ffn = torch.stack([one.skipped for one in behind_ffn]).any(dim=0)
    return Query(
        ffn_neurons=run.query_neurons(reading, settings.top),
        layers={name: run.query_layers(one) for name, one in layers.items()},
        skipped=int(reading.skipped.sum()) + int(skipped_ffn.sum()),
        readers=(len(reading.keys), len(behind_ffn[0].keys)),
    )


# The strongest neurons of one part: not a filter of the overall top k, which may hold none of a part's neurons, but the
# certified top k among the part's own. Lists hold no neuron of the other sign.


def raising_within(run: PromptRun, part: Part, kind: NeuronKind, k: int, ranges: Ranges | None = None) -> Found:
    """The k neurons of the part that raised the target most; those with a score above zero. See `PromptRun.raising`.

    Raises:
        AtlasError: there is no such part, or it has no neurons of this kind.
    """
    neurons, certificate = run.raising(kind, k, part, ranges)
    return Found(tuple(one for one in neurons if one.score > 0), certificate)


def lowering_within(run: PromptRun, part: Part, kind: NeuronKind, k: int, ranges: Ranges | None) -> Found:
    """The k neurons of the part that lowered the target most; those with a score below zero. See `PromptRun.lowering`.

    Raises:
        AtlasError: there is no such part, or it has no neurons of this kind.
    """
    neurons, certificate = run.lowering(kind, k, ranges, part)
    return Found(tuple(one for one in neurons if one.score < 0), certificate)


def shares_within(run: PromptRun, part: Part, kind: NeuronKind, k: int, *, opposing: bool = False) -> Found:
    """The k neurons of the part with the largest share of the difference of logits between target and distractor, or
    the most negative one; exact, since shares are linear.

    Raises:
        AtlasError: there is no such part, it has no neurons of this kind, or the run has no distractor.
    """
    sign = -1 if opposing else 1
    neurons, certificate = run.linear(kind, sign * run.contrast_direction, k, part)
    signed = (replace(one, score=sign * one.score) for one in neurons)
    return Found(tuple(one for one in signed if sign * one.score > 0), certificate)


def effects_within(
    run: PromptRun, neurons: Sequence[ValueNeuron], report: Callable[[str], None] = _no_one
) -> list[float]:
    """Measured effects of neurons that a part's lists hold, nats; with a distractor, on the difference."""
    return replace(Effects.of(run, report), minus=run.distractor_id).neurons(neurons)


def within(run: PromptRun, part: Part, k: int, ranges: Ranges | None, measure: int | None = None) -> Within:
    """The part's neurons by kind: those that raised and those that lowered the target; with a distractor, those that
    favoured either. The first of each list with their measured effects, see `measured`: `measure` of them, or as many
    as the settings say.
    """
    found: dict[str, Found] = {}
    count = run.settings.measure if measure is None else measure
    with torch.inference_mode():
        for kind in part.kinds:
            if run.distractor_id is None:
                found[f"{kind}_raising"] = raising_within(run, part, kind, k, ranges)
                found[f"{kind}_lowering"] = lowering_within(run, part, kind, k, ranges)
            else:
                found[f"{kind}_favouring"] = shares_within(run, part, kind, k)
                found[f"{kind}_opposing"] = shares_within(run, part, kind, k, opposing=True)
        if count:
            listed = [one for lists in found.values() for one in lists.neurons[:count]]
            effects = iter(effects_within(run, listed))
            for name, lists in found.items():
                first = tuple(replace(one, effect=next(effects)) for one in lists.neurons[:count])
                found[name] = replace(lists, neurons=first + lists.neurons[count:])
    return Within(part, found)


def catalogue_for(given: Path | None, model: LanguageModel) -> Catalogue | None:
    """The catalogue that a command names, or the model's own where there is one; None without.

    Raises:
        AtlasError: the one that is named is of another checkpoint, or cannot be read.
    """
    root = command_line.catalogue_folder(given)
    if given is not None:
        return given_catalogue(root, model)
    found = own_catalogue(root, model)
    if found is None and folders_called(root, model.name):
        command_line.say(
            f"The catalogue of {model.name} in {root} was made from other weights than those in "
            f"{model.checkpoint.folder}, and is left out."
        )
    return found
