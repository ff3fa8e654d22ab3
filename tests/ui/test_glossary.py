"""The glossary: every page explains itself, and what a README defines is explained there too."""

import re

import pytest

from app.ui.pages import PAGES
from app.words import TERMS
from db.neuron import Neuron
from tests.readmes import EVERYTHING


def readme_terms() -> dict[str, str]:
    """The rows of the table of terms in a README, without Markdown."""
    table = re.search(r"^\| term \| meaning \|\n\|[ -|]+\|\n((?:\|.*\n)+)", EVERYTHING, re.MULTILINE)
    assert table, "no README has a table of terms"
    rows = (re.split(r"(?<!\\)\|", line)[1:3] for line in table[1].splitlines())
    return {name.strip(): text.strip() for name, text in (map(_plain, row) for row in rows)}


def _plain(markdown: str) -> str:
    return re.sub(r"\*\*|`", "", markdown)


def test_the_readmes_table_is_found_whole():
    assert {"z", "sign rule", "value neurons", "log-probability increase"} <= set(readme_terms())


@pytest.mark.parametrize("name", readme_terms())
def test_a_term_of_the_readme_is_in_the_glossary(name):
    label = re.search(r" (L\d+\.\S+)$", name)  # “FFN neuron L28.F29” is the term and an example
    term = name[: label.start()] if label else name
    assert term in TERMS
    if label:
        assert Neuron.parse(label[1]).kind == term.split()[0].lower()


@pytest.mark.parametrize("name", TERMS)
def test_a_term_is_one_or_two_plain_sentences(name):
    plain = TERMS[name]
    sentences = re.split(r"(?<=[.:]) (?=[A-Z])", plain)
    assert plain.endswith(".")
    assert len(sentences) <= 2
    assert len(plain) <= 240
    assert not re.search(r"[βγ∇Σ=]", plain)


@pytest.mark.parametrize("page", PAGES.values(), ids=lambda page: page.name)
def test_a_page_explains_itself_in_few_lines(page):
    assert 1 <= len(page.about) <= 3
    assert page.terms
    assert set(page.terms) <= set(TERMS)
    assert len(set(page.terms)) == len(page.terms)


def test_every_term_is_explained_somewhere():
    used = {name for page in PAGES.values() for name in page.terms}
    common, of_the_shell = {"layer", "logit"}, {"removed", "gradient", "measured effect"}
    assert set(TERMS) - used <= common | of_the_shell  # words that all know, and what no page shows


@pytest.mark.parametrize("page", PAGES)
def test_every_page_shows_it(toy_page, page):
    app = toy_page(page)
    (popover,) = [one for one in app.get("popover") if one.proto.popover.label == "What am I looking at?"]
    shown = " ".join(element.value for element in popover.markdown).replace("\\", "")
    assert PAGES[page].about[0] in shown
    assert all(TERMS[name] in shown for name in PAGES[page].terms)
