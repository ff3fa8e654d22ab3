"""A comparison as data tables and files."""

from functools import partial
from typing import TYPE_CHECKING

import streamlit as st

from app.views.folded import folded
from app.views.whole_files import formulas, whole_files

if TYPE_CHECKING:
    from app.attribution.compare import Comparison


def files(found: "Comparison") -> None:
    """Every table: to read, and as CSV, JSON and Parquet, made when its button is pressed."""
    from app.attribution.compare_forms import TABLES

    def tables() -> None:
        for name, table in TABLES.items():
            frame = table(found)
            if frame.empty:
                continue
            st.markdown(f"**{name.capitalize()}**, {len(frame):,} rows")
            st.dataframe(frame, hide_index=True, key=f"compare_data_{name}", height=180)
            whole_files(f"compared-{name}", partial(table, found), f"compare_{name}")
        formulas()

    folded("All of it as data tables and files", tables, key="compared")
