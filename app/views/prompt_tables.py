"""Data tables beside the charts of the prompt page, for whoever reads figures rather than pictures."""

from dataclasses import replace

import pandas as pd
import streamlit as st

from app import navigation
from app.state.selection import PromptSelection
from app.views.data_table import data_table
from app.views.shared import sync


def switch(selection: PromptSelection) -> None:
    """Tables on or off; the address remembers it."""
    sync("prompt_tables", selection.place.tables)

    def changed() -> None:
        tables = bool(st.session_state["prompt_tables"])
        navigation.show(replace(selection, place=replace(selection.place, tables=tables)))

    st.toggle("Tables beside the charts", key="prompt_tables", on_change=changed)


def beside(selection: PromptSelection, name: str, frame: pd.DataFrame, words: str) -> None:
    """What a chart shows, as a table, where tables are asked for."""
    if selection.place.tables:
        st.caption(f"{words}, as a table")
        data_table(frame, name)
