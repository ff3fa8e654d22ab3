"""An error in a fragment, or in what a control calls, becomes the same notice as any other."""

import asyncio
import sys
from collections.abc import Iterator

import pytest

from tests.catalogues import make_catalogue
from tests.faults.faulty import FAULT, MESSAGE
from tests.server_process import Server, serving
from tests.streamlit_client import Shown, visit

OURS = "a fault of ours"


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose prompt box cannot be drawn and whose controls fail when they are used."""
    folder = tmp_path_factory.mktemp("faulty")
    make_catalogue(folder)
    command = (sys.executable, "-m", "tests.faults.faulty", "run", "app/server.py")
    with serving(folder / "log", command, ATLAS_CATALOGUE=str(folder), ATLAS_WORKSPACE="off") as server:
        yield server
    written = (folder / "log").read_text()
    assert "ValueError at" in written, "the log says what happened"
    assert FAULT not in written, "the log does not say what may have been typed"


def only_notice(shown: Shown) -> str:
    """The one notice on a page, which Streamlit has nothing to add to."""
    (notice,) = shown.notices
    assert not any(element.WhichOneof("type") == "exception" for element in shown.elements)
    assert FAULT not in shown.text
    return notice


def test_a_fragment_that_fails_shows_our_notice_and_other_pages_work(faulty: Server) -> None:
    async def look() -> tuple[Shown, Shown]:
        async with visit(faulty.address) as visitor:
            return await visitor.open("prompt"), await visitor.open("search", {"q": "Python"})

    prompt, search = asyncio.run(look())
    assert OURS in only_notice(prompt)
    assert search.notices == []


def test_a_control_that_fails_shows_our_notice_and_the_page_comes_back(faulty: Server) -> None:
    async def look() -> tuple[Shown, Shown]:
        async with visit(faulty.address) as visitor:
            search = await visitor.open("search", {"q": "Python"})
            box = search.used("checkbox", "Reversed order", bool_value=True)
            failed = await visitor.open("search", {"q": "Python"}, widgets=[box])
            return failed, await visitor.open("search", {"q": "Python"})

    failed, again = asyncio.run(look())
    assert OURS in only_notice(failed)
    assert again.notices == []


def test_a_message_for_people_is_shown_as_it_is(faulty: Server) -> None:
    async def look() -> Shown:
        async with visit(faulty.address) as visitor:
            neuron = await visitor.open("neuron", {"n": "L0.F0"})
            typed = neuron.used("text_input", "Neuron", string_value="L1.F0")
            return await visitor.open("neuron", {"n": "L0.F0"}, widgets=[typed])

    assert only_notice(asyncio.run(look())) == MESSAGE
