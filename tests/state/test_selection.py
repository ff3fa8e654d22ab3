"""A selection survives the address; whatever else stands there is left out with a notice."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from app.state.address import EVERY, MAX_TOKENS, Limits, Of, left_out, pack, shared_by
from app.state.selections import (
    MAX_TOP,
    CompareSelection,
    ManySelection,
    NeuronSelection,
    PromptSelection,
    Rule,
    SearchSelection,
    Section,
    SteerSelection,
)
from app.ui.pages import PAGES
from db.neuron import NeuronKind, Sign
from db.questions import Order
from tests.catalogues import make_catalogue

LIMITS = Limits(vocabulary=1000, layers=12)
WORDS = some.text(some.characters(exclude_categories=["Cs"]), max_size=50)
TOKENS = some.lists(some.integers(0, 999), unique=True, max_size=MAX_TOKENS).map(tuple)
LAYERS = some.tuples(some.integers(0, 11), some.integers(0, 11)).map(lambda pair: (min(pair), max(pair)))

SEARCHES = some.builds(
    SearchSelection,
    text=WORDS,
    tokens=some.none() | TOKENS,
    sign=some.none() | some.sampled_from(Sign),
    kind=some.none() | some.sampled_from(NeuronKind),
    layers=some.none() | LAYERS,
    order=some.sampled_from(Order),
    page=some.integers(1, 1000),
)
PROMPTS = some.builds(
    PromptSelection,
    prompt=WORDS,
    target=some.none() | some.integers(0, 999),
    position=some.none() | some.integers(0, 255),
    top=some.integers(1, MAX_TOP),
    rule=some.sampled_from(Rule),
)
_NAMES = ["q", "t", "sign", "kind", "layers", "order", "page", "p", "target", "at", "k", "rule", "n"]
NEURONS = some.builds(
    NeuronSelection,
    label=some.sampled_from(["L0.F1", "L11.H2.N3", "nonsense", ""]),
    origin=PROMPTS.map(lambda prompt: prompt if prompt.prompt else PromptSelection()),
)


@given(SEARCHES)
def test_a_search_comes_back_from_its_address(selection):
    assert SearchSelection.read(selection.params(), LIMITS) == (selection, [])


@given(PROMPTS)
def test_a_prompt_comes_back_from_its_address(selection):
    assert PromptSelection.read(selection.params(), LIMITS) == (selection, [])


@given(NEURONS)
def test_a_neuron_comes_back_from_its_address(selection):
    assert NeuronSelection.read(selection.params(), LIMITS) == (selection, [])


@pytest.mark.parametrize("page", [page for page in PAGES.values() if page.selection], ids=lambda page: page.name)
def test_what_no_page_reads_is_named(page):
    shared = {"model": "demo", "b": "1a2b~20260131", "v": "1", "embed": "true"}
    given = {"prompt": "a", "Target": "3", "x\u202ey": "", **shared}
    (notice,) = page.selection.read(given, LIMITS)[1]
    assert "prompt, Target, x⟨U+202E⟩y were left out: this page has no such parameters" in notice
    assert page.selection.read({**given, "v": "2"}, LIMITS)[1] == [NEWER]


NEWER = "This link was made by a newer version of Neuron Atlas: what this one does not know was left out."


def test_a_long_text_is_read_plain_and_packed_and_a_short_one_is_not():
    assert PromptSelection.read({"pz": pack("a b")}, LIMITS) == (PromptSelection("a b"), [])
    assert "atz was left out" in PromptSelection.read({"p": "a", "atz": "1"}, LIMITS)[1][0]
    assert "c, d, e, f, g and 3 more were" in left_out(dict.fromkeys("bcdefghij", ""))[0]


@given(some.dictionaries(some.sampled_from(_NAMES), some.text()))
def test_reading_never_fails(params):
    for kind in (SearchSelection, PromptSelection, NeuronSelection):
        selection, _ = kind.read(params, LIMITS)
        assert kind.read(selection.params(), LIMITS) == (selection, [])


def test_defaults_are_left_out_of_the_address():
    assert SearchSelection().params() == PromptSelection().params() == NeuronSelection().params() == {}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("t", "5,x", "token ids from 0 to 999"),
        ("t", "1000", "token ids from 0 to 999"),
        ("t", ",".join(map(str, range(MAX_TOKENS + 1))), f"up to {MAX_TOKENS}"),
        ("t", "9" * 100_000, "token ids"),
        ("sign", "ups", "promotes or suppresses"),
        ("kind", "FFN", "ffn or attention"),
        ("layers", "3", "within 0-11"),
        ("layers", "5-12", "within 0-11"),
        ("layers", "5-2", "within 0-11"),
        ("order", "size", "z or rank or logit"),
        ("page", "0", "from 1"),
        ("page", "١", "whole number"),
        ("q", "x" * 1001, "1,001 characters"),
        ("q", "\ud800", "Unicode"),
    ],
)
def test_what_cannot_be_meant_is_left_out_and_named(name, value, expected):
    selection, notices = SearchSelection.read({name: value}, LIMITS)
    assert selection == SearchSelection()
    (notice,) = notices
    assert expected in notice
    assert len(notice) < 250


def test_a_notice_shows_hostile_text_as_marks():
    _, (notice,) = SearchSelection.read({"kind": "a\u202eb\n"}, LIMITS)
    assert "a⟨U+202E⟩b↵" in notice


def test_a_repeated_token_counts_once():
    assert SearchSelection.read({"t": "3,3,1"}, LIMITS)[0].tokens == (3, 1)


def test_a_section_is_open_where_it_was_left_so():
    place = PromptSelection.read({"p": "x", "open": "sure,flow"}, LIMITS)[0].place
    assert [one for one in Section if place.shows(one)] == [Section.FLOW, Section.SURE]
    assert place.turned(Section.SURE, False).open == (Section.FLOW,)
    assert place.turned(Section.MAP, True).open == (Section.FLOW, Section.MAP, Section.SURE)
    assert place.within(3).open == place.at_start().open == place.open
    lens = PromptSelection.read({"p": "x", "map": "lens"}, LIMITS)[0].place
    assert lens.shows(Section.MAP)
    closed = lens.turned(Section.MAP, False)
    assert not closed.shows(Section.MAP)
    assert PromptSelection.read(PromptSelection("x", place=closed).params(), LIMITS)[0].place == closed


@pytest.mark.parametrize(
    ("kind", "params", "anywhere", "tokens", "parts"),
    [
        (PromptSelection, {"p": "x", "k": "7", "target": "5", "at": "2", "head": "L1.H0"}, "p k", "target at", "head"),
        (PromptSelection, {"p": "x", "open": "map", "layer": "3"}, "p open", "", "layer"),
        (
            SearchSelection,
            {"q": "x", "sign": "promotes", "t": "5", "layers": "0-3", "z": "2"},
            "q sign z",
            "t",
            "layers",
        ),
        (NeuronSelection, {"n": "L1.F2", "p": "x", "not": "7", "try": "y"}, "p try", "not", "n"),
        (CompareSelection, {"p": "x", "p2": "y", "target2": "5", "zero": "L1.H0,ffn:10"}, "p p2", "target2", "zero"),
        (SteerSelection, {"p": "x", "do": "L1.F2=4", "n": "8"}, "p n", "", "do"),
        (ManySelection, {"ps": "x\ny", "least": "2", "layers": "1-2"}, "ps least", "", "layers"),
    ],
)
def test_another_model_keeps_what_means_the_same_there(kind, params, anywhere, tokens, parts):
    selection, notices = kind.read(params, LIMITS)
    assert not notices
    for of, kept in (
        ({Of.ANY}, anywhere),
        ({Of.ANY, Of.TOKENIZER}, f"{anywhere} {tokens}"),
        ({Of.ANY, Of.SHAPE}, f"{anywhere} {parts}"),
        (EVERY, f"{anywhere} {tokens} {parts}"),
    ):
        assert set(selection.params(of)) == set(kept.split())


def test_models_share_what_their_stamps_say(tmp_path):
    own = make_catalogue(tmp_path).stamp
    assert shared_by(own, replace(own, model="other", checkpoint="others", build_id="two")) == EVERY
    assert shared_by(own, replace(own, tokenizer_hash="other")) == {Of.ANY, Of.SHAPE}
    for name in ("layers", "d_model", "heads", "head_dim", "ffn_neurons", "attention_neurons"):
        changed: Any = {name: 999}
        assert shared_by(own, replace(own, **changed)) == {Of.ANY, Of.TOKENIZER}
