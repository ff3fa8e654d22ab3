"""The state of each page: one immutable value, whose fields are the query parameters of its address."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Self

from app.attribution.prompt import Method
from app.state.address import (
    LONGEST_PACKED,
    MAX_POSITION,
    Choice,
    Choices,
    FfnLabel,
    Flag,
    HeadLabel,
    Integer,
    Interventions,
    LongText,
    Mark,
    NeuronAtLabel,
    Number,
    Of,
    Parts,
    Reader,
    Selection,
    Span,
    State,
    Text,
    Tokens,
    long_text,
    nested,
    parameter,
    size,
)
from db.groups import GroupedBy, MapShade
from db.neuron import Head, Intervention, Neuron, NeuronAt, NeuronKind, Sign, Wanted
from db.questions import Filters, Order

MAX_PROMPT = 8000
MAX_TOP = 1000
DEFAULT_TOP = 300
MAX_TEXT = 1000
MAX_TRIAL = 2000
MAX_MANY = 40_000
"""Longest list of prompts, in characters. How much of that an address can hold depends on how well it packs."""
MAX_RANK = 10_000
MAX_Z = 1000.0
COMPARE_TOP = 100
MAX_ZERO = 1200
"""Longest list of parts that is read, in characters."""
MAX_CONTINUED = 100
"""Most tokens that a page writes after a prompt."""
MAX_TEMPERATURE = 5.0
PAGE_ROWS = 50
SAVED_ROWS = 20

TOKEN = Integer(0, lambda limits: limits.vocabulary - 1, Of.TOKENIZER)
LAYER = Integer(0, lambda limits: limits.layers - 1, Of.SHAPE)
HEAD_NUMBER = Integer(0, lambda limits: limits.heads - 1, Of.SHAPE)
EXPERT_NUMBER = Integer(0, lambda limits: limits.experts - 1, Of.SHAPE)
POSITION = Integer(0, MAX_POSITION, Of.TOKENIZER)
TOP = Integer(1, lambda limits: min(MAX_TOP, limits.top))
PAGE = Integer(1, 100_000)


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


class ListOrder(StrEnum):
    """What orders a list of neurons; the list itself has the strongest first."""

    SCORE = "score"
    EFFECT = "effect"
    ACTIVATION = "activation"
    LAYER = "layer"
    SOURCE = "source"
    PROMPTS = "prompts"
    DIFFERENCE = "difference"
    CHANCE = "p"


MAX_HAVING = 60


class Section(StrEnum):
    """What of the prompt page can be folded away."""

    FLOW = "flow"
    LAYERS = "layers"
    MAP = "map"
    MEASURED = "measured"
    COUNTS = "counts"
    EVERY = "every"
    OVERLAP = "overlap"
    DATA = "data"
    SURE = "sure"
    SETTINGS = "settings"


@dataclass(frozen=True, slots=True)
class Place(State):
    """Where in an analysis one is looking; changing it asks nothing new of the model but what is looked at."""

    map: Map = parameter("map", Choice(Map), Map.HEADS)
    layer: int | None = parameter("layer", LAYER)
    head: Head | None = parameter("head", HeadLabel())
    """Always one of `layer`."""
    source: int | None = parameter("from", POSITION)
    """A source position of the head."""
    ffn: bool = parameter("part", Mark("ffn"), False)
    """Only the FFN of `layer`; never with a head."""
    show: Show = parameter("show", Choice(Show), Show.RAISED)
    own: NeuronAt | None = parameter("own", NeuronAtLabel())
    """The value neuron whose own query neurons are shown, with its source position."""
    read: Neuron | None = parameter("read", FfnLabel())
    """The query neuron that is read through a head."""
    through: Head | None = parameter("through", HeadLabel())
    """The head; None is the strongest that comes after the neuron."""
    tables: bool = parameter("tables", Flag(), False)
    """A data table beside each chart."""
    open: tuple[Section, ...] = parameter("open", Choices(Section), (Section.FLOW, Section.LAYERS))
    """The sections that are open, in their order; see `shows`."""
    order: ListOrder | None = parameter("sort", Choice(ListOrder))
    """Of the lists of neurons; None has the strongest first, as measured where that is known."""
    reverse: bool = parameter("reverse", Flag(), False)
    having: str = parameter("has", Text(MAX_HAVING), "")
    """Only neurons with this label, layer or token."""
    effects: bool = parameter("effects", Flag(), False)
    """Layers and heads by their measured effect instead of their score."""

    def shows(self, section: Section) -> bool:
        """Whether a section is open. The map is where it shows the lens, as links did before there were sections."""
        return section in self.open or (section is Section.MAP and self.map is Map.LENS)

    def turned(self, section: Section, on: bool) -> "Place":
        """The same view with a section opened or closed."""
        shown = tuple(one for one in Section if (on if one is section else one in self.open))
        return replace(self, open=shown, map=Map.HEADS if section is Section.MAP and not on else self.map)

    def at_start(self) -> "Place":
        """The whole of another prompt or position, with the same parts of the page open."""
        return Place(tables=self.tables, open=self.open, effects=self.effects)

    def within(
        self, layer: int | None, *, head: Head | None = None, source: int | None = None, ffn: bool = False
    ) -> "Place":
        """The same view, looking into a part of the model; None is the whole of it."""
        return replace(self, layer=layer, head=head, source=source, ffn=ffn)

    def normalised(self, reader: Reader) -> Self:
        """A source without a head, half a layer without a layer or with a head, and a head to read through without a
        neuron mean nothing.
        """
        head, read = self.head, self.read
        return replace(
            self,
            layer=self.layer if head is None else head.layer,
            source=None if head is None else self.source,
            ffn=self.ffn and head is None and self.layer is not None,
            through=None if read is None else self.through,
        )

    def implied(self) -> tuple[str, ...]:
        """A head says which layer it is of."""
        return () if self.head is None else ("layer",)


@dataclass(frozen=True, slots=True)
class AboutPrompt(Selection):
    """What every page about a prompt asks; a comparison, in its first run."""

    prompt: str = parameter("p", LongText(MAX_PROMPT), "")
    target: int | None = parameter("target", TOKEN)
    """A token id; None is the top prediction."""
    position: int | None = parameter("at", POSITION)
    """From 0; None is the last token."""
    bare: bool = parameter("bos", Flag(on=0), False)
    """Without what the tokenizer puts before a text."""
    chat: bool = parameter("chat", Flag(), False)
    """As a user's message, in the model's chat template; it says itself what stands before, so never `bare`."""

    def without_bos(self, reader: Reader) -> bool:
        """`bare`; of a chat, nothing is left out."""
        if self.bare and self.chat:
            reader.refuse("bos", "the chat template says what stands before a message")
        return self.bare and not self.chat


@dataclass(frozen=True, slots=True)
class PromptSelection(AboutPrompt):
    """The prompt page."""

    page_name = "prompt"
    top: int = parameter("k", TOP, DEFAULT_TOP)
    rule: Rule = parameter("rule", Choice(Rule), Rule.EXACT)
    distractor: int | None = parameter("not", TOKEN)
    """A token id that the target is held against; None for none."""
    place: Place = nested(Place)
    method: Method = parameter("method", Choice(Method), Method.ADDED)
    """By which neurons, heads and layers are scored."""

    @property
    def question(self) -> "PromptSelection":
        """What is asked of the model, without the place: what an analysis depends on."""
        return replace(self, place=Place())

    def normalised(self, reader: Reader) -> Self:
        """No more neurons than the server lists; of a chat, nothing is left out."""
        return replace(self, top=min(self.top, reader.limits.top), bare=self.without_bos(reader))


def question_key(selection: PromptSelection) -> str:
    """What was asked, as it is looked up: all that changes a result but the number of neurons."""
    asked = [selection.prompt, selection.target, selection.position, str(selection.rule), selection.distractor]
    more = ["bare"] * selection.bare + ["chat"] * selection.chat
    more += [str(selection.method)] * (selection.method is not Method.ADDED)
    return json.dumps(asked + more, ensure_ascii=True)


class By(StrEnum):
    """What a search looks for."""

    TOKEN = "token"
    CONCEPT = "concept"
    TEXT = "text"


class PageOrder(StrEnum):
    """What else than `db.questions.Order` may rank the neurons that are found."""

    SCORE = "score"
    MATCHED = "matched"
    NEURON = "neuron"
    SIGN = "sign"


@dataclass(frozen=True, slots=True)
class SearchSelection(Selection):
    """The search page."""

    page_name = "search"
    text: str = parameter("q", Text(MAX_TEXT), "")
    tokens: tuple[int, ...] | None = parameter("t", Tokens())
    """The tokens searched for; None are all that the text stands for. Not read where the search is by concept."""
    sign: Sign | None = parameter("sign", Choice(Sign))
    kind: NeuronKind | None = parameter("kind", Choice(NeuronKind))
    layers: tuple[int, int] | None = parameter("layers", Span())
    order: Order | PageOrder | None = parameter("order", Choice((*Order, *PageOrder)))
    """Each search has some of them. None is best first: by z for tokens, by score for a concept."""
    page: int = parameter("page", PAGE, 1)
    by: By | None = parameter("by", Choice(By))
    """None leaves it to the text: what is one token is a token, else it is a concept."""
    added: tuple[int, ...] = parameter("add", Tokens(), ())
    """Tokens that were added to the concept, with weight 1."""
    avoided: tuple[int, ...] = parameter("avoid", Tokens(), ())
    """Tokens that were added to the concept to be avoided, with weight −1."""
    dropped: tuple[int, ...] = parameter("drop", Tokens(), ())
    """Tokens that were taken out of the concept."""
    narrow: bool = parameter("near", Flag(on=0), False)
    """Only the words' own tokens, without those near them."""
    head: int | None = parameter("head", HEAD_NUMBER)
    min_z: float | None = parameter("z", Number(0, MAX_Z))
    max_rank: int | None = parameter("depth", Integer(1, MAX_RANK))
    reverse: bool = parameter("reverse", Flag(), False)
    expert: int | None = parameter("expert", EXPERT_NUMBER)
    exact: bool = parameter("exact", Flag(), False)
    """Rank all neurons by the concept's direction, which needs the model."""
    usual: bool = parameter("usual", Flag(), False)
    families: tuple[int, ...] = parameter("fam", Tokens(), ())
    """Tokens that were taken out of the concept with every spelling and inflection of their words."""
    passage: str = parameter("text", LongText(MAX_TRIAL), "")
    """What neurons are searched by, where it is by text."""
    shown: NeuronAt | None = parameter("n", NeuronAtLabel())
    """The neuron whose activations along the passage are shown; None is the first."""

    @property
    def conditions(self) -> Filters:
        """What the neurons must fulfil, in no order."""
        least = self.head, self.min_z, self.max_rank
        return Filters(self.sign, self.kind, self.layers, *least, expert=self.expert, usual=self.usual)

    def normalised(self, reader: Reader) -> Self:
        """FFN neurons have no head, and attention neurons no expert."""
        found = self
        if found.kind is NeuronKind.FFN and found.head is not None:
            reader.refuse("head", "FFN neurons have no head")
            found = replace(found, head=None)
        if found.expert is not None and (found.kind is NeuronKind.ATTENTION or found.head is not None):
            reader.refuse("expert", "attention neurons belong to no expert")
            found = replace(found, expert=None)
        return found

    def with_tokens(self, tokens: Iterable[int]) -> "SearchSelection":
        """The search for these tokens."""
        return replace(self, tokens=tuple(tokens), page=1)

    def less(self, token: int) -> "SearchSelection":
        """The concept without a token: taken back if it was added, else left out."""
        if token in self.added or token in self.avoided:
            added, avoided = ((one for one in ids if one != token) for ids in (self.added, self.avoided))
            return replace(self, added=tuple(added), avoided=tuple(avoided), page=1)
        return replace(self, dropped=tuple(dict.fromkeys((*self.dropped, token))), page=1)

    def less_family(self, tokens: Iterable[int]) -> "SearchSelection":
        """The concept without a word, by its tokens there: added ones are taken back, of others all spellings go."""
        found, own = self, [one for one in tokens if one not in (*self.added, *self.avoided)]
        for token in (one for one in tokens if len(own) < 2 or one not in own):
            found = found.less(token)
        return replace(found, families=tuple(dict.fromkeys((*found.families, *own[:1]))), page=1) if own[1:] else found

    def again(self, token: int) -> "SearchSelection":
        """The concept with a token, or a family of tokens, that was left out."""
        dropped, families = (tuple(one for one in ids if one != token) for ids in (self.dropped, self.families))
        return replace(self, dropped=dropped, families=families, page=1)

    def plus(self, tokens: Iterable[int], *, avoid: bool = False) -> "SearchSelection":
        """The concept with tokens added, or added to be avoided."""
        new = tuple(tokens)
        added = tuple(one for one in self.added if one not in new) + (() if avoid else new)
        avoided = tuple(one for one in self.avoided if one not in new) + (new if avoid else ())
        return replace(self, by=By.CONCEPT, tokens=None, added=added, avoided=avoided, page=1)


@dataclass(frozen=True, slots=True)
class TokenSelection(Selection):
    """The page of a token."""

    page_name = "token"
    token: int | None = parameter("t", TOKEN)
    text: str = parameter("q", Text(MAX_TEXT), "")
    """What was typed; read where no token is named."""

    def normalised(self, reader: Reader) -> Self:
        """A token needs no text."""
        return self if self.token is None else replace(self, text="")

    def implied(self) -> tuple[str, ...]:
        """The same."""
        return () if self.token is None else ("text",)


@dataclass(frozen=True, slots=True)
class OverviewSelection(Selection):
    """The overview of a model; the conditions are those of its list of peaked neurons."""

    page_name = "overview"
    alike: GroupedBy = parameter("map", Choice(GroupedBy), GroupedBy.VALUE)
    shade: MapShade = parameter("shade", Choice(MapShade), MapShade.LAYER)
    group: str = parameter("group", Text(40, strip=True, of=Of.SHAPE), "")
    sign: Sign | None = parameter("sign", Choice(Sign))
    kind: NeuronKind | None = parameter("kind", Choice(NeuronKind))
    layers: tuple[int, int] | None = parameter("layers", Span())

    @property
    def conditions(self) -> Filters:
        """What the neurons must fulfil."""
        return Filters(self.sign, self.kind, self.layers)


class SimilarBy(StrEnum):
    """By what similar neurons are found."""

    TOKENS = "tokens"
    VALUE = "value"


@dataclass(frozen=True, slots=True)
class NeuronSelection(Selection):
    """The neuron page."""

    page_name = "neuron"
    label: str = parameter("n", Text(40, strip=True, of=Of.SHAPE), "")
    """As typed; whether it names a neuron is the catalogue's to say."""
    origin: PromptSelection = nested(PromptSelection)
    """The prompt from which the neuron was opened; an empty one where it was not."""
    trial: str = parameter("try", LongText(MAX_TRIAL), "")
    """A text the neuron is tried on; where there is none it is tried on the prompt it was opened from."""
    similar_by: SimilarBy = parameter("alike", Choice(SimilarBy), SimilarBy.TOKENS)
    keys: bool = parameter("keys", Flag(), False)
    """The key side is shown, even where the model has to be loaded for it."""
    texts: int = parameter("texts", Integer(1, 1000), 3)
    """How many texts that activate it are shown, at either sign."""
    window: int | None = parameter("window", Integer(0, 999_999_999))
    """The one that is shown whole, by the number of its window in the corpus."""
    linear: bool = parameter("counts", Mark("linear"), False)
    """How the histogram counts; else by logarithm."""

    def normalised(self, reader: Reader) -> Self:
        """Without its prompt, a question has no meaning."""
        return self if self.origin.prompt else replace(self, origin=PromptSelection())

    def implied(self) -> tuple[str, ...]:
        """The same."""
        return () if self.origin.prompt else ("origin",)


@dataclass(frozen=True, slots=True)
class ManySelection(Selection):
    """The page of many prompts."""

    page_name = "many"
    text: str = parameter("ps", LongText(MAX_MANY), "")
    """One prompt per line, its target after a tab."""
    ready: str = parameter("set", Text(40, strip=True), "")
    """The name of a ready set; it stands for the text."""
    role: str = parameter("role", Text(40, strip=True), "")
    """Which list of neurons; the page knows which there are."""
    layers: tuple[int, int] | None = parameter("layers", Span())
    least: int = parameter("least", Integer(1, 1_000_000), 1)
    """Neurons that matter in fewer prompts are left out."""
    order: ListOrder | None = parameter("sort", Choice(ListOrder))
    """None has those of most prompts first, or those most particular to the first of two sets."""
    reverse: bool = parameter("reverse", Flag(), False)
    having: str = parameter("has", Text(MAX_HAVING), "")
    """Only neurons with this label, layer or token."""
    page: int = parameter("page", PAGE, 1)
    chat: bool = parameter("chat", Flag(), False)
    """Each as a user's message; see `PromptSelection`."""
    other: str = parameter("ps2", LongText(MAX_MANY), "")
    """A second set, against which the first is held; written like the text."""
    other_ready: str = parameter("set2", Text(40, strip=True), "")
    """The name of a ready set; it stands for the second."""
    bare: bool = parameter("bos", Flag(on=0), False)
    """Without what the tokenizer puts before a text."""
    measure: bool = parameter("effects", Flag(), False)
    """The effects of what is listed are measured."""

    @property
    def fits(self) -> bool:
        """Whether the texts can be held by an address."""
        return size(long_text("ps", self.text) | long_text("ps2", self.other)) <= LONGEST_PACKED + 10

    def implied(self) -> tuple[str, ...]:
        """Texts that are too long even when packed are left out."""
        return () if self.fits else ("text", "other")


@dataclass(frozen=True, slots=True)
class ComparePlace(State):
    """Where in a comparison one is looking; changing it asks nothing new of the model."""

    layer: int | None = parameter("layer", LAYER)
    head: Head | None = parameter("head", HeadLabel())
    """Always one of `layer`."""
    kind: NeuronKind = parameter("kind", Choice(NeuronKind), NeuronKind.FFN)

    def normalised(self, reader: Reader) -> Self:
        """A head says which layer it is of."""
        return self if self.head is None else replace(self, layer=self.head.layer)

    def implied(self) -> tuple[str, ...]:
        """The same."""
        return () if self.head is None else ("layer",)


@dataclass(frozen=True, slots=True)
class CompareSelection(AboutPrompt):
    """The page that compares: the second run against the first."""

    page_name = "compare"
    other: str = parameter("p2", LongText(MAX_PROMPT), "")
    """The second prompt; empty where it is the first."""
    other_target: int | None = parameter("target2", TOKEN)
    """None is the first's target at the same place of the same prompt, else the top prediction."""
    other_position: int | None = parameter("at2", POSITION)
    """None is the first's position in the same prompt, else the last token."""
    zero: tuple[Wanted, ...] = parameter("zero", Parts(MAX_ZERO), ())
    """What the second run does without."""
    top: int = parameter("k", TOP, COMPARE_TOP)
    rule: Rule = parameter("rule", Choice(Rule), Rule.EXACT)
    place: ComparePlace = nested(ComparePlace)

    @classmethod
    def of(cls, asked: PromptSelection, zero: tuple[Wanted, ...] = ()) -> "CompareSelection":
        """A question of the prompt page, with and without some parts; without parts, what to compare is still open."""
        compared = cls(asked.prompt, asked.target, asked.position, zero=zero)
        return replace(compared, rule=asked.rule, bare=asked.bare, chat=asked.chat)

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
        return self._asked(self.prompt, self.target, self.position)

    def _asked(self, prompt: str, target: int | None, position: int | None) -> PromptSelection:
        return PromptSelection(prompt, target, position, rule=self.rule, bare=self.bare, chat=self.chat)

    @property
    def second(self) -> PromptSelection:
        """The second question, on the whole model."""
        if self.other:
            return self._asked(self.other, self.other_target, self.other_position)
        position = self.position if self.other_position is None else self.other_position
        target = self.other_target
        if target is None and position == self.position:
            target = self.target
        return self._asked(self.prompt, target, position)

    def normalised(self, reader: Reader) -> Self:
        """A second prompt that is the first is none; no more neurons than the server lists."""
        other = "" if self.other == self.prompt else self.other
        return replace(self, other=other, top=min(self.top, reader.limits.top), bare=self.without_bos(reader))


@dataclass(frozen=True, slots=True)
class SteerSelection(AboutPrompt):
    """The page that steers: one prompt without and with interventions. The text goes on after the position."""

    page_name = "steer"
    interventions: tuple[Intervention, ...] = parameter("do", Interventions(MAX_ZERO), ())
    tokens: int = parameter("n", Integer(1, MAX_CONTINUED), 40)
    """How many the text is continued by."""
    temperature: float = parameter("temp", Number(0, MAX_TEMPERATURE), 0.0)
    """0 always takes the most probable token."""
    top_p: float = parameter("topp", Number(0.01, 1), 1.0)
    seed: int = parameter("seed", Integer(0, 999_999_999), 0)

    @classmethod
    def of(cls, asked: PromptSelection, *interventions: Intervention) -> "SteerSelection":
        """A question of the prompt page under interventions; without any, what to change is still open."""
        return cls(asked.prompt, asked.target, asked.position, asked.bare, asked.chat, interventions)

    @property
    def question(self) -> PromptSelection:
        """The same without interventions, for the prompt page."""
        return PromptSelection(self.prompt, self.target, self.position, self.bare, self.chat)

    @property
    def drawn(self) -> bool:
        """Whether top-p and the seed matter."""
        return self.temperature > 0

    def without(self, one: Intervention) -> "SteerSelection":
        """The same but for one intervention."""
        return replace(self, interventions=tuple(other for other in self.interventions if other != one))

    def normalised(self, reader: Reader) -> Self:
        """Of a chat, nothing is left out; the most probable token is not drawn."""
        top_p, seed = (self.top_p, self.seed) if self.drawn else (1.0, 0)
        return replace(self, bare=self.without_bos(reader), top_p=top_p, seed=seed)


@dataclass(frozen=True, slots=True)
class AddSelection(Selection):
    """The page that adds a model."""

    page_name = "add"
    source: str = parameter("source", Text(MAX_TEXT, strip=True), "")
    """A hub id or a path, as typed. Reading it starts nothing."""


@dataclass(frozen=True, slots=True)
class SavedSelection(Selection):
    """What is looked for among what was saved."""

    page_name = "saved"
    text: str = parameter("q", Text(200, strip=True), "")
    """Words."""
    collection: str = parameter("in", Text(32), "")
    """The id of a collection; the page knows whether there is one."""
    tag: str = parameter("tag", Text(40), "")
    """Only notes with this tag."""
    page: int = parameter("page", PAGE, 1)


@dataclass(frozen=True, slots=True)
class GallerySelection(Selection):
    """The gallery: it has no state."""

    page_name = "gallery"
