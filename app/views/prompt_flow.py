"""The first thing of “where” on the prompt page: which heads moved what from where, over all layers at once."""

from typing import TYPE_CHECKING

import streamlit as st

from app.asking import explaining
from app.asking.reading import Reading
from app.drawing import flow, prompt_charts
from app.drawing.components import Cell, Column, TableRow, chip, legend, neuron_table
from app.drawing.plots import flow as draw
from app.drawing.wording import literal, nats, percent
from app.state.address import head_label
from app.state.selection import Place, PromptSelection
from app.views.pictures import drawn
from app.views.prompt_tables import beside
from db.catalogue import Catalogue
from db.errors import AtlasError

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.attribution.results import Flow

HERE = "prompt"
_COLUMNS = (
    Column("head", "name", "a click opens the head at that source position"),
    Column("from", "source", "source position and its token"),
    Column("nats", "bar", "of what the head moved from there, alone"),
    Column("attention", "number", "the explained position's attention to the source"),
)


def flow_map(reading: Reading, selection: PromptSelection, atlas: Catalogue, address: "Callable[[Place], str]") -> None:
    """The picture, and the same moves as a list of links."""
    try:
        found = explaining.flow(atlas, selection)
    except AtlasError as error:  # a stored analysis on a server without the model has no flow; the rest stands
        st.info(literal(str(error)))
        return
    from app.attribution.forms import flow_frame, layers_frame

    analysis, place = reading.analysis, selection.place
    layers = layers_frame(reading.source)
    ffn = layers[layers["part"] == "ffn"]["score"].tolist()
    left, right = st.columns([13, 7], gap="large")
    with left:
        legend("raises", "lowers")
        draw(
            len(ffn),
            flow.feet(analysis.tokens, analysis.position),
            flow.arcs(found.moves, place, address),
            flow.marks(ffn, place, address),
            axis="position and its token; layers upwards; at the right what each layer's FFN added",
            key="flow",
            here=HERE,
            label="flow of the prompt",
        )
        drawn("flow", prompt_charts.flow(reading, found))
    with right:
        _list(found, place, address)
    st.caption(literal(_words(found, reading)))
    beside(selection, "flow", flow_frame(found), "What heads moved")


def _list(found: "Flow", place: Place, address: "Callable[[Place], str]") -> None:
    most = max((abs(move.score) for move in found.moves), default=1.0) or 1.0
    rows = [
        TableRow(
            address(flow.to_move(place, move)),
            (
                Cell(
                    head_label((move.layer, move.head)) + (" ✕" if flow.is_chosen(place, move) else ""),
                    dot="attention",
                ),
                Cell(f"{move.position}", chips=(chip(move.token.display),)),
                Cell(nats(move.score), share=move.score / most),
                Cell(percent(move.attention_weight)),
            ),
        )
        for move in found.moves
    ]
    st.markdown("**Strongest moves**, by head and source position")
    neuron_table(_COLUMNS, rows, key="moves", here=HERE, label="strongest moves")


def _words(found: "Flow", reading: Reading) -> str:
    proof = found.certificate
    share = "share of the difference of logits" if reading.analysis.contrast is not None else "log-probability increase"
    rest = (
        f"The {len(found.moves)} strongest of {proof.total:,} heads × source positions, by the size of their {share}: "
        + (
            "all are known exactly."
            if proof.bound == "linear"
            else f"{proof.scored:,} scored exactly, proven complete."
        )
    )
    return f"An arc is what one head moved from a position to the explained one, as thick as its nats. {rest}"
