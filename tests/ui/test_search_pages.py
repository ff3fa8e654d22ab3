"""Concepts, tokens, the overview and a neuron's relatives: what they show is the library's, whatever the address."""

import base64
import io
import shutil
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pandas as pd
import pytest
import streamlit as st

from app.answers import search
from app.answers.neuron import layer_neighbours
from app.answers.search import concept_sentence, order_of
from app.state.address import Limits
from app.state.selections import By, OverviewSelection, SearchSelection, TokenSelection
from app.ui.pages import PAGES
from db.catalogue.builds import find_catalogue
from db.catalogue.concepts import families, without_families
from db.catalogue.export import as_bytes
from db.catalogue.store import Catalogue
from db.groups import Group, GroupedBy, NeuronMap, write_maps
from db.neuron import Neuron, NeuronKind, Sign
from db.questions import Filters
from tests.catalogues import make_catalogue
from tests.pages import component, crossed, run_page, texts
from tests.texts import give_texts

HOSTILE = "<script>alert(1)</script>$x$:red[a]:smile:`*_\u202e\x00'; DROP TABLE token; --"
SEARCHED = (
    *("by", "t", "add", "avoid", "drop", "near", "sign", "kind", "layers", "head", "z", "depth", "order", "reverse"),
    *("exact", "page", "fam"),
)
"""What a search reads beside its text."""
NAMES = [
    *("q", *SEARCHED, "n", "model", "alike", "keys", "try", "tryz", "p", "pz", "p2", "at", "at2", "target", "target2"),
    *(
        "from",
        "not",
        "k",
        "rule",
        "map",
        "layer",
        "part",
        "own",
        "read",
        "through",
        "tables",
        "show",
        "set",
        "ps",
        "psz",
    ),
    *("role", "least", "zero", "b", "v", "text", "shade", "group"),
]
"""Every parameter of every page."""
LIMITS = Limits(vocabulary=40, layers=3, heads=2)


@pytest.fixture
def toy(toy_root):
    with Catalogue.open(find_catalogue(toy_root)) as opened:
        yield opened


@pytest.fixture
def small(small_folders):
    with Catalogue.open(find_catalogue(small_folders[1])) as opened:
        yield opened


def href(item) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(item["href"]).query).items()}


def labels(app, key="hits") -> list[str]:
    return [row["cells"][0]["text"] for row in component(app, key)["rows"]]


def said_on(app) -> str:
    return " ".join(element.value for element in app.markdown).replace("\\", "")


def has(app, key) -> bool:
    return any(element.proto.id.endswith(f"-{key}") for element in app.get("bidi_component"))


@pytest.mark.parametrize(
    ("page", "value"),
    crossed(PAGES, ["", "nonsense", "-1", "1e308", "9" * 20, "x" * 100_000, HOSTILE, "0,1,2", "nan", "1"]),
)
def test_any_value_of_any_parameter_is_survived(toy_page, page, value):
    app = toy_page(page, **dict.fromkeys(NAMES, value))
    assert app.title
    assert "fault of ours" not in texts(app)


@pytest.mark.parametrize(
    ("name", "value"), crossed([name for name in NAMES if name in SEARCHED], ["nonsense", "-1", "9" * 20, HOSTILE])
)
def test_a_good_search_survives_wrong_company(toy_page, name, value):
    app = toy_page("search", **{"q": "Python code", "by": "concept", name: value})
    assert f"{name}=" in texts(app)
    assert "fault of ours" not in texts(app)


def test_one_token_is_searched_as_a_token_and_several_words_as_a_concept(toy_page):
    assert has(toy_page("search", q="Paris"), "tokens")
    assert has(toy_page("search", q="Python code"), "concept_own")
    assert has(toy_page("search", q="Paris", by="concept"), "concept_own")
    assert "not one token" in texts(toy_page("search", q="Paris code", by="token"))


def test_a_concept_shows_what_the_library_finds(toy_page, toy):
    concept = toy.concept("Python code")
    expected = toy.concept_neurons(concept, Filters(sign=Sign.PROMOTES), limit=50)
    app = toy_page("search", q="Python code", sign="promotes")
    rows = component(app, "hits")["rows"]
    assert labels(app) == [found.neuron.label for found in expected]
    assert [row["cells"][1]["text"] for row in rows] == [f"{found.score:.2f}" for found in expected]
    assert [row["cells"][2]["text"] for row in rows] == [str(len(found.matched)) for found in expected]
    for family in families(concept):
        every = component(app, f"every_{family[0].token.token_id}")["items"]
        assert [chip["text"] for chip in every] == [entry.token.display for entry in family]
    shown = [chip["text"] for key in ("own", "near") if has(app, f"concept_{key}") for chip in _items(app, key)]
    assert shown == [family[0].token.display for family in families(concept)][: len(shown)]
    said = concept_sentence(concept, SearchSelection("Python code", sign=Sign.PROMOTES))
    assert said.startswith("Neurons that promote “Python”")
    assert said.endswith(", by score")
    assert said in said_on(app)


def _items(app, key):
    return component(app, f"concept_{key}")["items"]


def test_a_token_of_a_concept_can_be_left_out_and_brought_back(toy_page, toy):
    app = toy_page("search", q="Python code")
    first = component(app, "every_0")["items"][0]
    params = href(first)
    assert first["removes"]
    app = toy_page("search", **params)
    assert not has(app, "every_0")
    (back,) = _items(app, "dropped")
    assert back["text"] == first["text"]
    assert href(back) == {"q": "Python code"}


def test_a_whole_family_leaves_in_one_click_and_comes_back(toy_page, toy):
    first = _items(toy_page("search", q="Python code"), "own")[0]
    assert (first["text"], first["note"], first["removes"]) == ("Python", "×5", True)
    assert href(first) == {"q": "Python code", "fam": "0"}
    app = toy_page("search", **href(first))
    python = toy.token(0)
    left = without_families(toy.concept("Python code"), [python])
    assert labels(app) == [found.neuron.label for found in toy.concept_neurons(left, limit=50)]
    assert all("ython" not in chip["text"].lower() for chip in _items(app, "own"))
    (back,) = _items(app, "dropped")
    assert href(back) == {"q": "Python code"}
    said = search.command(SearchSelection("Python code", families=(0,)), By.CONCEPT, "toy")
    assert said is not None
    assert "--drop-family 0" in said


def test_a_family_with_added_tokens_takes_those_back():
    selection = SearchSelection("red", added=(3, 7), avoided=(9,))
    assert selection.less_family([1, 3, 2]) == SearchSelection("red", added=(7,), avoided=(9,), families=(1,))
    assert selection.less_family([3, 7]) == SearchSelection("red", avoided=(9,))
    assert selection.less_family([9, 4]) == SearchSelection("red", added=(3, 7), dropped=(4,))


def test_a_typo_is_one_click_away_from_what_was_meant(toy_page):
    (meant,) = component(toy_page("search", q="Pariss code, Python"), "meant_0")["items"]
    assert href(meant) == {"q": "Paris code, Python"}
    (meant,) = component(toy_page("search", q="Pariss", by="token"), "meant")["items"]
    assert href(meant) == {"q": "Paris", "by": "token"}


def test_words_that_were_passed_over_are_told(toy_page):
    app = toy_page("search", q="Python of the code")
    assert any("“of”, “the”" in caption.value.replace("\\", "") for caption in app.caption)


def test_tokens_can_be_added_to_a_concept_and_to_be_avoided(toy_page, toy):
    app = toy_page("search", q="Python", by="concept", near="0")
    app.text_input(key="concept_add").set_value("x").run()
    token = toy.resolve("x").matched[0]
    assert app.query_params["add"] == str(token.token_id)
    assert token.display in [chip["text"] for chip in _items(app, "own")]
    app.text_input(key="concept_add").set_value("-Paris").run()
    assert {chip["tone"] for chip in _items(app, "avoided")} == {"avoided"}
    assert [(chip["text"], chip["note"]) for chip in _items(app, "avoided")] == [("Paris", "×2")]
    paris = component(app, f"every_{toy.resolve('Paris').matched[0].token_id}")["items"]
    assert {chip["note"] for chip in paris} == {"−1.00"}
    app.text_input(key="concept_add").set_value("nothing like it").run()
    assert "not one token" in texts(app)
    assert not app.exception


def test_a_negative_word_is_shown_apart(toy_page):
    app = toy_page("search", q="Python, -code")
    assert {(chip["text"], chip["note"]) for chip in _items(app, "avoided")} >= {("code", "×2")}


def test_a_word_that_is_no_token_says_what_it_splits_into(toy_page, toy):
    app = toy_page("search", q="Pythonx code")
    assert [chip["text"] for chip in _items(app, "pieces_0")] == [piece.display for piece in toy.split("Pythonx")[0]]
    assert any("is not one token" in caption.value.replace("\\", "") for caption in app.caption)


def test_words_that_are_no_tokens_are_told_from_tokens_left_out(toy_page, toy):
    app = toy_page("search", q="xqzvvkj 😀")
    assert any("No word of this is a token of the model" in one.value for one in app.caption)
    assert not has(app, "concept_widen")  # there is nothing to widen
    (python,) = toy.tokens_of("x")
    app = toy_page("search", q="x", by="concept", near="0", fam=str(python.token_id))
    assert any("No token is left to look for" in one.value for one in app.caption)


@pytest.mark.parametrize(("by", "text"), [("token", ""), ("concept", ""), ("concept", " ")])
def test_where_nothing_is_typed_nothing_is_missed(toy_page, by, text):
    app = toy_page("search", q=text, by=by)
    assert any("Type one or more words" in one.value for one in app.caption)
    assert not any("No word of this" in one.value for one in app.caption)


@pytest.mark.parametrize("text", [" ".join(f"w{number}" for number in range(30)), "- -", ", ,"])
def test_a_text_that_is_no_concept_is_one_notice(toy_page, text):
    app = toy_page("search", q=text, by="concept")
    assert len(app.warning) == 1
    assert has(app, "concepts")


def test_how_a_build_was_made_is_said(tmp_path, monkeypatch):
    make_catalogue(tmp_path, dequantised="GGUF of eight bits", neighbour_recall=0.914)
    monkeypatch.setenv("ATLAS_CATALOGUE", str(tmp_path))
    try:
        for page, params in (("overview", {}), ("token", {"q": "Paris"})):
            app = run_page(page, **params)
            assert any("dequantised from GGUF of eight bits" in caption.value for caption in app.caption)
        assert any("some are missed: 91% were found" in caption.value for caption in app.caption)
    finally:
        st.cache_resource.clear()


def test_without_neighbours_the_page_says_so(tmp_path, monkeypatch):
    make_catalogue(tmp_path, neighbours=0)
    monkeypatch.setenv("ATLAS_CATALOGUE", str(tmp_path))
    try:
        app = run_page("search", q="Python code")
        assert any("holds no neighbours" in caption.value for caption in app.caption)
        assert component(app, "hits")["rows"]
        app = run_page("token", q="Paris")
        assert any("holds no neighbours" in caption.value for caption in app.caption)
        assert not has(app, "neighbours")
    finally:
        st.cache_resource.clear()


@pytest.mark.parametrize("order", ["score", "matched", "z", "rank", "neuron", "sign"])
@pytest.mark.parametrize("reverse", [False, True])
def test_a_concept_is_sorted_by_any_column(toy_page, toy, order, reverse):
    app = toy_page("search", q="Python code", order=order, **({"reverse": "1"} if reverse else {}))
    found = toy.concept_neurons(toy.concept("Python code"), limit=10_000)
    keys = {
        "score": lambda one: -one.score,
        "matched": lambda one: -len(one.matched),
        "z": lambda one: -max(abs(match.z) for match in one.matched),
        "rank": lambda one: min(match.rank for match in one.matched),
        "neuron": lambda one: one.neuron.layer,
        "sign": lambda one: one.sign is Sign.SUPPRESSES,
    }
    place = {(one.neuron.label, str(one.sign)): keys[order](one) for one in found}
    rows = component(app, "hits")["rows"]
    values = [place[row["cells"][0]["text"], row["cells"][2]["tone"]] for row in rows]
    assert values == sorted(values, reverse=reverse)
    assert len(rows) == min(50, len(found))


def test_headings_sort_and_turn_round(toy_page):
    columns = component(toy_page("search", q="Paris"), "hits")["columns"]
    by_name = {column["title"]: column for column in columns}
    assert by_name["z-score"]["sorted"] == "descending"
    assert href(by_name["rank"]) == {"q": "Paris", "order": "rank"}
    assert href(by_name["z-score"]) == {"q": "Paris", "reverse": "1"}
    app = toy_page("search", q="Paris", reverse="1")
    assert labels(app) == labels(toy_page("search", q="Paris"))[::-1]


def test_every_condition_is_the_librarys(toy_page, toy):
    conditions = Filters(Sign.SUPPRESSES, NeuronKind.ATTENTION, (1, 2), head=1, min_z=0.5, max_rank=4)
    app = toy_page("search", q="code", sign="suppresses", kind="attention", layers="1-2", head="1", z="0.5", depth="4")
    tokens = toy.resolve("code").matched
    expected = toy.search_token([token.token_id for token in tokens], conditions, limit=50)
    assert expected, "the example has to find something"
    assert labels(app) == [hit.neuron.label for hit in expected]
    assert conditions.describe(tokens) in said_on(app)


def test_conditions_go_into_the_address(toy_page):
    app = toy_page("search", q="code")
    app.number_input(key="search_min_z").set_value(0.5).run()
    app.selectbox(key="search_head").set_value(1).run()
    app.number_input(key="search_max_rank").set_value(3).run()
    app.selectbox(key="search_order").set_value("neuron").run()
    app.checkbox(key="search_reverse").check().run()
    expected = {"q": "code", "z": "0.5", "head": "1", "depth": "3", "order": "neuron", "reverse": "1"}
    assert {name: app.query_params[name] for name in expected} == expected
    app.segmented_control(key="search_by").set_value("concept").run()
    assert app.query_params["by"] == "concept"
    assert not app.exception


def test_another_text_takes_nothing_of_the_old_one_along(toy_page):
    app = toy_page("search", q="Python code", add="3", drop="0", sign="promotes", page="2")
    app.text_input(key="search_text").set_value("Paris").run()
    assert dict(app.query_params) in ({"q": "Paris", "sign": "promotes"}, {"q": ["Paris"], "sign": ["promotes"]})


def test_exact_mode_ranks_all_neurons_with_the_model(small_page, small):
    from app.serving import resources
    from indexer.directions import rank_by_direction

    app = small_page("search", q="river blue", exact="1")
    concept = small.concept("river blue")
    model, weights = resources.model_of(resources.catalogue()), concept.shares()
    expected = rank_by_direction(model.weights, model.unembedding, list(weights), list(weights.values()), 50)
    rows = component(app, "hits")["rows"]
    assert labels(app) == [one.neuron.label for one in expected]
    assert [row["cells"][1]["text"] for row in rows] == [f"{one.mean_z:.2f}" for one in expected]
    assert f"of all {small.info.neurons:,} neurons" in said_on(app)


def test_exact_mode_without_the_model_is_a_notice_and_a_way_out(toy_page):
    app = toy_page("search", q="Python code", exact="1")
    assert len(app.error) == 1
    assert href(component(app, "inexact")["items"][0]) == {"q": "Python code"}


@pytest.fixture
def read_page(small_folders, small_page, tmp_path, monkeypatch):
    """The small model's pages, with texts that were read for it."""
    root = tmp_path / "catalogue"
    shutil.copytree(small_folders[1], root)
    give_texts(find_catalogue(root))
    monkeypatch.setenv("ATLAS_CATALOGUE", str(root))
    return small_page, find_catalogue(root)


def test_a_search_by_text_shows_what_the_library_finds(read_page):
    from app.attribution.activated import activated_by
    from tests import models

    page, path = read_page
    passage = "The road to the sea is blue"
    with Catalogue.open(path) as atlas:
        assert atlas.texts is not None
        found = activated_by(models.language_model("llama"), atlas.texts, passage, Filters(layers=(1, 2)))
    app = page("search", by="text", text=passage, layers="1-2")
    assert labels(app) == [one.neuron.label for one in found.neurons[:50]]
    row, first = component(app, "hits")["rows"][0], found.neurons[0]
    assert parse_qs(urlsplit(row["href"]).query) == {"n": [first.neuron.label], "try": [passage]}
    (peak,) = row["cells"][2]["chips"]
    assert peak["text"] == found.tokens[first.position].display
    assert href(peak)["n"] == first.neuron.label
    assert app.selectbox(key="search_order").options[0] == "z-score"
    assert next(one.value for one in app.text_input if one.label == "Title") == passage
    other = found.neurons[3]
    app = page("search", by="text", text=passage, layers="1-2", n=other.neuron.label)
    assert any(other.neuron.label in str(element.proto) for element in app.get("bidi_component"))
    assert any(one.value.startswith(f"{other.neuron.label} along the text") for one in app.caption)


def test_a_search_by_text_says_what_is_missing(small_page):
    for passage in ({}, {"text": "The sea"}):  # before anything is typed, too
        app = small_page("search", by="text", **passage)
        assert "No texts were gathered" in texts(app)
        assert not has(app, "passages")


def test_a_token_shows_what_it_is(toy_page, toy):
    token = toy.resolve(" Paris").matched[0]
    app = toy_page("token", t=str(token.token_id))
    assert app.title[0].value == "Token ␣Paris"
    assert "20 50 61 72 69 73" in app.caption[0].value
    near = component(app, "neighbours")["items"]
    assert [item["text"] for item in near] == [one.token.display for one in toy.neighbours(token.token_id)]
    assert href(near[0]) == {"t": str(toy.neighbours(token.token_id)[0].token.token_id)}
    for sign in Sign:
        hits = toy.search_token([token.token_id], Filters(sign=sign), limit=15)
        assert not hits or labels(app, f"neurons_{sign}") == [hit.neuron.label for hit in hits]


@pytest.mark.slow
def test_every_token_has_a_page(toy_page, toy):
    for token_id in range(toy.info.vocabulary):
        app = toy_page("token", t=str(token_id))
        assert toy.bytes_of(token_id)[:32].hex(" ").upper() in app.caption[0].value
        assert not texts(app)


def test_a_typed_token_is_found_or_split(toy_page):
    assert toy_page("token", q="python").title[0].value == "Token python"
    app = toy_page("token", q="Python Paris")
    assert "not one token" in texts(app)
    assert component(app, "pieces")["items"]


@pytest.fixture
def mapped(toy):
    """The toy catalogue with a map of its FFN neurons, of which the first and the third are a group."""
    blocks = [toy.layout.block(layer, NeuronKind.FFN) for layer in range(toy.layout.layers)]
    ids = np.concatenate([np.arange(one.first, one.first + one.size, dtype=np.int32) for one in blocks])
    count, group = len(ids), np.zeros(len(ids), np.int32)
    group[[0, 2]] = 1
    places = np.linspace(0, 1, count, dtype=np.float32)
    closeness = np.where(group, 0.75, 0).astype(np.float32)
    groups = [Group("value-1", GroupedBy.VALUE, "▲ <b>paris", 2, 0.75)]
    words = [f"▲ word {place}" for place in range(count)]
    found = NeuronMap(ids, places, places[::-1].copy(), group, closeness, places, words, groups)
    path = write_maps(toy.path.parent, toy.info.checkpoint, {GroupedBy.VALUE: found})
    yield found
    path.unlink()


def unpacked(text: str, kind: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), kind)


def test_the_overview_maps_the_neurons_and_lists_the_groups(mapped, toy, toy_page):
    app = toy_page("overview")
    data = component(app, "cloud")
    labels = [toy.layout.neuron(one).label for one in mapped.neuron_ids.tolist()]
    assert data["names"].split("\n") == [f"{one}  {words}" for one, words in zip(labels, mapped.words, strict=True)]
    assert unpacked(data["x"], "<u2") == pytest.approx(mapped.x * 65535, abs=1)
    assert unpacked(data["y"], "<u2") == pytest.approx(mapped.y * 65535, abs=1)
    layers = np.array([toy.layout.neuron(one).layer for one in mapped.neuron_ids.tolist()])
    assert unpacked(data["shade"], "u1") == pytest.approx(254 * layers / layers.max(), abs=1)
    assert data["scale"] == {"low": "0", "high": str(layers.max()), "title": "layer"}
    assert not unpacked(data["chosen"], "u1").any()
    (row,) = component(app, "groups")["rows"]
    assert [cell["text"] for cell in row["cells"]] == ["value-1", "2", "0.75", "▲ <b>paris"]
    assert parse_qs(urlsplit(row["href"]).query)["group"] == ["value-1"]


def test_a_group_is_shown_on_the_map_with_its_neurons(mapped, toy, toy_page):
    app = toy_page("overview", group="value-1", shade="group")
    data = component(app, "cloud")
    assert np.flatnonzero(unpacked(data["chosen"], "u1")).tolist() == [0, 2]
    assert np.flatnonzero(unpacked(data["shade"], "u1") != 255).tolist() == [0, 2]
    labels = [toy.layout.neuron(int(mapped.neuron_ids[place])).label for place in (0, 2)]
    assert [row["cells"][0]["text"] for row in component(app, "members")["rows"]] == labels
    app.segmented_control(key="overview_shade").set_value("sharpness").run()
    assert component(app, "cloud")["scale"]["title"] == "the larger |z| of its two first tokens"
    link = next(one for one in component(toy_page("neuron", n=labels[0]), "paths")["items"] if "Group" in one["text"])
    assert (link["text"], parse_qs(urlsplit(link["href"]).query)["group"]) == ("Group value-1", ["value-1"])
    assert "There is no group “value-7”" in texts(toy_page("overview", group="value-7"))


def test_without_groups_the_overview_is_as_it_was(toy_page):
    app = toy_page("overview")
    assert not app.exception
    assert "A map of the FFN neurons" not in texts(app)


def test_the_overview_is_the_librarys(toy_page, toy):
    app = toy_page("overview", kind="ffn")
    peaked = toy.most_peaked(Filters(kind=NeuronKind.FFN), limit=30)
    assert labels(app, "peaked") == [one.neuron.label for one in peaked]
    rows = component(app, "favoured")["rows"]
    assert [row["cells"][3]["text"] for row in rows] == [f"{one.stored:,}" for one in toy.favourites(limit=30)]
    assert all(row["href"].startswith("token?t=") for row in rows)
    app.segmented_control(key="overview_sign").set_value("promotes").run()
    assert app.query_params["sign"] == "promotes"


def test_a_neurons_relatives(toy_page, toy):
    neuron = Neuron.attention(1, 0, 1)
    app = toy_page("neuron", n=neuron.label)
    assert labels(app, "similar") == [one.neuron.label for one in toy.similar(neuron, limit=12)]
    around = component(app, "neighbours")["items"]
    assert [item["text"] for item in around] == ["L1.H0.N0", "L1.H0.N1", "L1.H0.N2"]
    assert [item.get("current", False) for item in around] == [False, True, False]
    app.segmented_control(key="neuron_similar_by").set_value("value").run()
    assert len(app.error) == 1  # there is no model
    assert not app.exception


def test_relatives_by_value_vector(small_page):
    app = small_page("neuron", n="L1.F3")
    app.segmented_control(key="neuron_similar_by").set_value("value").run()
    rows = component(app, "similar")["rows"]
    shares = [abs(row["cells"][1]["share"]) for row in rows]
    assert len(rows) == 12
    assert shares == sorted(shares, reverse=True)


def test_files_hold_the_whole_result_and_no_formula(toy):
    frame = pd.DataFrame({"neuron": ["L0.F0"] * 60, "token": ["=1+1"] * 60, "z": [0.1] * 60})
    csv, json, parquet = (as_bytes(frame, form) for form in ("csv", "json", "parquet"))
    assert csv.count(b"\r\n") == 61
    assert b"'=1+1" in csv
    assert json.count(b'"=1+1"') == 60
    assert pd.read_parquet(io.BytesIO(parquet)).equals(frame)


def test_the_shell_command_asks_for_the_same():
    selection = SearchSelection("it's -x; rm", sign=Sign.PROMOTES, layers=(1, 2), dropped=(4,), narrow=True)
    said = search.command(selection, By.CONCEPT, "toy")
    assert said is not None
    assert (
        "concept --model toy --promotes --layers 1-2 --widen 0 --drop 4 --to neurons.csv -- 'it'\"'\"'s -x; rm'" in said
    )
    assert search.command(SearchSelection(tokens=(1,)), By.TOKEN, "toy") is None


def test_an_order_that_a_search_has_not_got_is_its_own(toy_page):
    selection, notices = SearchSelection.read({"q": "Paris", "order": "score"}, LIMITS)
    assert not notices
    assert order_of(selection, By.TOKEN) == "z"
    assert component(toy_page("search", q="Paris", order="score"), "hits")["rows"]


@pytest.mark.parametrize("kind", [SearchSelection, TokenSelection, OverviewSelection])
def test_states_come_back_from_their_addresses(kind):
    params = {"q": "a", "by": "concept", "add": "1", "avoid": "2", "drop": "3", "near": "0", "sign": "promotes"}
    params |= {"fam": "6", "text": "b", "n": "L1.F2"} if kind is SearchSelection else {}
    params |= {"layers": "0-1", "kind": "attention", "head": "1", "z": "0.0001", "depth": "7", "exact": "1", "t": "5"}
    selection, notices = kind.read(params, LIMITS)
    assert [one for one in notices if "no such parameters" not in one] == []  # a search has them all, the others few
    assert bool(notices) == (kind is not SearchSelection)
    assert kind.read(selection.params(), LIMITS) == (selection, [])
    assert set(selection.params().items()) <= set(params.items())


def test_a_head_of_ffn_neurons_is_left_out_with_a_notice():
    selection, notices = SearchSelection.read({"kind": "ffn", "head": "1"}, LIMITS)
    assert selection.head is None
    assert "FFN neurons have no head" in notices[0]


def test_neighbours_stay_within_the_head(toy):
    assert [one.label for one in layer_neighbours(toy, Neuron.attention(0, 1, 2))] == [
        "L0.H1.N0",
        "L0.H1.N1",
        "L0.H1.N2",
    ]
