"""The whole state of a page as one immutable value, and as the query parameters of its address.

A parameter at its default is left out. Reading never fails: what cannot be meant falls back to the default, and a
notice says so (:mod:`app.state.address`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from app.state import packing
from app.state.address import MAX_TOKENS, Limits, Reader
from app.state.prompt_selection import DEFAULT_TOP, MAX_PROMPT, MAX_TOP, Map, Place, PromptSelection, Rule, Show
from app.state.search_selection import (
    MAX_TEXT,
    PAGE_ROWS,
    By,
    Order,
    OverviewSelection,
    SearchSelection,
    TokenSelection,
)

__all__ = [
    "DEFAULT_TOP",
    "MAX_PROMPT",
    "MAX_TEXT",
    "MAX_TOKENS",
    "MAX_TOP",
    "PAGE_ROWS",
    "Alike",
    "By",
    "Limits",
    "ManySelection",
    "Map",
    "NeuronSelection",
    "Order",
    "OverviewSelection",
    "Place",
    "PromptSelection",
    "Rule",
    "SearchSelection",
    "Show",
    "TokenSelection",
]

MAX_TRIAL = 2000
MAX_MANY = 40_000
"""Longest list of prompts, in characters. How much of that an address can hold depends on how well it packs."""
_MAX_PROMPTS = 1_000_000
_ROOM = packing.LONGEST_PACKED + 10


class Alike(StrEnum):
    """By what neurons are found that are like one."""

    TOKENS = "tokens"
    VALUE = "value"


@dataclass(frozen=True, slots=True)
class NeuronSelection:
    """The neuron page."""

    label: str = ""
    """As typed; whether it names a neuron is the catalogue's to say."""
    origin: PromptSelection = field(default_factory=PromptSelection)
    """The prompt from which the neuron was opened; an empty one where it was not."""
    trial: str = ""
    """A text the neuron is tried on; where there is none it is tried on the prompt it was opened from."""
    alike: Alike = Alike.TOKENS
    keys: bool = False
    """The key side is shown, even where the model has to be loaded for it."""

    def params(self) -> dict[str, str]:
        """The query parameters."""
        found = {"n": self.label, "alike": "" if self.alike is Alike.TOKENS else str(self.alike)}
        found["keys"] = "1" if self.keys else ""
        own = {name: value for name, value in found.items() if value} | packing.written("try", self.trial)
        return own | (self.origin.params() if self.origin.prompt else {})

    @classmethod
    def read(cls, params: Mapping[str, str], limits: Limits) -> "tuple[NeuronSelection, list[str]]":
        """The selection that the parameters stand for, and a notice for each that could not be used."""
        reader = Reader(params, "neuron")
        label, trial = reader.text("n", 40).strip(), reader.long_text("try", MAX_TRIAL)
        alike = reader.choice("alike", Alike) or Alike.TOKENS
        keys = bool(reader.integer("keys", 0, 1))
        origin, notices = PromptSelection.read(reader.params, limits)
        origin = origin if origin.prompt else PromptSelection()
        return cls(label, origin, trial, alike, keys), reader.notices + notices


@dataclass(frozen=True, slots=True)
class ManySelection:
    """The page of many prompts."""

    text: str = ""
    """One prompt a line, its target after a tab."""
    ready: str = ""
    """The name of a ready set; it stands for the text."""
    role: str = ""
    """Which list of neurons; the page knows which there are."""
    layers: tuple[int, int] | None = None
    least: int = 1
    """Neurons that matter in fewer prompts are left out."""

    @property
    def fits(self) -> bool:
        """Whether the text can be held by an address."""
        return packing.size(packing.written("ps", self.text)) <= _ROOM

    def params(self) -> dict[str, str]:
        """The query parameters; a text that is too long even when packed is left out."""
        found = {
            "set": self.ready,
            "role": self.role,
            "layers": _span(self.layers),
            "least": "" if self.least == 1 else str(self.least),
        }
        others = {name: value for name, value in found.items() if value}
        return others | (packing.written("ps", self.text) if self.fits else {})

    @classmethod
    def read(cls, params: Mapping[str, str], limits: Limits) -> "tuple[ManySelection, list[str]]":
        """The selection that the parameters stand for, and a notice for each that could not be used."""
        reader = Reader(params, "many")
        return (
            cls(
                text=reader.long_text("ps", MAX_MANY),
                ready=reader.text("set", 40).strip(),
                role=reader.text("role", 40).strip(),
                layers=reader.span("layers", limits.layers),
                least=reader.integer("least", 1, _MAX_PROMPTS) or 1,
            ),
            reader.notices,
        )


def _span(layers: tuple[int, int] | None) -> str:
    return "" if layers is None else f"{layers[0]}-{layers[1]}"
