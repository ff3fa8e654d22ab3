"""Prompt: which layers, heads and neurons raised the target token. Where, then what, then why, then how sure."""

from dataclasses import replace

import streamlit as st

from app import explaining, navigation
from app.components import chips, link
from app.examples import PROMPTS
from app.notices import fail, warn
from app.reading import reading_of
from app.selection import MAX_TOP, PromptSelection, Rule
from app.views.prompt_certainty import certainty
from app.views.prompt_neurons import neurons
from app.views.prompt_target import predictions, tokens
from app.views.prompt_where import layers, where
from app.views.shared import footer, limits, open_catalogue, progress, sync, title
from db.catalogue import Catalogue
from db.errors import AtlasError

HERE = "prompt"


def draw() -> None:
    """The page."""
    title(
        "Explain a prompt",
        "Which layers, heads and neurons raised the log-probability of the next token. In nats: +0.69 doubles it.",
    )
    atlas = open_catalogue()
    selection, notices = PromptSelection.read(navigation.params(), limits(atlas))
    warn(notices)
    _form(selection)
    if selection.prompt:
        _explained(selection, atlas)
    else:
        st.caption("Type the beginning of a text, or start from one of these:")
        links = [link(prompt, navigation.href(HERE, PromptSelection(prompt))) for prompt in PROMPTS]
        chips(links, key="prompts", here=HERE, label="prompts to try")
    footer(atlas, HERE)


def _form(selection: PromptSelection) -> None:
    """The prompt and how it is analysed. A new prompt forgets the target and the position of the old one."""
    sync("prompt_text", selection.prompt)
    sync("prompt_top", selection.top)
    sync("prompt_rule", str(selection.rule))

    def submitted() -> None:
        state = st.session_state
        text = state["prompt_text"] or ""
        kept = selection if text == selection.prompt else PromptSelection(text)
        navigation.show(
            replace(kept, top=int(state["prompt_top"] or selection.top), rule=Rule(state["prompt_rule"] or Rule.EXACT))
        )

    with st.form("prompt_form", border=False):
        st.text_area("Prompt", key="prompt_text", height=80, max_chars=8000, placeholder="The capital of France is")
        st.form_submit_button("Explain", type="primary", on_click=submitted)
        with st.expander("How many neurons, and by which conventions"):
            st.number_input("Neurons of each kind", 1, MAX_TOP, key="prompt_top")
            st.segmented_control("Conventions", [str(rule) for rule in Rule], key="prompt_rule", required=True)
            st.caption(
                "exact agrees with the model's own probabilities; notebook drops constants of the final norm, as the "
                "method's published notebooks do. For models without biases the two are the same."
            )


def _explained(selection: PromptSelection, atlas: Catalogue) -> None:
    try:
        with progress() as watch:
            analysis = explaining.analysis(atlas, selection, watch)
    except AtlasError as error:
        fail(error)
        return
    reading = reading_of(analysis)
    tokens(analysis, selection)
    left, right = st.columns([2, 3], gap="large")
    with left:
        predictions(reading, selection, atlas)
    with right:
        layers(reading, selection)
    where(reading, selection, atlas)
    neurons(reading, selection, atlas)
    certainty(reading)


if __name__ == "__main__":
    draw()
