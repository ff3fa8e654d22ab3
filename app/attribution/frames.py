"""An Analysis as JSON, back again (`from_json`), and as data frames. The shell, the exports and the pages all take
their figures from here.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pandas as pd

from app.attribution.results import (
    Analysis,
    Certificate,
    Contrast,
    Flow,
    Query,
    QueryNeuron,
    SublayerScores,
    Target,
    ValueNeuron,
)
from db.neuron import NeuronKind


def to_json(analysis: Analysis) -> dict[str, Any]:
    """One JSON object; scores in nats, neurons the most extreme first. Token texts are the exact ones; `displays` has
    the display form of every token in it by id. `from_json` reads it back exactly.
    """
    seconds = analysis.seconds
    result: dict[str, Any] = {
        "model": analysis.model,
        "family": analysis.family,
        "unembedding_hash": analysis.unembedding_hash,
        "conventions": str(analysis.conventions),
        "prompt": analysis.prompt,
        "tokens": [token.text for token in analysis.tokens],
        "token_ids": [token.id for token in analysis.tokens],
        "displays": [{"id": token_id, "display": display} for token_id, display in _displays(analysis).items()],
        "position": analysis.position,
        "target": _target(analysis.target),
        "predictions": [
            {"id": one.token.id, "text": one.token.text, "probability": one.probability} for one in analysis.predictions
        ],
        "layers": _layers(analysis.layers),
        "heads": analysis.heads.tolist(),
        "ffn_value_neurons": neurons_json(analysis.ffn_value_neurons),
        "attention_value_neurons": neurons_json(analysis.attention_value_neurons),
        "value_layer_counts": value_layer_counts(analysis),
        "certificate": _certificates(analysis.certificates),
    }
    if analysis.suppressing_certificates:
        result |= {
            "ffn_suppressing_neurons": neurons_json(analysis.ffn_suppressing_neurons),
            "attention_suppressing_neurons": neurons_json(analysis.attention_suppressing_neurons),
            "suppressing_certificate": _certificates(analysis.suppressing_certificates),
        }
    if analysis.query is not None:
        result |= query_json(analysis.query) | {"query_value_overlap": overlap(analysis)}
    if analysis.contrast is not None:
        result["contrast"] = _contrast(analysis.contrast)
    result["seconds"] = {"load": seconds.load, "forward": seconds.forward, "total": seconds.total}
    return result


def _displays(analysis: Analysis) -> dict[int, str]:
    """The display form of every token named, by id."""
    contrast = analysis.contrast
    named = [*analysis.tokens, analysis.target.token, *(one.token for one in analysis.predictions)]
    named += [] if contrast is None else [contrast.distractor.token]
    return {token.id: token.display for token in named}


def value_layer_counts(analysis: Analysis) -> dict[str, list[int]]:
    """How many of the top value neurons stand in each layer, by kind; attention ones count once a source position."""
    layers = range(analysis.heads.shape[0])
    kinds = {"ffn": analysis.ffn_value_neurons, "attention": analysis.attention_value_neurons}
    counted = {kind: Counter(one.neuron.layer for one in found) for kind, found in kinds.items()}
    return {kind: [counts[layer] for layer in layers] for kind, counts in counted.items()}


def overlap(analysis: Analysis) -> dict[str, list[str]]:
    """FFN neurons that stand in the value list only, in the query list only, or in both; each in its list's order."""
    value = [one.neuron.label for one in analysis.ffn_value_neurons]
    query = [] if analysis.query is None else [one.neuron.label for one in analysis.query.ffn_neurons]
    return {
        "both": [label for label in value if label in set(query)],
        "value_only": [label for label in value if label not in set(query)],
        "query_only": [label for label in query if label not in set(value)],
    }


def _target(target: Target) -> dict[str, Any]:
    return {
        "id": target.token.id,
        "text": target.token.text,
        "probability": target.probability,
        "log_probability": target.log_probability,
    }


def _layers(layers: SublayerScores) -> dict[str, list[float]]:
    return {"attention": layers.attention.tolist(), "ffn": layers.ffn.tolist()}


def _certificates(certificates: dict[NeuronKind, Certificate]) -> dict[str, dict[str, Any]]:
    return {
        str(kind): {"scored": one.scored, "total": one.total, "proven": one.proven, "bound": one.bound}
        for kind, one in certificates.items()
    }


def query_json(query: Query) -> dict[str, Any]:
    """Query neurons and layers; `ffn` is missing where only an attention neuron was read from."""
    layers = {"ffn": query.ffn_layers[0].named()} if query.ffn_layers else {}
    layers["attention"] = query.attention_layers.named()
    if len(query.ffn_layers) > 1:  # gated FFNs read twice; the up row is reported apart from the gate
        layers["ffn_up"] = query.ffn_layers[1].named()
    return {
        "query_ffn_neurons": [{"neuron": one.neuron.label, "score": one.score} for one in query.ffn_neurons],
        "query_layers": layers,
        "query_skipped": query.skipped,
        "query_readers": list(query.readers),
    }


def _contrast(contrast: Contrast) -> dict[str, Any]:
    return {
        "distractor": _target(contrast.distractor),
        "logit_difference": contrast.logit_difference,
        "embedding": contrast.embedding,
        "constant": contrast.constant,
        "layers": _layers(contrast.layers),
        "heads": contrast.heads.tolist(),
        "positions": contrast.positions.tolist(),
        "ffn_neurons": neurons_json(contrast.ffn_neurons),
        "attention_neurons": neurons_json(contrast.attention_neurons),
        "ffn_opposing_neurons": neurons_json(contrast.ffn_opposing),
        "attention_opposing_neurons": neurons_json(contrast.attention_opposing),
    }


def neurons_json(found: tuple[ValueNeuron, ...]) -> list[dict[str, Any]]:
    """The neurons of a list."""
    return [_value_neuron(one) for one in found]


def _value_neuron(one: ValueNeuron) -> dict[str, Any]:
    where = {} if one.position is None else {"position": one.position}
    return {"neuron": one.neuron.label, **where, "score": one.score, "activation": one.activation}


def predictions_frame(analysis: Analysis) -> pd.DataFrame:
    """Columns: token_id, token (display form), probability."""
    rows = [(one.token.id, one.token.display, one.probability) for one in analysis.predictions]
    return pd.DataFrame(rows, columns=["token_id", "token", "probability"])


def layers_frame(analysis: Analysis | Contrast) -> pd.DataFrame:
    """Columns: layer, part ("attention" or "ffn"), score (nats); of a contrast, shares of the difference of logits."""
    parts = {"attention": analysis.layers.attention, "ffn": analysis.layers.ffn}
    rows = [(layer, part, score) for part, scores in parts.items() for layer, score in enumerate(scores.tolist())]
    return pd.DataFrame(rows, columns=["layer", "part", "score"])


def heads_frame(analysis: Analysis | Contrast) -> pd.DataFrame:
    """Columns: layer, head, score (nats); of a contrast, shares of the difference of logits."""
    rows = [
        (layer, head, score) for layer, heads in enumerate(analysis.heads.tolist()) for head, score in enumerate(heads)
    ]
    return pd.DataFrame(rows, columns=["layer", "head", "score"])


def value_neurons_frame(analysis: Analysis, kind: NeuronKind) -> pd.DataFrame:
    """The neurons that raised the target most; see `neurons_frame`."""
    found = analysis.ffn_value_neurons if kind is NeuronKind.FFN else analysis.attention_value_neurons
    return neurons_frame(analysis, found)


def neurons_frame(analysis: Analysis, found: tuple[ValueNeuron, ...]) -> pd.DataFrame:
    """Columns: neuron, layer, head, position, source (that position's token), score (nats), activation (signed).

    head, position and source are absent for FFN neurons.
    """
    rows = [
        (
            one.neuron.label,
            one.neuron.layer,
            one.neuron.head,
            one.position,
            None if one.position is None else analysis.tokens[one.position].display,
            one.score,
            one.activation,
        )
        for one in found
    ]
    return pd.DataFrame(rows, columns=["neuron", "layer", "head", "position", "source", "score", "activation"]).astype(
        {"head": "Int64", "position": "Int64"}
    )


def layer_counts_frame(analysis: Analysis) -> pd.DataFrame:
    """How many of the top value neurons stand in each layer. Columns: layer, kind ("ffn" or "attention"), neurons."""
    rows = [
        (layer, kind, count)
        for kind, counts in value_layer_counts(analysis).items()
        for layer, count in enumerate(counts)
        if count
    ]
    return pd.DataFrame(rows, columns=["layer", "kind", "neurons"])


def query_neurons_frame(found: tuple[QueryNeuron, ...]) -> pd.DataFrame:
    """Columns: neuron, layer, score (nats)."""
    rows = [(one.neuron.label, one.neuron.layer, one.score) for one in found]
    return pd.DataFrame(rows, columns=["neuron", "layer", "score"])


def query_layers_frame(query: Query) -> pd.DataFrame:
    """Columns: readers ("attention", "ffn", "ffn up"), part ("embedding", "attention", "ffn"), layer, score (nats)."""
    named = {"attention": query.attention_layers}
    named |= dict(zip(("ffn", "ffn up"), query.ffn_layers, strict=False))
    rows: list[tuple[str, str, int | None, float]] = []
    for readers, shares in named.items():
        rows.append((readers, "embedding", None, shares.embedding))
        for part, scores in (("attention", shares.attention), ("ffn", shares.ffn)):
            rows += [(readers, part, layer, score) for layer, score in enumerate(scores.tolist())]
    return pd.DataFrame(rows, columns=["readers", "part", "layer", "score"]).astype({"layer": "Int64"})


def flow_frame(found: Flow) -> pd.DataFrame:
    """Strongest first. Columns: layer, head, position, token (display form), score (nats), attention_weight."""
    rows = [
        (one.layer, one.head, one.position, one.token.display, one.score, one.attention_weight) for one in found.moves
    ]
    return pd.DataFrame(rows, columns=["layer", "head", "position", "token", "score", "attention_weight"])


# Which neurons matter over many prompts: how often each stands in a prompt's top k, and with what score.

ROLES = {
    "FFN value": "ffn_value_neurons",
    "attention value": "attention_value_neurons",
    "FFN query": "query_ffn_neurons",
    "FFN suppressing": "ffn_suppressing_neurons",
    "attention suppressing": "attention_suppressing_neurons",
}
COLUMNS = ["role", "neuron", "prompts", "share", "mean_score", "mean_activation"]


def aggregate(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Neurons over prompts, by role; those in most prompts first, then by mean score.

    Args:
        rows: JSON objects of single prompts (`forms.to_json`); those with an error are passed over.

    Returns:
        Columns: role, neuron, prompts (in how many prompts' list), share (of all prompts analysed), mean_score (nats,
            over those prompts), mean_activation (signed, over those prompts; absent for query neurons).
    """
    analysed = 0
    found: list[tuple[int, str, str, float, float | None]] = []
    for row in rows:
        if row.get("error"):
            continue
        for role, name in ROLES.items():
            for one in row.get(name) or ():
                found.append((analysed, role, one["neuron"], one["score"], one.get("activation")))
        analysed += 1
    every = pd.DataFrame(found, columns=["prompt", "role", "neuron", "score", "activation"])
    if every.empty:
        return pd.DataFrame(columns=COLUMNS)
    every["size"] = every["score"].abs()
    strongest = every.sort_values("size", ascending=False).drop_duplicates(["prompt", "role", "neuron"])
    grouped = strongest.groupby(["role", "neuron"], sort=False)
    result = grouped.agg(
        prompts=("prompt", "size"),
        mean_score=("score", "mean"),
        mean_activation=("activation", "mean"),
        size=("size", "mean"),
    ).reset_index()
    result["share"] = result["prompts"] / analysed
    order = {role: place for place, role in enumerate(ROLES)}
    result["place"] = result["role"].map(order)
    result = result.sort_values(["place", "prompts", "size", "neuron"], ascending=[True, False, False, True])
    return result[COLUMNS].reset_index(drop=True)
