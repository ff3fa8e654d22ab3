"""Neurons by their value vectors themselves: similar by cosine, or ranked for a concept. Needs the weights.

z of a token j under a value vector v is (v · row_j - v · m) / sqrt(v · S v), with m the mean of the folded
unembedding's rows (those of tokens) and S their covariance. The weighted mean of z over a concept's tokens is therefore
one product with one direction, (sum of w_j (row_j - m) / sum of |w_j|) · v, over the neuron's own deviation: no logits
over the vocabulary are computed, and every neuron of the model is ranked, not only those whose stored lists hold a
token.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from db.errors import AtlasError
from db.neuron import Neuron, NeuronKind, Sign, check_exists
from indexer.weights import Unembedding, Weights


@dataclass(frozen=True, slots=True)
class NeuronCosine:
    """A neuron and the cosine of its value vector with that of the neuron asked about."""

    neuron: Neuron
    cosine: float
    """In [-1, 1]; near -1 it writes the same with the opposite sign."""


@dataclass(frozen=True, slots=True)
class ConceptStrength:
    """An end of a neuron and how strongly it points to a concept."""

    neuron: Neuron
    sign: Sign
    mean_z: float
    """Weighted mean z over the concept's tokens in the sign's own direction, so that more is stronger."""


def similar_by_value(weights: Weights, neuron: Neuron, k: int, *, kind: NeuronKind | None = None) -> list[NeuronCosine]:
    """The `k` neurons whose value vectors have the largest cosine with that of `neuron`, by falling absolute value.

    Args:
        weights: the model's matrices, read layer by layer.
        neuron: the one asked about; it is left out.
        k: how many.
        kind: only neurons of this kind.

    Raises:
        AtlasError: no such neuron.
    """
    check_exists(neuron, weights.dimensions)
    place = neuron.row(weights.dimensions)
    own = _values(weights, neuron.layer, neuron.kind)[place]
    direction = own / own.norm().clamp_min(torch.finfo(own.dtype).tiny)
    best: list[_Scored] = []
    for layer, here, values in _blocks(weights, kind, None):
        lengths = values.norm(dim=1)
        cosines = (values @ direction) / lengths.where(lengths > 0, torch.ones_like(lengths))
        scores = cosines.abs()
        if (layer, here) == (neuron.layer, neuron.kind):
            scores[place] = float("-inf")
        best = _strongest(k, best, (layer, here), scores, cosines)
    return [NeuronCosine(Neuron.in_row(*at, weights.dimensions), max(-1.0, min(1.0, value))) for _, at, value in best]


def rank_by_direction(
    weights: Weights,
    unembedding: Unembedding,
    token_ids: Sequence[int],
    token_weights: Sequence[float],
    k: int,
    *,
    kind: NeuronKind | None = None,
    layers: tuple[int, int] | None = None,
    sign: Sign | None = None,
) -> list[ConceptStrength]:
    """The `k` ends of all neurons that point most strongly to a concept.

    Args:
        weights: the model's matrices, read layer by layer.
        unembedding: of the same model.
        token_ids: the concept's tokens.
        token_weights: what each counts, negative for tokens to avoid; the sum of absolute values must not be 0.
        k: how many.
        kind: only neurons of this kind.
        layers: first and last layer.
        sign: only this end.

    Raises:
        AtlasError: no tokens, tokens beyond the vocabulary, or weights that do not fit.
    """
    rows = unembedding.rows
    mean = rows.mean(dim=0)
    direction = _direction(unembedding, mean, token_ids, token_weights)
    covariance = _covariance(rows, mean)
    best: list[_Scored] = []
    for layer, here, values in _blocks(weights, kind, layers):
        values = values.to(rows.device)
        variance = ((values @ covariance) * values).sum(dim=1).clamp_min(0)
        deviation = variance.sqrt()
        mean_z = (values @ direction) / deviation.where(deviation > 0, torch.ones_like(deviation))
        scores = {None: mean_z.abs(), Sign.PROMOTES: mean_z, Sign.SUPPRESSES: -mean_z}[sign]
        best = _strongest(k, best, (layer, here), scores, mean_z)
    return [
        ConceptStrength(Neuron.in_row(*at, weights.dimensions), Sign.of(value), abs(value))
        for _, at, value in best
        if sign is None or (value > 0) == (sign is Sign.PROMOTES)
    ]


def _direction(
    unembedding: Unembedding, mean: Float[Tensor, " d"], token_ids: Sequence[int], token_weights: Sequence[float]
) -> Float[Tensor, " d"]:
    rows = unembedding.folded
    size, total = rows.shape[0], sum(abs(weight) for weight in token_weights)
    if len(token_ids) != len(token_weights) or not token_ids or total == 0:
        raise AtlasError("A concept needs at least one token, and a weight for each that is not 0 for all.")
    if not all(0 <= token_id < size for token_id in token_ids):
        raise AtlasError(f"A token of the concept is outside the vocabulary of 0-{size - 1}.")
    shares = torch.tensor(list(token_weights), dtype=rows.dtype, device=rows.device) / total
    chosen: Tensor = rows[torch.tensor(list(token_ids), device=rows.device)]
    return shares @ (chosen - mean)


def _covariance(rows: Float[Tensor, "V d"], mean: Float[Tensor, " d"]) -> Float[Tensor, "d d"]:
    total = rows.new_zeros(rows.shape[1], rows.shape[1])
    for start in range(0, rows.shape[0], 8192):  # in slices: a centred copy of all rows would double their memory
        part = rows[start : start + 8192] - mean
        total.addmm_(part.T, part)
    return total / rows.shape[0]


_Scored = tuple[float, tuple[int, NeuronKind, int], float]
"""A score, its place (layer, kind, row), and a value."""


def _strongest(
    k: int, known: list[_Scored], place: tuple[int, NeuronKind], scores: Tensor, values: Tensor
) -> list[_Scored]:
    """The k largest scores of those known and of a layer's neurons; of equal ones the first neuron's comes first."""
    top = scores.topk(min(max(0, k), len(scores)))
    pairs = zip(top.values.tolist(), top.indices.tolist(), strict=True)
    found = [(score, (*place, row), float(values[row])) for score, row in pairs if score > float("-inf")]
    return sorted([*known, *found], key=lambda one: -one[0])[: max(0, k)]


def _blocks(
    weights: Weights, kind: NeuronKind | None, layers: tuple[int, int] | None
) -> Iterator[tuple[int, NeuronKind, Float[Tensor, "neuron d"]]]:
    first, last = layers or (0, weights.dimensions.layers - 1)
    for layer in range(max(0, first), min(last, weights.dimensions.layers - 1) + 1):
        for here in NeuronKind:
            if kind in (None, here):
                yield layer, here, _values(weights, layer, here)


def _values(weights: Weights, layer: int, kind: NeuronKind) -> Float[Tensor, "neuron d"]:
    return weights.ffn_values(layer) if kind is NeuronKind.FFN else weights.attention_values(layer)
