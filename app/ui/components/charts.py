"""Charts on screen: each specification (:mod:`app.charts`) as what the frontend draws, with its downloads below.

What is computed here is where a mark lies, how thick it is and how strong its colour.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import altair as alt
import streamlit as st

from app.charts import Chart, ColouredText, Columns, Flow, Grid, Plot, Predictions
from app.charts.pictures import png, printed, svg
from app.ui.components import as_data, button_label, chip, download, mount
from app.ui.navigation import follow
from app.words import nats, percent, signed
from db.catalogue.export import as_bytes
from db.token_text import shorten

_THINNEST, _THICKEST = 1.0, 9.0
_FAINTEST = 0.35
_CLICKED = "clicked"
_FOOT = 18
"""Characters of a token below the flow."""


def show(chart: Chart, *, downloads: bool = True) -> None:
    """Draw a chart across its column, and below it the control that hands it out as SVG, PNG and CSV.

    Args:
        chart: its name is unique on the page.
        downloads: whether the control is drawn.
    """
    with st.container(gap=None):
        if isinstance(chart, Plot):
            _plot(chart)
        else:
            view, data = drawn(chart)
            mount(view, {"label": chart.alt, **data}, key=chart.name)
        if downloads:
            _downloads(chart)


def _plot(chart: Plot) -> None:
    """What Altair draws; where its marks lead somewhere, a click goes there."""
    if not chart.picked:
        st.altair_chart(chart.altair, width="stretch", alt=chart.alt)
        return
    clicks = alt.selection_point(name=_CLICKED, fields=[chart.picked], toggle=False)
    picked = st.altair_chart(
        chart.altair.add_params(clicks),
        width="stretch",
        alt=chart.alt,
        key=chart.name,
        on_select="rerun",
        selection_mode=_CLICKED,
    )
    for one in picked["selection"].get(_CLICKED, ()):
        follow(str(one[chart.picked]))


def _downloads(chart: Chart) -> None:
    """Each file is made when it is asked for."""
    files: tuple[tuple[str, str, Callable[[], bytes], str], ...] = (
        ("SVG", "svg", lambda: svg(*printed(chart)), "for papers and slides; its text stays text"),
        ("PNG", "png", lambda: png(*printed(chart)), "on white, at twice the screen’s sharpness"),
        ("data", "csv", lambda: as_bytes(chart.frame, "csv"), "the numbers behind the chart as CSV"),
    )
    with st.container(horizontal=True, horizontal_alignment="right", gap="small", key=f"picture_{chart.name}"):
        for label, ending, make, hint in files:
            download(
                button_label(label, f"of {chart.title}"),
                make,
                f"{chart.name.replace('_', '-')}.{ending}",
                key=f"picture_{chart.name}_{ending}",
                type="tertiary",
                icon=None,
                help=f"Download this chart: {hint}",
            )


def drawn(chart: Chart) -> tuple[str, dict[str, Any]]:
    """A view of the frontend, and what it is handed."""
    match chart:
        case Predictions():
            return "bars", _predictions(chart)
        case Columns():
            return "columns", _columns(chart)
        case Grid():
            return "grid", _grid(chart)
        case ColouredText():
            return "coloured", _coloured(chart)
        case Flow():
            return "flow", _flow(chart)
    raise TypeError(f"no view is known of {type(chart).__name__}")


def _predictions(chart: Predictions) -> dict[str, Any]:
    chips = (chip(one.text, one.href, hint=one.hint, current=one.current) for one in chart.bars)
    return {
        "items": [
            {"chip": as_data(token), "share": one.value, "words": percent(one.value)}
            for token, one in zip(chips, chart.bars, strict=True)
        ]
    }


def _columns(chart: Columns) -> dict[str, Any]:
    low, high, marks = domain([value for group in chart.groups for value in group.values])
    tones = [tone for _, tone in chart.series]

    def place(value: float) -> float:
        return (value - low) / (high - low)

    def bar(value: float, tone: str) -> dict[str, Any]:
        return {"low": place(min(value, 0.0)), "high": place(max(value, 0.0)), "tone": tone}

    groups = [
        as_data(group, {"values"})
        | {"bars": [bar(value, tone) for value, tone in zip(group.values, tones, strict=True)]}
        for group in chart.groups
    ]
    ticks = [{"at": place(mark), "text": _tick(mark, marks)} for mark in marks]
    return {"unit": chart.unit, "axis": chart.axis, "groups": groups, "ticks": ticks}


def _grid(chart: Grid) -> dict[str, Any]:
    most = chart.most
    rows = [
        {"text": text, "cells": [as_data(cell, {"value"}) | {"share": chart.share(cell.value, most)} for cell in cells]}
        for text, cells in chart.rows
    ]
    if chart.sides is None:
        scale = _scale(f"{chart.unit}; {chart.note}", "", "100 %")
    else:
        scale = _scale(f"{chart.unit}, {chart.note}: {' | '.join(chart.sides)}", nats(-most), nats(most))
    return {"rows": rows, "places": chart.columns, "scale": scale, "axes": chart.axes}


def _coloured(chart: ColouredText) -> dict[str, Any]:
    most = chart.most
    pieces = [as_data(piece, {"value"}) | {"share": piece.value / most if most else 0.0} for piece in chart.pieces]
    return {"pieces": pieces, "scale": _scale(f"{chart.unit}: {' | '.join(chart.sides)}", signed(-most), signed(most))}


def _scale(title: str, low: str, high: str) -> dict[str, str]:
    """The legend of colours; low is empty where nothing is negative."""
    return {"title": title, "low": low, "high": high}


def _flow(chart: Flow) -> dict[str, Any]:
    """The weakest move first, so that the strongest are drawn over it; thickness grows with the nats."""
    most = max((abs(move.value) for move in chart.moves), default=1.0) or 1.0
    most_ffn = max((abs(one.value) for one in chart.ffn), default=1.0) or 1.0
    taken: Counter[tuple[int, int]] = Counter()
    moves = []
    for move in chart.moves:
        start, share = (move.layer, move.position), abs(move.value) / most
        shape = {
            "lane": taken[start],  # arcs that start at the same point lie side by side
            "width": round(_THINNEST + (_THICKEST - _THINNEST) * share, 2),
            "strength": round(_FAINTEST + (1 - _FAINTEST) * share**0.5, 2),
            "tone": "up" if move.value > 0 else "down",
        }
        moves.append(as_data(move, {"value"}) | shape)
        taken[start] += 1
    last = len(chart.tokens) - 1
    return {
        "layers": len(chart.ffn),
        "places": [
            {"text": shorten(token, _FOOT), "hint": f"position {place} “{token}”", "chosen": place == last}
            for place, token in enumerate(chart.tokens)
        ],
        "moves": moves[::-1],
        "marks": [
            as_data(one, {"value"})
            | {
                "layer": layer,
                "share": round(abs(one.value) / most_ffn, 4),
                "tone": "up" if one.value > 0 else "down",
            }
            for layer, one in enumerate(chart.ffn)
        ],
        "axis": "position and its token; layers upwards; at the right what each layer’s FFN added",
    }


def domain(values: Sequence[float]) -> tuple[float, float, list[float]]:
    """Ends of an axis that holds zero and all values, and round numbers on it.

    >>> domain([-2.2, 4.0])
    (-2.2, 4.0, [-2.0, 0.0, 2.0, 4.0])
    >>> domain([])
    (0.0, 1.0, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    """
    finite = [value for value in values if math.isfinite(value)]
    low, high = min([0.0, *finite]), max([0.0, *finite])
    if high - low < 1e-9:
        high = 1.0
    rough = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return low, high, [round(step * number, 12) for number in range(first, last + 1)]


def _tick(mark: float, marks: Sequence[float]) -> str:
    step = marks[1] - marks[0]
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    digits += round(step * 10**digits, 6) % 1 > 0  # a step of 0.25
    return f"{mark:.{digits}f}".replace("-", "−")
