"""Pages and the addresses between them. A link is a page's name and its state, as in ``neuron?n=L29.F1499``.

Following one inside the app keeps the session; opened in a new tab it shows the same. Both end at the same reading and
checking of the parameters, so a link needs no trust.
"""

from collections.abc import Mapping
from typing import Protocol
from urllib.parse import parse_qsl, urlencode

import streamlit as st

PAGES = {
    "start": "views/start.py",
    "search": "views/search.py",
    "token": "views/token.py",
    "overview": "views/overview.py",
    "neuron": "views/neuron.py",
    "prompt": "views/prompt.py",
    "many": "views/many.py",
}
_SHARED = "model"


class Selection(Protocol):
    """A page's state."""

    def params(self) -> dict[str, str]:
        """The query parameters."""


def href(page: str, selection: Selection) -> str:
    """The address of a page in a state, relative to any other page's."""
    query = urlencode(_with_shared(selection.params()))
    path = "./" if page == "start" else page
    return f"{path}?{query}" if query else path


def show(selection: Selection) -> None:
    """Put a state into the address of the page that is shown."""
    st.query_params.from_dict(_with_shared(selection.params()))


def follow(link: str, here: str) -> None:
    """Go where a link leads; links that are none of ours lead nowhere."""
    path, _, query = link.partition("?")
    page = "start" if path == "./" else path
    if page not in PAGES:
        return
    params = dict(parse_qsl(query, keep_blank_values=True, max_num_fields=40))
    if page == here:
        st.query_params.from_dict(params)
        st.rerun()
    st.switch_page(PAGES[page], query_params=params)


def params() -> dict[str, str]:
    """The parameters of the address that is shown; of a repeated one the last."""
    return {str(name): str(value) for name, value in st.query_params.to_dict().items()}


def chosen_model() -> str | None:
    """The model named in the address, where there are several."""
    return params().get(_SHARED)


def _with_shared(params: Mapping[str, str]) -> dict[str, str]:
    model = chosen_model()
    return dict(params) if model is None else {**params, _SHARED: model}
