"""One colour a meaning, in every chart, chip and table.

Each has a contrast of at least 3:1 on the light and on the dark page, and the two of a pair differ along the axis from
blue to yellow, which colour-blind readers keep.
"""

import json
from dataclasses import dataclass

import altair as alt

from app.charts.pictures import visible

PROMOTES = "#2a86a6"
SUPPRESSES = "#d9622b"
ATTENTION = "#8f6fbd"
FFN = "#b0831a"
NEUTRAL = "#7d8790"
MARK = "#c04a7c"
"""The one thing that a chart is about, among many grey ones."""

KINDS = {"attention": ATTENTION, "ffn": FFN}
KIND_NAMES = {"attention": "attention", "ffn": "FFN"}
SIGNS = {"promotes": PROMOTES, "suppresses": SUPPRESSES}

LEGEND = {
    "attention": (ATTENTION, "attention"),
    "ffn": (FFN, "FFN"),
    "promotes": (PROMOTES, "promotes: highest logits"),
    "suppresses": (SUPPRESSES, "suppresses: lowest logits"),
    "raises": (PROMOTES, "raises the target"),
    "lowers": (SUPPRESSES, "lowers the target"),
}
"""What a legend may explain: name -> (colour, words)."""


# What the charts for print share: words, axes, legends and colours.

STRENGTH = 0.78
"""How opaque the strongest colour of a map is, as in app/ui/components/frontend/atlas.css."""
FEW_NAMES = 7
"""So many stand beside each other; more are turned upwards."""
MANY_NAMES = 24
"""More are not all written."""
_BEND = 8.0
"""As in `plots.shade`: a symmetric logarithm of this bend is the same curve."""


@dataclass(frozen=True, slots=True)
class Words:
    """What a chart says of itself.

    Attributes:
        title: what is drawn.
        below: a second line: of which prompt, target and model.
        unit: of its numbers, such as “score (nats)”.
        sides: what a negative and a positive number mean.
    """

    title: str
    below: str = ""
    unit: str = "score (nats)"
    sides: tuple[str, str] = ("lowers", "raises")


def diverging(field: str, most: float, words: Words, *, linear: bool = False) -> alt.Color:
    """Two colours around zero, each from clear to strong, so that the ground shows where nothing is."""
    most = most if most > 0 else 1.0
    tiny = most * 1e-6
    colours = [
        faded(SUPPRESSES, STRENGTH),
        faded(SUPPRESSES, 0),
        faded(PROMOTES, 0),
        faded(PROMOTES, STRENGTH),
    ]
    scale = alt.Scale(
        type="linear" if linear else "symlog",
        domain=[-most, -tiny, tiny, most],
        range=colours,
        interpolate="rgb",
        constant=alt.Undefined if linear else most / _BEND,
    )
    marks = [-most, -most / 4, 0, most / 4, most]
    return alt.Color(
        f"{field}:Q", scale=scale, legend=legend(f"{words.unit}: {' | '.join(words.sides)}", marks, "+.3~f")
    )


def legend(words: str, marks: list[float], form: str) -> alt.Legend:
    return alt.Legend(
        title=words, orient="top", values=marks, format=form, gradientLength=240, gradientThickness=10, titleLimit=600
    )


def faded(colour: str, opacity: float) -> str:
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def numbers(title: str) -> alt.Axis:
    return alt.Axis(labelAngle=0, labelOverlap="parity", title=title, ticks=False)


def named(names: dict[int, str], title: str | None, *, flat: bool = True) -> alt.Axis:
    """Places labelled by their names, in a monospaced font: two places may have the same. flat: or turned upwards."""
    return alt.Axis(
        title=title,
        labelExpr=labels(names),
        labelFont="monospace",
        labelAngle=0 if flat else -90,
        labelLimit=170,
        labelOverlap=False if len(names) <= MANY_NAMES else "parity",
        ticks=False,
    )


def labels(names: dict[int, str]) -> str:
    """An expression that names a place."""
    return f"({json.dumps({str(place): visible(name) for place, name in names.items()})})[datum.value]"


def title(words: Words) -> alt.TitleParams:
    below = [words.below] if words.below else alt.Undefined
    return alt.TitleParams(
        words.title, subtitle=below, anchor="start", fontSize=14, offset=12, subtitleFontSize=11, subtitlePadding=4
    )
