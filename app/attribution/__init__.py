"""One prompt, explained: which layers, heads and neurons raised the target token. A plain library; knows no Streamlit.

>>> from app.attribution import analyse, load
>>> model = load("demo")
>>> analysis = analyse(model, "The capital of France is", top=10)
>>> analysis.ffn_value_neurons[0]

Each name is imported when it is first asked for: torch takes seconds, and stored results are read without it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from app.attribution.analysis import analyse, explain, load, predict
    from app.attribution.prompt import Settings
    from app.attribution.results import Analysis
    from app.attribution.run import PromptRun, run_prompt
    from indexer.families import Conventions

_HOMES = {
    "analyse": "app.attribution.analysis",
    "explain": "app.attribution.analysis",
    "load": "app.attribution.analysis",
    "predict": "app.attribution.analysis",
    "Analysis": "app.attribution.results",
    "PromptRun": "app.attribution.run",
    "run_prompt": "app.attribution.run",
    "Settings": "app.attribution.prompt",
    "Conventions": "indexer.families",
}

__all__ = ["Analysis", "Conventions", "PromptRun", "Settings", "analyse", "explain", "load", "predict", "run_prompt"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value
