"""The state of the prompt page: what is asked of the model, and where in the answer one is looking."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from app.state import address
from app.state.address import MAX_POSITION, Limits, Reader
from db.catalogue.filters import Filters
from db.catalogue.filters import Order as HitOrder
from db.errors import AtlasError
from db.neuron import Head, Neuron, NeuronAt, NeuronKind, Sign, Wanted, labels, parse_list

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
    own: NeuronAt | None = None
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
        head_says_it = self.head is not None
        found = {
            "map": "" if self.map is Map.HEADS else str(self.map),
            "layer": "" if self.layer is None or head_says_it else str(self.layer),
            "head": "" if self.head is None else self.head.label,
            "from": "" if self.source is None else str(self.source),
            "part": str(Sublayer.FFN) if self.ffn else "",
            "show": "" if self.show is Show.RAISED else str(self.show),
            "own": "" if self.own is None else self.own.label,
            "read": "" if self.read is None else self.read.label,
            "through": "" if self.through is None else self.through.label,
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
        return address.written("p", self.prompt) | asked | self.place.params()

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


# The states of the search page, the token page and the overview.

MAX_TEXT = 1000
PAGE_ROWS = 50
MAX_RANK = 10_000
MAX_Z = 1000.0
_MAX_PAGE = 100_000


class By(StrEnum):
    """What a search looks for."""

    TOKEN = "token"
    CONCEPT = "concept"


class Order(StrEnum):
    """What ranks the neurons that are found; each search has some of them."""

    Z = "z"
    RANK = "rank"
    LOGIT = "logit"
    SCORE = "score"
    MATCHED = "matched"
    NEURON = "neuron"
    SIGN = "sign"


@dataclass(frozen=True, slots=True)
class SearchSelection:
    """The search page."""

    text: str = ""
    tokens: tuple[int, ...] | None = None
    """The tokens searched for; None are all that the text stands for. Not read where the search is by concept."""
    sign: Sign | None = None
    kind: NeuronKind | None = None
    layers: tuple[int, int] | None = None
    order: "Order | HitOrder | None" = None
    """None is best first: by z for tokens, by score for a concept."""
    page: int = 1
    by: By | None = None
    """None leaves it to the text: what is one token is a token, else it is a concept."""
    added: tuple[int, ...] = ()
    """Tokens that were added to the concept, with weight 1."""
    avoided: tuple[int, ...] = ()
    """Tokens that were added to the concept to be avoided, with weight −1."""
    dropped: tuple[int, ...] = ()
    """Tokens that were taken out of the concept."""
    narrow: bool = False
    """Only the words' own tokens, without those near them."""
    head: int | None = None
    min_z: float | None = None
    max_rank: int | None = None
    reverse: bool = False
    exact: bool = False
    """Rank all neurons by the concept's direction, which needs the model."""

    @property
    def conditions(self) -> Filters:
        """What the neurons must fulfil, in no order."""
        return Filters(self.sign, self.kind, self.layers, self.head, self.min_z, self.max_rank)

    def with_tokens(self, tokens: Iterable[int]) -> "SearchSelection":
        """The search for these tokens."""
        return replace(self, tokens=tuple(tokens), page=1)

    def less(self, token: int) -> "SearchSelection":
        """The concept without a token: taken back if it was added, else left out."""
        if token in self.added or token in self.avoided:
            added, avoided = ((one for one in ids if one != token) for ids in (self.added, self.avoided))
            return replace(self, added=tuple(added), avoided=tuple(avoided), page=1)
        return replace(self, dropped=tuple(dict.fromkeys((*self.dropped, token))), page=1)

    def again(self, token: int) -> "SearchSelection":
        """The concept with a token that was left out."""
        return replace(self, dropped=tuple(one for one in self.dropped if one != token), page=1)

    def plus(self, tokens: Iterable[int], *, avoid: bool = False) -> "SearchSelection":
        """The concept with tokens added, or added to be avoided."""
        new = tuple(tokens)
        added = tuple(one for one in self.added if one not in new) + (() if avoid else new)
        avoided = tuple(one for one in self.avoided if one not in new) + (new if avoid else ())
        return replace(self, by=By.CONCEPT, tokens=None, added=added, avoided=avoided, page=1)

    def params(self) -> dict[str, str]:
        """The query parameters."""
        found = {
            "q": self.text,
            "by": self.by or "",
            "t": "" if self.tokens is None else _ids(self.tokens) or "none",
            "add": _ids(self.added),
            "avoid": _ids(self.avoided),
            "drop": _ids(self.dropped),
            "near": "0" if self.narrow else "",
            "sign": self.sign or "",
            "kind": self.kind or "",
            "layers": "" if self.layers is None else f"{self.layers[0]}-{self.layers[1]}",
            "head": "" if self.head is None else str(self.head),
            "z": "" if self.min_z is None else f"{round(self.min_z, 4):.10g}",
            "depth": "" if self.max_rank is None else str(self.max_rank),
            "order": self.order or "",
            "reverse": "1" if self.reverse else "",
            "exact": "1" if self.exact else "",
            "page": "" if self.page == 1 else str(self.page),
        }
        return {name: str(value) for name, value in found.items() if value}

    @classmethod
    def read(cls, params: Mapping[str, str], limits: Limits) -> "tuple[SearchSelection, list[str]]":
        """The selection that the parameters stand for, and a notice for each that could not be used."""
        reader = Reader(params, "search")
        kind, head = reader.choice("kind", NeuronKind), reader.integer("head", 0, limits.heads - 1)
        if kind is NeuronKind.FFN and head is not None:
            reader.notices.append(f"In the address, head={head} was left out: FFN neurons have no head.")
            head = None
        return (
            cls(
                text=reader.text("q", MAX_TEXT),
                by=reader.choice("by", By),
                tokens=reader.tokens("t", limits.vocabulary),
                added=reader.tokens("add", limits.vocabulary) or (),
                avoided=reader.tokens("avoid", limits.vocabulary) or (),
                dropped=reader.tokens("drop", limits.vocabulary) or (),
                narrow=reader.integer("near", 0, 1) == 0,
                sign=reader.choice("sign", Sign),
                kind=kind,
                layers=reader.span("layers", limits.layers),
                head=head,
                min_z=reader.number("z", 0, MAX_Z),
                max_rank=reader.integer("depth", 1, MAX_RANK),
                order=reader.choice("order", Order),
                reverse=reader.integer("reverse", 0, 1) == 1,
                exact=reader.integer("exact", 0, 1) == 1,
                page=reader.integer("page", 1, _MAX_PAGE) or 1,
            ),
            reader.notices,
        )


@dataclass(frozen=True, slots=True)
class TokenSelection:
    """The page of a token."""

    token: int | None = None
    text: str = ""
    """What was typed; read where no token is named."""

    def params(self) -> dict[str, str]:
        """The query parameters."""
        return {"t": str(self.token)} if self.token is not None else {"q": self.text} if self.text else {}

    @classmethod
    def read(cls, params: Mapping[str, str], limits: Limits) -> "tuple[TokenSelection, list[str]]":
        """The selection that the parameters stand for, and a notice for each that could not be used."""
        reader = Reader(params, "token")
        token, text = reader.integer("t", 0, limits.vocabulary - 1), reader.text("q", MAX_TEXT)
        return cls(token, text if token is None else ""), reader.notices


@dataclass(frozen=True, slots=True)
class OverviewSelection:
    """The overview of a model; the conditions are those of its list of peaked neurons."""

    sign: Sign | None = None
    kind: NeuronKind | None = None
    layers: tuple[int, int] | None = None

    @property
    def conditions(self) -> Filters:
        """What the neurons must fulfil."""
        return Filters(self.sign, self.kind, self.layers)

    def params(self) -> dict[str, str]:
        """The query parameters."""
        return SearchSelection(sign=self.sign, kind=self.kind, layers=self.layers).params()

    @classmethod
    def read(cls, params: Mapping[str, str], limits: Limits) -> "tuple[OverviewSelection, list[str]]":
        """The selection that the parameters stand for, and a notice for each that could not be used."""
        reader = Reader(params, "overview")
        return (
            cls(reader.choice("sign", Sign), reader.choice("kind", NeuronKind), reader.span("layers", limits.layers)),
            reader.notices,
        )


def _ids(tokens: tuple[int, ...]) -> str:
    return ",".join(map(str, tokens))


# The whole state of a page as one immutable value, and as the query parameters of its address.

MAX_TRIAL = 2000
MAX_MANY = 40_000
"""Longest list of prompts, in characters. How much of that an address can hold depends on how well it packs."""
_MAX_PROMPTS = 1_000_000
_ROOM = address.LONGEST_PACKED + 10


class Alike(StrEnum):
    """By what neurons are found that are like one."""

    TOKENS = "tokens"
    VALUE = "value"


@dataclass(frozen=True, slots=True)
class NeuronSelection:
    """The neuron page."""

    label: str = ""
    """As typed; whether it names a neuron is the catalogue's to say."""
    origin: PromptSelection = field(default_factory=PromptSelection)
    """The prompt from which the neuron was opened; an empty one where it was not."""
    trial: str = ""
    """A text the neuron is tried on; where there is none it is tried on the prompt it was opened from."""
    alike: Alike = Alike.TOKENS
    keys: bool = False
    """The key side is shown, even where the model has to be loaded for it."""

    def params(self) -> dict[str, str]:
        """The query parameters."""
        found = {"n": self.label, "alike": "" if self.alike is Alike.TOKENS else str(self.alike)}
        found["keys"] = "1" if self.keys else ""
        own = {name: value for name, value in found.items() if value} | address.written("try", self.trial)
        return own | (self.origin.params() if self.origin.prompt else {})

    @classmethod
    def read(cls, params: Mapping[str, str], limits: Limits) -> "tuple[NeuronSelection, list[str]]":
        """The selection that the parameters stand for, and a notice for each that could not be used."""
        reader = Reader(params, "neuron")
        label, trial = reader.text("n", 40).strip(), reader.long_text("try", MAX_TRIAL)
        alike = reader.choice("alike", Alike) or Alike.TOKENS
        keys = bool(reader.integer("keys", 0, 1))
        origin, notices = PromptSelection.read(reader.params, limits)
        origin = origin if origin.prompt else PromptSelection()
        return cls(label, origin, trial, alike, keys), reader.notices + notices


@dataclass(frozen=True, slots=True)
class ManySelection:
    """The page of many prompts."""

    text: str = ""
    """One prompt a line, its target after a tab."""
    ready: str = ""
    """The name of a ready set; it stands for the text."""
    role: str = ""
    """Which list of neurons; the page knows which there are."""
    layers: tuple[int, int] | None = None
    least: int = 1
    """Neurons that matter in fewer prompts are left out."""

    @property
    def fits(self) -> bool:
        """Whether the text can be held by an address."""
        return address.size(address.written("ps", self.text)) <= _ROOM

    def params(self) -> dict[str, str]:
        """The query parameters; a text that is too long even when packed is left out."""
        found = {
            "set": self.ready,
            "role": self.role,
            "layers": _span(self.layers),
            "least": "" if self.least == 1 else str(self.least),
        }
        others = {name: value for name, value in found.items() if value}
        return others | (address.written("ps", self.text) if self.fits else {})

    @classmethod
    def read(cls, params: Mapping[str, str], limits: Limits) -> "tuple[ManySelection, list[str]]":
        """The selection that the parameters stand for, and a notice for each that could not be used."""
        reader = Reader(params, "many")
        return (
            cls(
                text=reader.long_text("ps", MAX_MANY),
                ready=reader.text("set", 40).strip(),
                role=reader.text("role", 40).strip(),
                layers=reader.span("layers", limits.layers),
                least=reader.integer("least", 1, _MAX_PROMPTS) or 1,
            ),
            reader.notices,
        )


def _span(layers: tuple[int, int] | None) -> str:
    return "" if layers is None else f"{layers[0]}-{layers[1]}"


# The state of the page that compares two runs: both questions, what the second does without, and where one looks.

COMPARE_TOP = 100
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
    top: int = COMPARE_TOP
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
            "k": "" if self.top == COMPARE_TOP else str(self.top),
            "rule": "" if self.rule is Rule.EXACT else str(self.rule),
            "layer": "" if place.head is not None else _number(place.layer),
            "head": "" if place.head is None else place.head.label,
            "kind": "" if place.kind is NeuronKind.FFN else str(place.kind),
        }
        texts = address.written("p", self.prompt) | address.written("p2", self.other)
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
            top=reader.integer("k", 1, min(MAX_TOP, limits.top)) or min(COMPARE_TOP, limits.top),
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


# The state of the page of saved analyses.

MAX_WORDS_TEXT = 200
SAVED_ROWS = 20


@dataclass(frozen=True, slots=True)
class SavedSelection:
    """What is looked for among what was saved."""

    text: str = ""
    """Words."""
    collection: str = ""
    """The id of a collection; the page knows whether there is one."""
    tag: str = ""
    """Only notes with this tag."""
    page: int = 1

    def params(self) -> dict[str, str]:
        """The query parameters."""
        page = "" if self.page == 1 else str(self.page)
        found = {"q": self.text, "in": self.collection, "tag": self.tag, "page": page}
        return {name: value for name, value in found.items() if value}

    @classmethod
    def read(cls, params: Mapping[str, str], _limits: Limits | None = None) -> "tuple[SavedSelection, list[str]]":
        """The selection that the parameters stand for, and a notice for each that could not be used."""
        reader = Reader(params, "saved")
        return (
            cls(
                text=reader.text("q", MAX_WORDS_TEXT).strip(),
                collection=reader.text("in", 32),
                tag=reader.text("tag", 40),
                page=reader.integer("page", 1, _MAX_PAGE) or 1,
            ),
            reader.notices,
        )


@dataclass(frozen=True, slots=True)
class GallerySelection:
    """The gallery's state: it has none."""

    def params(self) -> dict[str, str]:
        """The query parameters."""
        return {}


def question_key(selection: PromptSelection) -> str:
    """What was asked, as it is looked up: all that changes a result but the number of neurons."""
    asked = (selection.prompt, selection.target, selection.position, str(selection.rule), selection.distractor)
    return json.dumps(asked, ensure_ascii=True)
