"""What on the prompt page: the neurons that raised the target, those that lowered it, and what switched them on."""

from dataclasses import replace

import streamlit as st

from app import navigation
from app.asking.listing import Listed, listed
from app.asking.reading import Reading
from app.drawing import charts
from app.drawing.components import legend
from app.drawing.wording import literal
from app.state.selection import PromptSelection, Show
from app.views.data_table import data_table
from app.views.folded import folded
from app.views.neuron_tables import value_table
from app.views.pictures import shown
from app.views.prompt_query import own_panel, query, through_panel
from app.views.prompt_trail import where_you_are
from app.views.shared import progress, sync
from db.catalogue import Catalogue
from db.neuron import NeuronKind

HERE = "prompt"


def neurons(reading: Reading, selection: PromptSelection, atlas: Catalogue) -> None:
    """One of the three lists, and what was asked about a neuron in it."""
    show = selection.place.show
    st.subheader("What: neurons" if show is not Show.QUERY else "Why: what switched them on", anchor=False)
    if selection.place.layer is not None:
        where_you_are(reading.analysis, selection, key="trail_neurons")
    _switch(reading, selection)
    lists: list[Listed] = []
    if show is Show.QUERY:
        query(reading, selection, atlas)
    else:
        lists = _value_neurons(reading, selection, atlas)
    if selection.place.own is not None:
        own_panel(selection, *selection.place.own, atlas)
    if selection.place.read is not None:
        through_panel(reading, selection, selection.place.read, atlas)
    if lists:
        _as_data(reading, selection, lists, atlas)


def _switch(reading: Reading, selection: PromptSelection) -> None:
    sync("prompt_show", str(selection.place.show))
    contrast = reading.analysis.contrast
    names = {
        "raised": "raised" if contrast is None else "favoured the target",
        "lowered": "lowered" if contrast is None else "favoured the other",
        "query": "switched them on (query)",
    }

    def changed() -> None:
        show = Show(st.session_state["prompt_show"] or Show.RAISED)
        navigation.show(replace(selection, place=replace(selection.place, show=show)))

    st.segmented_control(
        "Neurons",
        list(names),
        key="prompt_show",
        format_func=names.__getitem__,
        on_change=changed,
        required=True,
        label_visibility="collapsed",
    )


def _value_neurons(reading: Reading, selection: PromptSelection, atlas: Catalogue) -> list[Listed]:
    analysis = reading.analysis
    st.caption(literal(f"Neurons that {reading.words[selection.place.show]}, by {reading.unit}."))
    legend("ffn", "attention", "promotes", "suppresses")
    with progress() as watch:
        lists = listed(reading, selection, atlas, watch)
    for column, part in zip(st.columns(len(lists), gap="medium"), lists, strict=True):
        ffn = part.kind is NeuronKind.FFN
        with column:
            words = "neurons" if ffn else "neurons at their source positions"
            st.markdown(f"**{'FFN' if ffn else 'Attention'}**, {len(part.neurons)} {words}: {literal(part.found)}")
            if part.neurons:
                value_table(part.neurons, part.kind, analysis, selection, atlas, reading.unit)
            else:
                st.info("There is none here. Look at the other list above, or go back a step.")
    st.caption(
        "A row opens its neuron; “why” shows what switched it on. Solid chips: raised on this prompt, by the sign "
        "rule; dashed: lowered."
    )
    return lists


def _as_data(reading: Reading, selection: PromptSelection, lists: list[Listed], atlas: Catalogue) -> None:
    from app.attribution.forms import layer_counts_frame, neurons_frame

    place = selection.place
    if place.show is Show.RAISED and place.layer is None and reading.analysis.contrast is None:

        def by_layer() -> None:
            counts = layer_counts_frame(reading.analysis)
            chart = charts.layer_distribution(counts, atlas.info.layers)
            shown("neurons_by_layer", chart, counts, "How many of the listed neurons stand in each layer")
            st.caption("An attention neuron counts once for each source position at which it is listed.")

        folded("In which layers they stand", by_layer, key="neurons_by_layer")

    def tables() -> None:
        for kind in (NeuronKind.FFN, NeuronKind.ATTENTION):
            frame = neurons_frame(reading.analysis, reading.found(place.show, kind, place))
            data_table(frame, f"{kind}_neurons")

    folded("The same as data tables, with CSV export", tables, key="neuron_tables")
