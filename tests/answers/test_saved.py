"""What is kept from the pages is there again: exactly, without the model, and only for those who may."""

import json
from dataclasses import replace
from urllib.parse import parse_qsl, urlsplit

import pytest
import streamlit as st

from app import attribution
from app.answers import explain, stored
from app.attribution.results import to_json
from app.serving.settings import configuration
from app.state.selections import SAVED_ROWS, Map, NeuronSelection, Place, PromptSelection
from db.catalogue.builds import find_catalogue
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.neuron import Head, Neuron, NeuronAt
from db.workspace import Workspace
from db.workspace.exchange import export, parse, to_text
from tests.pages import component, texts

PROMPT = "The river runs to"
OWN = NeuronAt(Neuron.ffn(1, 3))
VIEW = PromptSelection(PROMPT, place=Place(map=Map.LENS, layer=1, head=Head(1, 2), own=OWN, read=Neuron.ffn(0, 5)))


@pytest.fixture
def atlas(small_folders):
    with Catalogue.open(find_catalogue(small_folders[1])) as opened:
        yield opened


@pytest.fixture
def workspace(small_page, tmp_path):
    with Workspace.open(f"sqlite:///{tmp_path / 'atlas.sqlite'}") as opened:
        yield opened


def settings(monkeypatch, **variables):
    """Other settings from now on, and nothing remembered."""
    for name, value in variables.items():
        monkeypatch.setenv(f"ATLAS_{name}", value)
    configuration.cache_clear()
    st.cache_resource.clear()


def saved(atlas, workspace, selection=VIEW, title="A view"):
    analysis = explain.analysis(atlas, selection)
    return workspace.save(explain.draft(title, selection, analysis, atlas)), analysis


def whole(app):
    return " ".join(str(one.value) for one in (*app.markdown, *app.caption)).replace("\\", "")


def test_the_save_control_keeps_the_view(small_page, workspace):
    app = small_page("prompt", p=PROMPT, head="L1.H2")
    title = next(one for one in app.text_input if one.label == "Title")
    assert title.value.startswith("The river runs to →")
    title.set_value("My view")
    app.button(key="save_button").click().run()
    assert not app.exception
    (kept,) = workspace.analyses()
    assert (kept.title, kept.prompt) == ("My view", PROMPT)
    assert dict(parse_qsl(kept.address)) == {"p": PROMPT, "head": "L1.H2"}
    assert set(workspace.result(kept.id)["details"]) == {"flow", "positions", "pattern"}


@pytest.mark.parametrize(
    ("page", "params", "kind", "about"),
    [
        ("compare", {"p": PROMPT, "zero": "L1.ffn", "layer": "1"}, "comparison", "layer 1"),
        ("compare", {"p": PROMPT, "p2": "The hill is", "chat": "1"}, "comparison", "The hill is"),
        ("search", {"q": " the", "by": "token", "kind": "ffn"}, "search", "“␣the”"),
        ("neuron", {"n": "L1.F3", "p": PROMPT}, "neuron", f"L1.F3, on “{PROMPT}”"),
        ("neuron", {"n": "L1.F3"}, "neuron", "L1.F3"),
        ("steer", {"p": PROMPT, "do": "L1.F3=2", "n": "1"}, "intervention", "L1.F3"),
        ("many", {"ps": "The sea\nThe hill"}, "set of prompts", "2 prompts: The sea"),
    ],
)
def test_views_of_other_pages_are_kept_listed_collected_and_opened(small_page, workspace, page, params, kind, about):
    app = small_page(page, **params)
    buttons = [one.proto.label for one in app.get("download_button")]
    assert ("Report" in buttons) == (page != "many")
    app.button(key="save_button").click().run()
    assert not app.exception
    assert not texts(app)
    (kept,) = workspace.analyses()
    assert (kept.page, kept.target) == (page, "")
    assert dict(parse_qsl(kept.address)) == params
    assert about in kept.prompt
    assert kept.title
    assert "⟨empty⟩" not in kept.title + kept.prompt
    collection = workspace.new_collection("Rivers")
    workspace.collect_analysis(collection.id, kept.id)
    for shown in (small_page("saved"), small_page("saved", **{"in": collection.id})):
        (opened,) = component(shown, f"open_{kept.id}")["items"]
        assert urlsplit(opened["href"]).path == page
        assert dict(parse_qsl(urlsplit(opened["href"]).query)) == params
        assert any(one.value.startswith(kind) and "U+2423" not in one.value for one in shown.caption)
    assert "Report" in [one.proto.label for one in shown.get("download_button")]
    again = parse(to_text(export(workspace)))
    assert again.analyses[0].page == page
    workspace.delete(kept.id)
    assert stored.open_document(again).analyses == 1
    assert workspace.saved(kept.id) == kept


def test_a_view_of_a_page_that_is_not_known_is_listed_and_leads_nowhere(small_page, workspace, atlas):
    class Dreams(PromptSelection):
        page_name = "dreams"

    selection = Dreams(PROMPT)
    kept = stored.save_view(selection, "From later", "what comes", atlas)
    assert component(small_page("saved"), f"open_{kept.id}")["items"][0].get("href", "") == ""
    document = parse(to_text(export(workspace)).replace(atlas.info.model, "another"))
    workspace.delete(kept.id)
    stored.open_document(document)  # of another model, too
    assert component(small_page("saved"), f"open_{kept.id}")["items"][0].get("href", "") == ""
    assert stored.answer(atlas, selection) is None


def test_a_collected_neuron_leads_to_its_own_model(small_page, workspace):
    collection = workspace.new_collection("Rivers")
    for model in ("llama", "another"):
        workspace.collect_neuron(collection.id, model, Neuron.ffn(1, 3))
    app = small_page("saved", **{"in": collection.id})
    found = {model: component(app, f"neuron_{model}_L1.F3")["items"][0]["href"] for model in ("llama", "another")}
    assert found == {"llama": "neuron?n=L1.F3", "another": "neuron?n=L1.F3&model=another"}


def test_a_title_shows_an_answer_of_spaces(small_folders):
    analysis = attribution.analyse(attribution.load(str(small_folders[0] / "llama")), PROMPT)
    target = analysis.target
    for shown, end in (("␣", " → ␣"), ("␣Paris", " → Paris"), ("ing", " →ing")):
        token = replace(target.token, display=shown)
        named = replace(analysis, target=replace(target, token=token))
        assert explain.suggested_title(PromptSelection(PROMPT), named) == f"{PROMPT}{end}"


def test_an_empty_title_is_refused(small_page, workspace):
    app = small_page("prompt", p=PROMPT)
    next(one for one in app.text_input if one.label == "Title").set_value(" ")
    app.button(key="save_button").click().run()
    assert "title is empty" in texts(app)
    assert workspace.count_analyses() == 0


def without_links(data):
    """The same data with nowhere to go."""
    if isinstance(data, dict):
        kept = {name: without_links(one) for name, one in data.items() if name != "href"}
        return {name: one for name, one in kept.items() if one != []}
    if not isinstance(data, list):
        return data
    return [without_links(one) for one in data if not (isinstance(one, dict) and one.get("text") == "through a head")]


def test_a_stored_view_is_the_same_without_the_model(small_page, workspace, atlas, monkeypatch):
    """Every component of the page, to the last figure."""
    keys = (
        "tokens",
        "predictions",
        "layers",
        "lens",
        "positions",
        "own_query",
        "through_promotes",
        "neurons_attention",
    )
    view = VIEW.params()
    kept, _ = saved(atlas, workspace)
    first = small_page("prompt", **view)
    seen = {key: component(first, key) for key in keys if key != "neurons_attention"}
    settings(monkeypatch, MODE="catalogue", MODELS="/nowhere")
    again = small_page("prompt", **view)
    offered = ("tokens", "predictions", "own_query")  # with links to what this server cannot make
    assert {key: component(again, key) for key in seen if key not in offered} == {
        key: one for key, one in seen.items() if key not in offered
    }
    for key in offered:
        assert without_links(component(again, key)) == without_links(seen[key])
    assert kept.title in whole(again)
    assert component(again, "neurons_attention")["rows"]
    assert [one["text"] for one in component(again, "close_head")["items"]] == ["✕ Close the head"]


def test_only_what_is_answered_is_offered(small_page, workspace, atlas, monkeypatch):
    def actions(app):
        rows = component(app, "neurons_ffn")["rows"]
        return {row["cells"][0]["text"]: [one["text"] for one in row["cells"][-1].get("chips", ())] for row in rows}

    view = PromptSelection(PROMPT, place=Place(own=OWN))
    saved(atlas, workspace, view)
    offered = actions(small_page("prompt", **view.params()))
    assert all({"why", "zero"} <= set(each) for each in offered.values())
    settings(monkeypatch, MODE="catalogue", MODELS="/nowhere")
    left = actions(small_page("prompt", **view.params()))
    assert left.keys() == offered.keys()
    assert {label: each for label, each in left.items() if each} == {OWN.neuron.label: ["why"]}


def test_nothing_is_worked_out_for_a_stored_analysis(small_page, workspace, atlas, monkeypatch):
    _, analysis = saved(atlas, workspace)
    st.cache_resource.clear()
    monkeypatch.setattr("app.serving.resources.Desk.result", lambda *_: pytest.fail("the model was asked"))
    again = explain.analysis(atlas, VIEW)
    assert to_json(again) == to_json(analysis)
    assert again is not analysis
    positions = explain.detail(atlas, VIEW, "positions", Head(1, 2))
    assert len(positions.positions) == len(analysis.tokens)
    own = explain.detail(atlas, VIEW, "own", OWN)
    one, query = own.one, own.query
    assert one.neuron == OWN[0]
    assert query.ffn_neurons is not None


def test_fewer_neurons_are_the_beginning_of_more(workspace, atlas):
    _, analysis = saved(atlas, workspace)
    fewer = stored.answer(atlas, PromptSelection(PROMPT, top=5))
    assert fewer is not None
    assert fewer.analysis.ffn_value_neurons == analysis.ffn_value_neurons[:5]
    assert stored.answer(atlas, PromptSelection(PROMPT, top=301)) is None


@pytest.mark.parametrize("other", [{"target": 5}, {"position": 1}, {"distractor": 7}, {"prompt": "Another"}])
def test_another_question_is_not_answered(workspace, atlas, other):
    saved(atlas, workspace)
    assert stored.answer(atlas, PromptSelection(**({"prompt": PROMPT} | other))) is None


def test_a_result_of_an_older_build_says_so_and_one_of_other_weights_is_none(small_page, workspace, atlas):
    document = json.loads(to_text(export(workspace)))
    kept, _ = saved(atlas, workspace)
    document = json.loads(to_text(export(workspace)))
    workspace.delete(kept.id)
    document["analyses"][0]["build_id"] = "older"
    stored.open_document(_parsed(document))
    assert "older catalogue, older" in texts(small_page("prompt", p=PROMPT))
    document["analyses"][0] |= {"unembedding_hash": "other", "updated_at": "2999-01-01T00:00:00.000000Z"}
    stored.open_document(_parsed(document))
    assert stored.answer(atlas, PromptSelection(PROMPT)) is None
    assert "other weights" in whole(small_page("saved"))


def _parsed(document):
    from db.workspace.exchange import parse

    return parse(json.dumps(document))


def test_analysing_anew_asks_the_model(small_page, workspace, atlas):
    saved(atlas, workspace, title="kept")
    app = small_page("prompt", p=PROMPT)
    assert "kept" in whole(app)
    app.button(key="stored_anew_button").click().run()
    assert not app.exception
    assert "Saved on" not in whole(app)


def test_the_page_lists_searches_renames_collects_and_deletes(small_page, workspace, atlas):
    for title in ("one", "two"):
        saved(atlas, workspace, title=title)
    two = workspace.analyses("two")[0]
    app = small_page("saved")
    assert [component(app, f"open_{one.id}")["items"][0]["text"] for one in workspace.analyses()] == ["two", "one"]
    target = component(app, f"open_{two.id}")["items"][0]["href"]
    assert dict(parse_qsl(target.partition("?")[2])) == VIEW.params()
    app.text_input(key="saved_words").set_value("one").run()
    assert app.query_params["q"] == "one"
    with pytest.raises(AssertionError):
        component(app, f"open_{two.id}")
    app = small_page("saved")
    app.text_input(key=f"title_{two.id}").set_value("second")
    app.button(key=f"rename_{two.id}").click().run()
    assert workspace.saved(two.id).title == "second"
    app.text_input(key=f"new_{two.id}").set_value("Rivers")
    app.button(key=f"collect_{two.id}").click().run()
    (collection,) = workspace.collections()
    assert (collection.name, collection.analyses) == ("Rivers", 1)
    assert app.button(key=f"delete_{two.id}").disabled
    app.checkbox(key=f"sure_{two.id}").check().run()
    app.button(key=f"delete_{two.id}").click().run()
    assert [one.title for one in workspace.analyses()] == ["one"]
    assert not app.exception


def test_a_collection_is_shown_and_left(small_page, workspace, atlas):
    kept, _ = saved(atlas, workspace)
    collection = workspace.new_collection("Rivers <b>$x$")
    workspace.collect_analysis(collection.id, kept.id)
    workspace.collect_neuron(collection.id, "llama", Neuron.ffn(1, 3))
    app = small_page("saved", **{"in": collection.id})
    assert component(app, f"open_{kept.id}")["items"]
    assert component(app, "neuron_llama_L1.F3")["items"][0]["href"].startswith("neuron?")
    within = small_page("saved", **{"in": collection.id, "q": "l1.f3"})
    assert component(within, "neuron_llama_L1.F3")["items"]
    with pytest.raises(AssertionError):
        component(within, f"open_{kept.id}")
    assert "Nothing in this collection" in texts(small_page("saved", **{"in": collection.id, "q": "zebra"}))
    app.button(key=f"out_{kept.id}").click().run()
    assert workspace.contents(collection.id).analyses == ()
    assert "deleted" in texts(small_page("saved", **{"in": "0" * 32}))


def test_notes_and_saved_explanations_on_the_neurons_page(small_page, workspace, atlas):
    _, analysis = saved(atlas, workspace)
    neuron = analysis.ffn_value_neurons[0].neuron
    app = small_page("neuron", n=neuron.label)
    rows = component(app, "mentions")["rows"]
    assert rows[0]["cells"][0]["text"] == "A view"
    next(one for one in app.text_area if one.label == "Note").set_value("Rivers, <b>$x$")
    next(one for one in app.text_input if one.label == "Tags").set_value("Water, sea")
    next(one for one in app.button if one.label == "Keep").click().run()
    assert not app.exception
    note = workspace.note(atlas.info.model, neuron, (atlas.info.checkpoint,))
    assert note is not None
    assert (note.text, note.tags) == ("Rivers, <b>$x$", ("sea", "water"))
    assert [item["text"] for item in component(app, "note_tags")["items"]] == ["sea", "water"]
    listed = component(small_page("saved", tag="sea"), f"note_{neuron.label}")["items"]
    assert listed[0]["text"] == neuron.label


def test_an_older_note_that_a_file_brings_does_not_stand_twice(small_page, workspace, atlas):
    """Notes of older versions name the model alone."""
    neuron, own = Neuron.ffn(1, 3), (atlas.info.checkpoint, "")
    workspace.write_note("llama", neuron, "older", ["old"])
    document = export(workspace)
    workspace.write_note("llama", neuron, "newer", ["new"], among=own)
    stored.open_document(document)
    app = small_page("saved")
    assert not app.exception
    assert "Notes on 1 neuron" in [one.value for one in app.header]
    assert [item["text"] for item in component(app, "note_L1.F3")["items"]] == ["L1.F3", "new"]


def test_a_page_beyond_the_last_shows_the_last(small_page, workspace, atlas):
    for title in range(SAVED_ROWS + 1):
        stored.save_view(NeuronSelection("L1.F3"), f"number {title}", "L1.F3", atlas)
    oldest = workspace.analyses(offset=SAVED_ROWS)[0]
    app = small_page("saved", page="99")
    assert component(app, f"open_{oldest.id}")["items"][0]["text"] == "number 0"
    assert [item["text"] for item in component(app, "pages")["items"]] == ["← Newer"]
    assert "No note has this tag" in texts(small_page("saved", tag="nowhere"))


def test_who_may_not_write_reads_only(small_page, workspace, atlas, monkeypatch):
    kept, _ = saved(atlas, workspace)
    settings(monkeypatch, READ_ONLY="true")
    app = small_page("prompt", p="The hill")
    assert not [one for one in app.button if one.key == "save_button"]
    app = small_page("saved")
    assert component(app, f"open_{kept.id}")["items"]
    assert not [one for one in app.button if str(one.key).startswith(("rename", "delete", "saved_import", "collect"))]
    app = small_page("neuron", n="L1.F3")
    assert not [one for one in app.button if one.label == "Keep"]
    with pytest.raises(AtlasError, match="read-only"):
        stored.workspace_to_write()


def test_without_a_workspace_nothing_is_offered(small_page, monkeypatch):
    settings(monkeypatch, WORKSPACE="off")
    assert "keeps no workspace" in texts(small_page("saved"))
    assert not [one for one in small_page("prompt", p=PROMPT).button if one.key == "save_button"]


def test_looking_makes_no_file(small_page, tmp_path):
    for page, params in (("saved", {}), ("prompt", {"p": PROMPT}), ("neuron", {"n": "L1.F3"})):
        small_page(page, **params)
    assert not (tmp_path / "atlas.sqlite").exists()


def test_an_unusable_workspace_stops_no_explanation(small_page, tmp_path):
    (tmp_path / "atlas.sqlite").write_bytes(b"no database " * 1000)
    assert component(small_page("prompt", p=PROMPT), "predictions")["items"]
    assert "cannot be used just now" in texts(small_page("saved"))


def test_a_damaged_result_is_passed_over(workspace, atlas):
    kept, analysis = saved(atlas, workspace)
    with workspace.writing() as connection:
        connection.exec_driver_sql("UPDATE atlas_analysis SET result = '{}'")
    st.cache_resource.clear()
    assert stored.answer(atlas, PromptSelection(PROMPT)) is None
    assert explain.analysis(atlas, PromptSelection(PROMPT)).tokens == analysis.tokens
    assert kept


def test_a_file_with_an_analysis_that_cannot_be_shown_is_refused(workspace, atlas):
    saved(atlas, workspace)
    document = json.loads(to_text(export(workspace)))
    document["analyses"][0]["id"] = "0" * 32
    document["analyses"][0]["result"].pop("heads")
    with pytest.raises(AtlasError, match=r"analyses\.0.*heads is missing"):
        stored.open_document(_parsed(document))
    assert workspace.count_analyses() == 1


@pytest.mark.parametrize("value", ["", "nonsense", "-1", "9" * 30, "x" * 10_000, "<b>$x$:red[a]\x00", "%"])
def test_any_address_is_survived(small_page, workspace, value):
    app = small_page("saved", **{"q": value, "in": value, "tag": value, "page": value})
    assert app.title
    assert "fault of ours" not in texts(app)
