"""How sure on the prompt page: how each list was found, and how long that took."""

import streamlit as st

from app.asking.certainty import certainty_lines
from app.asking.reading import Reading
from app.drawing.wording import literal


def certainty(reading: Reading) -> None:
    """In words."""
    st.subheader("How sure", anchor=False)
    for lead, text in certainty_lines(reading):
        st.caption(f"**{lead}.** {literal(text)}.")
