"""One prompt, explained: which layers, heads and neurons raised the target token. A plain library; knows no Streamlit.

>>> from app.attribution import analyse, load
>>> model = load("demo")
>>> analysis = analyse(model, "The capital of France is", top=10)
>>> analysis.ffn_value_neurons[0]
"""

from app.attribution.analysis import analyse, explain, load, predict
from app.attribution.results import Analysis
from app.attribution.run import PromptRun, run_prompt
from app.attribution.settings import Settings
from indexer.unembedding import Conventions

__all__ = ["Analysis", "Conventions", "PromptRun", "Settings", "analyse", "explain", "load", "predict", "run_prompt"]
