"""A result beyond its page's table: the page as data, and all of it as files."""

from collections.abc import Callable

import pandas as pd
import streamlit as st

from app.asking import finding
from app.asking.exporting import command
from app.state.selection import By, SearchSelection
from app.views.data_table import data_table
from app.views.folded import folded
from app.views.whole_files import formulas, whole_files
from db.catalogue import Catalogue


def as_data(frame: pd.DataFrame) -> None:
    """What the table shows, for the keyboard."""
    folded("This page as a data table", lambda: data_table(frame, "this_page"), key="this_page")


def exports(
    total: int, selection: SearchSelection, by: By, atlas: Catalogue, whole: Callable[[], pd.DataFrame]
) -> None:
    """The whole result as files; each is made when its button is pressed."""
    rows = min(total, finding.MAX_WHOLE)

    def files() -> None:
        whole_files("neurons", whole, "export")
        if rows < total:
            st.caption(f"These are the first {rows:,} of {total:,}; the shell writes all.")
        formulas()
        said = command(selection, by, atlas.info.model)
        if said is not None:
            st.caption("The same rows, best first, from the shell:")
            st.code(said, language="bash", wrap_lines=True)

    folded(f"Download all {rows:,} rows", files, key="whole")
