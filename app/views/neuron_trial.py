"""A neuron tried on a text: how active it is at every position, as coloured text."""

from dataclasses import replace

import pandas as pd
import streamlit as st

from app import navigation
from app.asking import explaining
from app.asking.examples import TRIALS
from app.drawing.components import chips, link
from app.drawing.plot_parts import Words
from app.drawing.plots import Piece, Scale, coloured
from app.drawing.position_charts import coloured_text
from app.drawing.wording import literal, percent, signed
from app.notices import fail
from app.state.selection import MAX_TRIAL, NeuronSelection, PromptSelection
from app.views.data_table import data_table
from app.views.folded import folded
from app.views.pictures import control
from app.views.shared import progress, sync
from db.catalogue import Catalogue
from db.errors import AtlasError
from db.neuron import Neuron
from db.token_text import shorten

HERE = "neuron"


def trial(neuron: Neuron, selection: NeuronSelection, atlas: Catalogue) -> None:
    """A box for a text, and the text coloured."""
    st.subheader("Try it on a text", anchor=False)
    text = selection.trial or selection.origin.prompt
    sync("neuron_trial", text)

    def changed() -> None:
        navigation.show(replace(selection, trial=st.session_state["neuron_trial"] or ""))

    st.text_area(
        "Text",
        key="neuron_trial",
        height=80,
        max_chars=MAX_TRIAL,
        placeholder="She moved from London to Paris and learned French.",
        on_change=changed,
        label_visibility="collapsed",
    )
    if not text.strip():
        st.caption("Type a text and leave the field, or take one of these: how active is the neuron at each token?")
        links = [link(one, navigation.href(HERE, replace(selection, trial=one))) for one in TRIALS]
        chips(links, key="trials", here=HERE, label="texts to try it on")
        return
    try:
        with progress() as watch:
            tokens, found = explaining.activations(atlas, text, neuron, watch)
    except AtlasError as error:
        fail(error)
        return
    frame = pd.DataFrame({"position": range(len(tokens)), "token": tokens, "activation": found.activation})
    if found.attention_weight is None or found.arriving is None:
        _text(frame, "activation", "activation", neuron.label)
        st.markdown(_strongest(tokens, found.activation))
    else:
        last = len(tokens) - 1
        frame = frame.assign(attention_weight=found.attention_weight, arriving=found.arriving)
        _text(frame, "activation", "value at each position, before any attention", neuron.label)
        st.caption(
            literal(f"What of it arrives at the last position, {last} “{tokens[last]}”: attention weight × value.")
        )
        _text(frame, "arriving", f"attention of position {last} × value", neuron.label)
        st.markdown(_strongest(tokens, found.arriving))
    explained = link("Explain this text on the prompt page →", navigation.href("prompt", PromptSelection(text)))
    chips([explained], key="explain_trial", here=HERE, label="the text explained")
    folded("The same as a data table, with CSV export", lambda: data_table(frame, "activations"), key="activations")


def _strongest(tokens: tuple[str, ...], activation: tuple[float, ...]) -> str:
    """Where the neuron is most active, and what that does."""
    place = max(range(len(tokens)), key=lambda one: abs(activation[one]))
    value = activation[place]
    if not value:
        return "It is not active anywhere in this text."
    raised, lowered = ("promotes", "suppresses") if value > 0 else ("suppresses", "promotes")
    return literal(
        f"Most active at position {place}, “{shorten(tokens[place], 40)}”: {signed(value)}. There it raises the tokens "
        f"it {raised} and lowers those it {lowered}."
    )


def _text(frame: pd.DataFrame, column: str, words: str, label: str) -> None:
    most = float(frame[column].abs().max())
    weights = frame["attention_weight"] if column == "arriving" else [None] * len(frame)
    pieces = [
        Piece(
            token,
            value / most if most else 0.0,
            f"position {position}: {signed(value, 3)}" + ("" if weight is None else f", attention {percent(weight)}"),
        )
        for position, token, value, weight in zip(
            frame["position"], frame["token"], frame[column], weights, strict=True
        )
    ]
    scale = Scale(f"{words}: negative | positive", signed(-most), signed(most))
    coloured(pieces, scale, key=f"trial_{column}", here=HERE, label=f"the text, coloured by {column}")
    said = Words(f"{label}: {words}", unit=column, sides=("negative", "positive"))
    control(f"trial_{column}", lambda: coloured_text(frame, column, said), frame)
