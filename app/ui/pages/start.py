"""Start: what this is, fields to type in, one example explained, and where to go from here."""

from collections.abc import Iterable
from typing import Any

import streamlit as st

from app import gallery
from app.answers import stored
from app.answers.explain import QUESTION, Shown, Walkthrough, walkthrough
from app.answers.neuron import examples
from app.charts.prompt_charts import predictions
from app.gallery import CONCEPTS, PROMPTS, WALKTHROUGH_PROMPT, WORDS
from app.serving import access, resources
from app.state.address import Selection, left_out
from app.state.selections import MAX_PROMPT, MAX_TEXT, By, NeuronSelection, Place, PromptSelection, SearchSelection
from app.ui import navigation
from app.ui.common import controls, footer, open_catalogue, progress
from app.ui.components import Chip, Typed, chip, chips, legend, link, prompt_box
from app.ui.components.charts import show
from app.ui.navigation import fail, warn
from app.words import literal, nats, signed
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.neuron import Head

_PREDICTIONS = 3
_TOKENS = 7


def draw() -> None:
    """The page. Nothing on it waits for the model: the example's result is stored."""
    with st.container(horizontal=True, vertical_alignment="center", key="title"):
        st.title("Neuron Atlas", anchor=False, width="content")
        controls()
    st.markdown(
        "A language model answers by adding up vectors, and each of its **neurons** adds one that raises some tokens "
        "and lowers others. This atlas holds both ends of every neuron, so that you can **search** them by token or "
        "concept. Type a **prompt**, and it finds which layers, heads and neurons raised the answer: the exact ones, "
        "in a moment."
    )
    atlas = open_catalogue()
    navigation.name_tab("", atlas.info.model)
    warn(left_out(navigation.params()))
    prompts = stored.answers_to(atlas, map(PromptSelection, PROMPTS))
    left, right = st.columns(2, gap="large")
    with left:
        _prompt(prompts)
    with right:
        _search()
    left, right = st.columns([3, 2], gap="large")
    with left:
        _example(atlas)
    with right:
        _ways(atlas)
    footer(atlas)


def _prompt(prompts: Iterable[PromptSelection]) -> None:
    st.header("Explain a prompt", anchor=False)
    if access.takes_any_prompt():
        typed = _field(PromptSelection(), "p", longest=MAX_PROMPT, placeholder=PROMPTS[0])
        if typed.sent:
            navigation.follow(navigation.href(PromptSelection(typed.sent)))
    elif not access.has_model():
        st.info("This server has no model, so it explains no new prompts." + " These are stored:" * bool(prompts))
    if prompts:
        _links(((one.prompt, one) for one in prompts), "prompts", "prompts to explain")


def _search() -> None:
    st.header("Search the neurons", anchor=False)
    words, more = "Token or concept", {"label": "Token or concept", "button": "Search"}
    typed = _field(SearchSelection(), "q", longest=MAX_TEXT, placeholder=f"{words}: Paris", **more)
    if typed.sent:
        navigation.follow(navigation.href(SearchSelection(typed.sent)))
    concepts = ((words, SearchSelection(words, by=By.CONCEPT)) for words in CONCEPTS)
    _links(concepts, "concepts", "concepts to search for")
    _links(((word, SearchSelection(word)) for word in WORDS), "words", "words to search for")


def _field(empty: Selection, parameter: str, **more: Any) -> Typed:
    """A field that leads to another page, with what was typed as its parameter."""
    leads = {"href": navigation.href(empty), "parameter": parameter}
    return prompt_box("", key=f"start_{empty.page_name}", rows=1, quiet=True, leads=leads, **more)


def _ways(atlas: Catalogue) -> None:
    """Links to what else there is."""
    shown = gallery.of_model(atlas.info.model, atlas.info.checkpoint)
    if shown:
        st.header("Open one from the gallery", anchor=False)
        views = ((view.choice.title, view.selection) for view in shown)
        _links(views, "gallery", "explanations of the gallery")
    st.header("Look at a neuron", anchor=False)
    neurons = ((label, NeuronSelection(label)) for label in examples(atlas))
    _links(neurons, "neurons", "neurons to look at")
    st.caption(literal(f"One of {atlas.info.neurons:,} in {atlas.info.model}; any other by its label."))


def _links(items: Iterable[tuple[str, Selection]], key: str, label: str) -> None:
    chips((link(words, selection) for words, selection in items), key=key, label=label)


def _example(atlas: Catalogue) -> None:
    """The example, where it is stored or the model is in memory anyway; else a link to it, or nothing."""
    if stored.answer(atlas, QUESTION) is None and not resources.is_loaded(atlas):
        if stored.answers_to(atlas, [QUESTION]):
            st.header("One prompt, explained", anchor=False)
            st.caption("The model is loaded when it is first asked, which takes a moment.")
            _links([(WALKTHROUGH_PROMPT, QUESTION)], "whole", "the example")
        return
    with st.container(border=True):
        st.header("One prompt, explained", anchor=False)
        try:
            with progress() as watch:
                found = walkthrough(atlas, watch)
        except AtlasError as error:
            st.markdown(literal(f"The example: “{WALKTHROUGH_PROMPT}”"))
            fail(error)
            return
        _walk(found)


def _walk(found: Walkthrough) -> None:
    _answer(found)
    _value_neurons(found)
    if found.query is not None:
        _query_neuron(found, found.query)
    legend("promotes", "suppresses")
    if found.first.activation < 0 or found.carrying.activation < 0:
        st.caption("Where an activation is negative, a neuron raises the tokens that it otherwise suppresses.")
    chips([link("See the whole explanation →", QUESTION)], key="whole", label="the whole explanation")


def _answer(found: Walkthrough) -> None:
    analysis = found.analysis
    tokens = [
        chip(token.display, current=place == found.carrying.position) for place, token in enumerate(analysis.tokens)
    ]
    chips(tokens, key="example", label="the example")
    st.caption("The model continues with")
    chart = predictions(
        analysis.predictions[:_PREDICTIONS],
        analysis.target.token.id,
        lambda token: navigation.href(PromptSelection(WALKTHROUGH_PROMPT, token)),
    )
    show(chart, downloads=False)


def _value_neurons(found: Walkthrough) -> None:
    target = f"“{found.analysis.target.token.display}”"
    st.markdown(
        "**Value neurons** raised the answer. "
        + literal(f"Of all FFN neurons this one raised {target} most, by {_figures(found.first)}:")
    )
    _neuron(found.first, "first")
    if found.naming is not None:
        st.markdown(literal(f"And this one, by {_figures(found.naming)}, names it:"))
        _neuron(found.naming, "naming")
    source, figures = _source(found), _figures(found.carrying)
    st.markdown(literal(f"This attention neuron takes it from {source}, the framed token: {figures}."))
    _neuron(found.carrying, "carrying")


def _query_neuron(found: Walkthrough, query: Shown) -> None:
    """The query neuron behind the attention neuron."""
    carrying = found.carrying.neuron
    st.markdown(
        "**Query neurons** switched those on. "
        + literal(
            f"{carrying.label} was switched on by this one, active at {_source(found)}. By its own tokens it says:"
        )
    )
    _neuron(query, "query")
    head = Head(carrying.layer, carrying.head or 0)
    st.markdown(literal(f"Read through head {head.label}, which it switched on, it says:"))
    place = Place(read=query.neuron, through=head)
    said = [chip(text, tone=query.end.value) for text in found.through[:_TOKENS]]
    how = link("how →", PromptSelection(WALKTHROUGH_PROMPT, place=place))
    chips([*said, how], key="neuron_through", label="what it says through the head")


def _figures(one: Shown) -> str:
    return f"{nats(one.score)} nats at activation {signed(one.activation)}"


def _source(found: Walkthrough) -> str:
    position = found.carrying.position
    return "its source" if position is None else f"“{found.analysis.tokens[position].display}”"


def _neuron(one: Shown, key: str) -> None:
    """A link to the neuron, and the tokens that it raised here."""
    opened = link(one.neuron.label, NeuronSelection(one.neuron.label, QUESTION))
    raised: list[Chip] = [chip(text, tone=one.end.value) for text in one.raised[:_TOKENS]]
    chips([opened, *raised], key=f"neuron_{key}", label=f"tokens that {one.neuron.label} raised")


if __name__ == "__main__":
    draw()
