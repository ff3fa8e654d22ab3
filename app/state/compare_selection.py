"""The state of the page that compares two runs: both questions, what the second does without, and where one looks."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from app.state import packing
from app.state.address import MAX_POSITION, Head, Limits, Reader, head_label
from app.state.parts import Wanted, labels, parse_list
from app.state.prompt_selection import MAX_PROMPT, MAX_TOP, PromptSelection, Rule
from db.errors import AtlasError
from db.neuron import NeuronKind

DEFAULT_TOP = 100
MAX_ZERO = 1200
"""Longest list of parts that is read, in characters."""


@dataclass(frozen=True, slots=True)
class ComparePlace:
    """Where in a comparison one is looking; changing it asks nothing new of the model."""

    layer: int | None = None
    head: Head | None = None
    """Always one of `layer`."""
    kind: NeuronKind = NeuronKind.FFN


@dataclass(frozen=True, slots=True)
class CompareSelection:
    """The page that compares: the second run against the first."""

    prompt: str = ""
    target: int | None = None
    """A token id; None is the top prediction."""
    position: int | None = None
    """From 0; None is the last token."""
    other: str = ""
    """The second prompt; empty where it is the first."""
    other_target: int | None = None
    """None is the first's target at the same place of the same prompt, else the top prediction."""
    other_position: int | None = None
    """None is the first's position in the same prompt, else the last token."""
    zero: tuple[Wanted, ...] = ()
    """What the second run does without."""
    top: int = DEFAULT_TOP
    rule: Rule = Rule.EXACT
    place: ComparePlace = field(default_factory=ComparePlace)

    @classmethod
    def of(cls, asked: PromptSelection, zero: tuple[Wanted, ...] = ()) -> "CompareSelection":
        """A question of the prompt page, with and without some parts; without parts, what to compare is still open."""
        return cls(asked.prompt, asked.target, asked.position, zero=zero, rule=asked.rule)

    @property
    def question(self) -> "CompareSelection":
        """What is asked of the model, without the place."""
        return replace(self, place=ComparePlace())

    @property
    def compares(self) -> bool:
        """Whether the second run differs from the first in anything."""
        return self.other != "" or (self.other_target, self.other_position, self.zero) != (None, None, ())

    @property
    def first(self) -> PromptSelection:
        """The first question, for the prompt page."""
        return PromptSelection(self.prompt, self.target, self.position, rule=self.rule)

    @property
    def second(self) -> PromptSelection:
        """The second question, on the whole model."""
        if self.other:
            return PromptSelection(self.other, self.other_target, self.other_position, rule=self.rule)
        position = self.position if self.other_position is None else self.other_position
        target = self.other_target
        if target is None and position == self.position:
            target = self.target
        return PromptSelection(self.prompt, target, position, rule=self.rule)

    def params(self) -> dict[str, str]:
        """The query parameters."""
        place = self.place
        found = {
            "target": _number(self.target),
            "at": _number(self.position),
            "target2": _number(self.other_target),
            "at2": _number(self.other_position),
            "zero": labels(self.zero),
            "k": "" if self.top == DEFAULT_TOP else str(self.top),
            "rule": "" if self.rule is Rule.EXACT else str(self.rule),
            "layer": "" if place.head is not None else _number(place.layer),
            "head": "" if place.head is None else head_label(place.head),
            "kind": "" if place.kind is NeuronKind.FFN else str(place.kind),
        }
        texts = packing.written("p", self.prompt) | packing.written("p2", self.other)
        return texts | {name: value for name, value in found.items() if value}

    @classmethod
    def read(cls, params: Mapping[str, str], limits: Limits) -> "tuple[CompareSelection, list[str]]":
        """The selection that the parameters stand for, and a notice for each that could not be used."""
        reader = Reader(params, "compare")
        prompt, other = reader.long_text("p", MAX_PROMPT), reader.long_text("p2", MAX_PROMPT)
        head = reader.head("head", limits)
        layer = reader.integer("layer", 0, limits.layers - 1)
        place = ComparePlace(
            layer=layer if head is None else head[0],
            head=head,
            kind=reader.choice("kind", NeuronKind) or NeuronKind.FFN,
        )
        selection = cls(
            prompt=prompt,
            target=reader.integer("target", 0, limits.vocabulary - 1),
            position=reader.integer("at", 0, MAX_POSITION),
            other="" if other == prompt else other,
            other_target=reader.integer("target2", 0, limits.vocabulary - 1),
            other_position=reader.integer("at2", 0, MAX_POSITION),
            zero=_parts(reader),
            top=reader.integer("k", 1, min(MAX_TOP, limits.top)) or min(DEFAULT_TOP, limits.top),
            rule=reader.choice("rule", Rule) or Rule.EXACT,
            place=place,
        )
        return selection, reader.notices


def _number(value: int | None) -> str:
    return "" if value is None else str(value)


def _parts(reader: Reader) -> tuple[Wanted, ...]:
    try:
        return parse_list(reader.text("zero", MAX_ZERO))
    except AtlasError as error:
        reader.notices.append(f"In the address, zero was left out: {error}")
        return ()
