"""The clickable charts (:mod:`app.ui.components.plots`) once more, as Altair charts for print and for the report.

Made from the same data frames, in the same colours; what the page says in a heading beside the chart stands in its
title. Those over a prompt's positions are in :mod:`app.charts.printed`.
"""

import json
import unicodedata
from collections.abc import Sequence

import altair as alt
import pandas as pd

from app.charts.pictures import visible
from app.charts.style import (
    ATTENTION,
    FEW_NAMES,
    KINDS,
    MANY_NAMES,
    NEUTRAL,
    PROMOTES,
    STRENGTH,
    SUPPRESSES,
    Words,
    diverging,
    faded,
    labels,
    legend,
    named,
    numbers,
    title,
)
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


# Clickable charts over a prompt's positions once more, for print: coloured text, and the flow. See `plot_charts`.

_COLUMNS = 88
"""Characters in a line of coloured text."""


def flow(frame: pd.DataFrame, tokens: Sequence[str], position: int, layers: int, words: Words) -> alt.Chart:
    """Lines from source positions to the explained one, layers upwards, as thick as their nats.

    Columns: layer, head, position, score. tokens: of the whole prompt, in display form; position: the explained one.
    """
    rows = frame.assign(
        end=position,
        after=frame["layer"] + 1,
        size=frame["score"].abs(),
        way=["raises" if score > 0 else "lowers" for score in frame["score"]],
    )
    names = {place: f"{place} {shorten(token, 12)}" for place, token in enumerate(tokens)}
    places = alt.Axis(
        values=list(names),
        labelExpr=labels(names),
        labelFont="monospace",
        labelAngle=0 if len(names) <= FEW_NAMES else -90,
        labelOverlap=False if len(names) <= MANY_NAMES else "parity",
        title="source position and its token",
        grid=True,
        ticks=False,
    )
    low, high = words.sides
    chart: alt.Chart = (
        alt.Chart(rows, title=title(words))
        .mark_rule(strokeCap="round", opacity=0.75)
        .encode(
            x=alt.X("position:Q", axis=places, scale=alt.Scale(domain=[-0.5, len(names) - 0.5], nice=False)),
            x2="end:Q",
            y=alt.Y(
                "layer:Q",
                axis=alt.Axis(title="layer", grid=False, format="d", tickMinStep=1),
                scale=alt.Scale(domain=[0, layers], nice=False),
            ),
            y2="after:Q",
            strokeWidth=alt.StrokeWidth(
                "size:Q", scale=alt.Scale(range=[0.5, 7]), legend=alt.Legend(title=words.unit, orient="top")
            ),
            color=alt.Color(
                "way:N",
                scale=alt.Scale(domain=["raises", "lowers"], range=[PROMOTES, SUPPRESSES]),
                legend=alt.Legend(
                    title=None,
                    orient="top",
                    labelExpr=f"datum.value == 'raises' ? {json.dumps(visible(high))} : {json.dumps(visible(low))}",
                ),
            ),
        )
        .properties(height=420)
    )
    return chart


def coloured_text(frame: pd.DataFrame, column: str, words: Words) -> alt.LayerChart | alt.FacetChart:
    """Tokens in reading order, coloured around zero. Columns: token (display form) and `column`."""
    rows = _set_in_lines(frame.assign(value=frame[column]))
    lines = int(rows["line"].max()) + 1 if len(rows) else 1
    across, down = alt.Scale(domain=[0, _COLUMNS], nice=False), alt.Scale(domain=[lines, 0], nice=False)
    base = alt.Chart(rows)
    boxes = base.mark_rect(cornerRadius=2).encode(
        x=alt.X("start:Q", axis=None, scale=across),
        x2="end:Q",
        y=alt.Y("line:Q", axis=None, scale=down),
        y2="below:Q",
        color=diverging("value", float(frame[column].abs().max()) if len(frame) else 0.0, words, linear=True),
    )
    text = base.mark_text(font="monospace", fontSize=12, baseline="middle").encode(
        x=alt.X("middle:Q", axis=None, scale=across),
        y=alt.Y("centre:Q", axis=None, scale=down),
        text="shown:N",
    )
    return alt.layer(boxes, text, title=title(words)).properties(height=110 + 26 * lines)


def _set_in_lines(frame: pd.DataFrame) -> pd.DataFrame:
    """Where each token stands: line, start and end in characters of a monospaced font."""
    places: list[tuple[float | str, ...]] = []
    line, column = 0, 0.0
    for token in frame["token"]:
        shown = shorten(visible(token), _COLUMNS - 2)
        width = sum(2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in shown) + 0.6
        if column and column + width > _COLUMNS:
            line, column = line + 1, 0
        places.append((line, column, column + width - 0.15, column + width / 2, line + 0.86, line + 0.43, shown))
        column += width
    names = ["line", "start", "end", "middle", "below", "centre", "shown"]
    return pd.concat([frame.reset_index(drop=True), pd.DataFrame(places, columns=names)], axis=1)
