"""The offline job: shards in Parquet, by whoever does the work -> one published build; and making room for the next.

A shard is a layer (and one more, the tokens' neighbours). A job that was killed, or ran out of disk, goes on from the
shards that are whole. Peak memory: the unembedding, one layer's value vectors, one chunk of logits; while one layer is
written, the next is computed.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from errno import EDQUOT, ENOSPC
from pathlib import Path

import duckdb
import pyarrow.parquet as pq

from db.catalogue.builds import (
    build_files,
    build_path,
    current_build,
    folders_called,
    model_folders,
    prune,
    remember_source,
    set_current,
    source_of,
    texts_files,
)
from db.catalogue.check import check_build
from db.catalogue.publish import publish
from db.catalogue.reader import Reader, checkpoint_of
from db.catalogue.schema import SCHEMA_VERSION
from db.errors import AtlasError, first_line
from db.records import BuildStamp, short_identity
from indexer.checkpoint import Checkpoint
from indexer.language_model import compare_with_loaded, load_model
from indexer.neighbours import RECALL, directions
from indexer.projection import MEMORY_MB
from indexer.shards import Shards, only_indexer, work_folder, work_folders
from indexer.tokens import token_table
from indexer.weights import Unembedding
from indexer.work import (
    NEIGHBOUR_FILE,
    NEIGHBOURS,
    Engine,
    Job,
    Progress,
    Say,
    Unit,
    Worker,
    in_process,
    share_of,
    unembedding_of,
)

CODE_VERSION = "2"
"""Raised when the same checkpoint and options would give other contents; part of every build's identity."""
DEPTH = 50
_IDENTITY = ("checkpoint", "unembedding_hash", "tokenizer_hash", "schema_version", "code_version", "depth")
"""The fields of a stamp from which its build id follows: where they agree, so do the contents."""


@dataclass(frozen=True)
class Built:
    """What `build` did.

    Attributes:
        path: the build's file.
        fresh: False when it was there already and nothing was done.
        neurons: neurons in it.
        screened, unproven: neurons screened in bf16, and those of them that had to be projected in float32 after all;
            0 and 0 in float32, and for layers that an earlier run had finished.
    """

    path: Path
    fresh: bool
    neurons: int
    screened: int = 0
    unproven: int = 0


def build(
    checkpoint: Checkpoint,
    catalogue: Path,
    *,
    depth: int = DEPTH,
    screen: bool | None = None,
    memory_mb: int = MEMORY_MB,
    say: Say = lambda _line: None,
    progress: Progress = lambda layers, _total: layers,
    engine: Engine | None = in_process,
    shards_to: str | None = None,
) -> Built:
    """Project every neuron of `checkpoint` and publish the catalogue under `catalogue`; see `home_of`.

    Args:
        checkpoint: the model.
        catalogue: the folder of all catalogues.
        depth: tokens kept at each end of a neuron.
        screen: see `Projector`.
        memory_mb: see `Projector`.
        say: told what is being done, one line per stage.
        progress: wraps the iteration over layers (a progress bar).
        engine: who does what is not done yet; None where all must have been done.
        shards_to: where the shards are kept, as for `Shards`; they stay there. None keeps them beside the build until
            it is published.

    Raises:
        AtlasError: the model is unfit (its identities fail, files damaged), the disk is full, shards are missing that
            nobody makes, or another process is indexing this model. Nothing half-done is published; a later call goes
            on from the finished layers.
    """
    stamp = _stamped(checkpoint, depth)
    directory = home_of(checkpoint, catalogue)
    stamp = replace(stamp, model=directory.name)
    if directory.name != checkpoint.name:
        say(
            f"{catalogue / checkpoint.name} is of another checkpoint ({_described(catalogue / checkpoint.name)}); this "
            f"one, {short_identity(checkpoint.identity)}, has {directory}."
        )
    with disk_errors(directory, disk_needed(stamp.neurons, stamp.depth)):
        if _is_current(directory, stamp):
            remember_source(directory, checkpoint.source)
            return _found(directory, stamp)
        directory.mkdir(parents=True, exist_ok=True)
        with only_indexer(directory):
            if home_of(checkpoint, catalogue) != directory:
                raise AtlasError(f"Another model has taken {directory} meanwhile. Run the same command again.")
            remember_source(directory, checkpoint.source)
            if _is_there(directory, stamp):
                return _found(directory, stamp)
            job = Job(checkpoint, stamp, shards_to or directory, screen, memory_mb)
            with ThreadPoolExecutor(1) as aside:
                return _build(job, directory, engine, say, progress, aside)


def _build(
    job: Job,
    directory: Path,
    engine: Engine | None,
    say: Say,
    progress: Progress,
    aside: Executor,
) -> Built:
    checkpoint, stamp, shards, units = job.checkpoint, job.stamp, Shards(job.place, job.stamp), job.units()
    work = work_folder(directory, stamp.build_id)
    for other in work_folders(directory):
        if other != work:
            say(f"{other} holds unfinished work of another build; `python -m indexer prune` removes it.")
    for notice in checkpoint.notices():
        say(notice)
    work.mkdir(exist_ok=True)
    shards.clean()
    missing = [unit for unit in units if shards.fetch(unit.name, unit.rows, work) is None]
    if missing and engine is None:
        raise _incomplete(missing, units, shards)
    say(f"Checking that the neurons of {checkpoint.name} are where {checkpoint.config.model_type} keeps them")
    # One core is enough for that, and for the tokens' names; the others need not wait.
    fits = aside.submit(_fits, checkpoint)
    agrees = aside.submit(compare_with_loaded, checkpoint)
    tokens = aside.submit(token_table, checkpoint.tokenizer, stamp.vocabulary)

    def checked() -> None:
        fits.result()
        agrees.result()

    seen, unproven = (0, 0)
    if missing and engine is not None:
        seen, unproven = engine(job, missing, checked=checked, say=say, progress=progress)
    checked()
    say("Sorting, checking and publishing")
    folders = {unit.name: shards.fetch(unit.name, unit.rows, work) for unit in units}
    found = {name: folder for name, folder in folders.items() if folder is not None}
    if len(found) < len(units):
        raise _incomplete([unit for unit in units if unit.name not in found], units, shards)
    neighbours = pq.read_table(found.pop(NEIGHBOURS) / NEIGHBOUR_FILE)
    build_path(directory, stamp.build_id).unlink(missing_ok=True)  # damaged, or it would not have come to this
    if recall := (neighbours.schema.metadata or {}).get(RECALL):
        stamp = replace(stamp, neighbour_recall=float(recall))
    path = publish(directory, stamp, tokens.result(), list(found.values()), neighbours)
    shutil.rmtree(work, ignore_errors=True)
    return Built(path, fresh=True, neurons=stamp.neurons, screened=seen, unproven=unproven)


def _fits(checkpoint: Checkpoint) -> None:
    """Load it to check its identities, and let it go: the future of a result would hold that until all is projected.

    Raises:
        AtlasError: as `load_model`.
    """
    load_model(checkpoint, layers=checkpoint.dimensions.telling)


def build_share(
    checkpoint: Checkpoint,
    catalogue: Path,
    number: int,
    jobs: int,
    *,
    depth: int = DEPTH,
    screen: bool | None = None,
    memory_mb: int = MEMORY_MB,
    say: Say = lambda _line: None,
    progress: Progress = lambda layers, _total: layers,
    shards_to: str | None = None,
) -> list[Unit]:
    """Do the share of one of so many jobs, counted from 1, of the work of `build`; nothing is published.

    The jobs need not know of each other, and two that do the same share are harmless. The other arguments are those of
    `build`.

    Returns:
        The units of the share; their shards are whole.

    Raises:
        AtlasError: as `build` does.
    """
    stamp, directory = _stamped(checkpoint, depth), home_of(checkpoint, catalogue)
    with disk_errors(directory, disk_needed(stamp.neurons, stamp.depth)):
        if shards_to is None:
            directory.mkdir(parents=True, exist_ok=True)
            with only_indexer(directory, seconds=60):
                directory = home_of(checkpoint, catalogue)
                remember_source(directory, checkpoint.source)
        job = Job(checkpoint, replace(stamp, model=directory.name), shards_to or directory, screen, memory_mb)
        share, shards = share_of(job.units(), number, jobs), Shards(job.place, job.stamp)
        missing = [unit for unit in share if not shards.is_whole(unit.name, unit.rows)]
        say(f"Share {number} of {jobs}: {len(missing)} of its {len(share)} shards are to be made in {shards.place}")
        load_model(checkpoint, layers=2)
        Worker(job, say).run(missing, progress=progress)
    return share


def _incomplete(missing: Sequence[Unit], units: Sequence[Unit], shards: Shards) -> AtlasError:
    others = shards.others()
    beside = f" Shards of other builds are there, which are not mixed with it: {'; '.join(others)}." if others else ""
    return AtlasError(
        f"{len(missing)} of the {len(units)} shards of this build are not whole in {shards.place}: "
        f"{', '.join(unit.name for unit in missing)}. Run the jobs that make them again, with the same model and depth."
        f"{beside}"
    )


def _stamped(checkpoint: Checkpoint, depth: int) -> BuildStamp:
    with ThreadPoolExecutor(1) as aside:
        aside.submit(lambda: checkpoint.identity)  # hashes all weight files, while the tokenizer is read
        return stamp_of(checkpoint, unembedding_of(checkpoint), depth)


@contextmanager
def disk_errors(directory: Path, needed: float) -> Iterator[None]:
    """Whatever the disk says, in our words; `needed`: bytes."""
    try:
        yield
    except OSError as error:
        if error.errno not in (ENOSPC, EDQUOT):
            raise AtlasError(f"A file could not be read or written: {first_line(error)}.") from error
        raise AtlasError(
            f"The disk is full: {directory} needs about {needed / 1e6:.0f} MB, "
            f"{_free(directory) / 1e6:.0f} MB are free. Make room and run the same command again; what is "
            "finished is kept."
        ) from error


def home_of(checkpoint: Checkpoint, catalogue: Path) -> Path:
    """The folder of a checkpoint's builds: the one with its name, or where another checkpoint has that, one with a part
    of its identity added. A model that was trained on in its place keeps its folder, and its older builds there.
    """
    found = folders_called(catalogue, checkpoint.name)
    for folder in found:
        if checkpoint.has(_owner(folder) or ""):
            return folder
    for folder in found:
        if source_of(folder / "CURRENT") == checkpoint.source:
            return folder
    digits = checkpoint.identity.partition(" ")[2]
    names = (checkpoint.name, *(f"{checkpoint.name}-{digits[:length]}" for length in (8, 16, 64)))
    free = (name for name in names if not (catalogue / name / "CURRENT").is_file())
    return catalogue / next(name for name in free if not work_folders(catalogue / name))


def _owner(folder: Path) -> str | None:
    """The identity of the checkpoint of a folder's current build; None where there is none that can be read."""
    try:
        path = current_build(folder)
    except AtlasError:
        return None
    return checkpoint_of(path)


def _described(folder: Path) -> str:
    """Whose a folder is, for a sentence."""
    owner, source = _owner(folder), source_of(folder / "CURRENT")
    return ("unfinished" if owner is None else short_identity(owner)) + (f", from {source}" if source else "")


def _found(directory: Path, stamp: BuildStamp) -> Built:
    """The build that is there already; a kill may have come between publishing it and removing its shards."""
    shutil.rmtree(work_folder(directory, stamp.build_id), ignore_errors=True)
    return Built(current_build(directory), fresh=False, neurons=stamp.neurons)


def _is_current(directory: Path, stamp: BuildStamp) -> bool:
    try:
        path = current_build(directory)
        if path != build_path(directory, stamp.build_id):
            return False
        Reader.open(path).close()
        return True
    except AtlasError:
        return False


def _is_there(directory: Path, stamp: BuildStamp) -> bool:
    """Whether this build's file was published already, and is whole: then it is made the current one again."""
    path = build_path(directory, stamp.build_id)
    if not path.is_file():
        return False
    try:
        check_build(path, stamp)
    except (AtlasError, duckdb.Error):
        return False
    set_current(directory, path)
    return True


def disk_needed(neurons: int, depth: int) -> float:
    """Bytes, roughly: the shards, the sorted tables and DuckDB's room for sorting."""
    return neurons * depth * 2 * (10 + 14 + 16)


def _free(directory: Path) -> int:
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    return shutil.disk_usage(existing).free


def stamp_of(checkpoint: Checkpoint, unembedding: Unembedding, depth: int) -> BuildStamp:
    """What a build of this checkpoint says about itself; reads all weight files once, for their hash."""
    size = checkpoint.dimensions
    padding = 0 if unembedding.padding is None else len(unembedding.padding)
    stamp = BuildStamp(
        build_id="",
        schema_version=SCHEMA_VERSION,
        code_version=CODE_VERSION,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        model=checkpoint.name,
        family=checkpoint.family,
        checkpoint=checkpoint.identity,
        unembedding_hash=unembedding.hash,
        tokenizer_hash=checkpoint.tokenizer_hash,
        layers=size.layers,
        d_model=size.d_model,
        vocabulary=size.vocabulary,
        ffn_neurons=size.all_ffn_neurons,
        attention_neurons=size.layers * size.attention_width,
        heads=size.heads,
        head_dim=size.head_dim,
        depth=min(depth, size.vocabulary - padding),
        tokenizer_json=checkpoint.tokenizer_json,
        padding=padding,
        experts=size.experts,
        dequantised=checkpoint.quantisation,
    )
    identity = {name: getattr(stamp, name) for name in _IDENTITY}
    identity |= {"padding": padding} if padding else {}  # without any, an earlier version gave the same contents
    near = directions(stamp.tokens, size.d_model)
    identity |= {"directions": near} if near < size.d_model else {}  # likewise
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return replace(stamp, build_id=digest[:16])


def prunable_folders(catalogue: Path, model: str | None) -> list[Path]:
    """The folder of each model with builds or unfinished work; of one model, if it is named.

    Raises:
        AtlasError: nothing of that name, or nothing at all.
    """
    folders = [path for path in sorted(catalogue.iterdir()) if path.is_dir()] if catalogue.is_dir() else []
    known = set(model_folders(catalogue))
    found = [path for path in folders if path in known or work_folders(path)]
    if model is not None:
        found = [path for path in found if path.name == model]
    if not found:
        raise AtlasError(f"{catalogue} holds no catalogue{'' if model is None else f' of {model!r}'}.")
    return found


def prune_model(directory: Path, keep: int = 1) -> list[tuple[Path, int]]:
    """Delete all unfinished work, and all but the `keep` newest builds and files of texts; returns what went, and its
    size in bytes. The current ones are never deleted.

    Raises:
        AtlasError: `keep` is less than 1, or an indexer is at work here.
    """
    if keep < 1:
        raise AtlasError(f"At least the current build is kept: --keep must be 1 or more, not {keep}.")
    gone = []
    with only_indexer(directory):
        for work in work_folders(directory):
            gone.append((work, sum(path.stat().st_size for path in work.rglob("*") if path.is_file())))
            shutil.rmtree(work)
        sizes = {path: path.stat().st_size for path in (*build_files(directory), *texts_files(directory))}
        if sizes:
            gone += [(path, sizes[path]) for path in prune(directory, keep)]
    return gone
