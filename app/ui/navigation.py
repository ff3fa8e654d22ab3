"""Pages and the addresses between them. A link is a page's name and its state, as in ``neuron?n=L29.F1499``.

Following one inside the app keeps the session; opened in a new tab it shows the same. Both end at the same reading and
checking of the parameters, so a link needs no trust.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import parse_qsl, urlencode

import streamlit as st
from streamlit.errors import FragmentHandledException

from app.serving import logs
from app.serving.settings import public
from app.serving.worker import RefusedError
from app.state import address
from app.state.address import Selection
from app.ui.pages import PAGES
from app.words import literal
from db.errors import AtlasError
from db.token_text import display, shorten

NAME = "Neuron Atlas"
_MOST_PARAMETERS = 60
_LONGEST_NAME = 200
_NOTICES = 5
_HELD = "navigation_held_build"
_HERE = "navigation_here"


def arrive(page: str) -> None:
    """From now on this page is shown."""
    st.session_state[_HERE] = page


def here() -> str:
    """The name of the page that is shown."""
    return str(st.session_state.get(_HERE, "start"))


def href(selection: Selection) -> str:
    """The address of a page in a state, relative to any other page's."""
    return address.address(selection.page_name, _with_shared(selection.params()))


def show(selection: Selection) -> None:
    """Put a state into the address of the page that is shown."""
    st.query_params.from_dict(_with_shared(selection.params()))


def follow(link: str) -> None:
    """Go where a link leads: to a page, or for one that begins with ``?`` to another state of this one. Links that are
    none of ours lead nowhere.
    """
    path, _, query = link.partition("?")
    page = {"./": "start", "": here()}.get(path, path)
    if page != here() and page not in PAGES:
        return
    try:
        params = dict(parse_qsl(query, keep_blank_values=True, max_num_fields=_MOST_PARAMETERS))
    except ValueError:
        return
    if page == here():
        st.query_params.from_dict(params)
        st.rerun()
    st.switch_page(PAGES[page].file, query_params=params)


def name_tab(page: str, *shown: str) -> None:
    """Name the browser's tab, its history and its bookmarks: what the page shows, the page, and the app.

    Args:
        page: its name; empty where what it shows says enough.
        shown: what it shows, as people typed it.
    """
    words = [shorten(in_a_line(one), _LONGEST_NAME) for one in shown if one]
    st.set_page_config(page_title=" — ".join(one for one in (*words, page, NAME * (page != NAME)) if one))


def in_a_line(text: str) -> str:
    r"""A text as a name: what is invisible is shown, but for spaces between words.

    >>> in_a_line(" Paris is\n")
    '␣Paris is↵'
    >>> in_a_line("")
    ''
    """
    shown = display(text.encode("utf-8", "replace")) if text else ""
    return shown[:1] + shown[1:].replace("␣", " ")


def params() -> dict[str, str]:
    """The parameters of the address that is shown; of a repeated one the last."""
    return {str(name): str(value) for name, value in st.query_params.to_dict().items()}


def repeated() -> list[str]:
    """A notice for each parameter that stands in the address more than once."""
    given = st.query_params
    return [
        f"In the address, {shorten(display(name[:80].encode('utf-8', 'replace')), 30)} stands more than once: the last "
        "one was taken."
        for name in map(str, given)
        if len(given.get_all(name)) > 1
    ][:_NOTICES]


def chosen_model() -> str | None:
    """The model named in the address, where there are several."""
    return params().get(address.MODEL)


def chosen_build() -> address.NamedBuild | None:
    """The build that the address names, where it was passed on by someone."""
    return address.named_build(params())


def to_current(model: str | None = None) -> str:
    """The address of the same state in the current build; where one is named, of another model."""
    kept = {name: value for name, value in params().items() if name != address.BUILD}
    return "?" + urlencode(kept | ({} if model is None else {address.MODEL: model}))


def hold_build(hold: bool) -> None:
    """Whether the build named in the address is carried along to where its links lead: only while an older build than
    the current one is shown, so that addresses stay short.
    """
    st.session_state[_HELD] = params().get(address.BUILD) if hold else None


def _with_shared(state: Mapping[str, str]) -> dict[str, str]:
    """A page's state with what is the same on every page: the model, and the build where an older one is shown."""
    given, held = st.query_params, st.session_state.get(_HELD)
    model = given.get(address.MODEL)
    shared = {} if model is None else {address.MODEL: model}
    if held is not None and given.get(address.BUILD) == held:
        shared[address.BUILD] = held
    return {**state, **shared}


# What goes wrong, as one notice: the message of an AtlasError, or for anything else that the log has the details.

_log = logging.getLogger(__name__)


def warn(messages: Iterable[str]) -> None:
    """Show each message; the page goes on."""
    for message in messages:
        st.warning(literal(public(message)), icon=":material/info:")


def fail(error: AtlasError) -> None:
    """Show what stopped this part of the page."""
    logs.refused(error)
    if isinstance(error, RefusedError):  # nothing is broken
        st.info(literal(public(str(error))), icon=":material/info:")
    else:
        st.error(literal(public(str(error))), icon=":material/error:")


@contextmanager
def guarded() -> Iterator[None]:
    """Turn whatever escapes into one notice. Streamlit's own control flow is no Exception and passes."""
    try:
        yield
    except AtlasError as error:
        fail(error)
    except FragmentHandledException:  # `escaped` has shown it, where the fragment stands
        logs.note(outcome="failed")
    except Exception:
        logs.note(outcome="failed")
        _log.exception("a page failed")
        _broken()


def escaped(error: Exception) -> bool:
    """Show what `guarded` cannot reach: an error in a fragment, or in what a control calls when it is used. Streamlit
    calls this, and has written the error to the log.

    Returns:
        True: Streamlit need not show the error.
    """
    if isinstance(error, AtlasError):
        fail(error)
    else:
        logs.note(outcome="failed")
        _broken()
    return True


def _broken() -> None:
    st.error(
        "Something went wrong here, by a fault of ours. The server’s log has the details; other pages still work.",
        icon=":material/error:",
    )
