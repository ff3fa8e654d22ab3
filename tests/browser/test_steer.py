"""From a prompt to what causes its answer: measured neurons, one of them zeroed, the text that follows, the report."""

import re
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, expect

from app.attribution import Settings, load
from app.attribution.intervene import steer
from app.attribution.prompt import Sampling
from db.neuron import parse_interventions
from tests.browser.test_report import downloaded
from tests.browser.watching import Screenshot, both_sizes, fits, in_address, labels, settled

pytestmark = pytest.mark.browser
PROMPT = "The capital of France is"


@both_sizes
def test_from_a_measured_list_to_a_steered_text_and_its_report(
    served_app: str, page: Page, demo_model_dir: Path, tmp_path: Path, screenshot: Screenshot
) -> None:
    page.goto(f"{served_app}/prompt?p={quote(PROMPT)}")
    table = page.get_by_role("region", name="ffn neurons")
    expect(table.locator("th[aria-sort=descending]")).to_contain_text("measured")  # which a phone does not show
    expect(table.locator("tbody td.effect").first).to_contain_text(re.compile("[0-9]"))  # the effects have come
    settled(page)
    first = labels(page, "ffn neurons")[0]

    table.get_by_role("link", name=f"zero {first}", exact=True).first.click()
    expect(page.get_by_text(f"with and without neuron {first}")).to_be_visible()
    page.get_by_role("link", name="How does the text go on without them?").click()
    expect(page.get_by_text(f"with neuron {first} zeroed")).to_be_visible()
    settled(page)
    assert in_address(page) == {"p": PROMPT, "do": f"{first}=0"}
    assert fits(page)

    model = load(str(demo_model_dir))
    found = steer(model, PROMPT, Settings(), parse_interventions(f"{first}=0"), Sampling())
    shown = page.get_by_test_id("stMain").inner_text().replace("\u2060", "")  # as `literal` takes ":12:" apart
    for one in found.continuations:
        assert all(line.strip() in shown for line in one.text.splitlines())
    screenshot("zeroed")

    amount = page.get_by_label(f"{first}, factor")
    amount.fill("-3")
    amount.press("Enter")
    expect(page.get_by_text(f"with neuron {first} scaled by −3")).to_be_visible()
    settled(page)
    assert in_address(page) == {"p": PROMPT, "do": f"{first}=-3"}
    assert fits(page)
    screenshot("scaled")

    path = downloaded(page, "Report", tmp_path)
    report = path.read_text(encoding="utf-8")
    assert f"neuron {first} scaled by −3" in report
    assert f"--scale {first}=-3 --generate 40" in report


def test_the_text_is_seen_while_it_is_written(served_app: str, page: Page) -> None:
    page.add_init_script(
        """
        window.seen = new Set();
        new MutationObserver(() => {
          for (const one of document.querySelectorAll("[data-testid=stMarkdown]"))
            if (one.textContent.trim().startsWith("…")) window.seen.add(one.textContent.trim());
        }).observe(document, { subtree: true, childList: true, characterData: true });
        """
    )
    page.goto(f"{served_app}/steer?p={quote('Once upon a time')}&do=ffn%3A5%3D0&n=60")
    expect(page.get_by_role("button", name="Report")).to_be_visible()
    settled(page)
    seen = sorted(page.evaluate("[...window.seen]"), key=len)
    assert len(seen) > 6
    grown = [text for text in seen if text and seen[-1].startswith(text)]
    assert len(grown) > 3


def test_a_neurons_page_leads_to_steering_with_it(served_app: str, page: Page) -> None:
    page.goto(f"{served_app}/neuron?n=L29.F1499")
    page.get_by_role("link", name="Steer with it").click()
    expect(page.get_by_text("with neuron L29.F1499 scaled by 4")).to_be_visible()
    assert in_address(page)["do"] == "L29.F1499=4"
    page.get_by_role("link", name=re.compile("L29.F1499=4")).click()
    expect(page.get_by_role("group", name="what to change")).to_be_visible()
