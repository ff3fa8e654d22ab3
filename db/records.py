"""What a catalogue answers: the fields of each record once, with what they mean.

JSON, data frames and the API's schema follow from these fields (:mod:`db.catalogue.export`). Logits are those of the
value vector alone; z has no unit.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from db.neuron import Experts, Neuron, NeuronKind, Sign
from db.token_text import display, shorten

if TYPE_CHECKING:
    from db.texts.records import Mark, Usual

# How JSON gives a field, where it does not give it as it is.


class Spread(dict[str, str]):
    """Give some attributes of the value instead of the value: name in JSON to attribute."""


@dataclass(frozen=True, slots=True)
class Rounded:
    """A number with so many decimals."""

    decimals: int


TEXTS: Final = "texts"
"""Several tokens or words, of which JSON gives the texts."""
HIDDEN: Final = "hidden"
"""JSON leaves it out."""


def spread(*names: str) -> Spread:
    """Attributes that are given by their own names."""
    return Spread({name: name for name in names})


# A build's own description: which model, which unembedding, which code.


@dataclass(frozen=True, slots=True)
class BuildStamp:
    """One row of the table ``build``; the fields are its columns."""

    build_id: str
    """Letters, digits, ``.``, ``_``, ``-``: part of the file's name."""
    schema_version: int
    code_version: str
    created_at: str
    """ISO 8601, UTC."""
    model: str
    family: str
    """The config's ``model_type``; and how it was read, where that is not plain."""
    checkpoint: str
    """Its identity, hub revision or hash of the weights: ties the catalogue to its model."""
    unembedding_hash: str
    """Of the unembedding with the final norm folded in; fine-tunes may share it."""
    tokenizer_hash: str
    layers: int
    d_model: int
    vocabulary: Annotated[int, "Rows of the unembedding; token ids run from 0 to one less."]
    ffn_neurons: Annotated[int, "In the whole model."]
    attention_neurons: Annotated[int, "In the whole model."]
    heads: Annotated[int, "Heads per layer."]
    head_dim: int
    depth: Annotated[int, "Tokens stored at each end of a neuron."]
    tokenizer_json: str | None = None
    """The ``tokenizers`` file; absent where the tokenizer has none."""
    padding: Annotated[
        int | None,
        "Rows of the unembedding that are no token; they are in no list, mean or deviation. Null: not counted.",
    ] = None
    experts: Experts | None = None
    """Of a mixture of experts: how its FFN neurons lie in their layers."""
    dequantised: Annotated[str | None, "How the weights were quantised before they were made plain; null: not."] = None
    neighbour_recall: Annotated[
        float | None, "Which share of each token's nearest tokens was found (a sample's mean); null: all."
    ] = None

    @property
    def tokens(self) -> int:
        """Rows of the unembedding that are tokens."""
        return self.vocabulary - (self.padding or 0)

    @property
    def ffn_width(self) -> int:
        """FFN neurons of one layer; where layers differ, of the widest."""
        if self.experts is not None:
            return max(self.experts.neurons(layer) for layer in range(self.layers))
        return self.ffn_neurons // self.layers

    @property
    def expert_count(self) -> int:
        """Experts of a layer that has some; 0 where there are none."""
        return 0 if self.experts is None else self.experts.count

    def neurons_of(self, layer: int) -> int:
        """FFN and attention neurons of a layer."""
        ffn = self.ffn_width if self.experts is None else self.experts.neurons(layer)
        return ffn + self.attention_neurons // self.layers

    @property
    def neurons(self) -> int:
        """FFN and attention neurons together."""
        return self.ffn_neurons + self.attention_neurons


def experts_json(experts: Experts | None) -> str | None:
    """As a stamp is stored."""
    return None if experts is None else json.dumps(asdict(experts), sort_keys=True)


def read_experts(text: str | None) -> Experts | None:
    """What `experts_json` wrote."""
    if text is None:
        return None
    found = json.loads(text)
    return Experts(**found | {"layers": tuple(found["layers"])})


def short_identity(identity: str) -> str:
    """A checkpoint's identity for a sentence.

    >>> short_identity("sha256 0123456789abcdef")
    'sha256 0123456789ab…'
    """
    kind, _, digits = identity.partition(" ")
    return f"{kind} {digits[:12]}…" if digits else kind or "unknown"


@dataclass(frozen=True, slots=True)
class Build:
    """One build of a catalogue."""

    model: str
    current: bool
    stamp: Annotated[BuildStamp | None, spread("build_id", "created_at", "neurons", "depth")]
    """None where the file cannot be read."""
    bytes: int
    path: Path
    problem: Annotated[str | None, "Why the build cannot be read, where it cannot."] = None


@dataclass(frozen=True, slots=True)
class Model:
    """A model and its current build; the fields but its name are null where that cannot be read."""

    model: str
    stamp: Annotated[
        BuildStamp | None,
        spread(
            *("build_id", "created_at", "family", "layers", "heads", "d_model", "vocabulary"),
            *("ffn_neurons", "attention_neurons", "depth", "padding", "dequantised", "neighbour_recall"),
        ),
    ]
    problem: Annotated[str | None, "Why the build cannot be read, where it cannot."]
    first: Annotated[bool, "Whether this model answers where none is named."]


# Tokens and neurons.


@dataclass(frozen=True, slots=True)
class Token:
    """One row of the unembedding."""

    token_id: int
    text: Annotated[str, "The token's text as it is; ⟨E4⟩ and the like where its bytes are not valid UTF-8."]
    display: str
    """Unambiguous and printable: see :mod:`db.token_text`."""
    special: bool
    """A control token, or a row of the unembedding that no token uses."""


Z = Annotated[float, "(logit − mean) / standard deviation of the neuron's own logits; 0 for a constant neuron."]


Usually = Annotated[Sign | None, "The end of the neuron that is usually active, over a corpus; null: not known."]
Named = Annotated[str | None, "Its name, made from its tokens and texts; null: none is clear, or there are no texts."]


@dataclass(frozen=True, slots=True)
class Hit:
    """A token at one end of a neuron."""

    neuron: Neuron
    sign: Sign
    rank: Annotated[int, "From 1, the most extreme token of that end."]
    token: Token
    logit: Annotated[float, "Logit of the token under the neuron's value vector."]
    """As z, mean and std give it back: to six digits that of the neuron's card."""
    z: Z
    usual: Usually = None
    name: Named = None

    JSON = ("neuron", "sign", "token", "token_id", "rank", "logit", "z", "usual", "name")
    """What is there, in its order."""


@dataclass(frozen=True, slots=True)
class TokenLogit:
    """A token of a neuron's card."""

    token: Token
    logit: Annotated[float, "Logit of the token under the neuron's value vector."]
    z: Z


@dataclass(frozen=True, slots=True)
class NeuronCard:
    """All that is stored of one neuron."""

    neuron: Annotated[Neuron, Spread(neuron="label", kind="kind", layer="layer")]
    mean: Annotated[float, "Of its logits over the vocabulary."]
    std: Annotated[float, "Of the same, population standard deviation."]
    norm: Annotated[float, "Euclidean norm of the value vector as the model stores it."]
    top: Annotated[tuple[TokenLogit, ...], "Promoted tokens, highest logit first."]
    bottom: Annotated[tuple[TokenLogit, ...], "Suppressed tokens, lowest logit first."]
    generic: Annotated[str, "In the lists of how many varied prompts, if of most; else empty."] = ""
    usual: Usually = None
    name: Named = None


@dataclass(frozen=True, slots=True)
class NeuronTokens:
    """The strongest tokens of one neuron's two ends, most extreme first, and what its texts say of it."""

    promotes: tuple[Token, ...]
    suppresses: tuple[Token, ...]
    mark: "Mark | None" = None
    """None where no texts were read, or not for this neuron."""

    @property
    def usual(self) -> "Usual | None":
        """Which end is usually active; None where that is not known."""
        return None if self.mark is None else self.mark.usual

    @property
    def name(self) -> str | None:
        """What its tokens and texts call it; None where that is not known, or not clear."""
        return None if self.mark is None else self.mark.name.text

    @property
    def ends(self) -> tuple[Sign, Sign]:
        """Both, the usual one first."""
        usual = self.usual
        first = usual is None or usual.sign is Sign.PROMOTES
        return (Sign.PROMOTES, Sign.SUPPRESSES) if first else (Sign.SUPPRESSES, Sign.PROMOTES)

    def at(self, sign: Sign) -> tuple[Token, ...]:
        """Those of one end."""
        return self.promotes if sign is Sign.PROMOTES else self.suppresses


@dataclass(frozen=True, slots=True)
class SimilarNeuron:
    """A neuron that shares tokens with another."""

    neuron: Neuron
    similarity: Annotated[float, "From 0, nothing shared, to 1, the same tokens at the same ranks."]
    opposite: Annotated[bool, "What one promotes the other suppresses."]
    shared: Annotated[tuple[Token, ...], TEXTS, "Texts of the tokens of both."]
    """By their rank in the neuron that was asked about; promoted ones and suppressed ones mixed."""
    usual: Usually = None
    name: Named = None

    @property
    def signed(self) -> float:
        """The similarity, negative where the tokens are at opposite ends."""
        return -self.similarity if self.opposite else self.similarity


@dataclass(frozen=True, slots=True)
class TokenMatches:
    """The tokens a search text stands for."""

    text: str
    matched: tuple[Token, ...]
    """Tokens equal to the text, or to it with or without a leading space or in another case; the exact one first."""
    pieces: tuple[Token, ...]
    """What the model's tokenizer splits the text into; empty where the build holds no tokenizer."""
    rowless: tuple[int, ...] | None = None
    """Ids it splits into beside them, for which the unembedding has no row; None where the build holds no tokenizer."""
    suggestions: tuple[str, ...] = ()
    """Words among the tokens that are spelt much like it, where it is none; the likeliest first."""

    def no_match(self) -> str:
        """One sentence for a text that is no single token: what it splits into and what to do."""
        text = f"“{shorten(display(self.text.encode()), 60)}”"
        shown = f"{text} is not one token of this model"
        if self.rowless:
            return f"{text} {without_rows(self.rowless, alone=not self.pieces)}. Search for another word."
        if self.suggestions:
            return f"{shown}. Did you mean {' or '.join(f'“{one}”' for one in self.suggestions)}?"
        if not self.pieces and self.rowless is not None:
            return f"{shown}: its tokenizer makes nothing of it. Search for another word."
        if not self.pieces:
            return f"{shown}, and this catalogue holds no tokenizer that could split it: try a shorter word."
        listed = ", ".join(f"“{shorten(piece.display)}”" for piece in self.pieces[:12])
        more = f" and {len(self.pieces) - 12} more" if len(self.pieces) > 12 else ""
        return f"{shown}; it splits into {listed}{more}. Search for one of those, or for another word."


def without_rows(ids: Sequence[int], *, alone: bool) -> str:
    """What is to be said of a text with tokens that were added to the tokenizer, and not to the model.

    >>> without_rows([323], alone=True)
    'is token 323 of the tokenizer, for which the model has no row, so no neuron promotes or suppresses it'
    """
    named = f"token{'s' if len(ids) > 1 else ''} {', '.join(map(str, ids[:6]))}{' …' if len(ids) > 6 else ''}"
    them = "them" if len(ids) > 1 else "it"
    is_or_holds = "is" if alone and len(ids) == 1 else "holds"
    return (
        f"{is_or_holds} {named} of the tokenizer, for which the model has no row, so no neuron promotes or suppresses "
        f"{them}"
    )


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A token near another one."""

    rank: Annotated[int, HIDDEN]
    """From 1; corrected for hubs, so that cosines need not fall."""
    token: Token
    cosine: Annotated[float, Rounded(3), "Of the folded unembedding's rows less their mean."]


@dataclass(frozen=True, slots=True)
class LayerCount:
    """How many neurons of a layer and kind have a token at an end."""

    layer: int
    kind: NeuronKind
    sign: Sign
    neurons: int


@dataclass(frozen=True, slots=True)
class TokenPage:
    """A token: its neighbours, and the neurons that have it."""

    token: Token
    neighbours: tuple[Neighbour, ...]
    neighbour_of: Annotated[int, "Of how many tokens this one is a neighbour."]
    promotes: tuple[Hit, ...]
    suppresses: tuple[Hit, ...]
    layers: tuple[LayerCount, ...]


# Concepts.


class Origin(StrEnum):
    """How a token came into a concept."""

    WORD = "word"
    BEGINNING = "beginning"
    """The word is no token of the model; this one begins like it."""
    NEIGHBOUR = "neighbour"
    COMPANY = "company"
    """At the ends of several of the neurons that cover the others best."""
    CHOSEN = "chosen"
    """Added by its id."""


@dataclass(frozen=True, slots=True)
class WeightedToken:
    """A token of a concept."""

    token: Token
    weight: Annotated[float, Rounded(6), "From −1 to 1; negative where neurons with this token are to be avoided."]
    origin: Annotated[Origin, HIDDEN] = Origin.CHOSEN


@dataclass(frozen=True, slots=True)
class UnmatchedWord:
    """A word that is no token of the model in any spelling."""

    text: str
    pieces: tuple[Token, ...]
    """What the model's tokenizer splits it into."""
    beginnings: tuple[Token, ...]
    """Tokens that begin like it and stand in for it."""
    rowless: tuple[int, ...] | None = None
    """As of `TokenMatches`."""
    suggestions: tuple[str, ...] = ()
    """As of `TokenMatches`."""

    @property
    def why(self) -> str:
        """Why it is no token, for a sentence that begins with the word."""
        if self.rowless:
            return without_rows(self.rowless, alone=not self.pieces)
        return "is not one token of this model"


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A word that may be meant by one that is no token."""

    word: Annotated[str, "As it was typed."]
    meant: Annotated[tuple[str, ...], "Words that are tokens and are spelt much like it, the likeliest first."]


@dataclass(frozen=True, slots=True)
class Concept:
    """What a search for a concept looks for. A value: tokens are dropped and added by making another."""

    tokens: tuple[WeightedToken, ...]
    """By falling weight, the words' own first; each token once."""
    unmatched: Annotated[tuple[UnmatchedWord, ...], TEXTS, "Words that are no token of the model."] = ()
    widened: bool = False
    """Whether the build holds neighbours to widen by."""
    passed_over: Annotated[tuple[str, ...], "Words that only join others, and were not looked for."] = ()

    @property
    def suggestions(self) -> tuple[Suggestion, ...]:
        """For words that may be misspelt."""
        return tuple(Suggestion(word.text, word.suggestions) for word in self.unmatched if word.suggestions)

    @property
    def token_ids(self) -> list[int]:
        """In the order of the tokens."""
        return [entry.token.token_id for entry in self.tokens]

    def shares(self) -> dict[int, float]:
        """What each token weighs in a search, by id: its weight / √(the spellings of its word in the concept).

        “ Red”, “red” and “RED” say one thing, and not three. Tokens without weight are left out.
        """
        words = [(entry.token.text.strip().casefold() or entry.token.text, entry.weight > 0) for entry in self.tokens]
        spelt = Counter(words)
        return {
            entry.token.token_id: entry.weight / math.sqrt(spelt[word])
            for entry, word in zip(self.tokens, words, strict=True)
            if entry.weight
        }

    def without(self, token_ids: Iterable[int]) -> "Concept":
        """The concept less some tokens."""
        dropped = set(token_ids)
        return replace(self, tokens=tuple(entry for entry in self.tokens if entry.token.token_id not in dropped))

    def with_tokens(self, tokens: Iterable[WeightedToken]) -> "Concept":
        """The concept and further tokens; one that was there takes the new weight."""
        added = {entry.token.token_id: entry for entry in tokens}
        kept = [entry for entry in self.tokens if entry.token.token_id not in added]
        return replace(self, tokens=(*kept, *added.values()))

    def describe(self) -> str:
        """The tokens as part of a sentence, such as “␣red”, “␣blue” and 30 more, but not “␣wine”."""
        wanted, avoided = (
            _some([entry.token for entry in self.tokens if (entry.weight > 0) == positive])
            for positive in (True, False)
        )
        return (wanted or "no token") + (f", but not {avoided}" if avoided else "")


def _some(tokens: Sequence[Token]) -> str:
    named = ", ".join(f"“{shorten(token.display)}”" for token in tokens[:3])
    return named + (f" and {len(tokens) - 3} more" if len(tokens) > 3 else "")


@dataclass(frozen=True, slots=True)
class MatchedToken:
    """A token of a concept at one end of a neuron."""

    token: Token
    weight: float
    """In the concept, from −1 to 1."""
    rank: int
    z: float

    @property
    def text(self) -> str:
        """The token's own."""
        return self.token.text

    @property
    def display(self) -> str:
        """The token's own."""
        return self.token.display


@dataclass(frozen=True, slots=True)
class ConceptNeuron:
    """An end of a neuron that covers a concept."""

    neuron: Neuron
    sign: Sign
    score: Annotated[float, "Comparable within one concept."]
    """Sum of share (:meth:`Concept.shares`) · rarity · √|z| over the matched tokens."""
    matched: Annotated[tuple[MatchedToken, ...], TEXTS, "Texts of the concept's tokens at this end, by rank."]
    usual: Usually = None
    name: Named = None


@dataclass(frozen=True, slots=True)
class ConceptAnswer:
    """A concept and the neurons that cover it."""

    concept: Annotated[Concept, spread("tokens", "unmatched", "suggestions", "passed_over")]
    neurons: Annotated[tuple[ConceptNeuron, ...], "Best first."]


# A build as a whole.


@dataclass(frozen=True, slots=True)
class LayerOverview:
    """Quantiles, in percent, over the neurons of a layer and kind."""

    layer: int
    kind: NeuronKind
    neurons: int
    norm_5: float
    norm_25: float
    norm_50: float
    norm_75: float
    norm_95: float
    peak_5: float
    peak_25: float
    peak_50: float
    peak_75: float
    peak_95: float


@dataclass(frozen=True, slots=True)
class PeakedNeuron:
    """An end of a neuron whose first token stands out."""

    neuron: Neuron
    sign: Sign
    z: Z
    token: Token
    usual: Usually = None
    name: Named = None

    JSON = ("neuron", "sign", "z", "token", "usual", "name")
    """What is there, in its order."""


@dataclass(frozen=True, slots=True)
class TokenFavour:
    """How many neurons have a token at an end."""

    token: Token
    sign: Sign
    first: Annotated[int, "Neurons where it is the first token of that end."]
    stored: Annotated[int, "Neurons where it is among the stored tokens of that end."]


@dataclass(frozen=True, slots=True)
class Overview:
    """The build as a whole."""

    layers: Annotated[tuple[LayerOverview, ...], "peak: the larger |z| of a neuron's first token at either end."]
    peaked: tuple[PeakedNeuron, ...]
    favourites: tuple[TokenFavour, ...]


@dataclass(frozen=True, slots=True)
class Generic:
    """Neurons that are in the lists of most of some varied prompts: what those do there is little about the prompt.

    Attributes:
        checkpoint: the identity of the model that they are neurons of.
        question: a hash of the prompts and of how they were explained.
        prompts: how many were explained; 0 where that was never done.
        neurons: by label, in the lists of how many.
    """

    checkpoint: str = ""
    question: str = ""
    prompts: int = 0
    neurons: Mapping[str, int] = field(default_factory=dict)

    def of(self, neuron: Neuron) -> int | None:
        """In the lists of how many prompts a neuron is; None where that is not most of them."""
        return self.neurons.get(neuron.label)

    def words(self, neuron: Neuron) -> str:
        """The same as a remark; empty where the neuron is not generic."""
        count = self.of(neuron)
        return "" if count is None else f"generic: in the lists on {count} of {self.prompts} prompts"
