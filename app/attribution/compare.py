"""Comparative neuron analysis: what changed between two runs (arXiv 2409.14144).

Two prompts, two targets or two positions on one model, or one prompt on the model and on the model without some of its
parts (:mod:`app.attribution.ablation`). Both runs use the first run's frozen scale, so that a neuron that did the same
in both has the same score. An attention neuron is compared at its strongest source position in each run, of the
largest score in size, since positions of two prompts do not correspond; both positions are part of the row.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from app.attribution.ablation import part_scores, resolve, without
from app.attribution.form import described
from app.attribution.prompt import PromptToken, Settings, position_of
from app.attribution.results import Prediction, SublayerScores, Target, ValueNeuron
from app.attribution.run import PREDICTIONS, PromptRun, Ranges, run_prompt
from app.attribution.score import array
from app.attribution.search import routed
from db.catalogue.export import experts_only
from db.neuron import Neuron, NeuronKind, Part, Wanted
from indexer.architecture import Conventions
from indexer.language_model import LanguageModel

TOP = 100


@dataclass(frozen=True, slots=True)
class Change:
    """One neuron in both runs, signs kept: scores in nats.

    Attributes:
        first, second: the neuron in each run, at its strongest source position there.
    """

    first: ValueNeuron
    second: ValueNeuron

    @property
    def neuron(self) -> Neuron:
        return self.first.neuron

    @property
    def score(self) -> float:
        """Second minus first."""
        return self.second.score - self.first.score

    @property
    def activation(self) -> float:
        """Second minus first."""
        return self.second.activation - self.first.activation

    @property
    def stronger(self) -> ValueNeuron:
        """The neuron in the run where its score is larger in size; in the first where both are equal."""
        return self.first if abs(self.first.score) >= abs(self.second.score) else self.second

    def named(self) -> dict[str, Any]:
        """As a row, in JSON and as a data frame."""
        one, two = self.first, self.second
        return {
            "neuron": self.neuron.label,
            "layer": self.neuron.layer,
            "delta_score": self.score,
            "score_1": one.score,
            "score_2": two.score,
            "delta_activation": self.activation,
            "activation_1": one.activation,
            "activation_2": two.activation,
            "position_1": one.position,
            "position_2": two.position,
        }


@dataclass(frozen=True, slots=True)
class PredictionChange:
    """A token that is among the most probable of either run, and its probability of coming next in each."""

    token: PromptToken
    first: float = field(metadata=described(name="probability_1"))
    second: float = field(metadata=described(name="probability_2"))

    @property
    def probability(self) -> float:
        """Second minus first."""
        return self.second - self.first


@dataclass(frozen=True, slots=True)
class Zeroed:
    """A part that the second run does without. score: its log-probability increase where it is not zeroed, nats."""

    part: Part
    score: float


@dataclass(frozen=True)
class RankedTarget(Target):
    """The explained token. rank: among all tokens, from 1."""

    rank: int


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two runs. Probabilities are the model's own, measured; scores use the common scale.

    Attributes:
        prompt, tokens, position: what was run, and where it is explained.
        target: the explained token, with its probability and rank.
        predictions: the most probable next tokens.
        layers: log-probability increase of the sub-layers, nats.
        heads: [L, H]; of the heads.
    """

    prompt: str
    tokens: tuple[PromptToken, ...]
    position: int
    target: RankedTarget
    predictions: tuple[Prediction, ...]
    layers: SublayerScores
    heads: Float[np.ndarray, "L H"]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two runs side by side; every Δ is second minus first, in nats.

    Attributes:
        model, conventions, scale: which model, by which conventions, and the first run's frozen scale.
        first, second: the runs.
        zeroed: what the second run does without; empty where both are on the whole model.
        predictions: the most probable tokens of either run, the largest |Δ probability| first.
        neurons: by kind, those among the top k of either run (with `ranges` also among the lowest k), the largest
            |Δ score| first.
        complete_above: by kind; every neuron whose |Δ score| is larger is listed, which the certified lists prove.
            None where the lowest were not looked for.
        notices: see `Analysis`; of both runs.
    """

    model: str
    conventions: Conventions
    scale: float
    first: Side
    second: Side
    zeroed: tuple[Zeroed, ...]
    predictions: tuple[PredictionChange, ...]
    neurons: dict[NeuronKind, tuple[Change, ...]]
    complete_above: dict[NeuronKind, float | None]
    notices: tuple[str, ...] = ()

    @property
    def layers(self) -> SublayerScores:
        """Δ of the sub-layers."""
        one, other = self.first.layers, self.second.layers
        return SublayerScores(other.attention - one.attention, other.ffn - one.ffn)

    @property
    def heads(self) -> Float[np.ndarray, "L H"]:
        """Δ of the heads."""
        change: Float[np.ndarray, "L H"] = self.second.heads - self.first.heads
        return change

    @property
    def log_probability(self) -> float:
        """The measured effect: Δ log-probability of the target, nats. Of two targets, second's minus first's."""
        return self.second.target.log_probability - self.first.target.log_probability

    @property
    def also_written(self) -> dict[str, Any]:
        """What follows from the rest and is written with it."""
        return {"delta_log_probability": self.log_probability, "layers": self.layers, "heads": self.heads}


def compare_prompts(
    model: LanguageModel,
    first: tuple[str, Settings],
    second: tuple[str, Settings],
    k: int = TOP,
    *,
    zero: Sequence[Wanted] = (),
    ranges: Ranges | None = None,
) -> Comparison:
    """Run both and compare.

    Args:
        model: see `load`.
        first: prompt and settings.
        second: likewise; without a target, at the same place of the same prompt, it has the first's target.
        k: how many neurons of each run, kind and sign.
        zero: what the second run does without; the strongest neurons are those of the second question on the whole
            model.
        ranges: what a catalogue knows of the neurons' extreme logits; with it the neurons that lower the target are
            compared as well.

    Raises:
        AtlasError: a prompt, position, target or part is unusable; the message says why.
    """
    one = run_prompt(model, *first)
    prompt, settings = second
    if settings.target is None and prompt == one.prompt:
        same_place = position_of(settings.position, len(one.token_ids)) == one.stream.position
        settings = replace(settings, target=one.target_id) if same_place else settings
    whole = run_prompt(model, prompt, settings)
    with torch.inference_mode():
        parts = resolve(whole, zero)
        scored = part_scores(whole, parts)
        found = compare(one, without(whole, parts), k, ranges=ranges)
    return replace(found, zeroed=tuple(Zeroed(*pair) for pair in zip(parts, scored, strict=True)))


def compare(first: PromptRun, second: PromptRun, k: int = TOP, *, ranges: Ranges | None = None) -> Comparison:
    """Two runs on one model; the second is scored again with the first's scale. `zeroed` is left empty."""
    second = replace(second, frozen_scale=first.scale)
    lists = {kind: [_extremes(run, kind, k, ranges) for run in (first, second)] for kind in NeuronKind}
    return Comparison(
        model=first.model.name,
        conventions=first.settings.conventions,
        scale=first.scale,
        first=_side(first),
        second=_side(second),
        zeroed=(),
        predictions=prediction_changes(first, second),
        neurons={kind: _changes(first, second, kind, lists[kind]) for kind in NeuronKind},
        complete_above={kind: _complete_above(*lists[kind]) for kind in NeuronKind},
        notices=tuple(dict.fromkeys((*first.notices, *second.notices))),
    )


def ranked_target(run: PromptRun) -> RankedTarget:
    """The target among all tokens."""
    target = run.token_probability(run.target_id)
    rank = 1 + int((run.log_probabilities > run.log_probabilities[run.target_id]).sum())
    return RankedTarget(target.token, target.probability, target.log_probability, rank)


def _side(run: PromptRun) -> Side:
    return Side(
        prompt=run.prompt,
        tokens=run.tokens,
        position=run.stream.position,
        target=ranked_target(run),
        predictions=run.predictions(),
        layers=run.layer_scores(),
        heads=array(run.head_scores()),
    )


def prediction_changes(first: PromptRun, second: PromptRun) -> tuple[PredictionChange, ...]:
    """The most probable tokens of either run and their targets, the largest |Δ probability| first."""
    tokens = dict.fromkeys(one.token for run in (first, second) for one in run.predictions(PREDICTIONS))
    tokens |= dict.fromkeys(run.token_probability(run.target_id).token for run in (first, second))
    found = [
        PredictionChange(
            token, first.token_probability(token.id).probability, second.token_probability(token.id).probability
        )
        for token in tokens
    ]
    return tuple(sorted(found, key=lambda one: -abs(one.probability)))


@dataclass(frozen=True)
class _Extremes:
    """The lists of one run and kind: at most k of each sign. lowering: None where it was not looked for."""

    raising: tuple[ValueNeuron, ...]
    lowering: tuple[ValueNeuron, ...] | None


def _extremes(run: PromptRun, kind: NeuronKind, k: int, ranges: Ranges | None) -> _Extremes:
    raising = run.raising(kind, k)[0] if k else ()
    return _Extremes(raising, None if ranges is None or not k else run.lowering(kind, k, ranges)[0])


def _complete_above(first: _Extremes, second: _Extremes) -> float | None:
    """A neuron in none of the lists scores between the last of each run's two lists, in either run."""
    if first.lowering is None or second.lowering is None:
        return None
    # An empty list rules out all but what did nothing.
    high = [one.raising[-1].score if one.raising else 0.0 for one in (first, second)]
    low = [one.lowering[-1].score if one.lowering else 0.0 for one in (first, second)]
    return max(high[1] - low[0], high[0] - low[1], 0.0)


def _changes(first: PromptRun, second: PromptRun, kind: NeuronKind, lists: list[_Extremes]) -> tuple[Change, ...]:
    listed = [one.neuron for found in lists for part in (found.raising, found.lowering or ()) for one in part]
    neurons = list(dict.fromkeys(listed))
    pairs = zip(*(_strongest(run, kind, neurons) for run in (first, second)), strict=True)
    return tuple(sorted((Change(*pair) for pair in pairs), key=lambda change: -abs(change.score)))


def _strongest(run: PromptRun, kind: NeuronKind, neurons: Sequence[Neuron]) -> list[ValueNeuron]:
    """Each neuron at the source position of its largest |score|, all scored exactly."""
    entries = run.entries(kind)
    if not neurons:
        return []
    numbers = torch.tensor([entries.numbers(neuron) for neuron in neurons])
    flat = numbers.flatten()
    scores = run.scores(entries.contributions(flat), [kind], [entries.layer(flat)]).view(numbers.shape).cpu()
    best = scores.abs().argmax(dim=1, keepdim=True)
    chosen = numbers.gather(1, best).flatten()
    rows = zip(
        chosen.tolist(), scores.gather(1, best).flatten().tolist(), entries.activation(chosen).tolist(), strict=True
    )
    found = (ValueNeuron(*entries.name(entry), score, activation) for entry, score, activation in rows)
    return [routed(run.stream, one) for one in found]


# The same as data frames; as JSON it follows from the fields (:mod:`app.attribution.form`).

_CHANGES = [
    *("neuron", "layer", "delta_score", "score_1", "score_2", "delta_activation", "activation_1", "activation_2"),
    *("position_1", "position_2"),
]


def predictions_frame(comparison: Comparison) -> pd.DataFrame:
    """Columns: token_id, token (display form), delta_probability, probability_1, probability_2."""
    rows = [(one.token.id, one.token.display, one.probability, one.first, one.second) for one in comparison.predictions]
    columns = ["token_id", "token", "delta_probability", "probability_1", "probability_2"]
    return pd.DataFrame(rows, columns=columns)


def layers_frame(comparison: Comparison) -> pd.DataFrame:
    """Columns: layer, part ("attention" or "ffn"), delta_score, score_1, score_2 (nats)."""
    rows = []
    for part in ("attention", "ffn"):
        pair = (getattr(side.layers, part).tolist() for side in (comparison.first, comparison.second))
        rows += [(layer, part, two - one, one, two) for layer, (one, two) in enumerate(zip(*pair, strict=True))]
    return pd.DataFrame(rows, columns=["layer", "part", "delta_score", "score_1", "score_2"])


def heads_frame(comparison: Comparison) -> pd.DataFrame:
    """Columns: layer, head, delta_score, score_1, score_2 (nats)."""
    pair = (side.heads.flatten().tolist() for side in (comparison.first, comparison.second))
    places = np.ndindex(comparison.first.heads.shape)
    rows = [(*place, two - one, one, two) for place, one, two in zip(places, *pair, strict=True)]
    return pd.DataFrame(rows, columns=["layer", "head", "delta_score", "score_1", "score_2"])


def changes_frame(comparison: Comparison, kind: NeuronKind) -> pd.DataFrame:
    """One row per neuron. Columns: neuron, layer, expert (only where any is an expert's), delta_score, score_1, score_2
    (nats), delta_activation, activation_1, activation_2 (signed), position_1, position_2 (source positions; absent for
    FFN neurons).
    """
    frame = pd.DataFrame([one.named() for one in comparison.neurons[kind]], columns=_CHANGES)
    frame.insert(2, "expert", [one.neuron.expert for one in comparison.neurons[kind]])
    return experts_only(frame.astype(dict.fromkeys(("expert", "position_1", "position_2"), "Int64")))


def neurons_frame(comparison: Comparison) -> pd.DataFrame:
    """Both kinds of `changes_frame`, with their kind; the largest |Δ score| first."""
    parts = [changes_frame(comparison, kind).assign(kind=str(kind)) for kind in NeuronKind]
    whole = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    return whole.sort_values("delta_score", key=abs, ascending=False, kind="stable", ignore_index=True)


def zeroed_frame(comparison: Comparison) -> pd.DataFrame:
    """What the second run does without. Columns: part, score (of the part where it is not zeroed, nats)."""
    return pd.DataFrame([(one.part.label, one.score) for one in comparison.zeroed], columns=["part", "score"])


TABLES: dict[str, Callable[[Comparison], pd.DataFrame]] = {
    "neurons": neurons_frame,
    "layers": layers_frame,
    "heads": heads_frame,
    "predictions": predictions_frame,
    "zeroed": zeroed_frame,
}
"""Every table of a comparison, by name."""
