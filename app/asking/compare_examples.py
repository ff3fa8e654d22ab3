"""Comparisons to start from, chosen by running dozens on the demo model for what shows something."""

from app.state.compare_selection import CompareSelection
from app.state.parts import parse_list

_FRANCE = "The capital of France is"
_BORN = "He was born in Paris and speaks fluent"
_SOAP = "I wash my hands with soap and"
_STORE = "When Mary and John went to the store, "


def _without(prompt: str, zero: str) -> CompareSelection:
    return CompareSelection(prompt, zero=parse_list(zero))


EXAMPLES: tuple[tuple[str, CompareSelection], ...] = (
    # one head, L23.H4, carries the country over in both, by other neurons of it
    ("France or Germany", CompareSelection(_FRANCE, other="The capital of Germany is")),
    # 77 % -> 14 %: the other capitals take its place
    ("Paris without head L23.H4", _without(_FRANCE, "L23.H4")),
    # the same head in another question: 41 % -> 7 %, behind Spanish
    ("Paris and French without head L23.H4", _without(_BORN, "L23.H4")),
    # a single neuron that stands for water: 67 % -> 33 %
    ("soap and water without one neuron", _without(_SOAP, "L23.F1413")),
    # 68 % -> 15 %, and the nearest synonyms stay behind it
    ("hot and cold without 10 neurons", _without("The opposite of hot is", "ffn:10")),
    # its attention layer scores, and zeroing it changes next to nothing: the FFN behind it makes up for it
    ("Paris without the last attention layer", _without(_FRANCE, "L29.attention")),
    # everything rests on the first FFN layer, whose own score is next to nothing: rank 13,709
    ("Paris without the first FFN layer", _without(_FRANCE, "L0.ffn")),
    # who gives decides who gets: 92 % Mary against 75 % John
    (
        "John gave or Mary gave",
        CompareSelection(f"{_STORE}John gave a drink to", other=f"{_STORE}Mary gave a drink to"),
    ),
    # singular and plural: head L26.H0 carries most of the change
    ("The keys or the key", CompareSelection("The keys to the cabinet", other="The key to the cabinets")),
    # np against pd: two heads of the last layer
    ("numpy or pandas", CompareSelection("import numpy as", other="import pandas as")),
)
