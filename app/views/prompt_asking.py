"""The upper part of the prompt page: the box, and as one types its tokens and what comes next, beside the layers of
the text that is explained.

It is a fragment: typing draws this part anew and nothing below, so that the explained text stays until another is sent.
"""

from typing import TYPE_CHECKING

import streamlit as st

from app import navigation
from app.asking import explaining
from app.asking.examples import PROMPTS
from app.asking.reading import reading_of
from app.drawing.components import chips, link
from app.drawing.fields import prompt_box
from app.drawing.wording import literal
from app.notices import fail
from app.serving.work import Report
from app.state.selection import MAX_PROMPT, Place, PromptSelection
from app.views.prompt_target import against, explained, fields, tokens, upcoming
from app.views.prompt_where import layers
from db.catalogue import Catalogue
from db.errors import AtlasError

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

    from app.attribution.results import Analysis

HERE = "prompt"
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
        return explaining.analysis(atlas, selection, _telling(status))
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
        found: Analysis | explaining.Preview = analysis
        words = "The framed one is where the next token is explained; click another to move there."
        position = analysis.position
    elif same:
        return
    else:
        try:
            found = explaining.preview(atlas, asked.prompt, _telling(status))
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
