"""The neurons of one forward pass as entries that can be bounded and scored: activation x value vector.

An FFN entry is (layer, index); an attention entry is (layer, head, source position, dimension), since an attention
neuron is active once per source position and those activations are never summed away. Entries are numbered in that
order.

Legend: L = layers, H = heads, T = tokens, D = head_dim, n = FFN neurons of a layer, d = d_model, N = all entries, m =
    some entries.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from db.neuron import Neuron, NeuronKind, check_exists
from indexer.forward import ResidualStream
from indexer.weights import Weights


class Entries(Protocol):
    """What the certified search needs to know of a kind of neuron."""

    @property
    def kind(self) -> NeuronKind:
        """Which kind."""

    @property
    def per_layer(self) -> int:
        """Entries a layer."""

    def dot(self, layer: int, direction: Float[Tensor, " d"]) -> Float[Tensor, " entries"]:
        """contribution · direction, for every entry of the layer."""

    def scaled(self, layer: int, numbers: Float[Tensor, " neurons"]) -> Float[Tensor, " entries"]:
        """|activation| x its neuron's number (in neuron order), for every entry of the layer."""

    def contributions(self, entries: Int[Tensor, " m"]) -> Float[Tensor, "m d"]:
        """activation x value vector."""

    def layer(self, entries: Int[Tensor, " m"]) -> Int[Tensor, " m"]:
        """Each entry's layer, which is also the number of its base."""

    def activation(self, entries: Int[Tensor, " m"]) -> Float[Tensor, " m"]:
        """Signed."""

    def name(self, entry: int) -> tuple[Neuron, int | None]:
        """The neuron, and the source position for attention."""

    def numbers(self, neuron: Neuron) -> list[int]:
        """The neuron's entries: one, or one a source position.

        Raises:
            AtlasError: there is no such neuron of this kind.
        """

    def values(self, layer: int) -> Float[Tensor, "neurons d"]:
        """The layer's value vectors, in neuron order."""


@dataclass(frozen=True, eq=False)
class FfnEntries:
    """FFN neurons at the analysed position. activations: [L, n]."""

    weights: Weights
    activations: Float[Tensor, "L n"]
    kind = NeuronKind.FFN

    @classmethod
    def of(cls, stream: ResidualStream, weights: Weights) -> "FfnEntries":
        return cls(weights, stream.ffn_activation[:, stream.position].contiguous())

    def values(self, layer: int) -> Float[Tensor, "n d"]:
        return self.weights.ffn_values(layer)

    @property
    def per_layer(self) -> int:
        return self.activations.shape[1]

    def dot(self, layer: int, direction: Float[Tensor, " d"]) -> Float[Tensor, " n"]:
        return self.activations[layer] * (self.values(layer) @ direction)

    def scaled(self, layer: int, numbers: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        return self.activations[layer].abs() * numbers

    def contributions(self, entries: Int[Tensor, " m"]) -> Float[Tensor, "m d"]:
        index = entries % self.activations.shape[1]
        return gather_by_layer(self.values, self.layer(entries), index) * self.activation(entries)[:, None]

    def layer(self, entries: Int[Tensor, " m"]) -> Int[Tensor, " m"]:
        return entries // self.activations.shape[1]

    def activation(self, entries: Int[Tensor, " m"]) -> Float[Tensor, " m"]:
        return self.activations.flatten()[entries]

    def name(self, entry: int) -> tuple[Neuron, int | None]:
        return Neuron.ffn(*divmod(entry, self.activations.shape[1])), None

    def numbers(self, neuron: Neuron) -> list[int]:
        check_exists(neuron, self.weights.dimensions)
        return [neuron.layer * self.per_layer + neuron.index]


@dataclass(frozen=True, eq=False)
class AttentionEntries:
    """Attention neurons at every source position, α[h, p] · v[kv(h), p, n]; computed a layer at a time."""

    weights: Weights
    stream: ResidualStream
    kind = NeuronKind.ATTENTION

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """[L, H, T, D]."""
        layers, heads, tokens = self.stream.attention_weight.shape
        return layers, heads, tokens, self.stream.value.shape[3]

    @property
    def per_layer(self) -> int:
        _, heads, tokens, width = self.shape
        return heads * tokens * width

    def values(self, layer: int) -> Float[Tensor, "a d"]:
        return self.weights.attention_values(layer)

    def dot(self, layer: int, direction: Float[Tensor, " d"]) -> Float[Tensor, " entries"]:
        slopes = self._by_head(self.values(layer) @ direction)
        return (self.stream.attention_activation(layer) * slopes).flatten()

    def scaled(self, layer: int, numbers: Float[Tensor, " a"]) -> Float[Tensor, " entries"]:
        return (self.stream.attention_activation(layer).abs() * self._by_head(numbers)).flatten()

    def contributions(self, entries: Int[Tensor, " m"]) -> Float[Tensor, "m d"]:
        layer, head, _, index = self._places(entries)
        row = head * self.shape[3] + index
        return gather_by_layer(self.values, layer, row) * self.activation(entries)[:, None]

    def layer(self, entries: Int[Tensor, " m"]) -> Int[Tensor, " m"]:
        return self._places(entries)[0]

    def activation(self, entries: Int[Tensor, " m"]) -> Float[Tensor, " m"]:
        layer, head, position, index = self._places(entries)
        kv_head = head // self.weights.dimensions.group
        return self.stream.attention_weight[layer, head, position] * self.stream.value[layer, position, kv_head, index]

    def name(self, entry: int) -> tuple[Neuron, int | None]:
        _, heads, tokens, width = self.shape
        rest, index = divmod(entry, width)
        rest, position = divmod(rest, tokens)
        return Neuron.attention(*divmod(rest, heads), index), position

    def numbers(self, neuron: Neuron) -> list[int]:
        check_exists(neuron, self.weights.dimensions)
        assert neuron.head is not None
        _, heads, tokens, width = self.shape
        first = (neuron.layer * heads + neuron.head) * tokens
        return [(first + position) * width + neuron.index for position in range(tokens)]

    def _by_head(self, numbers: Float[Tensor, " a"]) -> Float[Tensor, "H 1 D"]:
        return numbers.view(self.shape[1], 1, self.shape[3])

    def _places(self, entries: Tensor) -> tuple[Tensor, ...]:
        return torch.unravel_index(entries, self.shape)


def gather_by_layer(
    matrix: Callable[[int], Float[Tensor, "rows d"]], layer: Int[Tensor, " m"], row: Int[Tensor, " m"]
) -> Float[Tensor, "m d"]:
    """Row row[i] of the matrix of layer layer[i]."""
    width = matrix(0).shape[1]
    found = torch.empty(layer.shape[0], width, device=layer.device)
    for one in layer.unique().tolist():
        here = (layer == one).nonzero().flatten()
        found[here] = matrix(one)[row[here]]
    return found
