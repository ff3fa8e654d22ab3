"""How long the catalogue takes to build, against plainer ways in the same run: ``python -m tests.benchmarks.indexing``.

- ours: a build in a process of its own, everything included: the checkpoint's hash, the model check, the tokens'
  neighbours, Parquet shards, sorting, checks, publication (but not the interpreter's start);
- the plain way: for every neuron one float32 product with the whole unembedding, topk, bottomk, mean and std; nothing
  written;
- the bare bf16 products, written to new memory each time, as ``values @ rows.T`` does, and to the same memory;
- with ``--ray``, the layers alone by one and by two workers of a Ray cluster of this machine, each with one thread;
- with ``--gpt2``, LM-Debugger's offline script on a random checkpoint of GPT-2 small's size: for every FFN value
  vector one product with the unembedding, a full sort, and a dictionary a top token, kept in memory.

The plainer ways are measured on some layers or neurons and scaled up, which is fair to them: their cost is the same in
every layer, and their memory's growth is left out.
"""

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, GPT2Config

from indexer.build import build, stamp_of
from indexer.checkpoint import Checkpoint, locate
from indexer.estimate import estimate
from indexer.projection import Projector
from indexer.weights import Unembedding
from indexer.work import Cluster, Job, unembedding_of
from tests.ray_process import ray_cluster, ray_settings


def layer_values(checkpoint: Checkpoint, layers: list[int]) -> list[torch.Tensor]:
    weights = checkpoint.weights()
    return [torch.cat([weights.ffn_values(layer), weights.attention_values(layer)]) for layer in layers]


def seconds_of(step: Any, values: list[torch.Tensor], layers: int) -> float:
    """Seconds that `step` needs for all layers, from those of `values`."""
    started = time.perf_counter()
    for matrix in values:
        step(matrix)
    return (time.perf_counter() - started) / len(values) * layers


def plain_way(rows: torch.Tensor, depth: int) -> Any:
    def step(values: torch.Tensor) -> None:
        for start in range(0, values.shape[0], 512):
            logits = values[start : start + 512] @ rows.T
            logits.topk(depth), logits.topk(depth, largest=False), logits.mean(1), logits.std(1)

    return step


def bare_products(rows: torch.Tensor, *, new_memory: bool) -> Any:
    rounded = rows.bfloat16()
    out = torch.empty(512, rows.shape[0], dtype=torch.bfloat16)

    def step(values: torch.Tensor) -> None:
        for start in range(0, values.shape[0], 512):
            part = values[start : start + 512].bfloat16()
            if new_memory:
                part @ rounded.T
            else:
                torch.mm(part, rounded.T, out=out[: part.shape[0]])

    return step


def lm_debugger_seconds(unembedding: Unembedding, values: torch.Tensor, kept: int = 50) -> float:
    """Seconds a neuron of LM-Debugger's loop: the best of several stretches, with one thread and with all."""
    rows, threads = unembedding.folded, torch.get_num_threads()
    projections, best = [], float("inf")
    try:
        for count in (1, threads):
            torch.set_num_threads(count)
            for stretch in values.split(100):
                started = time.perf_counter()
                for value in stretch:
                    logits = (rows @ value).numpy()
                    order = np.argsort(-logits)[:kept].tolist()
                    ranked = enumerate(zip(order, logits[order].tolist(), strict=True))
                    projections.append([{"rank": rank, "token": one[0], "logit": one[1]} for rank, one in ranked])
                best = min(best, (time.perf_counter() - started) / len(stretch))
    finally:
        torch.set_num_threads(threads)
    return best


def one_build(folder: str, name: str, depth: int, queue: Any) -> None:
    with tempfile.TemporaryDirectory() as catalogue:
        started = time.perf_counter()
        built = build(Checkpoint(name, Path(folder)), Path(catalogue), depth=depth)
        seconds = time.perf_counter() - started
        size = built.path.stat().st_size
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    queue.put({"seconds": seconds, "peak": peak, "size": size, "again": built.unproven, "neurons": built.neurons})


def timed_build(checkpoint: Checkpoint, depth: int) -> dict[str, Any]:
    """A build in a new process, so that its peak memory is its own."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=one_build, args=(str(checkpoint.folder), checkpoint.name, depth, queue))
    process.start()
    found: dict[str, Any] = queue.get()
    process.join()
    return found


def measure(checkpoint: Checkpoint, depth: int) -> dict[str, float]:
    """One round of everything."""
    guess = estimate(checkpoint, depth=depth)
    built = timed_build(checkpoint, depth)
    last = checkpoint.dimensions.layers - 1
    values = layer_values(checkpoint, sorted({0, last // 3, 2 * last // 3, last}))
    unembedding = Unembedding.from_weights(checkpoint.weights(), checkpoint.epsilon())
    projector = Projector(unembedding, depth)
    projector.project(values[0])  # buffers

    def seconds(step: Any) -> float:
        return seconds_of(step, values, checkpoint.dimensions.layers)

    return {
        "build s": built["seconds"],
        "projection s": seconds(projector.project),
        "plain way s": seconds(plain_way(unembedding.folded, depth)),
        "bare bf16, new memory s": seconds(bare_products(unembedding.folded, new_memory=True)),
        "bare bf16, same memory s": seconds(bare_products(unembedding.folded, new_memory=False)),
        "estimated s": guess.seconds,
        "peak MB": built["peak"] / 1e6,
        "estimated peak MB": guess.peak_memory / 1e6,
        "file bytes a neuron": built["size"] / built["neurons"],
        "estimated file bytes a neuron": guess.file_size / guess.neurons,
        "second looks, of all neurons": built["again"] / built["neurons"],
    }


def ratios(found: dict[str, float]) -> dict[str, float]:
    return {
        "build: times the plain way's rate": found["plain way s"] / found["build s"],
        "projection: times the plain way's rate": found["plain way s"] / found["projection s"],
        "build: share of the bare rate, new memory": found["bare bf16, new memory s"] / found["build s"],
        "projection: share of the bare rate, new memory": found["bare bf16, new memory s"] / found["projection s"],
        "projection: share of the bare rate, same memory": found["bare bf16, same memory s"] / found["projection s"],
        "estimate / build": found["estimated s"] / found["build s"],
    }


def against_lm_debugger(rounds: int) -> list[dict[str, float]]:
    """A random checkpoint of GPT-2 small's size; its tokenizer is a small one, the rest of the vocabulary unused."""
    threads = torch.get_num_threads()
    from tests.models import byte_level_tokenizer  # tests compute with one thread, and say so when they are imported

    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        into = Path(folder) / "gpt2-small-random"
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(GPT2Config()).save_pretrained(into)
        byte_level_tokenizer().save_pretrained(into)
        checkpoint = Checkpoint(into.name, into)
        unembedding = Unembedding.from_weights(checkpoint.weights(), checkpoint.epsilon())
        found = []
        for _ in range(rounds):
            built = timed_build(checkpoint, 50)
            ours = built["neurons"] / built["seconds"]
            theirs = 1 / lm_debugger_seconds(unembedding, checkpoint.weights().ffn_values(5)[:600])
            found.append({"our build, neurons/s": ours, "LM-Debugger, neurons/s": theirs, "times": ours / theirs})
        return found


def ray_seconds(checkpoint: Checkpoint, depth: int, workers: int, layers: int = 8) -> tuple[float, float]:
    """Seconds of some layers by so many workers: of all with their start, and of one once all workers are ready."""
    ended: list[float] = []

    def noted(units: Iterator[int], _total: int) -> Iterator[int]:
        for unit in units:
            ended.append(time.perf_counter())
            yield unit

    with ray_cluster(workers) as address, tempfile.TemporaryDirectory() as place:
        job = Job(checkpoint, stamp_of(checkpoint, unembedding_of(checkpoint), depth), place)
        units = [unit for unit in job.units() if unit.layer is not None][:layers]
        started = time.perf_counter()
        Cluster(address)(job, units, checked=lambda: None, say=print, progress=noted)
    return ended[-1] - started, (ended[-1] - ended[workers - 1]) / (len(units) - workers)


def on_ray(checkpoint: Checkpoint, depth: int) -> dict[str, float]:
    """One round of it."""
    (all_by_one, one), (all_by_two, two) = (ray_seconds(checkpoint, depth, workers) for workers in (1, 2))
    return {
        "8 layers, one Ray worker, s": all_by_one,
        "8 layers, two Ray workers, s": all_by_two,
        "two workers / one, start included": all_by_one / all_by_two,
        "two workers / one, once they are ready": one / two,
    }


def shown(rounds: list[dict[str, float]]) -> None:
    for name in rounds[0]:
        every = [one[name] for one in rounds]
        print(f"  {name:50} {statistics.median(every):10.4g}   of {' '.join(f'{value:.4g}' for value in every)}")


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", default="demo")
    arguments.add_argument("--depth", type=int, default=50)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--gpt2", action="store_true", help="compare with LM-Debugger's loop as well")
    arguments.add_argument("--ray", action="store_true", help="measure that of a Ray cluster, and nothing else")
    arguments.add_argument("--json", action="store_true")
    options = arguments.parse_args()
    checkpoint = locate(options.model)
    if options.ray:
        os.environ.update(ray_settings())
        shown([on_ray(checkpoint, options.depth) for _ in range(options.rounds)])
        return
    rounds = [measure(checkpoint, options.depth) for _ in range(options.rounds)]
    every = [found | ratios(found) for found in rounds]
    gpt2 = against_lm_debugger(options.rounds) if options.gpt2 else []
    if options.json:
        print(json.dumps({"model": checkpoint.name, "rounds": every, "gpt2": gpt2}))
        return
    print(f"{checkpoint.name}, {torch.get_num_threads()} threads, median of {options.rounds} rounds")
    shown(every)
    if gpt2:
        print("a random checkpoint of GPT-2 small's size")
        shown(gpt2)


if __name__ == "__main__":
    main()
