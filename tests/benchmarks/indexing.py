"""How long the catalogue takes to build, against the plain way in the same run: ``python -m
tests.benchmarks.indexing``.

The plain way: for every neuron one float32 product with the whole unembedding, topk, bottomk, mean and std; nothing
    written. Ours: everything, with the model check, the Parquet shards, the sorting, the checks and the publication.
    The plain way is measured on some layers and scaled up, which is fair to it: its cost is the same in every layer.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import torch

from indexer.build import build
from indexer.checkpoint import Checkpoint, locate
from indexer.projection import Projector
from indexer.unembedding import Unembedding


def plain_seconds(checkpoint: Checkpoint, layers: list[int], depth: int) -> float:
    """Seconds the plain way needs for all layers, measured on `layers`."""
    weights = checkpoint.weights()
    rows = Unembedding.from_weights(weights, checkpoint.epsilon()).folded
    started = time.perf_counter()
    for layer in layers:
        for values in (weights.ffn_values(layer), weights.attention_values(layer)):
            for start in range(0, values.shape[0], 512):
                logits = values[start : start + 512] @ rows.T
                logits.topk(depth), logits.topk(depth, largest=False), logits.mean(1), logits.std(1)
    return (time.perf_counter() - started) / len(layers) * checkpoint.dimensions.layers


def bare_seconds(checkpoint: Checkpoint, layers: list[int]) -> float:
    """Seconds that the bf16 products alone need."""
    weights = checkpoint.weights()
    rows = Unembedding.from_weights(weights, checkpoint.epsilon()).folded.bfloat16()
    values = [weights.ffn_values(layer).bfloat16() for layer in layers]
    values += [weights.attention_values(layer).bfloat16() for layer in layers]
    started = time.perf_counter()
    for matrix in values:
        for start in range(0, matrix.shape[0], 512):
            matrix[start : start + 512] @ rows.T
    return (time.perf_counter() - started) / len(layers) * checkpoint.dimensions.layers


def projecting_seconds(checkpoint: Checkpoint, layers: list[int], depth: int) -> float:
    """Seconds our projection needs, without writing."""
    weights = checkpoint.weights()
    projector = Projector(Unembedding.from_weights(weights, checkpoint.epsilon()), depth)
    started = time.perf_counter()
    for layer in layers:
        projector.project(weights.ffn_values(layer))
        projector.project(weights.attention_values(layer))
    return (time.perf_counter() - started) / len(layers) * checkpoint.dimensions.layers


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--model", default="demo")
    arguments.add_argument("--depth", type=int, default=50)
    options = arguments.parse_args()
    checkpoint = locate(options.model)
    last = checkpoint.dimensions.layers - 1
    layers = sorted({0, last // 3, 2 * last // 3, last})
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        built = build(checkpoint, Path(folder), depth=options.depth)
        ours = time.perf_counter() - started
        size = built.path.stat().st_size
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    projecting = projecting_seconds(checkpoint, layers, options.depth)
    plain, bare = plain_seconds(checkpoint, layers, options.depth), bare_seconds(checkpoint, layers)
    print(f"{checkpoint.name}: {built.neurons:,} neurons, {torch.get_num_threads()} threads")
    print(f"our build, everything included  {ours:7.1f} s   peak memory {peak:,.0f} MB")
    print(f"  of it the projection          {projecting:7.1f} s")
    print(f"the plain way, nothing written  {plain:7.1f} s   {plain / ours:.2f} times ours")
    print(f"the bare bf16 products          {bare:7.1f} s   {bare / ours:.0%} of the bare rate reached")
    print(f"file {size / 1e6:.0f} MB, {size / built.neurons:,.0f} bytes a neuron")
    print(f"screened {built.screened:,}, needed a second look {built.unproven:,}")


if __name__ == "__main__":
    main()
