"""The log: a line for each view, piece of work, refusal and fault, without what people type."""

import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import streamlit as st

from app.serving import access, logs, resources
from app.serving.settings import configuration
from app.serving.worker import Reason, RefusedError
from db.errors import AtlasError

CANARY = "canary-7d1f"
PROMPT = f"The river {CANARY}"

Read = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def untouched_loggers() -> Iterator[None]:
    """Logging is the process's; it is left as it was."""
    for name in ("streamlit.latecomer", "streamlit.other"):
        logging.getLogger(name)
    names = ["", *logging.root.manager.loggerDict]
    before = {name: logging.getLogger(name) for name in names}
    state = {name: (list(one.handlers), one.propagate, one.level) for name, one in before.items()}
    factory = logging.getLogRecordFactory()
    yield
    logging.setLogRecordFactory(factory)
    for name, (handlers, propagate, level) in state.items():
        before[name].handlers, before[name].propagate, before[name].level = handlers, propagate, level
    for name in ("app", "app.events", "streamlit", "asyncio"):
        if name not in state:
            logging.getLogger(name).handlers = []


@pytest.fixture
def log(untouched_loggers: None, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Read]:
    """``read = log(form="json", whole=False)`` begins a log; ``read()`` is its lines, ``read.text()`` all of it."""

    def begin(form: Any = "json", *, whole: bool = False) -> Read:
        st.get_option("server.port")  # when Streamlit first reads its settings it sets up its own loggers
        written = io.StringIO()
        monkeypatch.setattr("sys.stderr", written)
        logs.set_up(form, whole=whole)

        def read() -> list[Any]:
            lines = written.getvalue().splitlines()
            return [json.loads(line) for line in lines] if form == "json" else lines

        return read

    return begin


def said(read: Read, event: str) -> list[dict[str, Any]]:
    """The lines of one event."""
    return [line for line in read() if line["event"] == event]


def test_a_page_view_and_its_work_are_one_line_each(log, small_page):
    read = log()
    small_page("prompt", p=PROMPT, k="5")
    build = resources.catalogue().info.build_id
    (view,) = said(read, "page")
    assert view["page"] == "prompt"
    assert view["outcome"] == "shown"
    assert view["build"] == build
    assert view["seconds"] > 0
    analyses = [line for line in said(read, "work") if line["kind"] == "analysis"]
    assert [(one["outcome"], one["build"]) for one in analyses] == [("done", build)]
    assert 0 <= analyses[0]["seconds"] <= view["seconds"]
    assert view["time"].endswith("Z")
    small_page("prompt", p=PROMPT, k="5")
    assert len(said(read, "page")) == 2
    assert len(said(read, "work")) == len({(line["kind"], line["time"]) for line in said(read, "work")})
    assert [line for line in said(read, "work") if line["kind"] == "analysis"] == analyses  # remembered, not made anew


def test_nothing_typed_is_logged(log, small_page):
    read = log()
    small_page("prompt", p=PROMPT, k="5")
    small_page("search", t=CANARY)
    small_page("neuron", n="L0.F3", **{"try": PROMPT})
    small_page("neuron", n=CANARY)
    small_page("many", ps=PROMPT)
    small_page("prompt", p=CANARY * 500)  # too long, refused
    assert len(said(read, "page")) == 6
    assert CANARY not in json.dumps(read())


def test_prompts_and_people_are_logged_where_that_is_asked_for(log, small_page, monkeypatch):
    monkeypatch.setenv("ATLAS_LOG_PROMPTS", "true")
    configuration.cache_clear()
    monkeypatch.setattr(access, "person", lambda: access.Person("Ada", "ada@uni.example"))
    read = log(whole=True)
    small_page("prompt", p=PROMPT, k="5")
    (view,) = said(read, "page")
    assert CANARY in view["address"]
    assert view["email"] == "ada@uni.example"


def test_without_being_asked_nobodys_address_is_logged(log, small_page, monkeypatch):
    monkeypatch.setattr(access, "person", lambda: access.Person("Ada", "ada@uni.example"))
    read = log()
    small_page("search", t="river")
    assert "ada" not in json.dumps(read())


def test_a_refusal_has_its_line_and_reason(log, small_page, monkeypatch):
    monkeypatch.setenv("ATLAS_MODE", "catalogue")
    configuration.cache_clear()
    read = log()
    small_page("prompt", p=PROMPT)
    assert [(line["reason"], line["page"]) for line in said(read, "refused")] == [("mode", "prompt")]
    assert said(read, "page")[0]["outcome"] == "refused"
    assert CANARY not in json.dumps(read())


def test_what_cannot_be_meant_is_no_refusal(log):
    read = log()
    with logs.page_view("prompt"):
        logs.refused(AtlasError(CANARY))
    (line,) = read()
    assert (line["event"], line["outcome"]) == ("page", "unusable")


def test_a_fault_is_logged_with_its_place_and_without_its_message(log, toy_page, monkeypatch):
    def fail(*_: object) -> None:
        raise KeyError(CANARY)

    monkeypatch.setattr("app.serving.resources.catalogue", fail)
    read = log()
    toy_page("search", t=CANARY)
    (fault,) = [line for line in said(read, "log") if line["level"] == "error"]
    assert fault["level"] == "error"
    assert fault["message"].startswith("a page failed: KeyError at ")
    assert "test_logs.py" in fault["message"]
    assert said(read, "page")[0]["outcome"] == "failed"
    assert CANARY not in json.dumps(read())


def test_a_fault_that_escapes_to_the_packages_beneath_is_logged_likewise(log):
    for whole in (False, True):
        read = log(whole=whole)
        try:
            try:
                raise ValueError(CANARY)
            except ValueError as error:
                raise RuntimeError(f"because of {CANARY}") from error
        except RuntimeError as error:
            logging.getLogger("streamlit.error_util").error(f"Uncaught {error}", exc_info=error)
            logging.getLogger("streamlit.other").warning("Could not: %s", error)
        first, second = read()
        assert json.dumps(first).count("caused by") == 1
        assert "RuntimeError" in json.dumps(first)
        assert (CANARY in json.dumps(first)) is (CANARY in json.dumps(second)) is whole


def test_a_package_that_brings_its_own_handler_is_told_no_more(log):
    log()
    own = io.StringIO()
    logger = logging.getLogger("streamlit.latecomer")
    logger.addHandler(logging.StreamHandler(own))
    try:
        int(CANARY)
    except ValueError as error:
        logger.error(f"Uncaught: {error}", exc_info=error)
    assert "ValueError at" in own.getvalue()
    assert CANARY not in own.getvalue()


def test_a_page_that_is_drawn_anew_is_told_from_one_that_was_shown(log):
    read = log()
    for error in (SystemExit, KeyboardInterrupt):
        with pytest.raises(error), logs.page_view("search"):
            raise error
    assert [line["outcome"] for line in said(read, "page")] == ["interrupted", "interrupted"]


@pytest.mark.parametrize("form", ["text", "json"])
def test_whatever_is_logged_stays_on_one_line(form, log):
    read = log(form)
    logs.event("page", page='two\nlines "quoted" = \x1b[31m\u2028 end', nothing=None)
    logging.getLogger("app.x").warning("three\nmore\nlines")
    assert len(read()) == 2
    assert "nothing" not in str(read())
    assert "\x1b" not in str(read()) or form == "json"


def test_text_has_one_word_a_field(log):
    read = log("text")
    logs.event("refused", reason=str(Reason.BUSY), page="prompt", seconds=0.5, words="a b")
    (line,) = read()
    time, *rest = str(line).split(" ", 3)
    assert time.endswith("Z")
    assert rest == ["info", "refused", 'reason=busy page=prompt seconds=0.5 words="a b"']


def test_setting_up_again_writes_no_line_twice(log):
    log()
    read = log()
    logs.event("start")
    assert len(read()) == 1


def test_a_refusal_outside_a_page_is_logged_too(log):
    read = log()
    logs.refused(RefusedError(Reason.LIMIT, CANARY))
    logs.note(build="nowhere to note it")
    assert [(line["event"], line["reason"]) for line in read()] == [("refused", "limit")]
