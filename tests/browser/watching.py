"""Watching a page from a browser test: until it is drawn, what its tables hold, what its address says."""

from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Page, expect

STILL_MILLISECONDS = 300
"""Without any change, after which a page counts as drawn."""
IS_STILL = """
(milliseconds) => {
  const main = document.querySelector("[data-testid=stMain]");
  const app = document.querySelector("[data-testid=stApp]");
  const charts = [...document.querySelectorAll("[data-testid=stVegaLiteChart]")].filter((one) => one.checkVisibility());
  const drawn = charts.filter((one) => one.querySelector("canvas, svg.marks"));
  const moving = document.getAnimations().filter((one) => one.playState === "running" && one.effect
    && one.effect.getComputedTiming().endTime !== Infinity);
  const now = [
    window.innerWidth, window.innerHeight, main?.scrollHeight, main?.scrollTop,
    document.querySelectorAll("*").length, drawn.length, app && getComputedStyle(app).backgroundColor,
  ].join();
  const waiting = document.querySelector("[data-testid=stSkeleton]") || document.fonts.status !== "loaded";
  if (waiting || moving.length || drawn.length < charts.length || window.seenLast !== now) {
    window.seenLast = now;
    window.stillSince = performance.now();
  }
  return performance.now() - window.stillSince >= milliseconds;
}
"""
WATCH_POLICY = """
window.violations = [];
document.addEventListener("securitypolicyviolation", event =>
    window.violations.push(`${event.effectiveDirective}: ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`));
"""
both_sizes = pytest.mark.parametrize("viewport", ["desktop", "phone"])
Picture = Callable[[str], Path]
Screenshot = Callable[[str], object]


def settled(page: Page) -> None:
    """Wait until the page is drawn, with what is measured in the background, and no run is under way."""
    for _ in range(2):
        page.wait_for_selector('[data-testid="stApp"][data-test-script-state="notRunning"]')
        expect(page.get_by_test_id("stSpinner")).to_have_count(0)
        expect(page.locator(".st-key-measured").filter(has_not_text="Measured: ")).to_have_count(0)


def still(page: Page) -> None:
    """Wait until charts, fonts and colours are there too, and nothing moves: they come after the page."""
    page.evaluate("delete window.seenLast")
    page.wait_for_function(IS_STILL, arg=STILL_MILLISECONDS, polling=50)


def labels(page: Page, table: str) -> list[str]:
    """The neurons of a table, in order."""
    region = page.get_by_role("region", name=table)
    names = region.locator("td.name a")
    expect(names.first).to_be_visible()
    region.first.dispatch_event("focusin")  # as whoever turns to it; the later rows of a long table follow
    expect(region.first).not_to_have_attribute("aria-busy", "true")
    return names.all_text_contents()


def in_address(page: Page) -> dict[str, str]:
    """The parameters as the page itself has them: `page.url` hears of a change later than what is drawn."""
    return {name: values[0] for name, values in parse_qs(urlsplit(page.evaluate("location.href")).query).items()}


def fits(page: Page) -> bool:
    """Nothing hangs over the side of the window."""
    main = page.get_by_test_id("stMain")
    return bool(main.evaluate("main => main.scrollWidth <= main.clientWidth && main.clientWidth <= window.innerWidth"))
