"""Comparative neuron analysis: what changed between two runs (arXiv 2409.14144).

Two prompts, two targets or two positions on one model. Both runs use the first run's frozen scale, so that a neuron
that did the same in both has the same score. An attention neuron is compared at its strongest source position in each
run, since positions of two prompts do not correspond; both positions are part of the row.
"""

from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from app.attribution.layers import LayerScores
from app.attribution.results import ValueNeuron
from app.attribution.run import PromptRun, run_prompt
from app.attribution.settings import Settings
from db.neuron import Neuron, NeuronKind
from indexer.language_model import LanguageModel


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


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two runs side by side; every Δ is second minus first, in nats.

    Attributes:
        first, second: the runs.
        layers, heads: [L] each and [L, H]; Δ of the log-probability increases.
        neurons: by kind, those that are among the top k of either run, the largest |Δ score| first.
    """

    first: PromptRun
    second: PromptRun
    layers: LayerScores
    heads: Float[Tensor, "L H"]
    neurons: dict[NeuronKind, tuple[Change, ...]]


def compare_prompts(
    model: LanguageModel, first: tuple[str, Settings], second: tuple[str, Settings], k: int = 100
) -> Comparison:
    """Run both and compare.

    Raises:
        AtlasError: a prompt, position or target is unusable; the message says why.
    """
    runs = [run_prompt(model, *question) for question in (first, second)]
    with torch.inference_mode():
        return compare(runs[0], runs[1], k)


def compare(first: PromptRun, second: PromptRun, k: int = 100) -> Comparison:
    """Two runs on one model; the second is scored again with the first's scale."""
    second = replace(second, frozen_scale=first.scale)
    one, other = first.layer_scores(), second.layer_scores()
    return Comparison(
        first=first,
        second=second,
        layers=LayerScores(other.attention - one.attention, other.ffn - one.ffn),
        heads=second.head_scores() - first.head_scores(),
        neurons={kind: _changes(first, second, kind, k) for kind in NeuronKind},
    )


def _changes(first: PromptRun, second: PromptRun, kind: NeuronKind, k: int) -> tuple[Change, ...]:
    found = [one.neuron for run in (first, second) for one in run.raising(kind, k)[0]]
    neurons = list(dict.fromkeys(found))
    pairs = zip(first.strongest(kind, neurons), second.strongest(kind, neurons), strict=True)
    changes = [Change(one, other) for one, other in pairs]
    return tuple(sorted(changes, key=lambda change: -abs(change.score)))


def changes_frame(comparison: Comparison, kind: NeuronKind) -> pd.DataFrame:
    """One row a neuron. Columns: neuron, layer, delta_score, score_1, score_2 (nats), delta_activation, activation_1,
    activation_2 (signed), position_1, position_2 (source positions; absent for FFN neurons).
    """
    rows = [
        (
            one.neuron.label,
            one.neuron.layer,
            one.score,
            one.first.score,
            one.second.score,
            one.activation,
            one.first.activation,
            one.second.activation,
            one.first.position,
            one.second.position,
        )
        for one in comparison.neurons[kind]
    ]
    columns = ["neuron", "layer", "delta_score", "score_1", "score_2", "delta_activation", "activation_1"]
    columns += ["activation_2", "position_1", "position_2"]
    return pd.DataFrame(rows, columns=columns).astype({"position_1": "Int64", "position_2": "Int64"})


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """One JSON object: both questions, Δ of layers and heads, Δ rows of neurons."""
    sides = [
        {
            "prompt": run.prompt,
            "tokens": [token.text for token in run.tokens],
            "position": run.stream.position,
            "target": {"id": run.target_id, "text": run.token_probability(run.target_id).token.text},
            "log_probability": run.token_probability(run.target_id).log_probability,
        }
        for run in (comparison.first, comparison.second)
    ]
    frames = {str(kind): changes_frame(comparison, kind) for kind in NeuronKind}
    return {
        "first": sides[0],
        "second": sides[1],
        "scale": comparison.first.scale,
        "layers": {"attention": comparison.layers.attention.tolist(), "ffn": comparison.layers.ffn.tolist()},
        "heads": comparison.heads.tolist(),
        "neurons": {
            kind: [
                {name: None if pd.isna(value) else value for name, value in row.items()}
                for row in frame.to_dict(orient="records")
            ]
            for kind, frame in frames.items()
        },
    }
