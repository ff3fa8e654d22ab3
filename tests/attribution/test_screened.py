"""bf16 where the probability is not: what is called sure is within the tolerance, and the rest is done again."""

import pytest
import torch

from app.attribution import importance
from app.attribution.importance import Bases
from app.attribution.screened import PROBABLE, TOLERANCE, Tail
from indexer.architecture import NormKind
from indexer.unembedding import Unembedding

VOCABULARY, WIDTH, TARGET = 6001, 24, 7


@pytest.fixture(params=[0.05, 0.2, 0.6], ids=["flat", "middling", "peaked"])
def bases(request, monkeypatch) -> Bases:
    monkeypatch.setattr(importance, "_bf16_is_faster", lambda _width: True)
    generator = torch.Generator().manual_seed(0)
    folded = torch.randn(VOCABULARY, WIDTH, generator=generator)
    folded[11] *= 6  # one token with a long row
    points = torch.randn(3, WIDTH, generator=generator) * request.param
    return Bases.at(points, TARGET, 0.7, Unembedding(folded, None, None, NormKind.RMS, 0.0))


def contributions(size: float, count: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    spread = torch.rand(count, 1, generator=generator)
    return torch.randn(count, WIDTH, generator=generator) * spread * size, torch.arange(count) % 3


def in_float64(bases: Bases, c: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    change = (c.double() / bases.scale) @ bases.unembedding.folded.double().T
    return change[:, TARGET] - torch.logsumexp(bases.log_probabilities[base].double() + change, dim=1)


@pytest.mark.parametrize("size", [0.0003, 0.003, 0.3, 3.0])
def test_what_is_called_sure_is_within_the_tolerance(bases, size):
    c, base = contributions(size)
    base = base.sort().values
    scores, sure = bases._screened(c, base)
    error = (scores.double() - in_float64(bases, c, base)).abs()
    if size == 0.0003:
        assert sure.all()
    if size == 3.0:
        assert not sure.all()
    assert (error[sure] <= TOLERANCE).all()


@pytest.mark.parametrize("size", [0.003, 0.03, 0.3, 3.0])
def test_screened_scores_are_the_plain_ones(bases, size):
    c, base = contributions(size)
    screened = bases.importance(c, base, screen=True)
    torch.testing.assert_close(screened, bases.importance(c, base), atol=1.2 * TOLERANCE, rtol=1e-6)


def test_the_error_bound_holds_and_is_not_idle(bases):
    c, base = contributions(0.05)
    base = base.sort().values
    tail = Tail.of(bases.probabilities, bases.unembedding)
    got, bound = tail.curvature(c / bases.scale, base)
    z = (c.double() / bases.scale) @ bases.unembedding.folded.double().T
    exact = (bases.probabilities[base].double() * (torch.expm1(z) - z)).sum(dim=1)
    error = (got.double() - exact).abs()
    assert (error <= bound + 1e-6 * (1 + exact)).all()  # the second term: float32 sums
    assert error.max() > 1e-9  # bf16 was used, not float32


def test_the_split_loses_no_probability(bases):
    tail = Tail.of(bases.probabilities, bases.unembedding)
    torch.testing.assert_close(tail.probable_mass.sum(dim=1) + tail.total, torch.ones(3), atol=1e-5, rtol=0)
    assert tail.probable_rows.shape == (PROBABLE, WIDTH)


def test_nothing_is_screened_where_bf16_is_no_faster(bases, monkeypatch):
    monkeypatch.setattr(importance, "_bf16_is_faster", lambda _width: False)
    c, base = contributions(0.03)
    assert not bases.screens
    assert torch.equal(bases.importance(c, base, screen=True), bases.importance(c, base))
