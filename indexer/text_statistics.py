"""What is kept of activations while a corpus streams by: counts, sums and the strongest excerpts of every neuron.

No activation is kept. Whatever is added in whatever order, and merged from however many parts, gives the same bits:
counts are integers, sums are integers too (a batch's sum in float64, cut into digits), and an excerpt's place follows
from its peak, its window and its tokens. Legend: n = neurons, N = tokens of a batch, W = its windows, k = excerpts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from db.errors import AtlasError
from db.texts.publish import Gathered
from db.texts.records import BEFORE, EXCERPT_TOKENS, SKETCH
from indexer.activations import Batch
from indexer.device import in_threads

EXCERPTS = 10
SHARE = 0.1
"""Of a neuron's greatest |activation|, from which it counts as active."""
LOWEST, HIGHEST = -18, 14  # octaves of the histogram; its ends catch all that is beyond
BINS = 4 * (HIGHEST - LOWEST)  # quarter octaves, of one sign
_BIAS = 4 * (127 + LOWEST)  # of the first, in float32's exponent and its two highest bits
CASES = ((True, True), (True, False), (False, True), (False, False))  # gate, up
EDGES = np.append(np.float32(0), (np.arange(_BIAS + 1, _BIAS + BINS, dtype=np.int32) << 21).view(np.float32))
"""Of the bins, from below."""
_OCTAVES = np.array([*range(0, BINS - 4, 4), BINS - 4, *range(BINS + 5, 2 * BINS, 4)])  # their first bins
OCTAVE_EDGES = np.array([-(2.0**HIGHEST), *-EDGES[4::4][::-1], *EDGES[4::4], 2.0**HIGHEST], np.float32)
_DIGITS = (24, -8, -40, -72)  # the exponents of a sum's digits
_ONE = 2 ** -_DIGITS[-1]
_MOST = 2.0**80  # a batch's sum of squares: its first digit must leave room for those of many batches
_FIXED = 2.0**24  # one of the sketch's
_CHUNK = 64  # neurons at a time, on a CPU: what is computed of them stays in its cache
_MAGNITUDE = 0x7FFFFFFF  # of a float32, all but its sign
_RUN = 16  # tokens of a window of which the greatest activation is found first
_SUM, _SQUARES = 0, 1


@dataclass(frozen=True, eq=False)
class Tokens:
    """A batch's tokens, as its neurons' activations are laid out: window after window.

    Attributes:
        window: [W]; their ids.
        start, length: [W]; where each begins among the N tokens, and how many it has.
        first, text: [N]; of the excerpt with its peak at a token, its first token's position in the window, and a hash
            of its token ids.
        count: [N]; and how many tokens it has.
        dealt, signs: [G·SKETCH]; the sketch's sum at each place of G rounds is given that token's activation, times ±1
            at random. 0 where none is: each token is dealt out once, so that any length of sketch costs the same.
    """

    window: Int[Tensor, " W"]
    start: Int[Tensor, " W"]
    length: Int[Tensor, " W"]
    first: Int[Tensor, " N"]
    count: Int[Tensor, " N"]
    text: Int[Tensor, " N"]
    dealt: Int[Tensor, " g"]
    signs: Float[Tensor, " g"]

    @classmethod
    def of(cls, batch: Batch, device: torch.device) -> "Tokens":
        window = torch.tensor([window.window_id for window in batch.windows])
        length = torch.tensor([len(window.token_ids) for window in batch.windows])
        start = length.cumsum(0) - length
        ids = torch.tensor([token for window in batch.windows for token in window.token_ids])
        position = torch.arange(len(ids)) - start.repeat_interleave(length)
        first = (position - BEFORE).clamp_min(0)
        count = torch.minimum(length.repeat_interleave(length), position + EXCERPT_TOKENS - BEFORE) - first
        places = torch.arange(EXCERPT_TOKENS)
        at = (torch.arange(len(ids)) - position + first)[:, None] + places
        mixed = _mixed(ids[at.clamp_max(len(ids) - 1)] * EXCERPT_TOKENS + places)
        text = torch.where(places < count[:, None], mixed, 0).sum(dim=1)
        random = _mixed(window.repeat_interleave(length) * 2**20 + position)
        begin = int(random[0]) % SKETCH
        dealt = torch.zeros(SKETCH * -(-(begin + len(ids)) // SKETCH), dtype=torch.long)
        signs, own = torch.zeros(len(dealt)), slice(begin, begin + len(ids))
        dealt[own] = random.argsort(stable=True)
        signs[own] = (2 * (random[dealt[own]] & 1) - 1).float()
        made = (window, start, length, first, count, text, dealt, signs)
        return cls(*(one.to(device) for one in made))

    @cached_property
    def grid(self) -> Int[Tensor, "W T"] | None:
        """Each window's tokens, its last one again and again where another is longer, up to whole runs; None where that
        is what stands after each other.
        """
        longest = int(self.length.max())
        if longest % _RUN == 0 and bool((self.length == longest).all()):
            return None
        places = torch.arange(_RUN * -(-longest // _RUN), device=self.start.device)
        return self.start[:, None] + torch.minimum(places, self.length[:, None] - 1)


def _mixed(numbers: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """splitmix64's: every bit of a number bears on every bit of what comes out."""
    numbers = numbers - 0x61C8864680B583EB
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        numbers = (numbers ^ _shifted(numbers, shift)) * factor
    return numbers ^ _shifted(numbers, 31)


def _shifted(numbers: Tensor, by: int) -> Tensor:
    """To the right, with zeros from the left."""
    found: Tensor = (numbers >> by) & (2 ** (64 - by) - 1)
    return found


_EMPTY: dict[str, tuple[Any, torch.dtype, tuple[int, ...]]] = {
    "peak": (-torch.inf, torch.float32, ()),
    "window": (-1, torch.int64, ()),
    "text": (0, torch.int64, ()),
    "position": (0, torch.int16, ()),
    "first": (0, torch.int16, ()),
    "gate": (0, torch.int8, ()),
    "activations": (torch.nan, torch.float32, (EXCERPT_TOKENS,)),
}
"""What is kept of an excerpt, as it stands where there is none."""
_GREATEST = ("highest", "strongest")  # of what is no list, and of which the greater counts; of the others the sum


class Tally:
    """What is kept of so many neurons.

    Attributes:
        state: by name, a row a neuron. Sums are `digits` [n, sums, 4]: of activations, of their squares and, where they
            are gated, of those in each case. `histogram` [n, 2·BINS+1] ascends; zeros are in the middle. `highest` [n,
            2] and `strongest` [n, 4] are times the sign that they are of. Lists are [n, 2, k] in any order,
            their peaks times their sign.
    """

    def __init__(self, neurons: int, excerpts: int, *, gated: bool, sketch: bool, device: torch.device) -> None:
        def full(value: float, kind: torch.dtype, *shape: int) -> Tensor:
            return torch.full((neurons, *shape), value, dtype=kind, device=device)

        self.state = {
            "digits": full(0, torch.int64, 6 if gated else 2, len(_DIGITS)),
            "histogram": full(0, torch.int32, 2 * BINS + 1),
            "highest": full(-torch.inf, torch.float32, 2),
        }
        self.state |= {name: full(one, kind, 2, excerpts, *more) for name, (one, kind, more) in _EMPTY.items()}
        if gated:
            self.state |= {"cases": full(0, torch.int64, 4), "strongest": full(-torch.inf, torch.float32, 4)}
        if sketch:
            self.state["sketch"] = full(0, torch.int64, SKETCH)
        self.gated, self._neurons = gated, neurons

    def add(self, tokens: Tokens, active: Float[Tensor, "N n"], gates: Bool[Tensor, "N n"] | None = None) -> None:
        """Count one batch's activations."""
        gates = gates if self.gated else None
        chunk = _CHUNK if active.device.type == "cpu" else self._neurons
        chunks = -(-self._neurons // chunk)
        workers = min(torch.get_num_threads(), chunks)
        share = chunk * -(-chunks // workers)  # whole chunks, so that sums do not depend on the number of threads

        def add(part: slice) -> None:
            entering = []
            for at in range(part.start, min(part.stop, self._neurons), chunk):
                span = slice(at, min(at + chunk, self._neurons))
                kept, x = {name: one[span] for name, one in self.state.items()}, active[:, span].contiguous()
                gate = None if gates is None else gates[:, span]
                runs, greatest = _count(kept, tokens, x, gate)
                peaks = greatest.amax(dim=2).permute(2, 0, 1)
                found = (peaks > 0) & (peaks >= kept["peak"].amin(dim=2, keepdim=True))
                if bool(found.any()):
                    entering.append(_excerpts(tokens, x, gate, runs, greatest, found, at - part.start))
            if entering:
                new = {name: torch.cat([one[name] for one in entering]) for name in entering[0]}
                lists = {name: self.state[name][part] for name in _EMPTY}
                _keep({name: one.view(-1, *one.shape[2:]) for name, one in lists.items()}, new)

        in_threads(add, [slice(at, at + share) for at in range(0, self._neurons, share)], workers)

    def gathered(self, first: int, seen: int, signs: Int[Tensor, " s"] | None = None) -> Gathered:
        """What is published of the neurons.

        Args:
            first: id of the first of them; the others follow.
            seen: how many tokens were counted.
            signs: [SKETCH]; the sum of all tokens' signs, where there is a sketch.
        """
        ordered = self.state | _sorted({name: self.state[name] for name in _EMPTY})
        kept = {name: one.cpu().numpy() for name, one in ordered.items()}
        totals = [_total(kept["digits"][:, place]) for place in range(kept["digits"].shape[1])]
        mean = (totals[_SUM] / (seen * _ONE)).astype(np.float64)
        variance = (seen * _ONE * totals[_SQUARES] - totals[_SUM] ** 2) / (seen * _ONE) ** 2
        least = _bins(SHARE * kept["highest"].max(axis=1).astype(np.float64))
        is_active = np.arange(BINS) >= least[:, None]
        positive, negative = kept["histogram"][:, BINS + 1 :], kept["histogram"][:, BINS - 1 :: -1]
        return Gathered(
            neuron_ids=np.arange(first, first + self._neurons, dtype=np.int32),
            mean=mean,
            std=np.sqrt(np.maximum(variance.astype(np.float64), 0)),
            positive=positive.sum(axis=1, dtype=np.int64),
            negative=negative.sum(axis=1, dtype=np.int64),
            active_positive=(positive * is_active).sum(axis=1, dtype=np.int64),
            active_negative=(negative * is_active).sum(axis=1, dtype=np.int64),
            active_above=EDGES[least],
            highest=kept["highest"][:, 0],
            lowest=-kept["highest"][:, 1],
            octaves=np.add.reduceat(kept["histogram"], _OCTAVES, axis=1, dtype=np.int64),
            octave_edges=OCTAVE_EDGES,
            peak=np.where(kept["window"] < 0, np.float32(np.nan), kept["peak"] * np.array([[1], [-1]], np.float32)),
            window=kept["window"].astype(np.int32),
            position=kept["position"],
            first=kept["first"],
            gate=kept["gate"],
            activations=kept["activations"],
            sketch=None if signs is None else _centred(kept["sketch"], mean, signs.cpu().numpy()),
            **(_cases(kept, totals[2:]) if self.gated else {}),
        )

    def merge(self, other: "Tally") -> None:
        """Count what another has counted, of other batches."""
        ours, theirs = self.state, other.state
        for name in ours.keys() - _EMPTY.keys():
            ours[name] = torch.maximum(ours[name], theirs[name]) if name in _GREATEST else ours[name] + theirs[name]
        length = ours["peak"].shape[2]
        both = {name: torch.cat([ours[name], theirs[name]], dim=2) for name in _EMPTY}
        ours |= {name: one[:, :, :length].clone() for name, one in _sorted(both).items()}


def _total(digits: NDArray[np.int64]) -> NDArray[Any]:
    """[n, 4] -> [n]; whole numbers of 1 / `_ONE`, of any size."""
    found: NDArray[Any] = digits.astype(object) @ np.array([2 ** (one - _DIGITS[-1]) for one in _DIGITS], object)
    return found


def _bins(magnitudes: NDArray[np.float64]) -> NDArray[np.int64]:
    """The bin of each."""
    quarters = (magnitudes.view(np.int64) >> 50) - 4 * (1023 + LOWEST)
    found: NDArray[np.int64] = quarters.clip(0, BINS - 1)
    return found


def _cases(kept: Mapping[str, NDArray[Any]], totals: list[NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """What is published of the signs of gate and up."""
    count, sums = kept["cases"], np.stack([(one / _ONE).astype(np.float64) for one in totals], axis=1)
    strongest = kept["strongest"] * np.array([1 if gate == up else -1 for gate, up in CASES], np.float32)
    return {
        "case_count": count,
        "case_mean": np.where(count > 0, sums / np.maximum(count, 1), np.nan),
        "case_strongest": np.where(count > 0, strongest, np.float32(np.nan)),
    }


def _centred(sketch: NDArray[np.int64], mean: NDArray[np.float64], signs: NDArray[np.int64]) -> NDArray[np.float32]:
    """[n, SKETCH]; the cosine of two rows is an estimate of how two neurons' activations correlate."""
    found: NDArray[np.float32] = (sketch / _FIXED - mean[:, None] * signs).astype(np.float32)
    return found


def _sorted(lists: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The strongest first, of equals the earliest; of one text the first alone, and what is left empty last."""
    window = lists["window"].argsort(dim=2, stable=True)
    order = window.gather(2, lists["peak"].gather(2, window).argsort(dim=2, stable=True, descending=True))
    text = lists["text"].gather(2, order)
    again = (text[..., :, None] == text[..., None, :]).tril(-1).any(dim=3)
    peak = lists["peak"].gather(2, order).masked_fill(again, -torch.inf)
    order = order.gather(2, peak.argsort(dim=2, stable=True, descending=True))
    is_empty = peak.sort(dim=2, stable=True, descending=True).values == -torch.inf
    neurons, ends = (torch.arange(size, device=peak.device) for size in peak.shape[:2])
    found = {name: one[neurons[:, None, None], ends[:, None], order] for name, one in lists.items()}
    for name, (value, _, _) in _EMPTY.items():
        found[name][is_empty] = value
    return found


def _count(
    kept: dict[str, Tensor], tokens: Tokens, x: Float[Tensor, "N m"], gate: Bool[Tensor, "N m"] | None
) -> tuple[Float[Tensor, "W R T m"], Float[Tensor, "2 W R m"]]:
    """Count some neurons' activations into what is kept of them, which is changed in place; the same by windows and
    their runs of tokens, and the greatest of each run, times the sign that it is of.
    """
    exact = x.double()
    sums = [exact.sum(dim=0), exact.square_().sum(dim=0)]
    if not bool((sums[_SQUARES] < _MOST).all()):  # nor is NaN
        raise AtlasError("The model yields activations that are no numbers, or far too large: no text can be trusted.")
    on = None if gate is None else gate.to(torch.int32)
    found, zeros = _histograms(x, on)
    kept["histogram"][:, :BINS] += found[:, :, 1].sum(dim=1).flip(1)
    kept["histogram"][:, BINS] += zeros
    kept["histogram"][:, BINS + 1 :] += found[:, :, 0].sum(dim=1)
    if on is not None:
        _count_cases(kept, x, on, found.sum(dim=3), sums)
    kept["digits"] += _digits(torch.stack(sums, dim=1))
    if "sketch" in kept:
        dealt = x.index_select(0, tokens.dealt).mul_(tokens.signs[:, None]).view(-1, SKETCH, x.shape[1]).sum(dim=0)
        kept["sketch"] += dealt.T.double().mul_(_FIXED).round_().long()
    whole = x if tokens.grid is None else x.index_select(0, tokens.grid.flatten())
    runs = whole.view(len(tokens.window), -1, _RUN, x.shape[1])
    greatest = torch.stack([runs.amax(dim=2), -runs.amin(dim=2)])
    kept["highest"].copy_(torch.maximum(kept["highest"], greatest.amax(dim=(1, 2)).T))
    return runs, greatest


def _histograms(
    x: Float[Tensor, "N m"], on: Int[Tensor, "N m"] | None
) -> tuple[Int[Tensor, "m gates 2 bins"], Int[Tensor, " m"]]:
    """By the gate's sign, not positive first, and the activation's, positive first; and the activations of 0, which
    are in none of them.
    """
    gates, bits = 1 if on is None else 2, x.view(torch.int32)
    key = bits & _MAGNITUDE
    some_are_zero = int(key.amin()) == 0
    key.bitwise_right_shift_(21).clamp_(_BIAS, _BIAS + BINS - 1)
    key.sub_(bits >> 31, alpha=BINS)
    if on is not None:
        key.add_(on, alpha=2 * BINS)
    width = gates * 2 * BINS
    key.add_(width * torch.arange(x.shape[1], dtype=torch.int32, device=x.device) - _BIAS)
    found = torch.bincount(key.flatten(), minlength=width * x.shape[1]).view(-1, gates, 2, BINS)
    zeros = torch.zeros(x.shape[1], dtype=torch.int64, device=x.device)
    if some_are_zero:
        for gate in range(gates):
            for place, is_of in enumerate((bits == 0, bits == -_MAGNITUDE - 1)):  # 0 and -0
                count = (is_of if on is None else is_of & (on == gate)).sum(dim=0)
                found[:, gate, place, 0] -= count
                zeros += count
    return found, zeros


def _count_cases(
    kept: dict[str, Tensor], x: Tensor, on: Tensor, counts: Int[Tensor, "m 2 2"], sums: list[Tensor]
) -> None:
    """The four cases of gate and up; the sign of an activation is the product of theirs. One of 0 is in no case."""
    of_on = (x.view(torch.int32) & -on).view(torch.float32)  # -1 is all bits: x where it is on, else 0
    of_off = x - of_on
    for case, (positive_gate, up) in enumerate(CASES):
        one, positive = (of_on if positive_gate else of_off), positive_gate == up
        kept["cases"][:, case] += counts[:, int(positive_gate), int(not positive)]
        sums.append((one.clamp_min(0) if positive else one.clamp_max(0)).sum(dim=0).double())
        extreme = one.amax(dim=0) if positive else -one.amin(dim=0)
        kept["strongest"][:, case].copy_(torch.maximum(kept["strongest"][:, case], extreme))


def _digits(sums: Float[Tensor, "m sums"]) -> Int[Tensor, "m sums 4"]:
    """Each sum exactly, in integers: how many of each of the powers of two it holds. The last one is rounded."""
    found = []
    for exponent in _DIGITS:
        digit = sums / 2.0**exponent
        digit = digit.trunc() if exponent != _DIGITS[-1] else digit.round()
        found.append(digit.long())
        sums = sums - digit * 2.0**exponent
    return torch.stack(found, dim=-1)


def _excerpts(
    tokens: Tokens,
    x: Float[Tensor, "N m"],
    gate: Bool[Tensor, "N m"] | None,
    runs: Float[Tensor, "W R T m"],
    greatest: Float[Tensor, "2 W R m"],
    found: Bool[Tensor, "m 2 W"],
    row: int,
) -> dict[str, Tensor]:
    """The excerpts at the windows' peaks that were found, with the numbers of their lists: two a neuron, from `row`."""
    neuron, end, place = found.nonzero(as_tuple=True)
    peak, run = greatest[end, place, :, neuron].max(dim=1)
    within = (runs[place, run, :, neuron] * (1 - 2 * end)[:, None]).argmax(dim=1)
    position = _RUN * run + within
    at = tokens.start[place] + position
    places = torch.arange(EXCERPT_TOKENS, device=x.device)
    there = (at - position + tokens.first[at])[:, None] + places
    around = x[there.clamp_max(len(x) - 1), neuron[:, None]]
    return {
        "list": 2 * (row + neuron) + end,
        "peak": peak,
        "window": tokens.window[place],
        "text": tokens.text[at],
        "position": position,
        "first": tokens.first[at],
        "gate": torch.zeros_like(at) if gate is None else 2 * gate[at, neuron].long() - 1,
        "activations": around.where(places < tokens.count[at, None], torch.nan),
    }


def _keep(tables: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> None:
    """Put excerpts, ordered by their list's number, among the strongest; of one list one after the other."""
    lists, counts = new["list"].unique_consecutive(return_counts=True)
    start = counts.cumsum(0) - counts
    for turn in range(int(counts.max()) if len(counts) else 0):
        own = (start + turn)[counts > turn]
        to, slot = _better({name: one[own] for name, one in new.items()}, tables, lists[counts > turn])
        own, to, slot = own[to >= 0], to[to >= 0], slot[to >= 0]
        for name, table in tables.items():
            table[to, slot] = new[name][own].to(table.dtype)


def _better(
    new: Mapping[str, Tensor], tables: Mapping[str, Tensor], lists: Int[Tensor, " m"]
) -> tuple[Int[Tensor, " m"], Int[Tensor, " m"]]:
    """For an excerpt and a list each: the list, or -1 where it does not belong there, and the slot that it takes; of
    the same text, if there is one, or of the weakest excerpt.
    """
    peak, window = tables["peak"][lists], tables["window"][lists]
    same = (tables["text"][lists] == new["text"][:, None]) & (window >= 0)
    last = torch.where(peak == peak.amin(dim=1, keepdim=True), window, -2)
    slot = torch.where(same.any(dim=1), same.int().argmax(dim=1), last.argmax(dim=1))
    held, since = (one.gather(1, slot[:, None])[:, 0] for one in (peak, window))
    wins = (new["peak"] > held) | ((new["peak"] == held) & (new["window"] < since))
    return torch.where(wins, lists, -1), slot
