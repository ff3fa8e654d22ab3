"""What indexing a model will cost, before anything of it is loaded: from its config, its files' headers and a trial.

The trial projects a few hundred random value vectors through a random unembedding of the model's width (and of its
vocabulary, up to a limit), and scales up. It takes a second or two. The rest are constants, measured on several builds.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from indexer.build import disk_needed
from indexer.checkpoint import Checkpoint
from indexer.families import NormKind
from indexer.neighbours import affordable
from indexer.projection import MEMORY_MB, Projector
from indexer.unembedding import Unembedding
from indexer.weights import safetensors_files

_TRIAL_ENTRIES = 2**25  # of the random unembedding: 134 MB
_TRIAL_NEURONS = 512  # a thread
_PUBLISHING_SECONDS_A_ROW = 8e-7  # two orders, encoding, checks
_NEIGHBOURS = 0.4  # of the seconds of a neuron's lists, for the neighbours of a token
_STARTING_SECONDS = 3.0  # imports, the model's check, tokens
_HASHED_BYTES_A_SECOND = 1.2e9
_PROCESS_BYTES = 620e6  # Python, torch and transformers, before any weight
_PUBLISHING_BYTES = 2.4e9  # DuckDB's limit for sorting, and what is checked at once
_FILE_BYTES_A_ROW = 13.6  # in both orders
_FILE_BYTES_A_TOKEN = 100


@dataclass(frozen=True, slots=True)
class Estimate:
    """What `build` is expected to take. Bytes and seconds."""

    model: str
    neurons: int
    rows: int
    """Neuron-token rows, in one of the two orders."""
    screened: bool
    """In bf16, on this machine."""
    threads: int
    indexing_seconds: float
    """Of the neurons, and of the tokens' neighbours."""
    publishing_seconds: float
    seconds: float
    """All of it, with the start and the checks."""
    peak_memory: float
    file_size: float
    disk_while_building: float
    notices: list[str]
    """What of the folder is not used."""


def estimate(checkpoint: Checkpoint, *, depth: int, memory_mb: int = MEMORY_MB) -> Estimate:
    """Estimate a build of `checkpoint`; no tensor is read.

    Raises:
        AtlasError: the family is unknown, the files are missing or damaged, or are no language model in plain numbers
            as the config promises.
    """
    size = checkpoint.dimensions
    depth = min(depth, size.vocabulary)
    neurons = size.layers * (size.ffn_width + size.attention_width)
    rows = 2 * depth * neurons
    _ = checkpoint.stored  # refuses what a build would refuse
    weight_bytes = sum(path.stat().st_size for path in safetensors_files(checkpoint.folder))

    seconds_a_neuron, projector = _trial(size.vocabulary, size.d_model, depth, memory_mb)
    near = size.vocabulary if affordable(size.vocabulary, size.d_model) else 0
    indexing = (neurons + near * _NEIGHBOURS) * seconds_a_neuron
    publishing = rows * _PUBLISHING_SECONDS_A_ROW
    starting = _STARTING_SECONDS + (0 if checkpoint.revision else weight_bytes / _HASHED_BYTES_A_SECOND)

    head = 4.0 * size.vocabulary * size.d_model
    layer = 4.0 * (size.ffn_width + size.attention_width) * (size.d_model + 4 * depth)
    # While it is prepared: as it is in the file, folded, centred and in bf16.
    projecting = head * (3.5 if projector.screens else 3) + 2 * layer + projector.workspace(size.vocabulary)
    checking = 3 * head + 2 * 4.0 * size.d_model * (4 * size.d_model + 3 * size.ffn_width)
    publishing_bytes = 2 * head + min(_PUBLISHING_BYTES, 100.0 * rows)
    return Estimate(
        model=checkpoint.name,
        neurons=neurons,
        rows=rows,
        screened=projector.screens,
        threads=torch.get_num_threads(),
        indexing_seconds=indexing,
        publishing_seconds=publishing,
        seconds=starting + indexing + publishing,
        peak_memory=_PROCESS_BYTES + max(projecting, checking, publishing_bytes),
        file_size=rows * _FILE_BYTES_A_ROW + neurons * 32 + size.vocabulary * _FILE_BYTES_A_TOKEN,
        disk_while_building=disk_needed(neurons, depth),
        notices=checkpoint.notices(),
    )


def _trial(vocabulary: int, d_model: int, depth: int, memory_mb: int) -> tuple[float, Projector]:
    """Seconds per neuron, and a projector as the build's will be."""
    tokens = min(vocabulary, max(4096, _TRIAL_ENTRIES // d_model))
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(tokens, d_model, generator=generator)
    if torch.cuda.is_available():
        rows = rows.cuda()
    projector = Projector(Unembedding(rows, None, None, NormKind.RMS, 0.0), depth, memory_mb=memory_mb)
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
        f"time    about {_duration(found.seconds)}: indexing {_duration(found.indexing_seconds)}, "
        f"publishing {_duration(found.publishing_seconds)}",
        f"memory  about {found.peak_memory / 1e9:.1f} GB at most",
        f"disk    about {found.file_size / 1e6:,.0f} MB in {path}, {found.disk_while_building / 1e6:,.0f} MB while it "
        "is built",
        *found.notices,
    ]


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
