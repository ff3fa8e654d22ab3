"""How long the library's look-ups take: ``python -m tests.benchmarks.search``."""

import argparse
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from db.catalogue import Catalogue
from db.filters import Filters
from db.library import find_catalogue
from db.neuron import Neuron


def median_ms(question: Callable[[int], object], runs: int = 101) -> tuple[float, float]:
    """Median and 95th percentile in milliseconds over `runs` different questions."""
    times = []
    for number in range(runs):
        started = time.perf_counter()
        question(number)
        times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times), statistics.quantiles(times, n=20)[-1]


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--catalogue", type=Path, default=Path("catalogue"))
    arguments.add_argument("--model")
    options = arguments.parse_args()
    path = find_catalogue(options.catalogue, options.model)
    started = time.perf_counter()
    catalogue = Catalogue.open(path)
    info = catalogue.info
    print(f"{path.name}: {info.neurons:,} neurons; opened in {(time.perf_counter() - started) * 1000:.0f} ms")
    choose = random.Random(0)
    tokens = [choose.randrange(info.vocabulary) for _ in range(101)]
    neurons = [Neuron.ffn(choose.randrange(info.layers), choose.randrange(100)) for _ in range(101)]
    words = [catalogue.token(token_id).text for token_id in tokens]
    filters = Filters(sign="promotes", kind="ffn", layers=(info.layers // 2, info.layers - 1))  # type: ignore[arg-type]
    questions: dict[str, Callable[[int], object]] = {
        "token search, first 100": lambda number: catalogue.search_token([tokens[number]]),
        "the same, filtered": lambda number: catalogue.search_token([tokens[number]], filters),
        "text -> tokens": lambda number: catalogue.resolve(words[number]),
        "layer counts": lambda number: catalogue.layer_counts([tokens[number]]),
        "neuron page": lambda number: catalogue.neuron(neurons[number]),
        "strongest tokens of 101 neurons": lambda _number: catalogue.strongest_tokens(neurons),
    }
    for name, question in questions.items():
        question(0)
        median, slow = median_ms(question)
        print(f"{name:34} median {median:6.2f} ms   95th percentile {slow:6.2f} ms")


if __name__ == "__main__":
    main()
