"""The whole state of a page as one immutable value, and as the query parameters of its address.

A parameter at its default is left out. Reading never fails: what cannot be meant falls back to the default, and a
notice says so (:mod:`app.address`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from app.address import MAX_TOKENS, Limits, Reader
from app.prompt_selection import DEFAULT_TOP, MAX_PROMPT, MAX_TOP, Map, Place, PromptSelection, Rule, Show
from app.search_selection import MAX_TEXT, PAGE_ROWS, By, Order, OverviewSelection, SearchSelection, TokenSelection

__all__ = [
    "DEFAULT_TOP",
    "MAX_PROMPT",
    "MAX_TEXT",
    "MAX_TOKENS",
    "MAX_TOP",
    "PAGE_ROWS",
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
MAX_MANY = 4000
"""Longest list of prompts that is put into an address; browsers and proxies take not much more."""
_MAX_PROMPTS = 1_000_000


@dataclass(frozen=True, slots=True)
class NeuronSelection:
    """The neuron page."""

    label: str = ""
    """As typed; whether it names a neuron is the catalogue's to say."""
    origin: PromptSelection = field(default_factory=PromptSelection)
    """The prompt from which the neuron was opened; an empty one where it was not."""
    trial: str = ""
    """A text the neuron is tried on; where there is none it is tried on the prompt it was opened from."""

    def params(self) -> dict[str, str]:
        """The query parameters."""
        own = {name: value for name, value in (("n", self.label), ("try", self.trial)) if value}
        return own | (self.origin.params() if self.origin.prompt else {})

    @classmethod
    def read(cls, params: Mapping[str, str], limits: Limits) -> "tuple[NeuronSelection, list[str]]":
        """The selection that the parameters stand for, and a notice for each that could not be used."""
        reader = Reader(params)
        label, trial = reader.text("n", 40).strip(), reader.text("try", MAX_TRIAL)
        origin, notices = PromptSelection.read(params, limits)
        return cls(label, origin if origin.prompt else PromptSelection(), trial), reader.notices + notices


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

    def params(self) -> dict[str, str]:
        """The query parameters; a long text is left out."""
        found = {
            "set": self.ready,
            "ps": self.text if len(self.text.encode("utf-8", "replace")) <= MAX_MANY else "",
            "role": self.role,
            "layers": _span(self.layers),
            "least": "" if self.least == 1 else str(self.least),
        }
        return {name: value for name, value in found.items() if value}

    @classmethod
    def read(cls, params: Mapping[str, str], limits: Limits) -> "tuple[ManySelection, list[str]]":
        """The selection that the parameters stand for, and a notice for each that could not be used."""
        reader = Reader(params)
        return (
            cls(
                text=reader.text("ps", MAX_MANY),
                ready=reader.text("set", 40).strip(),
                role=reader.text("role", 40).strip(),
                layers=reader.span("layers", limits.layers),
                least=reader.integer("least", 1, _MAX_PROMPTS) or 1,
            ),
            reader.notices,
        )


def _span(layers: tuple[int, int] | None) -> str:
    return "" if layers is None else f"{layers[0]}-{layers[1]}"
