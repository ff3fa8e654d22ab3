"""axe-core: nothing serious or critical in what we draw. Every page is visited in test_appearance.py; here is what is
looked for, whether it would be found, and what needs a keyboard or a finger.
"""

from itertools import pairwise
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.browser.conftest import VIEWPORTS
from tests.browser.contrast import faint, same_names, skipped_headings, texts
from tests.browser.visits import visit
from tests.browser.watching import fits, settled, still

pytestmark = pytest.mark.browser
GRAVE = ("serious", "critical")
CONTRAST = "color-contrast"
"""Most of what axe-core takes: it is asked of a page's first view, and `faint`, which takes a tenth of it, of each."""
LINKS_BY_COLOUR = "link-in-text-block"
"""The other rule whose answer another theme can change."""
STREAMLITS_OWN: dict[tuple[str, str], str] = {}
"""(rule, part of the selector or of the element's HTML) → why it is not ours to mend."""


def grave_violations(page: Page, *, only: str = "", but: str = "") -> list[str]:
    """What axe-core finds, a line an element; by all its rules, by one alone, or by all but one."""
    options: dict[str, Any] = {"resultTypes": ["violations"]}
    if only:
        options["runOnly"] = {"type": "rule", "values": [only]}
    if but:
        options["rules"] = {but: {"enabled": False}}
    response: dict[str, Any] = Axe().run(page, options=options).response
    return [
        f"{violation['impact']} {violation['id']} at {node['target']}: {node['html'][:200]}"
        for violation in response["violations"]
        if violation["impact"] in GRAVE
        for node in violation["nodes"]
        if not _is_streamlits(violation["id"], node)
    ]


def _is_streamlits(rule: str, node: dict[str, Any]) -> bool:
    where = f"{node['target']} {node['html']}"
    return any(rule == known and part in where for known, part in STREAMLITS_OWN)


def nothing_grave_in_both_themes(page: Page) -> None:
    """Look at a page that is drawn, in light and then in dark, which it stays."""
    assert grave_violations(page) == []
    assert faint(page) == []
    assert skipped_headings(page) == []
    assert same_names(page) == []
    page.emulate_media(color_scheme="dark")
    expect(page.get_by_test_id("stApp")).to_have_css("background-color", "rgb(19, 21, 23)")
    still(page)
    assert grave_violations(page, only=LINKS_BY_COLOUR) == []
    assert faint(page) == []


def nothing_grave_on_a_phone(page: Page) -> None:
    """Look at a page that is drawn there, and has been looked at in both themes."""
    assert grave_violations(page, but=CONTRAST) == []
    assert faint(page) == []


def nothing_grave(page: Page) -> None:
    """Look at a page that is drawn in both themes, then on a phone."""
    nothing_grave_in_both_themes(page)
    page.emulate_media(color_scheme="light")
    width, height = VIEWPORTS["phone"]
    page.set_viewport_size({"width": width, "height": height})
    settled(page)
    still(page)
    nothing_grave_on_a_phone(page)
    assert fits(page)


def test_faint_text_in_a_chart_and_in_a_component_would_be_found(served_app: str, page: Page) -> None:
    visit(page, served_app, "overview")
    assert sum(one["drawn"] for one in texts(page)) > 20  # the charts' own, which axe-core does not see
    page.add_style_tag(content="[data-testid=stVegaLiteChart] .role-title-subtitle text { fill: #ddd !important }")
    assert any(line.startswith("line: median") for line in faint(page))
    page.evaluate("document.querySelector('h1').insertAdjacentHTML('afterend', '<h4>x</h4><button>SVG of a</button>')")
    assert skipped_headings(page)
    page.evaluate("document.querySelector('h1').insertAdjacentHTML('afterend', '<button>SVG of a</button>')")
    assert same_names(page) == ["SVG of a"]


def test_a_violation_would_be_found(served_app: str, page: Page) -> None:
    visit(page, served_app, "overview")
    pale = '<p style="color: #999; background: #fff">pale</p>'
    bad = f"<img src=x><button></button>{pale}"
    page.evaluate(f"document.querySelector('h1').insertAdjacentHTML('afterend', `{bad}`)")
    found, others = ({line.split()[1] for line in grave_violations(page, but=but)} for but in ("", CONTRAST))
    assert found >= {"image-alt", "button-name", CONTRAST}
    assert others == found - {CONTRAST}
    assert faint(page) == ["pale: 2.85"]  # which stands in for that rule


@pytest.mark.parametrize("name", ["start", "search-concept", "neuron-ffn"])
def test_the_tab_key_reaches_what_can_be_clicked_in_the_order_of_the_page(
    served_app: str, page: Page, name: str
) -> None:
    visit(page, served_app, name)
    tops: list[float] = []
    for _ in range(40):
        page.keyboard.press("Tab")
        found = page.evaluate(
            """() => {
                let at = document.activeElement;
                while (at?.shadowRoot?.activeElement) at = at.shadowRoot.activeElement;
                const main = document.querySelector('[data-testid=stMain]');
                const inside = main.contains(document.activeElement);
                const box = at.getBoundingClientRect();
                return {inside, top: box.top + main.scrollTop, seen: box.width > 0 && box.height > 0};
            }"""
        )
        if found["inside"]:
            assert found["seen"], "focus went to something that cannot be seen"
            tops.append(found["top"])
    assert len(tops) >= 10
    # Down the page, column by column: few jumps back up.
    assert sum(later < earlier - 200 for earlier, later in pairwise(tops)) <= 3


@pytest.mark.parametrize("viewport", ["phone"])
@pytest.mark.parametrize("name", ["start", "neuron-ffn", "search-token"])
def test_what_a_finger_is_to_hit_is_large_enough(served_app: str, page: Page, name: str) -> None:
    """WCAG 2.2, 2.5.8: 24 pixels either way, for the links of our own components."""
    visit(page, served_app, name)
    small = page.evaluate(
        """() => [...document.querySelectorAll('*')].filter(one => one.shadowRoot)
            .flatMap(one => [...one.shadowRoot.querySelectorAll('a.chip')])
            .map(one => [one.textContent, one.getBoundingClientRect()])
            .filter(([, box]) => box.height > 0 && (box.height < 24 || box.width < 24))
            .map(([text, box]) => `${text}: ${box.width.toFixed(0)} x ${box.height.toFixed(0)}`)"""
    )
    assert small == []


def test_a_long_table_is_one_stop_and_the_arrow_keys_lead_through_it(served_app: str, page: Page) -> None:
    visit(page, served_app, "search-token")
    region = page.get_by_role("region", name="found neurons")
    rows = region.locator("tbody tr")
    stops = [rows.nth(at).locator("a").evaluate_all("links => links.map(one => one.tabIndex)") for at in (0, 1)]
    assert set(stops[0]) == {0}
    assert set(stops[1]) == {-1}
    rows.first.locator("td.name a").focus()
    page.keyboard.press("ArrowDown")
    second = rows.nth(1).locator("td.name a")
    expect(second).to_be_focused()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text("neuron of layer")


def test_where_the_keyboard_is_can_be_seen_among_the_pages(served_app: str, page: Page) -> None:
    visit(page, served_app, "start")
    link = page.get_by_role("banner").get_by_role("link", name="Search")
    page.keyboard.press("Tab")
    link.focus()
    expect(link).to_have_css("outline-style", "solid")
