"""Many prompts: which neurons matter over all of them, by role."""

from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import streamlit as st

from app.answers import batches
from app.answers.batches import MAX_PROMPTS, Aggregate, Asked, as_lines, narrowed, parse_lines, read_upload
from app.answers.files import csv_of
from app.charts import catalogue_charts
from app.gallery.examples import READY
from app.serving.settings import configuration
from app.state.selections import MAX_MANY, ManySelection, NeuronSelection
from app.ui import navigation
from app.ui.common import about, footer, limits, open_catalogue, shown, sync, title
from app.ui.components import Cell, Column, TableRow, chip, chips, legend, link, neuron_table
from app.ui.navigation import fail, warn
from app.ui.pages.neuron_tables import raised_first
from app.words import literal, nats, signed
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.neuron import Neuron

# The table of the neurons that matter over many prompts, with its filters.

HERE = "many"
_ROWS = 200
_COLUMNS = (
    Column("neuron", "name"),
    Column("prompts", "bar", "in how many prompts' list it stands"),
    Column("mean score (nats)", "number", "over the prompts in whose list it stands"),
    Column("mean activation", "number extra", "over the same; signed"),
    Column("tokens it raised, then those it lowered", "tokens"),
)


def aggregate_table(table: pd.DataFrame, prompts: int, selection: ManySelection, atlas: Catalogue) -> None:
    """Filters, table, where its neurons stand, and all of it as data."""
    from app.attribution.frames import ROLES

    if table.empty:
        st.info("No neuron was found. Write at least one prompt that can be explained.")
        return
    roles = [role for role in ROLES if role in set(table["role"])]
    role = selection.role if selection.role in roles else roles[0]
    least = min(selection.least, max(prompts, 1))
    st.subheader(f"Neurons over {prompts} prompts", anchor=False)
    _filters(replace(selection, role=role, least=least), roles, prompts, atlas)
    rows = narrowed(table, role, selection.layers, least)
    st.caption(
        literal(f"{len(rows):,} neurons")
        + (f", the first {_ROWS} shown" if len(rows) > _ROWS else "")
        + ". A row opens its neuron."
    )
    if rows.empty:
        st.info("No neuron is left. Widen the layers, or ask for fewer prompts.")
    else:
        left, right = st.columns([5, 3], gap="medium")
        with left:
            _table(rows.head(_ROWS), role, prompts, atlas)
            legend("ffn", "attention", "promotes", "suppresses")
        with right:
            counts = rows.assign(
                layer=rows["neuron"].map(lambda label: Neuron.parse(label).layer),
                kind=rows["neuron"].map(lambda label: str(Neuron.parse(label).kind)),
                neurons=1,
            )[["layer", "kind", "neurons"]]
            chart = catalogue_charts.layer_distribution(counts, atlas.info.layers)
            shown("many_by_layer", chart, counts, "Found neurons by layer")
    st.download_button(
        "All roles as CSV",
        lambda: csv_of(table),
        "neurons-over-prompts.csv",
        "text/csv",
        on_click="ignore",
        icon=":material/download:",
    )


def _filters(selection: ManySelection, roles: list[str], prompts: int, atlas: Catalogue) -> None:
    last = atlas.info.layers - 1
    sync("many_role", selection.role)
    sync("many_layers", selection.layers or (0, last))
    sync("many_least", selection.least)

    def changed() -> None:
        state = st.session_state
        layers = tuple(state["many_layers"]) if last else (0, last)
        navigation.show(
            replace(
                selection,
                role=state["many_role"] or roles[0],
                layers=None if layers == (0, last) else layers,
                least=int(state["many_least"] or 1),
            )
        )

    with st.container(horizontal=True, gap="medium"):
        st.segmented_control("Role", roles, key="many_role", on_change=changed, required=True)
        if last:
            st.slider("Layers", 0, last, key="many_layers", on_change=changed, width=240)
        st.number_input(
            "In at least so many prompts", 1, max(prompts, 1), key="many_least", on_change=changed, width=220
        )


def _table(rows: pd.DataFrame, role: str, prompts: int, atlas: Catalogue) -> None:
    neurons = [Neuron.parse(label) for label in rows["neuron"]]
    strongest = atlas.strongest_tokens([one for one in neurons if _known(one, atlas)], 5)
    listed = []
    for neuron, row in zip(neurons, rows.to_dict("records"), strict=True):
        ends, activation = strongest.get(neuron), row["mean_activation"]
        absent = pd.isna(activation)
        tokens = () if ends is None else raised_first(ends, 1.0 if absent else activation)
        listed.append(
            TableRow(
                navigation.href("neuron", NeuronSelection(neuron.label)),
                (
                    Cell(neuron.label, dot=neuron.kind.value),
                    Cell(str(row["prompts"]), share=row["prompts"] / max(prompts, 1)),
                    Cell(nats(row["mean_score"])),
                    Cell("" if absent else signed(activation)),
                    Cell(chips=tokens or (chip("not in this catalogue"),)),
                ),
            )
        )
    neuron_table(_COLUMNS, listed, key="aggregate", here=HERE, label=f"{role} neurons")


def _known(neuron: Neuron, atlas: Catalogue) -> bool:
    """Whether the catalogue can hold it; a file may be of another model."""
    info = atlas.info
    if neuron.layer >= info.layers:
        return False
    if neuron.head is None:
        return neuron.index < info.ffn_neurons // info.layers
    return neuron.head < info.heads and neuron.index < info.head_dim


_TEXT = "many_long_text"  # a text too long for the address is kept for the session


@dataclass(frozen=True)
class Found:
    """What the table is made from."""

    table: pd.DataFrame
    prompts: int
    failed: tuple[tuple[str, str], ...]
    """Prompts that could not be analysed, and why."""


def draw() -> None:
    """The page."""
    title("Many prompts", "Which neurons matter again and again: the lists of many prompts, put together.")
    about(HERE)
    atlas = open_catalogue()
    selection, notices = ManySelection.read(navigation.params(), limits(atlas))
    if selection.ready and selection.ready not in READY:
        notices.append(f"In the address, the set {selection.ready[:40]} is not known: there are {', '.join(READY)}.")
        selection = replace(selection, ready="")
    warn(notices)
    _ready(selection)
    upload = _fields(selection)
    try:
        found = _opened(upload, atlas) if upload is not None else _analysed(_text(selection), atlas)
    except AtlasError as error:
        fail(error)
        found = None
    if found is not None:
        _report(found)
        aggregate_table(found.table, found.prompts, selection, atlas)
    footer(atlas, HERE)


def _text(selection: ManySelection) -> str:
    if selection.ready:
        return as_lines(READY[selection.ready])
    return selection.text or str(st.session_state.get(_TEXT, ""))


def _ready(selection: ManySelection) -> None:
    st.caption("Choose a set, or write your own prompts:")
    links = [link(name, navigation.href(HERE, ManySelection(ready=name)), name == selection.ready) for name in READY]
    chips(links, key="ready", here=HERE, label="ready sets of prompts")


def _fields(selection: ManySelection):  # type: ignore[no-untyped-def]  # Streamlit's type of an upload is private
    """The prompts, and a file in their place."""
    sync("many_text", _text(selection))

    def submitted() -> None:
        text = st.session_state["many_text"] or ""
        if text == _text(selection):
            return
        moved = ManySelection(text=text)
        st.session_state[_TEXT] = "" if moved.fits else text
        navigation.show(moved)

    with st.form("many_form", border=False):
        st.text_area(
            f"Prompts, one a line, at most {configuration().max_prompts}; a target may follow after a tab",
            key="many_text",
            height=170,
            max_chars=MAX_MANY,
            placeholder="The capital of France is\nThe capital of Germany is",
        )
        st.form_submit_button("Explain them all", type="primary", on_click=submitted)
    if st.session_state.get(_TEXT) and not selection.ready and not selection.text:
        st.caption(
            "These prompts are too long, so that the address does not hold them: to pass them on, keep them in a file "
            "or shorten the list."
        )
    with st.expander("Or open a file of analyses"):
        st.caption(
            "Made by `python -m app.attribution --prompts prompts.txt --out analyses.jsonl`; .jsonl or .parquet. It is "
            "shown in place of the prompts above until it is taken away."
        )
        return st.file_uploader("File of analyses", type=["jsonl", "parquet"], label_visibility="collapsed")


def _analysed(text: str, atlas: Catalogue) -> Found | None:
    most = configuration().max_prompts
    asked, beyond = parse_lines(text, most)
    if beyond:
        warn(
            [f"Only the first {most} prompts are explained; {beyond} more were left out. The shell has no such limit."]
        )
    if not asked:
        return None
    table = batches.known_aggregate(atlas, tuple(asked))
    if table is None:
        table = _with_progress(asked, atlas)
    return Found(table.frame, len(asked) - len(table.failed), table.failed)


def _with_progress(asked: list[Asked], atlas: Catalogue) -> Aggregate:
    slot = st.empty()
    for done, one in enumerate(asked):
        slot.progress(done / len(asked), literal(f"{done + 1} of {len(asked)}: {one.prompt[:60]}"))
        batches.row(atlas, one)
    slot.progress(1.0, "Putting their lists together …")
    table = batches.aggregate(atlas, tuple(asked))
    slot.empty()
    return table


def _opened(upload: Any, atlas: Catalogue) -> Found:
    from app.attribution.frames import aggregate

    rows = read_upload(upload.name, upload.getvalue())
    failed = tuple((row["prompt"], row["error"]) for row in rows if "error" in row)
    other = sorted({row["model"] for row in rows if "error" not in row} - {atlas.info.model})
    if other:
        warn([f"The file is about {', '.join(other)[:80]}, the tokens shown are those of {atlas.info.model}."])
    return Found(aggregate(rows), len(rows) - len(failed), failed)


def _report(found: Found) -> None:
    if not found.failed:
        return
    with st.expander(f"{len(found.failed)} could not be explained"):
        for prompt, reason in found.failed[:MAX_PROMPTS]:
            st.markdown(f"**{literal(prompt[:80])}**: {literal(reason)}")


if __name__ == "__main__":
    draw()
