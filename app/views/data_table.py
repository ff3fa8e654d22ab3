"""A data frame as a table that can be sorted, searched and downloaded."""

import pandas as pd
import streamlit as st

from app.asking.exporting import csv_of


def data_table(frame: pd.DataFrame, name: str) -> None:
    """Draw a data frame with a CSV export of ours below; `name` is the file's and unique on the page.

    The table's own export would hand tokens such as ``=1+1`` to spreadsheets as formulas, so the style sheet of
    :mod:`app.main` hides it.
    """
    st.dataframe(frame, hide_index=True, key=f"table_{name}")
    st.download_button(
        "CSV",
        data=lambda: csv_of(frame),
        file_name=f"{name.replace('_', '-')}.csv",
        mime="text/csv",
        on_click="ignore",
        key=f"table_{name}_csv",
        type="tertiary",
        icon=":material/download:",
        help="Download this table; text that a spreadsheet would compute has an apostrophe before it",
    )
