"""Each page, run without a browser: what it shows is what the library says, and nothing in an address breaks it."""

from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import pytest
from streamlit.testing.v1 import AppTest

from app.attribution import analyse, load
from app.serving.settings import configuration
from app.ui import components
from db.catalogue.builds import find_catalogue
from db.catalogue.store import Catalogue
from db.neuron import Neuron, Sign
from db.questions import Filters
from tests.pages import component, crossed, texts

PAGES = ("start", "search", "neuron", "prompt")
PROMPT = "The river runs to"
HOSTILE = "<script>alert(1)</script>$x$:red[a]:smile:`*_\u202e\x00'; DROP TABLE token; --"
PARAMETERS = ("q", "t", "sign", "kind", "layers", "order", "page", "p", "target", "at", "k", "rule", "n", "model")


@pytest.fixture
def catalogue(small_folders):
    with Catalogue.open(find_catalogue(small_folders[1])) as opened:
        yield opened


@pytest.fixture(scope="session")
def analysis(small_folders):
    return analyse(load(str(small_folders[0] / "llama")), PROMPT)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_without_parameters(small_page, page):
    app = small_page(page)
    assert app.title
    assert not app.warning


@pytest.mark.parametrize(
    ("page", "value"),
    crossed(PAGES, ["", "nonsense", "-1", "99999999999999999999", "x" * 100_000, HOSTILE, "0,1,2"]),
)
def test_any_value_of_any_parameter_is_survived(toy_page, page, value):
    app = toy_page(page, **dict.fromkeys(PARAMETERS, value))
    assert app.title
    assert "fault of ours" not in texts(app)


@pytest.mark.parametrize("value", ["nonsense", "99999999999999999999", HOSTILE])
@pytest.mark.parametrize("name", ["target", "at", "k", "rule"])
def test_a_prompt_survives_wrong_company(small_page, name, value):
    app = small_page("prompt", p=PROMPT, **{name: value})
    assert f"{name}=" in texts(app)
    assert component(app, "predictions")["items"]


@pytest.mark.parametrize(
    ("page", "params", "named"),
    [
        ("start", {}, "llama — Neuron Atlas"),
        ("search", {}, "Search — Neuron Atlas"),
        ("search", {"q": " river"}, "␣river — Search — Neuron Atlas"),
        ("search", {"q": "river, road\u202e", "by": "concept"}, "river, road⟨U+202E⟩ — Search — Neuron Atlas"),
        ("search", {"t": "70,71"}, "{70}, {71} — Search — Neuron Atlas"),
        ("token", {}, "Token — Neuron Atlas"),
        ("token", {"t": "70"}, "Token {70} — Neuron Atlas"),
        ("neuron", {"n": "l1.f3"}, "L1.F3 — Neuron Atlas"),
        ("neuron", {"n": "nonsense"}, "Neuron — Neuron Atlas"),
        ("prompt", {}, "Prompt — Neuron Atlas"),
        ("prompt", {"p": PROMPT, "target": "70"}, "The river runs to →{70 as text} — Neuron Atlas"),
        ("compare", {"p": PROMPT, "zero": "L1.H2"}, "The river runs to | without L1.H2 — Compare — Neuron Atlas"),
        ("many", {"set": "imports"}, "imports — Many prompts — Neuron Atlas"),
        ("saved", {"q": "geography"}, "geography — Saved — Neuron Atlas"),
        ("gallery", {}, "Gallery — Neuron Atlas"),
        ("overview", {}, "llama — Overview — Neuron Atlas"),
    ],
)
def test_the_tab_says_what_the_page_shows(small_page, catalogue, monkeypatch, page, params, named):
    seen = []
    monkeypatch.setattr("streamlit.set_page_config", lambda page_title, **_: seen.append(page_title))
    small_page(page, **params)
    for number, token in catalogue.tokens([70, 71]).items():
        named = named.replace(f"{{{number} as text}}", token.display.replace("␣", " "))
        named = named.replace(f"{{{number}}}", token.display)
    assert seen[-1] == named


@pytest.mark.parametrize("page", ["start", "search", "token", "neuron", "prompt", "saved", "overview"])
def test_every_page_links_to_the_api_the_paper_and_the_source(small_page, monkeypatch, page):
    links = "[HTTP API](api/)  ·  [The paper, arXiv 2312.12141](https://arxiv.org/abs/2312.12141)"
    assert links in [one.value for one in small_page(page).markdown]  # nobody has said where the source is
    monkeypatch.setenv("ATLAS_SOURCE_URL", "https://example.org/atlas")
    configuration.cache_clear()
    assert f"{links}  ·  [Source](https://example.org/atlas)" in [one.value for one in small_page(page).markdown]


def test_search_lists_what_the_catalogue_finds(small_page, catalogue):
    ids = [token.token_id for token in catalogue.resolve("river").matched]
    hits = catalogue.search_token(ids, Filters(sign=Sign.PROMOTES), limit=50)
    app = small_page("search", q="river", sign="promotes")
    rows = component(app, "hits")["rows"]
    assert [row["cells"][0]["text"] for row in rows] == [hit.neuron.label for hit in hits]
    assert {row["cells"][1]["tone"] for row in rows} == {"promotes"}
    tokens = list(catalogue.tokens(ids).values())
    assert Filters(sign=Sign.PROMOTES).describe(tokens) in "".join(one.value for one in app.markdown).replace("\\", "")


def test_a_removed_token_is_searched_for_no_more(small_page, catalogue):
    chips = component(small_page("search", t="70,71,72"), "tokens")["items"]
    assert [chip["text"] for chip in chips] == [token.display for token in catalogue.tokens([70, 71, 72]).values()]
    assert parse_qs(urlsplit(chips[1]["href"]).query) == {"t": ["70,72"]}


def test_a_text_of_several_tokens_offers_its_pieces(small_page):
    app = small_page("search", q="river blue", by="token")
    assert "not one token" in texts(app)
    assert all(item["href"].startswith("search?t=") for item in component(app, "pieces")["items"])


def test_the_pages_of_a_result_go_on_where_the_last_one_ended(small_page, catalogue):
    every = catalogue.search_token([70, 71, 72], limit=1000)
    assert len(every) > 50, "the example has to have a second page"
    app = small_page("search", t="70,71,72", page="2")
    assert [row["cells"][0]["text"] for row in component(app, "hits")["rows"]] == [
        hit.neuron.label for hit in every[50:100]
    ]
    first, *_ = pages = component(app, "pages")["items"]
    assert first["text"] == "← Previous"
    assert "page" not in parse_qs(urlsplit(first["href"]).query)
    last = -(-len(every) // 50)
    assert [page["text"] for page in pages if page["text"].isdecimal()][-1] == str(last)
    assert ("Next →" in [page["text"] for page in pages]) == (last > 2)
    (onwards,) = [
        page for page in component(small_page("search", t="70,71,72"), "pages")["items"] if "Next" in page["text"]
    ]
    assert parse_qs(urlsplit(onwards["href"]).query)["page"] == ["2"]


def test_a_condition_goes_into_the_address(small_page):
    app = small_page("search", q="river")
    app.text_input(key="search_text").set_value("road").run()
    assert app.query_params["q"] == "road"
    app.slider(key="search_layers").set_value((1, 2)).run()
    assert app.query_params["layers"] == "1-2"
    assert not app.exception


def test_a_neuron_shows_its_card(small_page, catalogue):
    card = catalogue.neuron(Neuron.ffn(1, 3))
    app = small_page("neuron", n="l1.f3")
    assert app.title[0].value.replace("\\", "") == "L1.F3 · FFN neuron of layer 1"
    for end, entries in (("promotes", card.top), ("suppresses", card.bottom)):
        shown = [item["text"] for item in component(app, f"end_{end}")["items"]]
        assert shown == [entry.token.display for entry in entries[: len(shown)]]


@pytest.mark.parametrize("label", ["L99.F0", "L0.F9999", "hello", "L0", "$x$"])
def test_an_unknown_neuron_is_named_with_what_to_do(small_page, label):
    app = small_page("neuron", n=label)
    assert label in texts(app)


def test_a_prompt_is_explained(small_page, analysis):
    app = small_page("prompt", p=PROMPT)
    assert [item["text"] for item in component(app, "tokens")["items"]] == [token.display for token in analysis.tokens]
    shown = [bar["chip"]["text"] for bar in component(app, "predictions")["items"]]
    assert shown == [one.token.display for one in analysis.predictions]
    for kind, found in (("ffn", analysis.ffn_value_neurons), ("attention", analysis.attention_value_neurons)):
        rows = component(app, f"neurons_{kind}")["rows"]
        assert [row["cells"][0]["text"] for row in rows] == [one.neuron.label for one in found]


def test_a_neuron_opened_from_a_prompt_shows_its_part_in_it(small_page, analysis):
    rows = component(small_page("prompt", p=PROMPT), "neurons_ffn")["rows"]
    params = {name: values[0] for name, values in parse_qs(urlsplit(rows[0]["href"]).query).items()}
    app = small_page("neuron", **params)
    first = analysis.ffn_value_neurons[0]
    heads = [element.value for element in app.header]
    raised = "Promotes" if first.activation > 0 else "Suppresses"
    assert heads[0].startswith(f"{raised}, raised on this prompt")
    back = component(app, "paths")["items"][-1]["href"]
    assert parse_qs(urlsplit(back).query) == {"p": [PROMPT]}


def test_figures_beside_a_token_from_right_to_left_stay_on_their_side_in_hints_too():
    def page() -> None:
        from app.ui.components import Chip, as_data, chip, chips, mount

        chips([chip("␣\u05d0", hint="rank 3")], key="chips", label="tokens")
        mount("table", {"rows": [{"cells": [as_data(Chip("a", hint="“\u05d0” (5 %)"))]}]}, "table")

    app = AppTest.from_function(page).run()
    assert not app.exception
    assert component(app, "chips")["items"][0]["hint"] == "␣\u2067\u05d0\u2069  rank 3"
    assert component(app, "table")["rows"][0]["cells"][0]["hint"] == "“\u2067\u05d0\u2069” (5 %)"


def test_typed_targets_are_told_apart_from_chosen_ones(monkeypatch):
    """The browser may send anything: an id as digits, a text after an equals sign, or neither."""
    sent = {"0": 0, "12": 12, "=12": "12", "= the": " the", "=": None, "": None, "nonsense": None, "9" * 30: None}
    for value, meant in sent.items():
        answer = SimpleNamespace(opened=None, typed=None, sent=value)
        monkeypatch.setattr(components, "mount", lambda *_, answer=answer: answer)
        found = components.token_field("x", placeholder="", options=lambda _: (), origin="", key="k")
        assert found == meant


def test_what_was_typed_for_another_text_is_not_taken(monkeypatch):
    for state, text in (
        ({"text": "The sea is", "origin": PROMPT}, "The sea is"),
        ({"text": "The sea is", "origin": "another"}, PROMPT),
        ({"text": 7, "origin": PROMPT}, PROMPT),
        ("nonsense", PROMPT),
        ({"text": "\ud800 x", "origin": PROMPT}, " x"),
    ):
        answer = SimpleNamespace(opened=None, typed=state, sent=None)
        monkeypatch.setattr(components, "mount", lambda *_, answer=answer: answer)
        typed = components.prompt_box(PROMPT, longest=100, placeholder="", key="k")
        assert (typed.text, typed.sent) == (text, None)


def test_a_text_that_is_too_long_is_said_and_not_cut(monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(components, "warn", said.extend)
    for state, sent in (({"text": "a" * 101, "origin": PROMPT}, None), (None, "a" * 101)):
        answer = SimpleNamespace(opened=None, typed=state, sent=sent)
        monkeypatch.setattr(components, "mount", lambda *_, answer=answer: answer)
        typed = components.prompt_box(PROMPT, longest=100, placeholder="", key="k")
        assert (typed.text, typed.sent) == (PROMPT, None)
    assert said == ["The text has 101 characters; at most 100 are read. Shorten it."] * 2


def test_an_unusable_prompt_is_one_notice_without_options_of_the_shell(small_page):
    app = small_page("prompt", p="word " * 400)
    assert len(app.error) == 1
    assert "Shorten it." in texts(app)
    assert "--" not in texts(app)


def test_white_space_is_explained(small_page):
    assert not small_page("prompt", p=" ").error


def test_what_the_address_holds_and_no_page_reads_is_said(small_page):
    for page in ("", "gallery", "prompt"):
        assert "prmpt was left out: this page has no parameter of that name" in texts(
            small_page(page or "start", prmpt="x")
        )


def test_without_its_model_a_catalogue_still_serves(toy_page):
    assert component(toy_page("search", q="Paris"), "tokens")["items"]
    assert len(toy_page("prompt", p="Paris").error) == 1


def test_without_a_catalogue_the_page_says_what_to_run(tmp_path, monkeypatch, toy_page):
    monkeypatch.setenv("ATLAS_CATALOGUE", str(tmp_path))
    assert "make index" in texts(toy_page("search"))


def test_a_defect_of_ours_is_one_notice_and_a_line_in_the_log(toy_page, monkeypatch, caplog):
    monkeypatch.setattr("app.serving.resources.catalogue", lambda *_: 1 / 0)
    app = toy_page("search")
    assert "fault of ours" in texts(app)
    assert "ZeroDivisionError" in caplog.text


def test_what_the_tokenizer_added_is_said_and_can_be_left_out(small_page):
    shown = small_page("prompt", p=PROMPT)
    assert any("put “\\<s\\>” before the text" in one.value for one in shown.caption), [
        one.value for one in shown.caption
    ]
    without = small_page("prompt", p=PROMPT, bos="0")
    assert any("was left out" in one.value for one in without.caption)
    tokens = [[item["text"] for item in component(app, "tokens")["items"]] for app in (shown, without)]
    assert tokens[1] == tokens[0][1:]


def test_a_prompt_can_be_a_users_message(small_page):
    def tokens(app, key="tokens"):
        return [item["text"] for item in component(app, key)["items"]]

    asked = {"p": PROMPT, "open": "settings"}
    plain, shown = small_page("prompt", **asked), small_page("prompt", **asked, chat="1")
    assert tokens(shown)[: len(tokens(plain))] == tokens(plain)
    assert tokens(shown)[-1] == "␣the"
    assert any("chat template" in one.value for one in shown.caption)
    assert all("chat=1" in item["href"] for item in component(shown, "tokens")["items"])
    assert shown.toggle(key="prompt_bos").disabled
    assert not plain.toggle(key="prompt_bos").disabled
    neuron = small_page("neuron", n="L1.F2", p=PROMPT, chat="1")
    assert tokens(neuron, "origin") == tokens(shown)
    assert "chat=1" in component(neuron, "explain_trial")["items"][0]["href"]
    shown.toggle(key="prompt_chat").set_value(False).run()
    assert "chat" not in shown.query_params
    compared = small_page("compare", p=PROMPT, zero="L1.ffn", chat="1")
    assert tokens(compared, "tokens_first")[-1] == tokens(compared, "tokens_second")[-1] == "␣the"


def test_many_prompts_can_be_users_messages(small_page):
    app = small_page("many", ps="The sea\nThe road", chat="1")
    opened = [row["href"] for row in component(app, "said")["rows"]]
    assert len(opened) == 2
    assert all("chat=1" in one for one in opened)
    assert app.toggle(key="many_chat").value is True


def test_what_stands_twice_in_the_address_is_said(small_page):
    app = small_page("prompt", p=["The hill", PROMPT])
    assert "In the address, p stands more than once: the last one was taken." in texts(app)
    assert not texts(small_page("prompt", p=PROMPT))
    assert component(app, "tokens") == component(small_page("prompt", p=PROMPT), "tokens")
