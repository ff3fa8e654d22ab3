"""The whole state of a page as one immutable value, and as the query parameters of its address.

A parameter at its default is left out. Reading never fails: what cannot be meant falls back to the default, and a
notice says so. Whether a token or a neuron exists is the catalogue's to say, and reading is told its limits.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from db.filters import Order
from db.neuron import NeuronKind, Sign
from db.token_text import display, shorten

MAX_TEXT = 1000
MAX_PROMPT = 8000
MAX_TOKENS = 64
MAX_TOP = 1000
DEFAULT_TOP = 300
PAGE_ROWS = 50
_MAX_PAGE = 100_000

_INTEGER = re.compile(r"-?[0-9]{1,9}")
_Choice = TypeVar("_Choice", bound=StrEnum)


class Rule(StrEnum):
    """The conventions of an analysis."""

    EXACT = "exact"
    NOTEBOOK = "notebook"


@dataclass(frozen=True, slots=True)
class Limits:
    """What the loaded model has; token ids and layers count from 0."""

    vocabulary: int
    layers: int


@dataclass(frozen=True, slots=True)
class SearchSelection:
    """The search page."""

    text: str = ""
    tokens: tuple[int, ...] | None = None
    """The tokens searched for; None are all that the text stands for."""
    sign: Sign | None = None
    kind: NeuronKind | None = None
    layers: tuple[int, int] | None = None
    order: Order = Order.Z
    page: int = 1

    def params(self) -> dict[str, str]:
        """The query parameters."""
        found = {
            "q": self.text,
            "t": "" if self.tokens is None else ",".join(map(str, self.tokens)) or "none",
            "sign": self.sign or "",
            "kind": self.kind or "",
            "layers": "" if self.layers is None else f"{self.layers[0]}-{self.layers[1]}",
            "order": "" if self.order is Order.Z else self.order,
            "page": "" if self.page == 1 else str(self.page),
        }
        return {name: str(value) for name, value in found.items() if value}

    @classmethod
    def read(cls, params: Mapping[str, str], limits: Limits) -> "tuple[SearchSelection, list[str]]":
        """The selection that the parameters stand for, and a notice for each that could not be used."""
        reader = _Reader(params)
        return (
            cls(
                text=reader.text("q", MAX_TEXT),
                tokens=reader.tokens("t", limits.vocabulary),
                sign=reader.choice("sign", Sign),
                kind=reader.choice("kind", NeuronKind),
                layers=reader.span("layers", limits.layers),
                order=reader.choice("order", Order) or Order.Z,
                page=reader.integer("page", 1, _MAX_PAGE) or 1,
            ),
            reader.notices,
        )


@dataclass(frozen=True, slots=True)
class PromptSelection:
    """The prompt page."""

    prompt: str = ""
    target: int | None = None
    """A token id; None is the top prediction."""
    position: int | None = None
    """From 0; None is the last token."""
    top: int = DEFAULT_TOP
    rule: Rule = Rule.EXACT

    def params(self) -> dict[str, str]:
        """The query parameters."""
        found = {
            "p": self.prompt,
            "target": "" if self.target is None else str(self.target),
            "at": "" if self.position is None else str(self.position),
            "k": "" if self.top == DEFAULT_TOP else str(self.top),
            "rule": "" if self.rule is Rule.EXACT else str(self.rule),
        }
        return {name: value for name, value in found.items() if value}

    @classmethod
    def read(cls, params: Mapping[str, str], limits: Limits) -> "tuple[PromptSelection, list[str]]":
        """The selection that the parameters stand for, and a notice for each that could not be used."""
        reader = _Reader(params)
        return (
            cls(
                prompt=reader.text("p", MAX_PROMPT),
                target=reader.integer("target", 0, limits.vocabulary - 1),
                position=reader.integer("at", 0, MAX_PROMPT),
                top=reader.integer("k", 1, MAX_TOP) or DEFAULT_TOP,
                rule=reader.choice("rule", Rule) or Rule.EXACT,
            ),
            reader.notices,
        )


@dataclass(frozen=True, slots=True)
class NeuronSelection:
    """The neuron page."""

    label: str = ""
    """As typed; whether it names a neuron is the catalogue's to say."""
    origin: PromptSelection = PromptSelection()
    """The prompt from which the neuron was opened; an empty one where it was not."""

    def params(self) -> dict[str, str]:
        """The query parameters."""
        return ({"n": self.label} if self.label else {}) | (self.origin.params() if self.origin.prompt else {})

    @classmethod
    def read(cls, params: Mapping[str, str], limits: Limits) -> "tuple[NeuronSelection, list[str]]":
        """The selection that the parameters stand for, and a notice for each that could not be used."""
        reader = _Reader(params)
        label = reader.text("n", 40).strip()
        origin, notices = PromptSelection.read(params, limits)
        return cls(label, origin if origin.prompt else PromptSelection()), reader.notices + notices


class _Reader:
    """Takes parameters one by one; collects a notice for each that is unusable."""

    def __init__(self, params: Mapping[str, str]) -> None:
        self._params = params
        self.notices: list[str] = []

    def _refuse(self, name: str, expected: str) -> None:
        given = shorten(display(self._params[name][:200].encode("utf-8", "replace")), 40)
        self.notices.append(f"In the address, {name}={given} was left out: {expected}.")

    def text(self, name: str, longest: int) -> str:
        value = self._params.get(name, "")
        if len(value) > longest:
            self._refuse(name, f"it has {len(value):,} characters, and at most {longest:,} are read")
            return ""
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            self._refuse(name, "it is not valid Unicode")
            return ""
        return value

    def integer(self, name: str, low: int, high: int) -> int | None:
        value = self._params.get(name)
        if value is None:
            return None
        if _INTEGER.fullmatch(value) and low <= int(value) <= high:
            return int(value)
        self._refuse(name, f"a whole number from {low} to {high} was expected")
        return None

    def choice(self, name: str, choices: type[_Choice]) -> _Choice | None:
        value = self._params.get(name)
        if value is None:
            return None
        try:
            return choices(value)
        except ValueError:
            self._refuse(name, "it can be " + " or ".join(map(str, choices)))
            return None

    def span(self, name: str, layers: int) -> tuple[int, int] | None:
        value = self._params.get(name)
        if value is None:
            return None
        low, _, high = value.partition("-")
        if _INTEGER.fullmatch(low) and _INTEGER.fullmatch(high) and 0 <= int(low) <= int(high) < layers:
            return int(low), int(high)
        self._refuse(name, f"first and last layer were expected, within 0-{layers - 1}")
        return None

    def tokens(self, name: str, vocabulary: int) -> tuple[int, ...] | None:
        value = self._params.get(name)
        if value is None:
            return None
        if value == "none":
            return ()
        parts = value.split(",") if len(value) <= 12 * MAX_TOKENS else []
        if 0 < len(parts) <= MAX_TOKENS and all(
            _INTEGER.fullmatch(part) and 0 <= int(part) < vocabulary for part in parts
        ):
            return tuple(dict.fromkeys(map(int, parts)))
        self._refuse(
            name, f"up to {MAX_TOKENS} token ids from 0 to {vocabulary - 1} were expected, with commas between"
        )
        return None
