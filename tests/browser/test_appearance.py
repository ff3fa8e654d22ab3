"""Every page is visited at two widths, and everything that is asked of all pages is asked there: that it looks as it
did, breaks no policy, asks no other site, and keeps nobody out.

Its picture is kept in tests/artefacts/, and compared with a small reference for gross change.
The references are thumbnails in tests/browser/pictures/; with NEW_PICTURES=1 in the environment these tests take
them anew: look at them before committing. The comparison is coarse (tests/browser/looks.py): another font or another
figure passes, a missing chart, an empty page or an overflowing layout does not.
"""

import os
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page

from tests.browser.conftest import VIEWPORTS
from tests.browser.looks import differences, thumbnail
from tests.browser.test_accessibility import nothing_grave_in_both_themes, nothing_grave_on_a_phone
from tests.browser.visits import VISITS, visit
from tests.browser.watching import WATCH_POLICY, Picture, fits, still

pytestmark = pytest.mark.browser
PICTURES = Path(__file__).with_name("pictures")
TAKE_ANEW = bool(os.environ.get("NEW_PICTURES"))
both_sizes = pytest.mark.parametrize("viewport", VIEWPORTS)
CHART = "[data-testid=stVegaLiteChart]"


def reference(name: str, viewport: str) -> Path:
    return PICTURES / f"small-{name}-{viewport}.png"


@both_sizes
@pytest.mark.parametrize("name", VISITS)
def test_a_page_looks_as_it_did_and_is_sound(
    served_app: str, page: Page, picture: Picture, viewport: str, name: str
) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.add_init_script(WATCH_POLICY)
    visit(page, served_app, name)
    assert fits(page)
    small = thumbnail(Image.open(picture("whole")))
    path = reference(name, viewport)
    if TAKE_ANEW:
        small.save(path, optimize=True)
        return
    assert path.is_file(), f"{path.name} is not there: take it with NEW_PICTURES=1, look at it and commit it"
    assert differences(Image.open(path), small) == []
    assert page.evaluate("window.violations") == []
    assert [url for url in asked if not url.startswith((f"{served_app}/", "data:", "blob:"))] == []
    still(page)
    if viewport == "phone":
        nothing_grave_on_a_phone(page)
    else:
        nothing_grave_in_both_themes(page)


@both_sizes
@pytest.mark.parametrize("name", ["neuron-ffn", "overview"])
def test_a_missing_chart_is_noticed(served_app: str, page: Page, picture: Picture, viewport: str, name: str) -> None:
    visit(page, served_app, name)
    before = thumbnail(Image.open(picture("before")))
    page.evaluate(f"document.querySelector('{CHART}').style.visibility = 'hidden'")
    assert differences(before, thumbnail(Image.open(picture("hidden")))) != []
    page.evaluate(f"document.querySelector('{CHART}').style.display = 'none'")
    assert differences(before, thumbnail(Image.open(picture("gone")))) != []


def test_an_overflowing_layout_is_noticed(served_app: str, page: Page) -> None:
    visit(page, served_app, "overview")
    assert fits(page)
    page.evaluate("document.querySelector('[data-testid=stMainBlockContainer]').style.minWidth = '1500px'")
    assert not fits(page)


def test_another_font_is_no_change(served_app: str, page: Page, picture: Picture) -> None:
    visit(page, served_app, "overview")
    before = thumbnail(Image.open(picture("own")))
    page.add_style_tag(content="* { font-family: serif; }")
    still(page)
    assert differences(before, thumbnail(Image.open(picture("serif")))) == []
