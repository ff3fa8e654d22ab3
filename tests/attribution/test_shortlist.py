"""Scores by bf16 products: the proven error holds against float64, on inputs chosen to be awkward."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from app.attribution import fast
from app.attribution.fast import (
    FEW,
    TOLERANCE,
    Distributions,
    RoundedRows,
    Shortlist,
    by_base,
    memory_needed,
    rounded_rows,
)
from app.attribution.score import Bases
from indexer.architecture import NormKind
from indexer.weights import Unembedding

WIDTH, TOKENS = 48, 2600
FLOAT32 = 2e-6
"""Nats by which float32 itself may be off here."""


def a_model(seed: int, mean: float = 0.0) -> Unembedding:
    generator = torch.Generator().manual_seed(seed)
    lengths = 0.3 + 3 * torch.rand(TOKENS, 1, generator=generator) ** 4  # a few rows much longer than the others
    rows = torch.randn(TOKENS, WIDTH, generator=generator) * lengths + mean
    return Unembedding(rows, None, None, NormKind.RMS, 0.0)


def a_question(seed: int, sharp: float, size: float, mean: float = 0.0, count: int = 160):
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
        rounded=RoundedRows.of(unembedding.folded),
    )


def in_float64(bases: Bases, contributions, base, points) -> torch.Tensor:
    """The definition, written plainly."""
    folded, scale = bases.unembedding.folded.double(), bases.scale
    before = (points.double() @ folded.T / scale).log_softmax(-1)[base, bases.target]
    after = ((points[base].double() + contributions.double()) @ folded.T / scale).log_softmax(-1)[:, bases.target]
    increase: torch.Tensor = after - before
    return increase


def shortlists(bases: Bases) -> list[Shortlist]:
    assert bases.rounded is not None
    whole = Distributions(
        bases.unembedding, bases.rounded, bases.probabilities, bases.gradient, bases.target, bases.scale
    )
    return whole.shortlists()


def scored(bases: Bases, contributions, base) -> tuple[torch.Tensor, torch.Tensor]:
    """What the shortlists say, and the errors that they prove."""
    scores, errors = torch.empty(2, len(contributions))
    for one in shortlists(bases):
        here = one.chosen[base]
        scores[here], errors[here] = one.scores(contributions[here], base[here])
    return scores, errors


@given(
    seed=st.integers(0, 10**6), sharp=st.floats(0, 3), size=st.floats(1e-4, 2), mean=st.sampled_from([0.0, 0.5, -3.0])
)
@settings(max_examples=100, deadline=None)
def test_the_error_is_within_its_bound(seed, sharp, size, mean):
    bases, contributions, base, points = a_question(seed, sharp, size, mean)
    exact = in_float64(bases, contributions, base, points)
    scores, errors = scored(bases, contributions, base)
    proven = errors.isfinite()  # beyond the range of exponentials nothing is, and float32 scores it
    off = (scores.double() - exact).abs()[proven]
    assert (off <= (errors.double() + FLOAT32 * (1 + exact.abs()))[proven]).all()


@given(seed=st.integers(0, 10**6), sharp=st.floats(0, 3), size=st.floats(1e-4, 20))
@settings(max_examples=60, deadline=None)
def test_every_score_is_exact_to_the_tolerance(seed, sharp, size):
    bases, contributions, base, points = a_question(seed, sharp, size)
    exact = in_float64(bases, contributions, base, points)
    off = (bases.importance(contributions, base).double() - exact).abs()
    assert (off <= TOLERANCE + 10 * FLOAT32 * (1 + exact.abs())).all()


def test_every_way_is_taken_and_proves_something(monkeypatch):
    """Tokens left out, all tokens, tokens of the shortlist in float32, all tokens in float32."""
    taken = []
    for owner, name in ((Shortlist, "_products"), (Shortlist, "_in_float32"), (Bases, "_importance")):
        way = getattr(owner, name)

        def watched(self, *arguments, way=way, name=name):
            taken.append((name, arguments))
            return way(self, *arguments)

        monkeypatch.setattr(owner, name, watched)
    bases, contributions, base, _ = a_question(3, 0.7, 0.3, count=600)
    bases.importance(contributions, base)
    sharp, flat = shortlists(bases)
    assert sharp.tokens is not None
    assert flat.tokens is None
    heights = {(name, arguments[2].shape[0]) for name, arguments in taken if name != "_importance"}
    assert ("_products", len(sharp.tokens)) in heights
    assert ("_products", TOKENS) in heights
    assert ("_in_float32", len(sharp.tokens)) in heights
    assert ("_in_float32", len(sharp.known)) in heights
    left = sum(len(arguments[0]) for name, arguments in taken if name == "_importance")
    assert 0 < left < len(base) * 2 // 3


def test_what_matters_at_a_base_is_on_its_shortlist():
    bases, *_ = a_question(8, 3.0, 0.3)
    lists = shortlists(bases)
    assert torch.stack([one.chosen for one in lists]).sum(dim=0).tolist() == [1] * 5
    for one in lists:
        if one.tokens is not None:
            assert set(one.known.tolist()) <= set(one.tokens.tolist())
            outside = bases.probabilities[one.chosen].index_fill(1, one.tokens, 0.0)
            assert float(outside.max()) < fast.NEGLIGIBLE / TOKENS


def test_known_tokens_are_on_the_shortlist_however_few_matter():
    bases, contributions, base, points = a_question(9, 30.0, 0.3)
    (sharpest, *_) = shortlists(bases)
    assert sharpest.tokens is not None
    assert set(sharpest.known.tolist()) <= set(sharpest.tokens.tolist())
    exact = in_float64(bases, contributions, base, points)
    scores, errors = scored(bases, contributions, base)
    off = (scores.double() - exact).abs()[errors.isfinite()]
    assert (off <= (errors.double() + 1e-5 * (1 + exact.abs()))[errors.isfinite()]).all()


def test_what_is_not_proven_is_scored_in_float32(monkeypatch):
    bases, contributions, base, _ = a_question(4, 1.0, 0.5)
    monkeypatch.setattr(Shortlist, "scores", lambda self, c, b: (c[:, 0] * torch.nan, c[:, 0] * torch.nan))
    plain = replace(bases, rounded=None).importance(contributions, base)
    assert bases.importance(contributions, base).equal(plain)


def test_few_contributions_are_scored_in_float32(monkeypatch):
    bases, contributions, base, _ = a_question(5, 1.0, 0.5, count=FEW - 1)
    monkeypatch.setattr(Shortlist, "scores", lambda *_: pytest.fail("a product in bf16 for so few"))
    assert len(bases.importance(contributions, base)) == FEW - 1


def test_rounded_rows_know_what_they_lost():
    rows = a_model(6, mean=2.0).folded
    found = RoundedRows.of(rows)
    centred = rows.double() - found.mean.double()
    lost = centred - found.high.double()
    assert (lost.norm(dim=1) <= found.rounding * found.lengths * 1.0001).all()
    torch.testing.assert_close(found.spread.double(), centred.T @ centred, rtol=1e-5, atol=1e-2)
    torch.testing.assert_close(found.lost.double(), lost.T @ lost, rtol=1e-4, atol=1e-6)


def test_entries_stand_by_their_bases():
    base = torch.tensor([4, 0, 4, 2, 0])
    order, runs = by_base(base)
    assert order.tolist() == [1, 4, 3, 0, 2]
    assert [(one, base[order[run]].unique().tolist()) for one, run in runs] == [(0, [0]), (2, [2]), (4, [4])]


def test_it_is_used_only_where_it_pays_and_fits(monkeypatch):
    unembedding = a_model(7)
    monkeypatch.setattr(fast, "bf16_is_faster", lambda width: True)
    assert rounded_rows(unembedding, 512) is rounded_rows(unembedding, 512)
    assert rounded_rows(unembedding, memory_needed(unembedding)) is None
    few = Unembedding(unembedding.folded[: fast.FEWEST_TOKENS - 1].contiguous(), None, None, NormKind.RMS, 0.0)
    assert rounded_rows(few, 512) is None
    monkeypatch.setattr(fast, "bf16_is_faster", lambda width: False)
    assert rounded_rows(unembedding, 512) is None
