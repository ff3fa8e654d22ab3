"""The logit lens on the prompt page: what each layer's input would predict, read as if it were the last."""

from typing import Any

import streamlit as st

from app.asking import explaining
from app.drawing import prompt_charts
from app.drawing.plots import Line, Scale, Square, grid
from app.drawing.wording import percent
from app.notices import fail
from app.state.selection import PromptSelection
from app.views.data_table import data_table
from app.views.folded import folded
from app.views.pictures import drawn
from db.catalogue import Catalogue
from db.errors import AtlasError
from db.token_text import shorten

HERE = "prompt"
_LENS_TOKENS = 40


def lens_map(selection: PromptSelection, atlas: Catalogue) -> None:
    """Layers upwards, the output on top."""
    try:
        frame = explaining.lens(atlas, selection)
    except AtlasError as error:
        fail(error)
        return
    first = max(0, int(frame["position"].max()) + 1 - _LENS_TOKENS)
    shown = frame[frame["position"] >= first]
    last = int(frame["layer"].max())
    lines = [
        Line("output" if layer == last else str(layer), tuple(_square(row) for row in rows.to_dict("records")))
        for layer, rows in reversed(list(shown.groupby("layer")))
    ]
    bottom = shown[shown["layer"] == last]
    names = [f"{place} {token}" for place, token in zip(bottom["position"], bottom["token"], strict=True)]
    grid(
        lines,
        names,
        Scale("probability of the target; the text is the most probable token", "", "100 %"),
        axes=("into layer", "position and its token"),
        key="lens",
        here=HERE,
        label="logit lens",
    )
    drawn("lens", prompt_charts.lens(frame, prompt_charts.subject(selection.prompt)))
    if first:
        st.caption(f"The last {_LENS_TOKENS} positions; the table has all.")
    folded(
        "The same as a data table, with CSV export",
        lambda: data_table(frame, "logit_lens"),
        key="logit_lens",
        expanded=selection.place.tables,
    )


def _square(row: dict[Any, Any]) -> Square:
    hint = (
        f"position {row['position']} “{row['token']}”: {row['top']} {percent(row['top_probability'])}, target "
        f"{percent(row['target_probability'])}"
    )
    return Square(row["target_probability"] ** 0.5, hint, shorten(row["top"], 12))
