"""A model is added from a page: estimated, built while somebody watches and reloads, opened and searched."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests import models
from tests.browser.conftest import VIEWPORTS, serving
from tests.browser.watching import Screenshot, both_sizes, fits, in_address, settled, still
from tests.catalogues import make_catalogue

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def own_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server with one catalogue, and a model for each size of the window that has none yet."""
    root = tmp_path_factory.mktemp("add")
    make_catalogue(root / "catalogue")
    for name in VIEWPORTS:
        models.save("llama", root / "models" / f"tiny-{name}")
    settings = {"ATLAS_CATALOGUE": root / "catalogue", "ATLAS_MODELS": root / "models", "ATLAS_WORKSPACE": "off"}
    with serving("add", **{name: str(value) for name, value in settings.items()}) as address:
        yield address


def choice(page: Page, model: str) -> None:
    """Open the choice of the model beside the heading."""
    page.get_by_role("button", name=model, exact=True).click()


@both_sizes
def test_a_model_is_added_opened_and_searched(own_app: str, page: Page, viewport: str, screenshot: Screenshot) -> None:
    name = f"tiny-{viewport}"
    page.goto(f"{own_app}/search?q=Paris&sign=promotes")
    choice(page, "toy")
    page.get_by_role("group", name="more models").get_by_role("link", name="Add a model").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Add a model")
    assert fits(page)

    page.get_by_role("textbox").fill("no/model of mine")
    page.get_by_role("button", name="Estimate").click()
    expect(page.get_by_text("There is no folder “no/model of mine”")).to_be_visible()
    assert page.get_by_role("textbox").input_value() == "no/model of mine"

    page.get_by_role("link", name=name).click()
    expect(page.get_by_role("textbox")).to_have_value(name)
    expect(page.get_by_text("press Estimate")).to_be_visible()
    settled(page)
    still(page)
    page.get_by_role("button", name="Estimate").click()
    expect(page.get_by_role("button", name="Build the catalogue")).to_be_visible()
    assert in_address(page) == {"source": name}
    assert fits(page)
    screenshot("estimate")

    page.get_by_role("button", name="Build the catalogue").click()
    expect(page.get_by_role("button", name="Cancel")).to_be_visible()
    screenshot("building")
    page.reload()
    expect(page.get_by_role("heading", name=f"Building the catalogue of {name}")).to_be_visible()
    expect(page.get_by_role("progressbar")).to_be_visible()
    expect(page.get_by_text(f"The catalogue of {name} is there.")).to_be_visible()
    assert fits(page)
    screenshot("built")

    page.get_by_role("link", name="Search its neurons").click()
    field = page.get_by_label("Token or concept")
    field.fill("river")
    field.press("Enter")
    expect(page.get_by_role("region", name="neurons").first).to_be_visible()
    settled(page)
    assert in_address(page) == {"q": "river", "model": name}
    page.locator("td.name a").first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("neuron of layer")
    assert in_address(page)["model"] == name
    choice(page, name)
    expect(page.get_by_role("link", name="toy")).to_be_visible()
    assert fits(page)
    screenshot("chosen")
    page.get_by_role("link", name="toy").click()
    expect(page.get_by_role("button", name="toy", exact=True)).to_be_visible()
    assert in_address(page)["model"] == "toy"
