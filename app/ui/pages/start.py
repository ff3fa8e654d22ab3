"""Start: what this is, one example explained live, and where to go from here."""

from typing import TYPE_CHECKING

import streamlit as st

from app import gallery
from app.answers.walkthrough import QUESTION, Behind, Worked, worked
from app.gallery.examples import CONCEPTS, NEURONS, PROMPTS, WORDS, WORKED_PROMPT
from app.state.selections import By, NeuronSelection, Place, PromptSelection, SearchSelection
from app.ui import navigation
from app.ui.common import about, copying, footer, open_catalogue, progress
from app.ui.components import Bar, Chip, bars, chip, chips, legend, link
from app.ui.navigation import fail
from app.ui.pages.neuron_tables import raised_first
from app.words import literal, nats, percent, signed
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.neuron import Head

if TYPE_CHECKING:
    from app.attribution.results import ValueNeuron


HERE = "start"
_PREDICTIONS = 3
_TOKENS = 7


def draw() -> None:
    """The page. The worked example comes last to be drawn, since it may wait for the model."""
    with st.container(horizontal=True, vertical_alignment="bottom", horizontal_alignment="distribute"):
        st.title("Neuron Atlas", anchor=False, width="content")
        copying()
    st.markdown(
        "A language model answers by adding up vectors, and each of its **neurons** adds one that raises some tokens "
        "and lowers others. This atlas holds both ends of every neuron, so that you can **search** them by token or "
        "concept. Type a **prompt**, and it finds which layers, heads and neurons raised the answer: the exact ones, "
        "in a moment."
    )
    about(HERE)
    atlas = open_catalogue()
    left, right = st.columns([3, 2], gap="large")
    with left:
        example = st.container(border=True)
    with right:
        _ways(atlas)
    footer(atlas, HERE)
    with example:
        _example(atlas)


def _ways(atlas: Catalogue) -> None:
    st.subheader("Explain a prompt", anchor=False)
    links = [link(prompt, navigation.href("prompt", PromptSelection(prompt))) for prompt in PROMPTS]
    chips(links, key="prompts", here=HERE, label="prompts to explain")
    shown = gallery.of_model(atlas.info.model, atlas.info.unembedding_hash)
    if shown:
        st.subheader("Open one from the gallery", anchor=False)
        links = [link(view.title, navigation.href("prompt", view.selection)) for view in shown]
        chips(links, key="gallery", here=HERE, label="explanations of the gallery")
    st.subheader("Search a concept", anchor=False)
    links = [link(words, navigation.href("search", SearchSelection(words, by=By.CONCEPT))) for words in CONCEPTS]
    chips(links, key="concepts", here=HERE, label="concepts to search for")
    st.subheader("Search a token", anchor=False)
    links = [link(word, navigation.href("search", SearchSelection(word))) for word in WORDS]
    chips(links, key="words", here=HERE, label="words to search for")
    st.subheader("Look at a neuron", anchor=False)
    links = [link(label, navigation.href("neuron", NeuronSelection(label))) for label in NEURONS]
    chips(links, key="neurons", here=HERE, label="neurons to look at")
    st.caption(
        literal(f"Or type your own: on the pages above, over {atlas.info.neurons:,} neurons of {atlas.info.model}.")
    )


def _example(atlas: Catalogue) -> None:
    st.subheader("One prompt, explained", anchor=False)
    try:
        with progress() as watch:
            found = worked(atlas, watch)
    except AtlasError as error:
        st.markdown(literal(f"The example: “{WORKED_PROMPT}”"))
        fail(error)
        return
    _answer(found)
    _writers(found)
    if found.behind is not None:
        _switch(found, found.behind)
    legend("promotes", "suppresses")
    if found.first.activation < 0 or found.reading.activation < 0:
        st.caption("Where an activation is negative, a neuron raises the tokens that it otherwise suppresses.")
    whole = link("See the whole explanation →", navigation.href("prompt", QUESTION))
    chips([whole], key="whole", here=HERE, label="the whole explanation")


def _answer(found: Worked) -> None:
    analysis = found.analysis
    tokens = [
        chip(token.display, current=place == found.reading.position) for place, token in enumerate(analysis.tokens)
    ]
    chips(tokens, key="example", here=HERE, label="the example")
    st.caption("The model continues with")
    rows = [
        Bar(
            chip(
                one.token.display,
                navigation.href("prompt", PromptSelection(WORKED_PROMPT, one.token.id)),
                current=one.token.id == analysis.target.token.id,
            ),
            one.probability,
            percent(one.probability),
        )
        for one in analysis.predictions[:_PREDICTIONS]
    ]
    bars(rows, key="predictions", here=HERE, label="most probable next tokens")


def _writers(found: Worked) -> None:
    """The value neurons."""
    target = f"“{found.analysis.target.token.display}”"
    st.markdown(
        "**Value neurons** wrote the answer. "
        + literal(f"Of all FFN neurons this one raised {target} most, by {_figures(found.first)}:")
    )
    _tokens(found, found.first, "first")
    if found.naming is not None:
        st.markdown(literal(f"And this one, by {_figures(found.naming)}, names it:"))
        _tokens(found, found.naming, "naming")
    st.markdown(
        literal(
            f"This attention neuron takes it from {_source(found)}, where the frame stands: {_figures(found.reading)}."
        )
    )
    _tokens(found, found.reading, "reading")


def _switch(found: Worked, behind: Behind) -> None:
    """The query neuron behind the attention neuron."""
    reader = found.reading.neuron
    st.markdown(
        "**Query neurons** switched those on. "
        + literal(f"Behind {reader.label} stands this one, active at {_source(found)}. By its own tokens it says:")
    )
    selection = NeuronSelection(behind.neuron.label, QUESTION)
    opened = link(behind.neuron.label, navigation.href("neuron", selection))
    own = [item for item in raised_first(found.tokens[behind.neuron], behind.activation) if not item.faint]
    chips([opened, *own[:_TOKENS]], key="neuron_behind", here=HERE, label=f"tokens that {behind.neuron.label} raises")
    head = Head(reader.layer, reader.head or 0)
    st.markdown(literal(f"Read through the head that it switched on, {head.label}, it says:"))
    place = Place(read=behind.neuron, through=head)
    said = [chip(text, tone=own[0].tone if own else "plain") for text in behind.through[:_TOKENS]]
    how = link("how →", navigation.href("prompt", PromptSelection(WORKED_PROMPT, place=place)))
    chips([*said, how], key="neuron_through", here=HERE, label="what it says through the head")


def _figures(one: "ValueNeuron") -> str:
    return f"{nats(one.score)} nats at activation {signed(one.activation)}"


def _source(found: Worked) -> str:
    position = found.reading.position
    return "its source" if position is None else f"“{found.analysis.tokens[position].display}”"


def _tokens(found: Worked, one: "ValueNeuron", key: str) -> None:
    """A link to the neuron, and the tokens that it raised here."""
    selection = NeuronSelection(one.neuron.label, QUESTION)
    strong: list[Chip] = [item for item in raised_first(found.tokens[one.neuron], one.activation) if not item.faint]
    opened = link(one.neuron.label, navigation.href("neuron", selection))
    items = [opened, *strong[:_TOKENS]]
    chips(items, key=f"neuron_{key}", here=HERE, label=f"tokens that {one.neuron.label} raised")


if __name__ == "__main__":
    draw()
