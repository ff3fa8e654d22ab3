"""The prompt page as one path: as one types, the flow picture, a part's own neurons, back a step, and the link."""

import re
from urllib.parse import quote

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.watching import Screenshot, both_sizes, fits, in_address, labels, settled

pytestmark = pytest.mark.browser
PROMPT = "The capital of France is"
LONG = (
    "The quick brown fox jumps over the lazy dog, while the old man who lives in Berlin and works for a bank reads the "
    "newspaper, drinks a cup of coffee, looks out of the window and thinks of the day on which he left the capital of"
)


def predictions(page: Page) -> Locator:
    return page.get_by_role("group", name="most probable next tokens").locator("a")


def trail(page: Page) -> Locator:
    return page.get_by_role("navigation", name="where you are").first


def opened(page: Page, served_app: str, prompt: str = PROMPT, more: str = "") -> None:
    page.goto(f"{served_app}/prompt?p={quote(prompt)}{more}")
    expect(page.get_by_role("group", name="flow of the prompt")).to_be_visible()
    settled(page)


@both_sizes
def test_tokens_and_predictions_follow_the_typing(served_app: str, page: Page, screenshot: Screenshot) -> None:
    page.goto(f"{served_app}/prompt")
    box = page.get_by_label("Prompt", exact=True)
    box.press_sequentially("The opposite of hot", delay=20)
    expect(page.get_by_text("4 tokens. Not explained yet")).to_be_visible()
    box.press_sequentially(" is", delay=20)
    expect(page.get_by_text("5 tokens. Not explained yet")).to_be_visible()
    expect(predictions(page).first).to_contain_text("␣cold")
    assert in_address(page) == {}
    expect(box).to_be_focused()
    assert fits(page)
    screenshot("typing")

    box.press("Enter")
    expect(page.get_by_text("Explained: “␣cold”")).to_be_visible()
    expect(page.get_by_role("group", name="flow of the prompt")).to_be_visible()
    settled(page)
    assert in_address(page) == {"p": "The opposite of hot is"}
    first = labels(page, "ffn neurons")

    box.press("End")
    box.press_sequentially(" not", delay=20)
    expect(page.get_by_text("6 tokens. Not explained yet")).to_be_visible()
    settled(page)
    assert labels(page, "ffn neurons") == first  # what is explained stays until another text is sent
    height = box.bounding_box()
    box.press("Shift+Enter")
    box.press("Shift+Enter")
    box.press("Shift+Enter")
    taller = box.bounding_box()
    assert height is not None
    assert taller is not None
    assert taller["height"] > height["height"]

    page.go_back()
    expect(box).to_have_value("")


def test_a_target_is_chosen_from_what_begins_so(served_app: str, page: Page) -> None:
    opened(page, served_app)
    field = page.get_by_role("combobox", name="Another target")
    field.press_sequentially("lon", delay=30)
    options = page.get_by_role("option")
    expect(options.first).to_have_text(re.compile("^lon"))  # the token of exactly this text, which Enter alone takes
    expect(options.nth(1)).to_contain_text("␣London")
    field.press("ArrowDown")
    field.press("ArrowDown")
    expect(options.nth(1)).to_have_attribute("aria-selected", "true")
    field.press("Enter")
    expect(page.get_by_text("Explained: “␣London”")).to_be_visible()
    field.fill("no single token")
    field.press("Enter")
    expect(page.get_by_text("is not one token")).to_be_visible()


@both_sizes
def test_from_an_arc_to_its_neurons_and_back_a_step(served_app: str, page: Page, screenshot: Screenshot) -> None:
    opened(page, served_app)
    picture = page.get_by_role("group", name="flow of the prompt")
    arc = picture.get_by_role("link", name=re.compile(r"L23\.H4 from position 3"))
    arc.focus()
    page.keyboard.press("Enter")
    expect(trail(page)).to_contain_text("from 3 “␣France”")
    settled(page)
    assert in_address(page) == {"p": PROMPT, "head": "L23.H4", "from": "3"}
    assert all(label.startswith("L23.H4.") for label in labels(page, "attention neurons"))
    expect(page.get_by_role("region", name="ffn neurons")).to_have_count(0)
    assert fits(page)
    screenshot("arc")

    trail(page).get_by_role("link", name="Back a step").click()
    expect(trail(page)).not_to_contain_text("from 3")
    settled(page)
    assert in_address(page) == {"p": PROMPT, "head": "L23.H4"}

    picture.get_by_role("link", name=re.compile("FFN of layer 27")).click()
    expect(trail(page)).to_contain_text("its FFN")
    settled(page)
    assert in_address(page) == {"p": PROMPT, "layer": "27", "part": "ffn"}
    first = labels(page, "ffn neurons")[0]
    assert first.startswith("L27.F")

    page.get_by_role("region", name="ffn neurons").locator("td.name a").first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(first)
    expect(trail(page)).to_contain_text(f"neuron {first}")
    trail(page).get_by_role("link", name="Back a step").click()
    expect(trail(page)).to_contain_text("its FFN")
    assert in_address(page) == {"p": PROMPT, "layer": "27", "part": "ffn"}


@both_sizes
def test_a_long_prompt_shows_the_explained_position(served_app: str, page: Page, screenshot: Screenshot) -> None:
    opened(page, served_app, LONG)
    assert fits(page)
    sheet = page.locator(".flow .sheet")
    assert sheet.evaluate("sheet => sheet.scrollWidth > sheet.clientWidth")
    assert sheet.evaluate(
        """sheet => {
          const [room, foot] = [sheet, sheet.querySelector(".feet .chosen")].map((one) => one.getBoundingClientRect());
          return room.left <= foot.left && foot.right <= room.right;
        }"""
    )
    screenshot("long")


def measuring(page: Page, prompt: str) -> tuple[Locator, list[float]]:
    """The names of the FFN neurons by score, and where on the page the lists and a chart below them are."""
    page.goto(prompt)
    names = page.get_by_role("region", name="ffn neurons").locator("td.name a")
    expect(names.nth(3)).to_be_visible()
    expect(page.get_by_role("group", name="layers", exact=True)).to_be_visible()
    return names, tops(page)


def tops(page: Page) -> list[float]:
    parts = [page.get_by_role("region", name="ffn neurons"), page.get_by_role("group", name="layers", exact=True)]
    return [one.evaluate("one => one.getBoundingClientRect().top") for one in parts]


@both_sizes
def test_nothing_moves_and_the_focus_stays_when_measured_effects_arrive(
    served_app: str, page: Page, viewport: str
) -> None:
    names, places = measuring(page, f"{served_app}/prompt?p={quote(f'Nobody asked yet on a {viewport}: whether')}")
    label, before = names.nth(3).inner_text(), names.all_text_contents()[:10]
    names.nth(3).evaluate("one => one.focus({ preventScroll: true })")
    expect(page.locator(".st-key-measured")).not_to_contain_text("Measured: ")
    settled(page)
    assert tops(page) == places
    assert names.all_text_contents()[:10] != before
    expect(names.get_by_text(label, exact=True)).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(names.nth(labels(page, "ffn neurons").index(label) + 1)).to_be_focused()


def test_what_is_pressed_while_measured_effects_arrive_is_what_opens(served_app: str, page: Page) -> None:
    names, _ = measuring(page, f"{served_app}/prompt?p={quote('Nobody asked yet: while it is pressed')}")
    label = names.nth(3).inner_text()
    names.nth(3).hover()
    page.mouse.down()
    expect(page.locator(".st-key-measured")).not_to_contain_text("Measured: ")
    settled(page)
    page.mouse.up()
    expect(page.get_by_role("heading", level=1)).to_contain_text(label)


def test_the_link_that_is_copied_opens_the_same(served_app: str, page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    opened(page, served_app, more="&layer=23")
    page.get_by_role("button", name="Copy link").click()
    expect(page.get_by_text("Copied")).to_be_visible()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith(f"{served_app}/prompt?")
    page.goto(copied)
    expect(trail(page)).to_contain_text("layer 23")


def test_without_the_clipboard_the_old_way_copies(served_app: str, page: Page) -> None:
    page.add_init_script(
        "Object.defineProperty(navigator, 'clipboard', {value: undefined});"
        "document.execCommand = (what) => { window.copiedBy = what; return window.allowed !== false; }"
    )
    page.goto(f"{served_app}/search?q=Paris")
    page.get_by_role("button", name="Copy link").click()
    expect(page.get_by_text("Copied")).to_be_visible()
    assert page.evaluate("window.copiedBy") == "copy"
    page.evaluate("window.allowed = false")
    page.get_by_role("button", name="Copy link").click()
    expect(page.get_by_label("the address of this view")).to_have_value(re.compile(r"/search\?q=Paris.*b="))


@pytest.mark.parametrize("pause", [0, 300])
def test_twice_back_at_once_keeps_the_search(served_app: str, page: Page, pause: int) -> None:
    page.goto(f"{served_app}/search")
    field = page.get_by_label("Token or concept")
    field.fill("Paris")
    field.press("Enter")
    rows = page.get_by_role("region").locator("td.name a")
    expect(rows.first).to_be_visible()
    settled(page)
    length = page.evaluate("history.length")
    rows.first.click()
    expect(page.get_by_role("group", name="other neurons")).to_be_visible()
    settled(page)
    assert page.evaluate("history.length") == length + 1  # one entry a step, or the first back would seem to do nothing
    page.get_by_role("group", name="other neurons").get_by_role("link", name="→").click()
    page.wait_for_function(f"history.length === {length + 2}")
    settled(page)
    page.evaluate("history.back()")
    page.wait_for_timeout(pause)
    page.evaluate("history.back()")
    expect(field).to_have_value("Paris")
    settled(page)
    assert in_address(page) == {"q": "Paris"}
    expect(rows.first).to_be_visible()


# One row that is not shown only gives the columns their widths, until all rows are there.
WHAT_IS_CUT = """
(region) => {
  const room = region.getBoundingClientRect();
  const inside = (one) => {
    const at = one.getBoundingClientRect();
    return at.left >= room.left && at.right <= room.right;
  };
  const cells = [...region.querySelectorAll("td.tokens")].filter((cell) => cell.checkVisibility());
  return [
    ...(region.scrollWidth > region.clientWidth ? [`the list, by ${region.scrollWidth - region.clientWidth} px`] : []),
    ...(cells.length ? [] : ["there are no rows"]),
    ...cells.filter((cell) => cell.scrollWidth > cell.clientWidth + 1),
    ...cells.flatMap((cell) => [...cell.querySelectorAll(".chip")]).filter((chip) => !inside(chip)),
    ...[...region.querySelectorAll("thead th")].filter((head) => head.checkVisibility() && !inside(head)),
  ].map((what) => what.outerHTML ?? what);
}
"""


@both_sizes
def test_what_a_neuron_says_is_never_cut(served_app: str, page: Page, viewport: str) -> None:
    opened(page, served_app)
    for name in ("ffn neurons", "attention neurons"):
        region = page.get_by_role("region", name=name)
        assert region.evaluate(WHAT_IS_CUT) == []
        above = region.bounding_box()
        assert above is not None
        assert above["y"] < {"desktop": 900, "phone": 2 * 844 + 500}[viewport]


def test_a_section_stays_as_it_was_left_and_a_layer_brings_its_detail_into_view(served_app: str, page: Page) -> None:
    opened(page, served_app)
    page.get_by_text("Where: heads and logit lens").click()
    heads = page.get_by_role("group", name="attention heads", exact=True)
    expect(heads).to_be_visible()
    settled(page)
    assert in_address(page) == {"p": PROMPT, "open": "flow,layers,map"}
    page.reload()
    expect(heads).to_be_visible()
    settled(page)
    page.get_by_role("group", name="layers", exact=True).get_by_role("link", name=re.compile("layer 23:")).click()
    expect(page.get_by_role("group", name="heads of layer 23", exact=True)).to_be_in_viewport()
    settled(page)
    assert in_address(page) == {"p": PROMPT, "layer": "23", "open": "flow,layers,map"}
    page.get_by_text("Where: heads and logit lens").click()
    expect(heads).to_have_count(0)
    settled(page)
    assert "open" not in in_address(page)
