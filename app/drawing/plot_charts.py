"""The clickable charts (:mod:`app.drawing.plots`) once more, as Altair charts for print and for the report.

Made from the same data frames, in the same colours; what the page says in a heading beside the chart stands in its
title. Those over a prompt's positions are in :mod:`app.drawing.position_charts`.
"""

import altair as alt
import pandas as pd

from app.drawing.palette import ATTENTION, KINDS, NEUTRAL, PROMOTES
from app.drawing.plot_parts import FEW_NAMES, STRENGTH, Words, diverging, faded, legend, named, numbers, title
from db.token_text import shorten

_ROW = 22
_KIND_LABEL = "datum.label == 'ffn' ? 'FFN' : datum.label"


def predictions(frame: pd.DataFrame, target: int, words: Words) -> alt.Chart:
    """The most probable next tokens. Columns: token_id, token (display form), probability. target: the explained id."""
    rows = frame.assign(place=range(len(frame)), explained=frame["token_id"] == target)
    names = {place: shorten(token, 24) for place, token in enumerate(frame["token"])}
    chart: alt.Chart = (
        alt.Chart(rows, title=title(words))
        .mark_bar(height=alt.RelativeBandSize(0.7))
        .encode(
            y=alt.Y("place:O", axis=named(names, None), sort=None),
            x=alt.X("probability:Q", title="probability", axis=alt.Axis(format=".0%")),
            color=alt.Color(
                "explained:N",
                scale=alt.Scale(domain=[True, False], range=[PROMOTES, NEUTRAL]),
                legend=alt.Legend(
                    title=None, orient="top", symbolType="square", labelExpr="datum.value ? 'explained' : 'others'"
                ),
            ),
        )
        .properties(height=120 + _ROW * len(rows))
    )
    return chart


def layers(frame: pd.DataFrame, words: Words) -> alt.Chart:
    """Attention beside FFN. Columns: layer, part ("attention" or "ffn"), score."""
    chart: alt.Chart = (
        alt.Chart(frame, title=title(words))
        .mark_bar()
        .encode(
            x=alt.X("layer:O", axis=numbers("layer")),
            xOffset=alt.XOffset("part:N", sort=list(KINDS)),
            y=alt.Y("score:Q", title=words.unit),
            color=alt.Color(
                "part:N",
                scale=alt.Scale(domain=list(KINDS), range=list(KINDS.values())),
                legend=alt.Legend(title=None, orient="top", symbolType="square", labelExpr=_KIND_LABEL),
            ),
            tooltip=[alt.Tooltip("layer:O"), alt.Tooltip("part:N"), alt.Tooltip("score:Q", format="+.3f")],
        )
        .properties(height=320)
    )
    return chart


def layers_of_runs(frame: pd.DataFrame, colours: dict[str, str], words: Words) -> alt.Chart:
    """Two runs side by side. Columns: layer, run (one of `colours`), score."""
    chart: alt.Chart = (
        alt.Chart(frame, title=title(words))
        .mark_bar()
        .encode(
            x=alt.X("layer:O", axis=numbers("layer")),
            xOffset=alt.XOffset("run:N", sort=list(colours)),
            y=alt.Y("score:Q", title=words.unit),
            color=alt.Color(
                "run:N",
                scale=alt.Scale(domain=list(colours), range=list(colours.values())),
                legend=alt.Legend(title=None, orient="top", symbolType="square"),
            ),
        )
        .properties(height=320)
    )
    return chart


def heads(frame: pd.DataFrame, words: Words) -> alt.Chart:
    """Heads by layers, coloured around zero. Columns: layer, head, score."""
    count = frame["head"].nunique()
    chart: alt.Chart = (
        alt.Chart(frame, title=title(words))
        .mark_rect(stroke="#88888840", strokeWidth=0.5)
        .encode(
            x=alt.X("layer:O", axis=numbers("layer")),
            y=alt.Y("head:O", axis=numbers("head")),
            color=diverging("score", float(frame["score"].abs().max()), words),
            tooltip=[alt.Tooltip("layer:O"), alt.Tooltip("head:O"), alt.Tooltip("score:Q", format="+.3f")],
        )
        .properties(height=150 + _ROW * min(count, 40))
    )
    return chart


def heads_of_layer(frame: pd.DataFrame, words: Words) -> alt.Chart:
    """The heads of one layer. Columns: head, score."""
    chart: alt.Chart = (
        alt.Chart(frame, title=title(words))
        .mark_bar(color=ATTENTION)
        .encode(x=alt.X("head:O", axis=numbers("head")), y=alt.Y("score:Q", title=words.unit))
        .properties(height=280)
    )
    return chart


def lens(frame: pd.DataFrame, words: Words) -> alt.LayerChart | alt.FacetChart:
    """The logit lens, the output on top. Columns: layer, position, token, top, target_probability."""
    last = int(frame["layer"].max()) if len(frame) else 0
    bottom = frame[frame["layer"] == last]
    names = {
        place: f"{place} {shorten(token, 12)}" for place, token in zip(bottom["position"], bottom["token"], strict=True)
    }
    lines = {layer: "output" if layer == last else str(layer) for layer in range(last + 1)}
    rows = frame.assign(label=[shorten(token, 12) for token in frame["top"]])
    base = alt.Chart(rows).encode(
        x=alt.X("position:O", axis=named(names, "position and its token", flat=len(names) <= FEW_NAMES)),
        y=alt.Y("layer:O", axis=named(lines, "into layer"), sort="descending"),
    )
    cells = base.mark_rect(stroke="#88888840", strokeWidth=0.5).encode(
        color=alt.Color(
            "target_probability:Q",
            scale=alt.Scale(type="sqrt", domain=[0, 1], range=[faded(PROMOTES, 0), faded(PROMOTES, STRENGTH)]),
            legend=legend(words.unit, [0, 0.05, 0.25, 0.5, 1], ".0%"),
        )
    )
    text = base.mark_text(font="monospace", fontSize=10).encode(text="label:N")
    return alt.layer(cells, text, title=title(words)).properties(height=150 + 20 * (last + 1))
