"""A chart as a picture for print: SVG whose text stays text, and PNG. Made offline, with nothing of Streamlit.

Charts are drawn on screen by the browser in the page's theme; here they get a white ground and black text, or for a
page that has a ground of its own (the report) none, and text in that page's colour.
"""

import base64
import json
import subprocess
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import BoundedSemaphore, Lock
from typing import Any

import altair as alt
import pandas as pd
from cachetools import LRUCache

from app.charts import (
    BEND,
    NEUTRAL,
    PROMOTES,
    STRENGTH,
    SUPPRESSES,
    TONES,
    WIDTH,
    Chart,
    ColouredText,
    Columns,
    Flow,
    Grid,
    Plot,
    Predictions,
    faded,
)
from db.errors import AtlasError
from db.token_text import shorten

AltairChart = alt.Chart | alt.LayerChart | alt.FacetChart | alt.HConcatChart | alt.VConcatChart
_KEPT = 32
_FONT = "Arial, Liberation Sans, DejaVu Sans, sans-serif"
_SUBTITLE_FONT = "DejaVu Sans, Arial, sans-serif"
"""Holds tokens; the first font has their marks (␣, ⟨, →)."""
_MONOSPACE = "DejaVu Sans Mono, Liberation Mono, monospace"
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp", "Co", "Cn"})
_BLACK = "#1a1a1a"
_MAKER = Path(__file__).with_name("picture_maker.py")
_SECONDS = 180.0
_converting = BoundedSemaphore(2)
_shelf: "LRUCache[_Job, str]" = LRUCache(_KEPT)
_lock = Lock()


def svg(chart: AltairChart, width: int = WIDTH) -> bytes:
    """The chart as an SVG file on white; well-formed XML in UTF-8, with nothing to be fetched."""
    return _made([_Job(_printable(chart, width, "white", _BLACK))])[0].encode()


def png(chart: AltairChart, width: int = WIDTH) -> bytes:
    """The chart as a PNG file on white, twice as many pixels wide as `width`."""
    return base64.b64decode(_made([_Job(_printable(chart, width, "white", _BLACK), png=True)])[0])


def inline_svgs(charts: Sequence[tuple[AltairChart, int]]) -> list[str]:
    """Charts, each with its width, as SVG elements without a ground, whose text has the colour of the text around."""
    return _made([_Job(_printable(chart, width, "transparent", "currentColor"), flat=False) for chart, width in charts])


def visible(text: str) -> str:
    r"""Text without characters that XML refuses or that nobody sees: they stand as ⟨U+0000⟩, as tokens' do.

    >>> visible("a\x00b")
    'a⟨U+0000⟩b'
    """
    return "".join(
        f"⟨U+{ord(one):04X}⟩" if unicodedata.category(one) in _INVISIBLE and one != "\n" else one for one in text
    )


def _printable(chart: AltairChart, width: int, ground: str, ink: str) -> str:
    """The chart's specification as JSON: the same drawing on any machine, whatever theme Altair is set to."""
    with alt.theme.enable("none"):
        spec = _clean(json.loads(chart.to_json(validate=False)))
    spec |= {"width": width, "autosize": {"type": "fit", "contains": "padding"}, "background": ground, "padding": 8}
    grid = "#88888840"
    titles = {"titleColor": ink, "titleFont": _FONT, "titleFontSize": 12, "titleFontWeight": "normal"}
    labels = {"labelColor": ink, "labelFont": _FONT, "labelFontSize": 11}
    spec["config"] = {
        "font": _FONT,
        "axis": {**titles, **labels, "gridColor": grid, "domainColor": "#888888", "tickColor": "#888888"},
        "legend": {**titles, **labels},
        "title": {"color": ink, "subtitleColor": ink, "font": _FONT, "subtitleFont": _SUBTITLE_FONT},
        "text": {"color": ink, "font": _FONT},
        "view": {"stroke": None},
        "aria": False,  # described as a whole, where it is shown, rather than mark by mark
    }
    return json.dumps(spec).replace('"monospace"', json.dumps(_MONOSPACE))


def _clean(part: Any) -> Any:
    """Every string of a specification made `visible`."""
    if isinstance(part, str):
        return visible(part)
    if isinstance(part, list):
        return [_clean(one) for one in part]
    return {name: _clean(one) for name, one in part.items()} if isinstance(part, dict) else part


@dataclass(frozen=True, slots=True)
class _Job:
    """What `app.charts.picture_maker` is asked for."""

    spec: str
    flat: bool = True
    png: bool = False


def _made(jobs: Sequence[_Job]) -> list[str]:
    """What the jobs yield; those made before are remembered, all others are made by one process."""
    with _lock:
        known = {job: found for job in jobs if (found := _shelf.get(job)) is not None}
    new = [job for job in dict.fromkeys(jobs) if job not in known]
    if new:
        made = dict(zip(new, _convert(new), strict=True))
        known |= made
        with _lock:
            for job, drawing in made.items():
                _shelf[job] = drawing
    return [known[job] for job in jobs]


def _convert(jobs: Sequence[_Job]) -> list[str]:
    asked = json.dumps([asdict(job) for job in jobs]).encode()
    with _converting:
        try:
            done = subprocess.run(
                [sys.executable, "-I", str(_MAKER)], input=asked, capture_output=True, timeout=_SECONDS, check=True
            )
        except (subprocess.SubprocessError, OSError) as error:
            raise AtlasError("This chart could not be made into a picture. Take its data instead.") from error
    made: list[str] = json.loads(done.stdout)
    return made


_ROW = 22
"""The height of a row of bars or cells, in pixels."""
_FEW_NAMES, _MANY_NAMES = 7, 24
"""Up to so many names stand beside each other, more are turned upwards; beyond the second not all are written."""
_NAME = 12
"""Characters of a token below a position."""
_MARGIN, _CELL, _STEP = 90, 84, 24
"""In pixels: beside a chart of positions, and between those of a grid and of the flow."""
_LINE = 88
"""Characters in a line of coloured text."""
_BORDER: dict[str, Any] = {"stroke": "#88888840", "strokeWidth": 0.5}


def printed(chart: Chart) -> tuple[AltairChart, int]:
    """The chart as Altair draws it, and its width in pixels."""
    match chart:
        case Plot():
            return chart.altair, chart.width
        case Columns():
            return _columns(chart), WIDTH
        case Grid():
            return _grid(chart), max(WIDTH, _MARGIN + _CELL * len(chart.columns)) if chart.worded else WIDTH
        case ColouredText():
            return _coloured_text(chart), WIDTH
        case Flow():
            return _flow(chart), max(WIDTH, _MARGIN + _STEP * len(chart.tokens))
        case Predictions():
            return _predictions(chart), WIDTH
    raise TypeError(f"no picture is known of {type(chart).__name__}")


def _predictions(chart: Predictions) -> alt.Chart:
    rows = pd.DataFrame(
        [(place, one.value, one.current) for place, one in enumerate(chart.bars)],
        columns=["place", "probability", "explained"],
    )
    names = [shorten(one.text, 24) for one in chart.bars]
    drawn: alt.Chart = (
        alt.Chart(rows, title=_title(chart))
        .mark_bar(height=alt.RelativeBandSize(0.7))
        .encode(
            y=alt.Y("place:O", axis=_tokens(names, None), sort=None),
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
    return drawn


def _columns(chart: Columns) -> alt.Chart:
    names = [name for name, _ in chart.series]
    rows = pd.DataFrame(
        [
            (place, name, value)
            for place, group in enumerate(chart.groups)
            for name, value in zip(names, group.values, strict=True)
        ],
        columns=["place", "series", "value"],
    )
    drawn = alt.Chart(rows, title=_title(chart)).encode(
        x=alt.X("place:O", axis=_numbers([group.text for group in chart.groups], chart.axis)),
        y=alt.Y("value:Q", title=chart.unit),
    )
    if len(names) == 1:
        single: alt.Chart = drawn.mark_bar(color=TONES[chart.series[0][1]]).properties(height=280)
        return single
    colours = [TONES[tone] for _, tone in chart.series]
    several: alt.Chart = (
        drawn.mark_bar()
        .encode(
            xOffset=alt.XOffset("series:N", sort=names),
            color=alt.Color(
                "series:N",
                scale=alt.Scale(domain=names, range=colours),
                legend=alt.Legend(title=None, orient="top", symbolType="square"),
            ),
        )
        .properties(height=320)
    )
    return several


def _grid(chart: Grid) -> AltairChart:
    rows = pd.DataFrame(
        [
            (line, place, cell.value, cell.text)
            for line, (_, cells) in enumerate(chart.rows)
            for place, cell in enumerate(cells)
        ],
        columns=["line", "place", "value", "text"],
    )
    lines, (down, across) = [name for name, _ in chart.rows], chart.axes
    if chart.sides is None:
        colour = alt.Color(
            "value:Q",
            scale=alt.Scale(type="sqrt", domain=[0, 1], range=[faded(PROMOTES, 0), faded(PROMOTES, STRENGTH)]),
            legend=_legend(chart.unit, [0, 0.05, 0.25, 0.5, 1], ".0%"),
        )
    else:
        colour = _diverging(chart.most, chart.unit, chart.sides)
    if not chart.worded:
        drawn: alt.Chart = (
            alt.Chart(rows, title=_title(chart))
            .mark_rect(**_BORDER)
            .encode(
                x=alt.X("place:O", axis=_numbers(list(chart.columns), across)),
                y=alt.Y("line:O", axis=_numbers(lines, down)),
                color=colour,
            )
            .properties(height=150 + _ROW * min(len(lines), 40))
        )
        return drawn
    names = [_short(name) for name in chart.columns]
    base = alt.Chart(rows).encode(
        x=alt.X("place:O", axis=_tokens(names, across, upright=len(names) > _FEW_NAMES)),
        y=alt.Y("line:O", axis=_tokens(lines, down)),
    )
    text = base.mark_text(font="monospace", fontSize=10).encode(text="text:N")
    return alt.layer(base.mark_rect(**_BORDER).encode(color=colour), text, title=_title(chart)).properties(
        height=150 + 20 * max(len(lines), 1)
    )


def _flow(chart: Flow) -> alt.Chart:
    """Lines as thick as their nats."""
    last, (low, high) = len(chart.tokens) - 1, chart.sides
    rows = pd.DataFrame(
        [
            (one.position, last, one.layer, one.layer + 1, abs(one.value), "raises" if one.value > 0 else "lowers")
            for one in chart.moves
        ],
        columns=["position", "end", "layer", "after", "size", "way"],
    )
    names = [f"{place} {shorten(token, _NAME)}" for place, token in enumerate(chart.tokens)]
    places = _tokens(names, "source position and its token", upright=len(names) > _FEW_NAMES, limit=180)
    places.values, places.grid = list(range(len(names))), True
    drawn: alt.Chart = (
        alt.Chart(rows, title=_title(chart))
        .mark_rule(strokeCap="round", opacity=0.75)
        .encode(
            x=alt.X("position:Q", axis=places, scale=alt.Scale(domain=[-0.5, len(names) - 0.5], nice=False)),
            x2="end:Q",
            y=alt.Y(
                "layer:Q",
                axis=alt.Axis(title="layer", grid=False, format="d", tickMinStep=1),
                scale=alt.Scale(domain=[0, len(chart.ffn)], nice=False),
            ),
            y2="after:Q",
            strokeWidth=alt.StrokeWidth(
                "size:Q", scale=alt.Scale(range=[0.5, 7]), legend=alt.Legend(title=chart.unit, orient="top")
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
    return drawn


def _coloured_text(chart: ColouredText) -> AltairChart:
    rows = set_in_lines([piece.text for piece in chart.pieces]).assign(value=[piece.value for piece in chart.pieces])
    lines = int(rows["line"].max()) + 1 if len(rows) else 1
    across, down = alt.Scale(domain=[0, _LINE], nice=False), alt.Scale(domain=[lines, 0], nice=False)
    base = alt.Chart(rows)
    boxes = base.mark_rect(cornerRadius=2).encode(
        x=alt.X("start:Q", axis=None, scale=across),
        x2="end:Q",
        y=alt.Y("line:Q", axis=None, scale=down),
        y2="below:Q",
        color=_diverging(chart.most, chart.unit, chart.sides, linear=True),
    )
    text = base.mark_text(font="monospace", fontSize=12, baseline="middle").encode(
        x=alt.X("middle:Q", axis=None, scale=across),
        y=alt.Y("centre:Q", axis=None, scale=down),
        text="shown:N",
    )
    return alt.layer(boxes, text, title=_title(chart)).properties(height=110 + 26 * lines)


def set_in_lines(tokens: list[str]) -> pd.DataFrame:
    """Where each token stands: line, and start and end in characters of a monospaced font."""
    places: list[tuple[float | str, ...]] = []
    line, column = 0, 0.0
    for token in tokens:
        shown = shorten(visible(token), _LINE - 2)
        width = sum(2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in shown) + 0.6
        if column and column + width > _LINE:
            line, column = line + 1, 0
        places.append((line, column, column + width - 0.15, column + width / 2, line + 0.86, line + 0.43, shown))
        column += width
    return pd.DataFrame(places, columns=["line", "start", "end", "middle", "below", "centre", "shown"])


def _title(chart: Chart) -> alt.TitleParams:
    below = [chart.subject] if chart.subject else alt.Undefined
    return alt.TitleParams(
        chart.title, subtitle=below, anchor="start", fontSize=14, offset=12, subtitleFontSize=11, subtitlePadding=4
    )


def _diverging(most: float, unit: str, sides: tuple[str, str], *, linear: bool = False) -> alt.Color:
    """Two colours around zero, each from clear to strong, so that the ground shows where nothing is."""
    most = most if most > 0 else 1.0
    tiny = most * 1e-6
    scale = alt.Scale(
        type="linear" if linear else "symlog",
        domain=[-most, -tiny, tiny, most],
        range=[faded(SUPPRESSES, STRENGTH), faded(SUPPRESSES, 0), faded(PROMOTES, 0), faded(PROMOTES, STRENGTH)],
        interpolate="rgb",
        constant=alt.Undefined if linear else most / BEND,  # the same curve as `style.shade`
    )
    marks = [-most, -most / 4, 0, most / 4, most]
    return alt.Color("value:Q", scale=scale, legend=_legend(f"{unit}: {' | '.join(sides)}", marks, "+.3~f"))


def _legend(words: str, marks: list[float], form: str) -> alt.Legend:
    return alt.Legend(
        title=words, orient="top", values=marks, format=form, gradientLength=240, gradientThickness=10, titleLimit=600
    )


def _numbers(names: list[str], title: str) -> alt.Axis:
    """Layers or heads."""
    return alt.Axis(labelAngle=0, labelOverlap="parity", title=title, ticks=False, labelExpr=_named(names))


def _tokens(names: list[str], title: str | None, *, upright: bool = False, limit: int = 170) -> alt.Axis:
    """Tokens, in a monospaced font, lying or turned upwards."""
    return alt.Axis(
        title=title,
        labelExpr=_named(names),
        labelFont="monospace",
        labelAngle=-90 if upright else 0,
        labelLimit=limit,
        labelOverlap=False if len(names) <= _MANY_NAMES else "parity",
        ticks=False,
    )


def _named(names: list[str]) -> str:
    """An expression that names a place by its index."""
    return f"({json.dumps([visible(name) for name in names])})[datum.value]"


def _short(name: str) -> str:
    """A position and its token, shortened: “12 ␣inter…”."""
    place, _, token = name.partition(" ")
    return f"{place} {shorten(token, _NAME)}"
