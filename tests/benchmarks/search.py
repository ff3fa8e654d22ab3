"""How long the library's look-ups take: ``python -m tests.benchmarks.search [--synthetic llama-7b]``.

The synthetic catalogue has random tokens whose popularity falls as that of a real model's does, and random logits.
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from db.catalogue.builds import find_catalogue
from db.catalogue.store import Catalogue
from db.neuron import Neuron
from db.questions import Filters
from tests.benchmarks.synthetic import SHAPES, make_synthetic, make_texts

CONCEPT_TOKENS = 30


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
    arguments.add_argument("--synthetic", choices=list(SHAPES), help="make a random catalogue of this model's size")
    arguments.add_argument("--texts", action="store_true", help="and random texts for it")
    arguments.add_argument(
        "--keep", type=Path, metavar="DIR", help="keep the synthetic catalogue here, and use it again"
    )
    options = arguments.parse_args()
    if not options.synthetic:
        report(find_catalogue(options.catalogue, options.model))
        return
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        path = make_synthetic(options.keep or Path(folder), SHAPES[options.synthetic])
        if options.texts:
            make_texts(path, SHAPES[options.synthetic])
        print(f"made in {time.perf_counter() - started:.0f} s")
        report(path)


def report(path: Path) -> None:
    """Print what every kind of question costs on one build."""
    started = time.perf_counter()
    catalogue = Catalogue.open(path)
    info = catalogue.info
    size = path.stat().st_size
    print(f"{path.name}: {info.neurons:,} neurons; opened in {(time.perf_counter() - started) * 1000:.0f} ms")
    print(f"{size / 1e6:,.0f} MB, {size / info.neurons:,.0f} bytes a neuron")
    if catalogue.texts is not None:
        size, stamp = catalogue.texts.path.stat().st_size, catalogue.texts.stamp
        shown = info.neurons if stamp.attention else info.ffn_neurons
        print(f"texts: {size / 1e6:,.0f} MB, {size / shown:,.0f} bytes a neuron, {stamp.windows:,} windows")
    for name, question in questions(catalogue).items():
        question(0)
        median, slow = median_ms(question)
        print(f"{name:34} median {median:6.2f} ms   95th percentile {slow:6.2f} ms", flush=True)


def questions(catalogue: Catalogue) -> dict[str, Callable[[int], object]]:
    """A hundred different questions of each kind."""
    info = catalogue.info
    choose = random.Random(0)
    tokens = [choose.randrange(info.vocabulary) for _ in range(101)]
    groups = {size: [choose.sample(range(info.vocabulary), size) for _ in range(101)] for size in (6, CONCEPT_TOKENS)}
    neurons = [Neuron.ffn(choose.randrange(info.layers), choose.randrange(100)) for _ in range(101)]
    words = [catalogue.token(token_id).text for token_id in tokens]
    typed = [word for word in words if word.strip().isalpha()] or ["word"]
    concepts = [catalogue.concept_of(dict.fromkeys(group, 1.0)) for group in groups[CONCEPT_TOKENS]]
    half = Filters(sign="promotes", kind="ffn", layers=(info.layers // 2, info.layers - 1))  # type: ignore[arg-type]
    steep = Filters(min_z=4.0, max_rank=20, layers=(info.layers // 2, info.layers - 1))
    texts = catalogue.texts
    of_texts: dict[str, Callable[[int], object]] = {}
    if texts is not None:
        of_texts = {
            "texts of a neuron": lambda number: texts.of(neurons[number]),
            "usual ends and names of 101 neurons": lambda _number: texts.marks(neurons),
            "excerpts with a word": lambda number: texts.search_excerpts(typed[number % len(typed)].strip()),
            "neurons with a word in their name": lambda number: texts.named(typed[number % len(typed)].strip()),
        }
    return of_texts | {
        "token search, first 100": lambda number: catalogue.search_token([tokens[number]]),
        "the same of 6 tokens": lambda number: catalogue.search_token(groups[6][number]),
        "the same of 30 tokens": lambda number: catalogue.search_token(groups[CONCEPT_TOKENS][number]),
        "filtered by sign, kind, layers": lambda number: catalogue.search_token([tokens[number]], half),
        "filtered by z, rank, layers": lambda number: catalogue.search_token(groups[6][number], steep),
        "hits counted": lambda number: catalogue.count_hits([tokens[number]], half),
        "text -> tokens": lambda number: catalogue.resolve(words[number]),
        "layer counts": lambda number: catalogue.layer_counts([tokens[number]]),
        "neuron page": lambda number: catalogue.neuron(neurons[number]),
        "strongest tokens of 101 neurons": lambda _number: catalogue.strongest_tokens(neurons),
        "concept of 30 tokens": lambda number: catalogue.concept_neurons(concepts[number]),
        "word -> concept": lambda number: catalogue.concept(typed[number % len(typed)]),
        "similar neurons": lambda number: catalogue.similar(neurons[number]),
        "neighbours of a token": lambda number: catalogue.neighbours(tokens[number]),
        "most peaked neurons": lambda _number: catalogue.most_peaked(),
    }


if __name__ == "__main__":
    main()
