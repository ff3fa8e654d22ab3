"""The catalogue's answers: small immutable results. Logits in logits of the value vector alone, z dimensionless."""

from dataclasses import dataclass

from db.neuron import Neuron, NeuronKind, Sign
from db.token_text import display, shorten


@dataclass(frozen=True, slots=True)
class Token:
    """One row of the unembedding."""

    token_id: int
    text: str
    """The text itself; the display form where the bytes are not valid UTF-8."""
    display: str
    """Unambiguous and printable: see :mod:`db.token_text`."""
    special: bool
    """A control token, or a row of the unembedding that no token uses."""


@dataclass(frozen=True, slots=True)
class TokenMatches:
    """The tokens a search text stands for."""

    text: str
    matched: tuple[Token, ...]
    """Tokens equal to the text, or to it with or without a leading space or in another case; the exact one first."""
    pieces: tuple[Token, ...]
    """What the model's tokenizer splits the text into; empty where the build holds no tokenizer."""

    def no_match(self) -> str:
        """One sentence for a text that is no single token: what it splits into and what to do."""
        shown = f"“{shorten(display(self.text.encode()), 60)}” is not one token of this model"
        if not self.pieces:
            return f"{shown}, and this catalogue holds no tokenizer that could split it: try a shorter word."
        listed = ", ".join(f"“{shorten(piece.display)}”" for piece in self.pieces[:12])
        more = f" and {len(self.pieces) - 12} more" if len(self.pieces) > 12 else ""
        return f"{shown}; it splits into {listed}{more}. Search for one of those, or for another word."


@dataclass(frozen=True, slots=True)
class Hit:
    """A token at one end of a neuron."""

    neuron: Neuron
    sign: Sign
    rank: int
    """From 1, the most extreme token of that end."""
    token: Token
    logit: float
    """As z, mean and std give it back: to six digits that of the neuron's card."""
    z: float
    """(logit − mean) / standard deviation of the neuron's logits over the vocabulary; 0 for a constant neuron."""


@dataclass(frozen=True, slots=True)
class TokenLogit:
    """A token of a neuron's card."""

    token: Token
    logit: float
    z: float


@dataclass(frozen=True, slots=True)
class NeuronCard:
    """All that is stored of one neuron."""

    neuron: Neuron
    mean: float
    """Of its logits over the vocabulary, in logits."""
    std: float
    """Of the same, population standard deviation, in logits."""
    norm: float
    """Euclidean norm of the value vector as the model stores it."""
    top: tuple[TokenLogit, ...]
    """Promoted tokens, highest logit first."""
    bottom: tuple[TokenLogit, ...]
    """Suppressed tokens, lowest logit first."""


@dataclass(frozen=True, slots=True)
class NeuronTokens:
    """The strongest tokens of one neuron's two ends, most extreme first."""

    promotes: tuple[Token, ...]
    suppresses: tuple[Token, ...]

    def at(self, sign: Sign) -> tuple[Token, ...]:
        """Those of one end."""
        return self.promotes if sign is Sign.PROMOTES else self.suppresses


@dataclass(frozen=True, slots=True)
class MatchedToken:
    """A token of a concept at one end of a neuron."""

    token: Token
    weight: float
    """In the concept, from −1 to 1."""
    rank: int
    z: float


@dataclass(frozen=True, slots=True)
class ConceptNeuron:
    """An end of a neuron that covers a concept."""

    neuron: Neuron
    sign: Sign
    score: float
    """Sum of share · √|z| over the matched tokens (:meth:`db.concepts.Concept.shares`); comparable within a concept."""
    matched: tuple[MatchedToken, ...]
    """By rank."""


@dataclass(frozen=True, slots=True)
class SimilarNeuron:
    """A neuron that shares tokens with another."""

    neuron: Neuron
    similarity: float
    """From 0 (nothing shared) to 1 (the same tokens at the same ranks)."""
    opposite: bool
    """The tokens stand at opposite ends: what one promotes the other suppresses."""
    shared: tuple[Token, ...]
    """Tokens of both, by their rank in the neuron that was asked about; promoted ones and suppressed ones mixed."""

    @property
    def signed(self) -> float:
        """The similarity, negative where the tokens stand at opposite ends."""
        return -self.similarity if self.opposite else self.similarity


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A token near another one."""

    token: Token
    rank: int
    """From 1; corrected for hubs, so that cosines need not fall."""
    cosine: float
    """Of the folded unembedding's rows less their mean."""


@dataclass(frozen=True, slots=True)
class PeakedNeuron:
    """An end of a neuron and the token that stands out there."""

    neuron: Neuron
    sign: Sign
    z: float
    token: Token


@dataclass(frozen=True, slots=True)
class TokenFavour:
    """How many neurons have a token at an end."""

    token: Token
    sign: Sign
    first: int
    """Neurons where it is the first token of that end."""
    stored: int
    """Neurons where it is among the stored tokens of that end."""


def sign_of(code: int) -> Sign:
    """The sign that a stored code stands for (``tables.SIGN_CODES``)."""
    return Sign.PROMOTES if code > 0 else Sign.SUPPRESSES


def neuron_of(kind: int, layer: int, head: int | None, index: int) -> Neuron:
    """The neuron that stored columns stand for (``tables.KIND_CODES``)."""
    return Neuron(layer, NeuronKind.FFN if kind == 0 else NeuronKind.ATTENTION, head, index)


# What a build says about itself: which model, which unembedding, which code.


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
    """The config's ``model_type``."""
    checkpoint: str
    """Hub revision, or the hash of the weights."""
    unembedding_hash: str
    """Of the unembedding with the final norm folded in: ties the catalogue to its model."""
    tokenizer_hash: str
    layers: int
    d_model: int
    vocabulary: int
    """Rows of the unembedding; token ids run from 0 to one less."""
    ffn_neurons: int
    """In the whole model."""
    attention_neurons: int
    """In the whole model."""
    heads: int
    """A layer."""
    head_dim: int
    depth: int
    """Tokens stored at each end of a neuron."""
    tokenizer_json: str | None = None
    """The ``tokenizers`` file; absent where the tokenizer has none."""

    @property
    def ffn_width(self) -> int:
        """FFN neurons of one layer."""
        return self.ffn_neurons // self.layers

    @property
    def neurons(self) -> int:
        """FFN and attention neurons together."""
        return self.ffn_neurons + self.attention_neurons
