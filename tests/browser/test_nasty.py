"""Nothing that a token or an address holds does anything but stand there as text, in a real browser's document."""

import csv
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest
from playwright.sync_api import Dialog, Page, expect

from tests.browser.conftest import serving
from tests.browser.watching import settled, still
from tests.nasty import FORMULAS, MARKDOWN, MARKUP, NASTY_DISPLAYS, STREAMLIT, TEXTS, save_nasty

pytestmark = pytest.mark.browser

# Walks the whole document, shadow roots included, for what only a text that was read as markup can have put there.
FOREIGN = r"""
() => {
  const found = [];
  // Our own (app.ui.components.button_label): what a button is of, as one plain text.
  const buttonLabel = (one) => one.closest("button") && !one.children.length && one.textContent.startsWith(" of ");
  const walk = (root) => {
    for (const one of root.querySelectorAll("*")) {
      const name = one.tagName.toLowerCase();
      const of = (attribute) => one.getAttribute(attribute) ?? "";
      const link = one.href && typeof one.href === "string" ? new URL(one.href, location.href) : null;
      const bad =
        ["iframe", "object", "embed", "marquee"].includes(name) ||
        (name === "meta" && of("http-equiv").toLowerCase() === "refresh") ||
        (name === "script" && one.textContent.includes("PWNED")) ||
        (name === "style" && /^\*\{display:none\}/.test(one.textContent.trim())) ||
        (name === "img" && (of("src") === "x" || of("src").includes("canary"))) ||
        (link && (["javascript:", "mailto:"].includes(link.protocol) || link.hostname.includes("canary"))) ||
        of("onerror") || of("onload") || of("onclick") ||
        one.classList.contains("katex") ||
        ([...one.classList].some((each) => /^stMarkdown(Colored|Badge|Small)/.test(each)) && !buttonLabel(one)) ||
        (["b", "strong"].includes(name) && one.textContent === "bold") ||
        (name === "code" && one.textContent === "code") ||
        (["del", "s"].includes(name) && one.textContent === "gone") ||
        (/^h\d$/.test(name) && one.textContent === "heading");
      if (bad) found.push(one.outerHTML.slice(0, 200));
      if (one.shadowRoot) walk(one.shadowRoot);
    }
  };
  walk(document);
  return found;
}
"""
PROMPT = "".join((*MARKUP[:7], *MARKDOWN[:6], *STREAMLIT[:5], "\x00", "\u202enimda\u202c", "=1+1"))
SOME = ",".join(str(TEXTS.index(text)) for text in (*MARKUP[:8], *MARKDOWN[:8], *STREAMLIT[:5]))
PAGES = {
    "start": ("", {}),
    "overview": ("overview", {}),
    "a token that is a script": ("token", {"t": "0"}),
    "a token that is an image": ("token", {"t": "1"}),
    "a token that is LaTeX": ("token", {"t": str(TEXTS.index("$x^2$"))}),
    "a token that is an icon": ("token", {"t": str(TEXTS.index(":material/home:"))}),
    "a token of 10,000 letters": ("token", {"t": str(TEXTS.index("A" * 10_000))}),
    "hits": ("search", {"t": SOME}),
    "a typed text": ("search", {"q": f"{MARKUP[1]} $x^2$ :red[red] **bold**", "by": "token"}),
    "a concept": ("search", {"by": "concept", "add": SOME, "avoid": "60,61", "drop": "2,15"}),
    "a concept of typed words": ("search", {"by": "concept", "q": f"{MARKUP[1]} :red[red] **bold** -$x^2$"}),
    "a neuron on a prompt": ("neuron", {"n": "L1.F3", "p": PROMPT, "try": "".join(MARKDOWN), "alike": "value"}),
    "a prompt": ("prompt", {"p": PROMPT, "k": "20"}),
    "a prompt's lens and contrast": ("prompt", {"p": PROMPT, "k": "20", "map": "lens", "not": "3"}),
    "a prompt's head": ("prompt", {"p": PROMPT, "k": "20", "head": "L1.H0", "from": "2", "show": "query"}),
    "many prompts": ("many", {"ps": f"{MARKUP[0]}\t{MARKUP[1]}\n{MARKDOWN[2]}\tno such\n:red[red]\n=1+1"}),
    "bare addresses": ("search", {"by": "token", "q": "www.canary.invalid x@canary.invalid https://canary.invalid"}),
    "notices": ("search", {"kind": MARKUP[1], "sign": ":red[red]", "order": "$x^2$", "v": MARKUP[0], "b": MARKUP[0]}),
    "an unknown model": ("token", {"model": f"{MARKUP[1]} **bold** $x^2$", "q": MARKUP[1]}),
}


@pytest.fixture(scope="module")
def nasty_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the app on the nasty model."""
    root = save_nasty(tmp_path_factory.mktemp("nasty"))
    settings = {"ATLAS_CATALOGUE": root / "catalogue", "ATLAS_MODELS": root / "models", "ATLAS_WORKSPACE": "off"}
    with serving("nasty", **{name: str(value) for name, value in settings.items()}) as address:
        yield address


@pytest.fixture
def watched(page: Page, nasty_app: str) -> Iterator[Page]:
    """A page; afterwards nothing has run, and nothing was asked of any other server."""
    elsewhere: list[str] = []
    dialogs: list[str] = []
    own = urlsplit(nasty_app).netloc

    def note(url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("data", "blob") and parts.netloc != own:
            elsewhere.append(url)

    def dismiss(dialog: Dialog) -> None:
        dialogs.append(dialog.message)
        dialog.dismiss()

    page.on("request", lambda request: note(request.url))
    page.on("websocket", lambda socket: note(socket.url))
    page.on("dialog", dismiss)
    yield page
    assert not elsewhere
    assert not dialogs


def opened(page: Page, address: str, path: str, params: dict[str, str]) -> None:
    page.goto(f"{address}/{path}?{urlencode(params)}")
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    settled(page)


def assert_inert(page: Page) -> None:
    assert page.evaluate(FOREIGN) == []
    assert page.title() != "PWNED"  # as a script that ran would have named it; a title may quote what was typed
    expect(page.get_by_text("by a fault of ours")).to_have_count(0)
    expect(page.get_by_test_id("stException")).to_have_count(0)
    expect(page.get_by_text("BidiComponent Error")).to_have_count(0)


@pytest.mark.parametrize("name", PAGES)
def test_every_surface_is_inert(nasty_app: str, watched: Page, name: str) -> None:
    opened(watched, nasty_app, *PAGES[name])
    closed = watched.locator('[data-testid="stExpander"] details:not([open]) > summary:visible')
    for _ in range(40):  # one inside another can be seen once that is open; a page may be drawn anew under a click
        if not closed.count():
            break
        closed.first.click()
        settled(watched)
    expect(closed).to_have_count(0)
    still(watched)
    assert_inert(watched)


def test_the_check_would_find_what_it_looks_for(nasty_app: str, page: Page) -> None:
    opened(page, nasty_app, "token", {"t": "3"})
    page.evaluate("""() => {
        const host = document.createElement("div");
        host.attachShadow({mode: "open"}).innerHTML = '<b>bold</b><img src=x><a href="javascript:alert(1)">x</a>' +
            '<button><span class="stMarkdownColoredText"> of a chart</span></button>' +
            '<button><span class="stMarkdownColoredText"> of a <b>bold</b> one</span></button>' +
            '<span class="stMarkdownColoredText"> of no button</span>';
        document.body.append(host);
    }""")
    assert len(page.evaluate(FOREIGN)) == 6


def test_the_tokens_of_a_prompt_stand_there_as_they_are(nasty_app: str, watched: Page) -> None:
    opened(watched, nasty_app, "prompt", {"p": PROMPT, "k": "5"})
    chips = watched.get_by_role("group", name="tokens of the prompt").locator("a > span:first-child")
    expect(chips.first).to_be_visible()
    shown = chips.all_text_contents()
    assert shown[3] == "<b>bold</b>"
    assert ":red[red]" in shown
    assert "⟨U+0000⟩" in shown
    assert "⟨U+202E⟩nimda⟨U+202C⟩" in shown
    assert "=1+1" in shown


def test_a_charts_tooltip_and_labels_are_text(nasty_app: str, watched: Page) -> None:
    opened(watched, nasty_app, "neuron", {"n": "L0.F0"})
    chart = watched.get_by_test_id("stVegaLiteChart").first
    chart.scroll_into_view_if_needed()
    expect(chart.locator("canvas, svg.marks").first).to_be_visible()
    box = chart.bounding_box()
    assert box is not None
    tooltip = watched.locator("#vg-tooltip-element")
    seen: list[str] = []
    for step in range(14):
        watched.mouse.move(box["x"] + 150, box["y"] + 60 + step * 20, steps=2)
        watched.wait_for_timeout(120)
        if tooltip.is_visible():
            seen.append(tooltip.inner_text())
            assert tooltip.locator("script, img, b, a, iframe, svg").count() == 0
    said = " ".join(seen)
    assert any(display in said for display in NASTY_DISPLAYS if len(display) > 3), seen
    assert_inert(watched)


def test_a_tables_csv_is_safe_to_open(nasty_app: str, watched: Page, tmp_path: Path) -> None:
    """The page's own button is the only way to a file."""
    opened(watched, nasty_app, "search", {"t": ",".join(str(TEXTS.index(text)) for text in FORMULAS)})
    watched.get_by_text("This page as a data table").click()
    table = watched.get_by_test_id("stDataFrame").last
    table.hover()
    expect(watched.get_by_role("button", name="Search", exact=False).last).to_be_visible()
    expect(watched.get_by_role("button", name="Download as CSV")).to_have_count(0)
    with watched.expect_download() as waiting:
        watched.get_by_test_id("stDownloadButton").get_by_role("button", name="CSV").first.click()
    path = tmp_path / "table.csv"
    waiting.value.save_as(path)
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows
    assert all(row["token"][:1] not in ("=", "+", "-", "@") for row in rows)
    assert any(row["token"].startswith("'=") for row in rows)
