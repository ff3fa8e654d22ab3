"""The work of one build shared out: among jobs that know nothing of each other, and among the workers of a Ray cluster.

Whoever does it, and whatever is killed meanwhile, what is published is what one process publishes.
"""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from db.catalogue.builds import current_build
from db.catalogue.check import content_hash
from db.errors import AtlasError
from indexer import work
from indexer.__main__ import main
from indexer.build import build, stamp_of
from indexer.shards import Shards
from indexer.work import Job, Unit, share_of, unembedding_of
from tests import models
from tests.conftest import CHECKOUT
from tests.indexer.test_shards import BUILD, ROWS, TABLES, stopped_after
from tests.ray_process import ray_cluster, ray_settings
from tests.server_process import ending_with_us

DEPTH = 5
NAMES = ["neighbours", "layer-0000", "layer-0001", "layer-0002"]
PATIENCE = 120  # seconds, for what a loaded machine does slowly


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What one process publishes."""
    from indexer import device

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "onednn_is_faster", lambda: False)
        catalogue = tmp_path_factory.mktemp("whole")
        return content_hash(build(models.checkpoint("llama"), catalogue, depth=DEPTH, screen=False).path)


def job(place: str | Path, depth: int = DEPTH) -> Job:
    checkpoint = models.checkpoint("llama")
    return Job(checkpoint, stamp_of(checkpoint, unembedding_of(checkpoint), depth), place, screen=False)


@pytest.mark.parametrize("jobs", [1, 2, 3, 7, 40])
def test_every_unit_is_in_one_share_and_the_shares_are_even(jobs):
    units = [Unit("neighbours", None, {}, 9.5), *(Unit(f"layer-{layer}", layer, {}, 1) for layer in range(30))]
    shares = [share_of(units, number, jobs) for number in range(1, jobs + 1)]
    assert sorted(unit.name for share in shares for unit in share) == sorted(unit.name for unit in units)
    loads = [sum(unit.cost for unit in share) for share in shares]
    assert max(loads) <= max(9.5, sum(loads) / jobs + 1)


@pytest.mark.parametrize("place", ["beside", "folder", "memory"])
def test_jobs_make_the_shards_and_one_publishes(place, whole, tmp_path, capsys):
    where = {"beside": [], "folder": ["--shards-to", str(tmp_path / "a b%20?" / "c")], "memory": []}[place]
    where = ["--shards-to", f"memory://{tmp_path.name}"] if place == "memory" else where
    common = [str(models.folder("llama")), "--catalogue", str(tmp_path / "catalogue"), "--depth", str(DEPTH), *where]
    for number, missing in (
        (3, ["neighbours", "layer-0000", "layer-0002"]),
        (1, ["layer-0000", "layer-0002"]),
        (2, []),
    ):
        assert main(["build", *common, "--shard", f"{number}/3"]) == 0
        assert not list((tmp_path / "catalogue").rglob("CURRENT"))
        capsys.readouterr()
        if missing:
            assert main(["publish", *common]) == 2
            told = capsys.readouterr().err.splitlines()[-1]
            assert [name for name in NAMES if name in told] == missing
    assert main(["publish", *common]) == 0
    assert content_hash(current_build(tmp_path / "catalogue" / "llama")) == whole
    assert not list((tmp_path / "catalogue" / "llama").glob("work-*"))
    assert main(["publish", *common]) == 0
    assert "Nothing to do" in capsys.readouterr().err


def test_a_share_that_is_done_is_not_done_again(tmp_path, monkeypatch):
    common = [str(models.folder("llama")), "--catalogue", str(tmp_path), "--depth", str(DEPTH)]
    assert main(["build", *common, "--shard", "1/1"]) == 0
    monkeypatch.setattr(Shards, "write", None)
    assert main(["build", *common, "--shard", "1/1"]) == 0
    assert main(["build", *common]) == 0  # it publishes what is there


@pytest.mark.parametrize("harm", ["bytes", "gone", "stamp"])
def test_a_damaged_shard_in_a_store_is_named_and_made_again(harm, whole, tmp_path, capsys):
    url = f"memory://{tmp_path.name}"
    common = [str(models.folder("llama")), "--catalogue", str(tmp_path), "--depth", str(DEPTH), "--shards-to", url]
    assert main(["build", *common, "--shard", "1/1"]) == 0
    store = fsspec.filesystem("memory")
    (file,) = store.glob(f"/{tmp_path.name}/work-*/layer-0001-*/tokens.parquet")
    if harm == "bytes":
        data = store.cat_file(file)
        store.pipe_file(file, data[:100] + bytes([data[100] ^ 1]) + data[101:])
    elif harm == "gone":
        store.rm_file(file)
    else:
        store.pipe_file(store.glob(f"/{tmp_path.name}/work-*/layer-0001.json")[0], b'{"files": {"../../x": {"rows"')
    capsys.readouterr()
    assert main(["publish", *common]) == 2
    told = capsys.readouterr().err
    assert [name for name in NAMES if name in told] == ["layer-0001"]
    assert main(["build", *common, "--shard", "1/1"]) == 0
    assert main(["publish", *common]) == 0
    assert content_hash(current_build(tmp_path / "llama")) == whole


def test_shards_of_another_build_are_not_mixed_in(tmp_path, capsys):
    folder, other = job(tmp_path / "shards"), job(tmp_path / "shards", depth=4)
    for unit in other.units():
        work.Worker(other).run([unit])
    common = [str(models.folder("llama")), "--catalogue", str(tmp_path), "--shards-to", str(tmp_path / "shards")]
    assert main(["publish", *common, "--depth", str(DEPTH)]) == 2
    told = capsys.readouterr().err
    assert all(name in told for name in NAMES)
    assert f"{other.stamp.build_id} (llama, " in told
    assert "depth 4" in told
    (tmp_path / "shards" / f"work-{other.stamp.build_id}").rename(tmp_path / "shards" / f"work-{folder.stamp.build_id}")
    assert main(["publish", *common, "--depth", str(DEPTH)]) == 2
    told = capsys.readouterr().err
    assert "neighbours.json is of another build, " + other.stamp.build_id in told


def test_two_jobs_that_write_one_shard_at_once_do_not_mix_their_files(tmp_path, monkeypatch):
    """Of other machines, they may differ in last digits."""
    ours, theirs = Shards(tmp_path, BUILD), Shards(tmp_path, BUILD)
    other = {name: pa.table({"z": [0] * ROWS[name]}) for name in TABLES}
    store = Shards._store

    def overtaken(shards, file, name):
        store(shards, file, name)
        if shards is ours and name.endswith("a.parquet"):
            theirs.write("shard", other)

    monkeypatch.setattr(Shards, "_store", overtaken)
    ours.write("shard", TABLES)
    folder = ours.fetch("shard", ROWS, tmp_path)
    assert folder is not None
    assert {name: pq.read_table(folder / name) for name in TABLES} == TABLES


def test_what_a_killed_job_left_half_written_is_removed_in_time(tmp_path):
    work_folder = stopped_after(1, tmp_path, depth=DEPTH)
    old, new = work_folder / "layer-0001-1.part", work_folder / "layer-0001-2.part"
    for partial in (old, new):
        partial.mkdir()
    os.utime(old, (0, 0))
    assert main(["publish", str(models.folder("llama")), "--catalogue", str(tmp_path), "--depth", str(DEPTH)]) == 2
    assert (old.exists(), new.exists()) == (False, True)  # another job may be writing it


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--shard", "0/4"], "'0/4' is no share"),
        (["--shard", "5/4"], "'5/4' is no share"),
        (["--shard", "half"], "'half' is no share"),
        (["--shard", "1/2", "--engine", "ray"], "--shard is for jobs"),
        (["--address", "here:1"], "--address is for a cluster"),
        (["--task-gpus", "1"], "--task-gpus is for a cluster"),
        (["--shards-to", "nowhere://x"], "Shards cannot be kept in nowhere://x"),
        (["--shards-to", "ftp://me:secret@127.0.0.1:9/x"], "Shards cannot be kept in ftp://127.0.0.1:9/x"),
        (["--shards-to", "memory://x", "--engine", "ray"], "memory:// is within one process"),
    ],
)
def test_bad_options_get_one_line(options, said, tmp_path, capsys):
    command = ["build", str(models.folder("llama")), "--catalogue", str(tmp_path), "--depth", str(DEPTH), *options]
    try:
        status = main(command)
    except SystemExit as end:
        status = int(str(end.code))
    last = capsys.readouterr().err.splitlines()[-1]
    assert status == 2
    assert said in last
    assert "secret" not in last


def test_without_ray_it_says_how_to_get_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(work, "find_spec", lambda _name: None)
    command = ["build", str(models.folder("llama")), "--catalogue", str(tmp_path), "--engine", "ray"]
    assert main(command) == 2
    assert "pip install -r indexer/requirements-ray.txt" in capsys.readouterr().err


def test_a_cluster_that_is_not_there_is_said_at_once(tmp_path, capsys, ray_is_installed):
    command = ["build", str(models.folder("llama")), "--catalogue", str(tmp_path), "--engine", "ray"]
    assert main([*command, "--address", "127.0.0.1:9"]) == 2
    assert "The Ray cluster 127.0.0.1:9 cannot be reached" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("other", ["weights", "nothing"])
def test_a_machine_with_another_model_is_refused(other, tmp_path):
    folder = Path(shutil.copytree(models.folder("llama"), tmp_path / "llama"))
    here = job(tmp_path / "shards")
    there = Job(type(here.checkpoint)("llama", folder), here.stamp, here.place)
    if other == "weights":
        models.retrain(folder, 1)
    else:
        shutil.rmtree(folder)
    with pytest.raises(AtlasError, match=re.escape(str(folder))):
        work._do(there, there.units()[0], 1)
    assert not (tmp_path / "shards").exists()


# With Ray.

KILLING = """
import os, signal
from pathlib import Path
from fsspec.implementations.local import LocalFileSystem
from indexer import device, work

device.onednn_is_faster = lambda: False  # as in the build that this is compared with
work.bf16_is_faster = lambda width: False


class Killing(LocalFileSystem):
    '''A store in a folder, which kills whoever is the first to store a file of layer 1, half-way.'''

    protocol = "killing"

    def __init__(self, **options):
        super().__init__(auto_mkdir=True, **options)

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).removeprefix("killing://"))

    def put_file(self, lpath, rpath, **options):
        super().put_file(lpath, rpath, **options)
        killed = Path(os.environ["KILLED"])
        if "layer-0001-" in str(rpath) and str(rpath).endswith("tokens.parquet") and not killed.exists():
            killed.write_text(str(os.getpid()))
            os.truncate(self._strip_protocol(rpath), 100)
            os.kill(os.getpid(), signal.SIGKILL)
"""
ENTRY = "[fsspec.specs]\nkilling = killing_store:Killing\n"


@pytest.fixture
def killing_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Installs it for the processes that this one starts; the file that names who was killed."""
    package = tmp_path / "package"
    (package / "killing_store-1.dist-info").mkdir(parents=True)
    (package / "killing_store.py").write_text(KILLING)
    (package / "killing_store-1.dist-info" / "METADATA").write_text("Name: killing_store\nVersion: 1\n")
    (package / "killing_store-1.dist-info" / "entry_points.txt").write_text(ENTRY)
    monkeypatch.setenv("PYTHONPATH", f"{package}{os.pathsep}{CHECKOUT}")
    monkeypatch.setenv("KILLED", str(tmp_path / "killed"))
    return tmp_path / "killed"


@pytest.mark.parametrize(("gpus", "device"), [(0, {"ATLAS_DEVICE": "cpu"}), (1, {})])
def test_a_task_takes_no_card_that_it_has_not_reserved(gpus, device, ray_is_installed, monkeypatch):
    import ray

    given: dict[str, Any] = {}
    monkeypatch.setattr(ray, "init", lambda _address, **options: given.update(options))
    work.Cluster("local", task_gpus=gpus)._connect()
    assert given["runtime_env"]["env_vars"] == device


@pytest.mark.parametrize("case", ["ours", "disk", "killed"])
def test_what_ended_a_task_is_told_as_if_it_had_happened_here(case, ray_is_installed, monkeypatch):
    import ray

    error: Exception = {
        "ours": ray.exceptions.RayTaskError("_do", "Traceback …", AtlasError("Another model.")),
        "disk": ray.exceptions.RayTaskError("_do", "Traceback …", OSError(errno.ENOSPC, "No space left on device")),
        "killed": ray.exceptions.WorkerCrashedError(),
    }[case]

    def fails(_reference):
        raise error.as_instanceof_cause() if isinstance(error, ray.exceptions.RayTaskError) else error

    monkeypatch.setattr(ray, "get", fails)
    with pytest.raises(OSError if case == "disk" else AtlasError) as raised:
        work._result(None, Unit("layer-0007", 7, {}, 1))
    if case == "ours":
        assert str(raised.value) == "Another model."
    elif case == "disk":
        assert isinstance(raised.value, OSError)
        assert raised.value.errno == errno.ENOSPC
    else:
        assert "layer-0007 was begun 6 times" in str(raised.value)


@pytest.fixture
def two_workers(ray_is_installed: None, killing_store: Path) -> Iterator[str]:
    """The address of a Ray cluster of this machine."""
    with ray_cluster(2) as address:
        yield address


@pytest.mark.slow
def test_a_worker_of_two_is_killed_and_nothing_is_lost(two_workers, killing_store, whole, tmp_path):
    model = os.path.relpath(models.folder("llama"), tmp_path)  # the workers are elsewhere
    command = [sys.executable, "-m", "indexer", "build", model, "--catalogue", "catalogue", "--depth", str(DEPTH)]
    command += ["--engine", "ray", "--address", two_workers, "--shards-to", f"killing://{tmp_path / 'shards'}"]
    own = os.environ | ray_settings()
    done = subprocess.run(command, env=own, cwd=tmp_path, capture_output=True, text=True, timeout=2 * PATIENCE)
    assert done.returncode == 0, done.stderr
    assert "machines 1, tasks at a time 2" in done.stderr
    killed = int(killing_store.read_text())
    assert not psutil.pid_exists(killed)
    assert content_hash(current_build(tmp_path / "catalogue" / "llama")) == whole
    stamps = [json.loads(path.read_text()) for path in (tmp_path / "shards").glob("work-*/*.json")]
    assert len(stamps) == len(NAMES)


@pytest.mark.slow
def test_a_build_that_is_killed_takes_its_cluster_along(ray_is_installed, tmp_path):
    common = [str(models.folder("llama")), "--catalogue", str(tmp_path), "--depth", str(DEPTH), "--engine", "ray"]
    command, own = [sys.executable, "-m", "indexer", "build", *common], os.environ | ray_settings()
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            command, env=own, cwd=CHECKOUT, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
        )
    with ending_with_us(process):
        started: list[psutil.Process] = []
        deadline = time.monotonic() + PATIENCE
        while not any("raylet" in one.name() for one in started):
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
            started = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not psutil.wait_procs(started, PATIENCE)[1]
    # Workers that were begun after one looked end too, as soon as they miss the others.
    later = [one for one in psutil.process_iter(["cmdline"]) if own["RAY_TMPDIR"] in str(one.info["cmdline"])]
    assert not psutil.wait_procs(later, PATIENCE)[1]
