"""The work of a build, cut into units that make a shard each; whose share a unit is; and who does them, this process or
a cluster.

A unit is a layer, or the tokens' neighbours; of another job, a share of a corpus. Whoever does it needs the checkpoint
and what a `Job` says, and writes the shard to a place that all can reach. So one process, the jobs of an array and the
workers of a cluster do the same.
"""

import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from db import settings
from db.catalogue.publish import NEURON_FILE, PAIR_FILE
from db.errors import AtlasError, first_line
from db.lazy import lazy_import
from db.records import BuildStamp, short_identity
from db.texts.records import TextsStamp
from indexer.checkpoint import Checkpoint, locate
from indexer.device import chosen_device, give_back
from indexer.neighbours import COUNT, effort, nearest_tokens
from indexer.projection import MEMORY_MB, Projection, Projector, bf16_is_faster
from indexer.shards import Shards, neuron_rows, pair_rows
from indexer.tokens import TokenBytes
from indexer.weights import Unembedding

if TYPE_CHECKING:
    import ray
else:
    ray = lazy_import("ray")  # it is installed only where there is a cluster

NEIGHBOURS = "neighbours"
NEIGHBOUR_FILE = "neighbours.parquet"
_NEIGHBOUR_CHUNK = 704
_NEIGHBOUR_COST = 0.4  # of a token's neighbours, in neurons
_NONE = torch.empty(0)

Say = Callable[[str], None]
Progress = Callable[[Iterator[int], int], Iterator[int]]
"""Wraps the iteration over so many layers or units (a progress bar)."""


@dataclass(frozen=True)
class Unit:
    """What is done as one, and stored as the shard `name`.

    Attributes:
        layer: None where it is the tokens' neighbours; of a share of a corpus its number.
        rows: of each file of the shard.
        cost: in neurons, or batches.
    """

    name: str
    layer: int | None
    rows: Mapping[str, int] = field(compare=False)
    cost: float


@dataclass(frozen=True)
class Job:
    """A build, as those who work on it must know it.

    Attributes:
        checkpoint: the model.
        stamp: the build's.
        place: where its shards go; see `Shards`.
        screen, memory_mb: see `Projector`; where `screen` is None, each process measures for itself.
    """

    checkpoint: Checkpoint
    stamp: BuildStamp
    place: str | Path
    screen: bool | None = None
    memory_mb: int = MEMORY_MB

    def units(self) -> list[Unit]:
        """All of the work; the neighbours, which take longest, first."""
        stamp = self.stamp
        tokens, layers = stamp.tokens, []
        near = {NEIGHBOUR_FILE: tokens * min(COUNT, tokens - 1)}
        for layer in range(stamp.layers):
            neurons = stamp.neurons_of(layer)
            rows = {NEURON_FILE: neurons, PAIR_FILE: neurons * 2 * stamp.depth}
            layers.append(Unit(f"layer-{layer:04d}", layer, rows, neurons))
        return [Unit(NEIGHBOURS, None, near, effort(tokens, stamp.d_model) * _NEIGHBOUR_COST), *layers]

    def to_send(self) -> "Job":
        """Small, as other processes are given it."""
        return replace(self, stamp=replace(self.stamp, tokenizer_json=None))

    def worker(self, say: Say = lambda _line: None) -> "Worker":
        """Who does units of it in this process."""
        return Worker(self, say)


def share_of(units: Sequence[Unit], number: int, jobs: int) -> list[Unit]:
    """The units of one of so many jobs, counted from 1; every unit is in one share, and the shares cost about the same.

    >>> units = [Unit(name, None, {}, cost) for name, cost in (("a", 3), ("b", 1), ("c", 1), ("d", 1))]
    >>> [[unit.name for unit in share_of(units, number, 2)] for number in (1, 2)]
    [['a'], ['b', 'c', 'd']]
    """
    shares: list[list[Unit]] = [[] for _ in range(jobs)]
    loads = [0.0] * jobs
    for unit in sorted(units, key=lambda one: -one.cost):
        least = loads.index(min(loads))
        shares[least].append(unit)
        loads[least] += unit.cost
    return shares[number - 1]


class Works(Protocol):
    """Does units of one job in one process."""

    def run(
        self, units: Sequence[Unit], checked: Callable[[], None] = ..., progress: Progress = ...
    ) -> tuple[int, int]:
        """See `Engine`."""


class AnyJob(Protocol):
    """What an engine must know of a job: a build's (`Job`), or that of texts (`indexer.texts.TextsJob`)."""

    @property
    def checkpoint(self) -> Checkpoint:
        """The model."""

    @property
    def stamp(self) -> BuildStamp | TextsStamp:
        """Of what will be published."""

    @property
    def place(self) -> str | Path:
        """Where its shards go; see `Shards`."""

    def to_send(self) -> "AnyJob":
        """Small, as other processes are given it."""

    def worker(self, say: Say = ...) -> Works:
        """Who does units of it in this process."""


class Engine(Protocol):
    """Who does the units of a job: this process (`in_process`) or a `Cluster`."""

    def __call__(
        self, job: AnyJob, units: Sequence[Unit], *, checked: Callable[[], None], say: Say, progress: Progress
    ) -> tuple[int, int]:
        """Write the shards of these units.

        Args:
            job: the build, or the texts.
            units: those whose shards are missing; at least one.
            checked: returns when the model is known to fit, and raises if it does not; called before any layer.
            say: told what is being done, one line per stage.
            progress: wraps the iteration over layers or units.

        Returns:
            Of a build, neurons screened in bf16, and those of them that had to be projected in float32 after all; of
            texts, windows and tokens.
        """


def in_process(
    job: AnyJob, units: Sequence[Unit], *, checked: Callable[[], None], say: Say, progress: Progress
) -> tuple[int, int]:
    """The engine that is this process."""
    worker = job.worker(say)
    counts = worker.run(units, checked, progress)
    del worker
    give_back()
    return counts


class Worker:
    """Does units of one job; what it has prepared for one layer serves the next."""

    def __init__(self, job: Job, say: Say = lambda _line: None) -> None:
        self._job, self._say = job, say
        self._shards = Shards(job.place, job.stamp)
        self._device = chosen_device()
        self._screen = job.screen
        if self._screen is None:
            self._screen = self._device.type == "cpu" and bf16_is_faster(job.stamp.d_model)
        self._projector: Projector | None = None

    def run(
        self,
        units: Sequence[Unit],
        checked: Callable[[], None] = lambda: None,
        progress: Progress = lambda layers, _total: layers,
    ) -> tuple[int, int]:
        """See `Engine`."""
        unembedding: Unembedding | None = None
        for unit in units:
            if unit.layer is None:
                unembedding = self._unembedding()
                self._find_neighbours(unit, unembedding)
        checked()
        layers = [unit for unit in units if unit.layer is not None]
        if not layers:
            return 0, 0
        if self._projector is None:
            prepared = unembedding or self._unembedding()
            self._projector = Projector(
                prepared, self._job.stamp.depth, screen=self._screen, memory_mb=self._job.memory_mb
            )
            del prepared
        del unembedding  # the projector has its own, centred
        how = "bf16 screening, float32 logits" if self._projector.screens else "float32"
        how += "" if self._device.type == "cpu" else f", on {self._device}"
        self._say(f"Projecting {sum(int(unit.cost) for unit in layers):,} neurons ({how})")
        seen, unproven = self._projector.seen, self._projector.unproven
        self._write_layers(layers, self._projector, progress)
        return self._projector.seen - seen, self._projector.unproven - unproven

    def _unembedding(self) -> Unembedding:
        return unembedding_of(self._job.checkpoint).on(self._device)

    def _find_neighbours(self, unit: Unit, unembedding: Unembedding) -> None:
        vocabulary = self._job.stamp.tokens
        self._say(f"Finding the nearest tokens of each of {vocabulary:,} tokens")
        chunk = max(1, min(_NEIGHBOUR_CHUNK, self._job.memory_mb * 1_000_000 // (vocabulary * 4)))
        found = nearest_tokens(unembedding, screen=self._screen, chunk=chunk)
        self._shards.write(unit.name, {NEIGHBOUR_FILE: found})

    def _write_layers(self, units: Sequence[Unit], projector: Projector, progress: Progress) -> None:
        """While one layer is computed, the last is written and the next is read."""
        weights = self._job.checkpoint.weights()
        size = weights.dimensions
        later = iter([unit.layer for unit in units])

        def values_of(layer: int | None) -> Tensor:
            return (
                torch.cat([weights.ffn_values(layer), weights.attention_values(layer)]) if layer is not None else _NONE
            )

        def write(unit: Unit, layer: int, found: Projection) -> None:
            tables = {NEURON_FILE: neuron_rows(found, layer, size), PAIR_FILE: pair_rows(found, layer, size)}
            self._shards.write(unit.name, tables)

        pending: Future[None] | None = None
        with ThreadPoolExecutor(1) as writer, ThreadPoolExecutor(1) as reader:
            coming = reader.submit(values_of, next(later, None))
            for place in progress(iter(range(len(units))), len(units)):
                unit = units[place]
                values, coming = coming.result(), reader.submit(values_of, next(later, None))
                projection = projector.project(values)
                if pending is not None:
                    pending.result()
                pending = writer.submit(write, unit, unit.layer or 0, projection)
            if pending is not None:
                pending.result()


def unembedding_of(checkpoint: Checkpoint) -> Unembedding:
    """Read again where it is needed: kept all the time, it would add to the memory of every stage."""
    return Unembedding.from_weights(checkpoint.weights(), checkpoint.epsilon(), TokenBytes(checkpoint.tokenizer))


# A Ray cluster: a task a unit, on any number of machines, tried again where a worker dies. Every machine needs the same
# packages and the checkpoint, in the same folder or from the hub, and reaches the place where the shards are kept; this
# code is sent along. Shards do not pass through Ray.

RETRIES = 5
"""How often a unit is begun again whose worker or machine died."""
_OBJECT_BYTES = 80_000_000
"""Memory of a cluster of this machine for what passes through it, which is nearly nothing; Ray wants nearly as much."""
_PATIENCE = 10  # seconds
_ROOMS = ("db", "indexer")


@dataclass(frozen=True)
class Cluster:
    """The engine that is a Ray cluster; see `Engine`.

    Attributes:
        address: of a running cluster; None: RAY_ADDRESS, or else one of this machine's own, which ends with the build.
        task_cpus: that a task reserves, and the threads that it computes with.
        task_gpus: that a task reserves; without any it computes on the CPU.
        task_memory_mb: that a task reserves, 10^6 bytes; None: nothing is reserved.
    """

    address: str | None = None
    task_cpus: int = 1
    task_gpus: int = 0
    task_memory_mb: int | None = None

    def __call__(
        self, job: AnyJob, units: Sequence[Unit], *, checked: Callable[[], None], say: Say, progress: Progress
    ) -> tuple[int, int]:
        """See `Engine`.

        Raises:
            AtlasError: Ray is not installed or reached, a machine has another checkpoint, or a unit failed as often as
                it may.
        """
        if str(job.place).startswith("memory:"):
            raise AtlasError("memory:// is within one process: give --shards-to a folder or store that all can reach.")
        self._connect()
        try:
            self._look_for_room(say)
            sent = ray.put(_to_send(job))
            memory = {} if self.task_memory_mb is None else {"memory": self.task_memory_mb * 1_000_000}
            task = ray.remote(num_cpus=self.task_cpus, num_gpus=self.task_gpus, max_retries=RETRIES, **memory)(_do)
            # The longest first, and before the check: without it the others would have to wait.
            tasks = {task.remote(sent, unit, self.task_cpus): unit for unit in units if unit.layer is None}
            checked()
            tasks |= {task.remote(sent, unit, self.task_cpus): unit for unit in units if unit.layer is not None}
            say(f"{len(units)} shards are made by {self._described(job)}")
            counts = [0, 0]

            def finished() -> Iterator[int]:
                waiting = list(tasks)
                while waiting:
                    done, waiting = ray.wait(waiting)
                    for place, number in enumerate(_result(done[0], tasks[done[0]])):
                        counts[place] += number
                    yield len(tasks) - len(waiting)

            for _ in progress(finished(), len(tasks)):
                pass
            return counts[0], counts[1]
        finally:
            ray.shutdown()

    def workers(self) -> int:
        """How many tasks it can do at a time; at least 1."""
        self._connect()
        return max(1, int(ray.cluster_resources().get("CPU", 0) // self.task_cpus))

    def _connect(self) -> None:
        if find_spec("ray") is None:
            raise AtlasError("Ray is not installed: `pip install -r indexer/requirements-ray.txt`.")
        if ray.is_initialized():
            return
        address = self.address or settings.of_library("RAY_ADDRESS") or "local"
        own: dict[str, Any] = {}
        if address == "local":
            settings.of_library("RAY_USAGE_STATS_ENABLED", "0")  # it would report what it runs on to its makers
            own = {"include_dashboard": False, "object_store_memory": _OBJECT_BYTES}
        checkout = Path(__file__).resolve().parents[1]
        # Several tasks without a reservation would all take the same card.
        device = {} if self.task_gpus else {settings.variable("device"): "cpu"}
        code = {"py_modules": [str(checkout / room) for room in _ROOMS], "env_vars": device}
        host, _, port = address.rpartition(":")
        try:
            if port.isdigit() and "/" not in host:  # Ray itself would try for minutes
                socket.create_connection((host, int(port)), _PATIENCE).close()
            ray.init(address, runtime_env=code, logging_level="ERROR", log_to_driver=False, **own)
        except Exception as error:  # Ray raises many kinds
            raise AtlasError(
                f"The Ray cluster {address} cannot be reached or started ({first_line(error)}). Check the address, and "
                "that `ray status` works there with the same versions of Ray and Python; where the cluster wants a "
                "token, set RAY_AUTH_MODE=token."
            ) from error

    def _look_for_room(self, say: Say) -> None:
        """Where no machine is large enough for a task, Ray waits in silence for one to join."""
        wanted = {"CPU": self.task_cpus, "GPU": self.task_gpus, "memory": (self.task_memory_mb or 0) * 1_000_000}
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(all(machine.get(name, 0) >= wanted[name] for name in wanted) for machine in machines):
            asked = ", ".join(f"{number:g} {name}" for name, number in wanted.items() if number)
            say(f"No machine of the cluster has what a task asks for, {asked}: waiting until one joins.")

    def _described(self, job: AnyJob) -> str:
        machines = sum(bool(node["Alive"]) for node in ray.nodes())
        shared = f"; all of them must share {job.place}" if machines > 1 and isinstance(job.place, Path) else ""
        return f"a cluster: machines {machines}, tasks at a time {self.workers()}{shared}"


def _to_send(job: AnyJob) -> AnyJob:
    """Small, and without paths that depend on where this process was started."""
    place = job.place if "://" in str(job.place) else Path(job.place).absolute()
    checkpoint = replace(job.checkpoint, folder=job.checkpoint.folder.absolute())  # without what it has read
    small: Any = job.to_send()
    found: AnyJob = replace(small, checkpoint=checkpoint, place=place)
    return found


def _result(reference: Any, unit: Unit) -> tuple[int, int]:
    """What a task returned; or raise what it raised, as if it had been raised here."""
    try:
        found: tuple[int, int] = ray.get(reference)
        return found
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.RayError as error:
        raise AtlasError(
            f"{unit.name} was begun {RETRIES + 1} times, and its worker died each time ({first_line(error)}). Perhaps "
            "it needs more memory: see --task-memory-mb and --memory-mb. Finished shards are kept."
        ) from error


def _do(job: AnyJob, unit: Unit, cpus: int) -> tuple[int, int]:
    """The task."""
    torch.set_num_threads(max(1, cpus))
    return _worker(job).run([unit])  # type: ignore[arg-type]  # jobs are frozen


@lru_cache(maxsize=1)
def _worker(job: AnyJob) -> Works:
    """What this process has prepared for a job serves all of its units that it does."""
    here = job.checkpoint if job.checkpoint.folder.is_dir() else _found_again(job.checkpoint)
    if not here.has(job.stamp.checkpoint) or here.tokenizer_hash != job.stamp.tokenizer_hash:
        raise AtlasError(
            f"{here.folder} on {os.uname().nodename} is {short_identity(here.identity)}, and the work is of "
            f"{short_identity(job.stamp.checkpoint)}. Copy the same model, with its tokenizer, to all machines."
        )
    own: Any = job
    mine: AnyJob = replace(own, checkpoint=here)
    return mine.worker()


def _found_again(checkpoint: Checkpoint) -> Checkpoint:
    if checkpoint.hub_id is None:
        raise AtlasError(f"{checkpoint.folder} is not on {os.uname().nodename}: all machines need it in one place.")
    return locate(checkpoint.hub_id)
