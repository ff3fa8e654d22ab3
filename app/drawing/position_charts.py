"""Clickable charts over a prompt's positions once more, for print: coloured text, and the flow. See `plot_charts`."""

import json
import unicodedata
from collections.abc import Sequence

import altair as alt
import pandas as pd

from app.drawing.palette import PROMOTES, SUPPRESSES
from app.drawing.pictures import visible
from app.drawing.plot_parts import FEW_NAMES, MANY_NAMES, Words, diverging, labels, title
from db.token_text import shorten

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
