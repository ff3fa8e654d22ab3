"""One prompt, explained: which layers, heads and neurons raised the target token. A plain library; knows no Streamlit.

>>> from app.attribution import analyse, load
>>> model = load("demo")
>>> analysis = analyse(model, "The capital of France is", top=10)
>>> analysis.ffn_value_neurons[0]

Each name is imported when it is first asked for: torch takes seconds, and stored results are read without it.
"""

from typing import TYPE_CHECKING

from db.lazy import lazy_names

if TYPE_CHECKING:
    from app.attribution.analysis import analyse, explain, load
    from app.attribution.prompt import Settings
    from app.attribution.results import Analysis
    from app.attribution.run import PromptRun, run_prompt
    from indexer.architecture import Conventions

__all__ = ["Analysis", "Conventions", "PromptRun", "Settings", "analyse", "explain", "load", "run_prompt"]

__getattr__ = lazy_names(
    __name__,
    {
        "app.attribution.analysis": ("analyse", "explain", "load"),
        "app.attribution.prompt": ("Settings",),
        "app.attribution.results": ("Analysis",),
        "app.attribution.run": ("PromptRun", "run_prompt"),
        "indexer.architecture": ("Conventions",),
    },
)
