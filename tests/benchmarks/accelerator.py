"""What an accelerator brings, and how much of it is used: ``ATLAS_DEVICE=cuda python -m tests.benchmarks.accelerator``.

- the device's own rates: the best of some square products in bf16 and in float32;
- the projection: random value vectors through a random unembedding, with lists and statistics, as a build does it, and
  its share of both rates;
- with ``--model``: a forward pass, an analysis, and measured effects, there and on the CPU.

On the CPU it measures the CPU.
"""

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

import torch

from app.attribution import analyse
from app.attribution.analysis import load
from indexer.architecture import NormKind
from indexer.device import chosen_device
from indexer.projection import Projector
from indexer.weights import Unembedding

PROMPT = "The capital of France is"


def best_seconds(step: Callable[[], Any], device: torch.device, rounds: int) -> float:
    """The shortest of several times, each until the device is done; once before, to warm up."""
    found = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        step()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        found.append(time.perf_counter() - started)
    return min(found[1:])


def product_rate(device: torch.device, dtype: torch.dtype, size: int, rounds: int) -> float:
    """FLOP a second."""
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2.0 * size**3 / best_seconds(lambda: left @ right, device, rounds)


def projection_rate(device: torch.device, options: argparse.Namespace) -> float:
    """FLOP a second of the product with the unembedding, whatever else is done."""
    rows = torch.randn(options.vocabulary, options.width).to(device)
    projector = Projector(Unembedding(rows, None, None, NormKind.RMS, 0.0), 50)
    values = torch.randn(options.neurons, options.width)
    seconds = best_seconds(lambda: projector.project(values), device, options.rounds)
    return float(2 * options.neurons * options.width * options.vocabulary / seconds)


def on_a_prompt(model: str, device: str, rounds: int) -> dict[str, float]:
    """Seconds of what the pages ask."""
    os.environ["ATLAS_DEVICE"] = device
    loaded = load(model)
    ids = loaded.tokenizer(PROMPT)["input_ids"]
    place = loaded.placement.device
    return {
        "forward pass, s": best_seconds(lambda: loaded.forward(ids), place, rounds),
        "analysis, s": best_seconds(lambda: analyse(loaded, PROMPT), place, rounds),
        "analysis with 50 measured effects a list, s": best_seconds(
            lambda: analyse(loaded, PROMPT, measure=50), place, rounds
        ),
    }


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", help="such as demo")
    arguments.add_argument("--vocabulary", type=int, default=128_256)
    arguments.add_argument("--width", type=int, default=4096)
    arguments.add_argument("--neurons", type=int, default=18_432, help="of a layer")
    arguments.add_argument("--square", type=int, default=8192, help="rows of the bare products")
    arguments.add_argument("--rounds", type=int, default=3)
    options = arguments.parse_args()
    device = chosen_device()
    bare = {
        name: product_rate(device, dtype, options.square, options.rounds)
        for name, dtype in (("bf16", torch.bfloat16), ("float32", torch.float32))
    }
    reached = projection_rate(device, options)
    print(f"{device}: bare products " + ", ".join(f"{name} {rate / 1e12:.3g} TFLOP/s" for name, rate in bare.items()))
    print(f"projection {reached / 1e12:.3g} TFLOP/s", end="")
    print("".join(f", {reached / rate:.1%} of the {name} rate" for name, rate in bare.items()))
    if options.model:
        for place in dict.fromkeys(("cpu", str(device))):
            found = on_a_prompt(options.model, place, options.rounds)
            print(f"{place}: " + ", ".join(f"{name} {seconds:.3g}" for name, seconds in found.items()))


if __name__ == "__main__":
    main()
