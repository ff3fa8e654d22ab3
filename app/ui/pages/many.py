"""Many prompts: which neurons matter over all of them, by role."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import streamlit as st

from app.answers import batches
from app.answers.batches import MAX_PROMPTS, Aggregate, NeuronRow
from app.answers.search import count_by_layer
from app.attribution.frames import Said
from app.attribution.prompt import PromptLine
from app.charts import catalogue_charts
from app.gallery import READY
from app.serving.access import has_model
from app.serving.settings import configuration
from app.state.selections import ListOrder, ManySelection, PromptSelection
from app.ui import navigation
from app.ui import neuron_lists as lists
from app.ui.common import footer, in_display_form, limits, open_catalogue, sync, title, without_model
from app.ui.components import Chip, chip, chips, legend, link
from app.ui.components.charts import show
from app.ui.navigation import fail, warn
from app.words import literal, nats, percent, signed
from db.catalogue.export import as_bytes
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.records import short_identity
from db.token_text import shorten
from db.workspace.records import ROLES

if TYPE_CHECKING:
    from streamlit.runtime.uploaded_file_manager import UploadedFile

HERE = "many"
_TEXT = "many_long_text"
"""Where a text that is too long for the address is kept, for the session."""
_ROWS = 200
_ORDERS = (ListOrder.PROMPTS, ListOrder.SCORE, ListOrder.ACTIVATION, ListOrder.LAYER)
_NAMED = 3  # of the models that a file is of


def draw() -> None:
    """The page."""
    title("Many prompts", "Which neurons matter again and again: the lists of many prompts, put together.", HERE)
    atlas = open_catalogue()
    selection, notices = ManySelection.read(navigation.params(), limits(atlas))
    if selection.ready and selection.ready not in READY:
        notices.append(f"In the address, the set {selection.ready[:40]} is unknown: there are {', '.join(READY)}.")
        selection = replace(selection, ready="")
    warn(notices)
    navigation.name_tab("Many prompts", selection.ready)
    if has_model():
        _ready_sets(selection)
        _prompts(selection)
    else:
        without_model(HERE)
    upload = _file()
    try:
        found = _analysed(selection, atlas) if upload is None else _opened(upload, atlas)
    except AtlasError as error:
        fail(error)
        found = None
    if found is not None:
        _failures(found)
        _said(found, selection.chat)
        _neurons(found, selection, atlas)
    footer(atlas, HERE)


# What is asked: a ready set, typed prompts, or a file of analyses.


def _text(selection: ManySelection) -> str:
    if selection.ready:
        return batches.as_lines(READY[selection.ready])
    return selection.text or str(st.session_state.get(_TEXT, ""))


def _ready_sets(selection: ManySelection) -> None:
    st.caption("Choose a set, or write your own prompts:")
    links = [link(name, navigation.href(HERE, ManySelection(ready=name)), name == selection.ready) for name in READY]
    chips(links, key="ready", here=HERE, label="ready sets of prompts")


def _prompts(selection: ManySelection) -> None:
    sync("many_text", _text(selection))
    sync("many_chat", selection.chat)

    def submitted() -> None:
        text, chat = st.session_state["many_text"] or "", bool(st.session_state["many_chat"])
        if text == _text(selection):
            navigation.show(replace(selection, chat=chat, page=1))
            return
        moved = ManySelection(text=text, chat=chat)
        st.session_state[_TEXT] = "" if moved.fits else text
        navigation.show(moved)

    with st.form("many_form", border=False):
        st.text_area(
            f"One prompt per line, at most {configuration().max_prompts}; a target may follow after a tab",
            key="many_text",
            height=130,
            placeholder="The capital of France is\nThe capital of Germany is",
        )
        st.toggle("Each as a user’s message, in the model’s chat template", key="many_chat")
        st.form_submit_button("Explain them all", type="primary", on_click=submitted)
    if st.session_state.get(_TEXT) and not selection.ready and not selection.text:
        st.caption("These prompts are too long for the address. To share them, shorten the list or keep it in a file.")


def _file() -> "UploadedFile | None":
    with st.expander("Or open a file of analyses"):
        st.caption(
            "Made by `python -m app.attribution --prompts prompts.txt --out analyses.jsonl`; .jsonl or .parquet. It is "
            "shown in place of the prompts above until you remove it."
        )
        return st.file_uploader("File of analyses", type=["jsonl", "parquet"], label_visibility="collapsed")


def _opened(upload: "UploadedFile", atlas: Catalogue) -> Aggregate:
    found = batches.aggregate_of(batches.read_upload(upload.name, upload.getvalue()))
    if not found.is_of(atlas):
        whose = ", ".join(f"{name} ({short_identity(checkpoint)})" for name, checkpoint in found.models[:_NAMED])
        own = f"{atlas.info.model} ({short_identity(atlas.info.checkpoint)})"
        warn([f"The file is about {whose}, and the catalogue shown is of {own}: tokens are left out."])
    return found


def _analysed(selection: ManySelection, atlas: Catalogue) -> Aggregate | None:
    most = configuration().max_prompts
    if not has_model():
        return None
    lines, beyond = batches.parse_lines(_text(selection), most)
    asked = [replace(one, chat=True) for one in lines] if selection.chat else lines
    if beyond:
        warn([f"Only the first {most} of {most + beyond} prompts are explained. The shell has no such limit."])
    if not asked:
        return None
    return batches.known_aggregate(atlas, tuple(asked)) or _with_progress(asked, atlas)


def _with_progress(asked: list[PromptLine], atlas: Catalogue) -> Aggregate:
    slot = st.empty()
    for done, one in enumerate(asked):
        slot.progress(done / len(asked), literal(f"{done + 1} of {len(asked)}: {one.prompt[:60]}"))
        batches.row(atlas, one)
    slot.progress(1.0, "Putting their lists together …")
    found = batches.aggregate(atlas, tuple(asked))
    slot.empty()
    return found


# What was found.


def _failures(found: Aggregate) -> None:
    if not found.failed:
        return
    with st.expander(f"{len(found.failed)} could not be explained"):
        for prompt, reason in found.failed[:MAX_PROMPTS]:
            st.markdown(f"**{literal(prompt[:80])}**: {literal(reason)}")


def _said(found: Aggregate, chat: bool) -> None:
    """What the model says after each prompt, and the way to its explanation."""
    if not any(one.top for one in found.said):
        return
    st.header("What the model says", anchor=False)

    def token(words: str | None, probability: float | None) -> tuple[Chip, ...]:
        return () if words is None else (chip(words, note="" if probability is None else percent(probability)),)

    columns: list[lists.ColumnOf[Said]] = [
        lists.text(
            "prompt",
            "name",
            lambda one: shorten(in_display_form(one.prompt).replace("␣", " "), 60),
            "a click explains it alone",
        ),
        lists.chips_of("says", "list", lambda one: token(one.top, one.top_probability), "the most probable next token"),
        lists.chips_of(
            "explained", "list", lambda one: token(one.target, one.target_probability), "what the neurons below raised"
        ),
    ]

    def opens(one: Said) -> str:
        target = None if one.target == one.top else one.target_id
        return navigation.href("prompt", PromptSelection(one.prompt, target, chat=chat))

    lists.table(found.said, columns, opens, key="said", here=HERE, label="what the model says")


def _neurons(found: Aggregate, selection: ManySelection, atlas: Catalogue) -> None:
    """Filters, the table, the layers that its neurons are in, and all of it as data."""
    if found.frame.empty:
        st.info("No neuron was found. Write at least one prompt that can be explained.")
        return
    roles = [role for role in ROLES if role in set(found.frame["role"])]
    most = max(found.prompts, 1)
    selection = replace(
        selection,
        role=selection.role if selection.role in roles else roles[0],
        least=min(selection.least, most),
    )
    st.header(f"Neurons over {found.prompts} prompts", anchor=False)
    _filters(selection, roles, most, atlas.info.layers - 1)
    own = atlas if found.is_of(atlas) else None
    rows = batches.neurons(found.frame, selection, own)
    pages = max(1, -(-len(rows) // _ROWS))
    number = min(selection.page, pages)
    shown = rows[_ROWS * (number - 1) : _ROWS * number]
    only = f", {_ROWS * (number - 1) + 1} to {_ROWS * (number - 1) + len(shown)} of them here" if pages > 1 else ""
    st.caption(literal(f"{len(rows):,} neurons{only}. A row opens its neuron."))
    if not rows:
        st.info("No neuron is left. Widen the layers, ask for fewer prompts, or look for something else.")
    else:
        left, right = st.columns([5, 3], gap="medium")
        with left:
            _table(batches.with_tokens(shown, own), selection, most)
            legend("ffn", "attention", "promotes", "suppresses")
            lists.pager(number, pages, lambda page: navigation.href(HERE, replace(selection, page=page)), here=HERE)
        with right:
            _by_layer(rows, atlas)
    st.download_button(
        "All roles as CSV",
        lambda: as_bytes(found.frame, "csv"),
        "neurons-over-prompts.csv",
        "text/csv",
        on_click="ignore",
        icon=":material/download:",
    )


def _filters(selection: ManySelection, roles: list[str], most: int, last: int) -> None:
    whole = (0, last)
    sync("many_role", selection.role)
    sync("many_layers", selection.layers or whole)
    sync("many_least", selection.least)

    def changed() -> None:
        state = st.session_state
        layers = tuple(state["many_layers"]) if last else whole
        navigation.show(
            replace(
                selection,
                role=state["many_role"] or roles[0],
                layers=None if layers == whole else layers,
                least=int(state["many_least"] or 1),
                page=1,
                **lists.chosen_order(HERE, _ORDERS),
            )
        )

    with st.container(horizontal=True, gap="medium"):
        st.segmented_control("Role", roles, key="many_role", on_change=changed, required=True)
        if last:
            st.slider("Layers", 0, last, key="many_layers", on_change=changed, width=240)
        st.number_input("In at least this many prompts", 1, most, key="many_least", on_change=changed, width=220)
        lists.order_fields(HERE, selection, _ORDERS, changed)


def _table(rows: list[NeuronRow], selection: ManySelection, most: int) -> None:
    def tokens(one: NeuronRow) -> tuple[Chip, ...]:
        if one.tokens is None:
            return (chip("not in this catalogue"),)
        return lists.raised_first(one.tokens, 1.0 if one.activation is None else one.activation)

    def at(order: ListOrder | None, reverse: bool) -> str:
        return navigation.href(HERE, replace(selection, order=order, reverse=reverse, page=1))

    columns: list[lists.ColumnOf[NeuronRow]] = [
        lists.NEURON,
        lists.bar(
            "prompts", rows, lambda one: one.prompts, "{:.0f}".format, "how many have it in their list", full=most
        ),
        lists.text("mean score (nats)", "number", lambda one: nats(one.score), "over the prompts that have it"),
        lists.text(
            "mean activation",
            "number extra",
            lambda one: "" if one.activation is None else signed(one.activation),
            "over the same prompts; signed",
        ),
        lists.chips_of(lists.RAISED, "tokens", tokens),
    ]
    orders = (ListOrder.LAYER, ListOrder.PROMPTS, ListOrder.SCORE, ListOrder.ACTIVATION, None)
    headed = lists.sortable(columns, orders, selection, ListOrder.PROMPTS, at)
    label = f"{selection.role} neurons"
    lists.table(rows, headed, lambda one: lists.neuron_link(one.neuron), key="aggregate", here=HERE, label=label)


def _by_layer(rows: Sequence[NeuronRow], atlas: Catalogue) -> None:
    counts = count_by_layer([one.neuron for one in rows])
    show(catalogue_charts.layer_distribution(counts, atlas.info.layers, name="many_by_layer"))


if __name__ == "__main__":
    draw()
