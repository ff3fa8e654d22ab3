"""The tables: made, brought up from every earlier version, and refused where they are a newer one's or another's."""

import json
import sqlite3
import threading
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

from db.errors import AtlasError
from db.neuron import Neuron
from db.workspace import Workspace, database
from db.workspace.database import NEWEST, VERSION_TABLE, VERSIONS, Database, metadata, upgrade
from db.workspace.exchange import export

RESULT = {
    "prompt": "The capital of France is",
    "target": {"id": 5, "text": " Paris"},
    "ffn_value_neurons": [{"neuron": "L1.F2", "score": 1.5, "activation": -2.0}],
    "attention_value_neurons": [{"neuron": "L2.H1.N4", "position": 3, "score": 0.5, "activation": 1.0}],
    "query_ffn_neurons": [{"neuron": "L1.F2", "score": 0.125}],
}
TIME = "2026-11-23T04:30:00.000000Z"
# What stood in a workspace of each version: as it was written then, so not through today's code.
FIRST: tuple[tuple[str, dict[str, Any]], ...] = (
    (
        "INSERT INTO atlas_analysis VALUES (:id, 'Paris', 'small', 'b', 'h', 'p=x', 'p=x', :hash, 'The capital of "
        "France is', ' Paris', :at, :at, :result, 'paris the capital of france is  paris')",
        {"id": "a" * 32, "hash": "0" * 64, "at": TIME, "result": json.dumps(RESULT)},
    ),
    ("INSERT INTO atlas_note VALUES ('small', 'L1.F2', 'capitals', :at, 'l1.f2 capitals')", {"at": TIME}),
    ("INSERT INTO atlas_tag VALUES ('small', 'L1.F2', 'geography')", {}),
    ("INSERT INTO atlas_collection VALUES (:id, 'Places', :at)", {"id": "c" * 32, "at": TIME}),
    ("INSERT INTO atlas_collected_analysis VALUES (:c, :a, :at)", {"c": "c" * 32, "a": "a" * 32, "at": TIME}),
    ("INSERT INTO atlas_collected_neuron VALUES (:c, 'small', 'L1.F2', :at)", {"c": "c" * 32, "at": TIME}),
)
_MENTION = "INSERT INTO atlas_mention VALUES (:id, :role, :place, 'small', :neuron, :position, :score, :activation)"
SECOND = (
    *FIRST,
    *(
        (_MENTION, {"id": "a" * 32, "place": 0, "position": None, "activation": None} | row)
        for row in (
            {"role": "FFN value", "neuron": "L1.F2", "score": 1.5, "activation": -2.0},
            {"role": "attention value", "neuron": "L2.H1.N4", "score": 0.5, "position": 3, "activation": 1.0},
            {"role": "FFN query", "neuron": "L1.F2", "score": 0.125},
        )
    ),
)
THIRD = ((FIRST[0][0].replace("paris')", "paris', '')"), FIRST[0][1]), *SECOND[1:])
RECORDED = {"0001": FIRST, "0002": SECOND, "0003": THIRD}


def differences(database: Database) -> list[object]:
    """What the tables lack, or have too much, against the declared ones."""
    with database.transaction() as connection:
        found = compare_metadata(MigrationContext.configure(connection), metadata)
    return [one for one in found if VERSION_TABLE not in str(one)]


def test_every_version_is_a_migration_and_the_last_the_newest():
    config = Config()
    config.set_main_option("script_location", str(database._MIGRATIONS))
    scripts = ScriptDirectory.from_config(config)
    assert tuple(one.revision for one in scripts.walk_revisions())[::-1] == VERSIONS
    assert scripts.get_current_head() == NEWEST
    assert set(RECORDED) == set(VERSIONS[:-1])


def test_new_tables_are_the_declared_ones(workspace_url):
    with Workspace.open(workspace_url) as workspace:
        assert differences(workspace.database) == []


@pytest.mark.parametrize("version", VERSIONS[:-1])
def test_an_older_workspace_is_brought_up_with_everything_in_it(workspace_url, version):
    database = Database(workspace_url)
    if database.file is not None:
        database.file.touch()
    with database.transaction(write=True) as connection:
        upgrade(connection, version)
        for statement, values in RECORDED[version]:
            connection.execute(text(statement), values)
    database.close()
    with Workspace.open(workspace_url) as workspace:
        assert differences(workspace.database) == []
        (saved,) = workspace.analyses("france")
        assert (saved.checkpoint, saved.page) == ("", "prompt")
        assert workspace.result(saved.id) == RESULT
        assert [one.role for one in workspace.mentions("small", Neuron.ffn(1, 2))] == ["FFN value", "FFN query"]
        (mention,) = workspace.mentions("small", Neuron.attention(2, 1, 4))
        assert (mention.position, mention.score, mention.activation) == (3, 0.5, 1.0)
        note = workspace.note("small", Neuron.ffn(1, 2))
        assert note is not None
        assert (note.text, note.tags) == ("capitals", ("geography",))
        (collection,) = workspace.collections()
        assert (collection.name, collection.analyses, collection.neurons) == ("Places", 1, 1)
        before = export(workspace)
    with Workspace.open(workspace_url) as again:
        assert export(again) == before


def test_a_newer_workspace_is_refused_and_left_alone(workspace_url):
    with Workspace.open(workspace_url) as workspace, workspace.writing() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    with pytest.raises(AtlasError, match=r"newer Neuron Atlas \(version 9999") as refused:
        Workspace.open(workspace_url)
    assert "\n" not in str(refused.value)
    with Database(workspace_url).transaction() as connection:
        assert connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar() == "9999"


def test_a_migration_that_fails_leaves_the_old_version(workspace_url, monkeypatch):
    database = Database(workspace_url)
    if database.file is not None:
        database.file.touch()
    damaged = dict(FIRST[0][1]) | {"result": "{"}
    with database.transaction(write=True) as connection:
        upgrade(connection, "0001")
        connection.execute(text(FIRST[0][0]), damaged)
    with pytest.raises(ValueError, match="Expecting"):
        Workspace.open(workspace_url)
    with database.transaction(write=True) as connection:
        assert connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar() == "0001"
        connection.execute(text("UPDATE atlas_analysis SET result = :text"), {"text": json.dumps(RESULT)})
    database.close()
    with Workspace.open(workspace_url) as workspace:
        assert workspace.count_mentions("small", Neuron.ffn(1, 2)) == (2, 1)


def test_many_who_open_a_new_workspace_at_once_make_it_once(workspace_url):
    opened, failed, ready = [], [], threading.Barrier(6)

    def open_it() -> None:
        ready.wait()
        try:
            opened.append(Workspace.open(workspace_url))
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert differences(opened[0].database) == []
    for workspace in opened:
        workspace.close()


def test_another_programs_file_is_refused(tmp_path):
    path = tmp_path / "other.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    before = path.read_bytes()
    with pytest.raises(AtlasError, match="another program's"):
        Workspace.open(f"sqlite:///{path}")
    assert path.read_bytes() == before or sqlite3.connect(path).execute("SELECT count(*) FROM theirs").fetchone() == (
        0,
    )


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("nonsense", "cannot be read"),
        ("sqlite://", "must be a file"),
        ("sqlite:///:memory:", "must be a file"),
        ("mysql://a/b", "cannot"),
        ("postgresql://atlas:secret@127.0.0.1:1/none", "cannot be used"),
    ],
)
def test_a_wrong_url_is_refused_in_one_sentence_without_its_password(url, expected):
    with pytest.raises(AtlasError, match=expected) as refused:
        Workspace.open(url)
    assert "\n" not in str(refused.value)
    assert "secret" not in str(refused.value)
