"""The charts of a comparison, each with the data frame it is drawn from, for downloads."""

from typing import TYPE_CHECKING

from app.drawing import plot_charts
from app.drawing.palette import KIND_NAMES, KINDS, NEUTRAL
from app.drawing.plot_parts import Words
from app.drawing.prompt_charts import Drawn, subject

if TYPE_CHECKING:
    from app.attribution.compare import Comparison

_CHANGE = "Δ score (nats)"
_SIDES = ("second lower", "second higher")


def layers(found: "Comparison", prompts: tuple[str, str]) -> Drawn:
    """What changed in each layer."""
    from app.attribution.compare_forms import layers_frame

    frame = layers_frame(found)
    drawn = frame.rename(columns={"delta_score": "score"})
    return Drawn(plot_charts.layers(drawn, Words("Changed layers", _below(prompts), _CHANGE, _SIDES)), frame)


def both_layers(found: "Comparison", part: str, prompts: tuple[str, str]) -> Drawn:
    """Attention or FFN of each layer in both runs."""
    from app.attribution.compare_forms import layers_frame

    frame = layers_frame(found)
    frame = frame[frame["part"] == part]
    pairs = frame.melt(["layer"], ["score_1", "score_2"], "run", "score")
    pairs["run"] = pairs["run"].map({"score_1": "first run", "score_2": "second run"})
    name = KIND_NAMES[part]
    words = Words(f"{name[0].upper()}{name[1:]} in both runs", _below(prompts))
    colours = {"first run": NEUTRAL, "second run": KINDS[part]}
    return Drawn(plot_charts.layers_of_runs(pairs, colours, words), frame)


def heads(found: "Comparison", prompts: tuple[str, str]) -> Drawn:
    """What changed in each head."""
    from app.attribution.compare_forms import heads_frame

    frame = heads_frame(found)
    drawn = frame.rename(columns={"delta_score": "score"})
    return Drawn(plot_charts.heads(drawn, Words("Changed heads", _below(prompts), _CHANGE, _SIDES)), frame)


def _below(prompts: tuple[str, str]) -> str:
    first, second = prompts
    return subject(first) if first == second else f"{subject(first)} → {subject(second)}"
