"""How sure on the prompt page: how each list was found, and how long that took."""

from dataclasses import replace
from typing import TYPE_CHECKING

import streamlit as st

from app.answers import explain
from app.answers.explain import Listed, listed
from app.answers.reading import Reading, certainty_lines
from app.charts import catalogue_charts
from app.charts.prompt_charts import query_charts
from app.state.selections import NeuronSelection, PromptSelection, Show
from app.ui import navigation
from app.ui.common import data_table, folded, progress, sync, where_you_are
from app.ui.components import Chip, Tone, chip, chips, legend, link
from app.ui.components.charts import show
from app.ui.navigation import fail
from app.ui.neuron_lists import query_table, value_table
from app.words import literal, nats, signed
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.neuron import Head, Neuron, NeuronAt, NeuronKind

if TYPE_CHECKING:
    from app.attribution.prompt import PromptToken


def certainty(reading: Reading) -> None:
    """In words."""
    st.subheader("How sure", anchor=False)
    for lead, text in certainty_lines(reading):
        st.caption(f"**{lead}.** {literal(text)}.")


# What on the prompt page: the neurons that raised the target, those that lowered it, and what switched them on.

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
        own_panel(selection, selection.place.own, atlas)
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
    from app.attribution.frames import layer_counts_frame, neurons_frame

    place = selection.place
    if place.show is Show.RAISED and place.layer is None and reading.analysis.contrast is None:

        def by_layer() -> None:
            counts = layer_counts_frame(reading.analysis)
            label = "How many of the listed neurons are in each layer"
            show(catalogue_charts.layer_distribution(counts, atlas.info.layers, name="neurons_by_layer", label=label))
            st.caption("An attention neuron counts once for each source position at which it is listed.")

        folded("In which layers they stand", by_layer, key="neurons_by_layer")

    def tables() -> None:
        for kind in (NeuronKind.FFN, NeuronKind.ATTENTION):
            frame = neurons_frame(reading.analysis, reading.found(place.show, kind, place))
            data_table(frame, f"{kind}_neurons")

    folded("The same as data tables, with CSV export", tables, key="neuron_tables")


# Why on the prompt page: the query neurons and query layers, of all value neurons or of one, read directly or through

_OVERLAP = {"both": "in both lists", "query_only": "query only", "value_only": "value only"}
_OVERLAP_CHIPS = 40


def query(reading: Reading, selection: PromptSelection, atlas: Catalogue) -> None:
    """What switched the value neurons on."""
    from app.attribution.frames import query_layers_frame

    found = reading.analysis.query
    if found is None:
        st.info("This analysis has no query neurons.")
        return
    attention, ffn = found.readers
    skipped = f" {found.skipped} were left out, since what they read adds up to nothing." if found.skipped else ""
    st.caption(
        f"A value neuron is switched on by what it reads. These FFN neurons wrote most of what the {attention} "
        f"strongest attention value neurons read; the charts split what they and the {ffn} strongest FFN value neurons "
        f"read over the layers below.{skipped}"
    )
    if reading.analysis.contrast is not None:
        st.caption("Query neurons explain the target alone, not the difference.")
    place = selection.place
    listed = [one for one in found.ffn_neurons if place.layer in (None, one.neuron.layer)]
    left, right = st.columns([1, 1], gap="medium")
    with left:
        legend("ffn", "promotes", "suppresses")
        if listed:
            query_table(listed, "query_neurons", "query neurons", selection, atlas)
        else:
            st.info(f"None of the {len(found.ffn_neurons)} stands in layer {place.layer}. Show all layers.")
        st.caption("A row opens its neuron. Shallow ones often say nothing by themselves: read them through a head.")
    frame = query_layers_frame(found)
    with right:
        for chart in query_charts(frame):
            show(chart)
    _overlap(reading, selection)
    folded(
        "Query layers as a data table, with CSV export",
        lambda: data_table(frame, "query_layers"),
        key="query_layers",
        expanded=selection.place.tables,
    )


def _overlap(reading: Reading, selection: PromptSelection) -> None:
    from app.attribution.results import overlap

    parts = overlap(reading.analysis)
    sizes = ", ".join(f"{len(parts[name])} {words}" for name, words in _OVERLAP.items())
    with st.expander(f"Value and query FFN neurons: {sizes}"):
        for name, words in _OVERLAP.items():
            labels = parts[name][:_OVERLAP_CHIPS]
            more = len(parts[name]) - len(labels)
            st.markdown(f"**{words[0].upper()}{words[1:]}**" + (f", the first {len(labels)}" if more > 0 else ""))
            links = [link(label, navigation.href("neuron", NeuronSelection(label, selection))) for label in labels]
            chips(links, key=f"overlap_{name}", here=HERE, label=f"neurons {words}")


def own_panel(selection: PromptSelection, at: NeuronAt, atlas: Catalogue) -> None:
    """What switched one value neuron on."""
    from app.attribution.frames import query_layers_frame

    neuron = at.neuron
    with st.container(border=True):
        try:
            own = explain.detail(atlas, selection, "own", at)
        except AtlasError as error:
            fail(error)
            _close(selection, "own")
            return
        one, found = own.one, own.query
        where = "" if one.position is None else f" from position {one.position}"
        st.markdown(
            f"**{literal(f'Why {neuron.label}{where}')}**"
            + literal(f", score {nats(one.score)} nats, activation {signed(one.activation)}: its own query neurons")
        )
        _close(selection, "own", neuron)
        if one.score < 0:
            st.caption("It lowered the target, so whatever switched it on has a negative share.")
        if found.skipped:
            st.caption("What it reads adds up to nothing here, so that shares of it mean nothing.")
        left, right = st.columns([1, 1], gap="medium")
        with left:
            query_table(found.ffn_neurons, "own_query", f"query neurons of {neuron.label}", selection, atlas)
        with right:
            frame = query_layers_frame(found)
            read = frame[frame["readers"] == ("attention" if neuron.head is not None else "ffn")]
            title = f"What {neuron.label} read" + (" by its gate" if "ffn up" in set(frame["readers"]) else "")
            show(catalogue_charts.query_layers(read, title, name="own_query_layers"))


def _close(selection: PromptSelection, name: str, neuron: Neuron | None = None) -> None:
    place = selection.place
    place = replace(place, own=None) if name == "own" else replace(place, read=None, through=None)
    items = [link("✕ Close", navigation.href(HERE, replace(selection, place=place)))]
    if neuron is not None:
        items.insert(
            0, link(f"Page of {neuron.label}", navigation.href("neuron", NeuronSelection(neuron.label, selection)))
        )
    focus = f"{name} {navigation.href(HERE, selection)}"
    chips(items, key=f"close_{name}", here=HERE, label=f"about {name}", focus=focus)


def through_panel(reading: Reading, selection: PromptSelection, neuron: Neuron, atlas: Catalogue) -> None:
    """A query neuron's tokens, directly and as a head hands them on."""
    head = selection.place.through or reading.analysis.head_after(neuron)
    with st.container(border=True):
        if head is None:
            st.info(literal(f"{neuron.label} stands in the last layer: no head comes after it."))
            _close(selection, "read", neuron)
            return
        st.markdown(f"**{literal(f'{neuron.label} read through head {head.label}')}**")
        _close(selection, "read", neuron)
        _head_choice(selection, neuron, head, atlas)
        try:
            through = explain.detail(atlas, selection, "through", (neuron, head))
        except AtlasError as error:
            fail(error)
            return
        left, right = st.columns(2, gap="medium")
        with left:
            _ends("Directly", through.directly_promotes, through.directly_suppresses, "direct")
        with right:
            _ends(f"Through {head.label}", through.promotes, through.suppresses, "through")
        legend("promotes", "suppresses")
        st.caption("For a positive activation; a negative one turns both ends round.")


def _head_choice(selection: PromptSelection, neuron: Neuron, head: Head, atlas: Catalogue) -> None:
    sync("through_layer", head[0])
    sync("through_head", head[1])

    def changed() -> None:
        state = st.session_state
        chosen = Head(int(state["through_layer"]), int(state["through_head"]))
        navigation.show(replace(selection, place=replace(selection.place, through=chosen)))

    layers = sorted({*range(neuron.layer + 1, atlas.info.layers), head[0]})
    with st.container(horizontal=True, gap="medium"):
        st.selectbox("Layer to read through", layers, key="through_layer", on_change=changed, width=180)
        st.selectbox("Head to read through", range(atlas.info.heads), key="through_head", on_change=changed, width=180)


def _ends(title: str, promotes: "tuple[PromptToken, ...]", suppresses: "tuple[PromptToken, ...]", key: str) -> None:
    st.markdown(f"**{literal(title)}**")
    ends: tuple[tuple[Tone, tuple[PromptToken, ...]], ...] = (("promotes", promotes), ("suppresses", suppresses))
    for tone, tokens in ends:
        items: list[Chip] = [chip(token.display, tone=tone) for token in tokens]
        chips(items, key=f"{key}_{tone}", here=HERE, label=f"{title}: {tone}")
