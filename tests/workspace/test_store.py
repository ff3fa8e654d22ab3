"""What people keep: analyses, notes, collections; the same in SQLite and in PostgreSQL."""

import json

import pytest
from sqlalchemy import event

from db.errors import AtlasError
from db.neuron import Neuron
from db.workspace import AnalysisEntry, Workspace, records
from db.workspace.exchange import export

NASTY = "a\x00b <b>$x$</b> 'DROP TABLE atlas_analysis; -- % _ \\ é 𝄞 \u202e"


def row(neuron: str, score: float, activation: float | None = 1.0, **more: object) -> dict[str, object]:
    return {"neuron": neuron, "score": score, **({} if activation is None else {"activation": activation}), **more}


def draft(
    title: str = "Capital", prompt: str = "The capital of France is", target: str = " Paris", **changes
) -> AnalysisEntry:
    result = {
        "prompt": prompt,
        "target": {"id": 5, "text": target, "probability": 0.1 + 0.2},
        "ffn_value_neurons": [row("L1.F2", 1.5), row("L2.F7", 0.25, -3.0)],
        "attention_value_neurons": [row("L2.H1.N4", 0.5, position=3), row("L2.H1.N4", -0.75, position=1)],
        "query_ffn_neurons": [row("L1.F2", 0.125, None)],
        "heads": [[1e-30, -0.0, 1 / 3]],
    }
    asked = {"build_id": "b1", "unembedding_hash": "h1", "address": "p=x&layer=3", "question": "p=x"}
    one = AnalysisEntry(title="", model="small", **asked, result=result)
    return one.model_copy(update={"title": title, **changes})  # unchecked, as a title that somebody types


@pytest.fixture
def workspace(workspace_url):
    with Workspace.open(workspace_url) as opened:
        yield opened


def test_what_was_saved_is_there_exactly(workspace):
    given = draft(prompt=NASTY)
    saved = workspace.save(given)
    assert json.dumps(workspace.result(saved.id)) == json.dumps(given.result)
    assert workspace.saved(saved.id) == saved
    assert (saved.title, saved.model, saved.build_id, saved.address) == ("Capital", "small", "b1", "p=x&layer=3")
    assert saved.prompt == NASTY.replace("\x00", "\ufffd")
    assert saved.created_at == saved.updated_at


def test_the_newest_stand_first_and_pages_follow_each_other(workspace):
    every = [workspace.save(draft(f"number {number}")) for number in range(7)]
    assert [one.title for one in workspace.analyses(limit=3)] == ["number 6", "number 5", "number 4"]
    pages = [one for offset in range(0, 9, 3) for one in workspace.analyses(limit=3, offset=offset)]
    assert pages == every[::-1]
    assert workspace.count_analyses() == 7
    for page in ({"limit": -1}, {"limit": 10**6}, {"offset": -1}):
        with pytest.raises(AtlasError, match="page"):
            workspace.analyses(**page)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("capital", ["Other", "Capital"]),
        ("CAPITAL france", ["Capital"]),
        ("germany", ["Other"]),
        ("Berlin", ["Other"]),
        ("straße", ["Street"]),
        ("STRASSE", ["Street"]),
        ("100%", ["Street"]),
        ("%", ["Street"]),
        ("_", []),
        ("'; DROP", []),
        ("\x00", ["Street", "Other", "Capital"]),
    ],
)
def test_words_are_found_in_title_prompt_and_target(workspace, words, expected):
    workspace.save(draft())
    workspace.save(draft("Other", "The capital of Germany is", " Berlin"))
    workspace.save(draft("Street", "Straße 100%", " x"))
    assert [one.title for one in workspace.analyses(words)] == expected
    assert workspace.count_analyses(words) == len(expected)


def test_too_many_words_are_refused(workspace):
    with pytest.raises(AtlasError, match="words"):
        workspace.analyses(" ".join(map(str, range(50))))


def test_a_question_finds_its_answers(workspace):
    first, _ = workspace.save(draft("first")), workspace.save(draft("other", question="p=y"))
    second = workspace.save(draft("second", build_id="b2"))
    assert workspace.asked("small", "p=x") == (second, first)
    assert workspace.asked("large", "p=x") == ()


def test_a_neuron_knows_where_it_stands(workspace):
    saved = workspace.save(draft())
    found = workspace.mentions("small", Neuron.parse("L2.H1.N4"))
    rows = [(one.role, one.position, one.score, one.activation) for one in found]
    assert rows == [("attention value", 1, -0.75, 1.0), ("attention value", 3, 0.5, 1.0)]
    assert {one.saved for one in found} == {saved}
    assert [one.role for one in workspace.mentions("small", Neuron.ffn(1, 2))] == ["FFN value", "FFN query"]
    assert workspace.count_mentions("small", Neuron.ffn(1, 2)) == (2, 1)
    assert workspace.mentions("large", Neuron.ffn(1, 2)) == ()
    workspace.delete(saved.id)
    assert workspace.count_mentions("small", Neuron.ffn(1, 2)) == (0, 0)


def test_renaming_and_deleting(workspace):
    saved = workspace.save(draft())
    renamed = workspace.rename(saved.id, "  Paris,\n again ")
    assert (renamed.title, renamed.created_at) == ("Paris, again", saved.created_at)
    assert renamed.updated_at > saved.updated_at
    assert workspace.analyses("again") == (renamed,)
    workspace.delete(saved.id)
    for refused in (
        lambda: workspace.saved(saved.id),
        lambda: workspace.result(saved.id),
        lambda: workspace.delete(saved.id),
        lambda: workspace.rename(saved.id, "x"),
    ):
        with pytest.raises(AtlasError, match="deleted"):
            refused()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"title": "  "}, "empty"),
        ({"title": "x" * 201}, "at most 200"),
        ({"title": "a\x00"}, r"U\+0000"),
        ({"title": "\ud800"}, r"U\+D800"),
        ({"address": "x" * (records.MAX_ADDRESS + 1)}, "address"),
        ({"result": {}}, "no analysis"),
        ({"result": {"prompt": "x", "target": {"text": "y"}, "ffn_value_neurons": [{"neuron": "<b>"}]}}, "no neuron"),
        (
            {"result": {"prompt": "x", "target": {"text": "y"}, "ffn_value_neurons": [row("L1.F1", float("nan"))]}},
            "cannot be",
        ),
        ({"result": {"prompt": "x", "target": {"text": "y"}, "more": float("inf")}}, "JSON"),
        ({"result": {"prompt": "x" * records.MAX_RESULT, "target": {"text": "y"}}}, "characters of JSON"),
    ],
)
def test_what_cannot_be_kept_is_refused_and_leaves_nothing(workspace, change, expected):
    with pytest.raises(AtlasError, match=expected) as refused:
        workspace.save(draft(**change))
    assert "\n" not in str(refused.value)
    assert workspace.count_analyses() == 0


def test_notes_and_tags(workspace):
    neuron = Neuron.parse("L1.F2")
    assert workspace.note("small", neuron) is None
    note = workspace.write_note("small", neuron, "Writes capitals.\r\nSee L2.F7", ["Geography", "capital", "geography"])
    assert note is not None
    assert (note.text, note.tags) == ("Writes capitals.\nSee L2.F7", ("capital", "geography"))
    assert workspace.note("small", neuron) == note
    assert workspace.note("large", neuron) is None
    workspace.write_note("small", Neuron.parse("L2.H1.N4"), "", ["capital"])
    assert workspace.tags() == (("capital", 2), ("geography", 1))
    assert workspace.notes(tag="Geography") == (note,)
    assert workspace.notes("WRITES l1.f2") == (note,)
    assert workspace.count_notes(model="small") == 2
    assert workspace.write_note("small", neuron, " ", []) is None
    assert workspace.note("small", neuron) is None
    assert workspace.tags() == (("capital", 1),)


def test_notes_of_checkpoints_of_one_name_are_apart_and_an_older_one_is_taken_over(workspace):
    neuron, one, two = Neuron.ffn(1, 2), ("sha256 1", ""), ("sha256 2",)
    old = workspace.write_note("small", neuron, "older", ["old"])
    assert old is not None
    assert workspace.checkpoints("small") == frozenset()
    assert workspace.note("small", neuron, one) == old, "as long as it is read"
    assert workspace.note("small", neuron, two) is None
    theirs = workspace.write_note("small", neuron, "theirs", ["two"], seen="", among=two)
    with pytest.raises(AtlasError, match="Somebody changed"):
        workspace.write_note("small", neuron, "mine", seen="", among=one)
    mine = workspace.write_note("small", neuron, "mine", ["one"], seen=old.updated_at, among=one)
    assert mine is not None
    assert mine.checkpoint == "sha256 1"
    assert [workspace.note("small", neuron, among) for among in (one, two, ("",))] == [mine, theirs, None]
    assert workspace.checkpoints("small") == {"sha256 1", "sha256 2"}
    assert workspace.checkpoints("large") == frozenset()
    assert workspace.tags("small", two) == (("two", 1),)
    assert workspace.notes(model="small", among=one) == (mine,)
    assert workspace.count_notes(tag="two", model="small", among=one) == 0
    other = Neuron.ffn(1, 3)
    workspace.write_note("small", neuron, "older, from a file", ["one", "old"])
    unnamed = workspace.write_note("small", other, "older still", ["old"])
    assert workspace.notes(model="small", among=one) == (unnamed, mine), "one a neuron: its own before the older"
    assert workspace.count_notes(model="small", among=one) == 2
    assert workspace.count_notes("older", model="small", among=one) == 1
    assert workspace.tags("small", one) == (("old", 1), ("one", 1))
    workspace.write_note("small", neuron, "")
    workspace.write_note("small", other, "")
    assert workspace.write_note("small", neuron, "", among=one) is None
    assert workspace.note("small", neuron, two) == theirs


def test_two_who_write_the_same_note_do_not_overwrite_each_other(workspace):
    neuron = Neuron.ffn(1, 2)
    first = workspace.write_note("small", neuron, "mine", seen="")
    assert first is not None
    with pytest.raises(AtlasError, match="Somebody changed"):
        workspace.write_note("small", neuron, "yours", seen="")
    second = workspace.write_note("small", neuron, "yours", seen=first.updated_at)
    assert workspace.note("small", neuron) == second


@pytest.mark.parametrize(
    ("text", "tags", "expected"),
    [
        ("x" * 20_001, (), "at most 20,000"),
        ("a\x07", (), r"U\+0007"),
        ("x", ["x" * 41], "at most 40"),
        ("x", ["a,b"], "comma"),
        ("x", list(map(str, range(21))), "at most 20"),
    ],
)
def test_notes_that_are_refused(workspace, text, tags, expected):
    with pytest.raises(AtlasError, match=expected):
        workspace.write_note("small", Neuron.ffn(1, 2), text, tags)
    assert workspace.count_notes() == 0


def test_collections(workspace):
    one, other = workspace.save(draft("one")), workspace.save(draft("other"))
    neuron = Neuron.ffn(1, 2)
    collection = workspace.new_collection("Geography")
    for _ in range(2):  # once is enough
        workspace.collect_analysis(collection.id, other.id)
        workspace.collect_analysis(collection.id, one.id)
        workspace.collect_neuron(collection.id, "small", neuron)
    assert [found.title for found in workspace.contents(collection.id).analyses] == ["other", "one"]
    assert workspace.contents(collection.id).neurons == (("small", neuron),)
    workspace.write_note("small", neuron, "A river")
    workspace.write_note("large", neuron, "a lake")  # another model's
    for words, titles, neurons in (("OTHER", ["other"], 0), ("l1.f2", [], 1), ("river", [], 1), ("lake", [], 0)):
        found = workspace.contents(collection.id, words)
        assert ([one.title for one in found.analyses], len(found.neurons)) == (titles, neurons)
    (listed,) = workspace.collections()
    assert (listed.name, listed.analyses, listed.neurons) == ("Geography", 2, 1)
    workspace.delete(one.id)
    workspace.uncollect_neuron(collection.id, "small", neuron)
    contents = workspace.contents(collection.id)
    assert ([found.title for found in contents.analyses], contents.neurons) == (["other"], ())
    workspace.uncollect_analysis(collection.id, other.id)
    assert workspace.saved(other.id) == other
    assert workspace.rename_collection(collection.id, "Places").name == "Places"
    workspace.new_collection("apes")
    assert [found.name for found in workspace.collections()] == ["apes", "Places"]
    for refused in ("Places", "", "x" * 101):
        with pytest.raises(AtlasError, match=r"Places|empty|at most 100"):
            workspace.new_collection(refused)
    workspace.delete_collection(collection.id)
    with pytest.raises(AtlasError, match="deleted"):
        workspace.contents(collection.id)
    with pytest.raises(AtlasError, match="deleted"):
        workspace.collect_analysis(workspace.collections()[0].id, "0" * 32)


@pytest.mark.parametrize("asking", ["analyses", "notes", "tags", "collections", "all_contents", "export"])
def test_a_list_takes_as_many_statements_however_long_it_is(workspace, asking):
    said: list[str] = []
    event.listen(workspace.database.engine, "before_cursor_execute", lambda *given: said.append(given[2]))

    def statements() -> int:
        said.clear()
        export(workspace) if asking == "export" else getattr(workspace, asking)()
        return len(said)

    def fill(number: int) -> None:
        collection, neuron = workspace.new_collection(f"collection {number}"), Neuron.ffn(1, number)
        workspace.write_note("small", neuron, "note", ["one", "two", f"three {number}"])
        workspace.collect_analysis(collection.id, workspace.save(draft()).id)
        workspace.collect_neuron(collection.id, "small", neuron)

    fill(0)
    few = statements()
    for number in range(1, 6):
        fill(number)
    assert statements() == few > 0
