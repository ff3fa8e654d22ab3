"""Which part of the model is looked into: a layer, its FFN, a head, a head at one source position. No torch here."""

import re
from dataclasses import dataclass

from db.errors import AtlasError
from db.neuron import NeuronKind

_PART = re.compile(r"L([0-9]{1,4})(?:\.(FFN)|\.H([0-9]{1,4})(?:@([0-9]{1,6}))?)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Scope:
    """A part of the model on a prompt, whose neurons are looked for.

    Attributes:
        layer: the layer; alone, both its sub-layers.
        ffn: only its FFN.
        head: only one of its heads.
        position: only what that head moved from one source position.
    """

    layer: int
    ffn: bool = False
    head: int | None = None
    position: int | None = None

    @property
    def label(self) -> str:
        """As `parse_scope` reads it: L23, L23.ffn, L23.H4, L23.H4@3."""
        if self.ffn:
            return f"L{self.layer}.ffn"
        head = "" if self.head is None else f".H{self.head}"
        return f"L{self.layer}{head}" + ("" if self.position is None else f"@{self.position}")

    @property
    def kinds(self) -> tuple[NeuronKind, ...]:
        """The kinds of neurons that it has."""
        if self.ffn:
            return (NeuronKind.FFN,)
        return (NeuronKind.FFN, NeuronKind.ATTENTION) if self.head is None else (NeuronKind.ATTENTION,)


def parse_scope(text: str) -> Scope:
    """A part from its label, such as L23.H4@3.

    Raises:
        AtlasError: it is none.
    """
    found = _PART.fullmatch(text.strip())
    if found is None:
        raise AtlasError(f"“{text[:40]}” names no part of a model. Parts are written L23, L23.ffn, L23.H4 or L23.H4@3.")
    layer, ffn, head, position = found.groups()
    return Scope(int(layer), bool(ffn), *(None if one is None else int(one) for one in (head, position)))
