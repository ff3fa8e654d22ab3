"""The states of the search page, the token page and the overview."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from app.state.address import Limits, Reader
from db.filters import Filters
from db.filters import Order as HitOrder
from db.neuron import NeuronKind, Sign

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
