"""A session as the workshop sees it: told apart, and gone when its page is."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest
from streamlit.runtime.scriptrunner import RerunException, StopException
from streamlit.runtime.scriptrunner_utils.script_requests import RerunData

from app.serving import access, resources
from app.serving.worker import Workshop


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A session's context, whose page may be drawn anew and whose visitor may disconnect; time passes at each look."""
    seconds = iter(range(10_000))
    made = SimpleNamespace(session_id="canary-session", yield_check=lambda: None, connected=True)
    runtime = SimpleNamespace(
        exists=lambda: True,
        get_instance=lambda: SimpleNamespace(is_active_session=lambda one: made.connected and one == made.session_id),
    )
    monkeypatch.setattr(access, "get_script_run_ctx", lambda suppress_warning: made)
    monkeypatch.setattr(access, "runtime", runtime)
    monkeypatch.setattr(access, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    return made


def test_sessions_are_told_apart_and_not_named_in_the_log(context):
    assert access.asker().owner == "canary-session"
    first = access.short_name()
    assert len(first) == 8
    assert access.short_name() == first
    context.session_id = "another"
    assert access.asker().owner == "another"
    assert access.short_name() != first
    assert "canary" not in first


def test_outside_a_session_nobody_goes(monkeypatch):
    monkeypatch.setattr(access, "get_script_run_ctx", lambda suppress_warning: None)
    asker = access.asker()
    asker.look()
    assert asker.owner is None
    assert access.short_name() == ""


def test_a_page_that_is_drawn_anew_waits_no_longer(context):
    asker = access.asker()
    asker.look()

    def anew() -> None:
        raise RerunException(RerunData())

    context.yield_check = anew
    with pytest.raises(RerunException):
        asker.look()


def test_a_page_that_was_closed_waits_no_longer(context):
    asker = access.asker()
    asker.look()
    context.connected = False
    with pytest.raises(StopException):
        asker.look()


def test_work_for_a_page_that_was_closed_is_stopped(context, monkeypatch):
    shop = Workshop({"kind": 1}, grace=0)
    monkeypatch.setattr(resources, "_shop", lambda: shop)
    at_work, go, stopped = threading.Event(), threading.Event(), threading.Event()

    def make(report: Any) -> None:
        at_work.set()
        context.connected = False
        assert go.wait(20)
        try:
            report("Next stage …")
        except BaseException:
            stopped.set()
            raise

    with pytest.raises(StopException):
        resources.workshop().result("kind", ("build", "key"), make)
    assert at_work.is_set()
    go.set()
    assert stopped.wait(20)
