"""What and why on the prompt page: the neurons that raised or lowered the target, and what switched them on."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import streamlit as st

from app.answers import effects, explain
from app.answers.effects import Listed
from app.answers.reading import DISAGREEMENT, Reading, query_sentence
from app.attribution import frames
from app.attribution.prompt import PromptToken
from app.attribution.results import OwnQuery, Query, ThroughHead, overlap
from app.charts import catalogue_charts
from app.charts.prompt_charts import query_charts, scatter
from app.serving.settings import public
from app.state.selections import ListOrder, NeuronSelection, Place, PromptSelection, Section, Show
from app.ui import navigation
from app.ui.common import data_table, folded, progress, section, switch, sync
from app.ui.components import Tone, chip, chips, legend, link
from app.ui.components.charts import show
from app.ui.navigation import fail
from app.ui.neuron_lists import chosen_order, neuron_link, order_fields, query_table, value_table
from app.ui.pages.prompt_where import chart_table
from app.words import literal, nats, signed
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.neuron import Head, Neuron, NeuronAt, NeuronKind

_OVERLAP = {"both": "in both lists", "query_only": "query only", "value_only": "value only"}
_OVERLAP_CHIPS = 40
_ORDERS = (ListOrder.SCORE, ListOrder.ACTIVATION, ListOrder.LAYER, ListOrder.SOURCE)
_POLL_SECONDS, _WAIT_SECONDS = 0.5, 1.5
"""How soon it is asked again whether what is being measured is there, and how long each question waits for that."""


def neurons(
    reading: Reading, selection: PromptSelection, atlas: Catalogue, missing: "effects.Job | str | None"
) -> None:
    """One of the three lists, and what was asked about a neuron in it; `missing` of the measured effects."""
    place = selection.place
    measurable = not isinstance(missing, str) and place.show is not Show.QUERY
    with st.container(horizontal=True, vertical_alignment="center", key="neurons"):
        words = "Why: what switched them on" if place.show is Show.QUERY else "What: neurons"
        st.header(words, anchor=False, width="content")
        _switch(reading, selection)
        _order(selection, measurable=measurable)
    if place.show is Show.QUERY:
        _query_neurons(reading, selection, atlas)
    else:
        _value_neurons(reading, selection, atlas, missing)
    if place.own is not None:
        _own(selection, place.own, atlas)
    if place.read is not None:
        _through(reading, selection, place.read, atlas)


def further(reading: Reading, selection: PromptSelection, atlas: Catalogue) -> None:
    """The sections about the lists."""
    place = selection.place
    if place.show is Show.QUERY:
        if reading.analysis.query is not None:
            sizes = ", ".join(f"{len(found)} {_OVERLAP[name]}" for name, found in overlap(reading.analysis).items())
            words = f"Value and query FFN neurons: {sizes}"
            section(words, Section.OVERLAP, selection, partial(_overlap, reading, selection))
        return
    section(
        "Scored against measured", Section.MEASURED, selection, partial(_against_measured, reading, selection, atlas)
    )
    if place.show is Show.RAISED and place.layer is None and reading.analysis.contrast is None:
        section("Which layers they are in", Section.COUNTS, selection, partial(_by_layer, reading, atlas))
    section("The neurons as data tables, with CSV export", Section.DATA, selection, partial(_data, reading, place))


def _switch(reading: Reading, selection: PromptSelection) -> None:
    alone = reading.analysis.contrast is None
    names = {
        "raised": "raised" if alone else "favoured the target",
        "lowered": "lowered" if alone else "favoured the other",
        "query": "switched them on (query)",
    }

    def to(show: str) -> PromptSelection:
        return replace(selection, place=replace(selection.place, show=Show(show)))

    switch("Neurons", names, selection.place.show, key="prompt_show", to=to)


def _order(selection: PromptSelection, *, measurable: bool) -> None:
    """What the lists are searched for, and their order."""
    orders = (ListOrder.EFFECT, *_ORDERS) if measurable else _ORDERS

    def changed() -> None:
        place = replace(selection.place, **chosen_order(orders))
        navigation.show(replace(selection, place=place))

    order_fields(selection.place, orders, changed, hidden=True)


# Value neurons.


def _value_neurons(
    reading: Reading, selection: PromptSelection, atlas: Catalogue, missing: "effects.Job | str | None"
) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        words = f"Neurons that {reading.words[selection.place.show]}, by {reading.unit}."
        st.caption(literal(words), width="content")
        legend("ffn", "attention", "promotes", "suppresses")
    with progress() as watch:
        lists = effects.listed(reading, selection, atlas, watch)
    known = any(one.effect is not None for part in lists for one in part.neurons)
    _measuring(missing, reading, selection, known=known)
    shown = known or not isinstance(missing, str)
    for column, part in zip(st.columns(len(lists), gap="medium"), lists, strict=True):
        with column:
            _listed(part, reading, selection, atlas, measured=shown)
    st.caption(
        "A row opens its neuron; “why” shows what switched it on. Solid chips: raised on this prompt, by the sign "
        "rule; dashed: lowered." + f" {DISAGREEMENT}" * shown
    )


def _measuring(
    missing: "effects.Job | str | None", reading: Reading, selection: PromptSelection, *, known: bool
) -> None:
    """The line about the measured effects: what they are, or that they are coming; and the switch between orders."""
    place = selection.place
    if isinstance(missing, str) and not known:
        st.caption(f":material/info: {literal(missing)}")
        return
    scored = place.order is ListOrder.SCORE
    other = replace(place, order=None if scored else ListOrder.SCORE, reverse=False)
    switch = link("Sort by what was measured" if scored else "Sort by score", replace(selection, place=other))
    with st.container(horizontal=True, vertical_alignment="center", key="measured"):
        chips([switch], key="sort_switch", label="order of the lists", width="content")
        if isinstance(missing, effects.Job):
            _coming(missing)
        else:
            st.caption(literal(f"Measured: what {reading.answer} lost when the model ran without the neuron here."))


def _coming(job: "effects.Job") -> None:
    """Has the effects measured while the page shows the scores, and draws it anew once they are there."""
    first = True

    @st.fragment(run_every=_POLL_SECONDS)
    def poll() -> None:
        nonlocal first
        told: str | None = "Measuring what happens without them …"
        begun, first = not first, False  # the page is drawn before anything is measured
        if begun:
            try:
                told = job.begin()
            except AtlasError as error:
                told, begun = public(str(error)), False
        st.caption(f":material/hourglass_top: {literal(told or '…')}")
        if begun and job.ends_within(_WAIT_SECONDS):
            st.rerun()

    poll()


def _listed(part: Listed, reading: Reading, selection: PromptSelection, atlas: Catalogue, *, measured: bool) -> None:
    name, words = (
        ("FFN", "neurons") if part.kind is NeuronKind.FFN else ("Attention", "neurons at their source positions")
    )
    st.markdown(f"**{name}**, {len(part.neurons)} {words}: {literal(part.found)}")
    if part.neurons:
        value_table(part.neurons, part.kind, reading.analysis, selection, atlas, reading.unit, effects=measured)
    else:
        st.info("There are none here. Look at the other list above, go back a step, or look for something else.")


def _against_measured(reading: Reading, selection: PromptSelection, atlas: Catalogue) -> None:
    lists = effects.listed(reading, selection, atlas)
    found = [one for part in lists for one in part.neurons]
    if all(one.effect is None for one in found):
        missing = effects.unmeasured(atlas, selection, reading.analysis)
        st.info(literal(missing if isinstance(missing, str) else "It comes with the measured effects, in a moment."))
        return
    words = reading.words[selection.place.show]
    chart = scatter(reading, found, words, lambda neuron: neuron_link(neuron, selection))
    show(chart)
    chart_table(chart, selection)
    st.caption(f"Each point is a neuron; a click opens it. {DISAGREEMENT}")


def _by_layer(reading: Reading, atlas: Catalogue) -> None:
    counts = frames.layer_counts_frame(reading.analysis)
    label = "How many of the listed neurons are in each layer"
    show(catalogue_charts.layer_distribution(counts, atlas.info.layers, name="neurons_by_layer", label=label))
    st.caption("An attention neuron counts once for each source position at which it is listed.")


def _data(reading: Reading, place: Place) -> None:
    for kind in NeuronKind:
        data_table(frames.neurons_frame(reading.analysis, reading.found(place.show, kind, place)), f"{kind}_neurons")


# Query neurons and query layers, of all value neurons or of one.


def _query_neurons(reading: Reading, selection: PromptSelection, atlas: Catalogue) -> None:
    """What switched the value neurons on."""
    found, place = reading.analysis.query, selection.place
    if found is None:
        st.info("This analysis has no query neurons.")
        return
    st.caption(query_sentence(found))
    if reading.analysis.contrast is not None:
        st.caption("Query neurons explain the target alone, not the difference.")
    frame = frames.query_layers_frame(found)
    left, right = st.columns([1, 1], gap="medium")
    with left:
        legend("ffn", "promotes", "suppresses")
        listed = effects.query_listed(found, place, atlas)
        if listed:
            query_table(listed, "query_neurons", "query neurons", selection, atlas)
        elif found.ffn_neurons:
            st.info(f"None of the {len(found.ffn_neurons)} is here. Show all layers, or look for something else.")
        else:
            st.info("No FFN neuron stands before the value neurons.")
        st.caption("A row opens its neuron. Shallow ones often say nothing by themselves: read them through a head.")
    with right:
        for chart in query_charts(frame):
            show(chart)
    folded(
        "Query layers as a data table, with CSV export",
        lambda: data_table(frame, "query_layers"),
        key="query_layers",
        expanded=place.tables,
    )


def _overlap(reading: Reading, selection: PromptSelection) -> None:
    parts = overlap(reading.analysis)
    for name, words in _OVERLAP.items():
        labels = parts[name][:_OVERLAP_CHIPS]
        more = f", the first {len(labels)}" if len(labels) < len(parts[name]) else ""
        st.markdown(f"**{words[0].upper()}{words[1:]}**{more}")
        links = [link(label, NeuronSelection(label, selection)) for label in labels]
        chips(links, key=f"overlap_{name}", label=f"neurons {words}")


def _own(selection: PromptSelection, at: NeuronAt, atlas: Catalogue) -> None:
    """What switched one value neuron on."""
    label = at.neuron.label
    with st.container(border=True):
        try:
            own: OwnQuery = explain.detail(atlas, selection, "own", at)
        except AtlasError as error:
            fail(error)
            _close(selection, "own")
            return
        one = own.one
        source = "" if one.position is None else f" from position {one.position}"
        st.markdown(
            f"**{literal(f'Why {label}{source}')}**"
            + literal(f", score {nats(one.score)} nats, activation {signed(one.activation)}: its own query neurons")
        )
        _close(selection, "own", at.neuron)
        if one.score < 0:
            st.caption("It lowered the target, so whatever switched it on has a negative share.")
        if own.skipped:
            st.caption("What it reads adds up to nothing here, so shares of it mean nothing.")
        left, right = st.columns([1, 1], gap="medium")
        with left:
            if own.ffn_neurons:
                query_table(own.ffn_neurons, "own_query", f"query neurons of {label}", selection, atlas)
            else:
                st.info(literal(f"No FFN neuron before {label} switched it on."))
        with right:
            _own_layers(at.neuron, own.query)


def _own_layers(neuron: Neuron, found: Query) -> None:
    frame = frames.query_layers_frame(found)
    read = frame[frame["readers"] == str(neuron.kind)]
    title = f"What {neuron.label} read" + (" by its gate" if "ffn up" in set(frame["readers"]) else "")
    show(catalogue_charts.query_layers(read, title, name="own_query_layers"))


def _through(reading: Reading, selection: PromptSelection, neuron: Neuron, atlas: Catalogue) -> None:
    """A query neuron's tokens, directly and as a head hands them on."""
    head = selection.place.through or reading.analysis.head_after(neuron)
    with st.container(border=True):
        if head is None:
            st.info(literal(f"{neuron.label} is in the last layer: no head comes after it."))
            _close(selection, "read", neuron)
            return
        st.markdown(f"**{literal(f'{neuron.label} read through head {head.label}')}**")
        _close(selection, "read", neuron)
        _head_choice(selection, neuron, head, atlas)
        try:
            found: ThroughHead = explain.detail(atlas, selection, "through", (neuron, head))
        except AtlasError as error:
            fail(error)
            return
        left, right = st.columns(2, gap="medium")
        with left:
            _ends("Directly", found.directly_promotes, found.directly_suppresses, "direct")
        with right:
            _ends(f"Through {head.label}", found.promotes, found.suppresses, "through")
        legend("promotes", "suppresses")
        st.caption("For a positive activation; a negative one swaps the two ends.")


def _head_choice(selection: PromptSelection, neuron: Neuron, head: Head, atlas: Catalogue) -> None:
    sync("through_layer", head.layer)
    sync("through_head", head.head)

    def changed() -> None:
        state = st.session_state
        chosen = Head(int(state["through_layer"]), int(state["through_head"]))
        navigation.show(replace(selection, place=replace(selection.place, through=chosen)))

    layers = sorted({*range(neuron.layer + 1, atlas.info.layers), head.layer})
    with st.container(horizontal=True, gap="medium"):
        st.selectbox("Layer to read through", layers, key="through_layer", on_change=changed, width=180)
        st.selectbox("Head to read through", range(atlas.info.heads), key="through_head", on_change=changed, width=180)


def _ends(title: str, promotes: Sequence[PromptToken], suppresses: Sequence[PromptToken], key: str) -> None:
    st.markdown(f"**{literal(title)}**")
    ends: tuple[tuple[Tone, Sequence[PromptToken]], ...] = (("promotes", promotes), ("suppresses", suppresses))
    for tone, tokens in ends:
        chips((chip(token.display, tone=tone) for token in tokens), key=f"{key}_{tone}", label=f"{title}: {tone}")


def _close(selection: PromptSelection, panel: str, neuron: Neuron | None = None) -> None:
    """Links out of a panel, “own” or “read”: to its neuron's page, and to the page without it."""
    place = selection.place
    without = replace(place, own=None) if panel == "own" else replace(place, read=None, through=None)
    items = [link("✕ Close", replace(selection, place=without))]
    if neuron is not None:
        items.insert(0, link(f"Page of {neuron.label}", neuron_link(neuron, selection)))
    focus = f"{panel} {navigation.href(selection)}"
    chips(items, key=f"close_{panel}", label=f"about {panel}", focus=focus)
