"""Which neurons a token search shows and in which order: one object yields both the SQL and the English sentence."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, FromClause, func

from db.catalogue.schema import KIND_CODES, SIGN_CODES
from db.errors import AtlasError
from db.neuron import NeuronKind, Sign
from db.records import Token
from db.token_text import shorten

_Choice = TypeVar("_Choice", bound=StrEnum)
_NAMED_TOKENS = 3


class Order(StrEnum):
    """What ranks the hits."""

    Z = "z"
    RANK = "rank"
    LOGIT = "logit"


def z_score(pairs: FromClause, neurons: FromClause) -> ColumnElement[float]:
    """(logit − mean) / std of the neuron the row belongs to; 0 where all its logits are equal."""
    return func.coalesce((pairs.c.logit - neurons.c.mean) / func.nullif(neurons.c.std, 0.0), 0.0)


@dataclass(frozen=True, slots=True)
class Filters:
    """Conditions and order of a token search. ``sign``, ``kind`` and ``order`` may be given as their text.

    Raises:
        AtlasError: a value that cannot be meant, or two that exclude each other.
    """

    sign: Sign | None = None
    """Only this end; both by default."""
    kind: NeuronKind | None = None
    layers: tuple[int, int] | None = None
    """First and last layer, both included."""
    head: int | None = None
    """Attention neurons of this head only."""
    min_z: float | None = None
    """Least z in the sign's own direction: promoted tokens have z ≥ min_z, suppressed ones z ≤ −min_z."""
    max_rank: int | None = None
    """Only the first so many tokens of each end."""
    order: Order = Order.Z

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
        if self.min_z is not None and not math.isfinite(self.min_z):
            raise AtlasError(f"The least z must be a number such as 3.5, not {self.min_z}.")
        if self.max_rank is not None and self.max_rank < 1:
            raise AtlasError(f"The largest rank must be 1 or more, not {self.max_rank}: ranks count from 1.")

    def pair_conditions(self, pairs: FromClause) -> list[ColumnElement[bool]]:
        """The part of the conditions that a row of ``token_neuron`` answers by itself: sign, rank and z."""
        found: list[ColumnElement[bool]] = []
        if self.sign is not None:
            found.append(pairs.c.sign == SIGN_CODES[self.sign])
        if self.max_rank is not None:
            found.append(pairs.c.rank <= self.max_rank)
        if self.min_z is not None:
            found.append(pairs.c.z * pairs.c.sign >= self.min_z)
        return found

    def neuron_conditions(self, neurons: FromClause) -> list[ColumnElement[bool]]:
        """The part that concerns the neuron: kind, layers, head."""
        found: list[ColumnElement[bool]] = []
        if self.kind is not None:
            found.append(neurons.c.kind == KIND_CODES[self.kind])
        if self.layers is not None:
            found.append(neurons.c.layer.between(*self.layers))
        if self.head is not None:
            found.append(neurons.c.head == self.head)
        return found

    def ordering(self, pairs: FromClause, neurons: FromClause) -> list[ColumnElement[Any]]:
        """Best first, to the last tie: strength counts in the sign's own direction, so that both ends mix fairly."""
        strength = pairs.c.z * pairs.c.sign
        first: dict[Order, list[ColumnElement[Any]]] = {
            Order.Z: [strength.desc(), pairs.c.rank],
            Order.RANK: [pairs.c.rank, strength.desc()],
            Order.LOGIT: [((pairs.c.z * neurons.c.std + neurons.c.mean) * pairs.c.sign).desc(), pairs.c.rank],
        }
        return [*first[self.order], pairs.c.neuron_id, pairs.c.token_id]

    def describe(self, tokens: Sequence[Token]) -> str:
        """The search as an English sentence, such as “FFN neurons of layers 20–29 that promote “␣Paris”, by z”."""
        return f"{self.sentence(token_words(tokens))}, by {self.order}"

    def sentence(self, what: str) -> str:
        """The conditions as a sentence about what the neurons promote or suppress, without the order."""
        verb = {Sign.PROMOTES: "promote", Sign.SUPPRESSES: "suppress", None: "promote or suppress"}[self.sign]
        parts = [self._subject(), f"that {verb} {what}"]
        if self.max_rank is not None:
            parts.append("as their first token" if self.max_rank == 1 else f"among their first {self.max_rank} tokens")
        if self.min_z is not None:
            end = {Sign.PROMOTES: "z", Sign.SUPPRESSES: "−z", None: "|z|"}[self.sign]
            parts.append(f"with {end} ≥ {self.min_z:g}")
        return " ".join(parts)

    def _subject(self) -> str:
        attention = self.head is not None or self.kind is NeuronKind.ATTENTION
        subject = "Attention neurons" if attention else "FFN neurons" if self.kind else "Neurons"
        if self.head is not None:
            subject += f" of head {self.head}"
        if self.layers is not None:
            low, high = self.layers
            subject += f" of layer {low}" if low == high else f" of layers {low}–{high}"
        return subject


def _choice(choices: type[_Choice], name: str, value: str) -> _Choice:
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
