"""A neuron: one component of the model, named by layer and index, never by position.

>>> Neuron.parse("L28.F29")
Neuron(layer=28, kind=<NeuronKind.FFN: 'ffn'>, head=None, index=29)
>>> Neuron.parse("L21.H19.N7").label
'L21.H19.N7'
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from db.errors import AtlasError
from db.token_text import display, shorten


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


# Parts of a model that can be zeroed: whole sub-layers, heads, neurons; and how they are written.

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


# Which part of the model is looked into: a layer, its FFN, a head, a head at one source position. No torch here.

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
