"""What the API takes: the options of ``python -m db``, by the same names and with the same defaults, each bounded."""

from argparse import Namespace
from collections.abc import Sequence
from typing import Annotated, Literal
from urllib.parse import unquote_to_bytes

from fastapi import Path, Request
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from app.serving.problems import MalformedError
from db.catalogue.filters import Order
from db.catalogue.store import MAX_CONCEPT
from db.catalogue.vocabulary import MAX_TEXT
from db.neuron import NeuronKind, Sign

MOST = 1000
"""Rows of a page."""
MOST_LISTED = 200
"""Rows where the whole list is short by nature."""
DEEPEST = 1_000_000
"""Rows left out at most."""
_LARGEST_ID = 2**31 - 1
_REPEATABLE = {"add", "drop"}

Label = Annotated[
    str,
    Path(
        description="A neuron: L28.F29 is layer 28, index 29 of the FFN; L21.H19.N7 layer 21, head 19, dimension 7.",
        pattern=r"^[Ll][0-9]{1,4}\.([Ff][0-9]{1,7}|[Hh][0-9]{1,4}\.[Nn][0-9]{1,5})$",
        examples=["L2.F3", "L21.H19.N7"],
    ),
]
TokenId = Annotated[int, Field(ge=0, le=_LARGEST_ID)]


def _range(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    first, _, last = text.partition("-")
    return int(first), int(last or first)


class _Parameters(BaseModel):
    """Parameters of a question; unknown ones are refused."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="Which of several models, by the name that /v1/models gives; the server's first choice without it.",
    )

    def options(self, **more: object) -> Namespace:
        """The same as the shell's parser yields them."""
        return Namespace(**dict(self), **more)


class OneNeuron(_Parameters):
    """Of ``neuron``."""


class Builds(_Parameters):
    """Of ``builds`` and ``models``."""


class Similar(_Parameters):
    """Of ``similar``."""

    limit: int = Field(20, ge=0, le=MOST_LISTED, description="At most so many neurons.")


class OneToken(_Parameters):
    """Of ``token``."""

    text: str = Field(
        min_length=1,
        max_length=MAX_TEXT,
        description="A token; its leading space and case may differ.",
        examples=[" Paris"],
    )
    limit: int = Field(10, ge=0, le=MOST_LISTED, description="Neurons an end.")


class Overview(_Parameters):
    """Of ``overview``."""

    limit: int = Field(10, ge=0, le=MOST_LISTED, description="Neurons and tokens listed.")


class _Filtered(_Parameters):
    sign: Sign | None = Field(None, description="Only what promotes, or only what suppresses.")
    kind: NeuronKind | None = Field(None, description="Only FFN or only attention neurons.")
    layers: Annotated[str | None, Field(pattern=r"^[0-9]{1,4}(-[0-9]{1,4})?$"), AfterValidator(_range)] = Field(
        None, description="First and last layer, such as 20-29, or one layer.", examples=["0-1"]
    )
    head: int | None = Field(None, ge=0, le=9999, description="Attention neurons of this head.")
    min_z: float | None = Field(
        None, ge=-1e6, le=1e6, allow_inf_nan=False, description="Least z-score in the sign's direction."
    )
    max_rank: int | None = Field(None, ge=1, le=100_000, description="Only the first so many tokens of each end.")
    offset: int = Field(0, ge=0, le=DEEPEST, description="Leave out the first so many.")


class Search(_Filtered):
    """Of ``search``."""

    text: str = Field(
        min_length=1,
        max_length=MAX_TEXT,
        description="A token; its leading space and case may differ.",
        examples=[" Paris"],
    )
    by: Order = Field(Order.Z, description="What ranks the hits.")
    limit: int = Field(100, ge=0, le=MOST, description="At most so many hits.")


class Concept(_Filtered):
    """Of ``concept``."""

    text: str = Field(
        min_length=1,
        max_length=MAX_TEXT,
        description="Words; a minus before a word makes it one to avoid.",
        examples=["python, -code"],
    )
    widen: int | None = Field(
        None, ge=0, le=MAX_CONCEPT, description="Neighbours of the words added at most; 40 without it."
    )
    add: list[TokenId] = Field([], max_length=MAX_CONCEPT, description="Add this token, by its id. May be repeated.")
    drop: list[TokenId] = Field(
        [], max_length=MAX_CONCEPT, description="Leave this token out, by its id. May be repeated."
    )
    limit: int = Field(20, ge=0, le=MOST, description="At most so many ends of neurons.")


async def readable(request: Request) -> None:
    """Refuse a query that says something twice, or in bytes that are no text.

    Raises:
        MalformedError: it does.
    """
    try:
        unquote_to_bytes(request.scope["query_string"]).decode("utf-8")
    except UnicodeDecodeError:
        raise MalformedError("The query is not valid UTF-8: percent-encode the text's UTF-8 bytes.") from None
    repeated = _repeated([name for name, _ in request.query_params.multi_items() if name not in _REPEATABLE])
    if repeated is not None:
        raise MalformedError(f"The parameter “{repeated[:60]}” is given twice: give it once.")


def _repeated(names: Sequence[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


# What the answers look like, for the OpenAPI document. The answers themselves are made where the shell's are made.

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


class ConceptAnswer(_Shape):
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


class OverviewAnswer(_Shape):
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
