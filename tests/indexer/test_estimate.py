"""The estimate counts what the build will write, reads no tensor, and says what it cannot estimate."""

import json
import shutil
from pathlib import Path

import pytest
import safetensors

from indexer import estimate as module
from indexer import projection, weights
from indexer.__main__ import main
from indexer.build import build
from indexer.estimate import estimate
from tests import models


@pytest.mark.parametrize(("name", "screened"), [("llama", False), ("gpt2-narrow", True)])
def test_it_counts_what_a_build_holds(name, screened, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_TRIAL_NEURONS", 16)
    monkeypatch.setattr(projection, "bf16_is_faster", lambda _width: screened)  # on some machines so, on some not
    found = estimate(models.checkpoint(name), depth=5)
    built = build(models.checkpoint(name), tmp_path, depth=5)
    assert found.neurons == built.neurons
    assert found.rows == built.neurons * 2 * 5
    assert found.model == name
    assert found.screened == screened
    for expected in (found.indexing_seconds, found.publishing_seconds, found.file_size, found.disk_while_building):
        assert expected > 0
    assert found.seconds > found.indexing_seconds + found.publishing_seconds
    assert found.peak_memory < 1e9


def test_no_tensor_is_read(monkeypatch):
    opened = safetensors.safe_open

    class Headers:
        def __init__(self, *arguments, **options):
            self._file = opened(*arguments, **options)

        def __enter__(self):
            self._file.__enter__()
            return self

        def __exit__(self, *error):
            return self._file.__exit__(*error)

        def keys(self):
            return self._file.keys()

        def get_slice(self, name):
            return self._file.get_slice(name)

    monkeypatch.setattr(weights, "safe_open", Headers)
    assert estimate(models.checkpoint("gpt2"), depth=5).neurons == 3 * (128 + 32)


def test_from_the_shell(tmp_path, capsys):
    arguments = ["estimate", str(models.folder("llama")), "--catalogue", str(tmp_path), "--depth", "4"]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("llama: 288 neurons, 2,304 rows")
    assert [line.split()[0] for line in out.splitlines()[1:]] == ["time", "memory", "disk"]
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["neurons"], found["rows"]) == (288, 2304)
    assert {"seconds", "peak_memory", "file_size", "disk_while_building"} <= set(found)
    assert list(tmp_path.iterdir()) == []


def test_files_that_do_not_fit_the_config(tmp_path, capsys):
    folder = Path(shutil.copytree(models.folder("llama"), tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 400}))
    assert main(["estimate", str(folder)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "promises an embedding of 400 × 32, the files hold 323 × 32" in line


@pytest.mark.parametrize("option", ["--depth", "--memory-mb"])
def test_bad_numbers(option, capsys):
    assert main(["estimate", str(models.folder("llama")), option, "0"]) == 2
    assert f"{option} 0" in capsys.readouterr().err
