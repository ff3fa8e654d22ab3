"""“What am I looking at?”: a quiet expander below a page's heading."""

import streamlit as st

from app.asking.glossary import ABOUT, TERMS
from app.drawing.wording import literal


def about(page: str) -> None:
    """A few lines on the page, and its terms in plain words."""
    shown = ABOUT[page]
    with st.expander("What am I looking at?", icon=":material/help:"):
        terms = (TERMS[name] for name in shown.terms)
        listed = "\n".join(f"- **{literal(term.name)}**: {literal(term.plain)}" for term in terms)
        st.markdown("\n\n".join((*map(literal, shown.lines), listed)))
