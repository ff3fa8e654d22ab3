"""The session that a page is drawn for, as far as the workshop needs to know it."""

import hashlib
import secrets
import time

from streamlit import runtime
from streamlit.runtime.scriptrunner import StopException, get_script_run_ctx

from app.serving.work import Asker

_LOOK_SECONDS = 1.0
_SALT = secrets.token_bytes(16)


def asker() -> Asker:
    """This session, as one who asks: it has gone when its page is drawn anew or nobody is connected any more.

    Outside a session, as in a test of the library, nobody ever goes.
    """
    context = get_script_run_ctx(suppress_warning=True)
    if context is None:
        return Asker()
    session, last = context.session_id, time.monotonic()

    def look() -> None:
        nonlocal last
        context.yield_check()
        if time.monotonic() - last < _LOOK_SECONDS:
            return
        last = time.monotonic()
        # A closed page keeps its session for a while, for it may connect again; then it is drawn anew.
        if runtime.exists() and not runtime.get_instance().is_active_session(session):
            raise StopException

    return Asker(session, look)


def short_name() -> str:
    """Tells sessions apart in the log; the session cannot be found or taken over by it. Empty outside a session."""
    context = get_script_run_ctx(suppress_warning=True)
    return "" if context is None else hashlib.sha256(_SALT + context.session_id.encode()).hexdigest()[:8]
