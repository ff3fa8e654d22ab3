"""Start: what this is, one example explained live, and where to go from here."""

from typing import TYPE_CHECKING

import streamlit as st

from app import explaining, navigation
from app.components import Bar, bars, chip, chips, legend, link
from app.examples import CONCEPTS, NEURONS, PROMPTS, WORDS, WORKED_PROMPT
from app.notices import fail
from app.selection import By, NeuronSelection, PromptSelection, SearchSelection
from app.views.neuron_tables import raised_first
from app.views.shared import footer, open_catalogue, progress
from app.wording import literal, nats, percent, signed
from db.catalogue import Catalogue
from db.errors import AtlasError

if TYPE_CHECKING:
    from app.attribution.results import Analysis, ValueNeuron

HERE = "start"
_TOP = 20


def draw() -> None:
    """The page. The worked example comes last to be drawn, since it may wait for the model."""
    st.title("Neuron Atlas", anchor=False)
    st.markdown(
        "A language model answers by adding up vectors, and each of its **neurons** adds one that raises some tokens "
        "and lowers others. This atlas holds both ends of every neuron, so that you can **search** them by token or "
        "concept. Type a **prompt**, and it finds which layers, heads and neurons raised the answer: the exact ones, "
        "in a moment."
    )
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
    selection = PromptSelection(WORKED_PROMPT, top=_TOP)
    try:
        with progress() as watch:
            analysis = explaining.analysis(atlas, selection, watch)
    except AtlasError as error:
        fail(error)
        return
    chips([chip(token.display) for token in analysis.tokens], key="example", here=HERE, label="the example")
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
        for one in analysis.predictions[:3]
    ]
    bars(rows, key="predictions", here=HERE, label="most probable next tokens")
    if analysis.ffn_value_neurons:
        _neuron("Of all FFN neurons, the one that raised it most is", analysis.ffn_value_neurons[0], analysis, atlas)
    if analysis.attention_value_neurons:
        _neuron("Of all attention neurons it is", analysis.attention_value_neurons[0], analysis, atlas)
    legend("promotes", "suppresses")
    whole = link("See the whole explanation →", navigation.href("prompt", PromptSelection(WORKED_PROMPT)))
    chips([whole], key="whole", here=HERE, label="the whole explanation")


def _neuron(lead: str, one: "ValueNeuron", analysis: "Analysis", atlas: Catalogue) -> None:
    selection = NeuronSelection(one.neuron.label, PromptSelection(WORKED_PROMPT))
    opened = link(one.neuron.label, navigation.href("neuron", selection))
    source = "" if one.position is None else f", reading from “{analysis.tokens[one.position].display}”"
    st.markdown(
        f"{lead} **{literal(one.neuron.label)}**"
        + literal(f"{source}: {nats(one.score)} nats, with activation {signed(one.activation)}. The tokens it raises:")
    )
    tokens = raised_first(atlas.strongest_tokens([one.neuron], 6)[one.neuron], one.activation)
    strong = [item for item in tokens if not item.faint]
    chips([opened, *strong], key=f"neuron_{one.neuron.kind}", here=HERE, label="its tokens")


if __name__ == "__main__":
    draw()
