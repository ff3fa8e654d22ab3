"""The job that gathers the texts that activate neurons: a corpus through a model, in shares, to one published file.

A share is every n-th batch of the corpus. What is kept of it is stored about once a minute, with the number of the
batch that comes next, so that a kill loses that minute. Shares are merged exactly: as if one process had run it all.
"""

import hashlib
import json
import math
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from db.catalogue.builds import build_path, current_build, current_texts
from db.catalogue.reader import checkpoint_of
from db.errors import AtlasError
from db.records import short_identity
from db.texts.publish import Gathered, Window, publish_texts
from db.texts.records import SKETCH, TextsStamp
from db.texts.schema import SCHEMA_VERSION
from indexer.activations import (
    Activations,
    Batch,
    Reader,
    batch_tokens,
    batches_of,
    longest_window,
    signs_are_known,
    windows_of,
)
from indexer.build import disk_errors, home_of
from indexer.checkpoint import Checkpoint
from indexer.corpus import Corpus, Document, open_corpus
from indexer.estimate import PROCESS_BYTES, duration
from indexer.language_model import LanguageModel, load_model
from indexer.shards import Shards, only_indexer, work_folder
from indexer.text_statistics import EXCERPTS, SHARE, Tally, tokens_of
from indexer.tokens import TokenBytes
from indexer.work import Engine, Progress, Say, Unit, in_process

CODE_VERSION = "4"
"""Raised when the same corpus, checkpoint and options would give other contents."""
SAVE_SECONDS = 60.0
_MOST_SAVING = 0.05  # of the time
_STATE = "state.safetensors"
_SHARE_NAME = re.compile(r"share-(\d+)-of-(\d+)")
_TRIAL_TOKENS = 512
_FILE_BYTES_A_NEURON = 2000
_TEMPORARIES = 10  # tensors of the size of one layer's activations in a batch


class CorpusChoice(NamedTuple):
    """Which corpus; as for `open_corpus`."""

    given: str
    column: str = "text"
    split: str | None = None
    licence: str | None = None
    limit: int | None = None

    def open(self) -> Corpus:
        """Raises AtlasError as `open_corpus` does."""
        column, split, licence, limit = self[1:]
        return open_corpus(self.given, column=column, split=split, licence=licence, limit=limit)


@dataclass(frozen=True)
class TextsJob:
    """The work, as those who do it must know it; see `indexer.work.Job`.

    Attributes:
        checkpoint: the model.
        stamp: of what will be published.
        place: where what is kept of the shares is stored; see `Shards`.
        corpus: which one.
        batches: how many it has.
        model: the checkpoint in memory, where it is already.
    """

    checkpoint: Checkpoint
    stamp: TextsStamp
    place: str | Path
    corpus: CorpusChoice
    batches: int
    model: LanguageModel | None = field(default=None, repr=False, compare=False)

    def units(self, jobs: int) -> list[Unit]:
        """The shares of so many jobs, numbered from 1."""
        return [
            Unit(
                f"share-{number:04d}-of-{jobs:04d}",
                number,
                {_STATE: self.batches},
                len(range(number - 1, self.batches, jobs)),
            )
            for number in range(1, jobs + 1)
        ]

    def to_send(self) -> "TextsJob":
        """Small, as other processes are given it, wherever they were started."""
        given = Path(self.corpus.given)
        corpus = self.corpus._replace(given=str(given.absolute())) if given.exists() else self.corpus
        return replace(self, model=None, corpus=corpus)

    def worker(self, say: Say = lambda _line: None) -> "TextsWorker":
        """Who does units of it in this process."""
        return TextsWorker(self, say)


class Kept:
    """What is kept of some batches: a `Tally` for the FFN neurons of each layer, and one for its attention neurons.

    Attributes:
        next: number of the batch that comes next.
        tokens, windows: how many were counted.
    """

    def __init__(self, checkpoint: Checkpoint, stamp: TextsStamp) -> None:
        size, gated = checkpoint.dimensions, signs_are_known(checkpoint.config, checkpoint.architecture)
        self.next = self.tokens = self.windows = 0
        self._signs = torch.zeros(SKETCH, dtype=torch.int64)
        self._size = size
        self._ffn = [
            Tally(size.ffn_neurons(layer), stamp.excerpts, gated=gated, sketch=True) for layer in range(size.layers)
        ]
        self._attention = [
            Tally(size.attention_width, stamp.excerpts, gated=False, sketch=False)
            for _ in range(size.layers if stamp.attention else 0)
        ]

    def add(self, reader: Reader, batch: Batch) -> None:
        """Run one batch and count it."""
        tokens = tokens_of(batch)

        def count(found: Activations) -> None:
            self._ffn[found.layer].add(tokens, found.ffn, found.gates)
            if found.attention is not None:
                self._attention[found.layer].add(tokens, found.attention)

        reader.run(batch, count)
        self._signs += torch.from_numpy(np.bincount(tokens.place, tokens.sign, SKETCH)).long()
        self.next, self.tokens = batch.number + 1, self.tokens + batch.tokens
        self.windows += len(batch.windows)

    def merge(self, other: "Kept") -> None:
        """Count what was counted of other batches."""
        for ours, theirs in zip(self._tallies().values(), other._tallies().values(), strict=True):
            ours.merge(theirs)
        self._signs += other._signs
        self.tokens, self.windows = self.tokens + other.tokens, self.windows + other.windows

    def _tallies(self) -> dict[str, Tally]:
        named = {"ffn": self._ffn, "attention": self._attention}
        return {f"{kind}.{layer}": one for kind, tallies in named.items() for layer, one in enumerate(tallies)}

    def tensors(self) -> dict[str, Tensor]:
        """All of it, to be stored."""
        counts = torch.tensor([self.next, self.tokens, self.windows])
        states = {
            f"{tally}.{name}": one.contiguous()
            for tally, own in self._tallies().items()
            for name, one in own.state.items()
        }
        return {"counts": counts, "signs": self._signs, **states}

    def restore(self, stored: Mapping[str, Tensor]) -> None:
        """Go on from what `tensors` gave."""
        self.next, self.tokens, self.windows = stored["counts"].tolist()
        self._signs = stored["signs"]
        for tally, own in self._tallies().items():
            own.state = {name: stored[f"{tally}.{name}"] for name in own.state}

    def close_lists(self) -> None:
        """Let no excerpt enter a list any more: as it nearly is when much of a corpus was counted."""
        for tally in self._tallies().values():
            tally.state["peak"].fill_(torch.inf)

    def gathered(self) -> Iterator[Gathered]:
        """What is published, in the order of neurons' ids."""
        for layer, ffn in enumerate(self._ffn):
            first = self._size.neurons_before(layer)
            yield ffn.gathered(first, self.tokens, self._signs)
            if self._attention:
                yield self._attention[layer].gathered(first + self._size.ffn_neurons(layer), self.tokens)


class TextsWorker:
    """Does shares of one job; the model that it loads serves all of them."""

    def __init__(self, job: TextsJob, say: Say = lambda _line: None) -> None:
        self._job, self._say = job, say
        self._shards = Shards(job.place, job.stamp)
        self._reader: Reader | None = None

    @property
    def reader(self) -> Reader:
        """The model, ready to run batches."""
        if self._reader is None:
            model = self._job.model or load_model(self._job.checkpoint)
            self._reader = Reader(model, attention=self._job.stamp.attention)
        return self._reader

    def run(
        self,
        units: Sequence[Unit],
        checked: Callable[[], None] = lambda: None,
        progress: Progress = lambda batches, _total: batches,
    ) -> tuple[int, int]:
        """See `Engine`; returns windows and tokens."""
        checked()
        windows = tokens = 0
        for unit in units:
            kept = self._do(unit, progress)
            windows, tokens = windows + kept.windows, tokens + kept.tokens
        return windows, tokens

    def _do(self, unit: Unit, progress: Progress) -> Kept:
        kept = self._empty()
        stored_share(self._shards, unit, kept, whole=False)
        number, jobs = _numbers(unit.name)
        batches = self._job.batches
        mine = [one for one in range(number - 1, batches, jobs) if one >= kept.next]
        if mine and kept.next:
            self._say(f"{unit.name}: {kept.tokens:,} tokens are done")

        def run() -> Iterator[int]:
            saved = time.monotonic()
            saving = 0.0
            for batch in self._batches():
                if batch.number % jobs != number - 1 or batch.number < kept.next:
                    continue
                kept.add(self.reader, batch)
                if time.monotonic() - saved > max(SAVE_SECONDS, saving / _MOST_SAVING):
                    started = time.monotonic()
                    self._shards.replace(unit.name, {_STATE: (kept.tensors(), kept.next)})
                    saved = time.monotonic()
                    saving = saved - started
                yield batch.number

        for _ in progress(run(), len(mine)):
            pass
        kept.next = batches
        self._shards.replace(unit.name, {_STATE: (kept.tensors(), batches)})
        return kept

    def _batches(self) -> Iterator[Batch]:
        return _batches(self._job.checkpoint, self._job.corpus.open(), self._job.stamp.window)

    def _empty(self) -> Kept:
        return Kept(self._job.checkpoint, self._job.stamp)


def stored_share(shards: Shards, unit: Unit, kept: Kept, *, whole: bool) -> bool:
    """Read what was stored of a share into `kept`: only where it is `whole`, or as far as it was done. Whether there is
    something.
    """
    with TemporaryDirectory() as folder:
        found = shards.fetch(unit.name, unit.rows if whole else None, Path(folder))
        if found is not None:
            kept.restore(load_file(found / _STATE))
    return found is not None


def _fastest(run: Callable[[], object]) -> float:
    """Seconds of the faster of two runs."""
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _numbers(name: str) -> tuple[int, int]:
    """Of a share, its number and among how many it is."""
    found = _SHARE_NAME.fullmatch(name)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _batches(checkpoint: Checkpoint, corpus: Corpus, window: int) -> Iterator[Batch]:
    windows = windows_of(corpus, checkpoint.tokenizer, window)
    return batches_of(windows, batch_tokens(checkpoint.dimensions))


@dataclass(frozen=True)
class Gathering:
    """What `gather` did: `fresh` is False where it was there already. The figures are of all of the corpus; seconds
    are of this call.
    """

    path: str
    fresh: bool
    documents: int
    windows: int
    tokens: int
    seconds: float


@dataclass(frozen=True)
class Estimate:
    """What `gather` is expected to take, from a short trial. Bytes and seconds."""

    model: str
    corpus: str
    documents: int
    windows: int
    tokens: int
    neurons: int
    tokens_a_second: float
    seconds: float
    peak_memory: float
    file_size: float

    def line(self) -> str:
        """For a person."""
        return (
            f"{self.corpus}: {self.documents:,} documents, {self.windows:,} windows, {self.tokens:,} tokens; "
            f"{self.neurons:,} neurons; about {duration(self.seconds)} at {self.tokens_a_second:,.0f} tokens a second, "
            f"{self.peak_memory / 1e9:.1f} GB of memory, {self.file_size / 1e6:,.0f} MB on the disk"
        )


@dataclass(frozen=True, eq=False)
class Texts:
    """The texts of one model over one corpus, planned but not gathered. Make one with `plan`.

    Attributes:
        job: the work.
        directory: the model's, which holds its build.
        notices: what of the corpus was not taken as it is.
    """

    job: TextsJob
    directory: Path
    notices: list[str]

    @property
    def shards(self) -> Shards:
        return Shards(self.job.place, self.job.stamp)

    def estimated(self, model: LanguageModel | None = None) -> Estimate:
        """Runs some hundred tokens, four times, through the checkpoint in memory, or else loads it: with lists that any
        excerpt enters, and with such that none does. Of W windows k + k · ln(W / k) enter a list of k in random order.
        """
        model = model or load_model(self.job.checkpoint)
        stamp, checkpoint, size = self.job.stamp, self.job.checkpoint, self.job.checkpoint.dimensions
        reader, kept = Reader(model, attention=stamp.attention), Kept(checkpoint, stamp)
        first = next(iter(_batches(checkpoint, self.job.corpus.open(), stamp.window)))
        tries = (Batch(0, first.windows[-count:]) for count in range(1, len(first.windows)))
        trial = next((one for one in tries if one.tokens >= _TRIAL_TOKENS), first)
        entering = _fastest(partial(kept.add, reader, trial))
        kept.close_lists()
        none = _fastest(partial(kept.add, reader, trial))
        few = min(stamp.excerpts, stamp.windows)
        share = few * (1 + math.log(stamp.windows / few)) / stamp.windows
        rate = trial.tokens / (none + share * max(0.0, entering - none))
        neurons = size.all_ffn_neurons + (size.layers * size.attention_width if stamp.attention else 0)
        held = sum(one.nbytes for one in kept.tensors().values())
        numbers = sum(one.numel() for one in model.module.parameters()) + model.unembedding.folded.numel()
        batch = 4.0 * batch_tokens(size) * max(size.ffn_width, size.attention_width)
        return Estimate(
            model=checkpoint.name,
            corpus=stamp.corpus,
            documents=stamp.documents,
            windows=stamp.windows,
            tokens=stamp.tokens_seen,
            neurons=neurons,
            tokens_a_second=rate,
            seconds=stamp.tokens_seen / rate,
            peak_memory=PROCESS_BYTES + 4.0 * numbers + 2 * held + _TEMPORARIES * batch,
            file_size=float(_FILE_BYTES_A_NEURON * neurons),
        )

    def gather(self, engine: Engine, shares: Callable[[], int], say: Say, progress: Progress) -> Gathering:
        """Do what is missing, and publish.

        Args:
            engine: who does it.
            shares: among how many it is dealt out, unless some was done before.
            say: told what is being done.
            progress: wraps the iteration over batches or shares.

        Raises:
            AtlasError: there is no build of the model, the disk is full, or another process is at work there.
        """
        started, stamp = time.perf_counter(), self.job.stamp
        path = build_path(self.directory, stamp.texts_id, "texts")
        build = current_build(self.directory)
        owner = checkpoint_of(build) or ""
        if not self.job.checkpoint.has(owner):
            raise AtlasError(
                f"{build} is of {short_identity(owner)}, and the model of {short_identity(stamp.checkpoint)}: "
                "build its catalogue first."
            )
        figures = stamp.documents, stamp.windows, stamp.tokens_seen
        with disk_errors(self.directory, _FILE_BYTES_A_NEURON * self.job.checkpoint.dimensions.all_ffn_neurons):
            if current_texts(build) == path:
                return Gathering(str(path), False, *figures, time.perf_counter() - started)
            with only_indexer(self.directory):
                shards = self.shards
                units = self.job.units(_jobs_begun(shards) or shares())
                missing = [unit for unit in units if not shards.is_whole(unit.name, unit.rows)]
                if missing:
                    job = self.job
                    if engine is in_process:
                        job = replace(job, model=load_model(job.checkpoint))
                        say(self.estimated(job.model).line())
                    engine(job, missing, checked=lambda: None, say=say, progress=progress)
                say("Merging, checking and publishing")
                whole = self._merged(units)
                made = publish_texts(
                    self.directory, replace(stamp, checkpoint=owner), whole.gathered(), self._windows()
                )
                shutil.rmtree(work_folder(self.directory, stamp.texts_id), ignore_errors=True)
        return Gathering(str(made), True, *figures, time.perf_counter() - started)

    def share(self, number: int, jobs: int, say: Say, progress: Progress) -> None:
        """Do the share of one of so many jobs, counted from 1; nothing is published.

        Raises:
            AtlasError: the disk is full, or the store cannot be reached.
        """
        with disk_errors(self.directory, _FILE_BYTES_A_NEURON * self.job.checkpoint.dimensions.all_ffn_neurons):
            unit = self.job.units(jobs)[number - 1]
            if not self.shards.is_whole(unit.name, unit.rows):
                self.job.worker(say).run([unit], progress=progress)

    def _merged(self, units: Sequence[Unit]) -> Kept:
        job, shards = self.job, self.shards
        whole, one = (Kept(job.checkpoint, job.stamp) for _ in range(2))
        for unit in units:
            if not stored_share(shards, unit, one if whole.tokens else whole, whole=True):
                raise AtlasError(f"{unit.name} is not whole in {shards.place}. Run the same command again.")
            if one.tokens:
                whole.merge(one)
                one = Kept(job.checkpoint, job.stamp)
        if (whole.tokens, whole.windows) != (job.stamp.tokens_seen, job.stamp.windows):
            raise AtlasError(f"{shards.place} does not hold all of the corpus. Remove it: `python -m indexer prune`.")
        return whole

    def _windows(self) -> Iterator[Window]:
        return windows_of(self.job.corpus.open(), self.job.checkpoint.tokenizer, self.job.stamp.window)


def plan(
    checkpoint: Checkpoint,
    corpus: CorpusChoice,
    catalogue: Path,
    *,
    window: int | None = None,
    excerpts: int = EXCERPTS,
    attention: bool = False,
    shards_to: str | None = None,
) -> Texts:
    """Read the corpus once, and say what is to be done.

    Args:
        checkpoint: the model.
        corpus: the texts.
        catalogue: the folder of all catalogues.
        window: tokens of a window, at most.
        excerpts: how many are kept at each sign of a neuron.
        attention: whether attention neurons are looked at, too.
        shards_to: where shares are kept; None: beside the catalogue.

    Raises:
        AtlasError: the corpus cannot be read, or the window is longer than the model's positions.
    """
    texts = corpus.open()
    length = longest_window(checkpoint.dimensions, TokenBytes(checkpoint.tokenizer), window)
    documents = windows = tokens = batches = 0

    def counted() -> Iterator[Document]:
        nonlocal documents
        for document in texts:
            documents += 1
            yield document

    every = windows_of(counted(), checkpoint.tokenizer, length)
    for batch in batches_of(every, batch_tokens(checkpoint.dimensions)):
        batches, windows, tokens = batches + 1, windows + len(batch.windows), tokens + batch.tokens
    directory = home_of(checkpoint, catalogue)
    stamp = TextsStamp(
        texts_id="",
        schema_version=SCHEMA_VERSION,
        code_version=CODE_VERSION,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        model=directory.name,
        checkpoint=checkpoint.identity,
        tokenizer_hash=checkpoint.tokenizer_hash,
        corpus=texts.name,
        description=texts.description,
        corpus_hash=texts.fingerprint(),
        column=texts.column,
        split=texts.split,
        licence=texts.licence,
        own_words=texts.own_words and checkpoint.has(texts.written_by or ""),
        documents=documents,
        windows=windows,
        tokens_seen=tokens,
        window=length,
        excerpts=excerpts,
        share=SHARE,
        attention=attention,
    )
    same = {name: one for name, one in asdict(stamp).items() if name not in ("texts_id", "created_at", "model")}
    digest = hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()
    stamp = replace(stamp, texts_id=digest[:16])
    job = TextsJob(checkpoint, stamp, shards_to or directory, corpus, batches)
    return Texts(job, directory, [*texts.notices, *checkpoint.notices()])


def _jobs_begun(shards: Shards) -> int | None:
    """Among how many shares the work was dealt out that has been begun; where in several ways, by most of them."""
    found = Counter(_numbers(name)[1] for name in shards.names())
    del found[0]
    return max(found, key=lambda jobs: (found[jobs], jobs)) if found else None
