"""Each page's state, by the page's name."""

from typing import Any

from app.state.selections import (
    CompareSelection,
    ManySelection,
    NeuronSelection,
    OverviewSelection,
    PromptSelection,
    SavedSelection,
    SearchSelection,
)
from app.state.selections import TokenSelection as Token

SELECTIONS: dict[str, Any] = {
    "search": SearchSelection,
    "token": Token,
    "overview": OverviewSelection,
    "neuron": NeuronSelection,
    "prompt": PromptSelection,
    "many": ManySelection,
    "compare": CompareSelection,
    "saved": SavedSelection,
}
