"""Parts of a model that can be zeroed: whole sub-layers, heads, neurons; and how they are written.

``L23.attention`` and ``L23.ffn`` are sub-layers, ``L23.H4`` is a head, ``L29.F864`` and ``L29.H1.N46`` are neurons.
``ffn:10`` and ``attention:10`` stand for the ten value neurons of that kind which raise the target most. Pure.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from db.errors import AtlasError
from db.neuron import Neuron, NeuronKind
from db.token_text import display, shorten

MAX_PARTS = 64
"""How many parts may be named; more neurons are asked for as ``ffn:200``."""
MAX_STRONGEST = 1000

_SUB_LAYER = re.compile(r"L(\d{1,4})\.(attention|attn|ffn)", re.IGNORECASE)
_HEAD = re.compile(r"L(\d{1,4})\.H(\d{1,4})", re.IGNORECASE)
_STRONGEST = re.compile(r"(attention|ffn):(\d{1,4})", re.IGNORECASE)
_FORMS = "L23.attention, L23.ffn, L23.H4, L29.F864, L29.H1.N46, or ffn:10 for the ten strongest FFN neurons"


@dataclass(frozen=True, slots=True)
class Part:
    """A sub-layer (neither head nor index), a head (no index) or a neuron.

    >>> Part.parse("l23.h4"), Part.parse("L29.F864").label
    (Part(layer=23, kind=<NeuronKind.ATTENTION: 'attention'>, head=4, index=None), 'L29.F864')
    """

    layer: int
    kind: NeuronKind
    head: int | None = None
    index: int | None = None

    @classmethod
    def of(cls, neuron: Neuron) -> Self:
        """A neuron as a part."""
        return cls(neuron.layer, neuron.kind, neuron.head, neuron.index)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a label; case and outer spaces do not matter.

        Raises:
            AtlasError: it is none.
        """
        bare = text.strip()
        if found := _SUB_LAYER.fullmatch(bare):
            return cls(int(found[1]), NeuronKind.FFN if found[2].lower() == "ffn" else NeuronKind.ATTENTION)
        if found := _HEAD.fullmatch(bare):
            return cls(int(found[1]), NeuronKind.ATTENTION, int(found[2]))
        try:
            return cls.of(Neuron.parse(bare))
        except AtlasError:
            raise AtlasError(f"“{_shown(bare)}” names no part of a model. Parts are written {_FORMS}.") from None

    @property
    def neuron(self) -> Neuron | None:
        """The neuron, where it is one."""
        return None if self.index is None else Neuron(self.layer, self.kind, self.head, self.index)

    @property
    def label(self) -> str:
        """The one way a part is written; :meth:`parse` reads it back."""
        if self.neuron is not None:
            return self.neuron.label
        return f"L{self.layer}.{self.kind}" if self.head is None else f"L{self.layer}.H{self.head}"

    @property
    def words(self) -> str:
        """What it is, for a sentence: “head L23.H4”."""
        if self.neuron is not None:
            return f"neuron {self.label}"
        return (
            f"the {'FFN' if self.kind is NeuronKind.FFN else 'attention'} of layer {self.layer}"
            if (self.head is None)
            else f"head {self.label}"
        )


@dataclass(frozen=True, slots=True)
class Strongest:
    """The value neurons of a kind that raise the target most, as many as `count`."""

    kind: NeuronKind
    count: int

    @property
    def label(self) -> str:
        """As it is written: ``ffn:10``."""
        return f"{self.kind}:{self.count}"

    @property
    def words(self) -> str:
        """What it is, for a sentence."""
        name = "FFN" if self.kind is NeuronKind.FFN else "attention"
        return f"its strongest {name} neuron" if self.count == 1 else f"its {self.count} strongest {name} neurons"


Wanted = Part | Strongest
"""What may be asked to be zeroed."""


def parse_wanted(text: str) -> Wanted:
    """One part, or the strongest of a kind.

    Raises:
        AtlasError: it is neither.
    """
    found = _STRONGEST.fullmatch(text.strip())
    if found is None:
        return Part.parse(text)
    count = int(found[2])
    if not 1 <= count <= MAX_STRONGEST:
        raise AtlasError(f"“{_shown(text)}” asks for {count} neurons; from 1 to {MAX_STRONGEST} can be zeroed.")
    return Strongest(NeuronKind(found[1].lower()), count)


def parse_list(text: str) -> tuple[Wanted, ...]:
    """Several, with commas or spaces between; each once.

    Raises:
        AtlasError: one of them is none, or there are too many.
    """
    words = text.replace(",", " ").split()
    if len(words) > MAX_PARTS:
        raise AtlasError(f"{len(words)} parts are named; at most {MAX_PARTS} can be zeroed at once.")
    return tuple(dict.fromkeys(parse_wanted(word) for word in words))


def labels(parts: Sequence[Wanted]) -> str:
    """As :func:`parse_list` reads them back."""
    return ",".join(part.label for part in parts)


def _shown(text: str) -> str:
    return shorten(display(text.strip().encode("utf-8", "replace")), 40)
