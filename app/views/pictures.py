"""Beside every chart: the chart as SVG and PNG, and its data as CSV. Each is made when it is asked for."""

from collections.abc import Callable

import pandas as pd
import streamlit as st

from app.asking.exporting import csv_of
from app.drawing.pictures import WIDTH, Chart, png, svg
from app.drawing.prompt_charts import Drawn


def shown(name: str, chart: Chart, data: pd.DataFrame, alt: str, *, width: int = WIDTH) -> None:
    """Draw a chart across its column, with the control below; `name` is its files' and unique on the page."""
    st.altair_chart(chart, width="stretch", alt=alt)
    control(name, lambda: chart, data, width=width)


def control(name: str, chart: Callable[[], Chart], data: pd.DataFrame, *, width: int = WIDTH) -> None:
    """The control alone, for what a component of ours draws; `chart` makes its equivalent."""
    files: tuple[tuple[str, str, str, Callable[[], bytes], str], ...] = (
        ("SVG", "svg", "image/svg+xml", lambda: svg(chart(), width), "for papers and slides; its text stays text"),
        ("PNG", "png", "image/png", lambda: png(chart(), width), "on white, at twice the screen's sharpness"),
        ("data", "csv", "text/csv", lambda: csv_of(data), "the numbers behind the chart as CSV"),
    )
    with st.container(horizontal=True, horizontal_alignment="right", gap="small", key=f"picture_{name}"):
        for label, ending, mime, make, hint in files:
            st.download_button(
                label,
                data=make,
                file_name=f"{name.replace('_', '-')}.{ending}",
                mime=mime,
                on_click="ignore",
                key=f"picture_{name}_{ending}",
                type="tertiary",
                help=f"Download this chart: {hint}",
            )


def drawn(name: str, picture: Drawn) -> None:
    """The control for a component whose equivalent is at hand."""
    control(name, lambda: picture.chart, picture.data, width=picture.width)
