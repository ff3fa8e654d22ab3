"""What a served session leaves in the server's log: its pages and its work, and nothing that was typed."""

import json
from pathlib import Path
from urllib.parse import quote

from playwright.sync_api import Page

from tests.browser.conftest import ARTEFACTS, serving
from tests.browser.watching import Screenshot, settled

CANARY = "zephyrine"


def test_a_session_is_logged_without_what_was_typed(demo_catalogue_dir: Path, page: Page, screenshot: Screenshot):
    text = quote(f"The {CANARY} of France is")
    with serving("log", ATLAS_LOG_FORMAT="json") as address:
        for path in (
            f"/prompt?p={text}&k=10",
            f"/neuron?n=L29.F1499&try={text}",
            f"/search?t={CANARY}",
            f"/prompt?p={quote(CANARY + ' ') * 600}",  # too long: refused
            f"/{CANARY}",  # no page of ours
        ):
            page.goto(address + path)
            page.wait_for_selector("h1")
            settled(page)
            screenshot(path[1:7])
    written = (ARTEFACTS / "log.log").read_text("utf-8")
    # What comes before is the greeting of Streamlit's own command.
    lines = [json.loads(line) for line in written.splitlines() if line.startswith("{")]
    assert lines[0]["event"] == "start"
    after = written.splitlines()[written.splitlines().index(json.dumps(lines[0])) :]
    assert len([line for line in after if line.strip()]) == len(lines)
    build = {line["build"] for line in lines if line["event"] == "page"}
    assert len(build) == 1
    shown = {line["page"] for line in lines if line["event"] == "page" and line["outcome"] == "shown"}
    assert {"prompt", "neuron", "search"} <= shown
    analyses = [line for line in lines if line["event"] == "work" and line["kind"] == "analysis"]
    assert [line["outcome"] for line in analyses] == ["done", "unusable"]
    assert analyses[0]["build"] in build
    assert all(line["seconds"] >= 0 for line in analyses)
    assert CANARY not in written
    assert "127.0.0.1" not in json.dumps(lines)
