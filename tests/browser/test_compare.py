"""Comparing by pointer and finger: from an example to a head, to zeroing a neuron, to its page and back."""

import re
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, expect

from tests.browser.watching import Screenshot, both_sizes, fits, in_address, labels, settled

pytestmark = pytest.mark.browser
PROMPT = "The capital of France is"


@both_sizes
def test_a_prompt_with_and_without_a_head(served_app: str, page: Page, screenshot: Screenshot) -> None:
    page.goto(f"{served_app}/compare")
    page.get_by_role("link", name="Paris without head L23.H4", exact=True).click()
    expect(page.get_by_text("the log-probability of “␣Paris” falls by")).to_be_visible()
    settled(page)
    assert in_address(page) == {"p": PROMPT, "zero": "L23.H4"}
    assert fits(page)
    screenshot("zeroed")

    heads = page.get_by_role("group", name="changed heads", exact=True)
    heads.get_by_role("link", name=re.compile(r"L29\.H0:")).click()
    expect(page.get_by_role("link", name="What if it were zero?")).to_be_visible()
    settled(page)
    assert in_address(page) == {"p": PROMPT, "zero": "L23.H4", "head": "L29.H0"}
    page.get_by_text("attention", exact=True).last.click()
    expect(page.get_by_text("Only layer 29, head 0")).to_be_visible()
    settled(page)
    assert all(label.startswith("L29.H0.") for label in labels(page, "changed neurons"))
    first = labels(page, "changed neurons")[0]

    page.get_by_role("region", name="changed neurons").locator("td.name a").first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(first)
    settled(page)
    page.go_back()
    expect(page.get_by_text("Only layer 29, head 0")).to_be_visible()
    place = in_address(page)
    assert place == {"p": PROMPT, "zero": "L23.H4", "head": "L29.H0", "kind": "attention"}
    settled(page)
    assert labels(page, "changed neurons")[0] == first
    assert fits(page)


@both_sizes
def test_two_prompts(served_app: str, page: Page, screenshot: Screenshot) -> None:
    page.goto(f"{served_app}/compare?p={quote(PROMPT)}")
    field = page.get_by_label("Second prompt")
    expect(field).to_be_visible()
    settled(page)
    field.fill("The capital of Germany is")
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.get_by_text("against “The capital of Germany is”")).to_be_visible()
    settled(page)
    assert in_address(page) == {"p": PROMPT, "p2": "The capital of Germany is"}
    changed = page.get_by_role("region", name="changed predictions")
    expect(changed.locator("td.name a").first).to_have_text("␣Berlin")
    changed.locator("td.name a").first.click()
    expect(page.get_by_text("Explained: “␣Berlin”")).to_have_count(2)
    settled(page)
    asked = in_address(page)
    assert asked["target"] == asked["target2"]
    assert fits(page)
    screenshot("berlin")


def test_a_target_is_chosen_from_what_begins_so(served_app: str, page: Page) -> None:
    page.goto(f"{served_app}/compare?p={quote(PROMPT)}&p2={quote('The capital of Germany is')}")
    field = page.get_by_role("combobox", name="Another target for the second")
    field.press_sequentially("Lond", delay=30)
    option = page.get_by_role("option").first
    expect(option).to_contain_text("␣London")
    option.click()
    expect(page.get_by_text("Explained: “␣London”")).to_be_visible()
    settled(page)
    assert set(in_address(page)) == {"p", "p2", "target2"}


def test_from_the_prompt_page_in_one_click(served_app: str, page: Page) -> None:
    page.goto(f"{served_app}/prompt?p={quote(PROMPT)}&head=L23.H4")
    page.get_by_role("link", name="What if it were zero?").click()
    expect(page.get_by_text("with and without head L23.H4")).to_be_visible()
    settled(page)
    assert in_address(page) == {"p": PROMPT, "zero": "L23.H4"}
    page.get_by_role("link", name="remove L23.H4").click()
    expect(page.get_by_role("group", name="what to zero")).to_be_visible()


def test_enter_in_either_box_compares(served_app: str, page: Page) -> None:
    page.goto(f"{served_app}/compare?p={quote(PROMPT)}")
    second = page.get_by_label("Second prompt; empty: the same")
    second.fill("The capital of")
    second.press("Shift+Enter")
    second.press_sequentially("Germany is")
    second.press("Enter")
    expect(page).to_have_url(re.compile("p2="))
    assert in_address(page) == {"p": PROMPT, "p2": "The capital of\nGermany is"}
    first = page.get_by_label("First prompt")
    first.press("Enter")  # nothing new was typed
    first.fill("The capital of Spain is")
    first.press("Enter")
    expect(page).to_have_url(re.compile("Spain"))


def test_a_text_too_long_to_explain_is_neither_cut_nor_lost(served_app: str, page: Page) -> None:
    page.goto(f"{served_app}/prompt")
    box, long = page.get_by_label("Prompt", exact=True), "word " * 1801
    box.fill(long)
    expect(page.get_by_text("The text has 9,005 characters; at most 8,000 are read. Shorten it.")).to_be_visible()
    box.press("Enter")
    settled(page)
    expect(page.get_by_text("The text has 9,005 characters; at most 8,000 are read.")).to_be_visible()
    expect(box).to_have_value(long)
    assert in_address(page) == {}
