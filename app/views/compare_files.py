"""A comparison as data tables and files."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import pandas as pd
import streamlit as st

from app.asking.exporting import FORMS, Form

if TYPE_CHECKING:
    from app.attribution.compare import Comparison


def _writing(form: Form, frame: pd.DataFrame) -> Callable[[], bytes]:
    return lambda: form.write(frame)


def files(found: "Comparison") -> None:
    """Every table: to read, and as CSV, JSON and Parquet, made when its button is pressed."""
    from app.attribution.compare_forms import TABLES

    with st.expander("All of it as data tables and files"):
        for name, table in TABLES.items():
            frame = table(found)
            if frame.empty:
                continue
            st.markdown(f"**{name.capitalize()}**, {len(frame):,} rows")
            st.dataframe(frame, hide_index=True, key=f"compare_data_{name}", height=180)
            with st.container(horizontal=True):
                for form in FORMS:
                    st.download_button(
                        form.name,
                        data=_writing(form, frame),
                        file_name=f"compared-{name}.{form.ending}",
                        mime=form.mime,
                        on_click="ignore",
                        key=f"compare_{name}_{form.ending}",
                        icon=":material/download:",
                    )
        st.caption("In CSV, text that a spreadsheet would read as a formula has an apostrophe before it.")
