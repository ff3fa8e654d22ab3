"""Lists and statistics of value vectors are those of brute force in float64, on the plain and on the screened path."""

from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from indexer import device, projection
from indexer.architecture import NormKind
from indexer.projection import Projection, Projector, float32_lists
from indexer.weights import Unembedding
from tests import models, oracle
from tests.oracle import assert_same_end

DEPTH = 50
VOCABULARY, WIDTH = 5003, 64  # no multiple of 16: some tokens stand in no group


class Case(NamedTuple):
    rows: Tensor  # [V, d]
    values: Tensor  # [N, d]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian() -> Case:
    draw = generator(1)
    return Case(torch.randn(VOCABULARY, WIDTH, generator=draw), torch.randn(70, WIDTH, generator=draw))


def far_from_the_origin() -> Case:
    """All rows share a large part, as real unembeddings do: what tells them apart is small beside it."""
    case = gaussian()
    return Case(case.rows + 20 * torch.randn(WIDTH, generator=generator(2)), case.values)


def heavy_tailed() -> Case:
    """Student's t with 2 degrees of freedom: a few rows and entries far larger than the rest."""
    draw = generator(3)

    def t(*shape: int) -> Tensor:
        chi = torch.randn(2, *shape, generator=draw).square().sum(dim=0)
        return torch.randn(*shape, generator=draw) / (chi / 2).sqrt()

    return Case(t(VOCABULARY, WIDTH), t(70, WIDTH))


def near_ties() -> Case:
    """Most rows are one row but for a part in ten thousand: bf16 cannot tell them apart."""
    draw = generator(4)
    rows = torch.randn(1, WIDTH, generator=draw) + 1e-4 * torch.randn(VOCABULARY, WIDTH, generator=draw)
    rows[:40] = torch.randn(40, WIDTH, generator=draw)
    return Case(rows, torch.randn(70, WIDTH, generator=draw))


def clustered() -> Case:
    """Two hundred copies of each row: the ends of the lists are ties in float32 as well."""
    draw = generator(5)
    rows = torch.randn(26, WIDTH, generator=draw).repeat(200, 1)[:VOCABULARY]
    return Case(rows, torch.randn(70, WIDTH, generator=draw))


def one_huge_row() -> Case:
    case = gaussian()
    rows = case.rows.clone()
    rows[4321] *= 3000
    return Case(rows, case.values)


def many_huge_rows() -> Case:
    """More than those that are multiplied in float32: the bound is loose for all."""
    case = gaussian()
    rows = case.rows.clone()
    rows[::100] *= 3000
    return Case(rows, case.values)


def a_zero_and_a_huge_vector() -> Case:
    case = gaussian()
    values = case.values.clone()
    values[3], values[17], values[18] = 0, 1e8 * values[17], 1e-8 * values[18]
    return Case(case.rows, values)


CASES = {
    case.__name__: case()
    for case in (
        gaussian,
        far_from_the_origin,
        heavy_tailed,
        near_ties,
        clustered,
        one_huge_row,
        many_huge_rows,
        a_zero_and_a_huge_vector,
    )
}


def unembedding(rows: Tensor) -> Unembedding:
    return Unembedding(rows, None, None, NormKind.RMS, 0.0)


def assert_is_brute_force(found: Projection, case: Case, depth: int = DEPTH) -> None:
    every = case.values.double() @ case.rows.double().T
    assert found.top_tokens.shape == found.bottom_logits.shape == (len(case.values), depth)
    # float32 rounds a product by a share of the lengths multiplied, however small the sum comes out
    sizes = case.values.double().norm(dim=1) * case.rows.double().norm(dim=1).max()
    for row in range(len(case.values)):
        atol = 1e-6 * float(sizes[row])
        top, bottom = found.top_tokens[row].tolist(), found.bottom_tokens[row].tolist()
        assert_same_end(top, found.top_logits[row].tolist(), every[row], largest=True, atol=atol)
        assert_same_end(bottom, found.bottom_logits[row].tolist(), every[row], largest=False, atol=atol)

    scale = sizes.float()

    def near(got: Tensor, expected: Tensor) -> None:
        assert bool(((got.double() - expected).abs() <= 2e-6 * scale + 1e-30).all())

    near(found.mean, every.mean(dim=1))
    near(found.std, every.std(dim=1, correction=0))
    near(found.norm, case.values.double().norm(dim=1))


@pytest.mark.parametrize("screen", [False, True], ids=["plain", "screened"])
@pytest.mark.parametrize("case", CASES)
def test_lists_and_statistics_are_those_of_brute_force(case, screen):
    projector = Projector(unembedding(CASES[case].rows), DEPTH, screen=screen)
    assert projector.screens == screen
    assert_is_brute_force(projector.project(CASES[case].values), CASES[case])


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="This build of torch has no oneDNN.")
@pytest.mark.parametrize("case", CASES)
def test_the_plain_way_is_brute_force_by_the_other_library_too(case, monkeypatch):
    monkeypatch.setattr(device, "onednn_is_faster", lambda: True)
    projector = Projector(unembedding(CASES[case].rows), DEPTH, screen=False)
    assert_is_brute_force(projector.project(CASES[case].values), CASES[case])


@pytest.mark.parametrize("case", CASES)
def test_both_ways_give_the_same_lists(case):
    rows, values = CASES[case]
    plainly = Projector(unembedding(rows), DEPTH, screen=False).project(values)
    screened = Projector(unembedding(rows), DEPTH, screen=True).project(values)
    atol = 1e-6 * values.norm(dim=1, keepdim=True) * rows.norm(dim=1).max()
    for end in ("top_logits", "bottom_logits"):
        assert bool(((getattr(plainly, end) - getattr(screened, end)).abs() <= atol).all())
    for statistic in ("mean", "std", "norm"):
        assert torch.equal(getattr(plainly, statistic), getattr(screened, statistic))


def screened(case: str, monkeypatch) -> tuple[int, int, int]:
    """Project a case; how many neurons were screened, how many of them were not proven, how many projected plainly."""
    plainly: list[int] = []

    def count(values, *rest):
        plainly.append(len(values))
        return float32_lists(values, *rest)

    monkeypatch.setattr(projection, "float32_lists", count)
    projector = Projector(unembedding(CASES[case].rows), DEPTH, screen=True)
    assert_is_brute_force(projector.project(CASES[case].values), CASES[case])
    return projector.seen, projector.unproven, sum(plainly)


def test_most_neurons_are_proven(monkeypatch):
    seen, unproven, plainly = screened("gaussian", monkeypatch)
    assert seen == 70
    assert unproven == plainly < 20


@pytest.mark.parametrize("case", ["near_ties", "many_huge_rows"])
def test_what_is_not_proven_is_projected_the_plain_way(case, monkeypatch):
    seen, unproven, plainly = screened(case, monkeypatch)
    assert seen == 70
    assert unproven == plainly > 0


@pytest.mark.parametrize("chunk", [1, 7, 70, 512])
@pytest.mark.parametrize("screen", [False, True])
def test_the_chunk_does_not_show(screen, chunk):
    case = CASES["heavy_tailed"]
    assert_is_brute_force(
        Projector(unembedding(case.rows), DEPTH, screen=screen, chunk=chunk).project(case.values), case
    )


def test_two_threads_give_what_one_gives():
    case = CASES["heavy_tailed"]
    for screen in (False, True):
        one = Projector(unembedding(case.rows), DEPTH, screen=screen)
        threads = torch.get_num_threads()
        torch.set_num_threads(2)
        try:
            two = Projector(unembedding(case.rows), DEPTH, screen=screen)
            assert (one.workers, two.workers) == (1, 2)
            assert_is_brute_force(two.project(case.values), case)
            assert torch.get_num_threads() == 2
        finally:
            torch.set_num_threads(threads)


@pytest.mark.parametrize("memory_mb", [0, 1])
def test_little_memory_means_small_chunks_and_the_same_lists(memory_mb):
    case = CASES["heavy_tailed"]
    projector = Projector(unembedding(case.rows), DEPTH, screen=False, memory_mb=memory_mb)
    assert projector.chunk * VOCABULARY * 6 <= max(memory_mb * 1_000_000, VOCABULARY * 6)
    assert_is_brute_force(projector.project(case.values), case)


@pytest.mark.parametrize(
    ("vocabulary", "depth"), [(10, 50), (50, 50), (51, 50), (323, 50), (100, 2), (130, 1), (1200, 50), (1201, 50)]
)
@pytest.mark.parametrize("screen", [False, True])
def test_small_vocabularies(vocabulary, depth, screen):
    draw = generator(6)
    case = Case(torch.randn(vocabulary, 8, generator=draw), torch.randn(9, 8, generator=draw))
    found = Projector(unembedding(case.rows), depth, screen=screen).project(case.values)
    assert_is_brute_force(found, case, min(depth, vocabulary))


@pytest.mark.parametrize(("vocabulary", "depth"), [(100, 2), (5003, 50)])
def test_a_dead_neuron_has_no_token_twice(vocabulary, depth):
    rows = torch.randn(vocabulary, 8, generator=generator(7))
    found = Projector(unembedding(rows), depth, screen=True).project(torch.zeros(3, 8))
    for tokens in (found.top_tokens, found.bottom_tokens):
        assert all(len(set(row)) == depth for row in tokens.tolist())
    assert not found.top_logits.any()
    assert not found.std.any()


def test_what_is_not_a_number_does_not_pass_for_one():
    rows, values = CASES["gaussian"]
    broken = values[:4].clone()
    broken[2, 5] = torch.nan
    found = Projector(unembedding(rows), DEPTH, screen=True).project(broken)
    assert found.norm.isnan().tolist() == found.mean.isnan().tolist() == [False, False, True, False]
    whole = [0, 1, 3]
    kept = Projection(*(getattr(found, field)[whole] for field in Projection.__dataclass_fields__))
    assert_is_brute_force(kept, Case(rows, broken[whole]))


def test_statistics_by_hand():
    # logits (3, 1, -1, -3)·1: mean 0, variance (9 + 1 + 1 + 9)/4 = 5; with + 2 for every row: mean 2, the same variance
    rows = torch.tensor([[3.0, 2.0], [1.0, 2.0], [-1.0, 2.0], [-3.0, 2.0]])
    found = Projector(unembedding(rows), 2, screen=False).project(torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 3.0]]))
    assert found.mean.tolist() == [0, 2, 6]
    assert found.std.tolist() == pytest.approx([5**0.5, 5**0.5, 0])
    assert found.norm.tolist() == pytest.approx([1, 2**0.5, 3])
    assert found.top_tokens[1].tolist() == [0, 1]
    assert found.top_logits[1].tolist() == [5, 3]
    assert found.bottom_tokens[1].tolist() == [3, 2]
    assert found.bottom_logits[1].tolist() == [-1, 1]


@pytest.mark.parametrize("name", models.FAMILIES)
def test_a_model_s_value_vectors_by_the_plain_method(name):
    """The fold of norm and head included: centred for LayerNorm, times γ, times U; β and norm scale left out."""
    head, folder = oracle.head_of(models.folder(name)), models.folder(name)
    checkpoint = models.checkpoint(name)
    weights = checkpoint.weights()
    projector = Projector(Unembedding.from_weights(weights, checkpoint.epsilon()), 10, screen=False)
    for layer in range(models.LAYERS):
        ffn, attention = oracle.value_vectors(folder, layer)
        for vectors, found in (
            (ffn, projector.project(weights.ffn_values(layer))),
            (attention, projector.project(weights.attention_values(layer))),
        ):
            every = head.logits(vectors, beta=False)
            for row in range(len(vectors)):
                assert_same_end(
                    found.top_tokens[row].tolist(), found.top_logits[row].tolist(), every[row], largest=True
                )
                bottom = found.bottom_logits[row].tolist()
                assert_same_end(found.bottom_tokens[row].tolist(), bottom, every[row], largest=False)
            torch.testing.assert_close(found.mean.double(), every.mean(dim=1), atol=1e-5, rtol=0)
            torch.testing.assert_close(found.std.double(), every.std(dim=1, correction=0), atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(found.norm.double(), vectors.norm(dim=1), atol=1e-5, rtol=1e-5)


@given(
    vocabulary=st.integers(1, 900),
    depth=st.integers(1, 60),
    screen=st.booleans(),
    levels=st.sampled_from([1, 3, 10**6]),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=200, deadline=None)
def test_any_vocabulary_any_depth_and_many_ties(vocabulary, depth, screen, levels, seed):
    draw = generator(seed)
    rows = torch.randint(-levels, levels + 1, (vocabulary, 4), generator=draw).float() / levels
    case = Case(rows, torch.randint(-2, 3, (5, 4), generator=draw).float())
    found = Projector(unembedding(rows), depth, screen=screen).project(case.values)
    assert_is_brute_force(found, case, min(depth, vocabulary))


@pytest.mark.parametrize(("count", "width"), [(3, 5), (40, 60), (700, 3)])
def test_products_row_by_row_are_those_of_the_plain_product(count, width):
    """Few wanted products are computed neuron by neuron, many row by row."""
    generator = torch.Generator().manual_seed(4)
    values, rows = torch.randn(count, 33, generator=generator), torch.randn(500, 33, generator=generator)
    tokens = torch.randint(0, 400, (count, width), generator=generator, dtype=torch.int32)
    found = projection.sampled_products(values, rows, tokens)
    assert torch.allclose(found, (values @ rows.T).gather(1, tokens.long()), atol=1e-5)
    alone = [
        projection.sampled_products(one[None], rows, wanted[None]) for one, wanted in zip(values, tokens, strict=True)
    ]
    assert torch.equal(found, torch.cat(alone))
