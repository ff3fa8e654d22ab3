"""What streams by is counted as if it were all held: brute force, in whatever order and from however many parts."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from db.errors import AtlasError
from db.texts.publish import Window
from db.texts.records import SKETCH
from db.texts.store import packed, unpacked
from indexer.activations import Batch, batches_of
from indexer.counting import BINS
from indexer.text_statistics import EDGES, OCTAVE_EDGES, Tally, tokens_of

NEURONS, KEPT = 5, 3


class Held(NamedTuple):
    """A window, and all that neurons did in it: activations [T, n], and whether gates were positive."""

    window: Window
    active: np.ndarray
    gates: np.ndarray | None = None


def edge_below(value: float) -> float:
    """The largest of 0 and the quarter octaves 2^e · (1, 1.25, 1.5, 1.75), -18 <= e < 14, that is not above a value."""
    edges = [0.0, *(2.0**e * (1 + q / 4) for e in range(-18, 14) for q in range(4) if (e, q) != (-18, 0))]
    return max(edge for edge in edges if edge <= value)


def excerpts(held: list[Held], neuron: int, sign: int, k: int) -> list[dict[str, Any]]:
    """The strongest distinct excerpts, with everything held and sorted."""
    found = []
    for window, active, gates in held:
        own = active[:, neuron] * sign
        peak = int(np.argmax(own))
        if own[peak] <= 0:
            continue
        first, end = max(0, peak - 23), min(len(own), peak + 9)
        found.append(
            {
                "peak": float(active[peak, neuron]),
                "window": window.window_id,
                "position": peak,
                "first": first,
                "gate": 0 if gates is None else 1 if gates[peak, neuron] else -1,
                "activations": active[first:end, neuron].tolist(),
                "text": window.token_ids[first:end],
            }
        )
    found.sort(key=lambda one: (-abs(one["peak"]), one["window"]))
    distinct: dict[Any, dict[str, Any]] = {}
    for one in found:
        distinct.setdefault(one.pop("text"), one)
    return list(distinct.values())[:k]


def assert_is_brute_force(found: Any, held: list[Held], k: int = KEPT) -> None:
    """Compare everything that is published with everything held."""
    for neuron in range(held[0].active.shape[1]):
        every = np.concatenate([one.active[:, neuron] for one in held])
        exact = every.astype(np.float64)
        assert found.mean[neuron] == pytest.approx(math.fsum(exact) / len(exact), rel=1e-12, abs=1e-15)
        assert found.std[neuron] == pytest.approx(exact.std(), rel=1e-7, abs=1e-12)
        assert (found.highest[neuron], found.lowest[neuron]) == (every.max(), every.min())
        assert (found.positive[neuron], found.negative[neuron]) == ((every > 0).sum(), (every < 0).sum())
        above = edge_below(0.1 * float(np.abs(exact).max()))
        assert found.active_above[neuron] == above
        is_active = (np.abs(every) >= above) & (every != 0)
        assert found.active_positive[neuron] == (is_active & (every > 0)).sum()
        assert found.active_negative[neuron] == (is_active & (every < 0)).sum()
        octaves = np.histogram(np.nextafter(np.abs(every), np.inf) * np.sign(every), OCTAVE_EDGES)[0]
        assert found.octaves[neuron].tolist() == octaves.tolist()
        for end, sign in enumerate((1, -1)):
            expected = excerpts(held, neuron, sign, k)
            count = len(expected)
            assert np.isnan(found.peak[neuron, end, count:]).all()
            assert (found.window[neuron, end, count:] == -1).all()
            for rank, one in enumerate(expected):
                shown = found.activations[neuron, end, rank]
                around = one.pop("activations")
                assert shown[: len(around)].tolist() == around
                assert np.isnan(shown[len(around) :]).all()
                assert {name: getattr(found, name)[neuron, end, rank].item() for name in one} == one
        if held[0].gates is not None:
            gate = np.concatenate([one.gates[:, neuron] for one in held if one.gates is not None])
            for case, (positive_gate, up) in enumerate([(1, 1), (1, 0), (0, 1), (0, 0)]):
                # silu and gelu keep the sign, so that the product's tells that of the other factor
                there = exact[(gate == positive_gate) & (exact * (1 if positive_gate == up else -1) > 0)]
                assert found.case_count[neuron, case] == len(there)
                if len(there):
                    assert found.case_mean[neuron, case] == pytest.approx(there.mean(), rel=1e-5)
                    assert found.case_strongest[neuron, case] == there[np.abs(there).argmax()]
                else:
                    assert np.isnan([found.case_mean[neuron, case], found.case_strongest[neuron, case]]).all()


def drawn(lengths: list[int], seed: int = 0, *, gated: bool = True, grid: float = 0.25) -> list[Held]:
    """Windows of random tokens with random activations on a grid, so that peaks tie, and every fourth a copy."""
    random = np.random.default_rng(seed)
    held: list[Held] = []
    for number, length in enumerate(lengths):
        ids: Sequence[int] = tuple(random.integers(0, 7, length).tolist())
        active = (np.round(random.normal(0, 1, (length, NEURONS)) / grid) * grid).astype(np.float32)
        active[:, 3] *= 1e-5  # far below the others
        active[:, 4] = np.abs(active[:, 4]) + 1000  # a mean far above the deviation, never negative
        gates = random.random((length, NEURONS)) > 0.5
        if number % 4 == 3:
            at = int(random.integers(0, number))
            ids, active, gates = (
                held[at].window.token_ids,
                held[at].active * (1 + number % 3),
                gates[:1].repeat(len(held[at].active), 0),
            )
        held.append(Held(Window(number, number, 0, ids), active, gates if gated else None))
    return held


LENGTHS = [40, 1, 2, 40, 31, 32, 33, 9, 40, 64, 5, 40, 40, 1, 24, 8, 70, 40, 40, 3]


def batches(held: list[Held], limit: int = 100) -> list[Batch]:
    return list(batches_of(iter([one.window for one in held]), limit))


def counted(held: list[Held], parts: list[list[Batch]], sketch: bool = False) -> Tally:
    """Each part counted for itself, then merged."""
    whole: Tally | None = None
    for part in parts:
        tally = Tally(NEURONS, KEPT, gated=held[0].gates is not None, sketch=sketch)
        for batch in part:
            own = [held[window.window_id] for window in batch.windows]
            gates = None if own[0].gates is None else torch.tensor(np.concatenate([one.gates for one in own]))
            tally.add(tokens_of(batch), torch.tensor(np.concatenate([one.active for one in own])), gates)
        if whole is None:
            whole = tally
        else:
            whole.merge(tally)
    assert whole is not None
    return whole


def seen(held: list[Held]) -> int:
    return sum(len(one.active) for one in held)


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("limit", [1, 100, 10_000])
@pytest.mark.parametrize("seed", range(3))
def test_counting_is_brute_force(seed, limit, gated):
    held = drawn(LENGTHS, seed, gated=gated)
    assert_is_brute_force(counted(held, [batches(held, limit)]).gathered(0, seen(held)), held)


@pytest.mark.parametrize("seed", range(5))
def test_any_order_and_any_parts_give_the_same_bits(seed):
    held = drawn(LENGTHS * 3, seed, grid=0.1)
    every = batches(held)
    once = counted(held, [every], sketch=True)
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(seed)).tolist()
    parts = [[every[at] for at in order[start::3]] for start in range(3)]
    again = counted(held, parts, sketch=True)
    ours, theirs = (one.gathered(0, seen(held), torch.arange(SKETCH)) for one in (once, again))
    for name in type(ours).__slots__:
        assert np.array_equal(getattr(ours, name), getattr(theirs, name), equal_nan=True), name


@pytest.mark.parametrize("neurons", [1, 64, 200])
def test_several_threads_count_the_same_within_a_pass(monkeypatch, neurons):
    """Which torch runs in its inference mode; threads that it did not start are not in it."""
    random, found = np.random.default_rng(neurons), []
    held = [
        Held(one.window, *random.normal(0, 1, (1, len(one.active), neurons)).astype(np.float32))
        for one in drawn(LENGTHS)
    ]
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        tally = Tally(neurons, KEPT, gated=False, sketch=True)
        with torch.inference_mode():
            for batch in batches(held):
                active = torch.tensor(np.concatenate([held[window.window_id].active for window in batch.windows]))
                tally.add(tokens_of(batch), active)
        found.append(tally)
    assert_is_brute_force(found[0].gathered(0, seen(held)), held)
    for name, one in found[0].state.items():
        assert torch.equal(one.nan_to_num(nan=-1), found[1].state[name].nan_to_num(nan=-1)), name


def test_a_neuron_that_is_silent_or_always_one_thing():
    held = drawn([6, 6], gated=False)
    for one in held:
        one.active[:, 0], one.active[:, 1], one.active[:, 2] = 0, -2, 1e9
    found = counted(held, [batches(held)]).gathered(7, seen(held))
    assert found.neuron_ids.tolist() == [7, 8, 9, 10, 11]
    assert found.mean[:3].tolist() == [0, -2, 1e9]
    assert found.std[:3].tolist() == [0, 0, 0]
    assert (found.active_positive[0], found.active_negative[0], found.active_negative[1]) == (0, 0, 12)
    assert found.window[0].max() == -1
    assert found.active_above[2] == EDGES[-1]


@pytest.mark.parametrize("ratio", [1e2, 1e4, 1e6])
def test_a_mean_far_above_the_deviation_costs_no_digits(ratio):
    """Of what float32 activations hold themselves."""
    held = drawn([50] * 20, gated=False)
    for one in held:
        one.active[:] = (ratio + np.random.default_rng(one.window.window_id).normal(0, 1, one.active.shape)).astype(
            "f4"
        )
    found = counted(held, [batches(held)]).gathered(0, seen(held))
    every = np.concatenate([one.active for one in held]).astype(np.float64)
    assert found.std == pytest.approx(every.std(axis=0), rel=1e-3 if ratio == 1e6 else 1e-7)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_what_is_no_number_is_refused(value):
    held = drawn([5], gated=False)
    held[0].active[2, 1] = value
    with pytest.raises(AtlasError, match="no numbers"):
        counted(held, [batches(held)])


def test_bins_are_quarter_octaves_and_the_ends_catch_all_beyond():
    assert len(EDGES) == BINS
    assert EDGES[[0, 1, 4, -1]].tolist() == [0, 2**-18 * 1.25, 2**-17, 2**13 * 1.75]
    assert len(OCTAVE_EDGES) == 64
    assert OCTAVE_EDGES[[0, 31, 32, 63]].tolist() == [-(2**14), -(2**-17), 2**-17, 2**14]


@pytest.mark.parametrize("limit", [1, 100, 2048])
def test_the_sketch_estimates_how_neurons_correlate(limit):
    held = drawn([60] * 60, gated=False)
    random = np.random.default_rng(5)
    for one in held:
        shared = random.normal(0, 1, len(one.active)) * (random.random(len(one.active)) > 0.9)
        noise = random.normal(0, 0.1, one.active.shape)
        one.active[:] = noise + np.outer(shared, [1, 1, -1, 0, 0]) + [0, 3, 0, 0, 3]
    every = batches(held, limit)
    tally = counted(held, [every], sketch=True)
    signs = sum(np.bincount(tokens.place, tokens.sign, SKETCH) for tokens in map(tokens_of, every))
    found = tally.gathered(0, seen(held), torch.tensor(signs).long()).sketch
    assert found is not None
    truth = np.corrcoef(np.concatenate([one.active for one in held]).T)
    assert found.shape == (NEURONS, SKETCH)
    stored = packed(found)
    assert stored.shape == (NEURONS, SKETCH // 2)
    for sketch in (found, unpacked(stored)):
        unit = sketch / np.linalg.norm(sketch, axis=1, keepdims=True)
        assert np.abs(unit @ unit.T - truth).max() < 0.15  # 1/√512 = 0.044 a deviation
        assert unit[0] @ unit[1] > 0.85 > -0.85 > unit[0] @ unit[2]


def test_every_token_is_dealt_out_once():
    held = drawn([60] * 20, gated=False)
    tokens = tokens_of(batches(held, 2048)[0])
    assert len(tokens.place) == len(tokens.sign) == 1200
    assert set(tokens.sign.tolist()) == {-1, 1}
    assert abs(tokens.sign.sum()) < 5 * math.sqrt(1200)
    given = np.bincount(tokens.place, minlength=SKETCH)
    assert (len(given), given.min(), given.max()) == (SKETCH, 2, 3), "each sum is given as many tokens"


def test_a_sketch_of_nothing_is_nothing():
    assert not unpacked(packed(np.zeros((2, 8), np.float32))).any()


def test_excerpts_are_told_apart_by_all_of_their_tokens():
    """Equal tokens are one text wherever they stand; a token more, or in another place, is another."""
    windows = [
        Window(0, 0, 0, (1, 2, 3)),
        Window(1, 1, 0, (1, 2, 3)),
        Window(2, 2, 0, (1, 3, 2)),
        Window(3, 3, 0, (1, 2)),
    ]
    text = [tokens_of(Batch(0, (window,))).text[0].item() for window in windows]
    assert text[0] == text[1]
    assert len(set(text)) == 3
    long = Window(4, 4, 0, tuple(range(100)))
    tokens = tokens_of(Batch(0, (long, windows[0])))
    assert (tokens.first[:25].tolist(), tokens.many[:25].tolist()) == ([0] * 24 + [1], [*range(9, 33), 32])
    assert (tokens.first[99].item(), tokens.many[99].item(), tokens.first[100].item()) == (76, 24, 0)
