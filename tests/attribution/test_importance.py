"""Log-probability increase and its bound: by hand on two tokens, then on many random inputs against float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from app.attribution import analyse, score
from app.attribution.score import ROWS_AT_ONCE, SAFE_EXPONENT, Bases, log_probability_increase, rows_for
from indexer.architecture import Conventions, NormKind
from indexer.weights import Unembedding
from tests import models

LN3 = math.log(3)


def unembedding(rows, shift=None, bias=None) -> Unembedding:
    shift, bias = (None if one is None else torch.tensor(one) for one in (shift, bias))
    return Unembedding(torch.tensor(rows), shift, bias, NormKind.RMS, 0.0)


def increase(change, probabilities, target=0) -> list[float]:
    """Imp on a base with these probabilities; the unembedding is the identity, so that c is the logits' change."""
    identity = torch.eye(len(probabilities)).tolist()
    bases = Bases.at(torch.tensor([probabilities]).log(), target, 1.0, unembedding(identity))
    return bases.importance(torch.tensor(change), torch.zeros(len(change), dtype=torch.long)).tolist()


def test_two_tokens_by_hand():
    # p(w) goes from 1/2 to 3/(3+1) = 3/4: ln(3/4) - ln(1/2) = ln(3/2)
    # and for the other sign to 1/(1+3) = 1/4: ln(1/4) - ln(1/2) = ln(1/2)
    assert increase([[LN3, 0.0], [0.0, LN3]], [0.5, 0.5]) == pytest.approx([math.log(3 / 2), math.log(1 / 2)], abs=1e-6)


def test_the_base_s_probabilities_weigh_the_change():
    # weights 0.2 · 3 and 0.8 · 1: p(w) goes from 0.2 to 0.6 / 1.4 = 3/7
    assert increase([[LN3, 0.0]], [0.2, 0.8]) == pytest.approx([math.log(3 / 7) - math.log(0.2)], abs=1e-6)


def test_only_differences_of_logits_count():
    # + 5 for every token is no change; (ln 3 - 2, -2) is (ln 3, 0)
    assert increase([[5.0, 5.0], [LN3 - 2, -2.0]], [0.5, 0.5]) == pytest.approx([0, math.log(3 / 2)], abs=1e-6)


@pytest.mark.parametrize("down", [-8.0, -15.0, -20.0, -60.0])
def test_logits_that_all_fall_leave_the_probabilities_as_they_were(down):
    # taken as 1 + Σ p (e^z - 1) this would be the logarithm of mere rounding
    assert increase([[down, down]], [0.5, 0.5]) == pytest.approx([0.0], abs=1e-5)
    # p(w) from 1/2 to 3/4, from far down
    assert increase([[down + LN3, down]], [0.5, 0.5]) == pytest.approx([math.log(3 / 2)], abs=1e-5)


def test_changes_beyond_the_range_of_float32_exponentials():
    # p(w) from 1/2 to 1: ln 2;  to e^-200 / (1 + e^-200): -200 + ln 2
    assert SAFE_EXPONENT < 88  # e^88.8 is infinite in float32
    huge, lower = increase([[200.0, 0.0], [0.0, 200.0]], [0.5, 0.5])
    assert huge == pytest.approx(math.log(2), abs=1e-5)
    assert lower == pytest.approx(-200 + math.log(2), abs=1e-4)
    # such a row must not spoil its neighbours
    assert increase([[200.0, 0.0], [LN3, 0.0]], [0.5, 0.5])[1] == pytest.approx(math.log(3 / 2), abs=1e-5)


@pytest.mark.parametrize("change", [79.9, 80.1])
def test_both_branches_meet(change):
    # ln(e^z / (e^z + 1)) - ln(1/2) = ln 2 - ln(1 + e^-z) = ln 2
    assert increase([[change, 0.0]], [0.5, 0.5]) == pytest.approx([math.log(2)], abs=1e-5)


def test_the_pure_function_by_hand():
    # base (1/4, 3/4), change (ln 3, 0): 3/4 against 3/4, so p(w) = 1/2; change (0, 300): 1/4 · e^-300 / (3/4)
    base = torch.tensor([[1 / 4, 3 / 4]]).log().expand(2, -1)
    scores = log_probability_increase(torch.tensor([[LN3, 0.0], [0.0, 300.0]]), base, 0).tolist()
    assert scores == pytest.approx([math.log(2), -300 + math.log(4 / 3)], rel=1e-6)


def test_bases_by_hand():
    # rows (1,0) and (0,1), scale 2, base (2 ln 3, 0): logits (ln 3, 0), p = (3/4, 1/4)
    bases = Bases.at(torch.tensor([[2 * LN3, 0.0]]), 0, 2.0, unembedding([[1.0, 0.0], [0.0, 1.0]]))
    assert bases.log_target.tolist() == pytest.approx([math.log(3 / 4)], abs=1e-6)
    # g = (row w - Σ p_j row j) / s = ((1,0) - (3/4, 1/4)) / 2
    assert bases.gradient[0].tolist() == pytest.approx([0.125, -0.125], abs=1e-6)
    # c = (-2 ln 3, 0) takes the logits to (0, 0): ln(1/2) - ln(3/4) = ln(2/3); its bound is c · g = -ln 3 / 4
    c = torch.tensor([[-2 * LN3, 0.0]])
    assert bases.importance(c, torch.tensor([0])).tolist() == pytest.approx([math.log(2 / 3)], abs=1e-6)
    assert math.log(2 / 3) <= -LN3 / 4


def test_each_contribution_is_added_to_its_own_base():
    # base 0: (0,0), p(w) 1/2 -> 3/4;  base 1: (ln 3, 0), p(w) 3/4 -> 9/10
    bases = Bases.at(torch.tensor([[0.0, 0.0], [LN3, 0.0]]), 0, 1.0, unembedding([[1.0, 0.0], [0.0, 1.0]]))
    c = torch.tensor([[LN3, 0.0]] * 3)
    expected = [math.log(0.9 / 0.75), math.log(0.75 / 0.5), math.log(0.9 / 0.75)]
    assert bases.importance(c, torch.tensor([1, 0, 1])).tolist() == pytest.approx(expected, abs=1e-6)


def test_biases_move_the_base_and_not_the_contribution():
    # logits (0,0) + shift (ln 3, 0) + head bias (0, ln 9): p = (3, 9)/12 = (1/4, 3/4)
    # the notebook drops the shift: (1, 9)/10
    head = unembedding([[1.0, 0.0], [0.0, 1.0]], shift=[LN3, 0.0], bias=[0.0, 2 * LN3])
    zero, c, only = torch.zeros(1, 2), torch.tensor([[LN3, 0.0]]), torch.tensor([0])
    exact = Bases.at(zero, 0, 1.0, head, Conventions.EXACT)
    notebook = Bases.at(zero, 0, 1.0, head, Conventions.NOTEBOOK)
    assert exact.log_target.exp().tolist() == pytest.approx([1 / 4], abs=1e-6)
    assert notebook.log_target.exp().tolist() == pytest.approx([1 / 10], abs=1e-6)
    # (9, 9)/18 = 1/2 from 1/4; (3, 9)/12 = 1/4 from 1/10
    assert exact.importance(c, only).tolist() == pytest.approx([math.log(2)], abs=1e-6)
    assert notebook.importance(c, only).tolist() == pytest.approx([math.log(2.5)], abs=1e-6)


def test_nothing_to_score_and_more_than_one_batch():
    generator = torch.Generator().manual_seed(1)
    bases = Bases.at(torch.zeros(1, 4), 3, 1.0, unembedding(torch.randn(9, 4, generator=generator).tolist()))
    assert bases.importance(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)).shape == (0,)
    many = torch.randn(2 * ROWS_AT_ONCE + 1, 4, generator=generator)
    together = bases.importance(many, torch.zeros(len(many), dtype=torch.long))
    alone = torch.cat([bases.importance(one[None], torch.tensor([0])) for one in many])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("soft_cap", [None, 5.0])
@pytest.mark.parametrize("target", [0, 31, 59])
def test_it_is_the_same_however_many_tokens_are_taken_at_a_time(target, soft_cap, monkeypatch):
    generator = torch.Generator().manual_seed(5)
    folded = torch.randn(60, 8, generator=generator)
    head = Unembedding(folded, None, None, NormKind.RMS, 0.0, soft_cap=soft_cap)
    bases = Bases.at(torch.randn(3, 8, generator=generator), target, 1.0, head)
    c, base = torch.randn(12, 8, generator=generator), torch.arange(12) % 3
    c[::4] *= 40  # beyond the range of exponentials, which are taken whole
    assert (c.norm(dim=1) * head.longest_row >= SAFE_EXPONENT).tolist() == [True, False, False, False] * 3
    whole = bases.importance(c, base)
    monkeypatch.setattr(score, "AT_ONCE", 100)
    assert len(list(score.in_cache(c[:9], head))) == 8
    torch.testing.assert_close(bases.importance(c, base), whole, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("tokens", [50_000, 262_144])
def test_a_vocabulary_of_real_size_costs_few_digits(tokens):
    generator = torch.Generator().manual_seed(3)
    folded = torch.randn(tokens, 16, generator=generator)
    points = torch.randn(2, 16, generator=generator)
    bases = Bases.at(points, 7, 1.0, Unembedding(folded, None, None, NormKind.RMS, 0.0))
    c, base = torch.randn(60, 16, generator=generator) * 0.3, torch.arange(60) % 2
    before = (points.double() @ folded.double().T).log_softmax(-1)[base, 7]
    after = ((points[base].double() + c.double()) @ folded.double().T).log_softmax(-1)[:, 7]
    torch.testing.assert_close(
        bases.importance(c, base).double(), after - before, atol=1e-5, rtol=0
    )  # a tenth of what is promised


def vectors(rows: int, width: int, largest: float):
    return arrays.arrays("float32", (rows, width), elements=st.floats(-largest, largest, width=32))


@given(
    rows=vectors(5, 3, 4.0),
    base=vectors(1, 3, 2.0),
    contributions=vectors(4, 3, 20.0),
    scale=st.sampled_from([1.0, 2.0, 7.0]),
    target=st.integers(0, 4),
)
@settings(deadline=None)
def test_the_score_is_that_of_float64_and_never_above_its_bound(rows, base, contributions, scale, target):
    folded = torch.from_numpy(rows)
    bases = Bases.at(torch.from_numpy(base), target, scale, Unembedding(folded, None, None, NormKind.RMS, 0.0))
    c = torch.from_numpy(contributions)
    scores = bases.importance(c, torch.zeros(4, dtype=torch.long)).double()

    wide = folded.double()
    before = (torch.from_numpy(base).double() / scale @ wide.T).log_softmax(-1)
    after = ((torch.from_numpy(base).double() + c.double()) / scale @ wide.T).log_softmax(-1)
    reach = (c.abs() / scale) @ folded.abs().T.amax(dim=1) + (torch.from_numpy(base).abs() / scale).sum() * 4
    allowed = 1e-6 * (10 + reach.double())  # rounding of logits of this size
    assert bool(((scores - (after - before)[:, target]).abs() <= allowed).all())
    assert bool((scores <= (c @ bases.gradient[0]).double() + allowed).all())


@given(base=vectors(1, 3, 4.0), activation=st.sampled_from([0.0, -0.0]))
@settings(deadline=None)
def test_a_neuron_that_is_not_active_scores_nothing(base, activation):
    generator = torch.Generator().manual_seed(2)
    head = unembedding(torch.randn(6, 3, generator=generator).tolist())
    bases = Bases.at(torch.from_numpy(base), 1, 1.0, head)
    value = torch.randn(1, 3, generator=generator)
    assert bases.importance(activation * value, torch.tensor([0])).tolist() == pytest.approx([0.0], abs=3e-7)


def test_less_memory_gives_the_same_scores_in_smaller_steps():
    assert rows_for(512, 49_152) == ROWS_AT_ONCE
    assert rows_for(8, 50_000) == 10  # 8 MB / (4 copies x 4 bytes x 50,000)
    assert rows_for(0, 50_000) == 1
    model = models.language_model("llama")
    one, other = (analyse(model, models.PROMPT, top=20, memory_mb=size) for size in (512, 0))
    torch.testing.assert_close(one.heads, other.heads, atol=1e-5, rtol=1e-5)
    assert [neuron.neuron for neuron in one.ffn_value_neurons] == [neuron.neuron for neuron in other.ffn_value_neurons]
