"""A model whose tokens are markup, directives, formulas and broken text: shown as text, and text in files too."""

import csv
import io
import json
import re
import unicodedata

import pandas as pd
import pytest
import streamlit as st

from app.state.selections import By
from db.catalogue.builds import find_catalogue
from db.catalogue.export import as_bytes, card_frame, frame_of
from db.catalogue.store import Catalogue
from db.neuron import Neuron
from db.records import ConceptNeuron, Hit, Neighbour, SimilarNeuron
from tests.nasty import BYTES, FORMULAS, MARKDOWN, MARKUP, NASTY, NASTY_DISPLAYS, STREAMLIT, TEXTS, save_nasty
from tests.pages import component, run_page, texts

pytestmark = pytest.mark.fuzz

EVERY = range(len(NASTY))
ESCAPED = re.compile(r"\\([!-/:-@\[-`{-~])")
SPEAKING = [text for text in (*MARKUP, *MARKDOWN, *STREAMLIT) if len(text) > 4]
"""Texts that Markdown, HTML or Streamlit would read as something else, and that no sentence of ours holds."""
PROMPTS = [*MARKUP, *MARKDOWN, *STREAMLIT, "\x00", "a\x00b", "\u202eevil", "=1+1", "\\", '"']


@pytest.fixture(scope="session")
def nasty_root(tmp_path_factory):
    return save_nasty(tmp_path_factory.mktemp("nasty"))


@pytest.fixture
def nasty_page(nasty_root, monkeypatch):
    monkeypatch.setenv("ATLAS_MODELS", str(nasty_root / "models"))
    monkeypatch.setenv("ATLAS_CATALOGUE", str(nasty_root / "catalogue"))
    yield run_page
    st.cache_resource.clear()


@pytest.fixture
def atlas(nasty_root):
    with Catalogue.open(find_catalogue(nasty_root / "catalogue")) as opened:
        yield opened


def assert_literal(app):
    """Nothing failed, and no sentence holds a text in a form that would be read as more than text."""
    assert "fault of ours" not in texts(app)
    sentences = [
        element.value
        for element in (
            *app.markdown, *app.caption, *app.title, *app.header, *app.error, *app.warning, *app.info
        )
    ]  # fmt: skip
    labels = [element.label for element in (*app.expander, *app.button, *app.text_input, *app.selectbox, *app.toggle)]
    html = [element.proto.body for element in app.get("html")]
    for said in (*sentences, *labels):
        for text in SPEAKING:
            assert text not in said, f"{text!r} is not escaped in {said[:200]!r}"
    for said in html:
        assert not any(text in said for text in MARKUP), said[:300]


def test_the_catalogue_holds_the_tokens_as_they_are(atlas):
    assert [atlas.bytes_of(token_id) for token_id in EVERY] == list(NASTY)
    shown = [token.display for token in atlas.tokens(EVERY).values()]
    assert shown == list(NASTY_DISPLAYS)
    assert len(set(shown)) == len(NASTY), "tokens that differ have to look different"
    assert not any(unicodedata.category(one)[0] == "C" for text in shown for one in text)


@pytest.mark.parametrize("token_id", [*range(len(SPEAKING)), *EVERY[len(SPEAKING) :: 3]])
def test_the_page_of_every_token(nasty_page, token_id):
    app = nasty_page("token", t=str(token_id))
    assert_literal(app)
    said = ESCAPED.sub(r"\1", app.title[0].value.replace("\u2060", ""))
    shown = said.removeprefix("Token ").removesuffix("…")
    assert NASTY_DISPLAYS[token_id].startswith(shown)


@pytest.mark.parametrize("text", TEXTS[1::5])
def test_a_typed_text_is_searched_as_it_is(nasty_page, text):
    assert_literal(nasty_page("search", q=text, by="token"))


@pytest.mark.parametrize("text", SPEAKING[::4])
def test_a_typed_text_is_a_concept_as_it_is(nasty_page, text):
    assert_literal(nasty_page("search", q=f"{text} {SPEAKING[0]}", by="concept"))


def test_many_tokens_at_once(nasty_page):
    app = nasty_page("search", t=",".join(map(str, range(60))))
    assert_literal(app)
    assert [item["text"] for item in component(app, "tokens")["items"]][3] == "<b>bold</b>"
    assert_literal(nasty_page("search", by="concept", add="0,1,2,14,15,16", avoid="24,25", drop="3,4", head="0"))


@pytest.mark.parametrize("label", ["L0.F0", "L1.F7", "L1.H0.N3"])
def test_a_neuron_with_nasty_tokens_on_a_nasty_prompt(nasty_page, label):
    assert_literal(nasty_page("neuron", n=label))
    assert_literal(nasty_page("neuron", n=label, p="".join(MARKUP[:6]), **{"try": "".join(MARKDOWN)}))


PLACES = [{}, {"map": "lens", "not": "3"}, {"head": "L1.H0", "from": "1"}, {"show": "query"}, {"show": "lowered"}]


@pytest.mark.parametrize("place", PLACES)
def test_a_nasty_prompt_is_explained(nasty_page, place):
    app = nasty_page("prompt", p="".join(PROMPTS[:40]), k="20", **place)
    assert_literal(app)
    assert not app.error, texts(app)


@pytest.mark.parametrize("prompt", PROMPTS[::3])
def test_each_nasty_prompt_alone(nasty_page, prompt):
    assert_literal(nasty_page("prompt", p=prompt, k="3"))


def test_many_nasty_prompts_and_those_that_fail(nasty_page):
    lines = "\n".join([f"{MARKUP[0]}\t{MARKUP[1]}", f"{MARKDOWN[2]}\tno such token", STREAMLIT[0], FORMULAS[0]])
    app = nasty_page("many", ps=lines)
    assert_literal(app)
    assert any("could not be explained" in one.label for one in app.expander)


@pytest.mark.parametrize("page", ["start", "overview"])
def test_pages_that_list_tokens(nasty_page, page):
    assert_literal(nasty_page(page))


@pytest.mark.parametrize("name", ["q", "t", "n", "p", "kind", "model", "b", "v", "set", "role", "at", "order"])
@pytest.mark.parametrize("page", ["search", "prompt", "many", "neuron"])
def test_notices_hold_what_was_given_as_text(nasty_page, page, name):
    for given in (MARKUP[0], MARKDOWN[2], ":red[red]"):
        assert_literal(nasty_page(page, **{name: given}))


# Files


def as_spreadsheet(data: bytes) -> list[list[str]]:
    """Cells as a spreadsheet takes them from CSV."""
    return list(csv.reader(io.StringIO(data.decode("utf-8"), newline="")))


def is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def assert_no_formula(data: bytes, rows: int) -> None:
    cells = as_spreadsheet(data)
    assert len(cells) == rows + 1, "a line break in a token must not begin a row"
    assert len({len(row) for row in cells}) == 1
    for cell in (cell for row in cells for cell in row if not is_number(cell)):
        bare = unicodedata.normalize("NFKC", cell).lstrip(" \t\r\n\x0b\x0c\ufeff")
        assert not bare.startswith(("=", "+", "-", "@")), cell
        assert not cell.startswith(("\t", "\r", "\n")), repr(cell)


def frames(atlas):
    ids = list(EVERY)
    yield frame_of(Hit, atlas.search_token(ids[:60], limit=100_000))
    yield frame_of(Hit, atlas.search_token(ids[60:], limit=100_000))
    yield frame_of(ConceptNeuron, atlas.concept_neurons(atlas.concept_of(dict.fromkeys(ids[:100], 1.0)), limit=100_000))
    for neuron in (Neuron.ffn(0, 0), Neuron.attention(1, 0, 3)):
        yield card_frame(atlas.neuron(neuron))
        yield frame_of(SimilarNeuron, atlas.similar(neuron))
    for token_id in (0, TEXTS.index("=1+1")):
        yield frame_of(Neighbour, atlas.neighbours(token_id))


def test_no_cell_of_a_csv_file_is_a_formula(atlas):
    for frame in frames(atlas):
        assert len(frame)
        assert_no_formula(as_bytes(frame, "csv"), len(frame))


def test_raw_texts_are_kept_apart_too():
    frame = pd.DataFrame({"token": TEXTS, "number": range(len(TEXTS)), "score": -1.5})
    assert_no_formula(as_bytes(frame, "csv"), len(frame))
    kept = [row[0] for row in as_spreadsheet(as_bytes(frame, "csv"))[1:]]
    assert [cell.removeprefix("'") for cell in kept] == [text.removeprefix("'") for text in TEXTS]
    assert [cell != text for cell, text in zip(kept, TEXTS, strict=True)].count(True) >= len(FORMULAS) - 1
    assert {row[2] for row in as_spreadsheet(as_bytes(frame, "csv"))[1:]} == {"-1.5"}, "numbers stay numbers"


def test_json_and_parquet_are_exact(atlas):
    frame = card_frame(atlas.neuron(Neuron.ffn(0, 0)))
    read = json.loads(as_bytes(frame, "json"))
    assert [row["token"] for row in read] == frame["token"].tolist()
    packed = pd.read_parquet(io.BytesIO(as_bytes(frame, "parquet")))
    assert packed["token"].tolist() == frame["token"].tolist()


def test_a_command_in_the_page_is_one_word_for_each_text(nasty_page):
    import shlex

    for text in (*FORMULAS, *MARKUP, "$(reboot)", "`reboot`", "a;b", "--to=/etc/passwd", "-x"):
        from app.answers.search import command
        from app.state.selections import SearchSelection

        said = command(SearchSelection(text), By.TOKEN, "nasty")
        assert said is not None
        assert shlex.split(said)[-1] == text
        assert shlex.split(said)[-2] == "--", "what begins with a dash is no option"


def test_partial_characters_are_shown_as_bytes():
    assert NASTY_DISPLAYS[-len(BYTES)] == "⟨E4⟩"
