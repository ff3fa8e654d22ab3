"""What may be asked of a catalogue: each question with its options, described once.

The options of ``python -m db``, the parameters of the HTTP API and their bounds come from these classes; the answers
are records (:mod:`db.records`).

    >>> with Catalogue.open(path) as catalogue:
    ...     Search(text=" Python", sign=Sign.SUPPRESSES, layers=(20, 29)).answer(catalogue)
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import MISSING, dataclass
from dataclasses import fields as dataclass_fields
from enum import StrEnum
from functools import cache
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

from db.catalogue.builds import GATHER
from db.catalogue.concepts import MAX_CONCEPT, MAX_TEXT, WIDEN, without_families
from db.errors import AtlasError, NotFoundError
from db.groups import Group, GroupAnswer, GroupedBy, GroupNeuron, all_groups, find_group, members
from db.neuron import Neuron, NeuronKind, Sign
from db.records import (
    Concept,
    ConceptAnswer,
    ConceptNeuron,
    Hit,
    NeuronCard,
    Overview,
    SimilarNeuron,
    Token,
    TokenPage,
    WeightedToken,
)
from db.token_text import MINUSES, shorten

if TYPE_CHECKING:
    from db.catalogue.store import Catalogue
    from db.texts.records import FoundExcerpt, NamedNeuron, NeuronTexts
    from db.texts.store import Texts

MOST_ROWS = 1000
"""Of a page, over HTTP."""
MOST_LISTED = 200
"""The same where the whole list is short by nature."""
DEEPEST = 1_000_000
"""Rows left out at most, over HTTP."""
_NAMED_TOKENS = 3


@dataclass(frozen=True, slots=True)
class Option:
    """What is noted of a field: how it is asked for. The bounds are those of the HTTP API."""

    about: str
    metavar: str = "N"
    name: str = ""
    """The option's, where it is not the field's."""
    least: float | None = None
    """Of a number; of a text or a list, its length."""
    most: float | None = None
    pattern: str | None = None
    """That a text must have."""
    example: str | None = None


class Parameter(NamedTuple):
    """A field of a question, as the shell and the API ask for it."""

    field: str
    name: str
    kind: Any
    """A plain type, a StrEnum, or :data:`Span`."""
    several: bool
    """May be given several times; the field holds a tuple of `kind`."""
    default: Any
    """dataclasses.MISSING where there is none."""
    option: Option


@cache
def parameters(question: type) -> tuple[Parameter, ...]:
    """The fields of a question, or of :class:`Filters`, that can be asked for, in their order."""
    hints = get_type_hints(question, include_extras=True)
    found = []
    for field in dataclass_fields(question):
        bare, option = get_args(hints[field.name])
        if field.name in getattr(question, "LEFT_OUT", ()):
            continue
        several = get_origin(bare) is tuple
        kind = next(one for one in get_args(bare) or (bare,) if one is not NoneType)
        found.append(Parameter(field.name, option.name or field.name, kind, several, field.default, option))
    return tuple(found)


# Which neurons a search shows and in which order.

_TO_HYPHEN = str.maketrans(dict.fromkeys(MINUSES, "-"))
Span = tuple[int, int]
"""First and last layer, both included."""


def read_span(text: str) -> Span:
    """A range of layers such as 20-29, 20–29, or 7.

    Raises:
        ValueError: it is none.
    """
    first, _, last = text.strip().translate(_TO_HYPHEN).partition("-")
    return int(first), int(last or first)


class Order(StrEnum):
    """What ranks the hits."""

    Z = "z"
    RANK = "rank"
    LOGIT = "logit"


@dataclass(frozen=True, slots=True)
class Filters:
    """Conditions and order of a search. ``sign``, ``kind`` and ``order`` may be given as their text.

    Raises:
        AtlasError: a value that cannot be meant, or two that exclude each other.
    """

    sign: Annotated[Sign | None, Option("only what promotes, or only what suppresses")] = None
    kind: Annotated[NeuronKind | None, Option("only FFN or only attention neurons")] = None
    layers: Annotated[
        Span | None,
        Option(
            "first and last layer, such as 20-29, or one layer",
            metavar="FIRST-LAST",
            pattern=r"^[0-9]{1,4}(-[0-9]{1,4})?$",
            example="0-1",
        ),
    ] = None
    head: Annotated[int | None, Option("attention neurons of this head", least=0, most=9999)] = None
    min_z: Annotated[
        float | None, Option("least z-score in the sign's direction", metavar="X", least=-1e6, most=1e6)
    ] = None
    """Promoted tokens have z ≥ min_z, suppressed ones z ≤ −min_z."""
    max_rank: Annotated[int | None, Option("only tokens of this rank or a better one", least=1, most=100_000)] = None
    order: Annotated[Order, Option("what ranks the hits", name="by")] = Order.Z
    expert: Annotated[int | None, Option("FFN neurons of this expert", least=0, most=9999)] = None
    usual: Annotated[bool, Option("only ends that are usually active, in the texts that were read")] = False

    def __post_init__(self) -> None:
        for name, choices in (("sign", Sign), ("kind", NeuronKind), ("order", Order)):
            value = getattr(self, name)
            if value is not None or name == "order":
                object.__setattr__(self, name, _choice(choices, name, value))
        if self.layers is not None:
            low, high = self.layers
            if low < 0 or high < low:
                raise AtlasError(f"Layers {low}–{high} are no range: give first and last, such as 20–29.")
        if self.head is not None and self.head < 0:
            raise AtlasError(f"Head {self.head} does not exist: heads count from 0.")
        if self.head is not None and self.kind is NeuronKind.FFN:
            raise AtlasError("FFN neurons have no head: drop the head, or ask for attention neurons.")
        if self.expert is not None and self.expert < 0:
            raise AtlasError(f"Expert {self.expert} does not exist: experts count from 0.")
        if self.expert is not None and (self.kind is NeuronKind.ATTENTION or self.head is not None):
            raise AtlasError("Attention neurons belong to no expert: drop the expert, or ask for FFN neurons.")
        if self.min_z is not None and not math.isfinite(self.min_z):
            raise AtlasError(f"The least z must be a number such as 3.5, not {self.min_z}.")
        if self.max_rank is not None and self.max_rank < 1:
            raise AtlasError(f"The largest rank must be 1 or more, not {self.max_rank}: ranks count from 1.")

    def describe(self, tokens: Sequence[Token]) -> str:
        """The search as an English sentence, such as “FFN neurons of layers 20–29 that promote “␣Paris”, by z”."""
        return f"{self.sentence(token_words(tokens))}, by {self.order}"

    def sentence(self, what: str) -> str:
        """The conditions as a sentence about what the neurons promote or suppress, without the order."""
        verb = {Sign.PROMOTES: "promote", Sign.SUPPRESSES: "suppress", None: "promote or suppress"}[self.sign]
        parts = [self.subject, f"that {verb} {what}"]
        if self.max_rank is not None:
            parts.append("as their first token" if self.max_rank == 1 else f"among their first {self.max_rank} tokens")
        if self.min_z is not None:
            end = {Sign.PROMOTES: "z", Sign.SUPPRESSES: "−z", None: "|z|"}[self.sign]
            parts.append(f"with {end} ≥ {self.min_z:g}")
        if self.usual:
            parts.append("at an end that is usually active")
        return " ".join(parts)

    @property
    def subject(self) -> str:
        """Which neurons, such as “FFN neurons of layers 20–29”."""
        attention = self.head is not None or self.kind is NeuronKind.ATTENTION
        subject = "Attention neurons" if attention else "Neurons"
        if self.kind is NeuronKind.FFN or self.expert is not None:
            subject = "FFN neurons"
        if self.expert is not None:
            subject += f" of expert {self.expert}"
        if self.head is not None:
            subject += f" of head {self.head}"
        if self.layers is not None:
            low, high = self.layers
            subject += f" of layer {low}" if low == high else f" of layers {low}–{high}"
        return subject


def _choice(choices: type[StrEnum], name: str, value: str) -> StrEnum:
    try:
        return choices(value)
    except ValueError:
        allowed = " or ".join(repr(str(choice)) for choice in choices)
        raise AtlasError(f"{name} must be {allowed}, not {str(value)[:40]!r}.") from None


def token_words(tokens: Sequence[Token]) -> str:
    """The first tokens and how many others, such as “␣Paris” or 2 other tokens."""
    if not tokens:
        return "no token"
    named = [f"“{shorten(token.display)}”" for token in tokens[:_NAMED_TOKENS]]
    others = len(tokens) - len(named)
    if others:
        named.append(f"{others} other token" + ("s" if others > 1 else ""))
    return named[0] if len(named) == 1 else ", ".join(named[:-1]) + " or " + named[-1]


# The questions.

_TOKEN = Option(
    "a token; its leading space and case may differ", metavar="TEXT", least=1, most=MAX_TEXT, example=" Paris"
)
_WORDS = Option(
    "words, such as “programming languages, -snake”; a minus before a word makes it one to avoid, quotation marks keep "
    "words together",
    metavar="TEXT",
    least=1,
    most=MAX_TEXT,
    example="python, -code",
)
_LABEL = Option("a neuron, such as L28.F29 or L21.H19.N7", metavar="LABEL", example="L2.F3")
_OFFSET = Option("how many to leave out at the beginning", least=0, most=DEEPEST)


class Question(ABC):
    """Something that a build answers."""

    __slots__ = ()

    @abstractmethod
    def answer(self, catalogue: "Catalogue") -> object:
        """A record, or a tuple of records of one kind.

        Raises:
            NotFoundError: no such neuron or token.
            AtlasError: it cannot be answered otherwise.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Search(Filters, Question):
    """Neurons that promote or suppress a token."""

    text: Annotated[str, _TOKEN]
    limit: Annotated[int, Option("how many hits at most", least=0, most=MOST_ROWS)] = 100
    offset: Annotated[int, _OFFSET] = 0

    def answer(self, catalogue: "Catalogue") -> tuple[Hit, ...]:
        """A page of hits, best first."""
        ids = [token.token_id for token in catalogue.tokens_of(self.text)]
        return catalogue.search_token(ids, self, limit=self.limit, offset=self.offset)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConceptSearch(Filters, Question):
    """Neurons that cover a concept, given by words."""

    LEFT_OUT = ("order",)

    text: Annotated[str, _WORDS]
    widen: Annotated[int, Option("how many neighbours of the words to add at most", least=0, most=MAX_CONCEPT)] = WIDEN
    add: Annotated[
        tuple[int, ...],
        Option("add this token, by its id; may be repeated", metavar="ID", least=0, most=MAX_CONCEPT),
    ] = ()
    drop: Annotated[
        tuple[int, ...],
        Option("leave this token out, by its id; may be repeated", metavar="ID", least=0, most=MAX_CONCEPT),
    ] = ()
    drop_family: Annotated[
        tuple[int, ...],
        Option(
            "leave this token out with all spellings and inflections of its word; may be repeated",
            metavar="ID",
            least=0,
            most=MAX_CONCEPT,
        ),
    ] = ()
    limit: Annotated[int, Option("how many ends of neurons at most", least=0, most=MOST_ROWS)] = 20
    offset: Annotated[int, _OFFSET] = 0

    def concept(self, catalogue: "Catalogue") -> Concept:
        """What is searched for; raises as :meth:`answer` does."""
        concept = catalogue.concept(self.text, widen=self.widen)
        added = [WeightedToken(token, 1.0) for token in catalogue.tokens(self.add).values()]
        left = concept.with_tokens(added).without(catalogue.tokens(self.drop))
        return without_families(left, catalogue.tokens(self.drop_family).values())

    def neurons(self, catalogue: "Catalogue", concept: Concept) -> tuple[ConceptNeuron, ...]:
        """A page of the ends that cover it, best first."""
        return catalogue.concept_neurons(concept, self, limit=self.limit, offset=self.offset)

    def answer(self, catalogue: "Catalogue") -> ConceptAnswer:
        """The concept, and a page of the ends that cover it."""
        concept = self.concept(catalogue)
        return ConceptAnswer(concept, self.neurons(catalogue, concept))


@dataclass(frozen=True, slots=True, kw_only=True)
class OneNeuron(Question):
    """One neuron: both ends of its logits, and its statistics."""

    label: Annotated[str, _LABEL]

    def answer(self, catalogue: "Catalogue") -> NeuronCard:
        """All that is stored of it."""
        return catalogue.neuron(Neuron.parse(self.label))


@dataclass(frozen=True, slots=True, kw_only=True)
class TextsOf(Question):
    """What activates a neuron: its strongest texts at both signs, and its statistics over the corpus."""

    label: Annotated[str, _LABEL]
    limit: Annotated[int, Option("how many excerpts of each sign at most", least=0, most=MOST_LISTED)] = 10

    def answer(self, catalogue: "Catalogue") -> "NeuronTexts":
        """All that is stored of it."""
        return texts_of(catalogue).of(Neuron.parse(self.label), self.limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class InExcerpts(Question):
    """The strongest excerpts that hold certain words, and their neurons."""

    text: Annotated[
        str,
        Option(
            "words, of which each must begin a word of the excerpt; a phrase in quotation marks must stand there whole",
            metavar="TEXT",
            least=1,
            most=MAX_TEXT,
            example="negation",
        ),
    ]
    limit: Annotated[int, Option("how many excerpts at most", least=0, most=MOST_LISTED)] = 20
    offset: Annotated[int, Option("how many to leave out at the beginning", least=0, most=MOST_ROWS)] = 0

    def answer(self, catalogue: "Catalogue") -> "tuple[FoundExcerpt, ...]":
        """Those whose peak stands out most first."""
        return texts_of(catalogue).search_excerpts(self.text, limit=self.limit, offset=self.offset)


@dataclass(frozen=True, slots=True, kw_only=True)
class ByName(Question):
    """The neurons whose name holds certain words."""

    text: Annotated[str, Option("words of a name", metavar="TEXT", least=1, most=MAX_TEXT, example="colour")]
    limit: Annotated[int, Option("how many neurons at most", least=0, most=MOST_ROWS)] = 20
    offset: Annotated[int, _OFFSET] = 0

    def answer(self, catalogue: "Catalogue") -> "tuple[NamedNeuron, ...]":
        """The surest names first."""
        return texts_of(catalogue).named(self.text, limit=self.limit, offset=self.offset)


def texts_of(catalogue: "Catalogue") -> "Texts":
    """The texts of a build's neurons.

    Raises:
        NotFoundError: there are none; the message says why, and how to gather them.
    """
    if catalogue.texts is None:
        missing = f"No texts were gathered for {catalogue.info.model}. {GATHER}"
        raise NotFoundError(catalogue.texts_problem or missing)
    return catalogue.texts


@dataclass(frozen=True, slots=True, kw_only=True)
class Similar(Question):
    """Neurons that share tokens with a neuron, most similar first."""

    label: Annotated[str, _LABEL]
    limit: Annotated[int, Option("how many neurons at most", least=0, most=MOST_LISTED)] = 20

    def answer(self, catalogue: "Catalogue") -> tuple[SimilarNeuron, ...]:
        """Most similar first."""
        return catalogue.similar(Neuron.parse(self.label), limit=self.limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class OneToken(Question):
    """A token: its neighbours, and the neurons that have it, by layer."""

    text: Annotated[str, _TOKEN]
    limit: Annotated[int, Option("how many neurons for each end", least=0, most=MOST_LISTED)] = 10

    def answer(self, catalogue: "Catalogue") -> TokenPage:
        """Of the token that fits the text best."""
        token = catalogue.tokens_of(self.text)[0]
        ids = [token.token_id]
        return TokenPage(
            token,
            catalogue.neighbours(token.token_id),
            catalogue.neighbour_of(token.token_id),
            catalogue.search_token(ids, Filters(sign=Sign.PROMOTES), limit=self.limit),
            catalogue.search_token(ids, Filters(sign=Sign.SUPPRESSES), limit=self.limit),
            catalogue.layers_of(ids),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeBuild(Question):
    """A build as a whole: layers, peaked neurons, favoured tokens."""

    limit: Annotated[int, Option("how many neurons and tokens", least=0, most=MOST_LISTED)] = 10

    def answer(self, catalogue: "Catalogue") -> Overview:
        """Reads the whole build."""
        limit = self.limit
        return Overview(catalogue.layers(), catalogue.most_peaked(limit=limit), catalogue.favourites(limit=limit))


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups(Question):
    """Groups of neurons that are alike, the largest first."""

    by: Annotated[GroupedBy | None, Option("alike by their value vectors, or by activity in texts")] = None
    limit: Annotated[int, Option("how many groups at most", least=0, most=MOST_ROWS)] = 100

    def answer(self, catalogue: "Catalogue") -> tuple[Group, ...]:
        """The largest first, by each kind of likeness."""
        return all_groups(catalogue.maps, self.by)[: self.limit]


@dataclass(frozen=True, slots=True, kw_only=True)
class OneGroup(Question):
    """One group of neurons that are alike, and its neurons."""

    group: Annotated[str, Option("a group, such as value-12", metavar="GROUP", least=1, most=40, example="value-1")]
    limit: Annotated[int, Option("how many neurons at most", least=0, most=MOST_ROWS)] = 100

    def answer(self, catalogue: "Catalogue") -> GroupAnswer:
        """Its neurons, closest to its middle first."""
        group = find_group(catalogue.maps, self.group)
        ids, closeness = members(catalogue.maps, group)
        pairs = zip(ids[: self.limit].tolist(), closeness.tolist(), strict=False)
        return GroupAnswer(group, tuple(GroupNeuron(catalogue.layout.neuron(one), near) for one, near in pairs))


def shell_options(question: Question) -> list[str]:
    """The words that ask for it in the shell, without its text and what is at its default.

    >>> shell_options(Search(text="red", sign=Sign.PROMOTES, layers=(3, 9)))
    ['--promotes', '--layers', '3-9']
    """
    words: list[str] = []
    for one in parameters(type(question)):
        value, flag = getattr(question, one.field), f"--{one.name.replace('_', '-')}"
        if one.default is MISSING or value == one.default:
            continue
        if one.kind is Sign:
            words.append(f"--{value}")
        elif one.kind is bool:
            words.append(flag)
        elif one.kind == Span:
            words += [flag, f"{value[0]}-{value[1]}"]
        else:
            words += [word for each in (value if one.several else [value]) for word in (flag, str(each))]
    return words


QUESTIONS: dict[str, type[Question]] = {
    "search": Search,
    "concept": ConceptSearch,
    "neuron": OneNeuron,
    "texts": TextsOf,
    "excerpts": InExcerpts,
    "named": ByName,
    "similar": Similar,
    "token": OneToken,
    "overview": WholeBuild,
    "groups": Groups,
    "group": OneGroup,
}
"""By the name of the shell's command and of the API's path."""
