"""Neurons, heads and other parts of a model: one grammar for their labels, and one check that a model has them.

    L23             layer                        L23.H4          head
    L23.attention   its attention                L23.H4@3        what the head moved from source position 3
    L23.ffn         its FFN                      L21.H19.N7      attention neuron: layer, head, dimension in the head
    L28.F29         FFN neuron: layer, index     L21.H19.N7@4    the same at source position 4
    L5.E12          expert of a layer            L5.E12.F88      FFN neuron of that expert

In a layer with experts, L5.F88 is a neuron of the shared expert.

Case and outer spaces do not matter. A neuron is named by layer and index, never by its place in an array.

>>> Neuron.parse("L28.F29")
Neuron(layer=28, kind=<NeuronKind.FFN: 'ffn'>, head=None, index=29)
>>> Head.parse("l23.h4"), Part.parse("L23.H4@3").label, NeuronAt.parse("L21.H19.N7@4").position
(Head(layer=23, head=4), 'L23.H4@3', 4)
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol, Self

from db.errors import AtlasError, NotFoundError
from db.token_text import SEPARATORS, display, shorten


class NeuronKind(StrEnum):
    """Which output matrix holds the neuron's value vector."""

    FFN = "ffn"
    ATTENTION = "attention"

    @property
    def words(self) -> str:
        """As it is written in a sentence."""
        return "FFN" if self is NeuronKind.FFN else "attention"


class Sign(StrEnum):
    """Which end of a neuron's logits a token stands at: the highest (promotes) or the lowest (suppresses)."""

    PROMOTES = "promotes"
    SUPPRESSES = "suppresses"

    @classmethod
    def of(cls, value: float) -> "Sign":
        """The end whose tokens a neuron raises that is active by so much; a stored code is such a value, too."""
        return cls.PROMOTES if value > 0 else cls.SUPPRESSES

    @property
    def other(self) -> "Sign":
        """The opposite end."""
        return Sign.SUPPRESSES if self is Sign.PROMOTES else Sign.PROMOTES


_LAYER = _HEAD = _EXPERT = "[0-9]{1,4}"
_INDEX, _DIMENSION = "[0-9]{1,7}", "[0-9]{1,5}"
_PART = re.compile(
    rf"L({_LAYER})"
    rf"(?:\.(?:(ffn)|F({_INDEX})|E({_EXPERT})(?:\.F({_INDEX}))?|(attention|attn)"
    rf"|H({_HEAD})(?:\.N({_DIMENSION}))?(?:@([0-9]{{1,6}}))?))?",
    re.IGNORECASE,
)
NEURON_PATTERN = rf"^[Ll]{_LAYER}\.(([Ee]{_EXPERT}\.)?[Ff]{_INDEX}|[Hh]{_HEAD}\.[Nn]{_DIMENSION})$"
"""A neuron's label, as a regular expression that JSON schemas understand as well."""
_STRONGEST = re.compile(r"(attention|ffn):([0-9]{1,4})", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a model: a layer, a sub-layer, a head, an expert or a neuron.

    Attributes:
        layer: from 0.
        kind: None for a whole layer.
        head: of a head or an attention neuron.
        index: of a neuron: FFN index, or dimension within the head.
        position: only what the head, or the attention neuron, moved from one source position.
        expert: of an expert or one of its neurons; the index is then the one within it.
    """

    layer: int
    kind: NeuronKind | None = None
    head: int | None = None
    index: int | None = None
    position: int | None = None
    expert: int | None = None

    @classmethod
    def of(cls, one: "Neuron | Head | Part") -> "Part":
        """A neuron or a head as a part."""
        if isinstance(one, Part):
            return one
        if isinstance(one, Head):
            return Part(one.layer, NeuronKind.ATTENTION, one.head)
        return Part(one.layer, one.kind, one.head, one.index, expert=one.expert)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read any label of the grammar above.

        Raises:
            AtlasError: it is none.
        """
        found = _PART.fullmatch(text.strip())
        if found is None:
            raise AtlasError(
                f"“{_shown(text)}” names no part of a model. Parts are written L23, L23.ffn, L23.H4, L23.H4@3, "
                "L29.F864 or L29.H1.N46."
            )
        layer, ffn, index, expert, own, attention, head, dimension, position = found.groups()
        kind = NeuronKind.FFN if ffn or index or expert else NeuronKind.ATTENTION if attention or head else None
        return cls(int(layer), kind, *map(_number, (head, index or own or dimension, position, expert)))

    @property
    def neuron(self) -> "Neuron | None":
        """The neuron, where it is one."""
        if self.index is None or self.kind is None:
            return None
        return Neuron(self.layer, self.kind, self.head, self.index, self.expert)

    @property
    def whole(self) -> bool:
        """Whether it is all of a sub-layer, or of a layer."""
        return self.head is None and self.index is None and self.expert is None

    @property
    def kinds(self) -> tuple[NeuronKind, ...]:
        """The kinds of neurons that it has."""
        return tuple(NeuronKind) if self.kind is None else (self.kind,)

    @property
    def label(self) -> str:
        """The one way a part is written; :meth:`parse` reads it back."""
        label = f"L{self.layer}"
        if self.head is not None:
            label += f".H{self.head}"
        if self.expert is not None:
            label += f".E{self.expert}"
        if self.index is not None:
            label += f".F{self.index}" if self.kind is NeuronKind.FFN else f".N{self.index}"
        elif self.kind is not None and self.whole:
            label += f".{self.kind}"
        return label if self.position is None else f"{label}@{self.position}"

    @property
    def words(self) -> str:
        """What it is, for a sentence: “head L23.H4”, “the FFN of layer 3”."""
        if self.index is not None:
            return f"neuron {self.label}"
        if self.head is not None:
            return f"head {self.label}"
        if self.expert is not None:
            return f"expert {self.label}"
        layer = f"layer {self.layer}"
        return layer if self.kind is None else f"the {self.kind.words} of {layer}"


@dataclass(frozen=True, slots=True)
class Neuron:
    """An FFN neuron (layer, index), one of an expert (layer, expert, index within it), or an attention neuron (layer,
    head, dimension within the head).
    """

    layer: int
    kind: NeuronKind
    head: int | None
    index: int
    expert: int | None = None

    @classmethod
    def ffn(cls, layer: int, index: int, expert: int | None = None) -> Self:
        """The FFN neuron of a layer and index, of an expert where there is one."""
        return cls(layer, NeuronKind.FFN, None, index, expert)

    @classmethod
    def attention(cls, layer: int, head: int, index: int) -> Self:
        """The attention neuron of a layer, head and dimension within the head."""
        return cls(layer, NeuronKind.ATTENTION, head, index)

    @classmethod
    def in_row(cls, layer: int, kind: NeuronKind, row: int, sizes: "Sizes") -> Self:
        """The neuron whose value vector stands in a row of its layer's matrix; see :meth:`row`."""
        if kind is NeuronKind.ATTENTION:
            return cls.attention(layer, *divmod(row, sizes.head_dim))
        experts = sizes.experts
        if experts is None or row < experts.alone(layer):
            return cls.ffn(layer, row)
        expert, index = divmod(row - experts.shared, experts.width)
        return cls.ffn(layer, index, expert)

    @classmethod
    def parse(cls, label: str) -> Self:
        """Read a label such as ``L28.F29`` or ``L21.H19.N7``.

        Raises:
            AtlasError: the text is not a neuron label.
        """
        part = _parsed(label)
        if part is None or part.index is None or part.kind is None or part.position is not None:
            raise AtlasError(
                f"“{_shown(label, 60)}” is not a neuron label. FFN neurons are written L28.F29 (layer, index), "
                "attention neurons L21.H19.N7 (layer, head, dimension)."
            )
        return cls(part.layer, part.kind, part.head, part.index, part.expert)

    @property
    def label(self) -> str:
        """The one way a neuron is written, such as ``L28.F29``; :meth:`parse` reads it back."""
        if self.expert is not None:
            return f"L{self.layer}.E{self.expert}.F{self.index}"
        if self.kind is NeuronKind.FFN:
            return f"L{self.layer}.F{self.index}"
        return f"L{self.layer}.H{self.head}.N{self.index}"

    def row(self, sizes: "Sizes") -> int:
        """Row of the value vector among those of its layer and kind: heads in order, their dimensions in order; the
        shared expert, then the others in order.
        """
        if self.head is not None:
            return self.head * sizes.head_dim + self.index
        if self.expert is not None and sizes.experts is not None:
            return sizes.experts.first(self.expert) + self.index
        return self.index

    def __str__(self) -> str:
        return self.label


class Head(NamedTuple):
    """An attention head."""

    layer: int
    head: int

    @classmethod
    def parse(cls, text: str) -> "Head":
        """Read a label such as ``L23.H4``.

        Raises:
            AtlasError: it is none.
        """
        part = _parsed(text)
        if part is None or part.head is None or part.index is not None or part.position is not None:
            raise AtlasError(f"“{_shown(text)}” is not a head label. Heads are written L23.H4 (layer, head).")
        return cls(part.layer, part.head)

    @property
    def label(self) -> str:
        """As :meth:`parse` reads it."""
        return f"L{self.layer}.H{self.head}"


class NeuronAt(NamedTuple):
    """A neuron on a prompt; an attention neuron possibly at one source position, None leaving it open."""

    neuron: Neuron
    position: int | None = None

    @classmethod
    def parse(cls, text: str) -> "NeuronAt":
        """Read a label such as ``L29.F864``, ``L29.H1.N46`` or ``L29.H1.N46@4``.

        Raises:
            AtlasError: it is none.
        """
        part = _parsed(text)
        if part is None and "@" in text:
            raise AtlasError(
                f"“{_shown(text)}” names no source position. An attention neuron at one is written L29.H1.N46@4."
            )
        if part is None or part.neuron is None:
            return cls(Neuron.parse(text))
        return cls(part.neuron, part.position)

    @property
    def label(self) -> str:
        """As :meth:`parse` reads it."""
        return self.neuron.label if self.position is None else f"{self.neuron.label}@{self.position}"


def _parsed(text: str) -> Part | None:
    try:
        return Part.parse(text)
    except AtlasError:
        return None


def _number(digits: str | None) -> int | None:
    return None if digits is None else int(digits)


def _shown(text: str, longest: int = 40) -> str:
    return shorten(display(text.strip().encode("utf-8", "replace")), longest)


# What a model has.


@dataclass(frozen=True, slots=True)
class Experts:
    """How the FFN neurons of a mixture of experts lie in their layers: the shared expert's, then expert by expert.

    Attributes:
        count: experts of a layer that has some, but for the shared one.
        width: neurons of each.
        shared: neurons of the shared expert; 0 where there is none.
        dense: neurons of a layer without experts.
        layers: those with experts, ascending.
    """

    count: int
    width: int
    shared: int
    dense: int
    layers: tuple[int, ...]

    def alone(self, layer: int) -> int:
        """The neurons of a layer that belong to no expert, or to the shared one."""
        return self.shared if layer in self.layers else self.dense

    def first(self, expert: int) -> int:
        """The row of an expert's first neuron among those of its layer."""
        return self.shared + expert * self.width

    def neurons(self, layer: int) -> int:
        """All FFN neurons of a layer."""
        return self.first(self.count) if layer in self.layers else self.dense


class Sizes(Protocol):
    """How many layers, heads and neurons a model has: a checkpoint's dimensions, or a catalogue's stamp."""

    @property
    def layers(self) -> int:
        """Layers."""

    @property
    def heads(self) -> int:
        """Heads of a layer."""

    @property
    def head_dim(self) -> int:
        """Attention neurons of a head."""

    @property
    def ffn_width(self) -> int:
        """FFN neurons of a layer; where layers differ, of the widest."""

    @property
    def experts(self) -> Experts | None:
        """How the layers differ in a mixture of experts."""


def check_exists(one: Neuron | Head | Part, sizes: Sizes, owner: str = "the model") -> None:
    """Refuse a neuron, head or other part that a model does not have. Source positions are not looked at.

    Raises:
        NotFoundError: naming the ranges that exist.
    """
    part, experts, width = Part.of(one), sizes.experts, width_of(Part.of(one), sizes)
    has_expert = part.expert is None or (
        experts is not None and part.layer in experts.layers and 0 <= part.expert < experts.count
    )
    has_layer = 0 <= part.layer < sizes.layers
    has_head = part.head is None or 0 <= part.head < sizes.heads
    if not (has_layer and has_head and has_expert and (part.index is None or 0 <= part.index < width)):
        missing = f"layer {part.layer}" if part.whole else part.words
        raise NotFoundError(f"There is no {missing}: {owner} has {ranges(sizes)}.")


def width_of(part: Part, sizes: Sizes) -> int:
    """How many neurons of the part's kind stand side by side there: in its head, its expert or its layer."""
    if part.kind is not NeuronKind.FFN:
        return sizes.head_dim
    if sizes.experts is None:
        return sizes.ffn_width
    return sizes.experts.alone(part.layer) if part.expert is None else sizes.experts.width


def ranges(sizes: Sizes) -> str:
    """Which labels exist, for a sentence.

    >>> ranges(ModelSizes(layers=30, heads=9, head_dim=64, ffn_width=1536))
    'layers 0–29, FFN neurons 0–1535, heads 0–8 with dimensions 0–63'
    """
    ffn = [f"FFN neurons 0–{sizes.ffn_width - 1}"] if sizes.ffn_width else []
    if sizes.experts is not None:
        ffn = list(_expert_ranges(sizes.experts, sizes.layers))
    heads = [f"heads 0–{sizes.heads - 1} with dimensions 0–{sizes.head_dim - 1}"] if sizes.heads else []
    return ", ".join([f"layers 0–{sizes.layers - 1}", *ffn, *heads])


def _expert_ranges(experts: Experts, layers: int) -> Iterator[str]:
    some = f"in layer{'s' * (len(experts.layers) > 1)} {', '.join(map(str, experts.layers))} "
    where = "" if len(experts.layers) == layers else some
    yield f"{where}experts 0–{experts.count - 1} with FFN neurons 0–{experts.width - 1}"
    if experts.shared:
        yield f"FFN neurons 0–{experts.shared - 1} of the shared expert"
    if where:
        yield f"in the other layers FFN neurons 0–{experts.dense - 1}"


class ModelSizes(NamedTuple):
    """Sizes, where nothing else holds them."""

    layers: int
    heads: int
    head_dim: int
    ffn_width: int
    experts: Experts | None = None


# What a model may be run without, or with more or less of.

MAX_PARTS = 64
"""How many parts may be named; more neurons are asked for as ``ffn:200``."""
MAX_STRONGEST = 1000


@dataclass(frozen=True, slots=True)
class Strongest:
    """The `count` value neurons of a kind that raise the target most."""

    kind: NeuronKind
    count: int

    @property
    def label(self) -> str:
        """As it is written: ``ffn:10``."""
        return f"{self.kind}:{self.count}"

    @property
    def words(self) -> str:
        """What it is, for a sentence."""
        name = self.kind.words
        return f"its strongest {name} neuron" if self.count == 1 else f"its {self.count} strongest {name} neurons"


Wanted = Part | Strongest
"""What may be asked to be zeroed: a sub-layer, a head, a neuron, or the strongest of a kind."""


def parse_wanted(text: str) -> Wanted:
    """One part, or the strongest of a kind.

    Raises:
        AtlasError: it is neither.
    """
    found = _STRONGEST.fullmatch(text.strip())
    if found is None:
        part = _parsed(text)
        if part is None or part.kind is None or part.position is not None:
            raise AtlasError(
                f"“{_shown(text)}” names no part of a model that can be zeroed. Parts are written L23.attention, "
                "L23.ffn, L23.H4, L29.F864, L29.H1.N46, or ffn:10 for the ten strongest FFN neurons."
            )
        return part
    count = int(found[2])
    if not 1 <= count <= MAX_STRONGEST:
        raise AtlasError(f"“{_shown(text)}” asks for {count} neurons; from 1 to {MAX_STRONGEST} can be zeroed.")
    return Strongest(NeuronKind(found[1].lower()), count)


def parse_list(text: str) -> tuple[Wanted, ...]:
    """What is to be zeroed, with commas, semicolons or spaces between; each once.

    Raises:
        AtlasError: one of them is none, or there are too many.
    """
    words = [word for word in SEPARATORS.split(text) if word]
    if len(words) > MAX_PARTS:
        raise AtlasError(f"{len(words)} parts are named; at most {MAX_PARTS} can be zeroed at once.")
    return tuple(dict.fromkeys(parse_wanted(word) for word in words))


def labels(parts: "Sequence[Wanted | Intervention]") -> str:
    """As :func:`parse_list` and :func:`parse_interventions` read them back."""
    return ",".join(part.label for part in parts)


# Interventions: a part, and how much of it is left.
#
#     L29.F864=4       four times as much; so too of a head (L23.H4=0.5), a sub-layer, the strongest neurons (ffn:10=2)
#     L29.F864:=2.5    the neuron's activation is 2.5, whatever the text
#     L23.H4           zeroed, as L23.H4=0

MAX_AMOUNT = 1e6
_CHANGE = re.compile(r"(.+?)(?:(:?=)(.*))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Intervention:
    """What is done to a part at every position: its activations are multiplied or, of neurons alone, set.

    Attributes:
        part: which; a sub-layer's output bias is multiplied too.
        amount: the factor, or the value.
        clamped: it is the value.
    """

    part: Wanted
    amount: float = 0.0
    clamped: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read one, as above.

        Raises:
            AtlasError: it names no part or no number, or a value for what has no single activation.
        """
        found = _CHANGE.fullmatch(text.strip())
        name, sign, number = found.groups() if found else (text, None, None)
        part, clamped = parse_wanted(name), sign == ":="
        amount = 0.0 if sign is None else _amount(number or "", name, clamped)
        if clamped and isinstance(part, Part) and part.neuron is None:
            raise AtlasError(
                f"{part.words[0].upper()}{part.words[1:]} has many activations, so it cannot be clamped to one value. "
                f"Scale it, as {part.label}=2, or clamp a neuron, as L29.F864:=2.5."
            )
        return cls(part, amount, clamped)

    @property
    def label(self) -> str:
        """The one way it is written; :meth:`parse` reads it back."""
        return f"{self.part.label}{':=' if self.clamped else '='}{self.amount:.6g}"

    @property
    def words(self) -> str:
        """What it is, for a sentence: “head L23.H4 zeroed”, “neuron L29.F864 scaled by 4”."""
        number = f"{self.amount:.6g}".replace("-", "−")
        if self.clamped:
            return f"{self.part.words} clamped to {number}"
        return f"{self.part.words} {f'scaled by {number}' if self.amount else 'zeroed'}"


def _amount(text: str, part: str, clamped: bool) -> float:
    try:
        number = float(f"{float(text):.6g}")  # as it is written again
    except ValueError:
        number = float("nan")
    if not abs(number) <= MAX_AMOUNT:
        what, example = ("value", ":=2.5") if clamped else ("factor", "=4")
        raise AtlasError(
            f"“{_shown(text)}” is no {what} for {_shown(part)}. It takes a number from -{MAX_AMOUNT:,.0f} to "
            f"{MAX_AMOUNT:,.0f}, as in L29.F864{example}."
        )
    return number + 0.0  # no -0


def parse_interventions(text: str) -> tuple[Intervention, ...]:
    """Several, with commas, semicolons or spaces between.

    Raises:
        AtlasError: one of them is none, a part is named twice, or there are too many.
    """
    joined = re.sub(r"\s*(:?=)\s*", r"\1", text)
    found = [Intervention.parse(word) for word in SEPARATORS.split(joined) if word]
    if len(found) > MAX_PARTS:
        raise AtlasError(f"{len(found)} parts are named; at most {MAX_PARTS} can be changed at once.")
    parts = [one.part for one in found]
    for part in parts:
        if parts.count(part) > 1:
            raise AtlasError(f"{part.label} is named {parts.count(part)} times. Name it once.")
    return tuple(found)
