"""The state of the prompt page: what is asked of the model, and where in the answer one is looking."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from app.state import packing
from app.state.address import MAX_POSITION, Head, Limits, Reader, head_label
from db.neuron import Neuron, NeuronKind

MAX_PROMPT = 8000
MAX_TOP = 1000
DEFAULT_TOP = 300


class Rule(StrEnum):
    """The conventions of an analysis."""

    EXACT = "exact"
    NOTEBOOK = "notebook"


class Show(StrEnum):
    """Which of the three lists of neurons is shown."""

    RAISED = "raised"
    LOWERED = "lowered"
    QUERY = "query"


class Map(StrEnum):
    """Which map of layers is shown."""

    HEADS = "heads"
    LENS = "lens"


class Sublayer(StrEnum):
    """Which half of a layer is looked at, where it is not the heads."""

    FFN = "ffn"


@dataclass(frozen=True, slots=True)
class Place:
    """Where in an analysis one is looking; changing it asks nothing new of the model but what is looked at."""

    map: Map = Map.HEADS
    layer: int | None = None
    head: Head | None = None
    """Always one of `layer`."""
    source: int | None = None
    """A source position of the head."""
    ffn: bool = False
    """Only the FFN of `layer`; never with a head."""
    show: Show = Show.RAISED
    own: tuple[Neuron, int | None] | None = None
    """The value neuron whose own query neurons are shown, with its source position."""
    read: Neuron | None = None
    """The query neuron that is read through a head."""
    through: Head | None = None
    """The head; None is the strongest that comes after the neuron."""
    tables: bool = False
    """A data table beside each chart."""

    def within(
        self, layer: int | None, *, head: Head | None = None, source: int | None = None, ffn: bool = False
    ) -> "Place":
        """The same view, looking into a part of the model; None is the whole of it."""
        return replace(self, layer=layer, head=head, source=source, ffn=ffn)

    def params(self) -> dict[str, str]:
        """The query parameters."""
        own = "" if self.own is None else self.own[0].label + ("" if self.own[1] is None else f"@{self.own[1]}")
        head_says_it = self.head is not None
        found = {
            "map": "" if self.map is Map.HEADS else str(self.map),
            "layer": "" if self.layer is None or head_says_it else str(self.layer),
            "head": "" if self.head is None else head_label(self.head),
            "from": "" if self.source is None else str(self.source),
            "part": str(Sublayer.FFN) if self.ffn else "",
            "show": "" if self.show is Show.RAISED else str(self.show),
            "own": own,
            "read": "" if self.read is None else self.read.label,
            "through": "" if self.through is None else head_label(self.through),
            "tables": "1" if self.tables else "",
        }
        return {name: value for name, value in found.items() if value}

    @classmethod
    def read_from(cls, reader: Reader, limits: Limits) -> "Place":
        """The place that the parameters stand for. A source without a head, half a layer without a layer or with a
        head, or a head to read through without a neuron, means nothing and is dropped.
        """
        head = reader.head("head", limits)
        layer = reader.integer("layer", 0, limits.layers - 1)
        source = reader.integer("from", 0, MAX_POSITION)
        read = reader.neuron("read", NeuronKind.FFN)
        through = reader.head("through", limits)
        part = reader.choice("part", Sublayer)
        layer = layer if head is None else head[0]
        return cls(
            map=reader.choice("map", Map) or Map.HEADS,
            layer=layer,
            head=head,
            source=None if head is None else source,
            ffn=part is Sublayer.FFN and head is None and layer is not None,
            show=reader.choice("show", Show) or Show.RAISED,
            own=reader.place("own"),
            read=read,
            through=None if read is None else through,
            tables=bool(reader.integer("tables", 0, 1)),
        )


@dataclass(frozen=True, slots=True)
class PromptSelection:
    """The prompt page."""

    prompt: str = ""
    target: int | None = None
    """A token id; None is the top prediction."""
    position: int | None = None
    """From 0; None is the last token."""
    top: int = DEFAULT_TOP
    rule: Rule = Rule.EXACT
    distractor: int | None = None
    """A token id that the target is held against; None for none."""
    place: Place = field(default_factory=Place)

    @property
    def question(self) -> "PromptSelection":
        """What is asked of the model, without the place: what an analysis depends on."""
        return PromptSelection(self.prompt, self.target, self.position, self.top, self.rule, self.distractor)

    def params(self) -> dict[str, str]:
        """The query parameters."""
        found = {
            "target": "" if self.target is None else str(self.target),
            "not": "" if self.distractor is None else str(self.distractor),
            "at": "" if self.position is None else str(self.position),
            "k": "" if self.top == DEFAULT_TOP else str(self.top),
            "rule": "" if self.rule is Rule.EXACT else str(self.rule),
        }
        asked = {name: value for name, value in found.items() if value}
        return packing.written("p", self.prompt) | asked | self.place.params()

    @classmethod
    def read(cls, params: Mapping[str, str], limits: Limits) -> "tuple[PromptSelection, list[str]]":
        """The selection that the parameters stand for, and a notice for each that could not be used."""
        reader = Reader(params, "prompt")
        return (
            cls(
                prompt=reader.long_text("p", MAX_PROMPT),
                target=reader.integer("target", 0, limits.vocabulary - 1),
                position=reader.integer("at", 0, MAX_POSITION),
                top=reader.integer("k", 1, min(MAX_TOP, limits.top)) or min(DEFAULT_TOP, limits.top),
                rule=reader.choice("rule", Rule) or Rule.EXACT,
                distractor=reader.integer("not", 0, limits.vocabulary - 1),
                place=Place.read_from(reader, limits),
            ),
            reader.notices,
        )
