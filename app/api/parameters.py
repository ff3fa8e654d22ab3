"""What the API takes: the options of ``python -m db``, by the same names and with the same defaults, each bounded."""

from argparse import Namespace
from collections.abc import Sequence
from typing import Annotated
from urllib.parse import unquote_to_bytes

from fastapi import Path, Request
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from app.api.problems import MalformedError
from db.catalogue import MAX_CONCEPT
from db.filters import Order
from db.neuron import NeuronKind, Sign
from db.vocabulary import MAX_TEXT

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
