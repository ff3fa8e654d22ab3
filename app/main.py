"""Neuron Atlas, the dashboard: ``python -m streamlit run app/main.py``. Page set-up and navigation, nothing else."""

from pathlib import Path

import streamlit as st

from app.navigation import PAGES
from app.notices import guarded

_ICON = Path(__file__).parent / "frontend" / "icon.svg"  # a named icon would be fetched from another site
_STYLE = (
    ".stMainBlockContainer { padding: 4.5rem clamp(1rem, 3vw, 3rem) 3rem; max-width: 96rem }"
    "h1 { font-size: clamp(1.8rem, 4vw, 2.4rem) !important }"
)


def main() -> None:
    """Draw the page that the address names."""
    st.set_page_config(page_title="Neuron Atlas", page_icon=_ICON, layout="wide")
    page = st.navigation(
        [
            st.Page(PAGES["start"], title="Neuron Atlas", icon=":material/hub:", default=True),
            st.Page(PAGES["search"], title="Search", icon=":material/search:", url_path="search"),
            st.Page(PAGES["token"], title="Token", icon=":material/match_word:", url_path="token"),
            st.Page(PAGES["neuron"], title="Neuron", icon=":material/scatter_plot:", url_path="neuron"),
            st.Page(PAGES["prompt"], title="Prompt", icon=":material/short_text:", url_path="prompt"),
            st.Page(PAGES["many"], title="Many prompts", icon=":material/format_list_bulleted:", url_path="many"),
            st.Page(PAGES["overview"], title="Overview", icon=":material/bar_chart:", url_path="overview"),
        ],
        position="top",
    )
    # Streamlit leaves much of a wide page empty; the tables need the room.
    st.html(f"<style>{_STYLE}</style>")
    with guarded():
        page.run()


main()
