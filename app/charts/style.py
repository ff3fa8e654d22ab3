"""One colour for each meaning, in every chart, chip and table, and how strong it is.

Each colour has a contrast of at least 3:1 on the light and on the dark page, and the two of a pair differ along the
axis from blue to yellow, which colour-blind readers can tell apart.
"""

import math

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

STRENGTH = 0.78
"""How opaque the strongest colour of a map is, as in atlas.css."""
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
