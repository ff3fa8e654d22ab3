"""The table of the neurons that matter over many prompts, with its filters."""

from dataclasses import replace

import pandas as pd
import streamlit as st

from app import navigation
from app.asking.batches import narrowed
from app.asking.exporting import csv_of
from app.drawing import charts
from app.drawing.components import Cell, Column, TableRow, chip, legend, neuron_table
from app.drawing.wording import literal, nats, signed
from app.state.selection import ManySelection, NeuronSelection
from app.views.neuron_tables import raised_first
from app.views.pictures import shown
from app.views.shared import sync
from db.catalogue import Catalogue
from db.neuron import Neuron

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
    from app.attribution.aggregate import ROLES

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
            chart = charts.layer_distribution(counts, atlas.info.layers)
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
