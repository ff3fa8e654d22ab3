"""Shards are believed only when whole; one indexer at a time; leftovers are told of, and pruned."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from db.catalogue.builds import current_build
from db.catalogue.check import content_hash
from db.errors import AtlasError
from db.records import BuildStamp
from indexer import work as work_module
from indexer.__main__ import main
from indexer.build import build
from indexer.shards import Shards, only_indexer
from tests import models
from tests.indexer.test_build import DEPTH, assert_is_brute_force

BUILD = BuildStamp("b1", 3, "code", "2026-01-01", "toy", "llama", "sha256 c", "u", "t", 3, 8, 40, 21, 18, 2, 3, 5)
ROWS = {"a.parquet": 3, "b.parquet": 1}
TABLES = {"a.parquet": pa.table({"x": [1, 2, 3]}), "b.parquet": pa.table({"y": [1]})}


def stamp_of(shard: Path) -> Path:
    return shard.with_name(f"{shard.name.rpartition('-')[0]}.json")


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE: dict[str, Any] = {
    "a byte": lambda shard: flip_a_byte(shard / "a.parquet"),
    "cut short": lambda shard: (shard / "a.parquet").write_bytes((shard / "a.parquet").read_bytes()[:-1]),
    "empty": lambda shard: (shard / "b.parquet").write_bytes(b""),
    "missing": lambda shard: (shard / "b.parquet").unlink(),
    "no stamp": lambda shard: stamp_of(shard).unlink(),
    "half a stamp": lambda shard: stamp_of(shard).write_text('{"build": "b1", "files": {"a.parquet": {"rows"'),
    "a stamp that is no table": lambda shard: stamp_of(shard).write_text("[]"),
    "a stamp without checksums": lambda shard: stamp_of(shard).write_text('{"build": "b1", "files": {"a.parquet": 3}}'),
    "gone": shutil.rmtree,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_only_a_whole_shard_is_believed(damage, tmp_path):
    shards = Shards(tmp_path, BUILD)
    shards.write("shard", TABLES)
    assert shards.is_whole("shard", ROWS)
    assert not shards.is_whole("shard", ROWS | {"a.parquet": 4})
    folder = shards.fetch("shard", ROWS, tmp_path)
    assert folder is not None
    DAMAGE[damage](folder)
    assert not shards.is_whole("shard", ROWS)
    shards.write("shard", TABLES)
    assert shards.is_whole("shard", ROWS)
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name, "shard.json"]


def stopped_after(layers: int, catalogue: Path, depth: int = 5) -> Path:
    """A build that was stopped; its work folder."""

    def stop(every, _total):
        for _ in range(layers):
            yield next(every)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(models.checkpoint("llama"), catalogue, depth=depth, progress=stop)
    return next((catalogue / "llama").glob("work-*"))


def test_a_damaged_shard_is_made_again(tmp_path, monkeypatch):
    whole = build(models.checkpoint("llama"), tmp_path / "whole", depth=5)
    work = stopped_after(3, tmp_path / "killed")
    flip_a_byte(next(work.glob("layer-0001-*/tokens.parquet")))
    (work / "layer-0002-0.part").mkdir()
    (work / "layer-0002-0.part" / "tokens.parquet").write_bytes(b"half")
    written, write = [], Shards.write

    def noted(shards, name, tables):
        written.append(name)
        write(shards, name, tables)

    monkeypatch.setattr(Shards, "write", noted)
    resumed = build(models.checkpoint("llama"), tmp_path / "killed", depth=5)
    assert written == ["layer-0001"]
    assert content_hash(resumed.path) == content_hash(whole.path)
    assert not work.exists()


def test_a_resumed_job_may_go_on_the_other_way(tmp_path, monkeypatch):
    """Which way is faster is measured, and may come out otherwise the next time; the lists are the same."""
    measured = iter([True, False])
    monkeypatch.setattr(work_module, "bf16_is_faster", lambda _width: next(measured))
    stopped_after(1, tmp_path, depth=DEPTH)
    built = build(models.checkpoint("llama"), tmp_path, depth=DEPTH)
    assert next(measured, None) is None
    assert built.screened == 0
    assert_is_brute_force(built.path, "llama", DEPTH)


def test_a_second_indexer_is_told_so(tmp_path, capsys):
    (tmp_path / "llama").mkdir()
    with only_indexer(tmp_path / "llama"):
        assert main(["build", str(models.folder("llama")), "--catalogue", str(tmp_path), "--depth", "5"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: Another process is indexing into {tmp_path / 'llama'}")
    assert main(["build", str(models.folder("llama")), "--catalogue", str(tmp_path), "--depth", "5"]) == 0


def test_other_work_is_told_of_and_pruned(tmp_path, capsys):
    work = stopped_after(1, tmp_path, depth=4)
    lines: list[str] = []
    builds = [build(models.checkpoint("llama"), tmp_path, depth=depth, say=lines.append).path for depth in (5, 6, 7)]
    assert sum(str(work) in line for line in lines) == 3
    assert work.is_dir()
    assert main(["prune", "--catalogue", str(tmp_path), "--keep", "2"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    pruned, old = (Path(line.split()[1]) for line in out.splitlines())
    assert pruned == work
    assert old in builds[:2]  # of the same second
    assert not work.exists()
    assert [path for path in builds if not path.exists()] == [old]
    assert main(["prune", "--catalogue", str(tmp_path), "--model", "llama"]) == 0
    assert current_build(tmp_path / "llama") == builds[2]
    assert [path for path in builds if path.exists()] == [builds[2]]


@pytest.mark.parametrize("arguments", [["--keep", "0"], ["--model", "nobody"]])
def test_pruning_with_bad_arguments(arguments, tmp_path, capsys):
    stopped_after(1, tmp_path)
    assert main(["prune", "--catalogue", str(tmp_path), *arguments]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_unfinished_work_alone_can_be_pruned(tmp_path):
    work = stopped_after(1, tmp_path)
    assert main(["prune", "--catalogue", str(tmp_path)]) == 0
    assert not work.exists()
    with pytest.raises(AtlasError):
        current_build(tmp_path / "llama")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here: the CPU's path is tested alone")
def test_a_gpu_publishes_the_same_lists(tmp_path):
    from indexer.verify import verify

    built = build(models.checkpoint("llama"), tmp_path, depth=10)
    assert verify(built.path, models.checkpoint("llama"), sample=10_000).sampled == built.neurons
