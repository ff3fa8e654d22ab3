"""Each page's state, by the page's name."""

from typing import Any

from app.state.compare_selection import CompareSelection
from app.state.saved_selection import SavedSelection
from app.state.selection import ManySelection, NeuronSelection, OverviewSelection, PromptSelection, SearchSelection
from app.state.selection import TokenSelection as Token

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
