"""What can go wrong around a workspace: killed writers, files that vanish, servers that stop, many at once."""

import json
import os
import signal
import subprocess
import sys
import threading
from urllib.parse import quote

import pytest

from db.errors import AtlasError
from db.neuron import Neuron
from db.workspace import Workspace
from db.workspace.database import Database
from tests.workspace.test_store import draft

WRITER = """
import sys
from db.workspace import AnalysisEntry, Workspace
row = [{"neuron": f"L1.F{i}", "score": 1.0, "activation": 1.0} for i in range(300)]
result = {"prompt": "x", "target": {"text": "y"}, "ffn_value_neurons": row}
with Workspace.open(sys.argv[1]) as workspace:
    for number in range(100000):
        asked = {"build_id": "b", "unembedding_hash": "h", "address": "p=x", "question": "p=x"}
        entry = AnalysisEntry(title=f"number {number}", model="m", **asked, result=result)
        print(workspace.save(entry).id, flush=True)
"""


def test_what_was_saved_survives_the_killing_of_its_writer(workspace_url):
    with Workspace.open(workspace_url):
        pass
    writer = subprocess.Popen([sys.executable, "-c", WRITER, workspace_url], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    told = [writer.stdout.readline().strip() for _ in range(5)]
    writer.send_signal(signal.SIGKILL)
    told += writer.stdout.read().split()
    writer.wait()
    told = [one for one in told if len(one) == 32]
    with Workspace.open(workspace_url) as workspace:
        found = workspace.analyses(limit=1000)
        assert set(told) <= {one.id for one in found}
        for one in found:  # and nothing is there by half
            assert len(workspace.result(one.id)["ffn_value_neurons"]) == 300
        assert workspace.count_mentions("m", Neuron.ffn(1, 299)) == (len(found), len(found))
        workspace.save(draft())


def test_many_threads_write_and_read_at_once(workspace_url):
    failed: list[Exception] = []
    with Workspace.open(workspace_url) as workspace:

        def work(number: int) -> None:
            try:
                for turn in range(4):
                    saved = workspace.save(draft(f"{number} {turn}"))
                    assert workspace.result(saved.id)["prompt"]
                    workspace.write_note("small", Neuron.ffn(1, 2), f"{number} {turn}", ["a", "b"])
            except Exception as error:
                failed.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        assert workspace.count_analyses() == 20
        assert workspace.tags() == (("a", 1), ("b", 1))


@pytest.fixture
def lone(tmp_path):
    """A workspace with one analysis in a file, and the file."""
    path = tmp_path / "atlas.sqlite"
    with Workspace.open(f"sqlite:///{path}") as workspace:
        workspace.save(draft())
        yield workspace, path


def works(workspace: Workspace) -> bool:
    return [one.title for one in workspace.analyses()] == ["Capital"]


def test_a_file_that_vanished_is_missed_and_found_again(lone):
    workspace, path = lone
    away = path.rename(path.with_suffix(".away"))
    for refused in (workspace.analyses, lambda: workspace.save(draft())):
        with pytest.raises(AtlasError, match="not there"):
            refused()
    assert not path.exists(), "an empty one in its place would hide the loss"
    away.rename(path)
    assert works(workspace)


def test_a_file_that_was_exchanged_is_not_mistaken_for_the_old_one(lone, tmp_path):
    workspace, path = lone
    other = tmp_path / "other.sqlite"
    with Workspace.open(f"sqlite:///{other}") as another:
        another.save(draft("Other"))
    kept = path.rename(tmp_path / "kept.sqlite")
    other.rename(path)
    assert [one.title for one in workspace.analyses()] == ["Other"]
    path.unlink()
    path.write_bytes(b"no database at all, but long enough to be read as one" * 100)
    with pytest.raises(AtlasError, match="not a database"):
        workspace.analyses()
    path.unlink()
    kept.rename(path)
    assert works(workspace)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_a_file_that_may_not_be_read_says_so(lone):
    workspace, path = lone
    path.chmod(0)
    with pytest.raises(AtlasError, match="cannot be used"):
        workspace.analyses()
    path.chmod(0o600)
    assert works(workspace)


def test_a_writer_that_waits_too_long_says_so(lone, monkeypatch):
    monkeypatch.setattr("db.workspace.database.WAIT_SECONDS", 0.1)
    workspace, _ = lone
    with workspace.writing():
        with pytest.raises(AtlasError, match="another process"):
            workspace.save(draft())
        assert works(workspace), "readers do not wait for a writer"
    workspace.save(draft())


def test_a_folder_that_cannot_be_made_says_so(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(AtlasError, match="cannot be made"):
        Workspace.open(f"sqlite:///{tmp_path / 'file' / 'atlas.sqlite'}")
    with pytest.raises(AtlasError, match="no workspace"):
        Workspace.open(f"sqlite:///{tmp_path / 'none' / 'atlas.sqlite'}", create=False)
    assert not (tmp_path / "none").exists()


def test_odd_names_of_files(tmp_path):
    folder = tmp_path / "it's a folder; 100% &x=1#é"
    folder.mkdir()
    path = folder / "it's a file?#%20;.sqlite"
    with Workspace.open(f"sqlite:///{quote(str(path))}") as workspace:
        workspace.save(draft())
    assert path.stat().st_size > 0


def test_a_server_that_stops_is_missed_and_found_again(postgres):
    url = postgres.new_database("stopping")
    with Workspace.open(url) as workspace:
        workspace.save(draft())
        postgres.stop()
        try:
            with pytest.raises(AtlasError, match="cannot be used just now"):
                workspace.analyses()  # by a connection that was there
            with pytest.raises(AtlasError) as refused:
                workspace.analyses()
            assert str(refused.value).startswith(f"The workspace {workspace.shown} cannot be used just now (")
            assert "connection to server" not in str(refused.value)
            assert "\n" not in str(refused.value)
        finally:
            postgres.start()
        assert works(workspace)
        workspace.save(draft("again"))


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (
            'connection failed: connection to server at "inside" (10.0.0.5), port 5432 failed: Connection refused\n\t',
            "Connection refused",
        ),
        (
            'connection failed: connection to server at "10.0.0.5", port 5432 failed: FATAL:  role "a" does not exist',
            'role "a" does not exist',
        ),
        ('connection is bad: connection to server on socket "/inside/.s" failed: No such file', "No such file"),
        ("failed to resolve host 'inside': [Errno -2] Name or service not known", "Name or service not known"),
        ("the connection is lost", "the connection is lost"),
    ],
)
def test_of_a_server_the_reason_is_told_and_not_where_it_is(said, reason):
    assert f"cannot be used just now ({reason})." in Database("postgresql://u@inside/name")._unusable(OSError(said))


def test_json_of_a_result_is_one_line_of_ascii(lone):
    """So that every database, and every back-up of one, can hold every prompt."""
    workspace, _ = lone
    given = draft(prompt="é\x00\ud800\u2028𝄞")
    saved = workspace.save(given)
    assert workspace.result(saved.id) == json.loads(json.dumps(given.result))
