"""A real browser obeys the server's headers, and the pages work under them."""

import pytest
from playwright.sync_api import Page, expect

from tests.browser.watching import settled

pytestmark = pytest.mark.browser

PAGES = [
    "",
    "search?q=colours",
    "neuron?n=L29.F1499",
    "token?id=7042",
    "overview",
    "prompt?p=The+capital+of+France+is",
    "many",
]
WATCH = """
window.violations = [];
document.addEventListener("securitypolicyviolation", event =>
    window.violations.push(`${event.effectiveDirective}: ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`));
"""


@pytest.mark.parametrize("path", PAGES)
def test_no_page_breaks_the_policy_or_asks_another_site(served_app: str, page: Page, path: str) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.add_init_script(WATCH)
    page.goto(f"{served_app}/{path}")
    settled(page)
    page.wait_for_load_state("networkidle")
    assert page.evaluate("window.violations") == []
    elsewhere = [url for url in asked if not url.startswith((f"{served_app}/", "data:", "blob:"))]
    assert elsewhere == []


def test_the_policy_is_obeyed(served_app: str, page: Page) -> None:
    """A script that somebody managed to put into a page does not run."""
    page.add_init_script(WATCH)
    page.goto(served_app)
    settled(page)
    page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "window.ran = true";
            document.body.append(script);
        }"""
    )
    assert page.evaluate("window.ran") is None
    assert any(one.startswith("script-src") for one in page.evaluate("window.violations"))


def test_no_other_site_can_frame_the_dashboard(served_app: str, page: Page) -> None:
    page.set_content(f'<iframe src="{served_app}/"></iframe>')
    page.wait_for_load_state("networkidle")
    assert [frame.url for frame in page.frames[1:]] == ["chrome-error://chromewebdata/"]


def test_the_page_of_the_api(served_app: str, page: Page) -> None:
    page.goto(f"{served_app}/api")
    expect(page.get_by_role("heading", name="GET /api/v1/search")).to_be_visible()
    page.get_by_role("link", name="/api/v1/neuron/L2.F3").click()
    expect(page.locator("body")).to_contain_text('"neuron": "L2.F3"')
