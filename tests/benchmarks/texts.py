"""How fast texts are gathered, as a share of the model's own forward rate, and whether memory is flat.

    python -m tests.benchmarks.texts [MODEL] [--tokens 20000]

Both rates are of the same batches on the same threads, by turns: the trunk alone, and with everything counted and
selected; also in seconds of the processor, which tell more where others use it too. The peak is of a process each,
over a corpus of so many tokens and over one four times as long.
"""

import argparse
import json
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from indexer.activations import Reader, batch_tokens, batches_of, windows_of
from indexer.checkpoint import locate
from indexer.corpus import open_corpus
from indexer.language_model import load_model
from indexer.texts import CorpusChoice, Kept, plan
from tests.readmes import CHECKOUT

_WORDS = re.findall(r"\w+", (CHECKOUT / "indexer" / "topics.txt").read_text(encoding="utf-8"))


def written(folder: Path, tokens: int) -> Path:
    """A corpus of about so many tokens: documents of random words."""
    draw, path = random.Random(0), folder / f"{tokens}.jsonl"
    with path.open("w") as file:
        for _ in range(max(1, tokens // 320)):
            words = draw.choices(_WORDS, k=draw.randint(100, 360))
            file.write(json.dumps({"text": " ".join(words)}) + "\n")
    return path


def main() -> None:
    """Print both rates and their ratio, then the peaks."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("model", nargs="?", default="demo")
    arguments.add_argument("--tokens", type=int, default=20_000)
    arguments.add_argument("--peak", type=Path, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        corpus = given.peak or written(Path(folder), given.tokens)
        measure(given.model, corpus, alone=given.peak is None)
        if given.peak is None:
            for tokens in (given.tokens // 2, given.tokens * 2):
                path = written(Path(folder), tokens)
                command = [sys.executable, "-m", "tests.benchmarks.texts", given.model, "--peak", str(path)]
                print(f"{tokens:,} tokens: {subprocess.run(command, capture_output=True, text=True).stdout.strip()}")


class Clock:
    """Adds up what passes within it: seconds, and those of the processor by all threads."""

    def __init__(self) -> None:
        self.seconds = self.processor = 0.0

    def __enter__(self) -> None:
        self._started = time.perf_counter(), time.process_time()

    def __exit__(self, *_raised: object) -> None:
        self.seconds += time.perf_counter() - self._started[0]
        self.processor += time.process_time() - self._started[1]


def measure(name: str, corpus: Path, *, alone: bool) -> None:
    """Both rates; or the peak of counting."""
    checkpoint = locate(name)
    model = load_model(checkpoint)
    with tempfile.TemporaryDirectory() as catalogue:
        job = plan(checkpoint, CorpusChoice(str(corpus)), Path(catalogue)).job
    reader, kept = Reader(model), Kept(checkpoint, job.stamp)
    windows = windows_of(open_corpus(str(corpus)), checkpoint.tokenizer, job.stamp.window)
    bare, whole = Clock(), Clock()
    tokens = 0
    for batch in batches_of(windows, batch_tokens(checkpoint.dimensions)):
        if alone:
            with bare:
                reader.run(batch, lambda _found: None, hooks=False)
        with whole:
            kept.add(reader, batch)
        tokens += batch.tokens
    if alone:
        print(f"{tokens:,} tokens, {job.batches} batches, {torch.get_num_threads()} threads, {model.placement.device}")
        for name in ("seconds", "processor"):
            alone, all_of_it = getattr(bare, name), getattr(whole, name)
            told = (
                f"the model alone {tokens / alone:,.0f}, gathering {tokens / all_of_it:,.0f}: {alone / all_of_it:.0%}"
            )
            print(f"tokens a {'second' if name == 'seconds' else 'second of the processor'}: {told}")
    else:
        print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB at most")


if __name__ == "__main__":
    main()
