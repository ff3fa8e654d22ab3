"""Many prompts: which neurons matter over all of them, by role; and which are particular to one set of two."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import streamlit as st

from app.answers import batches
from app.answers.batches import MAX_PROMPTS, Aggregate, Compared, NeuronRow, Particular, Row
from app.answers.search import count_by_layer
from app.attribution.frames import Said, said_frame
from app.attribution.prompt import PromptLine
from app.charts import catalogue_charts
from app.gallery import READY
from app.serving import resources
from app.serving.access import has_model
from app.serving.settings import configuration
from app.state.selections import ListOrder, ManySelection, PromptSelection
from app.ui import navigation
from app.ui import neuron_lists as lists
from app.ui.common import footer, in_display_form, keep, open_catalogue, sync, title, whole_files, without_model
from app.ui.components import Cell, Chip, Column, chip, chips, legend, link
from app.ui.components.charts import show
from app.ui.navigation import fail, warn
from app.words import literal, nats, percent, signed
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.records import Generic, short_identity
from db.token_text import shorten
from db.workspace.records import ROLES

if TYPE_CHECKING:
    from streamlit.runtime.uploaded_file_manager import UploadedFile

_TEXT, _OTHER = "many_long_text", "many_long_other"
"""Where texts that are too long for the address are kept, for the session."""
_ROWS = 200
_ORDERS = (ListOrder.PROMPTS, ListOrder.SCORE, ListOrder.ACTIVATION, ListOrder.LAYER)
_EVERY = "all"
_KINDS = {_EVERY: "all", "ffn": "FFN", "attention": "attention"}
_NAMED = 3  # of the models that a file is of


def draw() -> None:
    """The page."""
    title("Many prompts", "Which neurons matter again and again: the lists of many prompts, put together.")
    atlas = open_catalogue()
    selection, notices = ManySelection.read(navigation.params(), resources.limits(atlas))
    for name in {selection.ready, selection.other_ready} - {"", *READY}:
        notices.append(f"In the address, the set {name[:40]} is unknown: there are {', '.join(READY)}.")
        ready, other = ("" if one == name else one for one in (selection.ready, selection.other_ready))
        selection = replace(selection, ready=ready, other_ready=other)
    warn(notices)
    navigation.name_tab("Many prompts", selection.ready)
    if has_model():
        st.caption("Choose a set, or write your own prompts:")
        _ready_sets(selection)
        if _text(selection):
            st.caption("Against another set, to see which neurons are particular to the prompts:")
            _ready_sets(selection, second=True)  # in the form they would do nothing before it is sent
        _prompts(selection)
    else:
        without_model()
    files = _files()
    try:
        found = _found(selection, files, atlas)
    except AtlasError as error:
        fail(error)
        found = None
    if found is not None and not any(files):
        _keep(found, selection, atlas)
    if isinstance(found, Compared):
        both = [("A", found.first), ("B", found.second)]
        _failures([one for _, some in both for one in some.failed])
        _said([(name, one) for name, some in both for one in some.said], selection)
        _particular(found, selection, atlas)
    elif found is not None:
        _failures(found.failed)
        _said([("", one) for one in found.said], selection)
        _neurons(found, selection, atlas)
    footer(atlas)


def _keep(found: Aggregate | Compared, selection: ManySelection, atlas: Catalogue) -> None:
    """Offered for what the address holds."""
    sides = [found.first, found.second] if isinstance(found, Compared) else [found]
    texts = (selection.ready or selection.text, selection.other_ready or selection.other)
    if texts[0] and selection.fits:
        first = (navigation.in_a_line(text.strip().partition("\n")[0].partition("\t")[0]) for text in texts)
        about = ", against ".join(f"{side.prompts} prompts: {one}" for side, one in zip(sides, first, strict=False))
        keep(selection, about, about, atlas)


# What is asked: ready sets, typed prompts, or files of analyses.


def _text(selection: ManySelection) -> str:
    return _of_set(selection.ready, selection.text, _TEXT)


def _other(selection: ManySelection) -> str:
    """The second set."""
    return _of_set(selection.other_ready, selection.other, _OTHER)


def _of_set(ready: str, text: str, long: str) -> str:
    return batches.as_lines(READY[ready]) if ready else text or str(st.session_state.get(long, ""))


def _ready_sets(selection: ManySelection, *, second: bool = False) -> None:
    fresh = ManySelection(bare=selection.bare, chat=selection.chat, measure=selection.measure)
    chosen, taken = selection.ready, selection.other_ready
    if second:
        chosen, taken = taken, chosen
        fresh = replace(fresh, text=selection.text, ready=selection.ready)
    else:
        fresh = replace(fresh, other=selection.other, other_ready=selection.other_ready)

    def with_set(name: str) -> ManySelection:
        return replace(fresh, other_ready=name) if second else replace(fresh, ready=name)

    links = [link(name, with_set(name), name == chosen) for name in READY if name != taken]
    label = "ready sets of prompts for set B" if second else "ready sets of prompts"
    chips(links, key="other_ready" if second else "ready", label=label)


def _prompts(selection: ManySelection) -> None:
    sync("many_text", _text(selection))
    sync("many_other", _other(selection))
    sync("many_bos", not selection.bare)
    sync("many_chat", selection.chat)
    sync("many_measure", selection.measure)

    with st.form("many_form", border=False):
        st.text_area(
            f"One prompt per line, at most {configuration().max_prompts}; a target may follow after a tab",
            key="many_text",
            height=130,
            placeholder="The capital of France is\nThe capital of Germany is",
        )
        with st.expander(
            "Against a second set: which neurons are particular to the prompts above", bool(_other(selection))
        ):
            st.text_area(
                "Set B, written likewise; the prompts above are set A",
                key="many_other",
                height=130,
                placeholder="The opposite of hot is\nThank you very",
            )
        st.toggle("Each as a user’s message, in the model’s chat template", key="many_chat")
        st.toggle("Put before each text what the tokenizer puts there, such as <s>", key="many_bos")
        st.toggle("Measure what each neuron does to the answer; this takes longer", key="many_measure")
        st.form_submit_button("Explain them all", type="primary", on_click=partial(_submitted, selection))
    if any(st.session_state.get(key) for key in (_TEXT, _OTHER)):
        st.caption("These prompts are too long for the address. To share them, shorten the list or keep it in a file.")


def _submitted(selection: ManySelection) -> None:
    state = st.session_state
    text, other = state["many_text"] or "", state["many_other"] or ""
    chat, measure = bool(state["many_chat"]), bool(state["many_measure"])
    moved = replace(selection, bare=not state["many_bos"], chat=chat, measure=measure)
    if text != _text(selection):
        moved = replace(moved, text=text, ready="")
    if other != _other(selection):
        moved = replace(moved, other=other, other_ready="")
    if (text, other) != (_text(selection), _other(selection)):
        moved = replace(moved, role="", layers=None, least=1, order=None, reverse=False, having="", page=1)
    state[_TEXT], state[_OTHER] = ("", "") if moved.fits else (moved.text, moved.other)
    if moved != selection:
        navigation.show(moved)


def _files() -> "tuple[UploadedFile | None, UploadedFile | None]":
    with st.expander("Or open a file of analyses"):
        st.caption(
            "Made by `python -m app.attribution --prompts prompts.txt --out analyses.jsonl`; .jsonl or .parquet. It is "
            "shown in place of the prompts above until you remove it. A second one takes the place of set B; then the "
            "lists in the files are compared, and a neuron that a list lacks counts as 0 there."
        )
        kinds = ["jsonl", "parquet"]
        first = st.file_uploader("File of analyses", type=kinds, key="many_file")
        second = st.file_uploader("Second file, to compare it with", type=kinds, key="many_file2")
    return first, second


def _found(
    selection: ManySelection, files: "tuple[UploadedFile | None, UploadedFile | None]", atlas: Catalogue
) -> Aggregate | Compared | None:
    """What was asked for."""
    first, second = _lines(_text(selection), selection), _lines(_other(selection), selection)
    if not any(files):
        if not first and not second:
            return None
        with _telling() as tell:
            if first and second:
                return batches.compared(atlas, first, second, selection.measure, tell)
            return batches.aggregate(atlas, first or second, selection.measure, tell)
    given = [None if file is None else batches.read_upload(file.name, file.getvalue()) for file in files]
    with _telling() as tell:
        one, other = (
            batches.rows(atlas, lines, selection.measure, tell) if read is None else read
            for read, lines in zip(given, (first, second), strict=True)
        )
    found = batches.compared_of(one, other) if one and other else batches.aggregate_of(one or other)
    if not found.is_of(atlas):
        models = found.models if isinstance(found, Aggregate) else found.first.models
        whose = ", ".join(f"{name} ({short_identity(checkpoint)})" for name, checkpoint in models[:_NAMED])
        own = f"{atlas.info.model} ({short_identity(atlas.info.checkpoint)})"
        warn([f"The file is about {whose}, and the catalogue shown is of {own}: tokens are left out."])
    return found


def _lines(text: str, selection: ManySelection) -> tuple[PromptLine, ...]:
    """Prompts, as far as this server explains them."""
    if not has_model():
        return ()
    most = configuration().max_prompts
    asked, beyond = batches.parse_lines(text, most)
    if beyond:
        warn([f"Only the first {most} of {most + beyond} prompts are explained. The shell has no such limit."])
    # None leaves what is as ever, so that it is the same question as before.
    bos, chat = False if selection.bare else None, True if selection.chat else None
    return tuple(replace(one, bos=bos, chat=chat) for one in asked)


@contextmanager
def _telling() -> Iterator[batches.Tell]:
    """A bar that says what is being done; gone when it is done."""
    slot = st.empty()

    def tell(share: float, words: str) -> None:
        slot.progress(share, literal(words))

    try:
        yield tell
    finally:
        slot.empty()


# What was found.


def _failures(failed: Sequence[tuple[str, str]]) -> None:
    if not failed:
        return
    with st.expander(f"{len(failed)} could not be explained"):
        for prompt, reason in failed[:MAX_PROMPTS]:
            st.markdown(f"**{literal(prompt[:80])}**: {literal(reason)}")


def _said(said: list[tuple[str, Said]], asked: ManySelection) -> None:
    """What the model says after each prompt of a set, and the way to its explanation."""
    if not any(one.top for _, one in said):
        return
    st.header("What the model says", anchor=False)

    def token(words: str | None, probability: float | None) -> tuple[Chip, ...]:
        return () if words is None else (chip(words, note="" if probability is None else percent(probability)),)

    columns: list[lists.ColumnOf[tuple[str, Said]]] = [
        lists.text(
            "prompt",
            "name",
            lambda one: shorten(in_display_form(one[1].prompt).replace("␣", " "), 60),
            "a click explains it alone",
        ),
        lists.chips_of(
            "says", "list", lambda one: token(one[1].top, one[1].top_probability), "the most probable next token"
        ),
        lists.chips_of(
            "explained",
            "list",
            lambda one: token(one[1].target, one[1].target_probability),
            "what the neurons below raised",
        ),
    ]
    if any(name for name, _ in said):
        columns.insert(1, lists.text("set", "number", lambda one: one[0]))

    def opens(one: tuple[str, Said]) -> str:
        target = None if one[1].target == one[1].top else one[1].target_id
        return navigation.href(PromptSelection(one[1].prompt, target, bare=asked.bare, chat=asked.chat))

    lists.table(said, columns, opens, key="said", label="what the model says")
    frame = said_frame(one for _, one in said)
    if any(name for name, _ in said):
        frame.insert(0, "set", [name for name, _ in said])
    whole_files("what-the-model-says", lambda: frame, "said", "Answers")


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
    measured = "mean_effect" in found.frame
    orders = (*_ORDERS[:2], ListOrder.EFFECT, *_ORDERS[2:]) if measured else _ORDERS
    _filters(selection, {role: role for role in roles}, most, atlas.info.layers - 1, orders)
    own = atlas if found.is_of(atlas) else None
    rows = batches.neurons(found.frame, selection, own)
    _held(found)
    shown = _shown(rows, selection)
    if shown:
        left, right = st.columns([5, 3], gap="medium")
        with left:
            _table(batches.with_tokens(shown, own), selection, most, measured, own)
            legend("ffn", "attention", "promotes", "suppresses")
            _pager(rows, selection)
        with right:
            _by_layer(rows, atlas)
    st.caption("All roles as a file:")
    whole_files("neurons-over-prompts", lambda: found.frame, "neurons")


def _held(found: Aggregate | Compared) -> None:
    for words in filter(None, (found.controls, found.no_means)):
        st.caption(literal(words))


def _pages(rows: Sequence[object], selection: ManySelection) -> tuple[int, int]:
    """Which page of a list is shown, and how many there are."""
    pages = max(1, -(-len(rows) // _ROWS))
    return min(selection.page, pages), pages


def _shown(rows: "Sequence[Row]", selection: ManySelection) -> "Sequence[Row]":
    """The rows of the page that is shown; says which."""
    number, pages = _pages(rows, selection)
    shown = rows[_ROWS * (number - 1) : _ROWS * number]
    only = f", {_ROWS * (number - 1) + 1} to {_ROWS * (number - 1) + len(shown)} of them here" if pages > 1 else ""
    st.caption(literal(f"{len(rows):,} neurons{only}. A row opens its neuron."))
    if not rows:
        st.info("No neuron is left. Widen the layers, ask for fewer prompts, or look for something else.")
    return shown


def _pager(rows: Sequence[object], selection: ManySelection) -> None:
    lists.pager(*_pages(rows, selection), lambda page: navigation.href(replace(selection, page=page)))


def _particular(found: Compared, selection: ManySelection, atlas: Catalogue) -> None:
    """The neurons of two sets, those of the first one first."""
    if found.frame.empty:
        st.info("No neuron was found. Write prompts that can be explained.")
        return
    selection = replace(selection, role=selection.role if selection.role in _KINDS else _EVERY)
    st.header("Neurons of set A against set B", anchor=False)
    st.caption(literal(found.how))
    measured = "effect_difference" in found.frame
    best = ListOrder.EFFECT if found.is_measured else ListOrder.DIFFERENCE
    every = dict.fromkeys((best, ListOrder.DIFFERENCE, ListOrder.EFFECT, ListOrder.CHANCE, ListOrder.LAYER))
    orders = [one for one in every if measured or one is not ListOrder.EFFECT]
    _filters(selection, _KINDS, 1, atlas.info.layers - 1, orders)
    own = atlas if found.is_of(atlas) else None
    rows = batches.particular(found, selection, own)
    _held(found)
    shown = _shown(rows, selection)
    if shown:
        _particular_table(batches.with_tokens(shown, own), selection, best, measured, own)
        legend("ffn", "attention", "promotes", "suppresses")
        _pager(rows, selection)
    whole_files("neurons-of-two-sets", lambda: found.frame, "sets")


def _particular_table(
    rows: list[Particular], selection: ManySelection, best: ListOrder, measured: bool, atlas: Catalogue | None
) -> None:
    generic = Generic() if atlas is None else atlas.generic
    known = {one.neuron: one.tokens for one in rows if one.tokens is not None}

    of = "measured difference" if best is ListOrder.EFFECT else "difference of scores"
    chance = f"of the {of}: how often prompts dealt out at random differ as much"
    hint = "difference of the mean scores"
    columns: list[lists.ColumnOf[Particular]] = [
        lists.named(known, atlas, ListOrder.LAYER),
        lists.bar("A − B (nats)", rows, lambda one: one.difference, nats, hint, order=ListOrder.DIFFERENCE),
        lists.text("score in A", "number extra", lambda one: nats(one.first), "mean, nats"),
        lists.text("in B", "number extra", lambda one: nats(one.second), "mean score, nats"),
        lists.text("p", "number extra", lambda one: f"{one.p:.2g}", chance, ListOrder.CHANCE),
        lists.text("q", "number", lambda one: f"{one.q:.2g}", "p, corrected for the number of neurons"),
        lists.both_ends(known, generic.words),
    ]
    if measured:
        hint = "difference of the mean measured effects: what A’s answers lost without it, less what B’s lost"
        columns.insert(1, _effect_bar("measured A − B (nats)", rows, hint))
    columns[2:2] = _at_mean(rows, "the same, each replaced by its mean over both sets instead")
    headed = _sortable(columns, selection, best)
    label = "neurons of the two sets"
    lists.table(rows, headed, lambda one: lists.neuron_link(one.neuron), key="particular", label=label)


def _effect_bar(title: str, rows: "Sequence[Row]", hint: str) -> "lists.ColumnOf[Row]":
    """What was measured, over bars around zero; empty where nothing was."""
    most = max((abs(one.effect or 0.0) for one in rows), default=0.0) or 1.0

    def cell(one: "Row") -> Cell:
        return Cell("" if one.effect is None else nats(one.effect), share=(one.effect or 0.0) / most)

    return Column(title, "bar", hint, order=ListOrder.EFFECT), cell


def _sortable(
    columns: "list[lists.ColumnOf[Row]]", selection: ManySelection, best: ListOrder
) -> "list[lists.ColumnOf[Row]]":
    def at(order: ListOrder, reverse: bool) -> str:
        return navigation.href(replace(selection, order=None if order is best else order, reverse=reverse, page=1))

    return lists.sortable(columns, selection.order or best, selection.reverse, at)


def _at_mean(rows: "Sequence[Row]", hint: str) -> "list[lists.ColumnOf[Row]]":
    """The column of neurons replaced by their means, where any were."""
    if all(one.of_mean is None for one in rows):
        return []
    return [lists.text("at its mean", "number", lambda one: "" if one.of_mean is None else nats(one.of_mean), hint)]


def _filters(
    selection: ManySelection, roles: dict[str, str], most: int, last: int, orders: Sequence[ListOrder]
) -> None:
    """most: of the number of prompts that can be asked for; 1 where that makes no sense."""
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
                role=state["many_role"] or next(iter(roles)),
                layers=None if layers == whole else layers,
                least=int(state.get("many_least") or 1),
                page=1,
                **lists.chosen_order(orders),
            )
        )

    with st.container(horizontal=True, gap="medium"):
        words = roles.__getitem__
        st.segmented_control("Role", list(roles), key="many_role", format_func=words, on_change=changed, required=True)
        if last:
            st.slider("Layers", 0, last, key="many_layers", on_change=changed, width=240)
        if most > 1:
            st.number_input("In at least this many prompts", 1, most, key="many_least", on_change=changed, width=220)
        lists.order_fields(selection, orders, changed)


def _table(rows: list[NeuronRow], selection: ManySelection, most: int, measured: bool, atlas: Catalogue | None) -> None:
    generic = Generic() if atlas is None else atlas.generic
    known = {one.neuron: one.tokens for one in rows if one.tokens is not None}
    ends = lists.both_ends(known, generic.words)

    def tokens(one: NeuronRow) -> Cell:
        if one.tokens is None or one.activation is None:
            return ends[1](one)
        return lists.raised_first(one.tokens, one.activation, generic.words(one.neuron))

    over = "over the prompts that have it"
    have = "how many have it in their list"
    columns: list[lists.ColumnOf[NeuronRow]] = [
        lists.named(known, atlas, ListOrder.LAYER),
        lists.bar("prompts", rows, lambda one: one.prompts, "{:.0f}".format, have, full=most, order=ListOrder.PROMPTS),
        lists.text("mean score (nats)", "number", lambda one: nats(one.score), over, ListOrder.SCORE),
        lists.text(
            "mean activation",
            "number extra",
            lambda one: "" if one.activation is None else signed(one.activation),
            "over the same prompts; signed",
            ListOrder.ACTIVATION,
        ),
        (Column(lists.RAISED, "tokens") if any(one.activation is not None for one in rows) else ends[0], tokens),
    ]
    if measured:
        hint = "what the answers lost without it, over the same prompts"
        columns.insert(2, _effect_bar("mean measured (nats)", rows, hint))
    hint = "what they lost where it was replaced by its mean over all these prompts, instead of by nothing"
    columns[3:3] = _at_mean(rows, hint)
    headed = _sortable(columns, selection, ListOrder.PROMPTS)
    label = f"{selection.role} neurons"
    lists.table(rows, headed, lambda one: lists.neuron_link(one.neuron), key="aggregate", label=label)


def _by_layer(rows: Sequence[NeuronRow], atlas: Catalogue) -> None:
    counts = count_by_layer([one.neuron for one in rows])
    show(catalogue_charts.layer_distribution(counts, atlas.info.layers, name="many_by_layer"))


if __name__ == "__main__":
    draw()
