"""What is drawn only once somebody opens it: most who look at a page never do, and tables and charts are its heaviest
parts, for the server and for the browser.
"""

from collections.abc import Callable

import streamlit as st


@st.fragment
def folded(label: str, draw: Callable[[], object], *, key: str, expanded: bool = False) -> None:
    """An expander. Opening it draws what is in it, and nothing else of the page anew.

    Args:
        label: what stands on it.
        draw: draws what is in it.
        key: unique on the page.
        expanded: whether it is open before anybody used it; where that changes, it follows.
    """
    with st.expander(label, expanded, key=f"folded_{key}_{expanded}", on_change="rerun") as part:
        if part.open:
            draw()
