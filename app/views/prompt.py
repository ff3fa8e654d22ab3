"""Prompt: which layers, heads and neurons raised the target token. Where, then what, then why, then how sure."""

from dataclasses import replace
from typing import TYPE_CHECKING

import streamlit as st

from app import navigation
from app.asking.reading import reading_of
from app.drawing.components import chips, link
from app.notices import warn
from app.serving.configuration import configuration
from app.state.compare_selection import CompareSelection
from app.state.parts import Strongest
from app.state.selection import PromptSelection, Rule
from app.views.about import about
from app.views.prompt_asking import asking
from app.views.prompt_certainty import certainty
from app.views.prompt_neurons import neurons
from app.views.prompt_report import report
from app.views.prompt_saving import keeping, origin
from app.views.prompt_tables import switch
from app.views.prompt_trail import where_you_are
from app.views.prompt_where import where
from app.views.shared import footer, limits, open_catalogue, sync, title
from db.catalogue import Catalogue
from db.neuron import NeuronKind

if TYPE_CHECKING:
    from app.attribution.results import Analysis

HERE = "prompt"
_STRONGEST = (Strongest(NeuronKind.FFN, 10),)


def draw() -> None:
    """The page."""
    title(
        "Explain a prompt",
        "Which layers, heads and neurons raised the log-probability of the next token. In nats: +0.69 doubles it.",
    )
    about(HERE)
    atlas = open_catalogue()
    selection, notices = PromptSelection.read(navigation.params(), limits(atlas))
    warn(notices)
    analysis = asking(selection, atlas)
    _settings(selection)
    if analysis is not None:
        _explained(analysis, selection, atlas)
    footer(atlas, HERE)


def _settings(selection: PromptSelection) -> None:
    """How the prompt is analysed."""
    sync("prompt_top", selection.top)
    sync("prompt_rule", str(selection.rule))

    def changed() -> None:
        state = st.session_state
        top, rule = int(state["prompt_top"] or selection.top), Rule(state["prompt_rule"] or selection.rule)
        navigation.show(replace(selection, top=top, rule=rule))

    with st.expander("How many neurons, and by which conventions"):
        st.number_input("Neurons of each kind", 1, configuration().max_top, key="prompt_top", on_change=changed)
        st.segmented_control(
            "Conventions", [str(rule) for rule in Rule], key="prompt_rule", on_change=changed, required=True
        )
        st.caption(
            "exact agrees with the model's own probabilities; notebook drops constants of the final norm, as the "
            "method's published notebooks do. For models without biases the two are the same."
        )


def _explained(analysis: "Analysis", selection: PromptSelection, atlas: Catalogue) -> None:
    """What is below the prompt and its layers, and what can be done with all of it."""
    reading = reading_of(analysis)
    origin(selection, atlas)
    where_you_are(analysis, selection, key="trail")
    with st.container(horizontal=True, gap="medium", vertical_alignment="center"):
        switch(selection)
        report(analysis, selection, atlas)
        keeping(analysis, selection, atlas)
    asked = CompareSelection.of(selection)
    items = [
        link("Compare with another prompt …", navigation.href("compare", asked)),
        link("… or without its 10 strongest neurons", navigation.href("compare", replace(asked, zero=_STRONGEST))),
    ]
    chips(items, key="compare", here=HERE, label="compare this prompt")
    where(reading, selection, atlas)
    neurons(reading, selection, atlas)
    certainty(reading)


if __name__ == "__main__":
    draw()
