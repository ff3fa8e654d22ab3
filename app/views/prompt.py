"""Prompt: which layers, heads and neurons raised the target token."""

from dataclasses import replace
from typing import TYPE_CHECKING

import streamlit as st

from app import charts, navigation, resources
from app.components import Bar, bars, chip, chips, link
from app.examples import PROMPTS
from app.notices import fail, warn
from app.selection import MAX_TOP, PromptSelection, Rule
from app.views.neuron_tables import neuron_tables
from app.views.on_prompt import running
from app.views.shared import footer, limits, open_catalogue, sync, title
from app.wording import literal, nats, percent
from db.catalogue import Catalogue
from db.errors import AtlasError

if TYPE_CHECKING:
    from app.attribution.results import Analysis

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
        with st.spinner(literal(running(atlas))):
            analysis = resources.analysis(atlas, selection)
    except AtlasError as error:
        fail(error)
        return
    _tokens(analysis, selection)
    left, right = st.columns([2, 3], gap="large")
    with left:
        _predictions(analysis, selection, atlas)
    with right:
        _layers(analysis)
    _heads(analysis)
    neuron_tables(analysis, selection, atlas)
    _certainty(analysis)


def _tokens(analysis: "Analysis", selection: PromptSelection) -> None:
    last = len(analysis.tokens) - 1
    items = [
        chip(
            token.display,
            navigation.href(HERE, replace(selection, position=None if place == last else place, target=None)),
            hint=f"position {place}, token {token.id}",
            current=place == analysis.position,
        )
        for place, token in enumerate(analysis.tokens)
    ]
    st.caption(f"{last + 1} tokens. The framed one is where the next token is explained; click another to move there.")
    chips(items, key="tokens", here=HERE, label="tokens of the prompt")


def _predictions(analysis: "Analysis", selection: PromptSelection, atlas: Catalogue) -> None:
    target = analysis.target
    st.subheader("What comes next", anchor=False)
    st.caption(
        literal(f"Explained: “{target.token.display}”, {percent(target.probability)}, ")
        + f"log-probability {literal(nats(target.log_probability))} nats. Click another to explain that."
    )
    rows = [
        Bar(
            chip(
                one.token.display,
                navigation.href(HERE, replace(selection, target=one.token.id)),
                hint=f"token {one.token.id}",
                current=one.token.id == target.token.id,
            ),
            one.probability,
            percent(one.probability),
        )
        for one in analysis.predictions
    ]
    bars(rows, key="predictions", here=HERE, label="most probable next tokens")
    _other_target(selection, atlas)


def _other_target(selection: PromptSelection, atlas: Catalogue) -> None:
    def changed() -> None:
        text = st.session_state["prompt_target"]
        if not text:
            return
        try:
            navigation.show(replace(selection, target=resources.target_id(atlas, text)))
            st.session_state["prompt_target"] = ""
        except AtlasError as error:
            st.session_state["prompt_target_error"] = str(error)

    st.text_input(
        "Another target", key="prompt_target", max_chars=100, placeholder="one token, such as London", on_change=changed
    )
    error = st.session_state.pop("prompt_target_error", None)
    if error:
        warn([error])


def _layers(analysis: "Analysis") -> None:
    from app.attribution.forms import layers_frame

    frame = layers_frame(analysis)
    st.altair_chart(charts.layer_bars(frame), width="stretch", alt="Score of attention and FFN by layer")
    st.caption(
        "Each bar is the change of the target's log-probability where that part is added to the residual stream."
    )


def _heads(analysis: "Analysis") -> None:
    from app.attribution.forms import heads_frame

    frame = heads_frame(analysis)
    st.altair_chart(charts.head_map(frame), width="stretch", alt="Score of every head by layer")


def _certainty(analysis: "Analysis") -> None:
    """How the neurons were found, and how long it took."""
    parts = []
    for kind, words in (("ffn", "FFN neurons"), ("attention", "attention neurons × positions")):
        one = next(found for name, found in analysis.certificates.items() if name == kind)
        proof = "proven to be the exact top" if one.proven else "not proven to be complete"
        parts.append(f"{one.scored:,} of {one.total:,} {words} scored exactly, {proof}")
    seconds = analysis.seconds
    st.caption(
        "How sure: "
        + literal("; ".join(parts))
        + ". "
        + literal(f"Analysed in {seconds.total:.2f} s, of which {seconds.forward:.2f} s for the model's forward pass.")
    )


if __name__ == "__main__":
    draw()
