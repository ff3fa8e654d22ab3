"""Compare: two prompts, targets or positions, or one prompt with and without parts of the model; what changed."""

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Literal

import streamlit as st

from app.answers import two_runs
from app.charts import KIND_NAMES, KINDS, prompt_charts
from app.serving import resources
from app.serving.access import has_model
from app.state.selections import ComparePlace, CompareSelection, Place, SteerSelection
from app.ui import navigation
from app.ui import neuron_lists as lists
from app.ui.common import (
    attempt,
    choose_token,
    filled,
    folded,
    footer,
    formulas,
    keep,
    open_catalogue,
    require_short,
    say_what_was_done,
    switch,
    title,
    whole_files,
    without_model,
)
from app.ui.components import Cell, Chip, Column, chip, chips, legend, link
from app.ui.components.charts import show
from app.ui.navigation import warn
from app.words import literal, nats, percent, signed
from db.catalogue.store import Catalogue
from db.lazy import lazy_import
from db.neuron import Head, Intervention, NeuronKind, Part, labels, parse_list

if TYPE_CHECKING:
    from app.attribution import compare as comparison
    from app.attribution.compare import Change, Comparison, Side
else:
    comparison = lazy_import("app.attribution.compare")


def draw() -> None:
    """The page."""
    title(
        "Compare two runs",
        "Two prompts, targets or positions, or one prompt with and without parts of the model: what changed, from "
        "layers to neurons.",
    )
    atlas = open_catalogue()
    selection, notices = CompareSelection.read(navigation.params(), resources.limits(atlas))
    warn(notices)
    without = f"without {labels(selection.zero)}" if selection.zero else ""
    sides = " | ".join(one for one in (selection.prompt, selection.other, without) if one)
    navigation.name_tab("Compare", sides)
    if has_model():
        _asked(selection, atlas)
    else:
        without_model()
    footer(atlas)


def _asked(selection: CompareSelection, atlas: Catalogue) -> None:
    _form(selection)
    if selection.prompt and selection.compares:
        _compared(selection, atlas)
    elif selection.prompt:
        _suggestions(selection)
    else:
        st.caption("Type two prompts, or one and what to zero; or start from one of these:")
        examples = two_runs.examples(atlas)
        chips((link(words, example) for words, example in examples), key="comparisons", label="comparisons to try")


def _form(selection: CompareSelection) -> None:
    """Both prompts and what the second run does without. A new prompt forgets its target and position."""

    def submitted() -> None:
        state = st.session_state
        prompt, other = state["compare_prompt"] or "", state["compare_other"] or ""
        require_short(prompt, "The first prompt")
        require_short(other, "The second prompt")
        zero = parse_list(state["compare_zero"] or "")
        moved = replace(selection, place=ComparePlace(kind=selection.place.kind))
        if prompt != selection.prompt:
            moved = replace(moved, prompt=prompt, target=None, position=None)
        other = "" if other == prompt else other
        if other != selection.other or (not other and prompt != selection.prompt):
            moved = replace(moved, other=other, other_target=None, other_position=None)
        navigation.show(replace(moved, zero=zero))

    zeroed = labels(selection.zero).replace(",", ", ")
    values = {"prompt": selection.prompt, "other": selection.other, "zero": zeroed}
    send = filled("compare", selection, values, submitted)
    with st.form("compare_form", border=False):
        fields = (
            ("First prompt", "compare_prompt", "The capital of France is"),
            ("Second prompt; empty: the same", "compare_other", "The capital of Germany is"),
        )
        for column, (label, key, example) in zip(st.columns(2, gap="large"), fields, strict=True):
            column.text_area(label, key=key, height=80, placeholder=example)
        st.text_input(
            "Zeroed in the second run",
            key="compare_zero",
            placeholder="nothing; or L23.H4, L29.F864, L12.ffn, ffn:10",
            help="Heads (L23.H4), neurons (L29.F864, L29.H1.N46), whole sub-layers (L23.attention, L12.ffn), or the "
            "strongest value neurons of a kind (ffn:10, attention:200). They are zeroed at every position.",
        )
        st.caption("Enter compares, Shift+Enter begins a new line.")
        st.form_submit_button("Compare", type="primary", on_click=send)
    say_what_was_done(key="compare")


def _suggestions(selection: CompareSelection) -> None:
    """What one prompt alone can be compared with."""
    st.caption("Type a second prompt, name what to zero, or ask what the model does without the strongest:")
    wanted = (
        ("the strongest FFN neuron", "ffn:1"),
        ("the 10 strongest FFN neurons", "ffn:10"),
        ("the 10 strongest attention neurons", "attention:10"),
        ("100 FFN and 200 attention neurons", "ffn:100,attention:200"),
    )
    links = [link(f"without {words}", replace(selection, zero=parse_list(zero))) for words, zero in wanted]
    chips(links, key="suggestions", label="what to zero")
    chips([link("← Explain the prompt", selection.first)], key="to_prompt", label="the prompt page")


def _compared(selection: CompareSelection, atlas: Catalogue) -> None:
    found = attempt(partial(two_runs.comparison, atlas, selection))
    if found is None:
        return
    said = two_runs.sentence(found, selection.zero)
    st.markdown(f"**{literal(said)}**  \n{literal(two_runs.measured(found))}")
    for notice in found.notices:
        st.caption(f":material/info: {literal(notice)}")
    with st.container(horizontal=True, vertical_alignment="center", key="tools"):
        keep(selection, two_runs.subject(found, selection.zero), said, atlas)
    _zeroed(found, selection)
    left, right = st.columns(2, gap="large")
    with left:
        _side(found.first, "first", selection, atlas)
    with right:
        _side(found.second, "second", selection, atlas)
    left, right = st.columns(2, gap="large")
    with left:
        _predictions(found, selection)
    with right:
        _layers(found, selection)
    _both_layers(found, selection)
    _heads(found, selection)
    _neurons(found, selection, atlas)
    folded("All of it as data tables and files", partial(_files, found), key="compared")


def _zeroed(found: "Comparison", selection: CompareSelection) -> None:
    """What the second run does without; a click restores it."""
    if not selection.zero:
        return
    items = []
    scores = {one.part: one.score for one in found.zeroed}
    for part in selection.zero:
        score = scores.get(part) if isinstance(part, Part) else None
        kept = tuple(one for one in selection.zero if one != part)
        items.append(
            link(
                part.label,
                replace(selection, zero=kept),
                hint=f"{part.words}: restore it",
                note="" if score is None else f"{nats(score)} nats",
                removes=True,
            )
        )
    st.caption("Zeroed in the second run, with their scores in the whole model; a click restores one.")
    steered = SteerSelection.of(selection.second, *map(Intervention, selection.zero))
    chips(items, key="zeroed", label="zeroed parts")
    chips([link("How does the text go on without them?", steered)], key="to_steer", label="the page that steers")


def _looking(selection: CompareSelection, place: ComparePlace) -> str:
    """The address of the same comparison, looked at elsewhere."""
    return navigation.href(replace(selection, place=place))


def _without(selection: CompareSelection, part: Part) -> str:
    """The address of the comparison with one more part zeroed."""
    return navigation.href(replace(selection, zero=(*selection.zero, part)))


# The two runs side by side: tokens and predictions, each a link to another comparison.

_Which = Literal["first", "second"]
_BARS = 6


def _explaining(selection: CompareSelection, which: _Which, target: int) -> CompareSelection:
    """The selection with another target on one side; the other keeps its own."""
    return replace(selection, target=target) if which == "first" else replace(selection, other_target=target)


def _at(selection: CompareSelection, which: _Which, position: int | None) -> CompareSelection:
    """The selection with another position on one side, where the target is the top prediction again."""
    moved = replace(selection, place=ComparePlace(kind=selection.place.kind))
    if which == "first":
        return replace(moved, position=position, target=None)
    return replace(moved, other_position=position, other_target=None)


def _side(side: "Side", which: _Which, selection: CompareSelection, atlas: Catalogue) -> None:
    zeroed = which == "second" and bool(selection.zero)
    st.header(f"{which.capitalize()} run" + (", with parts zeroed" if zeroed else ""), anchor=False)
    last = len(side.tokens) - 1
    items = [
        chip(
            token.display,
            _at(selection, which, None if at == last and which == "first" else at),
            hint=f"position {at}, token {token.id}",
            current=at == side.position,
        )
        for at, token in enumerate(side.tokens)
    ]
    chips(items, key=f"tokens_{which}", label=f"tokens of the {which} prompt")
    target = side.target
    st.caption(
        literal(
            f"Explained: “{target.token.display}”, {percent(target.probability)}, log-probability "
            f"{signed(target.log_probability)} nats, rank {target.rank:,}."
        )
    )
    chart = prompt_charts.predictions(
        side.predictions[:_BARS],
        target.token.id,
        lambda token: navigation.href(_explaining(selection, which, token)),
        name=f"bars_{which}",
        label=f"most probable next tokens of the {which} run",
    )
    show(chart, downloads=False)
    question = selection.first if which == "first" else selection.second
    whole, chosen = replace(question, target=None), partial(_explaining, selection, which)
    choose_token(f"Another target for the {which}", "target", whole, atlas, f"compare_target_{which}", chosen)
    words = "Explain on the whole model →" if zeroed else "Explain this prompt →"
    chips([link(words, replace(question, target=target.token.id))], key=f"explain_{which}", label=f"explain {which}")


# What changed: predictions, layers and heads.

_ROWS = 10


def _predictions(found: "Comparison", selection: CompareSelection) -> None:
    """How the probabilities of the likeliest tokens changed."""
    st.header("What comes next: changes", anchor=False)
    lists.changed_predictions(
        found.predictions[:_ROWS],
        ("first", "second"),
        lambda one: replace(selection, target=one.token.id, other_target=one.token.id),
        "a click explains this token in both runs",
    )


def _prompts(selection: CompareSelection) -> tuple[str, str]:
    return selection.first.prompt, selection.second.prompt


def _layers(found: "Comparison", selection: CompareSelection) -> None:
    """Δ of every layer."""
    st.header("Where: layers", anchor=False)
    legend("attention", "ffn")
    show(prompt_charts.changed_layers(found, _prompts(selection), selection.place, partial(_looking, selection)))
    st.caption(
        "Each bar is the second run’s log-probability increase minus the first’s. Click a layer to look into it."
    )


def _both_layers(found: "Comparison", selection: CompareSelection) -> None:
    """Both runs side by side, on one axis."""
    address = partial(_looking, selection)
    for column, part in zip(st.columns(2, gap="large"), KINDS, strict=True):
        name = KIND_NAMES[part]
        with column:
            st.markdown(f"**{name[0].upper()}{name[1:]}**, both runs")
            show(prompt_charts.both_layers(found, part, _prompts(selection), selection.place, address))
    st.caption("Grey: the first run; in colour: the second. Both are scored with the first run’s norm.")


def _heads(found: "Comparison", selection: CompareSelection) -> None:
    """The map of changed heads, and what is known of a chosen one."""
    st.header("Where: heads", anchor=False)
    show(prompt_charts.changed_heads(found, _prompts(selection), selection.place, partial(_looking, selection)))
    if selection.place.head is None:
        st.caption("Click a head for both its scores, or to zero it.")
    else:
        _head(found, selection, selection.place.head)


def _head(found: "Comparison", selection: CompareSelection, head: Head) -> None:
    one, two = float(found.first.heads[head]), float(found.second.heads[head])
    with st.container(border=True):
        st.markdown(
            f"**{literal(f'Head {head.label}')}**: "
            + literal(f"{nats(one)} nats in the first run, {nats(two)} in the second, Δ {nats(two - one)}.")
        )
        place = Place(layer=head.layer, head=head)
        items = [link("Open in the first", replace(selection.first, place=place))]
        if selection.second != selection.first:
            items.append(link("Open in the second", replace(selection.second, place=place)))
        part = Part.of(head)
        if part not in selection.zero:
            items.append(link("What if it were zero?", _without(selection, part)))
        close = replace(selection.place, head=None, layer=None)
        items.append(link("✕ Close the head", _looking(selection, close)))
        chips(items, key="head", label="the chosen head", focus=head.label)


# The neurons of one kind that changed most, all of them or those of the chosen layer or head.

_NEURONS = 100
_DEPTH = 5


def _neurons(found: "Comparison", selection: CompareSelection, atlas: Catalogue) -> None:
    st.header("What: neurons", anchor=False)
    place = selection.place

    def to(kind: str) -> CompareSelection:
        return replace(selection, place=replace(place, kind=NeuronKind(kind)))

    switch("Kind", KIND_NAMES, place.kind, key="compare_kind", to=to)
    if place.layer is not None:
        words = f"Only layer {place.layer}"
        if place.head is not None and place.kind is NeuronKind.ATTENTION:
            words += f", head {place.head.head}"
        off = link(f"✕ {words}", _looking(selection, replace(place, layer=None, head=None)))
        chips([off], key="narrowed", label="narrowed to")
    rows = two_runs.changes_within(found, place)
    legend("ffn" if place.kind is NeuronKind.FFN else "attention", "promotes", "suppresses")
    st.caption(literal(two_runs.neurons_sentence(found, place, _NEURONS)))
    if rows:
        _table(rows[:_NEURONS], selection, atlas)
    else:
        st.info("None of them is here. Show all layers, or the other kind.")


def _table(rows: "tuple[Change, ...]", selection: CompareSelection, atlas: Catalogue) -> None:
    strongest = atlas.strongest_tokens([one.neuron for one in rows], _DEPTH)

    def scores(one: "Change") -> str:
        return f"{nats(one.first.score)} → {nats(one.second.score)}"

    def activations(one: "Change") -> str:
        return " → ".join(f"{signed(run.activation)}{_source(run.position)}" for run in (one.first, one.second))

    def raised(one: "Change") -> Cell:
        return lists.raised_first(strongest[one.neuron], one.stronger.activation)

    by_run = "its activation in each run; negative swaps its two ends"
    lists.table(
        rows,
        [
            lists.named(strongest, atlas),
            lists.bar(
                "Δ score (nats)", rows, lambda one: one.score, nats, "log-probability increase: second minus first"
            ),
            lists.text("first → second", "number", scores, "its score in each run, nats"),
            lists.text("Δ activation", "number extra", lambda one: signed(one.activation), "second minus first"),
            lists.text("first → second", "number extra", activations, by_run),
            (Column(lists.RAISED, "tokens", "by its activation in the run where it scored more"), raised),
            lists.chips_of("", "action", lambda one: _actions(one, selection)),
        ],
        lambda one: lists.neuron_link(one.neuron, selection.first if one.stronger is one.first else selection.second),
        key="neurons",
        label="changed neurons",
    )
    st.caption(
        "A row opens its neuron; “1st” and “2nd” show its layer on that prompt, “zero” takes it out of the second run."
    )


def _source(position: int | None) -> str:
    """An attention neuron's source position."""
    return "" if position is None else f" at {position}"


def _actions(one: "Change", selection: CompareSelection) -> tuple[Chip, ...]:
    neuron = one.neuron
    place = Place(layer=neuron.layer, head=None if neuron.head is None else Head(neuron.layer, neuron.head))
    questions = [("1st", selection.first)]
    if selection.second != selection.first:
        questions.append(("2nd", selection.second))
    items = [
        link(text, replace(question, place=place), hint=f"{neuron.label} on the {text} prompt")
        for text, question in questions
    ]
    part = Part.of(neuron)
    if part not in selection.zero:
        hint = f"what if {neuron.label} were zero in the second run"
        items.append(link("zero", _without(selection, part), hint=hint))
    return tuple(items)


def _files(found: "Comparison") -> None:
    """Every table: to read, and as CSV, JSON and Parquet, made when its button is pressed."""
    for name, make in comparison.TABLES.items():
        frame = make(found)
        if frame.empty:
            continue
        st.markdown(f"**{name.capitalize()}**, {len(frame):,} rows")
        st.dataframe(frame, hide_index=True, key=f"compare_data_{name}", height=180)
        whole_files(f"compared-{name}", partial(make, found), f"compare_{name}")
    formulas()


if __name__ == "__main__":
    draw()
