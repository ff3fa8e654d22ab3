"""Steer: one prompt as it is and under interventions; what comes next, and how the text goes on."""

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import streamlit as st

from app.answers import two_runs
from app.gallery import PROMPTS
from app.report import contents
from app.serving import resources
from app.serving.access import has_model
from app.serving.settings import configuration
from app.state.selections import MAX_CONTINUED, MAX_TEMPERATURE, CompareSelection, SteerSelection
from app.ui import navigation
from app.ui import neuron_lists as lists
from app.ui.common import (
    attempt,
    filled,
    footer,
    keep,
    on_click,
    open_catalogue,
    require_short,
    say_what_was_done,
    sync,
    title,
    without_model,
)
from app.ui.components import chips, download, link
from app.ui.navigation import warn
from app.words import literal
from db.catalogue.store import Catalogue
from db.neuron import MAX_AMOUNT, Intervention, labels, parse_interventions

if TYPE_CHECKING:
    from app.attribution.intervene import Continuation, Steering

_AMOUNTS = 8
"""Interventions whose numbers can be changed in a field of their own."""
_ROWS = 10


def draw() -> None:
    """The page."""
    title("Steer", "Zero, scale or clamp parts of the model: what it says then, and how it goes on.")
    atlas = open_catalogue()
    selection, notices = SteerSelection.read(navigation.params(), resources.limits(atlas))
    warn(notices)
    navigation.name_tab("Steer", " | ".join(filter(None, [selection.prompt, labels(selection.interventions)])))
    if has_model():
        _form(selection)
        if selection.prompt:
            _steered(selection, atlas)
        else:
            _examples(selection)
    else:
        without_model()
    footer(atlas)


def _examples(selection: SteerSelection) -> None:
    st.caption("Type a prompt, or start from one of these:")
    links = [link(prompt, replace(selection, prompt=prompt)) for prompt in PROMPTS[:6]]
    chips(links, key="prompts", label="prompts to try")


def _form(selection: SteerSelection) -> None:
    """The prompt, what is changed, and how the text is continued. A new prompt forgets its target and position."""
    sampling = ("tokens", "temperature", "top_p", "seed")

    def submitted() -> None:
        state = st.session_state
        prompt = state["steer_prompt"] or ""
        require_short(prompt)
        found = parse_interventions(state["steer_do"] or "")
        moved = selection if prompt == selection.prompt else replace(selection, target=None, position=None)
        numbers = {name: state[f"steer_{name}"] for name in sampling}
        navigation.show(replace(moved, prompt=prompt, interventions=found, **numbers))

    changes = labels(selection.interventions).replace(",", ", ")
    values = {"prompt": selection.prompt, "do": changes} | {name: getattr(selection, name) for name in sampling}
    send = filled("steer", selection, values, submitted)
    with st.form("steer_form", border=False):
        st.text_area("Prompt", key="steer_prompt", height=80, placeholder="The capital of France is")
        st.text_input(
            "What to change",
            key="steer_do",
            placeholder="L29.F864=4, L29.F864:=2.5, L23.H4=0, L12.ffn=0.5, ffn:10=0",
            help="Parts with a factor (L29.F864=4), neurons with an activation of their own (L29.F864:=2.5); a part "
            "alone is zeroed. Parts are neurons (L29.F864, L29.H1.N46), heads (L23.H4), sub-layers (L23.attention, "
            "L12.ffn) and the strongest value neurons of a kind (ffn:10).",
        )
        with st.container(horizontal=True, key="steer_sampling"):
            most = min(MAX_CONTINUED, configuration().max_continued)
            st.number_input("Tokens to write", 1, most, step=1, key="steer_tokens", width=150)
            hint = "0 takes the most probable token each time; more makes unlikely tokens likelier"
            st.number_input(
                "Temperature", 0.0, MAX_TEMPERATURE, step=0.1, key="steer_temperature", help=hint, width=150
            )
            hint = "with a temperature: draw from the most probable tokens that have this probability together"
            st.number_input("Top-p", 0.01, 1.0, step=0.05, key="steer_top_p", help=hint, width=150)
            hint = "with a temperature: the same seed draws the same text"
            st.number_input("Seed", 0, 999_999_999, step=1, key="steer_seed", help=hint, width=150)
        st.form_submit_button("Steer", type="primary", on_click=send)
    say_what_was_done(key="steer")


def _steered(selection: SteerSelection, atlas: Catalogue) -> None:
    _amounts(selection)
    found = attempt(partial(two_runs.steering, atlas, selection))
    if found is None:
        return
    said = two_runs.steered_sentence(found, selection)
    st.markdown(f"**{literal(said)}**")
    changes = labels(selection.interventions).replace(",", ", ")
    keep(selection, " with ".join(filter(None, [navigation.in_a_line(selection.prompt), changes])), said, atlas)
    for notice in found.notices:
        st.caption(f":material/info: {literal(notice)}")
    if selection.interventions:
        _predictions(found, selection)
    else:
        _suggestions(selection, atlas)
    written = _continued(selection, atlas)
    _further(found, written, selection, atlas)


def _amounts(selection: SteerSelection) -> None:
    """Each intervention with its number; a click on its name takes it back."""
    if not selection.interventions:
        return
    items = [
        link(one.label, selection.without(one), hint=f"{one.words}: take it back", removes=True)
        for one in selection.interventions
    ]
    st.caption("Changed at every position of the prompt and of what is written; a click takes a change back.")
    chips(items, key="changes", label="interventions")
    with st.container(horizontal=True, key="steer_amounts"):
        for one in selection.interventions[:_AMOUNTS]:
            _amount(one, selection)


def _amount(one: Intervention, selection: SteerSelection) -> None:
    key = f"steer_amount_{one.part.label}_{one.clamped}"
    sync(key, one.amount)

    def changed() -> None:
        amount = Intervention.parse(f"{one.part.label}{':=' if one.clamped else '='}{st.session_state[key]:.6g}")
        every = [amount if other == one else other for other in selection.interventions]
        navigation.show(replace(selection, interventions=tuple(every)))

    words = f"{one.part.label}, {'activation' if one.clamped else 'factor'}"
    st.number_input(
        words,
        -MAX_AMOUNT,
        MAX_AMOUNT,
        step=0.5,
        format="%.6g",
        key=key,
        on_change=partial(on_click, changed),
        width=150,
    )


def _suggestions(selection: SteerSelection, atlas: Catalogue) -> None:
    st.caption("For instance:")
    wanted = (
        ("without its strongest FFN neuron", "ffn:1=0"),
        ("with five times as much of it", "ffn:1=5"),
        ("without its 10 strongest FFN neurons", "ffn:10=0"),
        ("with half of the last layer’s attention", f"L{atlas.info.layers - 1}.attention=0.5"),
    )
    links = [link(words, replace(selection, interventions=parse_interventions(text))) for words, text in wanted]
    chips(links, key="suggestions", label="what to change")


def _predictions(found: "Steering", selection: SteerSelection) -> None:
    st.header("What comes next: before and after", anchor=False)
    lists.changed_predictions(
        found.predictions[:_ROWS],
        ("before", "after"),
        lambda one: replace(selection, target=one.token.id),
        "a click follows this token",
    )


# Both continuations, side by side, as they are written.


def _text(text: str) -> str:
    """As Markdown, line by line."""
    return "  \n".join(literal(line) or "&nbsp;" for line in text.splitlines())


def _continued(selection: SteerSelection, atlas: Catalogue) -> "tuple[Continuation, ...] | None":
    st.header("How the text goes on", anchor=False)
    st.caption(two_runs.drawing(selection))
    slots = []
    names = ("As it is", "With the changes") if selection.interventions else ("As it is",)
    for column, name in zip(st.columns(len(names), gap="large"), names, strict=True):
        with column.container(border=True):
            st.markdown(f"**{name}**")
            slots.append(st.empty())

    def show(texts: two_runs.Texts) -> None:
        for slot, text in zip(slots, texts, strict=True):
            slot.markdown(f"… {_text(text)}")

    written = attempt(lambda watch: two_runs.continuations(atlas, selection, show, watch))
    if written is not None:
        show(tuple(one.text for one in written))
        ended = [name for name, one in zip(names, written, strict=True) if one.ended]
        if ended:
            st.caption(f"The model ended the text itself: {', '.join(ended).lower()}.")
    return written


def _further(
    found: "Steering", written: "tuple[Continuation, ...] | None", selection: SteerSelection, atlas: Catalogue
) -> None:
    """The report, and where else to go with the same prompt."""
    zeroed = tuple(one.part for one in selection.interventions if not one.amount and not one.clamped)
    items = [link("Explain the prompt →", selection.question)]
    if zeroed:
        compared = navigation.href(CompareSelection.of(selection.question, zeroed))
        items.append(link("Compare without what is zeroed →", compared))
    with st.container(horizontal=True, vertical_alignment="center", key="tools"):
        if written is not None:
            whole = replace(found, continuations=written)
            make = partial(contents.steered_html, whole, selection, atlas.info, st.context.url or "")
            download("Report", make, "atlas-steered.html", key="steer_report")
        chips(items, key="further", label="the same prompt elsewhere", width="content")


if __name__ == "__main__":
    draw()
