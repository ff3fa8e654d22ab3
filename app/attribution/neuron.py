"""One neuron: what switched it on, how active it is at each position, and which tokens its keys read.

The key side is exact over the whole vocabulary. A neuron reads the residual stream through the norm in front of it.
Were a token's embedding x all that stands there, the row k that reads it (an FFN's gate or up row, an attention
neuron's row of the value projection) would yield

    reading(x) = x · key / s(x) + constant

with key = k ⊙ γ (centred under LayerNorm), s(x) the norm's own scale at x, and constant = k · β + the row's bias. That
is the model's own arithmetic on a made-up residual stream: in the first layer nearly what happens, in later ones a
description of the key vector in tokens. Position embeddings are left out.

Legend: V = vocabulary, d = d_model.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from app.attribution.prompt import token_of
from app.attribution.query import key_vector
from app.attribution.results import Activations, Keys, KeySide, KeyToken, OwnQuery, QueryNeuron, ValueNeuron
from app.attribution.run import PromptRun
from db.neuron import Neuron, NeuronKind, check_exists
from indexer.families import NormKind
from indexer.language_model import LanguageModel
from indexer.weights import Weights

OWN_QUERY = 30
SHOWN = 30
_ROWS = 8192  # embeddings normalised at once: 19 MB at d = 576


def own_query(run: PromptRun, neuron: Neuron, position: int | None = None, k: int = OWN_QUERY) -> OwnQuery:
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
    layers = [run.query_layers(each) for each in reading]
    skipped = int(any(bool(each.skipped.any()) for each in reading))
    return OwnQuery(one, _behind(run, one, k), layers[0], skipped, layers[1] if len(layers) > 1 else None)


def _behind(run: PromptRun, one: ValueNeuron, k: int) -> tuple[QueryNeuron, ...]:
    """The FFN neurons that did most to switch one neuron on. Behind one that lowered the target those are the ones of
    the most negative score: the shares of a negative score are negative.
    """
    sign = -1 if one.score < 0 else 1
    found = run.query_neurons(run.readers((replace(one, score=sign * one.score),)), k)
    return tuple(replace(each, score=sign * each.score) for each in found)


def activations(run: PromptRun, neuron: Neuron) -> Activations:
    """One neuron at every position.

    Raises:
        AtlasError: there is no such neuron.
    """
    check_exists(neuron, run.model.dimensions, run.model.name)
    stream, layer = run.stream, neuron.layer
    if neuron.head is None:
        return Activations(neuron, tuple(stream.ffn_activation[layer, :, neuron.index].tolist()))
    kv_head = neuron.head // run.model.dimensions.group
    value = stream.value[layer, :, kv_head, neuron.index]
    weight = stream.attention_weight[layer, neuron.head]
    return Activations(neuron, tuple(value.tolist()), tuple(weight.tolist()), tuple((weight * value).tolist()))


def keys(model: LanguageModel, neuron: Neuron) -> Keys:
    """`key_sides`, with the neuron that they are of."""
    return Keys(neuron, key_sides(model, neuron))


def key_sides(model: LanguageModel, neuron: Neuron, shown: int = SHOWN) -> tuple[KeySide, ...]:
    """What switches a neuron on: one side for each of its key vectors, gate before up.

    Args:
        model: the model.
        neuron: an FFN or attention neuron.
        shown: how many tokens of each end.

    Raises:
        AtlasError: there is no such neuron.
    """
    check_exists(neuron, model.dimensions, model.name)
    names = key_names(model, neuron.kind)
    keys = torch.stack([key_vector(model.weights, neuron, key=place) for place in range(len(names))])
    constants = [_constant(model.weights, neuron, place) for place in range(len(names))]
    readings = _products(model, keys)
    value = _value_vector(model.weights, neuron)
    return tuple(
        _side(model, name, readings[:, place] + constants[place], keys[place], value, shown)
        for place, name in enumerate(names)
    )


def key_names(model: LanguageModel, kind: NeuronKind) -> tuple[str, ...]:
    """What the key vectors of a kind of neuron are called in this family."""
    if kind is NeuronKind.ATTENTION:
        return ("value",)
    return ("gate", "up") if len(model.architecture.ffn_keys) > 1 else ("key",)


def _products(model: LanguageModel, keys: Float[Tensor, "keys d"]) -> Float[Tensor, "V keys"]:
    """x · key / s(x) for the embedding x of every token."""
    embedding = model.weights.tensor(f"{model.architecture.embedding}.weight")
    parts = []
    for start in range(0, embedding.shape[0], _ROWS):
        rows = embedding[start : start + _ROWS]
        # The scale of the final norm's kind and ε is that of every norm of these families.
        parts.append((rows @ keys.T) / model.unembedding.scale(rows))
    return torch.cat(parts)


def _constant(weights: Weights, neuron: Neuron, place: int) -> float:
    """k · β + the row's bias: the same for every token."""
    row, bias, norm = _row(weights, neuron, place)
    beta = None
    if weights.architecture.norm is NormKind.LAYER:
        beta = weights.optional(f"{weights.architecture.layers}.{neuron.layer}.{norm}.bias")
    return (0.0 if beta is None else float(row @ beta)) + bias


def _row(weights: Weights, neuron: Neuron, place: int) -> tuple[Float[Tensor, " d"], float, str]:
    """The row that reads, norm not folded in; its bias; and the name of the norm in front."""
    architecture, size = weights.architecture, weights.dimensions
    if neuron.head is None:
        part, index, first = architecture.ffn_keys[place], neuron.index, 0
        row, norm = weights.ffn_keys(neuron.layer)[place][index], architecture.ffn_norm
    else:
        part, index = architecture.value, neuron.head // size.group * size.head_dim + neuron.index
        first = 2 * size.d_model if architecture.fused_qkv else 0
        row, norm = weights.value_projection_rows(neuron.layer)[index], architecture.attention_norm
    bias = weights.optional(f"{architecture.layers}.{neuron.layer}.{part}.bias")
    return row, 0.0 if bias is None else float(bias[first + index]), norm


def _value_vector(weights: Weights, neuron: Neuron) -> Float[Tensor, " d"]:
    if neuron.head is None:
        return weights.ffn_values(neuron.layer)[neuron.index]
    return weights.attention_values(neuron.layer)[neuron.head * weights.dimensions.head_dim + neuron.index]


def _side(
    model: LanguageModel,
    name: str,
    readings: Float[Tensor, " V"],
    key: Float[Tensor, " d"],
    value: Float[Tensor, " d"],
    shown: int,
) -> KeySide:
    mean, std = float(readings.mean()), float(readings.std(correction=0))

    def end(largest: bool) -> tuple[KeyToken, ...]:
        found = readings.topk(min(shown, len(readings)), largest=largest)
        pairs = zip(found.indices.tolist(), found.values.tolist(), strict=True)
        return tuple(
            KeyToken(token_of(model, token_id), reading, (reading - mean) / std if std else 0.0)
            for token_id, reading in pairs
        )

    cosine = float(torch.nn.functional.cosine_similarity(key, value, dim=0))
    return KeySide(name, mean, std, float(key.norm()), cosine, end(True), end(False))
