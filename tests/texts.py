"""Texts for tests: made-up activations over made-up windows, published as gathered ones would be.

    give_texts(path)                     # beside any build's file; returns what was published
    with Catalogue.open(path) as catalogue: catalogue.texts.of(neuron)

Everything is counted from :attr:`Made.activations`, which are held whole, so that any answer can be checked.
"""

from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from db.catalogue.store import Catalogue
from db.neuron import NeuronKind
from db.questions import Filters
from db.texts.publish import Gathered, Window, publish_texts
from db.texts.records import AFTER, BEFORE, EXCERPT_TOKENS, TextsStamp
from db.texts.schema import SCHEMA_VERSION

LENGTHS = (40, 40, 13, 1, 40)
"""Tokens of the windows; the second goes on with the first one's document."""
DOCUMENTS = (0, 0, 2, 3, 5)
EDGES = np.array([-8, -4, -2, -1, -0.5, 0.5, 1, 2, 4, 8], np.float32)


@dataclass(frozen=True)
class Made:
    """What was published, and what it was counted from."""

    path: Path
    stamp: TextsStamp
    windows: list[Window]
    neuron_ids: NDArray[np.int32]
    activations: NDArray[np.float32]
    """[neurons, tokens], window after window."""
    gathered: Gathered


def give_texts(build: Path, *, k: int = 3, seed: int = 0, attention: bool = False, **stamped: object) -> Made:
    """Publish texts for every FFN neuron of the build in a file, which is its folder's current one.

    Args:
        build: the build's file.
        k: excerpts of each sign.
        seed: of the activations and of the tokens, which are any of the vocabulary's.
        attention: attention neurons too.
        stamped: replaces fields of the stamp.
    """
    made = make_texts(build, k=k, seed=seed, attention=attention, **stamped)
    publish_texts(build.parent, made.stamp, halves(made.gathered), made.windows)
    return made


def make_texts(build: Path, *, k: int, seed: int = 0, attention: bool = False, **stamped: object) -> Made:
    """What `give_texts` publishes."""
    with Catalogue.open(build) as catalogue:
        info = catalogue.info
        spans = catalogue.layout.spans(Filters(kind=NeuronKind.FFN))
    ids = (
        np.arange(info.neurons)
        if attention or spans is None
        else np.concatenate([np.arange(a, b + 1) for a, b in spans])
    )
    random = np.random.default_rng(seed)
    windows, place = [], 0
    for number, (length, document) in enumerate(zip(LENGTHS, DOCUMENTS, strict=True)):
        first = LENGTHS[0] if number == 1 else 0
        windows.append(Window(number, document, first, random.integers(0, info.vocabulary, length).tolist()))
        place += length
    activations = random.normal(random.normal(0, 0.5, (len(ids), 1)), 1, (len(ids), place)).clip(-7, 7)
    activations = activations.astype(np.float32)
    gated = not attention
    gathered = _counted(ids.astype(np.int32), activations, random.normal(0, 1, activations.shape) > 0, k, gated)
    stamp = TextsStamp(
        texts_id="made",
        schema_version=SCHEMA_VERSION,
        code_version="test",
        created_at="2024-01-01T00:00:00Z",
        model=info.model,
        checkpoint=info.checkpoint,
        tokenizer_hash=info.tokenizer_hash,
        corpus="made",
        description="random tokens",
        corpus_hash="sha256 0",
        column=None,
        split=None,
        licence=None,
        own_words=False,
        documents=6,
        windows=len(windows),
        tokens_seen=place,
        window=40,
        excerpts=k,
        share=0.1,
        attention=attention,
    )
    stamp = replace(stamp, **stamped)  # type: ignore[arg-type]
    path = build.parent / f"texts-{stamp.texts_id}.duckdb"
    return Made(path, stamp, windows, ids.astype(np.int32), activations, gathered)


def _counted(
    ids: NDArray[np.int32], activations: NDArray[np.float32], gate: NDArray[np.bool_], k: int, gated: bool
) -> Gathered:
    size = np.abs(activations)
    # The largest quarter octave at or below a tenth of the greatest.
    bits = (size.max(axis=1) / 10).astype(np.float32).view(np.uint32) >> 21 << 21
    above = bits.view(np.float32)
    active = size >= above[:, None]
    n = len(ids)
    shape = (n, 2, k)
    peak = np.full(shape, np.nan, np.float32)
    window = np.full(shape, -1, np.int32)
    position, first, signs = (np.zeros(shape, kind) for kind in (np.int16, np.int16, np.int8))
    shown = np.full((*shape, EXCERPT_TOKENS), np.nan, np.float32)
    starts = np.concatenate([[0], np.cumsum(LENGTHS)])
    for row in range(n):
        for end, sign in enumerate((1, -1)):
            found = []
            for number, (start, stop) in enumerate(pairwise(starts)):
                at = int(np.argmax(sign * activations[row, start:stop]))
                if sign * activations[row, start + at] > 0:
                    found.append((-float(sign * activations[row, start + at]), number, at))
            for rank, (_, number, at) in enumerate(sorted(found)[:k]):
                here = (row, end, rank)
                begin = max(0, at - BEFORE)
                some = activations[
                    row, starts[number] + begin : min(starts[number] + at + 1 + AFTER, starts[number + 1])
                ]
                peak[here], window[here] = activations[row, starts[number] + at], number
                position[here], first[here] = at, begin
                signs[here] = (1 if gate[row, starts[number] + at] else -1) if gated else 0
                shown[here][: len(some)] = some
    cases = [gate & (activations * np.where(gate, 1, -1) > 0), gate, ~gate & (activations < 0), ~gate]
    cases[1] = cases[1] & ~cases[0]
    cases[3] = cases[3] & ~cases[2]
    with np.errstate(invalid="ignore"):
        case_mean = np.stack([np.where(case, activations, 0).sum(1, dtype=float) / case.sum(1) for case in cases], 1)
    largest = [np.where(case, size, -1).argmax(1) for case in cases]
    strongest = [
        np.where(case.any(1), activations[np.arange(n), at], np.nan) for case, at in zip(cases, largest, strict=True)
    ]
    return Gathered(
        neuron_ids=ids,
        mean=activations.mean(axis=1, dtype=np.float64),
        std=activations.std(axis=1, dtype=np.float64),
        positive=(activations > 0).sum(axis=1),
        negative=(activations < 0).sum(axis=1),
        active_positive=(active & (activations > 0)).sum(axis=1),
        active_negative=(active & (activations < 0)).sum(axis=1),
        active_above=above,
        highest=activations.max(axis=1),
        lowest=activations.min(axis=1),
        octaves=np.stack([np.histogram(one, EDGES)[0] for one in activations]),
        octave_edges=EDGES,
        peak=peak,
        window=window,
        position=position,
        first=first,
        gate=signs,
        activations=shown,
        case_count=np.stack([case.sum(axis=1) for case in cases], 1) if gated else None,
        case_mean=case_mean if gated else None,
        case_strongest=np.stack(strongest, 1).astype(np.float32) if gated else None,
    )


def halves(gathered: Gathered) -> list[Gathered]:
    """The same in two blocks."""
    middle = len(gathered.neuron_ids) // 2
    return [part(gathered, slice(None, middle)), part(gathered, slice(middle, None))]


def part(gathered: Gathered, rows: slice) -> Gathered:
    """Some of the neurons."""
    fields = {name: getattr(gathered, name) for name in Gathered.__slots__}
    return Gathered(
        **{name: one if one is None or name == "octave_edges" else one[rows] for name, one in fields.items()}
    )
