"""Which checkpoint a folder holds, and where its builds go: two fine-tunes may share a name and a head."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from db import files
from db.catalogue.builds import build_of, current_build, models, source_of
from db.catalogue.reader import checkpoint_of
from db.errors import AtlasError
from db.files import sha256_of
from indexer import language_model
from indexer.__main__ import main
from indexer.build import build
from indexer.checkpoint import Checkpoint, locate
from indexer.language_model import load_model
from indexer.verify import verify
from tests import models as checkpoints


def built_from_shell(folder: Path, catalogue: Path, capsys: pytest.CaptureFixture[str]) -> tuple[Path, str]:
    """The folder that a build says it was published in, and all it said."""
    assert main(["build", str(folder), "--catalogue", str(catalogue), "--depth", "3"]) == 0
    said = capsys.readouterr().err
    (line,) = (line for line in said.splitlines() if line.startswith("Published "))
    return Path(line.removeprefix("Published ").partition(".duckdb:")[0]).parent, said


@pytest.mark.parametrize("name", ["llama-square", "llama"])  # a tied head, and one of its own
def test_two_fine_tunes_of_one_name_live_side_by_side(name, tmp_path, capsys):
    run1, run2 = checkpoints.fine_tunes(tmp_path, name)
    catalogue, both = tmp_path / "catalogue", [locate(str(run)) for run in (run1, run2)]
    first, said = built_from_shell(run1, catalogue, capsys)
    assert first == catalogue / "final"
    assert "another checkpoint" not in said
    second, said = built_from_shell(run2, catalogue, capsys)
    assert second.name == f"final-{both[1].identity.removeprefix('sha256 ')[:8]}"
    (told,) = (line for line in said.splitlines() if "another checkpoint" in line)
    for part in (str(first), str(run1), both[0].identity[:19], both[1].identity[:19], str(second)):
        assert part in told
    assert models(catalogue) == ["final", second.name]
    for folder, one in zip((first, second), both, strict=True):
        path = current_build(folder)
        assert checkpoint_of(path) == one.identity
        assert source_of(path) == one.source
        assert build_of(catalogue, "final", one.has) == path
        assert verify(path, one, sample=50).sampled == 50
        assert main(["verify", "--catalogue", str(catalogue), "--model", folder.name]) == 0
    assert main(["prune", "--catalogue", str(catalogue)]) == 0  # none of them is an old build of the other
    assert [checkpoint_of(current_build(folder)) for folder in (first, second)] == [one.identity for one in both]
    capsys.readouterr()
    for folder, run in ((second, run2), (first, run1)):
        assert main(["build", str(run), "--catalogue", str(catalogue), "--depth", "3"]) == 0
        assert f"Nothing to do: {folder}/build-" in capsys.readouterr().err


def test_a_model_trained_on_in_its_place_keeps_its_folder(tmp_path, capsys):
    (folder, _), catalogue = checkpoints.fine_tunes(tmp_path), tmp_path / "catalogue"
    before = build(Checkpoint("final", folder), catalogue, depth=3).path
    checkpoints.retrain(folder, 7)
    with pytest.raises(AtlasError, match=r"its stamp has checkpoint sha256 \w+…, the model sha256 \w+…") as refusal:
        verify(before, Checkpoint("final", folder))
    assert "trained on since" in str(refusal.value)
    after = build(Checkpoint("final", folder), catalogue, depth=3).path
    assert after.parent == before.parent
    assert current_build(after.parent) == after
    assert before.is_file()  # links name it
    copy = Path(shutil.copytree(folder, tmp_path / "elsewhere" / "final"))
    same = build(Checkpoint("final", copy), catalogue, depth=3)
    assert (same.path, same.fresh) == (after, False)


def test_an_unfinished_build_is_not_gone_on_with_by_the_other(tmp_path):
    (run1, run2), catalogue = checkpoints.fine_tunes(tmp_path), tmp_path / "catalogue"

    def stop(layers, _total):
        yield next(layers)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(Checkpoint("final", run1), catalogue, depth=3, progress=stop)
    second = build(Checkpoint("final", run2), catalogue, depth=3).path
    assert second.parent.name.startswith("final-")
    first = build(Checkpoint("final", run1), catalogue, depth=3).path
    assert first.parent == catalogue / "final"
    assert verify(first, Checkpoint("final", run1), sample=10_000).deviation < 1e-6


def test_a_folder_that_both_shared_before_goes_to_whom_it_says(tmp_path):
    """As older versions left it: the builds of both in one folder, which is the last one's."""
    (run1, run2), catalogue = checkpoints.fine_tunes(tmp_path), tmp_path / "catalogue"
    old = build(Checkpoint("final", run1), tmp_path / "other", depth=3).path
    current = build(Checkpoint("final", run2), catalogue, depth=3).path
    shutil.copy(old, current.parent)
    again = build(Checkpoint("final", run1), catalogue, depth=3).path
    assert again.parent != current.parent
    assert current_build(current.parent) == current


def test_a_checkpoint_of_the_hub_is_known_by_its_commit_and_by_its_files(tmp_path):
    commit = "0123456789abcdef0123456789abcdef01234567"
    folder = checkpoints.save("gpt2", tmp_path / "models--owner--name" / "snapshots" / commit)
    fetched, named = Checkpoint("name", folder, revision=commit, hub_id="owner/name"), Checkpoint("name", folder)
    assert fetched.identity == f"revision {commit}"
    assert named.identity == checkpoints.checkpoint("gpt2").identity
    assert fetched.has(named.identity)
    assert named.has(fetched.identity)
    for one in (fetched, named):
        assert not one.has(checkpoints.checkpoint("llama").identity)
        assert not one.has("revision 0123")
        assert not one.has("")


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that counts as large and was written long ago; the cache is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "_LARGE", 4)
    monkeypatch.setattr(files, "_SETTLED", -1)
    monkeypatch.setattr(files, "_hashes", {})
    path = tmp_path / "weights"
    path.write_bytes(b"first")
    return path


FIRST, OTHER = (
    "a7937b64b8caa58f03721bb6bacf5c78cb235febe0e70b1b84cd99541461a08e",
    "d9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53a54f2f3f5b2fcffa",
)


def test_a_hash_is_remembered_across_processes_until_the_file_changes(large, tmp_path, monkeypatch):
    assert sha256_of(large) == FIRST
    stored = json.loads((tmp_path / "cache" / "neuron-atlas" / "hashes.json").read_text())
    assert [(name, digest) for name, (_, digest) in stored.items()] == [(str(large), FIRST)]
    for forget in (False, True):
        if forget:
            monkeypatch.setattr(files, "_hashes", {})  # as in another process
        with monkeypatch.context() as patched:
            patched.setattr(hashlib, "file_digest", lambda *_: pytest.fail("the file was read again"))
            assert sha256_of(large) == FIRST
    kept = large.stat()
    large.write_bytes(b"other")  # as long, and the time of the first
    os.utime(large, ns=(kept.st_atime_ns, kept.st_mtime_ns))
    assert sha256_of(large) == OTHER


@pytest.mark.parametrize("content", ["", "[]", "{", '{"a": 1}', '{"a": [[1], 2]}'])
def test_a_spoilt_cache_of_hashes_does_no_harm(content, large, tmp_path):
    (tmp_path / "cache" / "neuron-atlas").mkdir(parents=True)
    (tmp_path / "cache" / "neuron-atlas" / "hashes.json").write_text(content)
    assert sha256_of(large) == FIRST


def test_a_cache_that_cannot_be_written_does_no_harm(large, tmp_path):
    (tmp_path / "cache").write_text("no folder")
    assert sha256_of(large) == FIRST
    assert sha256_of(large) == FIRST


def test_weights_that_change_while_they_are_loaded_are_refused(tmp_path, monkeypatch):
    folder, load = checkpoints.save("llama", tmp_path / "llama"), language_model._load_module

    def and_retrain(*arguments):
        module = load(*arguments)
        checkpoints.retrain(folder, 3)
        return module

    monkeypatch.setattr(language_model, "_load_module", and_retrain)
    with pytest.raises(AtlasError, match="changed while they were read"):
        load_model(Checkpoint("llama", folder))
