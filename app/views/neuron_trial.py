"""A neuron tried on a text: how active it is at every position, as coloured text."""

from dataclasses import replace

import pandas as pd
import streamlit as st

from app import explaining, navigation
from app.notices import fail
from app.plots import Piece, Scale, coloured
from app.selection import MAX_TRIAL, NeuronSelection
from app.views.shared import progress, sync
from app.wording import literal, percent, signed
from db.catalogue import Catalogue
from db.errors import AtlasError
from db.neuron import Neuron

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
        st.caption("Type a text, leave the field, and see how active this neuron is at each of its tokens.")
        return
    try:
        with progress() as watch:
            tokens, found = explaining.activations(atlas, text, neuron, watch)
    except AtlasError as error:
        fail(error)
        return
    frame = pd.DataFrame({"position": range(len(tokens)), "token": tokens, "activation": found.activation})
    if found.attention_weight is None or found.arriving is None:
        _text(frame, "activation", "activation")
    else:
        last = len(tokens) - 1
        frame = frame.assign(attention_weight=found.attention_weight, arriving=found.arriving)
        _text(frame, "activation", "value at each position, before any attention")
        st.caption(
            literal(f"What of it arrives at the last position, {last} “{tokens[last]}”: attention weight × value.")
        )
        _text(frame, "arriving", f"attention of position {last} × value")
    with st.expander("The same as a data table, with CSV export"):
        st.dataframe(frame, hide_index=True)


def _text(frame: pd.DataFrame, column: str, words: str) -> None:
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
