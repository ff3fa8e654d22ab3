"""What a chart is: one immutable specification, drawn on screen (:mod:`app.ui.components.charts`), as SVG or PNG and in
the report (:mod:`app.charts.pictures`). :mod:`app.charts.prompt_charts` builds them from results.

Each kind holds what is drawn, and with it the data frame for CSV and for the tables beside the charts. Tokens are in
display form. A mark with an `href` is a link on screen; its `hint` says in words what it shows.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from db.neuron import NeuronKind

if TYPE_CHECKING:
    import pandas as pd

    from app.charts.pictures import AltairChart

PROMOTES = "#2a86a6"
SUPPRESSES = "#d9622b"
ATTENTION = "#8f6fbd"
FFN = "#b0831a"
NEUTRAL = "#7d8790"
MARK = "#c04a7c"
"""The one thing that a chart is about, among many grey ones."""

KINDS = {"attention": ATTENTION, "ffn": FFN}
KIND_NAMES = {name: NeuronKind(name).words for name in KINDS}
SIGNS = {"promotes": PROMOTES, "suppresses": SUPPRESSES}
TONES = {**SIGNS, **KINDS, "neutral": NEUTRAL, "avoided": MARK}
"""What the style sheet (app/ui/components/frontend/atlas.css) and the charts call them."""

LEGEND = {
    "attention": (ATTENTION, "attention"),
    "ffn": (FFN, "FFN"),
    "promotes": (PROMOTES, "promotes: highest logits"),
    "suppresses": (SUPPRESSES, "suppresses: lowest logits"),
    "raises": (PROMOTES, "raises the target"),
    "lowers": (SUPPRESSES, "lowers the target"),
}
"""What a legend can explain: name -> (colour, words)."""

STRENGTH = 0.66
"""How opaque the strongest colour of a map is, in the browser as well; text on it has a contrast of 4.5 or more."""
BEND = 8.0
"""Of the logarithm by which colours grow: the larger, the sooner they are strong."""


def shade(value: float, most: float) -> float:
    """How strong a colour is, from -1 to 1: grows with the logarithm, or one strong value would hide all others.

    >>> shade(2.0, 2.0), shade(-2.0, 2.0), shade(0.0, 2.0)
    (1.0, -1.0, 0.0)
    """
    if most <= 0 or not math.isfinite(value):
        return 0.0
    return math.copysign(math.log1p(BEND * min(abs(value) / most, 1.0)) / math.log1p(BEND), value)


def faded(colour: str, opacity: float) -> str:
    """The colour, translucent."""
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


WIDTH = 720
"""Of a picture with its labels, in pixels at 96 to the inch."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Chart:
    """What every kind of chart says of itself.

    Attributes:
        name: identifies it on its page and names its files.
        title: what is drawn.
        label: the same for readers that do not see it; see `alt`.
        frame: the numbers behind it.
        subject: of which prompt, target and model; a second line below the title.
        unit: of its numbers.
    """

    name: str
    title: str
    frame: "pd.DataFrame"
    label: str = ""
    subject: str = ""
    unit: str = "score (nats)"

    @property
    def alt(self) -> str:
        """What is read out in the chart's place: its label, or else its title."""
        return self.label or self.title[:1].lower() + self.title[1:]


@dataclass(frozen=True, slots=True)
class Group:
    """The bars at one place of the axis: a value of each series."""

    text: str
    values: tuple[float, ...]
    hint: str = ""
    href: str = ""
    current: bool = False


@dataclass(frozen=True, eq=False, kw_only=True)
class Columns(Chart):
    """Bars around zero, side by side in each group.

    Attributes:
        axis: what the groups are.
        series: name and tone (a key of :data:`app.charts.TONES`) of each bar of a group.
    """

    axis: str
    series: tuple[tuple[str, str], ...]
    groups: tuple[Group, ...]


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a grid, the FFN of a layer beside the flow, a token of a coloured text, or one that may come next."""

    value: float
    hint: str = ""
    text: str = ""
    href: str = ""
    current: bool = False


@dataclass(frozen=True, eq=False, kw_only=True)
class Grid(Chart):
    """Coloured cells, row by row from top to bottom.

    Attributes:
        axes: what the rows are, and what the columns are.
        rows: name and cells of each.
        columns: their names from left to right.
        sides: what a negative and a positive value mean; None where values are probabilities.
        note: a further remark for the legend.
    """

    axes: tuple[str, str]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    sides: tuple[str, str] | None = ("lowers", "raises")
    note: str = ""

    @property
    def most(self) -> float:
        """The largest absolute value."""
        return max((abs(cell.value) for _, cells in self.rows for cell in cells), default=0.0)

    @property
    def worded(self) -> bool:
        """Whether cells hold a text; if so, the columns are positions with their tokens."""
        return any(cell.text for _, cells in self.rows for cell in cells)

    def share(self, value: float, most: float) -> float:
        """How strong a cell's colour is, from -1 to 1; of a probability its square root."""
        return value**0.5 if self.sides is None else shade(value, most)


@dataclass(frozen=True, eq=False, kw_only=True)
class ColouredText(Chart):
    """Tokens in reading order, coloured by a number each. sides: what a negative and a positive number mean."""

    pieces: tuple[Cell, ...]
    sides: tuple[str, str] = ("negative", "positive")

    @property
    def most(self) -> float:
        """The largest absolute value."""
        return max((abs(piece.value) for piece in self.pieces), default=0.0)


@dataclass(frozen=True, slots=True)
class Move:
    """What one head moved from a source position to the explained one."""

    layer: int
    position: int
    value: float
    hint: str = ""
    href: str = ""
    current: bool = False


@dataclass(frozen=True, eq=False, kw_only=True)
class Flow(Chart):
    """Moves from source positions to the explained one, layers upwards.

    Attributes:
        tokens: up to the explained position, which is the last.
        moves: the strongest first.
        ffn: what the FFN of each layer did at the explained position.
        sides: what a negative and a positive value mean.
    """

    tokens: tuple[str, ...]
    moves: tuple[Move, ...]
    ffn: tuple[Cell, ...]
    sides: tuple[str, str] = ("lowers", "raises")


@dataclass(frozen=True, eq=False, kw_only=True)
class Predictions(Chart):
    """The most probable next tokens with their probabilities, the most probable first; the explained one is current."""

    bars: tuple[Cell, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Plot(Chart):
    """A chart that Altair draws on screen as well.

    Attributes:
        width: of its picture, in pixels.
        picked: the field of the first layer's data that says where a click on a mark leads; empty where to nowhere.
    """

    altair: "AltairChart"
    width: int = WIDTH
    picked: str = ""
