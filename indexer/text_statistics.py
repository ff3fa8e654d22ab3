"""What is kept of activations while a corpus streams by: counts, sums and the strongest excerpts of every neuron.

No activation is kept. Whatever is added in whatever order, and merged from however many parts, gives the same bits:
counts are integers, sums are integers too (a batch's sum in float64, cut into digits), and an excerpt's place follows
from its peak, its window and its tokens. Legend: n = neurons, N = tokens of a batch, W = its windows, k = excerpts.
"""

from collections.abc import Mapping
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
from indexer.counting import AT_ONCE, BIAS, BINS, FIXED, HIGHEST, LOWEST, Counts, Tokens, count
from indexer.device import in_threads

EXCERPTS = 10
SHARE = 0.1
"""Of a neuron's greatest |activation|, from which it counts as active."""
CASES = ((True, True), (True, False), (False, True), (False, False))  # gate, up
EDGES = np.append(np.float32(0), (np.arange(BIAS + 1, BIAS + BINS, dtype=np.int32) << 21).view(np.float32))
"""Of the bins, from below."""
_OCTAVES = np.array([*range(0, BINS - 4, 4), BINS - 4, *range(BINS + 5, 2 * BINS, 4)])  # their first bins
OCTAVE_EDGES = np.array([-(2.0**HIGHEST), *-EDGES[4::4][::-1], *EDGES[4::4], 2.0**HIGHEST], np.float32)
_DIGITS = (24, -8, -40, -72)  # the exponents of a sum's digits
_ONE = 2 ** -_DIGITS[-1]
_MOST = 2.0**80  # a batch's sum of squares: its first digit must leave room for those of many batches
_SUM, _SQUARES = 0, 1


def tokens_of(batch: Batch) -> Tokens:
    """Of a batch: where they stand, and what would be kept of the excerpts around them."""
    window = torch.tensor([window.window_id for window in batch.windows])
    length = torch.tensor([len(window.token_ids) for window in batch.windows])
    start = length.cumsum(0) - length
    ids = torch.tensor([token for window in batch.windows for token in window.token_ids])
    position = torch.arange(len(ids)) - start.repeat_interleave(length)
    first = (position - BEFORE).clamp_min(0)
    many = torch.minimum(length.repeat_interleave(length), position + EXCERPT_TOKENS - BEFORE) - first
    places = torch.arange(EXCERPT_TOKENS)
    at = (torch.arange(len(ids)) - position + first)[:, None] + places
    mixed = _mixed(ids[at.clamp_max(len(ids) - 1)] * EXCERPT_TOKENS + places)
    text = torch.where(places < many[:, None], mixed, 0).sum(dim=1)
    random = _mixed(window.repeat_interleave(length) * 2**20 + position)
    place = torch.empty_like(random)
    place[random.argsort(stable=True)] = (int(random[0]) % SKETCH + torch.arange(len(ids))) % SKETCH
    sign = (2 * (random & 1) - 1).float()
    return Tokens(*(one.numpy() for one in (window, start, length, first, many, text, place, sign)))


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

    def __init__(self, neurons: int, excerpts: int, *, gated: bool, sketch: bool) -> None:
        def full(value: float, kind: torch.dtype, *shape: int) -> Tensor:
            return torch.full((neurons, *shape), value, dtype=kind)

        cases = 4 if gated else 0
        self.state = {
            "digits": full(0, torch.int64, 2 + cases, len(_DIGITS)),
            "histogram": full(0, torch.int32, 2 * BINS + 1),
            "highest": full(-torch.inf, torch.float32, 2),
            "cases": full(0, torch.int64, cases),
            "strongest": full(-torch.inf, torch.float32, cases),
            "sketch": full(0, torch.int64, SKETCH if sketch else 0),
        }
        self.state |= {name: full(one, kind, 2, excerpts, *more) for name, (one, kind, more) in _EMPTY.items()}
        self.gated, self._neurons = gated, neurons

    def add(self, tokens: Tokens, active: Float[Tensor, "N n"], gates: Bool[Tensor, "N n"] | None = None) -> None:
        """Count one batch's activations.

        Raises:
            AtlasError: some are no numbers, or too large to be counted.
        """
        sums, kept = torch.zeros(self._neurons, 6, dtype=torch.float64), dict(self.state)
        digits = kept.pop("digits")
        counts = Counts(sums.numpy(), **{name: one.numpy() for name, one in kept.items()})
        x = active.cpu().contiguous().numpy()
        on = np.empty((len(x), 0), np.bool_) if gates is None or not self.gated else gates.cpu().contiguous().numpy()
        workers = torch.get_num_threads()
        share = AT_ONCE * -(-self._neurons // (AT_ONCE * workers))

        def add(begin: int) -> None:
            count(counts, tokens, x, on, begin, min(begin + share, self._neurons))

        in_threads(add, range(0, self._neurons, share), workers)
        if not bool((sums[:, _SQUARES] < _MOST).all()):  # nor is NaN
            raise AtlasError(
                "The model yields activations that are no numbers, or far too large: no text can be trusted."
            )
        digits += _digits(sums[:, : digits.shape[1]])

    def gathered(self, first: int, seen: int, signs: Int[Tensor, " s"] | None = None) -> Gathered:
        """What is published of the neurons.

        Args:
            first: id of the first of them; the others follow.
            seen: how many tokens were counted.
            signs: [SKETCH]; the sum of all tokens' signs, where there is a sketch.
        """
        ordered = self.state | _sorted({name: self.state[name] for name in _EMPTY})
        kept = {name: one.numpy() for name, one in ordered.items()}
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
            sketch=None if signs is None else _centred(kept["sketch"], mean, signs.numpy()),
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
    number, sums = kept["cases"], np.stack([(one / _ONE).astype(np.float64) for one in totals], axis=1)
    strongest = kept["strongest"] * np.array([1 if gate == up else -1 for gate, up in CASES], np.float32)
    return {
        "case_count": number,
        "case_mean": np.where(number > 0, sums / np.maximum(number, 1), np.nan),
        "case_strongest": np.where(number > 0, strongest, np.float32(np.nan)),
    }


def _centred(sketch: NDArray[np.int64], mean: NDArray[np.float64], signs: NDArray[np.int64]) -> NDArray[np.float32]:
    """[n, SKETCH]; the cosine of two rows is an estimate of how two neurons' activations correlate."""
    found: NDArray[np.float32] = (sketch / FIXED - mean[:, None] * signs).astype(np.float32)
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


def _digits(sums: Float[Tensor, "m sums"]) -> Int[Tensor, "m sums 4"]:
    """Each sum exactly, in integers: how many of each of the powers of two it holds. The last one is rounded."""
    found = []
    for exponent in _DIGITS:
        digit = sums / 2.0**exponent
        digit = digit.trunc() if exponent != _DIGITS[-1] else digit.round()
        found.append(digit.long())
        sums = sums - digit * 2.0**exponent
    return torch.stack(found, dim=-1)
