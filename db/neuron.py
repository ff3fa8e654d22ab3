"""A neuron: one component of the model, named by layer and index, never by position.

>>> Neuron.parse("L28.F29")
Neuron(layer=28, kind=<NeuronKind.FFN: 'ffn'>, head=None, index=29)
>>> Neuron.parse("L21.H19.N7").label
'L21.H19.N7'
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from db.errors import AtlasError


class NeuronKind(StrEnum):
    """Which output matrix holds the neuron's value vector."""

    FFN = "ffn"
    ATTENTION = "attention"


class Sign(StrEnum):
    """Which end of a neuron's logits a token stands at: the highest (promotes) or the lowest (suppresses)."""

    PROMOTES = "promotes"
    SUPPRESSES = "suppresses"


_LABEL = re.compile(r"L(\d{1,4})\.(?:F(\d{1,7})|H(\d{1,4})\.N(\d{1,5}))", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Neuron:
    """An FFN neuron (layer, index) or an attention neuron (layer, head, dimension within the head)."""

    layer: int
    kind: NeuronKind
    head: int | None
    index: int

    @classmethod
    def ffn(cls, layer: int, index: int) -> Self:
        """The FFN neuron of a layer and index."""
        return cls(layer, NeuronKind.FFN, None, index)

    @classmethod
    def attention(cls, layer: int, head: int, index: int) -> Self:
        """The attention neuron of a layer, head and dimension within the head."""
        return cls(layer, NeuronKind.ATTENTION, head, index)

    @classmethod
    def parse(cls, label: str) -> Self:
        """Read a label such as ``L28.F29`` or ``L21.H19.N7`` (case and outer spaces do not matter).

        Raises:
            AtlasError: the text is not a neuron label.
        """
        match = _LABEL.fullmatch(label.strip())
        if match is None:
            raise AtlasError(
                f"“{label[:60]}” is not a neuron label. FFN neurons are written L28.F29 (layer, index), "
                "attention neurons L21.H19.N7 (layer, head, dimension)."
            )
        layer, ffn_index, head, index = (None if part is None else int(part) for part in match.groups())
        assert layer is not None
        if ffn_index is not None:
            return cls.ffn(layer, ffn_index)
        assert head is not None
        assert index is not None
        return cls.attention(layer, head, index)

    @property
    def label(self) -> str:
        """The one way a neuron is written, such as ``L28.F29``; :meth:`parse` reads it back."""
        if self.kind is NeuronKind.FFN:
            return f"L{self.layer}.F{self.index}"
        return f"L{self.layer}.H{self.head}.N{self.index}"

    def __str__(self) -> str:
        return self.label
