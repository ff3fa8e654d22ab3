"""Where each neuron stands in the order of a build: neuron <-> stored id, by arithmetic over one row a layer and kind.

Ids count layer by layer, FFN before attention, heads in order; layers may differ in width.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import func, select

from db.catalogue.filters import Filters
from db.catalogue.schema import KIND_CODES
from db.catalogue.schema import neuron as neurons
from db.catalogue.statements import Answer, Statement
from db.errors import AtlasError
from db.neuron import ModelSizes, Neuron, NeuronKind, check_exists, ranges


@dataclass(frozen=True, slots=True)
class Block:
    """The neurons of one layer and kind, whose ids follow each other."""

    first: int
    """Id of the first neuron."""
    size: int
    width: int
    """Neurons a head; for FFN neurons the whole block."""


_NONE = Block(first=0, size=0, width=1)


class Layout:
    """The blocks of a build, and what follows from them."""

    def __init__(self, blocks: dict[tuple[int, NeuronKind], Block]) -> None:
        self._blocks = blocks

    @staticmethod
    def statement() -> Statement:
        """The query whose rows :meth:`from_rows` reads: layer, kind, first id, count, largest index."""
        first, size, last = func.min(neurons.c.neuron_id), func.count(), func.max(neurons.c.index)
        return select(neurons.c.layer, neurons.c.kind, first, size, last).group_by(neurons.c.layer, neurons.c.kind)

    @classmethod
    def from_rows(cls, rows: Iterable[Answer]) -> "Layout":
        """The layout that the rows of :meth:`statement` describe."""
        kinds = {code: NeuronKind(name) for name, code in KIND_CODES.items()}
        return cls({(layer, kinds[kind]): Block(first, size, last + 1) for layer, kind, first, size, last in rows})

    @property
    def layers(self) -> int:
        """Number of layers."""
        return 1 + max((layer for layer, _ in self._blocks), default=-1)

    def block(self, layer: int, kind: NeuronKind) -> Block:
        """The neurons of a layer and kind.

        Raises:
            AtlasError: there are none.
        """
        block = self._blocks.get((layer, kind))
        if block is None:
            raise AtlasError(
                f"There are no {kind} neurons in layer {layer}: this catalogue has {ranges(self.sizes(layer))}."
            )
        return block

    def neuron_id(self, neuron: Neuron) -> int:
        """The stored id.

        Raises:
            AtlasError: no such neuron; the message names the ranges that exist.
        """
        check_exists(neuron, self.sizes(neuron.layer), "this catalogue")
        block = self._blocks[neuron.layer, neuron.kind]
        return block.first + neuron.row(block.width)

    def spans(self, filters: Filters) -> list[tuple[int, int]] | None:
        """First and last id of every run of neurons of the filters' kind, layers and head; None for all neurons."""
        if filters.kind is None and filters.layers is None and filters.head is None:
            return None
        low, high = filters.layers or (0, self.layers - 1)
        found: list[tuple[int, int]] = []
        for (layer, kind), block in sorted(self._blocks.items(), key=lambda item: item[1].first):
            if not low <= layer <= high or filters.kind not in (None, kind):
                continue
            first, size = block.first, block.size
            if filters.head is not None:
                first, size = first + filters.head * block.width, block.width
                if kind is NeuronKind.FFN or first + size > block.first + block.size:
                    continue
            last = first + size - 1
            if found and found[-1][1] == first - 1:
                first = found.pop()[0]
            found.append((first, last))
        return found

    def neuron(self, neuron_id: int) -> Neuron:
        """The neuron of a stored id; KeyError for an id that no neuron has."""
        for (layer, kind), block in self._blocks.items():
            if 0 <= neuron_id - block.first < block.size:
                return Neuron.in_row(layer, kind, neuron_id - block.first, block.width)
        raise KeyError(neuron_id)

    def sizes(self, layer: int = 0) -> ModelSizes:
        """What there is in a layer (in the first, where there is no such layer): layers may differ."""
        shown = layer if layer < self.layers else 0
        ffn = self._blocks.get((shown, NeuronKind.FFN), _NONE)
        attention = self._blocks.get((shown, NeuronKind.ATTENTION), _NONE)
        return ModelSizes(self.layers, attention.size // attention.width, attention.width, ffn.size)
