"""What on the prompt page: the neurons that raised the target, those that lowered it, and what switched them on."""

from dataclasses import replace

import streamlit as st

from app import charts, navigation
from app.components import chips, legend, link
from app.reading import Reading
from app.selection import PromptSelection, Show
from app.views.neuron_tables import value_table
from app.views.prompt_query import own_panel, query, through_panel
from app.views.shared import sync
from app.wording import literal
from db.catalogue import Catalogue
from db.neuron import NeuronKind

HERE = "prompt"


def neurons(reading: Reading, selection: PromptSelection, atlas: Catalogue) -> None:
    """One of the three lists, and what was asked about a neuron in it."""
    show = selection.place.show
    st.subheader("What: neurons" if show is not Show.QUERY else "Why: what switched them on", anchor=False)
    _switch(reading, selection)
    _filtered(selection)
    if show is Show.QUERY:
        query(reading, selection, atlas)
    else:
        _value_neurons(reading, selection, atlas)
    if selection.place.own is not None:
        own_panel(selection, *selection.place.own, atlas)
    if selection.place.read is not None:
        through_panel(reading, selection, selection.place.read, atlas)
    if show is not Show.QUERY:
        _as_data(reading, selection, atlas)


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


def _filtered(selection: PromptSelection) -> None:
    """What the lists are narrowed to by what is chosen above, and the way out."""
    place = selection.place
    if place.layer is None:
        return
    words = f"Only layer {place.layer}"
    if place.head is not None and place.show is not Show.QUERY:
        source = "" if place.source is None else f" from position {place.source}"
        words += f"; of attention only head {place.head[1]}{source}"
    cleared = replace(selection, place=replace(place, layer=None, head=None, source=None))
    items = [link(f"✕ {words}", navigation.href(HERE, cleared))]
    chips(items, key="filtered", here=HERE, label="narrowed to")


def _value_neurons(reading: Reading, selection: PromptSelection, atlas: Catalogue) -> None:
    show, analysis = selection.place.show, reading.analysis
    st.caption(literal(f"Neurons that {reading.words[show]}, by {reading.unit}."))
    legend("ffn", "attention", "promotes", "suppresses")
    titles = {NeuronKind.FFN: "neurons", NeuronKind.ATTENTION: "neurons at their source positions"}
    for column, (kind, words) in zip(st.columns(2, gap="medium"), titles.items(), strict=True):
        found, every = reading.found(show, kind, selection.place), reading.lists[show, kind]
        count = f"{len(found)}" if len(found) == len(every) else f"{len(found)} of {len(every)}"
        with column:
            st.markdown(f"**{'FFN' if kind is NeuronKind.FFN else 'Attention'}**, {count} {words}")
            if found:
                value_table(found, kind, analysis, selection, atlas, reading.unit)
            else:
                st.info(f"None of the {len(every)} stands here. Show all layers, or raise the number of neurons.")
    st.caption(
        "A row opens its neuron; “why” shows what switched it on. Solid chips: raised on this prompt, by the sign "
        "rule; dashed: lowered."
    )


def _as_data(reading: Reading, selection: PromptSelection, atlas: Catalogue) -> None:
    from app.attribution.forms import layer_counts_frame, neurons_frame

    if selection.place.show is Show.RAISED and reading.analysis.contrast is None:
        with st.expander("In which layers they stand"):
            chart = charts.layer_distribution(layer_counts_frame(reading.analysis), atlas.info.layers)
            st.altair_chart(chart, width="stretch", alt="How many of the listed neurons stand in each layer")
            st.caption("An attention neuron counts once for each source position at which it is listed.")
    with st.expander("The same as data tables, with CSV export"):
        for kind in (NeuronKind.FFN, NeuronKind.ATTENTION):
            frame = neurons_frame(reading.analysis, reading.found(selection.place.show, kind, selection.place))
            st.dataframe(frame, hide_index=True, key=f"data_{kind}")
