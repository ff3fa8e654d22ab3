"""Two fine-tunes with one name and one head, from the shell: nothing of one is taken for the other's."""

import json
import os
import shutil
import signal
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from app.attribution import Settings, analyse, run_prompt
from app.attribution.__main__ import main
from app.attribution.batch import analyse_batch, read_rows
from app.attribution.prompt import PromptLine
from app.attribution.results import from_json, to_json
from app.attribution.run import StoredRanges, own_catalogue
from app.report.__main__ import main as report
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.neuron import NeuronKind
from db.token_text import shorten
from indexer.build import build
from indexer.checkpoint import Checkpoint
from indexer.language_model import load_model
from tests import models

PROMPTS = [PromptLine(models.PROMPT), PromptLine("The road is long"), PromptLine("A blue river")]
SETTINGS = Settings(top=5, suppressing=True)


@pytest.fixture(scope="module", params=["llama-square", "llama"])  # a tied head, and one of its own
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return models.fine_tunes(tmp_path_factory.mktemp("runs"), request.param)


@pytest.fixture(scope="module")
def loaded(runs: tuple[Path, Path]) -> list[Any]:
    return [load_model(Checkpoint("final", folder)) for folder in runs]


def refusal(capsys: pytest.CaptureFixture[str], command: Any, *arguments: str) -> str:
    assert command([*arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = (line for line in err.splitlines() if line.startswith("error: "))
    return line


def test_they_are_one_by_name_head_and_tokenizer_alone(loaded):
    one, two = loaded
    assert one.name == two.name
    assert one.unembedding.hash == two.unembedding.hash
    assert one.checkpoint.tokenizer_hash == two.checkpoint.tokenizer_hash
    assert one.checkpoint.identity != two.checkpoint.identity


def test_each_is_shown_with_the_tokens_of_its_own_build(runs, loaded, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ATLAS_CATALOGUE", str(tmp_path))
    for folder in runs:
        build(Checkpoint("final", folder), tmp_path, depth=6)
    for folder, model in zip(runs, loaded, strict=True):
        assert main([models.PROMPT, "--model", str(folder), "--top", "4"]) == 0
        out, err = capsys.readouterr()
        assert "left out" not in err
        catalogue = own_catalogue(tmp_path, model)
        assert catalogue is not None
        with catalogue:
            for one in analyse(model, models.PROMPT, top=4).ffn_value_neurons:
                card = catalogue.neuron(one.neuron)
                raised = card.top if one.activation > 0 else card.bottom
                (row,) = [line for line in out.splitlines() if line.split()[:1] == [one.neuron.label]]
                assert row.endswith("raises " + " ".join(shorten(entry.token.display, 16) for entry in raised[:5]))


def test_without_a_build_of_its_own_it_is_explained_without_one(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ATLAS_CATALOGUE", str(tmp_path))
    built = build(Checkpoint("final", runs[0]), tmp_path, depth=6)
    arguments = [models.PROMPT, "--model", str(runs[1]), "--top", "4"]
    assert main([*arguments, "--json"]) == 0
    out, err = capsys.readouterr()
    assert f"other weights than those in {runs[1]}, and is left out" in err
    assert {one["bound"] for one in json.loads(out)["suppressing_certificate"].values()} == {"norms"}
    for catalogue in (tmp_path, built.path.parent, built.path):  # named: it must be the right one
        line = refusal(capsys, main, *arguments, "--catalogue", str(catalogue))
        for part in ("other weights", str(runs[1]), built.path.stem.removeprefix("build-")):
            assert part in line
    arguments = [models.PROMPT, "--model", str(runs[1]), "--out", str(tmp_path / "report.html")]
    assert "other weights" in refusal(capsys, report, *arguments, "--catalogue", str(tmp_path))


def test_ranges_of_the_other_certify_nothing(runs, loaded, tmp_path):
    path = build(Checkpoint("final", runs[0]), tmp_path, depth=3).path
    with Catalogue.open(path) as catalogue:
        ranges = StoredRanges(catalogue)
        assert (
            run_prompt(loaded[0], models.PROMPT, SETTINGS).lowering(NeuronKind.FFN, 3, ranges)[1].bound == "catalogue"
        )
        with pytest.raises(AtlasError, match="other weights"):
            analyse(loaded[1], models.PROMPT, SETTINGS, ranges=ranges)


def test_an_analysis_is_reported_with_its_own_build_only(runs, loaded, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ATLAS_CATALOGUE", str(tmp_path / "catalogue"))
    written = to_json(analyse(loaded[1], models.PROMPT, SETTINGS))
    assert written["checkpoint"] == loaded[1].checkpoint.identity
    (tmp_path / "analysis.json").write_text(json.dumps(written))
    build(Checkpoint("final", runs[0]), tmp_path / "catalogue", depth=6)
    arguments = ["--analysis", str(tmp_path / "analysis.json"), "--out", str(tmp_path / "report.html")]
    assert report(arguments) == 0
    assert "was made from other weights of that name" in capsys.readouterr().err
    assert "so that the tokens of neurons are not shown" in (tmp_path / "report.html").read_text()
    line = refusal(capsys, report, *arguments, "--catalogue", str(tmp_path / "catalogue"))
    for model in loaded:
        assert model.checkpoint.identity[:19] in line
    own = build(Checkpoint("final", runs[1]), tmp_path / "catalogue", depth=6).path
    assert report(arguments) == 0
    assert own.stem.removeprefix("build-") in (tmp_path / "report.html").read_text()


def test_what_an_older_version_wrote_is_read(loaded):
    written = to_json(analyse(loaded[0], models.PROMPT, SETTINGS))
    del written["checkpoint"]
    assert from_json(written).checkpoint is None


class KilledError(Exception):
    pass


def killed_after_two(places: Any, _done: int, _total: int) -> Any:
    yield from islice(places, 2)
    raise KilledError


def singly(model: Any) -> list[dict[str, Any]]:
    return [without_seconds(to_json(analyse(model, line.prompt, line.applied(SETTINGS)))) for line in PROMPTS]


def without_seconds(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "seconds"}


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_the_other_does_not_go_on_with_a_killed_run(ending, loaded, tmp_path):
    out, said = tmp_path / f"out{ending}", list[str]()
    with pytest.raises(KilledError):
        analyse_batch(loaded[0], PROMPTS, SETTINGS, out, progress=killed_after_two)
    analyse_batch(loaded[1], PROMPTS, SETTINGS, out, say=said.append)
    (line,) = said
    for model in loaded:
        assert model.checkpoint.identity[:19] in line
    assert [without_seconds(row) for row in read_rows(out)] == singly(loaded[1])


def test_nor_does_the_same_folder_trained_on_in_its_place(runs, tmp_path):
    folder, out = Path(shutil.copytree(runs[0], tmp_path / "final")), tmp_path / "out.jsonl"
    before = load_model(Checkpoint("final", folder))
    with pytest.raises(KilledError):
        analyse_batch(before, PROMPTS, SETTINGS, out, progress=killed_after_two)
    models.retrain(folder, 5)
    after = load_model(Checkpoint("final", folder))
    analyse_batch(after, PROMPTS, SETTINGS, out)
    assert [without_seconds(row) for row in read_rows(out)] == singly(after)
    assert singly(after) != singly(before)


@pytest.mark.parametrize("runs", ["llama"], indirect=True)  # whichever head: in one process both were tried above
def test_from_the_shell_a_killed_run_belongs_to_its_model(runs, loaded, tmp_path, capsys):
    source, out = tmp_path / "prompts.txt", tmp_path / "out.jsonl"
    lines = [f"{models.PROMPT} {number}" for number in range(400)]
    source.write_text("\n".join(lines))
    command = ["--prompts", str(source), "--out", str(out), "--top", "2", "--no-suppressing", "--model"]
    environment = os.environ | {"ATLAS_CATALOGUE": str(tmp_path / "none")}
    killed = subprocess.Popen(
        [sys.executable, "-m", "app.attribution", *command, str(runs[0])], env=environment, stderr=subprocess.PIPE
    )
    assert killed.stderr is not None
    seen = b""
    while b"2/400" not in seen:  # the bar
        seen += killed.stderr.read(1)
        assert killed.poll() is None, seen
    killed.send_signal(signal.SIGKILL)
    killed.wait(60)
    killed.stderr.close()
    assert (tmp_path / "out.jsonl.part").stat().st_size
    source.write_text("\n".join(lines[:3]))  # few: another question, and another model
    assert main([*command, str(runs[1])]) == 0
    assert "out.jsonl.part held prompts of another model" in capsys.readouterr().err
    assert {row["checkpoint"] for row in read_rows(out)} == {loaded[1].checkpoint.identity}
    assert len(list(read_rows(out))) == 3
