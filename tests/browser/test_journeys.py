"""The journeys that AppTest cannot make: clicking rows and chips, and opening an address elsewhere."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from app.attribution import Analysis, analyse, load
from app.attribution.fast import TOLERANCE
from app.attribution.prompt import Settings
from app.attribution.results import ValueNeuron
from db.catalogue.builds import find_catalogue
from db.catalogue.store import Catalogue
from db.questions import Filters
from tests.browser.watching import Screenshot, both_sizes, fits, in_address, labels, settled

pytestmark = pytest.mark.browser
PROMPT = "The capital of France is"
HOSTILE = "<img src=x onerror=alert(1)> $x^2$ :red[a] :smile: `b` **c** \u202ed"


@pytest.fixture(scope="session")
def catalogue(demo_catalogue_dir: Path) -> Catalogue:
    return Catalogue.open(find_catalogue(demo_catalogue_dir, "SmolLM2-135M-Instruct"))


SHOWN = Settings().top


@pytest.fixture(scope="session")
def analysis(demo_model_dir: Path) -> Analysis:
    """With some more neurons than the page shows."""
    return analyse(load(str(demo_model_dir)), PROMPT, top=SHOWN + 20)


def ranked(shown: list[str], neurons: Sequence[ValueNeuron]) -> bool:
    """Whether a page's rows are the first neurons, in order up to ties: two processes may score by other products,
    whose scores differ by twice the tolerance at most.
    """
    scores: dict[str, list[float]] = {}
    for one in neurons:
        scores.setdefault(one.neuron.label, []).append(one.score)
    pairs = zip(shown, neurons[:SHOWN], strict=True)
    return len(shown) == SHOWN and all(
        min(abs(own - one.score) for own in scores.get(label, [math.inf])) <= 2 * TOLERANCE for label, one in pairs
    )


def same_elsewhere(browser: Browser, page: Page, table: str) -> None:
    """The address, opened in another browser profile, shows the same rows."""
    context = browser.new_context()
    other = context.new_page()
    other.goto(page.url)
    settled(other)
    assert labels(other, table) == labels(page, table)
    context.close()


@both_sizes
def test_from_a_search_to_a_neuron(
    served_app: str, page: Page, browser: Browser, catalogue: Catalogue, screenshot: Screenshot
) -> None:
    page.goto(f"{served_app}/search")
    field = page.get_by_label("Token or concept")
    field.fill(" Python")
    field.press("Enter")
    ids = [token.token_id for token in catalogue.resolve(" Python").matched]
    expected = [hit.neuron.label for hit in catalogue.search_token(ids, Filters(), limit=50)]
    expect(page.get_by_role("region", name="found neurons")).to_be_visible()
    settled(page)
    assert labels(page, "found neurons") == expected
    assert in_address(page) == {"q": " Python"}
    assert fits(page)
    screenshot("results")
    same_elsewhere(browser, page, "found neurons")

    page.get_by_role("region", name="found neurons").locator("td.name a").first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(expected[0])
    settled(page)
    assert urlsplit(page.url).path == "/neuron"
    assert in_address(page) == {"n": expected[0]}
    expect(page.get_by_role("group", name="tokens it suppresses").get_by_text("␣Python", exact=True)).to_be_visible()
    assert fits(page)


@both_sizes
def test_from_a_prompt_to_a_neuron_and_back(
    served_app: str, page: Page, browser: Browser, analysis: Analysis, screenshot: Screenshot
) -> None:
    page.goto(f"{served_app}/prompt")
    page.get_by_label("Prompt", exact=True).fill(PROMPT)
    page.get_by_role("button", name="Explain").click()
    expect(page.get_by_role("region", name="attention neurons")).to_be_visible()
    settled(page)
    assert in_address(page) == {"p": PROMPT}
    measured = labels(page, "ffn neurons")
    by_score = {"p": PROMPT, "sort": "score"}
    page.get_by_role("link", name="Sort by score").click()
    expect(page.get_by_role("link", name="Sort by what was measured")).to_be_visible()
    settled(page)
    assert labels(page, "ffn neurons") != measured
    assert sorted(labels(page, "ffn neurons")) == sorted(measured)
    assert ranked(labels(page, "ffn neurons"), analysis.ffn_value_neurons)
    assert ranked(labels(page, "attention neurons"), analysis.attention_value_neurons)
    assert in_address(page) == by_score
    expect(page.get_by_role("group", name="most probable next tokens")).to_contain_text("␣Paris")
    assert fits(page)
    screenshot("explained")
    same_elsewhere(browser, page, "ffn neurons")

    first = analysis.attention_value_neurons[0]
    page.get_by_role("region", name="attention neurons").locator("td.name a").first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(first.neuron.label)
    settled(page)
    raised = "Promotes" if first.activation > 0 else "Suppresses"
    expect(page.get_by_role("heading", name=f"{raised}, raised on this prompt")).to_be_visible()
    assert in_address(page) == {"n": first.neuron.label} | by_score
    assert fits(page)
    screenshot("neuron")

    page.get_by_role("link", name="Back to the prompt").click()
    expect(page.get_by_role("region", name="ffn neurons")).to_be_visible()
    assert in_address(page) == by_score


def test_a_prediction_and_a_token_of_the_prompt_can_be_chosen(served_app: str, page: Page, analysis: Analysis) -> None:
    page.goto(f"{served_app}/prompt?p={quote(PROMPT)}")
    second = analysis.predictions[1].token
    page.get_by_role("group", name="most probable next tokens").locator("a").nth(1).click()
    expect(page.get_by_text(f"Explained: “{second.display}”")).to_be_visible()
    assert in_address(page) == {"p": PROMPT, "target": str(second.id)}
    page.get_by_role("group", name="tokens of the prompt").locator("a").nth(1).click()
    expect(page.get_by_role("group", name="tokens of the prompt").locator("[aria-current]")).to_have_text("␣capital")
    assert in_address(page) == {"p": PROMPT, "at": "1"}
    page.go_back()
    expect(page.get_by_text(f"Explained: “{second.display}”")).to_be_visible()


def test_text_shows_as_it_stands(served_app: str, page: Page) -> None:
    page.on("dialog", lambda _: pytest.fail("a script from the address ran"))
    page.goto(f"{served_app}/search?by=token&q={quote(HOSTILE)}")
    settled(page)
    notice = page.get_by_test_id("stAlert")
    expect(notice).to_contain_text("$x^2$")
    shown = notice.inner_text().replace("\u2060", "")
    assert ":red[a]␣:smile:␣`b`" in shown
    page.goto(f"{served_app}/prompt?p={quote(HOSTILE)}")
    settled(page)
    tokens = page.get_by_role("group", name="tokens of the prompt").locator("a").all_text_contents()
    assert "".join(tokens).replace("␣", " ").startswith("<img src=x onerror=alert(1)> $x^2$ :red[a] :smile: `b`")


@pytest.mark.parametrize("address", ["search?t=%ff%fe", "neuron?n=%00", "prompt?p=%ed%a0%80", "search?" + "q=a&" * 500])
def test_a_broken_address_is_survived(served_app: str, page: Page, address: str) -> None:
    page.goto(f"{served_app}/{address}")
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    settled(page)
    expect(page.get_by_text("by a fault of ours")).to_have_count(0)
    expect(page.get_by_text(re.compile("Traceback|uncaught"))).to_have_count(0)


def test_the_navigation_comes_back_to_where_a_page_was_left(served_app: str, page: Page) -> None:
    page.goto(f"{served_app}/search")
    field = page.get_by_label("Token or concept")
    field.fill(" Paris")
    field.press("Enter")
    expect(page.get_by_role("region", name="found neurons")).to_be_visible()
    found = labels(page, "found neurons")
    page.get_by_test_id("stTopNavLink").filter(has_text="Gallery").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Gallery")
    page.get_by_test_id("stTopNavLink").filter(has_text="Search").click()
    expect(page.get_by_role("region", name="found neurons")).to_be_visible()
    settled(page)
    assert (in_address(page), labels(page, "found neurons")) == ({"q": " Paris"}, found)
    page.go_back()
    expect(page.get_by_role("heading", level=1)).to_have_text("Gallery")


def test_what_is_typed_on_the_start_page_is_explained_and_tried_with_enter(served_app: str, page: Page) -> None:
    page.goto(served_app)
    box = page.get_by_label("Prompt", exact=True)
    box.fill(PROMPT)
    box.press("Enter")
    expect(page.get_by_role("region", name="ffn neurons")).to_be_visible()
    assert in_address(page) == {"p": PROMPT}
    page.go_back()
    box = page.get_by_label("Token or concept")
    box.fill("Paris")
    box.press("Enter")
    expect(page.get_by_role("region", name="found neurons")).to_be_visible()
    assert in_address(page) == {"q": "Paris"}
    page.goto(f"{served_app}/neuron?n=L29.F1499")
    box = page.get_by_label("Text to try it on")
    box.fill("import numpy")
    box.press("Enter")
    expect(page.get_by_role("group", name="the text, coloured by activation")).to_be_visible()
    assert in_address(page) == {"n": "L29.F1499", "try": "import numpy"}


def test_the_start_page_explains_its_example(served_app: str, page: Page) -> None:
    """How soon it is there is measured by tests/benchmarks/pages.py, where nothing else runs."""
    page.goto(served_app)
    expect(page.get_by_role("group", name="prompts to explain")).to_be_visible()
    expect(page.get_by_role("group", name=re.compile("^tokens that L.* raised")).nth(1)).to_contain_text("␣Japanese")
    expect(page.get_by_role("group", name="what it says through the head")).to_contain_text("␣Japanese")
    page.get_by_role("link", name="Thank you very", exact=True).click()
    expect(page.get_by_role("region", name="ffn neurons")).to_be_visible()
    assert in_address(page) == {"p": "Thank you very"}
