"""A served app and a real browser, for the journeys that AppTest cannot make (clicking a row or a chart's mark).

A test takes ``served_app`` (its address) and ``page``; the size of the window is ``desktop`` unless the test asks for
others: ``@pytest.mark.parametrize("viewport", ["desktop", "phone"])``. A test that fails leaves a picture of what it
saw last in tests/artefacts/. Pictures take longer than what most tests do: the others leave theirs, and those that
``screenshot("name")`` takes on the way, where ``PICTURES=1`` is in the environment.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, ViewportSize, expect, sync_playwright

from tests import server_process
from tests.browser.watching import still

CHECKOUT = Path(__file__).resolve().parents[2]
ARTEFACTS = CHECKOUT / "tests" / "artefacts"
VIEWPORTS = {"desktop": (1280, 900), "phone": (390, 844)}
TALLEST_PICTURE = 5000  # pixels
TAKE_PICTURES = bool(os.environ.get("PICTURES"))
PATIENCE = 120_000
"""Milliseconds until what a test waits for counts as missing: the first page that needs the model waits for it to load,
and other tests keep the machine busy."""
CHROMIUM_ARGUMENTS = [
    "--no-sandbox",  # the tests may run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
BRIEFLY = "--js-flags=--no-turbofan --no-maglev"
"""For pages that do not live long enough to earn back what optimising their scripts takes."""
expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="session")
def served_app(demo_catalogue_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the app, served from this checkout on a free port until the tests are over; what the tests save
    is kept apart from what this checkout's own server has.
    """
    workspace = tmp_path_factory.mktemp("workspace") / "atlas.sqlite"
    own = {"ATLAS_WORKSPACE": f"sqlite:///{workspace}", "ATLAS_CATALOGUE": str(demo_catalogue_dir)}
    with serving(f"streamlit{os.environ.get('PYTEST_XDIST_WORKER', '')}", **own) as address:
        yield address


@contextmanager
def serving(log_name: str, **environment: str) -> Iterator[str]:
    """The address of another server, with these environment variables; its log stays in tests/artefacts/."""
    ARTEFACTS.mkdir(exist_ok=True)
    with server_process.serving(ARTEFACTS / f"{log_name}.log", **environment) as server:
        yield server.address


@pytest.fixture(scope="module")
def browser(chromium_executable: str) -> Iterator[Browser]:
    """A headless Chromium; one a module, because Playwright keeps an event loop running as long as it lives."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_executable, args=[*CHROMIUM_ARGUMENTS, BRIEFLY])
        yield browser
        browser.close()


Contexts = Callable[[str], BrowserContext]


@pytest.fixture(scope="module")
def contexts(browser: Browser) -> Contexts:
    """A context for each size of the window. It outlives a page: to fetch and compile Streamlit's scripts anew takes as
    long as to draw most pages. Without motion, which a processor would draw frame by frame.
    """

    @cache
    def context(viewport: str) -> BrowserContext:
        width, height = VIEWPORTS[viewport]
        size: ViewportSize = {"width": width, "height": height}
        return browser.new_context(viewport=size, is_mobile=viewport == "phone", reduced_motion="reduce")

    return context


@pytest.fixture
def viewport() -> str:
    """The name of the window's size in ``VIEWPORTS``."""
    return "desktop"


@pytest.fixture
def page(contexts: Contexts, viewport: str, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A fresh window without history or storage."""
    context = contexts(viewport)
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    failed = request.session.testsfailed
    try:
        yield page
        if TAKE_PICTURES or request.session.testsfailed > failed:
            _picture(page, _file_name(request))
    finally:
        if not page.is_closed():
            page.evaluate("() => { try { localStorage.clear() } catch { /* on no page of ours */ } }")
        for one in context.pages:
            one.close()
        context.clear_cookies()
        context.clear_permissions()


@pytest.fixture
def picture(page: Page, request: pytest.FixtureRequest) -> Callable[[str], Path]:
    """``picture("results")`` saves what the page shows now; the file carries the test's name too."""
    return lambda name: _picture(page, f"{_file_name(request)}-{name}")


@pytest.fixture
def screenshot(picture: Callable[[str], Path]) -> Callable[[str], object]:
    """The same for people to look at: only where pictures are asked for."""
    return picture if TAKE_PICTURES else lambda _name: None


def _file_name(request: pytest.FixtureRequest) -> str:
    """The test's file and name with its parameters, as a file name."""
    name = f"{request.path.stem.removeprefix('test_')}-{request.node.name}"
    return re.sub(r"[^\w-]+", "-", name).strip("-")


def _picture(page: Page, name: str) -> Path:
    """The whole page: Streamlit scrolls inside it, so the window is made as tall as what it holds for a moment."""
    ARTEFACTS.mkdir(exist_ok=True)
    path = ARTEFACTS / f"{name}.png"
    window = page.viewport_size
    inner_height = page.evaluate("document.querySelector('[data-testid=stMain]')?.scrollHeight ?? 0")
    if window and inner_height > window["height"]:
        page.set_viewport_size({"width": window["width"], "height": min(inner_height, TALLEST_PICTURE)})
        still(page)  # charts and tables draw themselves anew
    page.screenshot(path=path)
    if window:
        page.set_viewport_size(window)
    return path
