"""What goes wrong, as one notice: the message of an AtlasError, or for anything else that the log has the details."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import streamlit as st

from app.wording import literal
from db.errors import AtlasError

_log = logging.getLogger(__name__)


def warn(messages: Iterable[str]) -> None:
    """Show each message; the page goes on."""
    for message in messages:
        st.warning(literal(message), icon=":material/info:")


def fail(error: AtlasError) -> None:
    """Show what stopped this part of the page."""
    st.error(literal(str(error)), icon=":material/error:")


@contextmanager
def guarded() -> Iterator[None]:
    """Turn whatever escapes into one notice. Streamlit's own control flow is no Exception and passes."""
    try:
        yield
    except AtlasError as error:
        fail(error)
    except Exception:
        _log.exception("a page failed")
        st.error(
            "Something went wrong here, by a fault of ours. The server's log has the details; other pages still work.",
            icon=":material/error:",
        )
