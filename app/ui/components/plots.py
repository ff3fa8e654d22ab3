"""The charts that can be clicked: columns around zero, grids of coloured cells, and text coloured by a number.

Like the rest of the frontend their marks are links, so that they work with a mouse, a finger and a keyboard. What is
computed here is where a mark lies and how strong its colour is.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.state.selections import Place
from app.ui.components import mount, plain, plain_list
from app.words import nats, percent
from db.neuron import Head
from db.token_text import shorten

if TYPE_CHECKING:
    from app.attribution.prompt import PromptToken
    from app.attribution.results import Move


# The flow picture's geometry: which arc starts where, how thick it is, which neurons' bar is how long. Pure.

_THINNEST, _THICKEST = 1.0, 9.0
_FAINTEST = 0.35
_FOOT = 18


@dataclass(frozen=True, slots=True)
class Arc:
    """A head at a source position. width: pixels; strength: opacity from 0 to 1; tone: "up" or "down"."""

    layer: int
    place: int
    lane: int
    """Counts the arcs that start at the same point, so that they lie side by side."""
    width: float
    strength: float
    tone: str
    href: str
    hint: str
    current: bool


@dataclass(frozen=True, slots=True)
class Mark:
    """What a layer's FFN did at the analysed position. share: length from 0 to 1; tone: "up" or "down"."""

    layer: int
    share: float
    tone: str
    href: str
    hint: str
    current: bool


@dataclass(frozen=True, slots=True)
class Foot:
    """A position's name below the picture; chosen where it is the analysed one."""

    text: str
    hint: str
    chosen: bool


def to_move(place: Place, move: "Move") -> Place:
    """Where a click on an arc leads: to the head at that source, or away from it where it is chosen already."""
    if is_chosen(place, move):
        return place.within(None)
    return place.within(move.layer, head=Head(move.layer, move.head), source=move.position)


def is_chosen(place: Place, move: "Move") -> bool:
    """Whether the move is of the head that is chosen, at the source that is chosen if one is."""
    return place.head == (move.layer, move.head) and place.source in (None, move.position)


def arcs(moves: "Sequence[Move]", place: Place, address: Callable[[Place], str]) -> list[Arc]:
    """The weakest first, so that the strongest are drawn over them; thickness grows with the nats."""
    most = max((abs(move.score) for move in moves), default=1.0) or 1.0
    taken: Counter[tuple[int, int]] = Counter()
    drawn = []
    for move in moves:
        start = (move.layer, move.position)
        share = abs(move.score) / most
        drawn.append(
            Arc(
                layer=move.layer,
                place=move.position,
                lane=taken[start],
                width=round(_THINNEST + (_THICKEST - _THINNEST) * share, 2),
                strength=round(_FAINTEST + (1 - _FAINTEST) * share**0.5, 2),
                tone="up" if move.score > 0 else "down",
                href=address(to_move(place, move)),
                hint=move_words(move),
                current=is_chosen(place, move),
            )
        )
        taken[start] += 1
    return drawn[::-1]


def move_words(move: "Move") -> str:
    """What one move did, in a line."""
    source = f"position {move.position} “{move.token.display}”"
    return (
        f"{Head(move.layer, move.head).label} from {source}: {nats(move.score)} nats, attention "
        f"{percent(move.attention_weight)}"
    )


def marks(scores: Sequence[float], place: Place, address: Callable[[Place], str]) -> list[Mark]:
    """The FFN of each layer."""
    most = max(map(abs, scores), default=1.0) or 1.0
    return [
        Mark(
            layer=layer,
            share=round(abs(score) / most, 4),
            tone="up" if score > 0 else "down",
            href=address(place.within(None) if chosen else place.within(layer, ffn=True)),
            hint=f"FFN of layer {layer}: {nats(score)} nats",
            current=chosen,
        )
        for layer, score in enumerate(scores)
        for chosen in [place.ffn and place.layer == layer]
    ]


def feet(tokens: "Sequence[PromptToken]", position: int) -> list[Foot]:
    """The positions up to the analysed one: later ones cannot have told it anything."""
    return [
        Foot(shorten(token.display, _FOOT), f"position {at} “{token.display}”", at == position)
        for at, token in enumerate(tokens[: position + 1])
    ]


Tone = str
"""A name in :mod:`app.charts.style` that the style sheet knows: attention, ffn, promotes, suppresses, neutral."""


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
    """The flow picture (:mod:`app.ui.components.plots`): positions from left to right, layers upwards."""
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
