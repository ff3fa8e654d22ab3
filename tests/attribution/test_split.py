"""Scores by bf16 products: the proven error holds against float64, on inputs chosen to be awkward."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from app.attribution import split
from app.attribution.importance import FEW, Bases
from app.attribution.split import TOLERANCE, SplitBases, SplitRows
from indexer.architecture import NormKind
from indexer.unembedding import Unembedding

WIDTH, TOKENS = 48, 2600
FLOAT32 = 2e-6
"""Nats by which float32 itself may be off here."""


def a_model(seed: int, mean: float = 0.0) -> Unembedding:
    generator = torch.Generator().manual_seed(seed)
    lengths = 0.3 + 3 * torch.rand(TOKENS, 1, generator=generator) ** 4  # a few rows much longer than the others
    rows = torch.randn(TOKENS, WIDTH, generator=generator) * lengths + mean
    return Unembedding(rows, None, None, NormKind.RMS, 0.0)


def a_question(seed: int, sharp: float, size: float, mean: float = 0.0, count: int = 40):
    """Bases from flat to sharp, and contributions of all sizes up to `size`."""
    unembedding = a_model(seed, mean)
    generator = torch.Generator().manual_seed(seed + 1)
    points = torch.randn(5, WIDTH, generator=generator) * torch.linspace(0, sharp, 5)[:, None]
    contributions = torch.randn(count, WIDTH, generator=generator)
    contributions *= size * torch.rand(count, 1, generator=generator) ** 2
    base = torch.randint(0, 5, (count,), generator=generator)
    return exact_bases(points, unembedding), contributions, base, points


def exact_bases(points: torch.Tensor, unembedding: Unembedding) -> Bases:
    """Rounded to float32 only at the end: what is examined is the error of the scores, not that of the bases."""
    target, scale, rows = 7, 1.3, unembedding.folded.double()
    log_probabilities = (points.double() @ rows.T / scale).log_softmax(-1)
    gradient = (rows[target] - log_probabilities.exp() @ rows) / scale
    return Bases(
        log_probabilities.float(),
        log_probabilities.exp().float(),
        gradient.float(),
        target,
        scale,
        unembedding,
        split=SplitRows.of(unembedding.folded),
    )


def in_float64(bases: Bases, contributions, base, points) -> torch.Tensor:
    """The definition, written plainly."""
    folded, scale = bases.unembedding.folded.double(), bases.scale
    before = (points.double() @ folded.T / scale).log_softmax(-1)[base, bases.target]
    after = ((points[base].double() + contributions.double()) @ folded.T / scale).log_softmax(-1)[:, bases.target]
    increase: torch.Tensor = after - before
    return increase


def split_bases(bases: Bases) -> SplitBases:
    assert bases.split is not None
    return SplitBases(bases.unembedding, bases.split, bases.probabilities, bases.gradient, bases.target, bases.scale)


@pytest.mark.parametrize("both", [False, True])
@given(
    seed=st.integers(0, 10**6), sharp=st.floats(0, 3), size=st.floats(1e-4, 2), mean=st.sampled_from([0.0, 0.5, -3.0])
)
@settings(max_examples=60, deadline=None)
def test_the_error_is_within_its_bound(both, seed, sharp, size, mean):
    bases, contributions, base, points = a_question(seed, sharp, size, mean)
    exact = in_float64(bases, contributions, base, points)
    scores, error = split_bases(bases).scores(contributions, base, both)
    proven = error.isfinite()  # beyond the range of exponentials nothing is, and float32 scores it
    off = (scores.double() - exact).abs()[proven]
    assert (off <= (error.double() + FLOAT32 * (1 + exact.abs()))[proven]).all()


@given(seed=st.integers(0, 10**6), sharp=st.floats(0, 3), size=st.floats(1e-4, 20))
@settings(max_examples=60, deadline=None)
def test_every_score_is_exact_to_the_tolerance(seed, sharp, size):
    bases, contributions, base, points = a_question(seed, sharp, size)
    exact = in_float64(bases, contributions, base, points)
    large = base % 2 == 0
    for chosen in (None, large):
        off = (bases.importance(contributions, base, chosen).double() - exact).abs()
        assert (off <= TOLERANCE + 10 * FLOAT32 * (1 + exact.abs())).all()


def test_both_halves_prove_more_than_one():
    bases, contributions, base, _ = a_question(3, 1.0, 0.3)
    rough, fine = (split_bases(bases).scores(contributions, base, both)[1] for both in (False, True))
    unproven = rough > TOLERANCE
    assert unproven.sum() > 5
    assert (fine[unproven] < rough[unproven]).all()
    assert fine[unproven].log().mean() < rough[unproven].log().mean() - 0.5


def test_what_is_not_proven_is_scored_in_float32(monkeypatch):
    bases, contributions, base, _ = a_question(4, 1.0, 0.5)
    monkeypatch.setattr(SplitBases, "scores", lambda self, c, b, both: (c[:, 0] * torch.nan, c[:, 0] * torch.nan))
    plain = Bases.importance(Bases(**{**vars(bases), "split": None}), contributions, base)
    assert bases.importance(contributions, base).equal(plain)


def test_few_contributions_are_scored_in_float32(monkeypatch):
    bases, contributions, base, _ = a_question(5, 1.0, 0.5, count=FEW - 1)
    monkeypatch.setattr(SplitBases, "scores", lambda *_: pytest.fail("a product in bf16 for so few"))
    assert len(bases.importance(contributions, base)) == FEW - 1


def test_the_halves_add_up_to_the_centred_rows():
    rows = a_model(6, mean=2.0).folded
    halves = SplitRows.of(rows)
    centred = rows - rows.mean(dim=0)
    assert ((halves.high.float() - centred).norm(dim=1) <= halves.rough * halves.lengths * 1.0001).all()
    both = halves.high.float() + halves.low.float()
    assert ((both - centred).norm(dim=1) <= halves.fine * halves.lengths * 1.0001).all()
    assert halves.fine < halves.rough / 50


def test_it_is_used_only_where_it_pays_and_fits(monkeypatch):
    unembedding = a_model(7)
    monkeypatch.setattr(split, "_pays", lambda width: True)
    assert split.split_rows(unembedding, 512) is split.split_rows(unembedding, 512)
    assert split.split_rows(unembedding, 0) is None
    few = Unembedding(unembedding.folded[: 4 * split.KNOWN].contiguous(), None, None, NormKind.RMS, 0.0)
    assert split.split_rows(few, 512) is None
    monkeypatch.setattr(split, "_pays", lambda width: False)
    assert split.split_rows(unembedding, 512) is None
