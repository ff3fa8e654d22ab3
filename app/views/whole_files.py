"""A whole table as files."""

from collections.abc import Callable

import pandas as pd
import streamlit as st

from app.asking.exporting import FORMS, Form


def whole_files(name: str, whole: Callable[[], pd.DataFrame], key: str) -> None:
    """A button for each kind of file, made when it is pressed; `key` is unique on the page."""
    with st.container(horizontal=True):
        for form in FORMS:
            st.download_button(
                form.name,
                data=_writing(form, whole),
                file_name=f"{name}.{form.ending}",
                mime=form.mime,
                on_click="ignore",
                key=f"{key}_{form.ending}",
                icon=":material/download:",
            )


def formulas() -> None:
    """What becomes of text that a spreadsheet would compute."""
    st.caption("In CSV, text that a spreadsheet would read as a formula has an apostrophe before it.")


def _writing(form: Form, whole: Callable[[], pd.DataFrame]) -> Callable[[], bytes]:
    return lambda: form.write(whole())
