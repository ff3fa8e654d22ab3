"""The texts that activate a neuron, hostile ones: shown literally, read by keyboard, legible in both themes."""

import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from playwright.sync_api import Page, expect

from db.catalogue.builds import find_catalogue
from db.catalogue.store import Catalogue
from db.token_text import shorten
from tests.browser.conftest import serving
from tests.browser.contrast import faint, same_names, skipped_headings
from tests.browser.test_accessibility import grave_violations
from tests.browser.test_nasty import FOREIGN
from tests.browser.watching import Picture, fits, settled, still
from tests.nasty import MARKUP, save_nasty
from tests.texts import give_texts

pytestmark = pytest.mark.browser


class App(NamedTuple):
    """The app on the nasty model, whose texts are made of its tokens."""

    address: str
    displays: set[str]
    """Every token as it may be shown."""


@pytest.fixture(scope="module")
def texts_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    root = save_nasty(tmp_path_factory.mktemp("texts"))
    path = find_catalogue(root / "catalogue")
    give_texts(path, k=8, own_words=True)
    with Catalogue.open(path) as catalogue:
        displays = {shorten(one.display, 100) for one in catalogue.tokens(range(catalogue.info.vocabulary)).values()}
    settings = {"ATLAS_CATALOGUE": root / "catalogue", "ATLAS_MODELS": root / "models", "ATLAS_WORKSPACE": "off"}
    with serving("texts", **{name: str(value) for name, value in settings.items()}) as address:
        yield App(address, displays)


@pytest.mark.parametrize("viewport", ["desktop", "phone"])
def test_hostile_texts_are_shown_literally_and_read_by_keyboard(
    texts_app: App, page: Page, screenshot: Picture, viewport: str
) -> None:
    page.goto(f"{texts_app.address}/neuron?n=L0.F3")
    expect(page.get_by_role("heading", name="Texts that activate it")).to_be_visible()
    settled(page)
    still(page)
    assert page.evaluate(FOREIGN) == []
    assert fits(page)
    tokens = page.locator("ol.excerpts button")
    shown = set(tokens.all_text_contents())
    assert shown <= texts_app.displays
    assert len(shown & set(MARKUP)) > 1
    assert not any(unicodedata.category(one)[0] == "C" for text in shown for one in text)
    expect(page.get_by_text("tokens of the model’s own words")).to_be_visible()

    # One stop of the Tab key a text: its peak. From there the arrow keys; what has the focus is read out.
    line = page.locator("ol.excerpts > li").first
    peak = line.locator("button.peak")
    assert line.locator("button[tabindex='0']").count() == 1
    peak.focus()
    name = peak.get_attribute("aria-label") or ""
    assert name.endswith(", the peak")
    expect(line.locator(".reading")).to_have_text(name)
    page.keyboard.press("ArrowLeft")
    expect(peak).not_to_be_focused()
    expect(line.locator(".reading")).not_to_have_text(name)
    screenshot("read")

    more = page.get_by_role("link", name="More texts, up to 5 of each")
    lines = page.locator("ol.excerpts > li")
    expect(lines).to_have_count(6)
    more.click()
    expect(page).to_have_url(f"{texts_app.address}/neuron?n=L0.F3&texts=5")
    expect(lines.nth(6)).to_be_visible()


def test_the_page_with_texts_is_accessible_in_both_themes(texts_app: App, page: Page) -> None:
    page.goto(f"{texts_app.address}/neuron?n=L0.F3")
    expect(page.get_by_role("heading", name="Texts that activate it")).to_be_visible()
    settled(page)
    still(page)
    assert grave_violations(page) == []
    assert faint(page) == []
    assert skipped_headings(page) == []
    assert same_names(page) == []
    page.emulate_media(color_scheme="dark")
    expect(page.get_by_test_id("stApp")).to_have_css("background-color", "rgb(19, 21, 23)")
    still(page)
    assert grave_violations(page) == []
    assert faint(page) == []


def test_the_whole_text_and_the_prompt_are_one_click_away(texts_app: App, page: Page) -> None:
    page.goto(f"{texts_app.address}/neuron?n=L0.F3")
    line = page.locator("ol.excerpts > li").first
    before = line.locator("button").count()
    line.get_by_role("link", name="whole text of text 1", exact=False).click()
    settled(page)
    assert line.locator("button").count() >= before
    line.get_by_role("link", name="open as a prompt of text 1", exact=False).click()
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    assert "/prompt?p" in page.url
