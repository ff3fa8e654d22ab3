"""Downloads in a real browser: the report opens offline and runs nothing, a chart comes as SVG and PNG."""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode
from xml.etree import ElementTree

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import ARTEFACTS, PATIENCE
from tests.browser.watching import settled

pytestmark = pytest.mark.browser

HOSTILE = '</p></title></style><script>window.canary=1</script><img src=x onerror="window.canary=2"> The capital is'


def downloaded(page: Page, name: str, folder: Path) -> Path:
    """Press a download button and wait for its file."""
    with page.expect_download() as waited:
        page.get_by_role("button", name=name).first.click()
    path = folder / waited.value.suggested_filename
    waited.value.save_as(path)
    return path


@pytest.fixture(scope="module")
def report(browser: Browser, served_app: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a hostile prompt, as the page hands it out."""
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(f"{served_app}/prompt?{urlencode({'p': HOSTILE, 'k': 20, 'map': 'lens'})}")
    expect(page.get_by_role("button", name="Report")).to_be_visible()
    settled(page)  # what is measured draws the page anew
    page.get_by_role("button", name="Report").click()
    path = downloaded(page, "Report: to read", tmp_path_factory.mktemp("report"))
    assert page.evaluate("window.canary") is None
    page.close()
    return path


@pytest.fixture
def asked() -> list[str]:
    """What the opened report asks for, and what it says on the console."""
    return []


@pytest.fixture(params=[("light", 1280), ("dark", 1280), ("light", 390)], ids=["light", "dark", "phone"])
def opened(browser: Browser, report: Path, asked: list[str], request: pytest.FixtureRequest) -> Iterator[Page]:
    """The report, opened as a file without a network."""
    scheme, width = request.param
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900}, offline=True)
    page = context.new_page()
    page.on("request", lambda one: asked.append(one.url))
    page.on("console", lambda one: asked.append(one.text))
    page.on("dialog", lambda one: asked.append(one.message))
    page.goto(report.as_uri())
    yield page
    page.screenshot(path=ARTEFACTS / f"report-{request.node.callspec.id}.png")
    context.close()


def test_the_report_opens_offline_and_runs_nothing(opened: Page, report: Path, asked: list[str]):
    assert asked == [report.as_uri()]
    assert opened.evaluate("window.canary") is None
    assert opened.locator("script, img, iframe, object, link").count() == 0
    expect(opened.locator("p.prompt")).to_have_text(HOSTILE)
    assert opened.locator("svg[role=img]").count() >= 5
    assert opened.locator("table.neurons").count() >= 5
    assert opened.title().endswith("Neuron Atlas")
    assert opened.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    for drawing in opened.locator("svg[role=img]").all():
        box = drawing.bounding_box()
        assert box is not None
        assert box["height"] > 150


def test_its_text_can_be_read_in_either_theme(opened: Page):
    """Text against the ground, by the contrast of the guidelines, also where it lies in a drawing."""
    ratio = opened.evaluate(
        """() => {
          const light = (colour) => {
            const parts = colour.match(/[\\d.]+/g).slice(0, 3).map((one) => one / 255);
            const [r, g, b] = parts.map((one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4));
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          const ground = light(getComputedStyle(document.body).backgroundColor);
          const texts = [...document.querySelectorAll("p, td, th, figcaption, caption, dt, dd, svg text")];
          return Math.min(...texts.map((one) => {
            const style = getComputedStyle(one);
            const ink = light(one.tagName === "text" ? style.fill : style.color);
            return (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
          }));
        }"""
    )
    assert ratio >= 4.5


def test_a_chart_comes_as_svg_png_and_data(page: Page, served_app: str, tmp_path: Path):
    page.goto(f"{served_app}/prompt?{urlencode({'p': 'The capital of France is', 'open': 'map'})}")
    settled(page)
    beside = page.locator(".st-key-picture_heads")
    expect(beside.get_by_role("button")).to_have_count(3)
    beside.scroll_into_view_if_needed()
    found = {}
    for name in ("SVG", "PNG", "data"):
        with page.expect_download() as waited:
            beside.get_by_role("button", name=name).click()
        found[name] = tmp_path / waited.value.suggested_filename
        waited.value.save_as(found[name])
    assert [path.name for path in found.values()] == ["heads.svg", "heads.png", "heads.csv"]
    texts = [one.text for one in ElementTree.parse(found["SVG"]).iter("{http://www.w3.org/2000/svg}text")]
    assert "Attention heads" in texts
    assert any(re.search("“␣Paris”.*The capital of France is", text or "") for text in texts)
    assert found["PNG"].read_bytes().startswith(b"\x89PNG")
    assert found["data"].read_text().startswith("layer,head,score")
