"""Pages and the addresses between them. A link is a page's name and its state, as in ``neuron?n=L29.F1499``.

Following one inside the app keeps the session; opened in a new tab it shows the same. Both end at the same reading and
checking of the parameters, so a link needs no trust.
"""

from collections.abc import Mapping
from urllib.parse import parse_qsl, urlencode

import streamlit as st

from app.state import links
from app.state.links import Selection

_MOST_PARAMETERS = 60
PAGES = {
    "start": "views/start.py",
    "search": "views/search.py",
    "token": "views/token.py",
    "overview": "views/overview.py",
    "neuron": "views/neuron.py",
    "prompt": "views/prompt.py",
    "compare": "views/compare.py",
    "many": "views/many.py",
    "saved": "views/saved.py",
    "gallery": "views/gallery.py",
}
_HELD = "navigation_held_build"


def href(page: str, selection: Selection) -> str:
    """The address of a page in a state, relative to any other page's."""
    return links.address(page, _with_shared(selection.params()))


def show(selection: Selection) -> None:
    """Put a state into the address of the page that is shown."""
    st.query_params.from_dict(links.in_form(_with_shared(selection.params())))


def follow(link: str, here: str) -> None:
    """Go where a link leads: to a page, or for one that begins with ``?`` to another state of this one. Links that are
    none of ours lead nowhere.
    """
    path, _, query = link.partition("?")
    page = {"./": "start", "": here}.get(path, path)
    if page != here and page not in PAGES:
        return
    try:
        params = dict(parse_qsl(query, keep_blank_values=True, max_num_fields=_MOST_PARAMETERS))
    except ValueError:
        return
    if page == here:
        st.query_params.from_dict(params)
        st.rerun()
    st.switch_page(PAGES[page], query_params=params)


def params() -> dict[str, str]:
    """The parameters of the address that is shown; of a repeated one the last."""
    return {str(name): str(value) for name, value in st.query_params.to_dict().items()}


def chosen_model() -> str | None:
    """The model named in the address, where there are several."""
    return params().get(links.MODEL)


def chosen_build() -> links.NamedBuild | None:
    """The build that the address names, where it was passed on by someone."""
    return links.named_build(params())


def to_current() -> str:
    """The address of the same state in the current build."""
    return "?" + urlencode({name: value for name, value in params().items() if name != links.BUILD})


def hold_build(hold: bool) -> None:
    """Whether the build named in the address is carried along to where its links lead: only while an older build than
    the current one is shown, so that addresses stay short.
    """
    st.session_state[_HELD] = params().get(links.BUILD) if hold else None


def _with_shared(state: Mapping[str, str]) -> dict[str, str]:
    """A page's state with what is the same on every page: the model, and the build where an older one is shown."""
    here, held = st.query_params, st.session_state.get(_HELD)
    model = here.get(links.MODEL)
    shared = {} if model is None else {links.MODEL: model}
    if held is not None and here.get(links.BUILD) == held:
        shared[links.BUILD] = held
    return {**state, **shared}
