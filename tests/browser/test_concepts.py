"""The journeys through concepts, tokens and a neuron's relatives, clicked in a real browser."""

import re
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, expect

from db.catalogue.builds import find_catalogue
from db.catalogue.store import Catalogue
from db.neuron import Neuron
from tests.browser.watching import Screenshot, both_sizes, fits, in_address, labels, settled

pytestmark = pytest.mark.browser
CONCEPT = "red, green, blue"
HOSTILE = "<img src=x onerror=alert(1)> $x^2$ :red[a] :smile: `b` **c** \u202ed"


@pytest.fixture(scope="session")
def catalogue(demo_catalogue_dir: Path) -> Catalogue:
    return Catalogue.open(find_catalogue(demo_catalogue_dir, "SmolLM2-135M-Instruct"))


@both_sizes
def test_from_a_concept_to_a_neuron_to_its_relative_and_back(
    served_app: str, page: Page, catalogue: Catalogue, screenshot: Screenshot
) -> None:
    page.goto(f"{served_app}/search")
    field = page.get_by_label("Token or concept")
    field.fill(CONCEPT)
    field.press("Enter")
    expect(page.get_by_role("group", name="own tokens")).to_be_visible()
    settled(page)
    expected = [found.neuron.label for found in catalogue.concept_neurons(catalogue.concept(CONCEPT), limit=50)]
    assert labels(page, "found neurons") == expected
    assert in_address(page) == {"q": CONCEPT}
    assert fits(page)
    screenshot("concept")

    page.get_by_role("region", name="found neurons").locator("td.name a").first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(expected[0])
    settled(page)
    relatives = [one.neuron.label for one in catalogue.similar(Neuron.parse(expected[0]), limit=12)]
    assert labels(page, "similar neurons") == relatives
    assert fits(page)
    page.get_by_role("region", name="similar neurons").locator("td.name a").first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(relatives[0])
    assert in_address(page) == {"n": relatives[0]}

    page.go_back()
    expect(page.get_by_role("heading", level=1)).to_contain_text(expected[0])
    settled(page)
    page.go_back()
    expect(page.get_by_role("group", name="own tokens")).to_be_visible()
    assert in_address(page) == {"q": CONCEPT}
    assert labels(page, "found neurons") == expected


def test_a_token_is_left_out_and_one_is_added(served_app: str, page: Page, catalogue: Catalogue) -> None:
    page.goto(f"{served_app}/search?q=python&by=concept")
    page.get_by_role("button", name="All tokens").click()
    page.get_by_role("link", name="remove Python", exact=True).click()
    expect(page.get_by_role("group", name="tokens left out")).to_contain_text("Python")
    dropped = catalogue.resolve("Python").matched[0]
    assert in_address(page) == {"q": "python", "by": "concept", "drop": str(dropped.token_id)}
    field = page.get_by_label("Add a token")
    field.fill("-snake")
    field.press("Enter")
    expect(page.get_by_role("group", name="avoided tokens")).to_contain_text("snake")
    avoided = ",".join(str(token.token_id) for token in catalogue.tokens_of("snake"))
    assert in_address(page)["avoid"] == avoided
    expect(page.get_by_text(re.compile("but not “snake”"))).to_be_visible()


def test_a_typo_is_mended_a_family_leaves_and_results_need_no_scrolling(served_app: str, page: Page) -> None:
    page.set_viewport_size({"width": 1280, "height": 900})
    page.goto(f"{served_app}/search?q=anger at injustcie&by=concept")
    offer = page.get_by_role("link", name="Did you mean injustice?")
    offer.click()
    expect(offer).to_have_count(0)
    settled(page)  # until then what was passed over before may still stand beside what is now
    expect(page.get_by_text("Passed over: “at”")).to_be_visible()
    assert in_address(page)["q"] == "anger at injustice"
    rows = page.get_by_role("region", name="found neurons").locator("td.name a")
    third = rows.nth(2).bounding_box()
    assert third is not None
    assert third["y"] + third["height"] < 900
    page.get_by_role("group", name="own tokens").get_by_role("link").first.click()
    expect(page.get_by_role("group", name="tokens left out")).to_contain_text("anger")
    assert in_address(page)["fam"]


def test_a_heading_sorts_and_the_next_page_goes_on(served_app: str, page: Page) -> None:
    page.goto(f"{served_app}/search?q=animals&by=concept")
    settled(page)
    page.get_by_role("link", name="matched", exact=True).click()
    expect(page.locator("th[aria-sort=descending]")).to_contain_text("matched")
    assert in_address(page)["order"] == "matched"
    first = labels(page, "found neurons")
    page.get_by_role("group", name="pages of the result").get_by_role("link", name="2", exact=True).click()
    expect(page.get_by_text(re.compile("^51 to 100 of"))).to_be_visible()
    settled(page)
    assert set(first) != set(labels(page, "found neurons"))


def test_a_result_is_downloaded_whole(served_app: str, page: Page, catalogue: Catalogue) -> None:
    page.goto(f"{served_app}/search?q=animals&by=concept")
    page.get_by_text(re.compile("^Download all")).click()
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV").click()
    rows = Path(download.value.path()).read_text("utf-8").splitlines()
    assert len(rows) == 1 + catalogue.count_concept(catalogue.concept("animals"))


def test_exact_mode_asks_the_model(served_app: str, page: Page, catalogue: Catalogue) -> None:
    page.goto(f"{served_app}/search?q=animals&by=concept&exact=1")
    expect(page.get_by_text(re.compile(f"of all {catalogue.info.neurons:,} neurons"))).to_be_visible()
    assert labels(page, "found neurons")[0] == "L29.F1439"


@both_sizes
def test_from_a_token_to_its_neighbour_and_to_a_neuron(
    served_app: str, page: Page, catalogue: Catalogue, screenshot: Screenshot
) -> None:
    token = catalogue.resolve(" Paris").matched[0]
    page.goto(f"{served_app}/token?t={token.token_id}")
    near = catalogue.neighbours(token.token_id)[1].token
    expect(page.get_by_role("group", name="tokens near it")).to_contain_text(near.display)
    settled(page)
    assert fits(page)
    screenshot("token")
    page.get_by_role("group", name="tokens near it").locator("a").nth(1).click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(near.display)
    assert in_address(page) == {"t": str(near.token_id)}
    page.get_by_role("region", name="neurons that promotes").locator("td.name a").first.click()
    expect(page.get_by_role("group", name="neighbours in the model")).to_be_visible()


@both_sizes
def test_the_overview_leads_to_neurons_and_tokens(
    served_app: str, page: Page, catalogue: Catalogue, screenshot: Screenshot
) -> None:
    page.goto(f"{served_app}/overview")
    peaked = catalogue.most_peaked(limit=1)[0].neuron.label
    assert labels(page, "most peaked neurons")[0] == peaked
    settled(page)
    assert fits(page)
    screenshot("overview")
    page.get_by_role("region", name="favoured tokens").locator("td.name a").first.click()
    favoured = catalogue.favourites(limit=1)[0].token
    expect(page.get_by_role("heading", level=1)).to_contain_text(favoured.display)
    page.go_back()
    page.get_by_role("region", name="most peaked neurons").locator("td.name a").first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(peaked)


def test_text_shows_as_it_stands(served_app: str, page: Page) -> None:
    page.on("dialog", lambda _: pytest.fail("a script from the address ran"))
    for address in (f"search?by=concept&q={quote(HOSTILE)}", f"token?q={quote(HOSTILE)}"):
        page.goto(f"{served_app}/{address}")
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        settled(page)
        shown = page.get_by_test_id("stMain").inner_text().replace("\u2060", "")
        assert "$x^2$" in shown
        assert "by a fault of ours" not in shown
