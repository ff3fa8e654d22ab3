"""The work of a build, cut into units that make a shard each; whose share a unit is; and this process doing them.

A unit is a layer, or the tokens' neighbours; of another job, a share of a corpus. Whoever does it needs the checkpoint
and what a `Job` says, and writes the shard to a place that all can reach. So one process, the jobs of an array and the
workers of a cluster do the same.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from db.catalogue.publish import NEURON_FILE, PAIR_FILE
from db.records import BuildStamp
from db.texts.records import TextsStamp
from indexer.checkpoint import Checkpoint
from indexer.device import chosen_device
from indexer.neighbours import COUNT, effort, nearest_tokens
from indexer.products import give_back
from indexer.projection import MEMORY_MB, Projection, Projector, bf16_is_faster
from indexer.shards import Shards, neuron_rows, pair_rows
from indexer.tokens import TokenBytes
from indexer.unembedding import Unembedding

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
    """Who does the units of a job: this process (`in_process`) or a cluster (`indexer.cluster`)."""

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
