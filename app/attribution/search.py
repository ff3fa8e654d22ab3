"""The value neurons that raise the target most, and those that lower it most: the certified top and bottom k
(README, Method).

Scores are computed down the bounds Imp(c) <= c · g, and the search stops when the k-th best is at least the next bound.
The neurons that lower the target most need a lower bound. By Hoeffding's lemma,

    c · g - (max z - min z)² / 8 <= Imp(c)
    max z - min z = |activation| / s x (highest - lowest logit of the value vector)

and both ends of a neuron's logits are the first rows of its two lists in the catalogue. Without one the range is at
most 2 |c| max|row| / s, so loose that most neurons are scored.

Numbers of entries, layers, positions and bases are on the CPU, where the search is led; figures are computed where the
model is, and what a search keeps of them comes to the CPU.
"""

from collections.abc import Callable, Generator, Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from app.attribution.results import Certificate, ValueNeuron
from db.neuron import Neuron, NeuronKind, check_exists
from indexer.architecture import Dimensions
from indexer.forward import ResidualStream
from indexer.weights import Weights


class Entries(Protocol):
    """What the certified search needs to know of a kind of neuron."""

    @property
    def kind(self) -> NeuronKind:
        """Which kind."""

    @property
    def per_layer(self) -> int:
        """Entries per layer."""

    def live(self, layer: int) -> Int[Tensor, " neurons"] | None:
        """The neurons of a layer with experts that can be active: all others' contributions are 0. None: all can."""

    def dot(self, layer: int, direction: Float[Tensor, " d"]) -> Float[Tensor, " entries"]:
        """contribution · direction, for every entry of the layer."""

    def scaled(self, layer: int, numbers: Float[Tensor, " neurons"]) -> Float[Tensor, " entries"]:
        """|activation| x its neuron's number (in neuron order, `live` ones only), for every entry of the layer."""

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

    def values(self, layer: int, rows: Int[Tensor, " m"] | None = None) -> Float[Tensor, "neurons d"]:
        """The layer's value vectors, in neuron order; only some of them, where rows are given."""


@dataclass(frozen=True, eq=False)
class FfnEntries:
    """FFN neurons at the analysed position. activations: [L, n]; n is of the widest layer, and beyond a layer's own
    neurons there are entries that no neuron has.
    """

    weights: Weights
    activations: Float[Tensor, "L n"]
    kind = NeuronKind.FFN

    @classmethod
    def of(cls, stream: ResidualStream, weights: Weights) -> "FfnEntries":
        return cls(weights, stream.ffn_activation[:, stream.position].contiguous())

    def values(self, layer: int, rows: Int[Tensor, " m"] | None = None) -> Float[Tensor, "n d"]:
        return self.weights.ffn_values(layer, rows)

    @property
    def per_layer(self) -> int:
        return self.activations.shape[1]

    def live(self, layer: int) -> Int[Tensor, " m"] | None:
        return None if self.weights.dimensions.experts is None else self.activations[layer].nonzero().flatten().cpu()

    def dot(self, layer: int, direction: Float[Tensor, " d"]) -> Float[Tensor, " n"]:
        live = self.live(layer)
        products = self.values(layer, live) @ direction
        return self.activations[layer] * (products if live is None else self._everywhere(live, products))

    def scaled(self, layer: int, numbers: Float[Tensor, " m"]) -> Float[Tensor, " n"]:
        live = self.live(layer)
        return self.activations[layer].abs() * (numbers if live is None else self._everywhere(live, numbers))

    def _everywhere(self, live: Int[Tensor, " m"], numbers: Float[Tensor, " m"]) -> Float[Tensor, " n"]:
        return numbers.new_zeros(self.per_layer).index_copy_(0, live.to(numbers.device), numbers)

    def contributions(self, entries: Int[Tensor, " m"]) -> Float[Tensor, "m d"]:
        index = entries % self.activations.shape[1]
        return gather_by_layer(self.values, self.layer(entries), index) * self.activation(entries)[:, None]

    def layer(self, entries: Int[Tensor, " m"]) -> Int[Tensor, " m"]:
        return entries // self.activations.shape[1]

    def activation(self, entries: Int[Tensor, " m"]) -> Float[Tensor, " m"]:
        return self.activations.flatten()[entries]

    def name(self, entry: int) -> tuple[Neuron, int | None]:
        layer, row = divmod(entry, self.activations.shape[1])
        return Neuron.in_row(layer, NeuronKind.FFN, row, self.weights.dimensions), None

    def numbers(self, neuron: Neuron) -> list[int]:
        check_exists(neuron, self.weights.dimensions)
        return [neuron.layer * self.per_layer + neuron.row(self.weights.dimensions)]


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

    def values(self, layer: int, rows: Int[Tensor, " m"] | None = None) -> Float[Tensor, "a d"]:
        found = self.weights.attention_values(layer)
        return found if rows is None else found[rows]

    def live(self, layer: int) -> None:
        """All can be active."""

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


def routed(stream: ResidualStream, one: ValueNeuron) -> ValueNeuron:
    """A neuron of an expert with the router's weight at the analysed position."""
    weights = stream.router(one.neuron)
    return one if weights is None else replace(one, router=weights[-1])


def gather_by_layer(
    rows_of: Callable[[int, Int[Tensor, " n"]], Float[Tensor, "n d"]], layer: Int[Tensor, " m"], row: Int[Tensor, " m"]
) -> Float[Tensor, "m d"]:
    """Row row[i] of the matrix of layer layer[i], of which `rows_of` gives some rows."""
    first = rows_of(0, row[:0])
    found = first.new_empty(layer.shape[0], first.shape[1])
    for one in layer.unique().tolist():
        here = (layer == one).nonzero().flatten()
        found[here] = rows_of(one, row[here])
    return found


BATCH = 128  # entries scored between two looks at the bounds
HELD = 2**21  # bounds held at a time: 8 MB
WINDOW = 2048  # bounds sorted at first; far more than a search usually visits


@dataclass(frozen=True, eq=False)
class Ranking:
    """Entries, the most extreme first.

    Attributes:
        entries: [k]; indices into the bounds.
        scores: [k]; nats.
        certificate: how they were found.
    """

    entries: Int[Tensor, " k"]
    scores: Float[Tensor, " k"]
    certificate: Certificate


Exact = Callable[[Int[Tensor, " m"]], Float[Tensor, " m"]]
Search = Generator[Int[Tensor, " m"], Float[Tensor, " m"], Ranking]
"""Yields the entries that it wants scored, is sent their exact scores, and returns the ranking."""

Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True, eq=False)
class Bounds:
    """Bounds that are computed a layer at a time and never all held: memory does not grow with the number of entries.

    Attributes:
        of_layer: layer -> the bounds of its entries.
        layers: how many layers.
        per_layer: entries per layer; entry e is entry e % per_layer of layer e // per_layer.
        open: how many are to be looked for; the others' bounds are -inf. None: all.
        zeros: how many of these others are entries whose score is known to be exactly 0.
    """

    of_layer: Callable[[int], Float[Tensor, " entries"]]
    layers: int
    per_layer: int
    open: int | None = None
    zeros: int = 0

    @classmethod
    def dense(cls, bounds: Float[Tensor, " N"]) -> "Bounds":
        """Bounds that are there already."""
        return cls(lambda _layer: bounds, 1, bounds.shape[0])

    @classmethod
    def among(
        cls,
        entries: Entries,
        of_layer: Callable[[int], Float[Tensor, " entries"]],
        layers: range,
        here: slice,
        size: Dimensions,
        *,
        upper: bool,
    ) -> "Bounds":
        """Of some entries of some layers, the upper or the lower ones; of what cannot be active none."""
        live = {layer: entries.live(layer) for layer in layers}

        def those(layer: int) -> Tensor:
            found, some = of_layer(layer), live[layer]
            if some is not None:
                nothing = torch.full_like(found, -torch.inf if upper else torch.inf)
                found = nothing.index_copy_(0, some.to(found.device), found[some])
            return found[here]

        bounds = cls(lambda place: those(layers[place]), len(layers), here.stop - here.start)
        can = [some for some in live.values() if some is not None]
        if not can:
            return bounds
        count = sum(int(((some >= here.start) & (some < here.stop)).sum()) for some in can)
        known = sum(max(0, min(here.stop, size.ffn_neurons(layer)) - here.start) for layer in layers)
        return replace(bounds, open=count, zeros=known - count)

    @property
    def total(self) -> int:
        return self.layers * self.per_layer if self.open is None else self.open

    def listed(self, scores: Float[Tensor, " m"], k: int) -> int:
        """How many of the best scores are among the best k of all entries: zeros come before what is below 0."""
        return len(scores) if not self.zeros else min(len(scores), max(int((scores > 0).sum()), k - self.zeros))

    def best(self, count: int, without: Int[Tensor, " v"]) -> tuple[Int[Tensor, " m"], Float[Tensor, " m"]]:
        """The `count` entries of highest bound but for those in `without`, and their bounds, in order."""
        entries, values = without.new_empty(0), torch.empty(0)
        parts: list[Tensor] = []
        start = 0
        for layer in range(self.layers):
            parts.append(self.of_layer(layer))
            held = (layer + 1) * self.per_layer - start
            if held < HELD and layer + 1 < self.layers:
                continue
            bounds = torch.cat(parts)
            here = without[(without >= start) & (without < start + held)] - start
            if len(here):
                bounds[here] = -torch.inf
            best = bounds.topk(min(count, held - len(here)))
            entries = torch.cat([entries, best.indices.cpu() + start])
            values = torch.cat([values, best.values.cpu()])
            kept = values.topk(min(count, len(values)))  # in order
            entries, values = entries[kept.indices], kept.values
            parts, start = [], start + held
        return entries, values


def certified_top(
    bounds: Bounds | Float[Tensor, " N"], exact: Exact, k: int, tolerance: float = 0.0, bound: str = "concavity"
) -> Ranking:
    """The k entries of highest exact score.

    Args:
        bounds: an upper bound of every entry's score.
        exact: exact scores of the entries asked for.
        k: how many.
        tolerance: how far an exact score may be off; the k are those of highest score up to ties within twice that.
        bound: what the bounds are, for the certificate.

    >>> certified_top(torch.tensor([3.0, 2.0, 9.0]), lambda i: torch.tensor([1.0, 2.0, 5.0])[i], k=1).entries
    tensor([2])
    """
    source = bounds if isinstance(bounds, Bounds) else Bounds.dense(bounds)
    search = search_top(source, k, tolerance, bound)
    return together({"": search}, lambda wanted: {"": exact(wanted[""])})[""]


def together(
    searches: Mapping[Name, Search], exact: Callable[[dict[Name, Tensor]], dict[Name, Tensor]]
) -> dict[Name, Ranking]:
    """What several searches find; `exact` scores what all of them want next in one call."""
    found: dict[Name, Ranking] = {}
    scores: dict[Name, Tensor | None] = dict.fromkeys(searches)
    while scores:
        wanted = {}
        for name, sent in scores.items():
            try:
                wanted[name] = next(searches[name]) if sent is None else searches[name].send(sent)
            except StopIteration as stop:
                found[name] = stop.value
        scores = dict(exact(wanted)) if wanted else {}
    return found


def search_all(count: int) -> Search:
    """Every one of `count` entries, in their order."""
    every = torch.arange(count)
    return Ranking(every, (yield every).cpu(), Certificate(count, count))


def search_top(bounds: Bounds, k: int, tolerance: float = 0.0, bound: str = "concavity") -> Search:
    """The same as a generator, so that several searches can have their entries scored together (`together`)."""
    asked, total = k, bounds.total
    k = min(k, total)

    def ranking() -> Ranking:
        best = scores.topk(k)
        kept = bounds.listed(best.values, asked)
        certificate = Certificate(len(scores), total + bounds.zeros, bound, tolerance)
        return Ranking(visited[best.indices[:kept]], best.values[:kept], certificate)

    visited, scores = torch.empty(0, dtype=torch.long), torch.empty(0)
    slack = 0.0
    while k and visited.shape[0] < total:
        # The bounds in order, but only as far as a search usually goes; more where that was not enough.
        entries, ordered = bounds.best(min(total - len(visited), max(WINDOW, 2 * k, 8 * len(visited))), visited)
        # Rounding may put a bound a hair below the score it bounds; the slack keeps the proof honest.
        slack = max(slack, tolerance + 1e-6 * (1 + float(ordered[0].abs())))
        done = 0
        while done < len(entries):
            size = _first_batch(k) - done if len(scores) < k else _still_open(ordered[done:], scores, k, slack)
            if size == 0:
                return ranking()
            batch = entries[done : done + size]
            visited, scores = torch.cat([visited, batch]), torch.cat([scores, (yield batch).cpu()])
            done += len(batch)
    return ranking()


def _first_batch(k: int) -> int:
    """Some more than k: a second round for the few that are nearly always still open would cost more."""
    return k + min(k, max(8, k // 24))


def _still_open(bounds: Float[Tensor, " m"], scores: Float[Tensor, " n"], k: int, slack: float) -> int:
    """How many of the next entries may yet be among the best: as the k-th best only rises, no more than these."""
    kth = scores.topk(k).values[-1]
    return min(int((bounds + slack > kth).sum()), BATCH)


def certified_bottom(lower: Bounds, exact: Exact, k: int, bound: str, tolerance: float = 0.0) -> Ranking:
    """The k entries of lowest exact score, lowest first; `lower` bounds every entry's score from below."""
    upside_down = replace(lower, of_layer=lambda layer: -lower.of_layer(layer))
    turned = certified_top(upside_down, lambda entries: -exact(entries), k, tolerance, bound)
    return replace(turned, scores=-turned.scores)
