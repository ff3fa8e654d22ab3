"""Where a neuron's vector and logits lie among the others of its layer and kind."""

import pandas as pd
import streamlit as st

from app.asking.standing import Standing
from app.drawing import charts
from app.drawing.palette import KIND_NAMES
from app.drawing.wording import literal, percent, signed
from app.views.pictures import shown
from db.answers import NeuronCard

_FIGURES = {
    "norm": ("norm of the value vector", "norm", "longer than"),
    "std": ("standard deviation of its logits", "logits", "wider than"),
    "top_z": ("z of its most promoted token", "z", "more peaked than"),
    "bottom_z": ("z of its most suppressed token", "z", "more peaked than"),
}


def standing_among(card: NeuronCard, layer: pd.DataFrame, standing: Standing) -> None:
    """Heading, a sentence, and a histogram of each figure with the neuron's own place."""
    neuron = card.neuron
    st.subheader(f"Among the {len(layer):,} {KIND_NAMES[neuron.kind]} neurons of layer {neuron.layer}", anchor=False)
    st.markdown(literal(_sentence(card, standing)))
    columns = st.columns(4, gap="small")
    for column, (name, (words, unit, more)) in zip(columns, _FIGURES.items(), strict=True):
        with column:
            chart = charts.standing(layer, name, standing.figures[name], words, unit)
            shown(f"layer_{name}", chart, layer, f"Histogram of the layer: {words}", width=420)
            value = standing.figures[name]
            own = signed(value) if unit == "z" else f"{value:.2f}"
            st.caption(literal(f"Its own: {own}, {more} {percent(standing.larger[name])} of the others"))
    st.caption("Grey: all neurons of this kind in the layer. The upright line: this neuron.")


def _sentence(card: NeuronCard, standing: Standing) -> str:
    sharper, end = max((standing.larger["top_z"], "promotes"), (standing.larger["bottom_z"], "suppresses"))
    return (
        f"Over the vocabulary its logits have mean {signed(card.mean)} and standard deviation {card.std:.2f}. Its "
        f"first token stands out most sharply at the end it {end}: more than in {percent(sharper)} of the others. A "
        "sharp end points to a few tokens; a blunt one is spread over many and hard to read."
    )
