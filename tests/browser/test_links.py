"""A link that was passed on shows the same figures in a fresh browser, also after the catalogue was built anew."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from app.state.address import shared
from app.state.selections import SearchSelection
from tests.browser.conftest import serving
from tests.browser.watching import in_address, labels, settled
from tests.catalogues import ToyCatalogue, make_catalogue

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("links")


@pytest.fixture(scope="module")
def first(root: Path) -> ToyCatalogue:
    return make_catalogue(root, build_id="aaaa567890abcdef", seed=1, created_at="2026-01-02T03:04:05Z")


@pytest.fixture(scope="module")
def toy_app(root: Path, first: ToyCatalogue) -> Iterator[str]:
    """The address of the app on a toy catalogue that has no model."""
    with serving("links", ATLAS_CATALOGUE=str(root), ATLAS_WORKSPACE="off") as address:
        yield address


def test_a_link_outlives_its_build(toy_app: str, page: Page, browser: Browser, root: Path, first: ToyCatalogue) -> None:
    link = shared(SearchSelection(tokens=(3, 4)), first.stamp)
    page.goto(f"{toy_app}/{link}")
    settled(page)
    seen = labels(page, "found neurons")
    expect(page.get_by_test_id("stAlert")).to_have_count(0)

    make_catalogue(root, build_id="bbbb567890abcdef", seed=2, created_at="2027-02-03T04:05:06Z")
    context = browser.new_context()
    other = context.new_page()
    other.goto(f"{toy_app}/{link}")
    settled(other)
    assert labels(other, "found neurons") == seen
    expect(other.get_by_test_id("stAlert")).to_contain_text("catalogue aaaa5678 of 2026-01-02, and that one is shown")

    other.get_by_role("link", name="Show the current one").click()
    expect(other.get_by_test_id("stAlert")).to_have_count(0)
    settled(other)
    assert in_address(other) == {"t": "3,4", "model": "toy"}
    assert labels(other, "found neurons") != seen
    context.close()

    first.path.unlink()
    page.goto(f"{toy_app}/{link}")
    settled(page)
    expect(page.get_by_test_id("stAlert")).to_contain_text("which is no longer here")
    assert labels(page, "found neurons") != seen
