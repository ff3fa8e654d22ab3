"""What the answers look like, for the OpenAPI document. The answers themselves are made where the shell's are made."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

_Text = Field(description="The token's text as it is; ⟨E4⟩ and the like where its bytes are not valid UTF-8.")
_Label = Field(description="The neuron's label, such as L28.F29 or L21.H19.N7.")
_Z = Field(description="(logit − mean) / standard deviation of the neuron's own logits.")
_Logit = Field(description="Logit of the token under the neuron's value vector.")
SignName = Literal["promotes", "suppresses"]
KindName = Literal["ffn", "attention"]


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Hit(_Shape):
    """A token at one end of a neuron."""

    neuron: str = _Label
    sign: SignName
    token: str = _Text
    token_id: int
    rank: int = Field(description="From 1, the most extreme token of that end.")
    logit: float = _Logit
    z: float = _Z


class EndToken(_Shape):
    """A token of a neuron's card."""

    token_id: int
    token: str = _Text
    logit: float = _Logit
    z: float = _Z


class Neuron(_Shape):
    """All that is stored of one neuron."""

    neuron: str = _Label
    kind: KindName
    layer: int
    mean: float = Field(description="Of its logits over the vocabulary.")
    std: float = Field(description="Of the same, population standard deviation.")
    norm: float = Field(description="Euclidean norm of the value vector.")
    top: list[EndToken] = Field(description="Promoted tokens, highest logit first.")
    bottom: list[EndToken] = Field(description="Suppressed tokens, lowest logit first.")


class SimilarNeuron(_Shape):
    """A neuron that shares tokens with another."""

    neuron: str = _Label
    similarity: float = Field(description="From 0, nothing shared, to 1, the same tokens at the same ranks.")
    opposite: bool = Field(description="What one promotes the other suppresses.")
    shared: list[str] = Field(description="Texts of the tokens of both.")


class ConceptToken(_Shape):
    """A token of a concept."""

    token_id: int
    token: str = _Text
    weight: float = Field(description="From −1 to 1; negative where it is to be avoided.")


class ConceptEnd(_Shape):
    """An end of a neuron that covers a concept."""

    neuron: str = _Label
    sign: SignName
    score: float = Field(description="Comparable within one concept.")
    matched: list[str] = Field(description="Texts of the concept's tokens at this end, by rank.")


class Concept(_Shape):
    """A concept and the neurons that cover it."""

    tokens: list[ConceptToken]
    unmatched: list[str] = Field(description="Words that are no token of the model.")
    neurons: list[ConceptEnd] = Field(description="Best first.")


class Neighbour(_Shape):
    """A token near another."""

    token_id: int
    token: str = _Text
    cosine: float


class TokenLayer(_Shape):
    """How many neurons of a layer and kind have a token."""

    layer: int
    kind: KindName
    sign: SignName
    neurons: int


class Token(_Shape):
    """A token: its neighbours, and the neurons that have it."""

    token_id: int
    token: str = _Text
    neighbours: list[Neighbour]
    neighbour_of: int = Field(description="Of how many tokens this one is a neighbour.")
    promotes: list[Hit]
    suppresses: list[Hit]
    layers: list[TokenLayer]


class OverviewLayer(_Shape):
    """Quantiles, in percent, over the neurons of a layer and kind."""

    layer: int
    kind: KindName
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


class PeakedEnd(_Shape):
    """An end of a neuron whose first token stands out."""

    neuron: str = _Label
    sign: SignName
    z: float = _Z
    token: str = _Text


class Favourite(_Shape):
    """How many neurons have a token at an end."""

    token_id: int
    token: str = _Text
    sign: SignName
    first: int = Field(description="Neurons where it is the first token of that end.")
    stored: int = Field(description="Neurons where it is among the stored tokens of that end.")


class Overview(_Shape):
    """The build as a whole."""

    layers: list[OverviewLayer] = Field(description="peak: the larger |z| of a neuron's first token at either end.")
    peaked: list[PeakedEnd]
    favourites: list[Favourite]


class Build(_Shape):
    """One build of a catalogue."""

    model: str
    current: bool
    build_id: str | None
    created_at: str | None
    neurons: int | None
    depth: int | None = Field(description="Tokens stored at each end of a neuron.")
    bytes: int
    path: str = Field(description="From the folder of the catalogues.")
    problem: str | None = Field(description="Why the build cannot be read, where it cannot.")


class Model(_Shape):
    """A model and its current build; the fields but its name are null where that cannot be read."""

    model: str
    build_id: str | None
    created_at: str | None
    family: str | None
    layers: int | None
    heads: int | None = Field(description="A layer.")
    d_model: int | None
    vocabulary: int | None = Field(description="Token ids run from 0 to one less.")
    ffn_neurons: int | None = Field(description="In the whole model.")
    attention_neurons: int | None = Field(description="In the whole model.")
    depth: int | None = Field(description="Tokens stored at each end of a neuron.")
    problem: str | None = Field(description="Why the build cannot be read, where it cannot.")
    first: bool = Field(description="Whether this model answers where none is named.")
