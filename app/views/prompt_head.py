"""One head on the prompt page: what it took from each source position, and where it looks from every position."""

from dataclasses import replace

import pandas as pd
import streamlit as st

from app import navigation
from app.asking import explaining
from app.asking.reading import Reading
from app.drawing import charts
from app.drawing.components import Cell, Chip, Column, TableRow, chip, chips, link, neuron_table
from app.drawing.wording import literal, nats, percent
from app.notices import fail
from app.state.address import Head, head_label
from app.state.compare_selection import CompareSelection
from app.state.parts import Part
from app.state.selection import PromptSelection
from app.views.data_table import data_table
from app.views.folded import folded
from app.views.pictures import shown as draw_chart
from db.catalogue import Catalogue
from db.errors import AtlasError
from db.neuron import NeuronKind
from db.token_text import shorten

HERE = "prompt"
_PATTERN_TOKENS = 64
_SHOWN = 6
_COLUMNS = (
    Column("source position", "name", "a click shows only the neurons that this head moved from there"),
    Column("score (nats)", "bar", "of what the head wrote from this position"),
    Column("attention", "number", "the analysed position's attention to this one"),
    Column("input", "list", "strongest tokens of the layer's input at this position (logit lens)"),
    Column("key", "list", "strongest tokens of what a query must hold to attend here"),
    Column("value", "list", "strongest tokens of what the head writes when it attends here"),
)


def head_panel(reading: Reading, selection: PromptSelection, head: Head, atlas: Catalogue) -> None:
    """Source positions beside the attention pattern."""
    with st.container(border=True):
        st.markdown(f"**{literal(f'Head {head_label(head)}')}**: {literal(nats(reading.head_score(head)))} nats")
        close = selection.place.within(head[0])
        links = [link("✕ Close the head", navigation.href(HERE, replace(selection, place=close)))]
        zero = CompareSelection.of(selection, (Part(head[0], NeuronKind.ATTENTION, head[1]),))
        links.append(link("What if it were zero?", navigation.href("compare", zero)))
        chips(links, key="close_head", here=HERE, label="leave the head", focus=head_label(head))
        try:
            frame = explaining.source_positions(atlas, selection, head)
            pattern = explaining.pattern(atlas, selection, head)
        except AtlasError as error:
            fail(error)
            return
        scores = reading.source_scores(head)
        if scores is not None:
            frame = frame.assign(score=scores)
        left, right = st.columns([8, 5], gap="medium")
        with left:
            _positions(frame, selection)
        with right:
            _pattern(pattern)

        def tables() -> None:
            data_table(frame, "source_positions")
            data_table(pattern, "attention_pattern")

        folded("Both as data tables, with CSV export", tables, key="head_tables", expanded=selection.place.tables)


def _positions(frame: pd.DataFrame, selection: PromptSelection) -> None:
    most = float(frame["score"].abs().max()) or 1.0
    place = selection.place
    rows = []
    for row in frame.sort_values("score", key=abs, ascending=False).to_dict("records"):
        position = int(row["position"])
        chosen = position == place.source
        href = navigation.href(HERE, replace(selection, place=replace(place, source=None if chosen else position)))
        rows.append(
            TableRow(
                href,
                (
                    Cell(f"{position} {shorten(row['token'], 16)}" + (" ✕" if chosen else "")),
                    Cell(nats(row["score"]), share=row["score"] / most),
                    Cell(percent(row["attention_weight"])),
                    *(Cell(chips=_tokens(row[name])) for name in ("input_tokens", "key_tokens", "value_tokens")),
                ),
            )
        )
    neuron_table(_COLUMNS, rows, key="positions", here=HERE, label="source positions")
    st.caption("Strongest first. A row shows the neurons that this head moved from there, in the list below.")


def _tokens(texts: list[str]) -> tuple[Chip, ...]:
    return tuple(chip(text) for text in texts[:_SHOWN])


def _pattern(frame: pd.DataFrame) -> None:
    count = int(frame["query"].max()) + 1
    shown = frame[frame["key"] >= count - _PATTERN_TOKENS]
    draw_chart("attention_pattern", charts.attention_pattern(shown), shown, "Attention from each position to each")
    if count > _PATTERN_TOKENS:
        st.caption(f"The last {_PATTERN_TOKENS} positions; the table has all.")
