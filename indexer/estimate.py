"""What indexing a model will cost, before anything of it is loaded: from its config, its files' headers where they are
at hand, and a trial.

The trial projects a few hundred random value vectors through a random unembedding of the model's width (and of its
vocabulary, up to a limit), and scales up. It takes a second or two. The rest are constants, measured on several builds;
but what is said of GPUs is reckoned from what their makers promise, and was not measured.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from indexer.architecture import NormKind
from indexer.build import disk_needed
from indexer.checkpoint import Checkpoint
from indexer.device import DTYPES, chosen_device
from indexer.neighbours import effort
from indexer.projection import MEMORY_MB, Projector
from indexer.stored import safetensors_files
from indexer.weights import Unembedding

_TRIAL_ENTRIES = 2**25  # of the random unembedding: 134 MB
_TRIAL_NEURONS = 512  # a thread
_PUBLISHING_SECONDS_A_ROW = 8e-7  # two orders, encoding, checks
_NEIGHBOURS = 0.4  # of the seconds of a neuron's lists, for the neighbours of a token
_STARTING_SECONDS = 3.0  # imports, the model's check, tokens
_HASHED_BYTES_A_SECOND = 1.2e9
PROCESS_BYTES = 620e6  # Python, torch and transformers, before any weight
_PUBLISHING_BYTES = 2.4e9  # DuckDB's limit for sorting, and what is checked at once
_FILE_BYTES_A_ROW = 13.6  # in both orders
_FILE_BYTES_A_TOKEN = 100
_GPU_FLOPS = 40e12
"""A second, of float32 products on a GPU of the H100's class: 60 % of the 67 that one is said to reach."""
_GPU_BYTES_A_SECOND = 2e12
_GPU_READS = 8
"""How often each logit is read or written there: by the product, and by two searches for the extremes."""
_GPUS = 8


@dataclass(frozen=True, slots=True)
class Estimate:
    """What `build` is expected to take. Bytes and seconds."""

    model: str
    parameters: int
    weight_bytes: int
    """Of the files; without them, in the type that the config names; in float32 where they are not plain yet."""
    neurons: int
    rows: int
    """Neuron-token rows, in one of the two orders."""
    flops: float
    """Of all products, in float32: of the neurons, and of the tokens' neighbours."""
    screened: bool
    """In bf16, on this machine."""
    threads: int
    indexing_seconds: float
    """Of the neurons, and of the tokens' neighbours."""
    publishing_seconds: float
    seconds: float
    """All of it, with the start and the checks."""
    gpu_seconds: float
    """The same with one GPU of the H100's class; reckoned, as the next."""
    gpus_seconds: float
    """With eight, each of which projects some of the layers."""
    peak_memory: float
    file_size: float
    disk_while_building: float
    notices: list[str]
    """What of the folder is not used."""


def estimate(checkpoint: Checkpoint, *, depth: int, memory_mb: int = MEMORY_MB) -> Estimate:
    """Estimate a build of `checkpoint`, which may be a config alone; no tensor is read.

    Raises:
        AtlasError: the family is unknown, the files are missing or damaged, or are no language model in plain numbers
            as the config promises.
    """
    size = checkpoint.dimensions
    depth = min(depth, size.vocabulary)
    neurons = size.neurons_before(size.layers)
    rows = 2 * depth * neurons
    parameters = checkpoint.parameters
    if checkpoint.config_alone is None:
        _ = checkpoint.stored  # refuses what a build would refuse
    if checkpoint.config_alone is None and not checkpoint.coded:
        weight_bytes = sum(path.stat().st_size for path in safetensors_files(checkpoint.folder))
    else:
        weight_bytes = parameters * (4 if checkpoint.coded else _bytes_a_number(checkpoint.config))

    seconds_a_neuron, projector = _trial(size.vocabulary, size.d_model, depth, memory_mb)
    near = effort(size.vocabulary, size.d_model)
    indexing = (neurons + near * _NEIGHBOURS) * seconds_a_neuron
    logits = float(neurons + near) * size.vocabulary
    on_gpu = logits * max(2 * size.d_model / _GPU_FLOPS, 4 * _GPU_READS / _GPU_BYTES_A_SECOND)
    publishing = rows * _PUBLISHING_SECONDS_A_ROW
    starting = _STARTING_SECONDS + (0 if checkpoint.revision else weight_bytes / _HASHED_BYTES_A_SECOND)

    head = 4.0 * size.vocabulary * size.d_model
    layer = 4.0 * (size.ffn_width + size.attention_width) * (size.d_model + 4 * depth)
    # While it is prepared: as it is in the file, folded, centred and in bf16.
    projecting = head * (3.5 if projector.screens else 3) + 2 * layer + projector.workspace(size.vocabulary)
    checking = 3 * head + max(2, size.telling) * 4.0 * size.d_model * (4 * size.d_model + 3 * size.ffn_width)
    if size.experts is not None:  # those that lie one by one are joined in memory, all of them
        checking += weight_bytes
    publishing_bytes = 2 * head + min(_PUBLISHING_BYTES, 100.0 * rows)
    return Estimate(
        model=checkpoint.name,
        parameters=parameters,
        weight_bytes=weight_bytes,
        neurons=neurons,
        rows=rows,
        flops=2 * logits * size.d_model,
        screened=projector.screens,
        threads=torch.get_num_threads(),
        indexing_seconds=indexing,
        publishing_seconds=publishing,
        seconds=starting + indexing + publishing,
        gpu_seconds=starting + on_gpu + publishing,
        gpus_seconds=starting + on_gpu / _GPUS + publishing,
        peak_memory=PROCESS_BYTES + max(projecting, checking, publishing_bytes),
        file_size=rows * _FILE_BYTES_A_ROW + neurons * 32 + size.vocabulary * _FILE_BYTES_A_TOKEN,
        disk_while_building=disk_needed(neurons, depth) + bool(checkpoint.coded) * weight_bytes,
        notices=checkpoint.notices(),
    )


def _bytes_a_number(config: Any) -> int:
    dtype = getattr(config, "dtype", None)
    return int((dtype if isinstance(dtype, torch.dtype) else DTYPES.get(str(dtype), torch.float32)).itemsize)


def _trial(vocabulary: int, d_model: int, depth: int, memory_mb: int) -> tuple[float, Projector]:
    """Seconds per neuron, and a projector as the build's will be."""
    tokens = min(vocabulary, max(4096, _TRIAL_ENTRIES // d_model))
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(tokens, d_model, generator=generator)
    unembedding = Unembedding(rows, None, None, NormKind.RMS, 0.0).on(chosen_device())
    projector = Projector(unembedding, depth, memory_mb=memory_mb)
    values = torch.randn(_TRIAL_NEURONS * projector.workers, d_model, generator=generator)
    projector.project(values)  # the first time, memory is fetched
    best = float("inf")
    for _ in range(2):
        started = time.perf_counter()
        projector.project(values)
        best = min(best, time.perf_counter() - started)
    return best / len(values) * vocabulary / tokens, projector


def described(found: Estimate, path: Path) -> list[str]:
    """The estimate in lines for a person."""
    how = "bf16 screening, float32 logits" if found.screened else "float32"
    return [
        f"{found.model}: {found.neurons:,} neurons, {found.rows:,} rows ({how}, {found.threads} threads)",
        f"model   {found.parameters / 1e9:,.2f} billion parameters, {found.weight_bytes / 1e9:,.1f} GB",
        f"work    {found.flops / 1e12:,.3g} TFLOP in float32",
        f"time    about {duration(found.seconds)}: indexing {duration(found.indexing_seconds)}, "
        f"publishing {duration(found.publishing_seconds)}",
        f"        with a GPU of the H100's class some {duration(found.gpu_seconds)}, with eight "
        f"{duration(found.gpus_seconds)} (reckoned, not measured)",
        f"memory  about {found.peak_memory / 1e9:.1f} GB at most",
        f"disk    about {found.file_size / 1e6:,.0f} MB in {path}, {found.disk_while_building / 1e6:,.0f} MB while it "
        "is built",
        *found.notices,
    ]


def duration(seconds: float) -> str:
    """For a person."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
