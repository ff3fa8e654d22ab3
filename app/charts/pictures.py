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
from cachetools import LRUCache

from app.charts import WIDTH
from db.errors import AtlasError

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
