"""What goes wrong, as one notice: the message of an AtlasError, or for anything else that the log has the details."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import streamlit as st
from streamlit.errors import FragmentHandledException

from app.drawing.wording import literal
from app.serving import logs
from app.serving.refusals import RefusedError
from db.errors import AtlasError

_log = logging.getLogger(__name__)


def warn(messages: Iterable[str]) -> None:
    """Show each message; the page goes on."""
    for message in messages:
        st.warning(literal(message), icon=":material/info:")


def fail(error: AtlasError) -> None:
    """Show what stopped this part of the page."""
    logs.refused(error)
    if isinstance(error, RefusedError):  # nothing is broken
        st.info(literal(str(error)), icon=":material/info:")
    else:
        st.error(literal(str(error)), icon=":material/error:")


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
        "Something went wrong here, by a fault of ours. The server's log has the details; other pages still work.",
        icon=":material/error:",
    )
