"""The texts that activate a neuron, hostile ones: shown literally, read by keyboard, legible in both themes."""

import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pytest
from playwright.sync_api import Page, Position, expect

from db.catalogue.builds import find_catalogue
from db.catalogue.store import Catalogue
from db.groups import Group, GroupedBy, NeuronMap, write_maps
from db.neuron import NeuronKind
from db.token_text import shorten
from tests.browser.conftest import serving
from tests.browser.test_accessibility import nothing_grave
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


def give_map(catalogue: Catalogue) -> None:
    """A map of the FFN neurons, in rows of ten; the first four are a group with a hostile name."""
    blocks = [catalogue.layout.block(layer, NeuronKind.FFN) for layer in range(catalogue.layout.layers)]
    ids = np.concatenate([np.arange(one.first, one.first + one.size, dtype=np.int32) for one in blocks])
    place, number = np.arange(len(ids)), (np.arange(len(ids)) < 4).astype(np.int32)
    x, y = ((0.05 + 0.1 * one).astype(np.float32) for one in (place % 10, place // 10))
    groups = [Group("value-1", GroupedBy.VALUE, f"▲ {MARKUP[0]}", 4, 0.5)]
    words = [f"▲ {MARKUP[1]}"] * len(ids)
    found = NeuronMap(ids, x, y, number, 0.5 * number.astype(np.float32), x, words, groups)
    write_maps(catalogue.path.parent, catalogue.info.checkpoint, {GroupedBy.VALUE: found})


@pytest.fixture(scope="module")
def texts_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    root = save_nasty(tmp_path_factory.mktemp("texts"))
    path = find_catalogue(root / "catalogue")
    give_texts(path, k=8, own_words=True)
    with Catalogue.open(path) as catalogue:
        give_map(catalogue)
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


def test_the_page_with_texts_is_accessible(texts_app: App, page: Page) -> None:
    page.goto(f"{texts_app.address}/neuron?n=L0.F3")
    expect(page.get_by_role("heading", name="Texts that activate it")).to_be_visible()
    settled(page)
    still(page)
    nothing_grave(page)


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


@pytest.mark.parametrize("viewport", ["desktop", "phone"])
def test_a_click_on_the_map_opens_the_neuron(texts_app: App, page: Page, screenshot: Picture, viewport: str) -> None:
    page.goto(f"{texts_app.address}/overview?group=value-1&shade=group")
    map_ = page.get_by_role("img", name="map of the FFN neurons")
    expect(map_).to_be_visible()
    settled(page)
    assert page.evaluate(FOREIGN) == []
    assert fits(page)
    screenshot(f"map_{viewport}")
    box = map_.bounding_box()
    assert box is not None
    at: Position = {"x": (0.05 + 0.1 * 7) * box["width"], "y": (0.05 + 0.1 * 3) * box["width"]}
    map_.hover(position=at)
    expect(page.locator(".told")).to_have_text(f"L0.F37  ▲ {MARKUP[1]}")
    page.keyboard.press("Tab")
    map_.focus()
    for key in ("+", "ArrowLeft", "0"):  # and back to the whole
        page.keyboard.press(key)
    map_.click(position=at)
    expect(page).to_have_url(re.compile(r"/neuron\?.*n=L0\.F37"))
