"""Export and import: everything comes back exactly, merging doubles nothing, and a bad file changes nothing."""

import copy
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from db.errors import AtlasError
from db.neuron import Neuron
from db.workspace import Workspace
from db.workspace.exchange import Imported, export, merge, parse, to_text
from tests.workspace.test_store import NASTY, draft


def fill(workspace: Workspace) -> None:
    first, second = workspace.save(draft("first", NASTY)), workspace.save(draft("second <b> é"))
    workspace.write_note("small", Neuron.ffn(1, 2), "a\nnote", ["one", "two"])
    workspace.write_note("other model", Neuron.attention(2, 1, 4), "", ["é"])
    collection = workspace.new_collection("Places & <i>")
    workspace.new_collection("empty")
    workspace.collect_analysis(collection.id, second.id)
    workspace.collect_analysis(collection.id, first.id)
    workspace.collect_neuron(collection.id, "small", Neuron.ffn(1, 2))


@pytest.fixture
def full(tmp_path):
    with Workspace.open(f"sqlite:///{tmp_path / 'full.sqlite'}") as workspace:
        fill(workspace)
        yield workspace


@pytest.fixture
def empty(workspace_url):
    with Workspace.open(workspace_url) as workspace:
        yield workspace


def test_everything_comes_back_exactly(full, empty):
    text = to_text(export(full))
    assert text.isascii()
    assert merge(empty, parse(text)) == Imported(analyses=2, neurons=2, collections=2, replaced=0)
    assert to_text(export(empty)) == text
    neuron = Neuron.ffn(1, 2)
    assert empty.mentions("small", neuron) == full.mentions("small", neuron)
    assert empty.analyses("second") == full.analyses("second")


def test_the_same_again_changes_nothing(full, empty):
    document = export(full)
    merge(empty, document)
    assert merge(empty, document) == Imported(0, 0, 0, 0)
    assert merge(full, document) == Imported(0, 0, 0, 0)
    assert export(empty) == export(full) == document


def test_a_document_as_version_1_wrote_it_still_opens(empty):
    """Literally: not through today's records."""
    at = "2026-11-23T04:30:00.000000Z"
    analysis = {
        "id": "a" * 32,
        "title": "Paris",
        "model": "small",
        "build_id": "b",
        "unembedding_hash": "h",
        "address": "p=x&layer=3",
        "question": "p=x",
        "created_at": at,
        "updated_at": at,
        "result": {"prompt": "x", "target": {"text": " y"}, "ffn_value_neurons": [{"neuron": "L1.F2", "score": 1.5}]},
    }
    note = {"model": "small", "neuron": "L1.F2", "note": "capitals", "tags": ["geography"], "updated_at": at}
    listed = {"analyses": [{"id": "a" * 32, "added_at": at}]}
    listed |= {"neurons": [{"model": "small", "neuron": "L1.F2", "added_at": at}]}
    document = {
        "format": "neuron-atlas-workspace",
        "version": 1,
        "analyses": [analysis],
        "neurons": [note],
        "collections": [{"id": "c" * 32, "name": "Places", "created_at": at, **listed}],
    }
    assert merge(empty, parse(json.dumps(document))) == Imported(1, 1, 1, 0)
    assert json.loads(to_text(export(empty))) == document
    assert empty.result("a" * 32) == analysis["result"]
    kept = empty.note("small", Neuron.ffn(1, 2))
    assert kept is not None
    assert (kept.text, kept.tags) == ("capitals", ("geography",))
    assert empty.contents("c" * 32).neurons == (("small", Neuron.ffn(1, 2)),)


def test_the_newer_wins_and_lists_are_united(full, empty):
    merge(empty, export(full))
    saved, neuron = full.analyses("second")[0], Neuron.ffn(1, 2)
    full.rename(saved.id, "renamed")
    full.write_note("small", neuron, "later", ["three"])
    old = export(empty)
    there = next(one for one in empty.collections() if one.name == "empty")
    empty.collect_neuron(there.id, "small", Neuron.ffn(0, 0))
    assert merge(empty, export(full)).replaced == 2
    assert empty.saved(saved.id).title == "renamed"
    note = empty.note("small", neuron)
    assert note is not None
    assert (note.text, note.tags) == ("later", ("one", "three", "two"))
    assert empty.contents(there.id).neurons == (("small", Neuron.ffn(0, 0)),)
    merge(empty, old)  # what is older changes nothing
    assert empty.saved(saved.id).title == "renamed"
    assert empty.contents(next(one for one in empty.collections() if one.name.startswith("Places")).id).analyses


def test_a_collection_of_the_same_name_is_joined(full, empty):
    mine = empty.new_collection("Places & <i>")
    merge(empty, export(full))
    assert [one.name for one in empty.collections()] == ["empty", "Places & <i>"]
    assert len(empty.contents(mine.id).analyses) == 2


DAMAGES = {
    "no JSON": "{",
    "nested": "[" * 100_000,
    "no object": "[]",
    "another object": '{"format": "other"}',
    "NaN": '{"format": NaN}',
    "a later version": '{"format": "neuron-atlas-workspace", "version": 2}',
    "more": '{"format": "neuron-atlas-workspace", "version": 1, "more": 1}',
    "no list": '{"format": "neuron-atlas-workspace", "version": 1, "analyses": {}}',
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_no_document_is_refused_in_one_sentence(name):
    with pytest.raises(AtlasError, match=r"^The file") as refused:
        parse(DAMAGES[name])
    assert "\n" not in str(refused.value)


def change(path: str, value: object):
    def changed(data: Any) -> None:
        *way, last = (int(step) if step.isdecimal() else step for step in path.split("."))
        for step in way:
            data = data[step]
        data[last] = value

    return changed


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("analyses.1.id", "../../etc/passwd"),
        ("analyses.1.title", ""),
        ("analyses.1.title", "a\x00"),
        ("analyses.1.title", 3),
        ("analyses.1.created_at", "yesterday"),
        ("analyses.1.created_at", "2026-13-01T00:00:00.000000Z"),
        ("analyses.1.result", []),
        ("analyses.1.result", {}),
        ("analyses.1.result.ffn_value_neurons.0.neuron", "<b>"),
        ("analyses.1.result.ffn_value_neurons.0.score", "x"),
        ("analyses.1.address", "\n"),
        ("neurons.1.neuron", "L1"),
        ("neurons.1.note", "\x00"),
        ("neurons.1.tags", ["a,b"]),
        ("collections.1.name", "x" * 101),
        ("collections.0.analyses", [{"id": "0" * 32, "added_at": "2026-11-23T04:30:00.000000Z"}]),
        ("collections.0.neurons", [{"model": "m", "neuron": "?", "added_at": "2026-11-23T04:30:00.000000Z"}]),
    ],
)
def test_a_bad_part_is_named_and_nothing_is_changed(full, empty, path, value):
    data = json.loads(to_text(export(full)))
    data["collections"].sort(key=lambda one: one["name"])
    damaged = copy.deepcopy(data)
    change(path, value)(damaged)
    with pytest.raises(AtlasError, match=r"^The file") as refused:
        merge(empty, parse(json.dumps(damaged)))
    assert ".".join(path.split(".")[:2]) in str(refused.value)
    assert "\n" not in str(refused.value)
    document = export(empty)
    assert (document.analyses, document.neurons, document.collections) == ([], [], [])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_change_of_a_file_is_refused_or_taken_whole(full, tmp_path_factory, data):
    given_document = json.loads(to_text(export(full)))
    section = data.draw(st.sampled_from(["analyses", "neurons", "collections"]))
    name = data.draw(st.sampled_from(sorted(given_document[section][0])))
    given_document[section][0][name] = data.draw(JSON)
    with Workspace.open(f"sqlite:///{tmp_path_factory.mktemp('fuzz') / 'a.sqlite'}") as workspace:
        refused = ""
        try:
            merge(workspace, parse(json.dumps(given_document)))
        except AtlasError as error:
            refused = str(error)
        assert "\n" not in refused
        assert workspace.count_analyses() == (0 if refused else 2)
