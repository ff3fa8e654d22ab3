"""The charts that can be clicked: columns around zero, grids of coloured cells, and text coloured by a number.

Like the rest of the frontend their marks are links, so that they work with a mouse, a finger and a keyboard. What is
computed here is where a mark lies and how strong its colour is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from app.drawing.components import mount
from app.drawing.data import plain, plain_list
from app.drawing.flow import Arc, Foot, Mark

Tone = str
"""A name in :mod:`app.drawing.palette` that the style sheet knows: attention, ffn, promotes, suppresses, neutral."""


@dataclass(frozen=True, slots=True)
class Group:
    """The bars that stand at one place of the axis, and where a click on them leads."""

    text: str
    bars: tuple[tuple[float, Tone], ...]
    href: str = ""
    hint: str = ""
    current: bool = False


@dataclass(frozen=True, slots=True)
class Square:
    """A cell of a grid. share: from -1 to 1, how strong its colour is and which."""

    share: float
    hint: str
    text: str = ""
    href: str = ""
    current: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """A row of a grid."""

    text: str
    squares: tuple[Square, ...]


@dataclass(frozen=True, slots=True)
class Scale:
    """The legend of a grid: what its colours stand for; low is empty where nothing is negative."""

    title: str
    low: str
    high: str


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of coloured text."""

    text: str
    share: float
    hint: str


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a trail, and where it leads."""

    text: str
    href: str


def columns(groups: Sequence[Group], *, unit: str, axis: str, key: str, here: str, label: str) -> None:
    """Bars around zero, side by side in each group; a click anywhere in a group's column follows its link."""
    values = [value for group in groups for value, _ in group.bars]
    low, high, marks = domain(values)

    def place(value: float) -> float:
        return (value - low) / (high - low)

    drawn = [
        {
            "text": group.text,
            "href": group.href,
            "hint": group.hint,
            "current": group.current,
            "bars": [
                {"low": place(min(value, 0.0)), "high": place(max(value, 0.0)), "tone": tone}
                for value, tone in group.bars
            ],
        }
        for group in groups
    ]
    ticks = [{"at": place(mark), "text": _tick(mark, marks)} for mark in marks]
    mount({"view": "columns", "label": label, "unit": unit, "axis": axis, "groups": drawn, "ticks": ticks}, key, here)


def grid(
    lines: Sequence[Line],
    places: Sequence[str],
    scale: Scale,
    *,
    axes: tuple[str, str],
    key: str,
    here: str,
    label: str,
) -> None:
    """Coloured cells: `lines` from top to bottom, `places` from left to right; axes: what those two are."""
    data = {"lines": plain_list(lines), "places": list(places), "scale": plain(scale), "axes": axes}
    mount({"view": "grid", "label": label, **data}, key, here)


def coloured(pieces: Sequence[Piece], scale: Scale, *, key: str, here: str, label: str) -> None:
    """Text whose tokens are coloured by a number each."""
    data = {"pieces": plain_list(pieces), "scale": plain(scale)}
    mount({"view": "coloured", "label": label, **data}, key, here)


def flow(
    layers: int,
    feet: Sequence[Foot],
    arcs: Sequence[Arc],
    marks: Sequence[Mark],
    *,
    axis: str,
    key: str,
    here: str,
    label: str,
) -> None:
    """The flow picture (:mod:`app.drawing.flow`): positions from left to right, layers upwards."""
    data = {
        "layers": layers,
        "places": plain_list(feet),
        "moves": plain_list(arcs),
        "marks": plain_list(marks),
        "axis": axis,
    }
    mount({"view": "flow", "label": label, **data}, key, here)


def trail(steps: Sequence[Step], *, key: str, here: str) -> None:
    """Where one is, from the whole to the part; each step leads back to itself, the last is where one stands."""
    mount({"view": "trail", "label": "where you are", "steps": plain_list(steps)}, key, here)


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


def shade(value: float, most: float) -> float:
    """How strong a colour is, from -1 to 1: grows with the logarithm, or one strong value would hide all others.

    >>> shade(2.0, 2.0), shade(-2.0, 2.0), shade(0.0, 2.0)
    (1.0, -1.0, 0.0)
    """
    if most <= 0 or not math.isfinite(value):
        return 0.0
    bend = 8.0
    return math.copysign(math.log1p(bend * min(abs(value) / most, 1.0)) / math.log1p(bend), value)
