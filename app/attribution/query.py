"""Query neurons and query layers: what switched the value neurons on (README, Method; paper section 3.4).

A value neuron is switched on by what it reads: its key vector dotted with the residual stream in front of it. That
dot product is a sum over everything written there before, so each earlier neuron or sub-layer x has a share, and its
score is

    Σ over value neurons of  (x · key) / (residual · key) x Imp(value neuron)

The input norm's scale divides both and cancels; its weight is folded into the key, and under LayerNorm the key is
centred (but not in the notebook convention). A value neuron whose denominator vanishes has no meaningful shares and
is left out, and counted.

Legend: R = value neurons read from, L = layers, T = tokens, n = FFN neurons of a layer, d = d_model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from app.attribution.entries import gather_by_layer
from app.attribution.results import QueryShares
from app.attribution.score import array
from db.neuron import Neuron, NeuronKind
from indexer.families import Conventions, NormKind
from indexer.forward import ResidualStream
from indexer.products import product
from indexer.weights import Weights

VANISHING = 1e-6
"""|residual · key| below this share of |residual| |key| is no more than float32 rounding of the sum."""


@dataclass(frozen=True, eq=False)
class Readers:
    """Value neurons as readers of the residual stream.

    Attributes:
        layer: [R]; the layer each stands in.
        position: [R]; where it reads: an attention neuron at its source position, an FFN neuron at the analysed one.
        after_attention: they read after their own layer's attention (FFN neurons) rather than before it.
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
    after_attention = kind is NeuronKind.FFN
    layer = torch.tensor([neuron.layer for neuron, _, _ in neurons])
    position = torch.tensor([stream.position if place is None else place for _, place, _ in neurons])
    score = torch.tensor([imp for _, _, imp in neurons])
    keys = key_vectors(weights, [neuron for neuron, _, _ in neurons], conventions, key)
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
        row = torch.tensor([neuron.index for neuron in neurons])
        rows = gather_by_layer(lambda layer: weights.ffn_keys(layer)[key], layer, row)
    else:
        norm = architecture.attention_norm
        heads = [neuron.head // size.group for neuron in neurons if neuron.head is not None]
        row = torch.tensor([head * size.head_dim + one.index for head, one in zip(heads, neurons, strict=True)])
        rows = gather_by_layer(weights.value_projection_rows, layer, row)
    rows *= gather_by_layer(lambda layer: weights.norm_weight(layer, norm)[None], layer, torch.zeros_like(layer))
    centred = architecture.norm is NormKind.LAYER and conventions is Conventions.EXACT
    return rows - rows.mean(dim=1, keepdim=True) if centred else rows


def key_vector(
    weights: Weights, neuron: Neuron, conventions: Conventions = Conventions.EXACT, key: int = 0
) -> Float[Tensor, " d"]:
    """What one neuron reads the residual stream with; see `key_vectors`."""
    return key_vectors(weights, [neuron], conventions, key)[0]


def query_ffn_scores(stream: ResidualStream, weights: Weights, read: Readers) -> Float[Tensor, "L n"]:
    """Each earlier FFN neuron's score, in nats; 0 in layers that no reader stands behind."""
    layers, _, neurons = stream.ffn_activation.shape
    scores = stream.ffn_activation.new_zeros(layers, neurons)
    # Readers at one position see the same activations there: their keys are summed before the product.
    positions, place = read.position.unique(return_inverse=True)
    at = (torch.arange(len(positions))[:, None] == place).to(read.keys)  # [positions, R]
    weighted = read.keys * read.weight[:, None]
    for layer in range(min(layers, int(read.layer.max()))):
        keys = (at * (read.layer > layer)) @ weighted
        shares = product(keys, weights.ffn_values(layer))  # [positions, n]
        scores[layer] = (stream.ffn_activation[layer, positions] * shares).sum(dim=0)
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
        return torch.where(seen, dots, 0.0).sum(dim=1)

    before = layer < read.layer
    return QueryShares(
        embedding=float(embedding),
        attention=array(shares(stream.attention_output, layer <= read.layer if read.after_attention else before)),
        ffn=array(shares(stream.ffn_output, before)),
    )
