"""A comparison of two runs as data frames and as JSON: the figures of the shell, of the exports and of the page."""

from collections.abc import Callable
from typing import Any

import pandas as pd

from app.attribution.compare import Comparison, Side
from db.neuron import NeuronKind

_CHANGES = ("neuron", "layer", "delta_score", "score_1", "score_2", "delta_activation", "activation_1", "activation_2")


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
    rows = [
        (layer, head, two - one, one, two)
        for layer, pair in enumerate(
            zip(comparison.first.heads.tolist(), comparison.second.heads.tolist(), strict=True)
        )
        for head, (one, two) in enumerate(zip(*pair, strict=True))
    ]
    return pd.DataFrame(rows, columns=["layer", "head", "delta_score", "score_1", "score_2"])


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
    frame = pd.DataFrame(rows, columns=[*_CHANGES, "position_1", "position_2"])
    return frame.astype({"position_1": "Int64", "position_2": "Int64"})


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


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """One JSON object: both runs, what was zeroed, and Δ of predictions, layers, heads and neurons."""
    return {
        "model": comparison.model,
        "conventions": str(comparison.conventions),
        "first": _side(comparison.first),
        "second": _side(comparison.second),
        "scale": comparison.scale,
        "delta_log_probability": comparison.log_probability,
        "zeroed": [{"part": one.part.label, "score": one.score} for one in comparison.zeroed],
        "predictions": [
            {"id": one.token.id, "text": one.token.text, "probability_1": one.first, "probability_2": one.second}
            for one in comparison.predictions
        ],
        "layers": {"attention": comparison.layers.attention.tolist(), "ffn": comparison.layers.ffn.tolist()},
        "heads": comparison.heads.tolist(),
        "neurons": {
            str(kind): [
                {name: None if pd.isna(value) else value for name, value in row.items()}
                for row in changes_frame(comparison, kind).to_dict(orient="records")
            ]
            for kind in NeuronKind
        },
        "complete_above": {str(kind): above for kind, above in comparison.complete_above.items()},
    }


def _side(side: Side) -> dict[str, Any]:
    return {
        "prompt": side.prompt,
        "tokens": [token.text for token in side.tokens],
        "position": side.position,
        "target": {
            "id": side.target.token.id,
            "text": side.target.token.text,
            "probability": side.target.probability,
            "log_probability": side.target.log_probability,
            "rank": side.rank,
        },
        "layers": {"attention": side.layers.attention.tolist(), "ffn": side.layers.ffn.tolist()},
        "heads": side.heads.tolist(),
    }
