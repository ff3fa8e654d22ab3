"""The flow picture's geometry: which arc starts where, how thick it is, which neurons' bar is how long. Pure.

Layers are counted upwards from 0, places from left to right; a move of layer l leads from its source's layer input to
the analysed position after the layer. What becomes pixels is decided where it is drawn (app/drawing/frontend/flow.js).
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.drawing.wording import nats, percent
from app.state.address import head_label
from app.state.selection import Place
from db.token_text import shorten

if TYPE_CHECKING:
    from app.attribution.prompt import PromptToken
    from app.attribution.results import Move

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
    return place.within(move.layer, head=(move.layer, move.head), source=move.position)


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
        f"{head_label((move.layer, move.head))} from {source}: {nats(move.score)} nats, attention "
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
