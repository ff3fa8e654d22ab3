"""A real browser obeys the server's headers. That the pages work under them is seen where all are visited, in
test_appearance.py.
"""

import pytest
from playwright.sync_api import Page, expect

from tests.browser.watching import WATCH_POLICY, settled

pytestmark = pytest.mark.browser


def test_the_policy_is_obeyed(served_app: str, page: Page) -> None:
    """A script that somebody managed to put into a page does not run."""
    page.add_init_script(WATCH_POLICY)
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
