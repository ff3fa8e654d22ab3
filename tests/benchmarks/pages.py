"""How long the pages take: ``python -m tests.benchmarks.pages``. Needs the demo model, its catalogue and Chromium.

A first view is timed in a fresh browser without a cache, from the request until the page says that it is drawn; the
server has shown the page before. A change is timed in the server alone, by its own log.
"""

import argparse
import os
import re
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from urllib.parse import urlencode

import psutil
from playwright.sync_api import Browser, sync_playwright

from tests.benchmarks.attribution import BATCH_PROMPTS
from tests.benchmarks.effects import LONG
from tests.browser.conftest import CHROMIUM_ARGUMENTS
from tests.browser.visits import VISITS
from tests.conftest import BROWSERS
from tests.server_process import Server, serving

DRAWN = '[data-testid="stApp"][data-test-script-state="notRunning"]'
CHANGES = {
    "search: another kind": ("search?q=%20Paris", "search?q=%20Paris&kind=ffn"),
    "search: other layers": ("search?q=%20Paris", "search?q=%20Paris&layers=20-29"),
    "concept: a token left out": ("search?by=concept&q=red%2C+green%2C+blue", "search?by=concept&q=red%2C+green"),
    "concept: another kind": ("search?by=concept&q=cat%2C+dog", "search?by=concept&q=cat%2C+dog&kind=ffn"),
    "concept: sorted by neuron": ("search?by=concept&q=cat%2C+dog", "search?by=concept&q=cat%2C+dog&order=neuron"),
    "prompt: a head": ("prompt?p=The+capital+of+France+is", "prompt?p=The+capital+of+France+is&head=L23.H4"),
}
"""What is changed: from one address to another, which the page's own links do alike."""


def seconds_to_draw(browser: Browser, address: str) -> float:
    """A first view, in a fresh window."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(180_000)
    started = time.perf_counter()
    page.goto(address)
    page.wait_for_selector(DRAWN)
    page.get_by_role("heading", level=1).wait_for()
    seconds = time.perf_counter() - started
    context.close()
    return seconds


def first_views(browser: Browser, server: Server, rounds: int) -> None:
    """Every page, each once to warm the server and then `rounds` times."""
    for name, path in VISITS.items():
        address = f"{server.address}/{path}"
        warming = seconds_to_draw(browser, address)
        found = [seconds_to_draw(browser, address) for _ in range(rounds)]
        print(f"first view  {name:18} {statistics.median(found):6.2f} s   (the very first: {warming:.2f} s)")


def answers(browser: Browser, server: Server, rounds: int) -> None:
    """A prompt that nobody has asked yet: until its scores are drawn, and until what is listed is measured."""
    scored, measured = [], []
    for prompt in (*BATCH_PROMPTS[1 : 1 + rounds], LONG):
        page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
        page.set_default_timeout(180_000)
        started = time.perf_counter()
        page.goto(f"{server.address}/prompt?{urlencode({'p': prompt})}")
        page.locator(".st-key-measured").wait_for()
        scored.append(time.perf_counter() - started)
        page.locator(".st-key-measured", has_text="Measured: ").wait_for()
        measured.append(time.perf_counter() - started)
        page.context.close()
    short = f"scored {statistics.median(scored[:-1]):.2f} s, measured {statistics.median(measured[:-1]):.2f} s"
    print(f"new prompt  {short} (25 tokens: {scored[-1]:.2f} s and {measured[-1]:.2f} s)")


def changes(browser: Browser, server: Server, rounds: int) -> None:
    """Seconds that the server works on a page after a change, by its log."""
    for name, (before, after) in CHANGES.items():
        found = []
        for _ in range(rounds):
            seconds_to_draw(browser, f"{server.address}/{before}")
            seconds_to_draw(browser, f"{server.address}/{after}")
            found.append(_last_page_seconds(server.log))
        print(f"in server   {name:26} {1000 * statistics.median(found):6.0f} ms")


def _last_page_seconds(log: Path) -> float:
    time.sleep(0.2)
    return float(re.findall(r" page seconds=([\d.]+)", log.read_text("utf-8"))[-1])


def memory(server: Server) -> float:
    """Of the server and its children, in MB."""
    process = psutil.Process(server.process.pid)
    family = [process, *process.children(recursive=True)]
    return float(sum(one.memory_info().rss for one in family)) / 1e6


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=3)
    options = arguments.parse_args()
    executable = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)))
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=executable, args=CHROMIUM_ARGUMENTS)
        for mode in ("catalogue", "full"):
            started = time.perf_counter()
            with serving(Path(folder) / f"{mode}.log", ATLAS_MODE=mode, ATLAS_WORKSPACE="off") as server:
                up = time.perf_counter() - started
                print(f"mode {mode}: serves after {up:.2f} s, ", end="")
                print(f"start page drawn {seconds_to_draw(browser, server.address):.2f} s later")
                if mode == "catalogue":
                    for path in (
                        "search?q=%20Paris",
                        "search?by=concept&q=red%2C+green",
                        "neuron?n=L29.F1499",
                        "overview",
                    ):
                        seconds_to_draw(browser, f"{server.address}/{path}")
                else:
                    answers(browser, server, options.rounds)
                    first_views(browser, server, options.rounds)
                    changes(browser, server, options.rounds)
                print(f"mode {mode}: {memory(server):,.0f} MB")
        browser.close()


if __name__ == "__main__":
    main()
