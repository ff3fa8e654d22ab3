"""Work in units on a Ray cluster: a task a unit, on any number of machines, tried again where a worker dies.

Every machine needs the same packages and the checkpoint, in the same folder or from the hub, and reaches the place
where the shards are kept; this code is sent along. Shards do not pass through Ray.
"""

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from db import settings
from db.errors import AtlasError, first_line
from db.lazy import lazy_import
from db.records import short_identity
from indexer.checkpoint import Checkpoint, locate
from indexer.work import AnyJob, Progress, Say, Unit, Works

if TYPE_CHECKING:
    import ray
else:
    ray = lazy_import("ray")  # it is installed only where there is a cluster

RETRIES = 5
"""How often a unit is begun again whose worker or machine died."""
_OBJECT_BYTES = 80_000_000
"""Memory of a cluster of this machine for what passes through it, which is nearly nothing; Ray wants nearly as much."""
_PATIENCE = 10  # seconds
_ROOMS = ("db", "indexer")


@dataclass(frozen=True)
class Cluster:
    """The engine that is a Ray cluster; see `indexer.work.Engine`.

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
        """See `indexer.work.Engine`.

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
