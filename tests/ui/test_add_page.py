"""The page that adds a model, and the choice of the model on every page, without a browser."""

from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

import pytest
import streamlit as st

from app.answers import add
from app.answers.add import Doing, Expected, Known, Progress
from app.serving import access
from app.serving.settings import configuration
from indexer.build import build
from indexer.checkpoint import Checkpoint
from tests import models
from tests.catalogues import make_catalogue
from tests.pages import component, components_of, run_page, texts

EXPECTED = Expected("mine", 1234, 123_400, 30.0, 5.0, 400.0, 1.26e9, 1e6, 2e6, ["The folder brings code of its own."])


@pytest.fixture(autouse=True)
def _nothing_remembered():
    yield
    st.cache_resource.clear()


@pytest.fixture
def local(monkeypatch):
    """The browser is on this machine."""
    monkeypatch.setattr(access, "is_local", lambda *_: True)


@pytest.fixture
def known(monkeypatch):
    """``known(problem="…")``: what became of whatever is named."""
    return lambda **found: monkeypatch.setattr(add, "known", lambda _: Known(**found))


def chosen(app, page, model):
    """Where the links to the models lead, by name, once the choice is opened."""
    app.session_state[f"choosing_{model}"] = True
    app.run()
    assert not app.exception
    hrefs = {one["text"]: one["href"] for one in component(app, "models")["items"]}
    assert {urlsplit(href).path for href in hrefs.values()} == {page}
    return {
        name: {key: value[0] for key, value in parse_qs(urlsplit(href).query).items()} for name, href in hrefs.items()
    }


def test_on_a_shared_server_there_is_no_such_page(toy_page, monkeypatch):
    monkeypatch.setattr(add, "_indexing", lambda: 1 / 0)
    app = toy_page("add", source="/etc")
    assert "from a browser on the machine that the server runs on" in texts(app)
    assert not app.button
    assert not app.text_input
    monkeypatch.setattr(access, "is_local", lambda *_: True)
    monkeypatch.setenv("ATLAS_ADD_MODELS", "false")
    configuration.cache_clear()
    app = toy_page("add", source="/etc")
    assert "No models are added on the pages of this server" in texts(app)
    assert not app.button


def test_an_address_alone_starts_nothing(toy_page, local, monkeypatch):
    monkeypatch.setattr(add, "begin", lambda *_: 1 / 0)
    app = toy_page("add", source="openai-community/gpt2")
    assert not texts(app)
    assert app.text_input(key="add_source").value == "openai-community/gpt2"
    assert any("press Estimate" in one.value for one in app.caption)


def test_what_is_typed_is_estimated_and_then_built(toy_page, local, known, monkeypatch):
    asked = []
    monkeypatch.setattr(add, "begin", lambda *asks: asked.append(asks))
    app = toy_page("add")
    app.text_input(key="add_source").set_value(" a/b ")
    app.button[0].click().run()
    assert asked == [(Doing.ESTIMATE, "a/b")]
    assert app.query_params["source"] == "a/b"
    known(expected=EXPECTED)
    app.run()
    assert {one.label: one.value for one in app.metric} == {
        **{"Neurons": "1,234", "Rows": "123,400", "Time": "about 7 min", "Memory, at most": "1.3 GB"},
        **{"Disk": "1 MB", "Disk, meanwhile": "2 MB"},
    }
    assert "brings code of its own" in texts(app)
    app.button(key="add_build").click().run()
    assert asked[1:] == [(Doing.BUILD, "a/b")]


def test_what_is_refused_is_said_and_what_was_typed_stays(toy_page, local, known):
    app = toy_page("add")
    app.button[0].click().run()
    assert "Give a model" in texts(app)
    known(problem="The model in x is quantised.", expected=None)
    app = toy_page("add", source="x")
    assert "The model in x is quantised." in texts(app)
    assert app.text_input(key="add_source").value == "x"
    assert [one.key for one in app.button if one.key == "add_build"] == []


def test_what_the_disk_cannot_hold_cannot_be_built(toy_page, local, known):
    known(expected=replace(EXPECTED, disk_while_building=1e18))
    app = toy_page("add", source="x")
    assert "make room first" in texts(app)
    assert app.button(key="add_build").disabled


def test_a_build_that_is_running_is_found_again_and_can_be_cancelled(toy_page, local, known, monkeypatch):
    now = [Progress(Doing.BUILD, "a/b", "Projecting 9 neurons", 3, 12, 50.0)]
    monkeypatch.setattr(add, "progress", lambda: now[0] if now else None)
    monkeypatch.setattr(add, "stop", now.clear)
    known(expected=EXPECTED)
    app = toy_page("add", source="a/b")
    assert next(one.value for one in app.header).replace("\\", "") == "Building the catalogue of a/b"
    (bar,) = app.get("progress")
    assert (bar.proto.value, bar.proto.text) == (25, "Layer 3 of 12, about 50 s left")
    other = toy_page("add", source="c")
    assert parse_qs(urlsplit(component(other, "running")["items"][0]["href"]).query) == {"source": ["a/b"]}
    assert other.button(key="add_build").disabled
    app.button(key="add_stop").click().run()
    assert now == []
    assert not app.get("progress")
    known(model="b")
    app = toy_page("add", source="a/b")
    hrefs = [one["href"] for one in component(app, "open")["items"]]
    assert hrefs == ["search?model=b", "prompt?model=b", "overview?model=b"]


def test_the_models_of_this_machine_are_offered(small_page, local, monkeypatch, tmp_path):
    (tmp_path / "models" / "other").mkdir(parents=True)
    (tmp_path / "models" / "other" / "config.json").write_text("{}")
    app = small_page("add")
    assert "folders" not in components_of(app)
    monkeypatch.setenv("ATLAS_MODELS", str(tmp_path / "models"))
    configuration.cache_clear()
    app = small_page("add")
    assert [one["href"] for one in component(app, "folders")["items"]] == ["add?source=other"]


@pytest.mark.parametrize("page", ["start", "token", "compare", "many", "gallery"])
def test_a_page_leads_to_the_other_models(monkeypatch, tmp_path, page):
    for name in ("first", "second"):
        make_catalogue(tmp_path, model=name)
    monkeypatch.setenv("ATLAS_CATALOGUE", str(tmp_path))
    configuration.cache_clear()
    found = chosen(run_page(page, model="second"), page if page != "start" else "./", "second")
    assert found == {"first": {"model": "first"}, "second": {"model": "second"}}


def test_the_view_is_kept_as_far_as_it_means_the_same_in_the_other_model(monkeypatch, tmp_path):
    make_catalogue(tmp_path, model="own")
    make_catalogue(tmp_path, model="tuned", build_id="two", seed=1, checkpoint="tuned")
    make_catalogue(tmp_path, model="larger", build_id="three", layers=4)
    make_catalogue(tmp_path, model="other", build_id="four", tokenizer_hash="other")
    monkeypatch.setenv("ATLAS_CATALOGUE", str(tmp_path))
    monkeypatch.setenv("ATLAS_MODELS", str(tmp_path / "models"))
    configuration.cache_clear()
    found = chosen(
        run_page("search", model="own", t="5", sign="promotes", layers="0-1", by="token", b="one"), "search", "own"
    )
    kept = {"t": "5", "sign": "promotes", "layers": "0-1", "by": "token"}
    assert found["own"] == found["tuned"] | {"model": "own"} == kept | {"model": "own"}
    assert found["larger"] == {"t": "5", "sign": "promotes", "by": "token", "model": "larger"}
    assert found["other"] == {"sign": "promotes", "layers": "0-1", "by": "token", "model": "other"}


def test_a_model_without_its_weights_says_so(monkeypatch, tmp_path, local):
    models.save("llama", tmp_path / "away")
    build(Checkpoint("gone", tmp_path / "away"), tmp_path / "catalogue", depth=5)
    build(Checkpoint("there", models.folder("gpt2")), tmp_path / "catalogue", depth=5)
    (tmp_path / "away").rename(tmp_path / "elsewhere")
    monkeypatch.setenv("ATLAS_CATALOGUE", str(tmp_path / "catalogue"))
    monkeypatch.setenv("ATLAS_MODELS", str(tmp_path / "models"))
    configuration.cache_clear()
    app = run_page("prompt", model="gone", p="The river")
    assert "The weights of gone are not here, only its catalogue" in texts(app)
    chosen(app, "prompt", "gone")
    notes = {one["text"]: one["note"] for one in component(app, "models")["items"]}
    assert notes["gone"].endswith(", no weights here")
    assert "weights" not in notes["there"]
    assert component(app, "add_model")["items"][0]["href"] == "add"
    monkeypatch.setenv("ATLAS_MODE", "catalogue")
    configuration.cache_clear()
    app = run_page("search", model="gone")
    chosen(app, "search", "gone")
    assert "weights" not in component(app, "models")["items"][0]["note"]


def test_in_place_of_a_model_that_is_unknown_another_is_shown_and_named(tmp_path, monkeypatch):
    make_catalogue(tmp_path, model="own")
    make_catalogue(tmp_path, model="second", build_id="two", seed=1, checkpoint="tuned")
    make_catalogue(tmp_path, model=".hidden", build_id="three", seed=2, checkpoint="kept aside")
    monkeypatch.setenv("ATLAS_CATALOGUE", str(tmp_path))
    configuration.cache_clear()
    app = run_page("search", model="unknown", q="Paris")
    assert "there are: own, second. own is shown instead." in texts(app)
    assert set(chosen(app, "search", "own")) == {"own", "second"}
