"""The charts of an explained prompt, each with the data frame it is drawn from: for downloads and for the report."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from app.answers.reading import Reading
from app.charts import catalogue_charts, printed
from app.charts.pictures import WIDTH, Chart
from app.charts.style import KIND_NAMES, KINDS, NEUTRAL, Words
from db.token_text import display, shorten

if TYPE_CHECKING:
    from app.attribution.compare import Comparison
    from app.attribution.results import Flow, Query


LENS_POSITIONS = 40
"""More do not fit into a picture; the last are shown."""
_MARGIN, _CELL, _STEP = 90, 84, 24
"""Of the logit lens, and between the flow's positions, in pixels."""
_READERS = {
    "attention": "What the top attention value neurons read",
    "ffn": "What the top FFN value neurons read",
    "ffn up": "What the top FFN value neurons read by their up row",
}


@dataclass(frozen=True)
class Drawn:
    """A chart and its numbers."""

    chart: Chart
    data: pd.DataFrame
    width: int = WIDTH
    """In pixels."""


def predictions(reading: Reading) -> Drawn:
    """The most probable next tokens."""
    from app.attribution.frames import predictions_frame

    analysis = reading.analysis
    words = Words("Next tokens", f"{_prompt(reading)}, {analysis.model}")
    frame = predictions_frame(analysis)
    return Drawn(printed.predictions(frame, analysis.target.token.id, words), frame)


def layers(reading: Reading) -> Drawn:
    """Attention beside FFN."""
    from app.attribution.frames import layers_frame

    frame = layers_frame(reading.source)
    return Drawn(printed.layers(frame, _words(reading, "Layers")), frame)


def flow(reading: Reading, found: "Flow") -> Drawn:
    """What heads moved to the explained position, and from where."""
    from app.attribution.frames import flow_frame

    analysis, frame = reading.analysis, flow_frame(found)
    words = _words(reading, f"The {len(frame)} strongest moves of heads")
    tokens = [token.display for token in analysis.tokens[: analysis.position + 1]]
    chart = printed.flow(frame, tokens, analysis.position, analysis.heads.shape[0], words)
    return Drawn(chart, frame, max(WIDTH, _MARGIN + _STEP * len(tokens)))


def heads(reading: Reading) -> Drawn:
    """Heads by layers."""
    from app.attribution.frames import heads_frame

    frame = heads_frame(reading.source)
    return Drawn(printed.heads(frame, _words(reading, "Attention heads")), frame)


def heads_of_layer(reading: Reading, layer: int) -> Drawn:
    """The heads of one layer."""
    from app.attribution.frames import heads_frame

    frame = heads_frame(reading.source)
    frame = frame[frame["layer"] == layer]
    return Drawn(printed.heads_of_layer(frame, _words(reading, f"Heads of layer {layer}")), frame)


def lens(frame: pd.DataFrame, subject: str) -> Drawn:
    """The logit lens; columns as of `frames.lens_frame`. subject: of which prompt, in display form."""
    shown = frame[frame["position"] > int(frame["position"].max()) - LENS_POSITIONS] if len(frame) else frame
    words = Words("Logit lens: the most probable token", subject, "probability of the target")
    return Drawn(printed.lens(shown, words), frame, max(WIDTH, _MARGIN + _CELL * shown["position"].nunique()))


def query_layers(query: "Query") -> dict[str, Drawn]:
    """Which sub-layers wrote what the value neurons read: a chart for each kind of reader, by its title."""
    from app.attribution.frames import query_layers_frame

    frame = query_layers_frame(query)
    names = list(dict.fromkeys(frame["readers"]))
    gated = "ffn up" in names
    found = {}
    for name in names:
        rows = frame[frame["readers"] == name]
        title = _READERS[name] + (" by their gate" if gated and name == "ffn" else "")
        found[title] = Drawn(catalogue_charts.query_layers(rows, title), rows)
    return found


def subject(prompt: str) -> str:
    """A prompt in a chart's second line.

    >>> subject("The capital")
    '“The capital”'
    """
    return f"“{shorten(display(prompt.encode('utf-8', 'replace')).replace('␣', ' '), 70)}”"


def _prompt(reading: Reading) -> str:
    return subject(reading.analysis.prompt)


def _words(reading: Reading, part: str) -> Words:
    analysis, contrast = reading.analysis, reading.analysis.contrast
    target = shorten(analysis.target.token.display, 20)
    if contrast is None:
        below = f"increase of log p(“{target}”) after {_prompt(reading)}, {analysis.model}"
    else:
        other = shorten(contrast.distractor.token.display, 20)
        below = f"share of log p(“{target}”) − log p(“{other}”) after {_prompt(reading)}, {analysis.model}"
    return Words(part, below, reading.unit, reading.sides)


# The charts of a comparison, each with the data frame it is drawn from, for downloads.

_CHANGE = "Δ score (nats)"
_SIDES = ("second lower", "second higher")


def changed_layers(found: "Comparison", prompts: tuple[str, str]) -> Drawn:
    """What changed in each layer."""
    from app.attribution.comparison import layers_frame

    frame = layers_frame(found)
    drawn = frame.rename(columns={"delta_score": "score"})
    return Drawn(printed.layers(drawn, Words("Changed layers", _below(prompts), _CHANGE, _SIDES)), frame)


def both_layers(found: "Comparison", part: str, prompts: tuple[str, str]) -> Drawn:
    """Attention or FFN of each layer in both runs."""
    from app.attribution.comparison import layers_frame

    frame = layers_frame(found)
    frame = frame[frame["part"] == part]
    pairs = frame.melt(["layer"], ["score_1", "score_2"], "run", "score")
    pairs["run"] = pairs["run"].map({"score_1": "first run", "score_2": "second run"})
    name = KIND_NAMES[part]
    words = Words(f"{name[0].upper()}{name[1:]} in both runs", _below(prompts))
    colours = {"first run": NEUTRAL, "second run": KINDS[part]}
    return Drawn(printed.layers_of_runs(pairs, colours, words), frame)


def changed_heads(found: "Comparison", prompts: tuple[str, str]) -> Drawn:
    """What changed in each head."""
    from app.attribution.comparison import heads_frame

    frame = heads_frame(found)
    drawn = frame.rename(columns={"delta_score": "score"})
    return Drawn(printed.heads(drawn, Words("Changed heads", _below(prompts), _CHANGE, _SIDES)), frame)


def _below(prompts: tuple[str, str]) -> str:
    first, second = prompts
    return subject(first) if first == second else f"{subject(first)} → {subject(second)}"
