"""A neuron's neighbours in the model: those next to it, and for an attention neuron all of its head."""

from dataclasses import replace

import pandas as pd
import streamlit as st

from app import navigation
from app.asking import finding
from app.drawing.components import Cell, Chip, Column, TableRow, Tone, chip, chips, link, neuron_table
from app.drawing.wording import signed
from app.state.selection import NeuronSelection
from db.answers import Token
from db.catalogue import Catalogue
from db.neuron import Neuron

HERE = "neuron"
_DEPTH = 6
_HEAD = (
    Column("neuron", "name"),
    Column("peak z", "bar", "the larger |z| of its two first tokens, with its sign: how sharply it points"),
    Column("promotes", "list"),
    Column("suppresses", "list"),
)


def beside(neuron: Neuron, selection: NeuronSelection, layer: pd.DataFrame, atlas: Catalogue) -> None:
    """The neurons next to it; of a head all others with their tokens, the sharpest first.

    Args:
        neuron: which.
        selection: the page's; each link keeps the prompt that the neuron was opened from.
        layer: `Catalogue.layer_statistics` of its layer and kind.
        atlas: the catalogue.
    """
    if neuron.head is None:
        st.caption(f"Its neighbours in layer {neuron.layer}; their order means nothing")
    else:
        st.subheader(f"The other dimensions of head {neuron.head} in layer {neuron.layer}", anchor=False)
        _head(neuron, selection, layer, atlas)
        st.caption("The dimensions next to it")
    around = finding.beside(atlas, neuron)
    links = [link(one.label, _page(one, selection), current=one == neuron) for one in around]
    chips(links, key="beside", here=HERE, label="neighbours in the model")


def _head(neuron: Neuron, selection: NeuronSelection, layer: pd.DataFrame, atlas: Catalogue) -> None:
    own = layer[(layer["head"] == neuron.head) & (layer["index"] != neuron.index)]
    if own.empty:
        st.caption("The head has no other dimension.")
        return
    upper = own["top_z"].abs() >= own["bottom_z"].abs()
    peaks = own["top_z"].where(upper, own["bottom_z"])
    order = peaks.abs().sort_values(ascending=False, kind="stable").index
    others = [replace(neuron, index=int(own.loc[place, "index"])) for place in order]
    strongest = atlas.strongest_tokens(others, _DEPTH)
    most = float(peaks.abs().max()) or 1.0
    rows = [
        TableRow(
            _page(one, selection),
            (
                Cell(one.label, dot=one.kind.value),
                Cell(signed(float(peaks[place])), share=float(peaks[place]) / most),
                Cell(tone="promotes", chips=_tokens(strongest[one].promotes, "promotes")),
                Cell(tone="suppresses", chips=_tokens(strongest[one].suppresses, "suppresses")),
            ),
        )
        for one, place in zip(others, order, strict=True)
    ]
    neuron_table(_HEAD, rows, key="head", here=HERE, label="the other dimensions of its head")


def _tokens(tokens: tuple[Token, ...], tone: Tone) -> tuple[Chip, ...]:
    return tuple(chip(token.display, tone=tone) for token in tokens)


def _page(neuron: Neuron, selection: NeuronSelection) -> str:
    return navigation.href(HERE, replace(selection, label=neuron.label))
