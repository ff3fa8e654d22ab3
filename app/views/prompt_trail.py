"""Where one is on the prompt page, from the prediction down to a neuron: each step leads back to itself."""

from dataclasses import replace
from typing import TYPE_CHECKING

from app import navigation
from app.drawing.plots import Step, trail
from app.state.address import head_label
from app.state.selection import Place, PromptSelection
from db.neuron import Neuron
from db.token_text import shorten

if TYPE_CHECKING:
    from app.attribution.results import Analysis

_PROMPT = "prompt"
_TARGET = 20


def steps(analysis: "Analysis", selection: PromptSelection, neuron: Neuron | None = None) -> list[Step]:
    """The steps taken; a neuron is one whose page is open."""
    place = selection.place
    whole = replace(place.within(None), own=None, read=None, through=None)
    token = analysis.tokens[analysis.position]
    named = f"“{shorten(analysis.target.token.display, _TARGET)}” after {analysis.position} “{token.display}”"
    reached: list[tuple[str, Place]] = [(named, whole)]
    if place.layer is not None:
        reached.append((f"layer {place.layer}", whole.within(place.layer)))
    if place.ffn:
        reached.append(("its FFN", whole.within(place.layer, ffn=True)))
    if place.head is not None:
        reached.append((f"head {head_label(place.head)}", whole.within(place.layer, head=place.head)))
    if place.head is not None and place.source is not None:
        source = analysis.tokens[place.source].display if place.source < len(analysis.tokens) else "?"
        reached.append((f"from {place.source} “{source}”", replace(place, own=None, read=None, through=None)))
    if place.own is not None:
        where = "" if place.own[1] is None else f"@{place.own[1]}"
        reached.append((f"why {place.own[0].label}{where}", replace(place, read=None, through=None)))
    if place.read is not None:
        reached.append((f"{place.read.label} through a head", place))
    found = [Step(words, navigation.href(_PROMPT, replace(selection, place=at))) for words, at in reached]
    return found if neuron is None else [*found, Step(f"neuron {neuron.label}", "")]


def where_you_are(analysis: "Analysis", selection: PromptSelection, *, key: str, neuron: Neuron | None = None) -> None:
    """Draw them; on the neuron page with its neuron as the last."""
    trail(steps(analysis, selection, neuron), key=key, here=_PROMPT if neuron is None else "neuron")
