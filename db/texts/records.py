"""What a file of texts answers: the fields of each record once, with what they mean.

A document is one text of the corpus, a window a run of at most so many tokens of one document. An activation is what
multiplies the neuron's value vector. An activation is active from a stated share of the neuron's greatest |activation|.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from db.neuron import Neuron, Sign
from db.records import TEXTS, Named, Spread, Token, Usually, spread
from db.token_text import legible

BEFORE, AFTER = 23, 8
"""Tokens of an excerpt around its peak, at most: they are cut at the window's ends."""
EXCERPT_TOKENS = BEFORE + 1 + AFTER
SKETCH = 512
"""Sums that all of a neuron's activations are dealt out to with random signs: two neurons' tell how these correlate."""


@dataclass(frozen=True, slots=True)
class TextsStamp:
    """One row of the table ``texts``; the fields are its columns."""

    texts_id: str
    """Letters, digits, ``.``, ``_``, ``-``: part of the file's name."""
    schema_version: int
    code_version: str
    created_at: str
    """ISO 8601, UTC."""
    model: str
    checkpoint: str
    """Its identity: the texts belong to every build of that checkpoint, and to no other."""
    tokenizer_hash: str
    corpus: str
    """Its name."""
    description: str
    corpus_hash: str
    """Of the documents' texts in order."""
    column: str | None
    split: str | None
    licence: str | None
    own_words: bool
    """Whether the model wrote the corpus itself."""
    documents: int
    windows: int
    tokens_seen: int
    window: int
    """Tokens of a window, at most."""
    excerpts: int
    """Kept at each sign of a neuron, at most."""
    share: float
    """Of a neuron's greatest |activation|, from which it counts as active."""
    attention: bool
    """Whether attention neurons were looked at."""

    @property
    def words(self) -> str:
        """What the texts are, for a sentence."""
        whose = "the model’s own words" if self.own_words else f"the corpus {self.corpus}"
        return f"{self.tokens_seen:,} tokens of {whose}"


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Tokens around a peak of a neuron's activation."""

    peak: Annotated[float, "The activation at the peak, exact; those around it have three digits."]
    document: Annotated[int, "From 0, in the corpus' order."]
    position: Annotated[int, "Of the peak in its window, from 0."]
    tokens: Annotated[tuple[Token, ...], TEXTS, "Texts of the tokens, in order."]
    activations: Annotated[tuple[float, ...], "Of the neuron, one for each token."]
    first: Annotated[int, "Position in the window of the first token shown."]
    window: Annotated[int, "Number of the window, from 0 in the corpus' order."]
    gate: Annotated[str | None, "Sign of the gate at the peak, + or -; null where the FFN has none."]

    @property
    def peak_at(self) -> int:
        """Place of the peak among the tokens."""
        return self.position - self.first

    def marked(self, form: Literal["text", "display"]) -> str:
        """The tokens together, in one of their forms, with the peak in ⟦brackets⟧."""
        shown: list[str] = [getattr(token, form) for token in self.tokens]
        shown[self.peak_at] = f"⟦{shown[self.peak_at]}⟧"
        return "".join(shown)


@dataclass(frozen=True, slots=True)
class SignCase:
    """The tokens at which the gate and the up projection of a gated FFN have certain signs."""

    gate: Annotated[str, "Sign of the gate before its function: + or -."]
    up: Annotated[str, "Sign of the up projection: + or -."]
    share: Annotated[float, "Of all tokens seen."]
    mean: Annotated[float | None, "Mean activation at these tokens; null where there are none."]
    strongest: Annotated[float | None, "The activation of greatest size at these tokens."]


@dataclass(frozen=True, slots=True)
class HistogramBin:
    """How many activations lie between two values."""

    low: float
    high: float
    count: int


@dataclass(frozen=True, slots=True)
class Usual:
    """Which end of a neuron is usually active. A neuron that is never active has none."""

    sign: Sign
    """The end whose tokens it usually promotes by being active."""
    share: float
    """Of its active tokens, those at which it is so."""
    rate: float
    """Active tokens among all."""


@dataclass(frozen=True, slots=True)
class Name:
    """A short label, made from tokens and texts without any model."""

    text: Annotated[str | None, "The label; null: there is no clear name."]
    rule: Annotated[str | None, "How it was found."]
    confidence: Annotated[float | None, "From 0 to 1."]
    sign: Annotated[Sign | None, "The end that it describes."]


NO_NAME = Name(None, None, None, None)


@dataclass(frozen=True, slots=True)
class Mark:
    """What is told of a neuron wherever it is listed."""

    usual: Usual | None
    name: Name

    @property
    def sign(self) -> Sign | None:
        """The usual end; None where the neuron is never active."""
        return None if self.usual is None else self.usual.sign


@dataclass(frozen=True, slots=True)
class Description:
    """What a language model said of one neuron, where somebody asked one: `python -m indexer describe`."""

    neuron: str
    """Its label."""
    checkpoint: str
    texts_id: str
    """The texts it was shown."""
    text: Annotated[str, "What a language model said of it, if one was asked."]
    score: Annotated[
        float | None, "Rank correlation of what the description predicts with held-out activations; null: not known."
    ]
    by: Annotated[str, "The name of that model."]

    @property
    def line(self) -> str:
        """By whom it is, what it says, and how far that holds."""
        score = "not scored" if self.score is None else f"score {self.score:.2f}"
        return f"described by {legible(self.by)}: {legible(self.text)} ({score})"


@dataclass(frozen=True, slots=True)
class NeuronTexts:
    """What activates a neuron, over a corpus."""

    neuron: Neuron
    tokens_seen: Annotated[int, "In the whole corpus."]
    rate: Annotated[float, "Share of all tokens at which the neuron is active."]
    mean: Annotated[float, "Mean activation over all tokens."]
    std: Annotated[float, "Of the same, population standard deviation."]
    positive_share: Annotated[float, "Share of all tokens with an activation above 0."]
    positive: Annotated[tuple[Excerpt, ...], "Strongest positive excerpts, strongest first."]
    negative: Annotated[tuple[Excerpt, ...], "Strongest negative excerpts, strongest first."]
    active_above: Annotated[float, "The neuron is active where |activation| is this or more."]
    active_positive_share: Annotated[float | None, "Share of active tokens with an activation above 0."]
    usual: Usually
    highest: float
    lowest: float
    cases: Annotated[tuple[SignCase, ...], "The four cases of a gated FFN; empty for others."]
    histogram: Annotated[tuple[HistogramBin, ...], "From the lowest activation; empty bins are left out."]
    name: Annotated[Name, Spread(name="text", name_rule="rule", name_confidence="confidence")]
    description: Annotated[
        Description | None, Spread(description="text", description_score="score", described_by="by")
    ] = None

    def at(self, sign: Sign) -> tuple[Excerpt, ...]:
        """The excerpts at which the neuron promotes the tokens of one end."""
        return self.positive if sign is Sign.PROMOTES else self.negative


@dataclass(frozen=True, slots=True)
class FoundExcerpt:
    """An excerpt that holds certain words."""

    neuron: Neuron
    sign: Annotated[Sign, "Which end the neuron's activation promotes there."]
    z: Annotated[float, "(peak − mean) / standard deviation of the neuron's activations."]
    excerpt: Annotated[Excerpt, spread("peak", "document", "position", "tokens", "activations", "first", "window")]
    usual: Usually = None
    name: Named = None


@dataclass(frozen=True, slots=True)
class NamedNeuron:
    """A neuron and its name."""

    neuron: Neuron
    name: Annotated[Name, Spread(name="text", name_rule="rule", name_confidence="confidence")]
    usual: Usually
    rate: Annotated[float, "Share of all tokens at which the neuron is active."]
