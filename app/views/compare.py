"""Compare: two prompts, targets or positions, or one prompt with and without parts of the model; what changed."""

from dataclasses import replace

import streamlit as st

from app import navigation
from app.asking import comparing
from app.asking.compare_examples import EXAMPLES
from app.asking.compare_words import measured, sentence
from app.drawing.components import chips, link
from app.drawing.wording import literal
from app.notices import fail, warn
from app.state.compare_selection import MAX_ZERO, ComparePlace, CompareSelection
from app.state.parts import labels, parse_list
from app.state.selection import MAX_PROMPT
from app.views.about import about
from app.views.compare_files import files
from app.views.compare_neurons import neurons
from app.views.compare_sides import predictions, sides
from app.views.compare_where import both_layers, heads, layers, zeroed
from app.views.shared import footer, limits, open_catalogue, progress, sync, title
from db.catalogue import Catalogue
from db.errors import AtlasError

HERE = "compare"
_ERROR = "compare_error"


def draw() -> None:
    """The page."""
    title(
        "Compare two runs",
        "Two prompts, targets or positions, or one prompt with and without parts of the model: what changed, from "
        "layers to neurons.",
    )
    about(HERE)
    atlas = open_catalogue()
    selection, notices = CompareSelection.read(navigation.params(), limits(atlas))
    warn(notices)
    _form(selection)
    if selection.prompt and selection.compares:
        _compared(selection, atlas)
    elif selection.prompt:
        _suggestions(selection)
    else:
        st.caption("Type two prompts, or one and what to zero; or start from one of these:")
        links = [link(words, navigation.href(HERE, example)) for words, example in EXAMPLES]
        chips(links, key="comparisons", here=HERE, label="comparisons to try")
    footer(atlas, HERE)


def _form(selection: CompareSelection) -> None:
    """Both prompts and what the second run does without. Another prompt forgets its target and position."""
    sync("compare_prompt", selection.prompt)
    sync("compare_other", selection.other)
    sync("compare_zero", labels(selection.zero).replace(",", ", "))

    def submitted() -> None:
        state = st.session_state
        prompt, other = state["compare_prompt"] or "", state["compare_other"] or ""
        try:
            zero = parse_list(state["compare_zero"] or "")
        except AtlasError as error:
            state[_ERROR] = str(error)
            return
        moved = replace(selection, zero=zero, place=ComparePlace(kind=selection.place.kind))
        if prompt != selection.prompt:
            moved = replace(moved, prompt=prompt, target=None, position=None)
        other = "" if other == prompt else other
        if other != selection.other or (not other and prompt != selection.prompt):
            moved = replace(moved, other=other, other_target=None, other_position=None)
        navigation.show(moved)

    with st.form("compare_form", border=False):
        left, right = st.columns(2, gap="medium")
        left.text_area(
            "First prompt",
            key="compare_prompt",
            height=80,
            max_chars=MAX_PROMPT,
            placeholder="The capital of France is",
        )
        right.text_area(
            "Second prompt; empty: the same",
            key="compare_other",
            height=80,
            max_chars=MAX_PROMPT,
            placeholder="The capital of Germany is",
        )
        st.text_input(
            "Zeroed in the second run",
            key="compare_zero",
            max_chars=MAX_ZERO,
            placeholder="nothing; or L23.H4, L29.F864, L12.ffn, ffn:10",
            help="Heads (L23.H4), neurons (L29.F864, L29.H1.N46), whole sub-layers (L23.attention, L12.ffn), or the "
            "strongest value neurons of a kind (ffn:10, attention:200). They are zeroed at every position.",
        )
        st.form_submit_button("Compare", type="primary", on_click=submitted)
    error = st.session_state.pop(_ERROR, None)
    if error:
        warn([error])


def _suggestions(selection: CompareSelection) -> None:
    """What one prompt alone can be compared with."""
    st.caption("Type a second prompt, name what to zero, or ask what the model does without the strongest:")
    asked = (
        ("the strongest FFN neuron", "ffn:1"),
        ("the 10 strongest FFN neurons", "ffn:10"),
        ("the 10 strongest attention neurons", "attention:10"),
        ("100 FFN and 200 attention neurons", "ffn:100,attention:200"),
    )
    links = [
        link(f"without {words}", navigation.href(HERE, replace(selection, zero=parse_list(zero))))
        for words, zero in asked
    ]
    chips(links, key="suggestions", here=HERE, label="what to zero")
    back = link("← Explain the prompt", navigation.href("prompt", selection.first))
    chips([back], key="to_prompt", here=HERE, label="the prompt page")


def _compared(selection: CompareSelection, atlas: Catalogue) -> None:
    try:
        with progress() as watch:
            found = comparing.comparison(atlas, selection, watch)
    except AtlasError as error:
        fail(error)
        return
    st.markdown(f"**{literal(sentence(found, selection.zero))}**  \n{literal(measured(found))}")
    zeroed(found, selection)
    sides(found, selection, atlas)
    left, right = st.columns(2, gap="large")
    with left:
        predictions(found, selection)
    with right:
        layers(found, selection)
    both_layers(found, selection)
    heads(found, selection)
    neurons(found, selection, atlas)
    files(found)


if __name__ == "__main__":
    draw()
