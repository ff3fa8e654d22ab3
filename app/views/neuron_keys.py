"""The key side of a neuron: the tokens whose embeddings switch it on. Needs the model, so it is made when asked for."""

from dataclasses import replace
from typing import TYPE_CHECKING

import pandas as pd
import streamlit as st

from app import navigation
from app.asking import explaining
from app.drawing.components import Chip, chip, chips, link
from app.drawing.wording import literal, signed
from app.notices import fail
from app.serving import resources
from app.state.selection import NeuronSelection, TokenSelection
from app.views.data_table import data_table
from app.views.folded import folded
from app.views.shared import progress
from db.catalogue import Catalogue
from db.errors import AtlasError
from db.neuron import Neuron, NeuronKind

if TYPE_CHECKING:
    from app.attribution.keys import KeySide, KeyToken

HERE = "neuron"
_CHIPS = 16
_MEANING = {
    "key": ("The key", "it is switched on by", "it is left off by"),
    "gate": ("The gate", "it opens for", "it stays shut for"),
    "up": ("Beside the gate, the up row", "the activation is positive for", "the activation is negative for"),
    "value": ("What it takes from a source position", "positive from", "negative from"),
}
"""Of each key vector: what it is, and what its two ends do."""
_LEAD = {
    NeuronKind.FFN: "Each token’s input embedding, read with the neuron’s key vector as if nothing else stood in the "
    "residual stream.",
    NeuronKind.ATTENTION: "Each token’s input embedding, read with the neuron’s row of the value projection as if "
    "nothing else stood at the source position. How much arrives is for the attention weight to say.",
}
_GATED = " Of the two rows the gate decides how far the neuron opens, and the up row the sign of its activation."


def key_side(neuron: Neuron, selection: NeuronSelection, atlas: Catalogue) -> None:
    """Heading and, where it is asked for or the model is there anyway, both ends of every key vector."""
    st.subheader("What switches it on", anchor=False)
    if not (selection.keys or resources.is_loaded(atlas)):
        st.caption("Which tokens’ embeddings the neuron reads the most from, by its key vector. This asks the model.")
        asked = link("Show what switches it on", navigation.href(HERE, replace(selection, keys=True)))
        chips([asked], key="ask_keys", here=HERE, label="the key side")
        return
    try:
        with progress() as watch:
            sides = explaining.key_sides(atlas, neuron, watch)
    except AtlasError as error:
        fail(error)
        return
    st.caption(_LEAD[neuron.kind] + (_GATED if len(sides) > 1 else ""))
    for column, side in zip(st.columns(len(sides), gap="large"), sides, strict=True):
        with column:
            _side(side)
    st.caption(
        literal(
            f"The small figures: key · normed embedding, before the activation function; exact over all "
            f"{atlas.info.vocabulary:,} tokens. In later layers much else stands in the residual stream, and these "
            "tokens describe the key rather than predict."
        )
    )
    folded("The same as a data table, with CSV export", lambda: data_table(_frame(sides), "key_side"), key="key_side")


def _side(side: "KeySide") -> None:
    what, highest, lowest = _MEANING[side.name]
    st.markdown(
        f"**{what}**"
        + literal(f": mean {signed(side.mean)}, standard deviation {side.std:.2f}; {_towards(side.cosine)}")
    )
    for name, words, found in (("highest", highest, side.highest), ("lowest", lowest, side.lowest)):
        st.caption(words.capitalize())
        items = [_chip(one, faint=name == "lowest" and side.name in ("key", "gate")) for one in found[:_CHIPS]]
        chips(items, key=f"key_{side.name}_{name}", here=HERE, label=f"{side.name}: {words}")


def _towards(cosine: float) -> str:
    """Whether the neuron writes what it reads."""
    if abs(cosine) < 0.1:
        return f"its value vector points elsewhere (cosine {signed(cosine)})"
    return f"its value vector points {'the same' if cosine > 0 else 'the opposite'} way (cosine {signed(cosine)})"


def _chip(one: "KeyToken", faint: bool) -> Chip:
    page = navigation.href("token", TokenSelection(one.token.id))
    return chip(one.token.display, page, hint=f"z {signed(one.z)}", note=signed(one.reading, 1), faint=faint)


def _frame(sides: "tuple[KeySide, ...]") -> pd.DataFrame:
    from app.attribution.keys import keys_frame

    return keys_frame(sides)
