"""Prompt: which layers, heads and neurons raised the target token. Where, then what, then why, then how sure."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Literal

import streamlit as st

from app.answers import explain
from app.answers.reading import Reading, reading_of
from app.charts import prompt_charts
from app.gallery.examples import PROMPTS
from app.serving.settings import configuration
from app.serving.worker import Report
from app.state.selections import MAX_PROMPT, CompareSelection, Place, PromptSelection, Rule
from app.ui import navigation
from app.ui.common import about, footer, limits, open_catalogue, sync, title, where_you_are
from app.ui.components import chip, chips, link
from app.ui.components.charts import show
from app.ui.components.fields import Option, prompt_box, token_field
from app.ui.navigation import fail, warn
from app.ui.pages.prompt_keep import keeping, origin, report
from app.ui.pages.prompt_neurons import certainty, neurons
from app.ui.pages.prompt_where import beside, layers, switch, where
from app.words import literal, nats, percent, signed
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.neuron import NeuronKind, Strongest
from db.token_text import shorten

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

    from app.attribution.prompt import PromptToken
    from app.attribution.results import Analysis, Prediction


# The upper left of the prompt page: its tokens, what comes next, and what that is held against.

HERE = "prompt"
_OPTION = 20
_CONTROL_HEIGHT = 44
"""Of the control below the bars: without it nothing shall move."""


def tokens(found: "Sequence[PromptToken]", position: int, asked: PromptSelection) -> None:
    """The prompt's tokens; a click moves the explained position."""
    last = len(found) - 1
    moved = replace(asked, target=None, distractor=None, place=Place(tables=asked.place.tables))
    items = [
        chip(
            token.display,
            navigation.href(HERE, replace(moved, position=None if place == last else place)),
            hint=f"position {place}, token {token.id}",
            current=place == position,
        )
        for place, token in enumerate(found)
    ]
    chips(items, key="tokens", here=HERE, label="tokens of the prompt")


def explained(analysis: "Analysis | None") -> None:
    """Which token is explained."""
    if analysis is None:
        st.caption("The most probable next tokens. Click one to explain it.")
        return
    target = analysis.target
    st.caption(
        literal(f"Explained: “{target.token.display}”, {percent(target.probability)}, ")
        + f"log-probability {literal(nats(target.log_probability))} nats. Click another to explain that."
    )


def upcoming(predictions: "Sequence[Prediction]", asked: PromptSelection, reading: Reading | None) -> None:
    """The most probable next tokens; a click explains one. The reading is that of the asked text where there is one."""
    target = None if reading is None else reading.analysis.target.token.id
    subject = "" if reading is None else f"{prompt_charts.subject(asked.prompt)}, {reading.analysis.model}"
    chart = prompt_charts.predictions(
        predictions,
        target,
        lambda token: navigation.href(HERE, _asking(asked, "target", token)),
        subject=subject,
    )
    show(chart, HERE, downloads=reading is not None)
    if reading is None:
        st.container(height=_CONTROL_HEIGHT, border=False)
    else:
        beside(asked, chart)


def fields(asked: PromptSelection, atlas: Catalogue) -> None:
    """Any other target, and any token to hold the target against."""
    left, right = st.columns(2, gap="small")
    with left:
        _token_field("Another target", "prompt_target", partial(_asking, asked, "target"), asked, atlas)
    with right:
        _token_field("Why not", "prompt_distractor", partial(_asking, asked, "distractor"), asked, atlas)


def _asking(selection: PromptSelection, name: Literal["target", "distractor"], token: int | None) -> PromptSelection:
    """The selection with another target or distractor; what was looked at in the old one's neurons is left."""
    place = replace(selection.place, own=None, read=None, through=None)
    if name == "target":
        return replace(selection, place=place, target=token)
    return replace(selection, place=place, distractor=token)


def _token_field(
    label: str, key: str, asking: Callable[[int], PromptSelection], asked: PromptSelection, atlas: Catalogue
) -> None:
    """Typed or chosen, the token leads to the same text with it."""
    given = token_field(
        label,
        placeholder="one token, such as London",
        options=partial(_options, asked, atlas),
        origin=navigation.href(HERE, asked.question),
        key=key,
        here=HERE,
    )
    if given is None:
        return
    try:
        chosen = given if isinstance(given, int) else explain.detail(atlas, asked, "target", given)
    except AtlasError as error:
        warn([str(error)])
        return
    navigation.show(asking(chosen))
    st.rerun()


def _options(asked: PromptSelection, atlas: Catalogue, text: str) -> list[Option]:
    """Tokens that begin so; without a model there are none to choose from, and Enter says why."""
    with suppress(AtlasError):
        return [
            Option(shorten(one.token.display, _OPTION), one.token.id, percent(one.probability), f"token {one.token.id}")
            for one in explain.detail(atlas, asked, "beginning", text)
        ]
    return []


def against(reading: Reading, selection: PromptSelection) -> None:
    """Which token the target is held against, and what the difference adds up from."""
    contrast = reading.analysis.contrast
    if contrast is None:
        return
    with st.container(border=True):
        target, other = reading.analysis.target, contrast.distractor
        sums = " ".join(f"{signed(value)} {name}," for name, value in reading.sum_of_parts().items()).rstrip(",")
        st.markdown(
            f"**{literal(f'Why “{target.token.display}” and not “{other.token.display}”')}** "
            + literal(f"({percent(other.probability)}): {nats(contrast.logit_difference)} nats = {sums}.")
        )
        st.caption("Layers, heads, source positions and value neurons now show their share of this difference.")
        off = chip(
            other.token.display,
            navigation.href(HERE, _asking(selection, "distractor", None)),
            hint="click to explain the target alone",
            removes=True,
        )
        chips([off], key="against", here=HERE, label="held against")


# The upper part of the prompt page: the box, and as one types its tokens and what comes next, beside the layers of

_KEYS = "Enter explains it, Shift+Enter begins a new line."


@st.fragment
def asking(selection: PromptSelection, atlas: Catalogue) -> "Analysis | None":
    """Draw it; returns the analysis of the explained text, None where there is none (yet)."""
    typed = prompt_box(
        selection.prompt, longest=MAX_PROMPT, placeholder="The capital of France is", key="prompt_box", here=HERE
    )
    if typed.sent is not None:
        navigation.show(_asked(typed.sent, selection))
        st.rerun()
    status = st.empty()
    status.caption(f"{'A moment …' if typed.text.strip() else 'Type the beginning of a text.'} {_KEYS}")
    analysis = _analysis(selection, atlas, status) if selection.prompt else None
    asked = _asked(typed.text, selection)
    if typed.text.strip():
        _shown(asked, selection, analysis, status, atlas)
    else:
        _examples(status)
    return analysis


def _asked(text: str, selection: PromptSelection) -> PromptSelection:
    """The text, asked like the explained one. Another text forgets the target and the position of the old one."""
    if text == selection.prompt:
        return selection
    return PromptSelection(
        text,
        top=selection.top,
        rule=selection.rule,
        place=Place(show=selection.place.show, tables=selection.place.tables),
    )


def _analysis(selection: PromptSelection, atlas: Catalogue, status: "DeltaGenerator") -> "Analysis | None":
    try:
        return explain.analysis(atlas, selection, _telling(status))
    except AtlasError as error:
        status.caption(_KEYS)
        fail(error)
        return None


def _telling(status: "DeltaGenerator") -> Report:
    """What is being done, in the line that is there anyway: nothing moves."""

    def tell(stage: str) -> None:
        status.caption(f":material/hourglass_top: {literal(stage)}")

    return tell


def _shown(
    asked: PromptSelection,
    selection: PromptSelection,
    analysis: "Analysis | None",
    status: "DeltaGenerator",
    atlas: Catalogue,
) -> None:
    """Tokens and next tokens of what stands in the box, beside the layers of what is explained."""
    same = asked == selection
    if same and analysis is not None:
        found: Analysis | explain.Preview = analysis
        words = "The framed one is where the next token is explained; click another to move there."
        position = analysis.position
    elif same:
        return
    else:
        try:
            found = explain.preview(atlas, asked.prompt, _telling(status))
        except AtlasError as error:
            status.caption(_KEYS)
            st.info(literal(str(error)))
            return
        words = f"Not explained yet: {_KEYS}"
        position = len(found.tokens) - 1
    count = len(found.tokens)
    status.caption(f"{count} token{'' if count == 1 else 's'}. {words}")
    tokens(found.tokens, position, asked)
    left, right = st.columns([2, 3], gap="large")
    with left:
        st.subheader("What comes next", anchor=False)
        explained(analysis if same else None)
        upcoming(found.predictions, asked, reading_of(analysis) if same and analysis is not None else None)
        fields(asked, atlas)
    with right:
        if analysis is None:
            st.subheader("Where: layers", anchor=False)
            st.info("Press Enter, or click a token or a prediction: then the layers, heads and neurons behind it show.")
            return
        reading = reading_of(analysis)
        layers(reading, selection)
        if same:
            against(reading, selection)


def _examples(status: "DeltaGenerator") -> None:
    status.caption(f"Type the beginning of a text, or start from one of these. {_KEYS}")
    links = [link(prompt, navigation.href(HERE, PromptSelection(prompt))) for prompt in PROMPTS]
    chips(links, key="prompts", here=HERE, label="prompts to try")


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
