"""The drill-down by pointer, finger and keyboard: prediction, layer, head, source position; a neuron, what switched it
on, its page, and back to the same place.
"""

import re
from urllib.parse import quote, urlencode

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.watching import Screenshot, both_sizes, fits, in_address, labels, settled

pytestmark = pytest.mark.browser
PROMPT = "The capital of France is"


def chart(page: Page, name: str) -> Locator:
    return page.get_by_role("group", name=name, exact=True)


def trail(page: Page) -> Locator:
    """Where one is, above the lists of neurons."""
    return page.get_by_role("navigation", name="where you are").last


@both_sizes
def test_from_a_prediction_to_a_source_position(served_app: str, page: Page, screenshot: Screenshot) -> None:
    page.goto(f"{served_app}/prompt?p={quote(PROMPT)}")
    predictions = page.get_by_role("group", name="most probable next tokens").locator("a")
    expect(predictions.first).to_be_visible()
    predictions.filter(has_text="␣London").click()
    expect(page.get_by_text("Explained: “␣London”")).to_be_visible()
    target = in_address(page)["target"]

    chart(page, "layers").get_by_role("link", name=re.compile("layer 23:")).click()
    expect(chart(page, "heads of layer 23")).to_be_visible()
    settled(page)
    assert in_address(page) == {"p": PROMPT, "target": target, "layer": "23"}
    assert all(label.startswith("L23.") for label in labels(page, "ffn neurons"))

    chart(page, "heads of layer 23").get_by_role("link", name=re.compile(r"L23\.H4:")).click()
    positions = page.get_by_role("region", name="source positions").locator("td.name a")
    expect(positions.first).to_have_text("3 ␣France")
    assert in_address(page) == {"p": PROMPT, "target": target, "head": "L23.H4"}

    positions.first.click()
    expect(trail(page)).to_contain_text("from 3 “␣France”")
    settled(page)
    assert in_address(page) == {"p": PROMPT, "target": target, "head": "L23.H4", "from": "3"}
    assert all(label.startswith("L23.H4.") for label in labels(page, "attention neurons"))
    assert fits(page)
    screenshot("source")

    page.go_back()
    expect(trail(page)).not_to_contain_text("from 3")
    expect(trail(page)).to_contain_text("head L23.H4")
    assert "from" not in in_address(page)


@both_sizes
def test_from_a_neuron_to_what_switched_it_on_and_back(served_app: str, page: Page, screenshot: Screenshot) -> None:
    page.goto(f"{served_app}/prompt?p={quote(PROMPT)}")
    table = page.get_by_role("region", name="attention neurons")
    expect(table.locator("td.name a").first).to_be_visible()
    first = labels(page, "attention neurons")[0]
    table.locator("td.action a").first.click()
    own = page.get_by_role("region", name=f"query neurons of {first}")
    expect(own).to_be_visible()
    settled(page)
    place = in_address(page)
    assert place["own"].startswith(f"{first}@")
    behind = labels(page, f"query neurons of {first}")
    assert fits(page)
    screenshot("own")

    own.locator("td.name a").first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(behind[0])
    settled(page)
    assert in_address(page) == {"n": behind[0], **place}
    expect(page.get_by_role("group", name="the text, coloured by activation")).to_be_visible()
    assert fits(page)
    screenshot("neuron")

    page.go_back()
    expect(own).to_be_visible()
    assert in_address(page) == place
    settled(page)
    own.locator("td.name a").first.click()
    page.get_by_role("link", name="Back to the prompt").click()
    expect(own).to_be_visible()
    assert in_address(page) == place
    settled(page)
    assert labels(page, f"query neurons of {first}") == behind


def test_a_query_neuron_is_read_through_a_head(served_app: str, page: Page) -> None:
    page.goto(f"{served_app}/prompt?p={quote(PROMPT)}&show=query")
    table = page.get_by_role("region", name="query neurons")
    table.locator("td.action a").first.click()
    expect(page.get_by_role("group", name=re.compile("Through .*: promotes"))).to_be_visible()
    assert in_address(page)["read"] == labels(page, "query neurons")[0]


def test_the_head_map_by_keyboard(served_app: str, page: Page) -> None:
    page.goto(f"{served_app}/prompt?p={quote(PROMPT)}&open=map")
    heads = chart(page, "attention heads")
    expect(heads).to_be_visible()
    settled(page)
    assert heads.locator("a[tabindex='0']").count() == 1
    heads.locator("a[tabindex='0']").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Close the head")).to_be_visible()
    settled(page)  # the address may follow a moment after what is drawn
    assert in_address(page)["head"] == "L1.H1"


def test_another_token_to_hold_the_target_against(served_app: str, page: Page) -> None:
    page.goto(f"{served_app}/prompt?p={quote(PROMPT)}")
    field = page.get_by_label("Why not")
    field.fill("␣London")  # as the page shows it; without the space it would be another token
    field.press("Enter")
    expect(page.get_by_text("Why “␣Paris” and not “␣London”")).to_be_visible()
    expect(page.get_by_text("favoured “␣Paris” over “␣London” most")).to_be_visible()
    assert set(in_address(page)) == {"p", "not"}


@both_sizes
def test_many_prompts(served_app: str, page: Page, screenshot: Screenshot) -> None:
    page.goto(f"{served_app}/many")
    page.get_by_role("link", name="imports").click()
    table = page.get_by_role("region", name="FFN value neurons")
    expect(table).to_be_visible()
    settled(page)
    assert in_address(page) == {"set": "imports"}
    assert fits(page)
    screenshot("aggregate")
    first = labels(page, "FFN value neurons")[0]
    table.locator("td.name a").first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(first)
    page.go_back()
    expect(table).to_be_visible()


OVERLAPS = """
(row) => {
  const over = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
    && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1;
  const cells = [...row.cells].filter((cell) => cell.checkVisibility());
  return cells.flatMap((one, place) => cells.slice(place + 1)
    .filter((other) => over(one.getBoundingClientRect(), other.getBoundingClientRect()))
    .map((other) => `${one.dataset.title}, ${other.dataset.title}`));
}
"""


@both_sizes
def test_no_figure_of_two_sets_lies_over_another(served_app: str, page: Page, viewport: str) -> None:
    sets = {"ps": PROMPT, "ps2": "The opposite of hot is"}
    page.goto(f"{served_app}/many?{urlencode(sets)}")
    page.get_by_role("button", name="Explain them all").click()
    table = page.get_by_role("region", name="neurons of the two sets")
    expect(table.locator("tbody tr").first).to_be_visible()
    settled(page)
    assert table.locator("tbody tr").first.evaluate(OVERLAPS) == []
