"""Account: signing in and out, where this server offers it."""

import streamlit as st

from app.serving import access
from app.ui.common import sign_in, title
from app.ui.navigation import warn
from app.words import literal


def draw() -> None:
    """The page."""
    visitor = access.person()
    if visitor is None:
        title("Sign in", "Everything can be read without an account.")
        reason = None if access.sign_in_helps() else access.why_not_write()
        st.markdown(literal(reason or "Once signed in, you can save analyses, write notes and make collections."))
        sign_in()
        return
    title("Account", "Who you are to this server.")
    address = f", {visitor.email}" if visitor.email else ""
    st.markdown(f"You are signed in as **{literal(visitor.name)}**{literal(address)}.")
    reason = access.why_not_write()
    if reason is None:
        st.markdown("You may save analyses, write notes and make collections.")
    else:
        warn([reason])
    st.button("Sign out", on_click=st.logout)


if __name__ == "__main__":
    draw()
