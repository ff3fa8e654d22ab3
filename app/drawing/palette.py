"""One colour a meaning, in every chart, chip and table.

Each has a contrast of at least 3:1 on the light and on the dark page, and the two of a pair differ along the axis from
blue to yellow, which colour-blind readers keep.
"""

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
