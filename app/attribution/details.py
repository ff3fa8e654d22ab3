"""One step further into a run prompt: the questions of the drill-down as JSON and data frames, for the shell and the
pages.
"""

from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from app.attribution.analysis import query_shares
from app.attribution.heads import LogitLens, head_pattern, logit_lens, source_positions, source_scores
from app.attribution.results import Query, QueryNeuron, ThroughHead, ValueNeuron
from app.attribution.run import PromptRun
from db.neuron import Head, Neuron, NeuronKind

OWN_QUERY = 30


def own_query(
    run: PromptRun, neuron: Neuron, position: int | None = None, k: int = OWN_QUERY
) -> tuple[ValueNeuron, Query]:
    """What switched on one chosen value neuron alone; scores add up to its own, so they are mostly negative where it
    lowered the target.

    Args:
        run: the prompt.
        neuron: an attention or FFN neuron.
        position: an attention neuron's source position; None takes the one where its score is largest.
        k: how many query neurons.

    Raises:
        AtlasError: there is no such neuron or position.
    """
    one = run.value_neuron(neuron, position)
    keys = range(len(run.model.architecture.ffn_keys)) if neuron.kind is NeuronKind.FFN else range(1)
    reading = [run.readers((one,), key) for key in keys]
    layers = tuple(query_shares(run.query_layers(each)) for each in reading)
    is_ffn = neuron.kind is NeuronKind.FFN
    return one, Query(
        ffn_neurons=_behind(run, one, k),
        attention_layers=layers[0],
        ffn_layers=layers if is_ffn else (),
        skipped=int(any(bool(each.skipped.any()) for each in reading)),
        readers=(0, 1) if is_ffn else (1, 0),
    )


def _behind(run: PromptRun, one: ValueNeuron, k: int) -> tuple[QueryNeuron, ...]:
    """The FFN neurons that did most to switch one neuron on. Behind one that lowered the target those are the ones of
    the most negative score: the shares of a negative score are negative.
    """
    sign = -1 if one.score < 0 else 1
    found = run.query_neurons(run.readers((replace(one, score=sign * one.score),)), k)
    return tuple(replace(each, score=sign * each.score) for each in found)


def head_json(run: PromptRun, layer: int, head: int) -> dict[str, Any]:
    """A head's source positions and attention pattern."""
    rows = source_positions(run, layer, head)
    return {
        "layer": layer,
        "head": head,
        "positions": [
            {
                "position": row.position,
                "token": row.token.text,
                "score": row.score,
                "attention_weight": row.attention_weight,
                "input_tokens": [token.text for token in row.input_tokens],
                "key_tokens": [token.text for token in row.key_tokens],
                "value_tokens": [token.text for token in row.value_tokens],
            }
            for row in rows
        ],
        "pattern": head_pattern(run, layer, head).tolist(),
    }


def lens_json(run: PromptRun) -> dict[str, Any]:
    """The logit lens: [layer][position], the last row being the model's own output."""
    lens = logit_lens(run)
    return {
        "top": [[token.text for token in row] for row in lens.top],
        "top_probability": lens.top_probability.tolist(),
        "target_probability": lens.target_probability.tolist(),
    }


def own_query_json(run: PromptRun, neuron: Neuron, position: int | None = None) -> dict[str, Any]:
    """One value neuron, its query neurons and its query layers (by gate and by up row for gated FFNs)."""
    one, query = own_query(run, neuron, position)
    where = {} if one.position is None else {"position": one.position}
    result = {
        "neuron": one.neuron.label,
        **where,
        "score": one.score,
        "activation": one.activation,
        "query_ffn_neurons": [{"neuron": each.neuron.label, "score": each.score} for each in query.ffn_neurons],
        "query_layers": query.attention_layers.named(),
        "query_skipped": query.skipped,
    }
    if len(query.ffn_layers) > 1:
        result["query_layers_up"] = query.ffn_layers[1].named()
    return result


def through_json(through: ThroughHead) -> dict[str, Any]:
    """A query neuron read directly and through a head."""
    named = ("promotes", "suppresses", "directly_promotes", "directly_suppresses")
    tokens = {name: [token.text for token in getattr(through, name)] for name in named}
    return {"neuron": through.neuron.label, "layer": through.layer, "head": through.head, **tokens}


def positions_frame(run: PromptRun, layer: int, head: int) -> pd.DataFrame:
    """Columns: position, token, score (nats), attention_weight, input_tokens, key_tokens, value_tokens (display
    forms).
    """
    rows = source_positions(run, layer, head)
    return pd.DataFrame(
        {
            "position": [row.position for row in rows],
            "token": [row.token.display for row in rows],
            "score": [row.score for row in rows],
            "attention_weight": [row.attention_weight for row in rows],
            "input_tokens": [[token.display for token in row.input_tokens] for row in rows],
            "key_tokens": [[token.display for token in row.key_tokens] for row in rows],
            "value_tokens": [[token.display for token in row.value_tokens] for row in rows],
        }
    )


def layer_positions_frame(run: PromptRun, layer: int) -> pd.DataFrame:
    """Every head of a layer at every source position. Columns: head, position, token, score (nats)."""
    parts = []
    for head in range(run.model.dimensions.heads):
        scores = source_scores(run, layer, head).tolist()
        parts += [(head, place, run.tokens[place].display, score) for place, score in enumerate(scores)]
    return pd.DataFrame(parts, columns=["head", "position", "token", "score"])


def pattern_frame(run: PromptRun, layer: int, head: int) -> pd.DataFrame:
    """A head's attention pattern. Columns: query, key (positions), query_token, key_token, weight; key <= query."""
    pattern = head_pattern(run, layer, head).tolist()
    rows = [
        (query, key, run.tokens[query].display, run.tokens[key].display, weight)
        for query, row in enumerate(pattern)
        for key, weight in enumerate(row[: query + 1])
    ]
    return pd.DataFrame(rows, columns=["query", "key", "query_token", "key_token", "weight"])


def lens_frame(run: PromptRun, lens: LogitLens | None = None) -> pd.DataFrame:
    """The logit lens. Columns: layer (the last is the output), position, token, top, top_probability,
    target_probability.
    """
    lens = logit_lens(run) if lens is None else lens
    rows = [
        (layer, place, run.tokens[place].display, token.display, top, target)
        for layer, (tokens, tops, targets) in enumerate(
            zip(lens.top, lens.top_probability.tolist(), lens.target_probability.tolist(), strict=True)
        )
        for place, (token, top, target) in enumerate(zip(tokens, tops, targets, strict=True))
    ]
    return pd.DataFrame(rows, columns=["layer", "position", "token", "top", "top_probability", "target_probability"])


def parse_through(text: str) -> tuple[Neuron, Head]:
    """A query neuron and a head, with a colon between: L11.F1229:L23.H4.

    Raises:
        AtlasError: it is none.
    """
    neuron, _, head = text.partition(":")
    return Neuron.parse(neuron), Head.parse(head)


@dataclass(frozen=True)
class Activations:
    """How active one neuron is at every position of a prompt, up to the analysed one.

    Attributes:
        neuron: which.
        activation: one a position, signed. Of an FFN neuron what its value vector is multiplied by there; of an
            attention neuron the value v there, before any attention.
        attention_weight: of an attention neuron, the analysed position's attention to each position, 0 to 1.
        arriving: of an attention neuron, attention weight x value: what multiplies its value vector at the analysed
            position.
    """

    neuron: Neuron
    activation: tuple[float, ...]
    attention_weight: tuple[float, ...] | None = None
    arriving: tuple[float, ...] | None = None


def activations(run: PromptRun, neuron: Neuron) -> Activations:
    """One neuron at every position.

    Raises:
        AtlasError: there is no such neuron.
    """
    run.entries(neuron.kind).numbers(neuron)  # refuses what is out of range
    stream, layer = run.stream, neuron.layer
    if neuron.head is None:
        return Activations(neuron, tuple(stream.ffn_activation[layer, :, neuron.index].tolist()))
    kv_head = neuron.head // run.model.dimensions.group
    value = stream.value[layer, :, kv_head, neuron.index]
    weight = stream.attention_weight[layer, neuron.head]
    return Activations(neuron, tuple(value.tolist()), tuple(weight.tolist()), tuple((weight * value).tolist()))
