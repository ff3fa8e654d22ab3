"""One address or more for every page: empty, and filled with what it is there for."""

from urllib.parse import quote

from playwright.sync_api import Page, expect

from app.ui.pages import PAGES
from tests.browser.watching import settled, still

PROMPT = quote("The capital of France is")
FILLED = {
    "search-token": "search?q=" + quote(" Paris"),
    "search-concept": "search?by=concept&q=" + quote("red, green, blue"),
    "token-paris": "token?q=" + quote(" Paris"),
    "neuron-ffn": "neuron?keys=1&n=L29.F1499&try=" + quote("import numpy as np in Python"),
    "neuron-attention": f"neuron?keys=1&n=L29.H1.N46&p={PROMPT}",
    "prompt-explained": f"prompt?p={PROMPT}",
    "prompt-head": f"prompt?p={PROMPT}&layer=23&head=L23.H4",
    "prompt-lens": f"prompt?p={PROMPT}&map=lens",
    "steer-zeroed": f"steer?p={PROMPT}&do=L24.F1005%3D0&n=8",
    "many-imports": "many?set=imports",
}
VISITS = {page.name: page.path for page in PAGES.values()} | FILLED
"""Name → address. A page that is added to the app is visited at once, empty."""


def visit(page: Page, served_app: str, name: str) -> None:
    """Open it and wait until everything is drawn."""
    page.goto(f"{served_app}/{VISITS[name]}")
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    settled(page)
    still(page)
