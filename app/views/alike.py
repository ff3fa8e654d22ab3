"""A neuron's relatives: those that share its tokens, and those whose vectors point the same way."""

from dataclasses import replace
from typing import TYPE_CHECKING

import streamlit as st

from app import navigation
from app.asking import directions
from app.drawing.components import Cell, Column, TableRow, chip, legend, neuron_table
from app.drawing.wording import literal, signed
from app.notices import fail
from app.state.selection import Alike, NeuronSelection
from app.views.shared import progress, sync
from db.answers import NeuronTokens, SimilarNeuron
from db.catalogue import Catalogue
from db.errors import AtlasError
from db.neuron import Neuron

if TYPE_CHECKING:
    from indexer.directions import NeuronCosine

HERE = "neuron"
_COUNT = 12
_WAYS = {str(Alike.TOKENS): "by shared tokens", str(Alike.VALUE): "by value vector"}
_NAME = Column("neuron", "name")
_SHARED = (
    _NAME,
    Column("similarity", "bar", "1 for the same tokens at the same ranks; negative where they stand at opposite ends"),
    Column("shared tokens", "tokens"),
)
_COSINE = (
    _NAME,
    Column("cosine", "bar", "of the two value vectors; negative where one writes the opposite of the other"),
    Column("tokens it promotes", "tokens"),
)


def alike(neuron: Neuron, selection: NeuronSelection, atlas: Catalogue) -> None:
    """Either of the two; each row keeps the prompt that the neuron was opened from."""
    st.subheader("Similar neurons", anchor=False)
    sync("neuron_alike", str(selection.alike))

    def changed() -> None:
        chosen = Alike(st.session_state["neuron_alike"] or Alike.TOKENS)
        navigation.show(replace(selection, alike=chosen))

    st.segmented_control(
        "Similar",
        list(_WAYS),
        key="neuron_alike",
        format_func=_WAYS.__getitem__,
        on_change=changed,
        label_visibility="collapsed",
        required=True,
    )
    if selection.alike is Alike.VALUE:
        _by_value(neuron, selection, atlas)
    else:
        _by_tokens(neuron, selection, atlas)
    legend("ffn", "attention")


def _by_tokens(neuron: Neuron, selection: NeuronSelection, atlas: Catalogue) -> None:
    found = atlas.similar(neuron, limit=_COUNT)
    if not found:
        st.caption("No other neuron shares a stored token with it.")
        return
    rows = [_shared_row(one, selection) for one in found]
    neuron_table(_SHARED, rows, key="similar", here=HERE, label="similar neurons")
    st.caption(
        "Alike in their first tokens of both ends, earlier ones counting more. A negative similarity: what one "
        "promotes the other suppresses."
    )


def _shared_row(one: SimilarNeuron, selection: NeuronSelection) -> TableRow:
    value = -one.similarity if one.opposite else one.similarity
    return TableRow(
        _page(one.neuron, selection),
        (
            Cell(one.neuron.label, dot=one.neuron.kind.value),
            Cell(signed(value), share=value),
            Cell(chips=tuple(chip(token.display) for token in one.shared[:10])),
        ),
    )


def _by_value(neuron: Neuron, selection: NeuronSelection, atlas: Catalogue) -> None:
    try:
        with progress() as watch:
            found = directions.alike_by_value(atlas, neuron, _COUNT, watch)
    except AtlasError as error:
        fail(error)
        return
    strongest = atlas.strongest_tokens([one.neuron for one in found], 6)
    rows = [_cosine_row(one, strongest[one.neuron], selection) for one in found]
    neuron_table(_COSINE, rows, key="similar", here=HERE, label="similar neurons")
    st.caption(literal(f"Of all {atlas.info.neurons:,} neurons, by the cosine of what they write."))


def _cosine_row(one: "NeuronCosine", tokens: NeuronTokens, selection: NeuronSelection) -> TableRow:
    return TableRow(
        _page(one.neuron, selection),
        (
            Cell(one.neuron.label, dot=one.neuron.kind.value),
            Cell(signed(one.cosine), share=one.cosine),
            Cell(chips=tuple(chip(token.display, tone="promotes") for token in tokens.promotes)),
        ),
    )


def _page(neuron: Neuron, selection: NeuronSelection) -> str:
    return navigation.href(HERE, replace(selection, label=neuron.label))
