"""Start: what this is, one example explained live, and where to go from here."""

from collections.abc import Iterable

import streamlit as st

from app import gallery
from app.answers.explain import QUESTION, Shown, Walkthrough, walkthrough
from app.charts.prompt_charts import predictions
from app.gallery import CONCEPTS, NEURONS, PROMPTS, WALKTHROUGH_PROMPT, WORDS
from app.state.address import Selection, left_out
from app.state.selections import By, NeuronSelection, Place, PromptSelection, SearchSelection
from app.ui import navigation
from app.ui.common import about, copying, footer, open_catalogue, progress
from app.ui.components import Chip, chip, chips, legend, link
from app.ui.components.charts import show
from app.ui.navigation import fail, warn
from app.words import literal, nats, signed
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.neuron import Head

HERE = "start"
_PREDICTIONS = 3
_TOKENS = 7


def draw() -> None:
    """The page. The example is drawn last, since it may wait for the model."""
    with st.container(horizontal=True, vertical_alignment="center", key="title"):
        st.title("Neuron Atlas", anchor=False, width="content")
        copying()
        about(HERE)
    st.markdown(
        "A language model answers by adding up vectors, and each of its **neurons** adds one that raises some tokens "
        "and lowers others. This atlas holds both ends of every neuron, so that you can **search** them by token or "
        "concept. Type a **prompt**, and it finds which layers, heads and neurons raised the answer: the exact ones, "
        "in a moment."
    )
    atlas = open_catalogue()
    warn(left_out(navigation.params()))
    left, right = st.columns([3, 2], gap="large")
    with left:
        example = st.container(border=True)
    with right:
        _ways(atlas)
    footer(atlas, HERE)
    with example:
        _example(atlas)


def _ways(atlas: Catalogue) -> None:
    """Links to each of the pages."""
    prompts = ((prompt, PromptSelection(prompt)) for prompt in PROMPTS)
    _links("Explain a prompt", "prompt", prompts, "prompts", "prompts to explain")
    shown = gallery.of_model(atlas.info.model, atlas.info.checkpoint)
    if shown:
        views = ((view.choice.title, view.selection) for view in shown)
        _links("Open one from the gallery", "prompt", views, "gallery", "explanations of the gallery")
    concepts = ((words, SearchSelection(words, by=By.CONCEPT)) for words in CONCEPTS)
    _links("Search a concept", "search", concepts, "concepts", "concepts to search for")
    words = ((word, SearchSelection(word)) for word in WORDS)
    _links("Search a token", "search", words, "words", "words to search for")
    neurons = ((label, NeuronSelection(label)) for label in NEURONS)
    _links("Look at a neuron", "neuron", neurons, "neurons", "neurons to look at")
    st.caption(
        literal(f"Or type your own: on the pages above, over {atlas.info.neurons:,} neurons of {atlas.info.model}.")
    )


def _links(heading: str, page: str, items: Iterable[tuple[str, Selection]], key: str, label: str) -> None:
    st.header(heading, anchor=False)
    links = [link(words, navigation.href(page, selection)) for words, selection in items]
    chips(links, key=key, here=HERE, label=label)


def _example(atlas: Catalogue) -> None:
    st.header("One prompt, explained", anchor=False)
    try:
        with progress() as watch:
            found = walkthrough(atlas, watch)
    except AtlasError as error:
        st.markdown(literal(f"The example: “{WALKTHROUGH_PROMPT}”"))
        fail(error)
        return
    _answer(found)
    _value_neurons(found)
    if found.query is not None:
        _query_neuron(found, found.query)
    legend("promotes", "suppresses")
    if found.first.activation < 0 or found.carrying.activation < 0:
        st.caption("Where an activation is negative, a neuron raises the tokens that it otherwise suppresses.")
    whole = link("See the whole explanation →", navigation.href("prompt", QUESTION))
    chips([whole], key="whole", here=HERE, label="the whole explanation")


def _answer(found: Walkthrough) -> None:
    analysis = found.analysis
    tokens = [
        chip(token.display, current=place == found.carrying.position) for place, token in enumerate(analysis.tokens)
    ]
    chips(tokens, key="example", here=HERE, label="the example")
    st.caption("The model continues with")
    chart = predictions(
        analysis.predictions[:_PREDICTIONS],
        analysis.target.token.id,
        lambda token: navigation.href("prompt", PromptSelection(WALKTHROUGH_PROMPT, token)),
    )
    show(chart, HERE, downloads=False)


def _value_neurons(found: Walkthrough) -> None:
    target = f"“{found.analysis.target.token.display}”"
    st.markdown(
        "**Value neurons** wrote the answer. "
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
    how = link("how →", navigation.href("prompt", PromptSelection(WALKTHROUGH_PROMPT, place=place)))
    chips([*said, how], key="neuron_through", here=HERE, label="what it says through the head")


def _figures(one: Shown) -> str:
    return f"{nats(one.score)} nats at activation {signed(one.activation)}"


def _source(found: Walkthrough) -> str:
    position = found.carrying.position
    return "its source" if position is None else f"“{found.analysis.tokens[position].display}”"


def _neuron(one: Shown, key: str) -> None:
    """A link to the neuron, and the tokens that it raised here."""
    opened = link(one.neuron.label, navigation.href("neuron", NeuronSelection(one.neuron.label, QUESTION)))
    raised: list[Chip] = [chip(text, tone=one.end.value) for text in one.raised[:_TOKENS]]
    chips([opened, *raised], key=f"neuron_{key}", here=HERE, label=f"tokens that {one.neuron.label} raised")


if __name__ == "__main__":
    draw()
