"""``python -m db.workspace``: the same answers without a page."""

import json
import subprocess
import sys

import pytest

from db.neuron import Neuron
from db.workspace import Workspace
from db.workspace.__main__ import main
from db.workspace.exchange import export, to_text
from tests.workspace.test_exchange import fill
from tests.workspace.test_store import draft


@pytest.fixture
def url(tmp_path):
    url = f"sqlite:///{tmp_path / 'atlas.sqlite'}"
    with Workspace.open(url) as workspace:
        fill(workspace)
    return url


@pytest.fixture
def shell(url, capsys):
    def run(*arguments: str, status: int = 0) -> str:
        assert main([*arguments, "--workspace", url]) == status
        said = capsys.readouterr()
        assert status == 0 or (said.err.startswith("error: ") and said.err.count("\n") == 1 and not said.out)
        return str(said.err if status else said.out)

    return run


def test_listing_and_searching(shell, url):
    with Workspace.open(url) as workspace:
        saved = workspace.analyses("second")[0]
    assert saved.id in shell("list")
    assert "a note" in shell("notes", "--tag", "one").replace("↵", " ")
    found = json.loads(shell("list", "--json", "--limit", "1"))
    assert (found["total"], [one["id"] for one in found["analyses"]]) == (2, [saved.id])
    found = json.loads(shell("search", "--json", "second"))
    assert ([one["title"] for one in found["analyses"]], found["notes"]) == (["second <b> é"], [])
    assert [one["neuron"] for one in json.loads(shell("search", "--json", "note"))["notes"]] == ["L1.F2"]
    assert shell("search", "nothing of the kind").strip() == "nothing found"
    collections = json.loads(shell("collections", "--json"))
    assert [(one["name"], len(one["analyses"])) for one in collections] == [("empty", 0), ("Places & <i>", 2)]
    assert "Places & <i>" in shell("collections")


def test_showing_one(shell, url):
    with Workspace.open(url) as workspace:
        saved = workspace.analyses("second")[0]
        result = workspace.result(saved.id)
    assert json.loads(shell("show", saved.id, "--json"))["result"] == result
    assert "second <b> é" in shell("show", saved.id)
    assert "\x00" not in shell("list")


def test_showing_a_view_of_another_page(shell, url):
    """It has no target and no probability."""
    with Workspace.open(url) as workspace:
        entry = draft("a comparison").model_copy(update={"page": "compare", "result": {"about": "one, other"}})
        saved = workspace.save(entry)
    shown = shell("show", saved.id)
    assert "a comparison" in shown
    assert "probability" not in shown
    assert json.loads(shell("show", saved.id, "--json"))["result"] == {"about": "one, other"}


def test_out_and_in_again(shell, url, tmp_path, capsys):
    with Workspace.open(url) as workspace:
        text = to_text(export(workspace))
    assert shell("export").strip() == text
    path = tmp_path / "out.json"
    assert str(path) in shell("export", "--to", str(path))
    assert path.read_text() == text
    other = f"sqlite:///{tmp_path / 'new' / 'other.sqlite'}"
    assert main(["import", str(path), "--workspace", other, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["analyses"] == 2
    with Workspace.open(other) as workspace:
        assert to_text(export(workspace)) == text


@pytest.mark.parametrize(
    "arguments",
    [
        ("show", "none"),
        ("list", "--limit", "100000"),
        ("list", "--offset", str(10**30)),
        ("search", " ".join(map(str, range(100)))),
        ("import", "/nowhere/at/all"),
        ("export", "--to", "/nowhere/at/all"),
    ],
)
def test_errors_are_one_line(shell, arguments):
    shell(*arguments, status=2)


def test_looking_makes_no_workspace(tmp_path, capsys):
    path = tmp_path / "none.sqlite"
    assert main(["list", "--workspace", f"sqlite:///{path}"]) == 2
    assert "There is no workspace" in capsys.readouterr().err
    (tmp_path / "other.json").write_text('{"x": 1}')
    assert main(["import", str(tmp_path / "other.json"), "--workspace", f"sqlite:///{path}"]) == 2
    assert "no export of a workspace" in capsys.readouterr().err
    assert not path.exists()


def test_as_a_program(tmp_path):
    url = f"sqlite:///{tmp_path / 'atlas.sqlite'}"
    with Workspace.open(url) as workspace:
        workspace.save(draft("\x1b[31mred".replace("\x1b", "")))
        workspace.write_note("small", Neuron.ffn(1, 2), "é")
    command = [sys.executable, "-m", "db.workspace", "search", "é"]
    done = subprocess.run(
        command, env={"ATLAS_WORKSPACE": url, "PYTHONIOENCODING": "ascii"}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "L1.F2" in done.stdout
    done = subprocess.run(command, env={"ATLAS_WORKSPACE": "off"}, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ATLAS_WORKSPACE is off")
