"""Keeping an explanation and coming back to it, and the gallery, in a real browser."""

import re
import uuid

import pytest
from playwright.sync_api import Page, expect

from tests.browser.watching import both_sizes, fits, in_address, settled, still

pytestmark = pytest.mark.browser


@both_sizes
def test_a_view_of_the_gallery_is_one_click_away(page: Page, served_app: str, viewport: str) -> None:
    page.goto(f"{served_app}/gallery")
    settled(page)
    assert fits(page)
    page.get_by_label("open Why Paris and not London").get_by_role("link").click()
    expect(page.get_by_text("From the gallery")).to_be_visible()
    settled(page)
    found = in_address(page)
    assert found["p"] == "The capital of France is"
    assert "not" in found
    assert fits(page)


@both_sizes
def test_an_explanation_is_saved_found_opened_and_deleted(page: Page, served_app: str, viewport: str) -> None:
    name = f"kept {uuid.uuid4().hex[:8]} <b>$x$ WWWWWWWWWWWWWWWWWWWW"  # wider than a phone
    page.goto(f"{served_app}/prompt?p=Thank+you+very&own=L24.F652")
    settled(page)
    still(page)  # the panel that the address opens is scrolled into view, gently
    page.get_by_role("button", name="Save", exact=False).first.click()
    title = page.get_by_role("textbox", name="Title")
    expect(title).to_have_value(re.compile("Thank you very → much"))
    title.fill(name)
    page.get_by_role("button", name="Save it").click()
    expect(page.get_by_text(f"as “{name}”.").first).to_be_visible()
    settled(page)
    page.goto(f"{served_app}/saved?q={name[:13].replace(' ', '+')}")
    settled(page)
    assert fits(page)
    opened = page.get_by_role("link", name=name)
    expect(opened).to_be_visible()
    opened.click()
    expect(page.get_by_text("Why L24.F652", exact=False).first).to_be_visible()
    settled(page)
    assert in_address(page) == {"p": "Thank you very", "own": "L24.F652"}
    page.go_back()
    settled(page)
    page.get_by_role("button", name="Change").first.click()
    delete = page.get_by_role("button", name="Delete", exact=False)
    expect(delete).to_be_disabled()
    page.get_by_text("Delete it for good").click()
    expect(delete).to_be_enabled()
    delete.click()
    expect(page.get_by_role("link", name=name)).to_have_count(0)
