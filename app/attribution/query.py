"""What neurons read: query neurons and query layers (paper section 3.4), and the key side of one neuron.

A value neuron is switched on by what it reads: its key vector dotted with the residual stream in front of it. That
dot product is a sum over everything written there before, so each earlier neuron or sub-layer x has a share, and its
score is

    Σ over value neurons of  (x · key) / (residual · key) x Imp(value neuron)

The input norm's scale divides both and cancels; its weight is folded into the key, and under LayerNorm the key is
centred (but not in the notebook convention). A value neuron whose denominator vanishes has no meaningful shares and
is left out, and counted.

The key side (README) is what a neuron's rows would yield of each token's embedding x, were that the residual stream:

    reading(x) = x · key / s(x) + constant,    key = k ⊙ γ (centred under LayerNorm), constant = k · β + the row's bias

Legend: V = vocabulary, R = value neurons read from, L = layers, T = tokens, n = FFN neurons of a layer, d = d_model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from app.attribution.prompt import token_of
from app.attribution.results import (
    Activations,
    Keys,
    KeySide,
    KeyToken,
    OwnQuery,
    QueryNeuron,
    QueryShares,
    ValueNeuron,
)
from app.attribution.score import array
from app.attribution.search import gather_by_layer
from db.neuron import Neuron, NeuronKind, check_exists
from indexer.architecture import Conventions, NormKind
from indexer.device import product
from indexer.forward import ResidualStream
from indexer.language_model import LanguageModel
from indexer.weights import Weights

if TYPE_CHECKING:
    from app.attribution.run import PromptRun

VANISHING = 1e-6
"""|residual · key| below this share of |residual| |key| is no more than float32 rounding of the sum."""


@dataclass(frozen=True, eq=False)
class Readers:
    """Value neurons as readers of the residual stream.

    Attributes:
        layer: [R]; the layer each stands in.
        position: [R]; where it reads: an attention neuron at its source position, an FFN neuron at the analysed one.
        after_attention: they read after their own layer's attention (FFN neurons, but of parallel blocks) rather than
            before it.
        keys: [R, d]; norm weight folded in.
        weight: [R]; Imp / (residual · key); 0 for those left out.
        skipped: [R]; left out, because the denominator vanishes.
    """

    layer: Int[Tensor, " R"]
    position: Int[Tensor, " R"]
    after_attention: bool
    keys: Float[Tensor, "R d"]
    weight: Float[Tensor, " R"]
    skipped: Tensor


def readers(
    stream: ResidualStream,
    weights: Weights,
    neurons: Sequence[tuple[Neuron, int | None, float]],
    conventions: Conventions = Conventions.EXACT,
    key: int = 0,
) -> Readers:
    """Value neurons (neuron, source position, Imp), all of one kind, as readers.

    Args:
        stream: the forward pass.
        weights: of the model.
        neurons: at least one.
        conventions: whether LayerNorm keys are centred.
        key: which of an FFN's key vectors: 0 is its only one or the gate, 1 the up row.
    """
    kind = neurons[0][0].kind
    after_attention = kind is NeuronKind.FFN and not weights.architecture.parallel
    layer = torch.tensor([neuron.layer for neuron, _, _ in neurons])
    position = torch.tensor([stream.position if place is None else place for _, place, _ in neurons])
    keys = key_vectors(weights, [neuron for neuron, _, _ in neurons], conventions, key)
    score = keys.new_tensor([imp for _, _, imp in neurons])
    residual = stream.layer_input[layer, position]
    if after_attention:
        residual = residual + stream.attention_output[layer, position]
    denominator = (residual * keys).sum(dim=1)
    skipped = denominator.abs() <= VANISHING * residual.norm(dim=1) * keys.norm(dim=1)
    weight = torch.where(skipped, 0.0, score / torch.where(skipped, 1.0, denominator))
    return Readers(layer, position, after_attention, keys, weight, skipped)


def key_vectors(
    weights: Weights, neurons: Sequence[Neuron], conventions: Conventions = Conventions.EXACT, key: int = 0
) -> Float[Tensor, "R d"]:
    """What neurons of one kind read the residual stream with: their rows of the value or key matrix times the norm's
    weight in front.
    """
    architecture, size = weights.architecture, weights.dimensions
    layer = torch.tensor([neuron.layer for neuron in neurons])
    if neurons[0].kind is NeuronKind.FFN:
        norm = architecture.ffn_norm
        row = torch.tensor([neuron.row(size) for neuron in neurons])
        rows = gather_by_layer(lambda layer, some: weights.ffn_keys(layer, key, some), layer, row)
    else:
        norm = architecture.attention_norm
        heads = [neuron.head // size.group for neuron in neurons if neuron.head is not None]
        row = torch.tensor([head * size.head_dim + one.index for head, one in zip(heads, neurons, strict=True)])
        rows = gather_by_layer(lambda layer, some: weights.value_projection_rows(layer)[some], layer, row)
    gammas = gather_by_layer(lambda layer, some: weights.norm_weight(layer, norm)[None][some], layer, 0 * layer)
    rows *= gammas
    centred = architecture.norm is NormKind.LAYER and norm is not None and conventions is Conventions.EXACT
    return rows - rows.mean(dim=1, keepdim=True) if centred else rows


def query_ffn_scores(stream: ResidualStream, weights: Weights, read: Readers) -> Float[Tensor, "L n"]:
    """Each earlier FFN neuron's score, in nats; 0 in layers that no reader stands behind."""
    layers, _, neurons = stream.ffn_activation.shape
    scores = stream.ffn_activation.new_zeros(layers, neurons)
    # Readers at one position see the same activations there: their keys are summed before the product.
    positions, place = read.position.unique(return_inverse=True)
    at = (torch.arange(len(positions))[:, None] == place).to(read.keys)  # [positions, R]
    weighted = read.keys * read.weight[:, None]
    for layer in range(min(layers, int(read.layer.max()))):
        keys = (at * (read.layer > layer).to(at)) @ weighted
        active, live = stream.ffn_activation[layer, positions], None
        if weights.dimensions.experts is not None:
            live = active.any(dim=0).nonzero().flatten()
            active = active[:, live]
        shares = product(keys, weights.ffn_values(layer, live))  # [positions, n]
        scores[layer, slice(None) if live is None else live] = (active * shares).sum(dim=0)
    return scores


def query_layers(stream: ResidualStream, read: Readers) -> QueryShares:
    """Shares of the embedding and of each sub-layer; together they are the summed Imp of the readers kept."""
    weighted = read.keys * read.weight[:, None]
    embedding = (stream.layer_input[0, read.position] * weighted).sum()
    layer = torch.arange(stream.attention_output.shape[0])[:, None]

    # The readers read at a few positions, many at the same one: one product a position, not one a reader.
    positions, place = read.position.unique(return_inverse=True)
    of_reader = torch.arange(len(place))

    def shares(written: Float[Tensor, "L T d"], seen: Tensor) -> Float[Tensor, " L"]:
        dots = (written[:, positions] @ weighted.T)[:, place, of_reader]  # [L, R]
        return torch.where(seen.to(dots.device), dots, 0.0).sum(dim=1)

    before = layer < read.layer
    return QueryShares(
        embedding=float(embedding),
        attention=array(shares(stream.attention_output, layer <= read.layer if read.after_attention else before)),
        ffn=array(shares(stream.ffn_output, before)),
    )


# One neuron: what switched it on, how active it is at each position, and which tokens its keys read.

OWN_QUERY = 30
SHOWN = 30
_ROWS = 8192  # embeddings normalised at once: 19 MB at d = 576


def own_query(run: "PromptRun", neuron: Neuron, position: int | None = None, k: int = OWN_QUERY) -> OwnQuery:
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


def _behind(run: "PromptRun", one: ValueNeuron, k: int) -> tuple[QueryNeuron, ...]:
    """The FFN neurons that did most to switch one neuron on. Behind one that lowered the target those are the ones of
    the most negative score: the shares of a negative score are negative.
    """
    sign = -1 if one.score < 0 else 1
    found = run.query_neurons(run.readers((replace(one, score=sign * one.score),)), k)
    return tuple(replace(each, score=sign * each.score) for each in found)


def activations(run: "PromptRun", neuron: Neuron) -> Activations:
    """One neuron at every position.

    Raises:
        AtlasError: there is no such neuron.
    """
    check_exists(neuron, run.model.dimensions, run.model.name)
    stream, layer = run.stream, neuron.layer
    if neuron.head is None:
        row = neuron.row(run.model.dimensions)
        active = tuple(stream.ffn_activation[layer, :, row].tolist())
        return Activations(neuron, active, router=stream.router(neuron))
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
    keys = torch.cat([key_vectors(model.weights, [neuron], key=place) for place in range(len(names))])
    constants = [_constant(model.weights, neuron, place) for place in range(len(names))]
    readings = _products(model, keys, neuron)
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


def _products(model: LanguageModel, keys: Float[Tensor, "keys d"], neuron: Neuron) -> Float[Tensor, "V keys"]:
    """x · key / s(x) for the embedding x of every token; s is 1 where neurons of the kind read through no norm, and
    holds what the norm of a compressed copy divides by, where attention reads one.
    """
    architecture, unembedding = model.architecture, model.unembedding
    is_ffn = neuron.kind is NeuronKind.FFN
    norm = architecture.ffn_norm if is_ffn else architecture.attention_norm
    parts = []
    for start in range(0, model.dimensions.vocabulary, _ROWS):
        rows = model.weights.embeddings(slice(start, start + _ROWS), unembedding.epsilon)
        # The scale of the final norm's kind and ε is that of every norm of these families.
        scale = 1.0 if norm is None else unembedding.scale(rows)
        parts.append(rows @ keys.T / scale / (1.0 if is_ffn else model.weights.latent_scale(neuron.layer, rows, scale)))
    return torch.cat(parts)


def _constant(weights: Weights, neuron: Neuron, place: int) -> float:
    """k · β + the row's bias: the same for every token."""
    row, bias, norm = _row(weights, neuron, place)
    beta = weights.norm_bias(neuron.layer, norm)
    return (0.0 if beta is None else float(row @ beta)) + bias


def _row(weights: Weights, neuron: Neuron, place: int) -> tuple[Float[Tensor, " d"], float, str | None]:
    """The row that reads, norm not folded in; its bias; and the name of the norm in front."""
    architecture, size, layer = weights.architecture, weights.dimensions, neuron.layer
    if neuron.head is None:
        index, norm, bias = neuron.row(size), architecture.ffn_norm, weights.ffn_key_bias(layer, place)
        row = weights.ffn_keys(layer, place, torch.tensor([index]))[0]
    else:
        index, norm = neuron.head // size.group * size.head_dim + neuron.index, architecture.attention_norm
        row, bias = weights.value_projection_rows(layer)[index], weights.value_projection_bias(layer)
    return row, 0.0 if bias is None else float(bias[index]), norm


def _value_vector(weights: Weights, neuron: Neuron) -> Float[Tensor, " d"]:
    if neuron.head is None:
        return weights.ffn_values(neuron.layer, torch.tensor([neuron.row(weights.dimensions)]))[0]
    return weights.attention_values(neuron.layer)[neuron.row(weights.dimensions)]


def _side(
    model: LanguageModel,
    name: str,
    readings: Float[Tensor, " V"],
    key: Float[Tensor, " d"],
    value: Float[Tensor, " d"],
    shown: int,
) -> KeySide:
    of_tokens = readings if model.unembedding.used is None else readings[model.unembedding.used]
    mean, std = float(of_tokens.mean()), float(of_tokens.std(correction=0))

    def end(largest: bool) -> tuple[KeyToken, ...]:
        values, ids = model.unembedding.extremes(readings, shown, largest=largest)
        pairs = zip(ids.tolist(), values.tolist(), strict=True)
        return tuple(
            KeyToken(token_of(model, token_id), reading, (reading - mean) / std if std else 0.0)
            for token_id, reading in pairs
        )

    cosine = float(torch.nn.functional.cosine_similarity(key, value, dim=0))
    return KeySide(name, mean, std, float(key.norm()), cosine, end(True), end(False))
