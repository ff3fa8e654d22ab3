"""The loops of `text_statistics`, compiled: one pass over a layer's activations in a batch, some neurons at a time.

What is kept of the neurons at hand stays in the processor's cache, and the innermost loops, which run over them, become
vector instructions. Sums run over tokens in their order: no result depends on the machine or the number of threads.
Legend: N = tokens of a batch, W = its windows, n = neurons of a layer, k = excerpts of a list.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int
from numba import njit
from numpy import ndarray

from db.texts.records import EXCERPT_TOKENS

LOWEST, HIGHEST = -18, 14  # octaves of the histogram; its ends catch all that is beyond
BINS = 4 * (HIGHEST - LOWEST)  # quarter octaves, of one sign
BIAS = 4 * (127 + LOWEST)  # of the first, in float32's exponent and its two highest bits
FIXED = 2.0**24  # one, in the sketch
AT_ONCE = 64  # neurons
_ZERO = np.float32(0)
Loops = TypeVar("Loops", bound=Callable[..., Any])


def _compiled(function: Loops) -> Loops:
    """By numba, when first called; kept for later processes where this folder can be written to."""
    made: Loops = njit(function, nogil=True, cache=os.access(Path(__file__).parent, os.W_OK))
    return made


class Tokens(NamedTuple):
    """A batch's tokens, as its neurons' activations are laid out: window after window.

    Attributes:
        window: [W]; their ids.
        start, length: [W]; where each begins among the N tokens, and how many it has.
        first, text: [N]; of the excerpt with its peak at a token, its first token's position in the window, and a hash
            of its token ids.
        many: [N]; and how many tokens it has.
        place, sign: [N]; the number of the sketch's sum that is given a token's activation, times ±1 at random. Every
            sum is given as many tokens, so that any length of sketch costs the same.
    """

    window: Int[ndarray, " W"]
    start: Int[ndarray, " W"]
    length: Int[ndarray, " W"]
    first: Int[ndarray, " N"]
    many: Int[ndarray, " N"]
    text: Int[ndarray, " N"]
    place: Int[ndarray, " N"]
    sign: Float[ndarray, " N"]


class Counts(NamedTuple):
    """What is changed in place: `text_statistics.Tally.state` but for its digits, and this batch's `sums` [n, 6]."""

    sums: Float[ndarray, "n 6"]
    histogram: Int[ndarray, "n bins"]
    highest: Float[ndarray, "n 2"]
    cases: Int[ndarray, "n 4"]
    strongest: Float[ndarray, "n 4"]
    sketch: Int[ndarray, "n s"]
    peak: Float[ndarray, "n 2 k"]
    window: Int[ndarray, "n 2 k"]
    text: Int[ndarray, "n 2 k"]
    position: Int[ndarray, "n 2 k"]
    first: Int[ndarray, "n 2 k"]
    gate: Int[ndarray, "n 2 k"]
    activations: Float[ndarray, "n 2 k tokens"]


@_compiled
def _add(
    x: Float[ndarray, " n"],
    position: np.int32,
    sums: Float[ndarray, "6 n"],
    greatest: Float[ndarray, "2 n"],
    where: Int[ndarray, "2 n"],
) -> None:
    """Sums and sums of squares; the greatest so far of either sign, and the first position of each."""
    for n in range(len(x)):
        exact = np.float64(x[n])
        sums[0, n] += exact
        sums[1, n] += exact * exact
    for end in range(2):
        sign = np.float32(1 - 2 * end)
        for n in range(len(x)):
            is_greater = sign * x[n] > greatest[end, n]
            greatest[end, n] = sign * x[n] if is_greater else greatest[end, n]
            where[end, n] = position if is_greater else where[end, n]


@_compiled
def _find_bins(key: Int[ndarray, " n"]) -> None:
    """The bits of each number -> its place in the histogram."""
    for n in range(len(key)):
        magnitude = key[n] & 0x7FFFFFFF
        one = min(max((magnitude >> 21) - BIAS, 0), BINS - 1) + 1 if magnitude != 0 else 0
        key[n] = BINS + (one if key[n] >= 0 else -one)


@_compiled
def _count_cases(
    x: Float[ndarray, " n"],
    on: Int[ndarray, " n"],
    number: Int[ndarray, "4 n"],
    sums: Float[ndarray, "6 n"],
    strongest: Float[ndarray, "4 n"],
) -> None:
    """The four cases of gate and up; the sign of an activation is the product of theirs. One of 0 is in no case."""
    for case in range(4):
        gate, sign = case < 2, np.float32(1 if case in (0, 3) else -1)
        for n in range(len(x)):
            one = max(sign * x[n], _ZERO) if (on[n] != 0) == gate else _ZERO
            sums[2 + case, n] += np.float64(sign * one)
            strongest[case, n] = max(strongest[case, n], one)
            number[case, n] += 1 if one > 0 else 0


@_compiled
def _enter(
    counts: Counts,
    tokens: Tokens,
    active: Float[ndarray, "N n"],
    gates: Bool[ndarray, "N n"],
    neuron: int,
    sign: int,
    w: int,
    position: int,
) -> None:
    """Put the excerpt around a window's peak in its neuron's list, if it belongs there: in the place of one of the same
    text, or else of the weakest, of equals the latest.
    """
    at = tokens.start[w] + position
    peak, window, text = active[at, neuron] * (1 - 2 * sign), tokens.window[w], tokens.text[at]
    peaks, windows, texts = counts.peak[neuron, sign], counts.window[neuron, sign], counts.text[neuron, sign]
    slot = 0
    for one in range(len(peaks)):
        if windows[one] >= 0 and texts[one] == text:
            slot = one
            break
        if peaks[one] < peaks[slot] or (peaks[one] == peaks[slot] and windows[one] > windows[slot]):
            slot = one
    if peak < peaks[slot] or (peak == peaks[slot] and window > windows[slot]):
        return
    peaks[slot], windows[slot], texts[slot] = peak, window, text
    counts.position[neuron, sign, slot], counts.first[neuron, sign, slot] = position, tokens.first[at]
    if gates.shape[1] > 0:
        counts.gate[neuron, sign, slot] = 1 if gates[at, neuron] else -1
    first = tokens.start[w] + tokens.first[at]
    for place in range(EXCERPT_TOKENS):
        held = active[first + place, neuron] if place < tokens.many[at] else np.float32(np.nan)
        counts.activations[neuron, sign, slot, place] = held


@_compiled
def count(
    counts: Counts,
    tokens: Tokens,
    active: Float[ndarray, "N n"],
    gates: Bool[ndarray, "N n"],
    begin: int,
    end: int,
) -> None:
    """Count the activations of the neurons from `begin` to before `end`. Without gates ([N, 0]) there are no cases."""
    is_gated, sketched = gates.shape[1] > 0, counts.sketch.shape[1]
    bits = active.view(np.int32)
    x, key, on = np.zeros(AT_ONCE, np.float32), np.zeros(AT_ONCE, np.int32), np.zeros(AT_ONCE, np.int32)
    sums, histogram = np.empty((6, AT_ONCE)), np.empty((AT_ONCE, 2 * BINS + 1), np.int32)
    number, strongest = np.empty((4, AT_ONCE), np.int32), np.empty((4, AT_ONCE), np.float32)
    dealt = np.empty((sketched, AT_ONCE), np.float32)
    greatest, where = np.empty((2, AT_ONCE), np.float32), np.empty((2, AT_ONCE), np.int32)
    floor = np.empty((2, AT_ONCE), np.float32)  # the least that enters a list
    for base in range(begin, end, AT_ONCE):
        size = min(AT_ONCE, end - base)
        sums[:], histogram[:], number[:], strongest[:], dealt[:] = 0, 0, 0, -np.inf, 0
        for n in range(size):
            for sign in range(2):
                floor[sign, n] = counts.peak[base + n, sign].min()
        for w in range(len(tokens.window)):
            greatest[:], where[:] = -np.inf, 0
            for t in range(tokens.start[w], tokens.start[w] + tokens.length[w]):
                for n in range(size):
                    x[n], key[n] = active[t, base + n], bits[t, base + n]
                _add(x, np.int32(t - tokens.start[w]), sums, greatest, where)
                if is_gated:
                    for n in range(size):
                        on[n] = gates[t, base + n]
                    _count_cases(x, on, number, sums, strongest)
                if sketched:
                    to, sign = dealt[tokens.place[t]], tokens.sign[t]
                    for n in range(AT_ONCE):
                        to[n] += x[n] * sign
                _find_bins(key)
                for n in range(size):
                    histogram[n, key[n]] += 1
            for n in range(size):
                for sign in range(2):
                    peak = greatest[sign, n]
                    counts.highest[base + n, sign] = max(counts.highest[base + n, sign], peak)
                    if peak > 0 and peak >= floor[sign, n]:
                        _enter(counts, tokens, active, gates, base + n, sign, w, where[sign, n])
                        floor[sign, n] = counts.peak[base + n, sign].min()
        for n in range(size):
            counts.sums[base + n] = sums[:, n]
            counts.histogram[base + n] += histogram[n]
            for place in range(sketched):
                counts.sketch[base + n, place] += np.int64(np.rint(dealt[place, n] * FIXED))
            if is_gated:
                counts.cases[base + n] += number[:, n]
                for case in range(4):
                    counts.strongest[base + n, case] = max(counts.strongest[base + n, case], strongest[case, n])
