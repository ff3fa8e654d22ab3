"""A result beyond its page's table: the page as data, and all of it as files."""

from collections.abc import Callable

import pandas as pd
import streamlit as st

from app.asking import finding
from app.asking.exporting import FORMS, Form, command
from app.state.selection import By, SearchSelection
from app.views.data_table import data_table
from db.catalogue import Catalogue


def as_data(frame: pd.DataFrame) -> None:
    """What the table shows, for the keyboard."""
    with st.expander("This page as a data table"):
        data_table(frame, "this_page")


def _writing(form: Form, whole: Callable[[], pd.DataFrame]) -> Callable[[], bytes]:
    return lambda: form.write(whole())


def exports(
    total: int, selection: SearchSelection, by: By, atlas: Catalogue, whole: Callable[[], pd.DataFrame]
) -> None:
    """The whole result as files; each is made when its button is pressed."""
    rows = min(total, finding.MAX_WHOLE)
    with st.expander(f"Download all {rows:,} rows"):
        with st.container(horizontal=True):
            for form in FORMS:
                st.download_button(
                    form.name,
                    data=_writing(form, whole),
                    file_name=f"neurons.{form.ending}",
                    mime=form.mime,
                    on_click="ignore",
                    key=f"export_{form.ending}",
                    icon=":material/download:",
                )
        if rows < total:
            st.caption(f"These are the first {rows:,} of {total:,}; the shell writes all.")
        st.caption("In CSV, text that a spreadsheet would read as a formula has an apostrophe before it.")
        said = command(selection, by, atlas.info.model)
        if said is not None:
            st.caption("The same rows, best first, from the shell:")
            st.code(said, language="bash", wrap_lines=True)
