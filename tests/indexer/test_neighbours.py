import numpy as np
import pytest
import torch
from torch import Tensor

from indexer import neighbours
from indexer.architecture import NormKind
from indexer.neighbours import RECALL, nearest_tokens
from indexer.weights import Unembedding


def unembedding(rows: Tensor) -> Unembedding:
    return Unembedding(rows, None, None, NormKind.RMS, 1e-5)


def random_rows(vocabulary: int, width: int, seed: int = 0) -> Tensor:
    """Rows in clusters, with a common direction, and some that stand near everything."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(40, width, generator=generator)
    rows = centres[torch.arange(vocabulary) % 40] + torch.randn(vocabulary, width, generator=generator) + 3
    rows[:5] = rows.mean(dim=0) + 0.5 * torch.randn(5, width, generator=generator)
    return rows


def brute_force(rows: Tensor, count: int, pool: int) -> tuple[Tensor, Tensor]:
    centred = (rows - rows.mean(dim=0)).double()
    lengths = centred.norm(dim=1, keepdim=True)
    unit = centred / lengths.where(lengths > 0, torch.ones_like(lengths))
    cosines = unit @ unit.T
    cosines.fill_diagonal_(-2)
    own = cosines.topk(min(10, pool), dim=1).values.mean(dim=1)
    near = cosines.topk(pool, dim=1)
    corrected = 2 * near.values - own[near.indices]
    order = corrected.topk(count, dim=1).indices
    return near.indices.gather(1, order), near.values.gather(1, order)


def columns(rows: Tensor, **options: object) -> dict[str, np.ndarray]:
    table = nearest_tokens(unembedding(rows), **options)  # type: ignore[arg-type]
    assert table.column_names == ["token_id", "rank", "neighbour_id", "cosine"]
    return {name: table[name].to_numpy() for name in table.column_names}


def test_equals_brute_force():
    rows = random_rows(900, 24)
    found = columns(rows, count=12, screen=False, chunk=128)
    tokens, cosines = brute_force(rows, 12, 96)
    assert found["token_id"].tolist() == np.repeat(np.arange(900), 12).tolist()
    assert found["rank"].tolist() == np.tile(np.arange(1, 13), 900).tolist()
    np.testing.assert_allclose(found["cosine"], cosines.flatten().numpy(), atol=6e-4)
    assert (found["neighbour_id"] == tokens.flatten().numpy()).mean() > 0.999


def test_screened_lists_are_the_plain_ones_but_for_ties():
    rows = random_rows(2000, 48, seed=1)
    plain, screened = columns(rows, screen=False), columns(rows, screen=True)
    same = [
        len(set(a) & set(b))
        for a, b in zip(
            plain["neighbour_id"].reshape(2000, -1), screened["neighbour_id"].reshape(2000, -1), strict=True
        )
    ]
    assert np.mean(same) > 0.98 * 20
    exact = {(a, b): c for a, b, c in zip(plain["token_id"], plain["neighbour_id"], plain["cosine"], strict=True)}
    for a, b, c in zip(screened["token_id"], screened["neighbour_id"], screened["cosine"], strict=True):
        assert abs(exact.get((a, b), c) - c) <= 0.0011  # float32 cosines in both


def test_hubs_stand_back():
    rows = random_rows(900, 24)
    found = columns(rows, count=12, screen=False)
    by_cosine = brute_force(rows, 12, 12)[0]
    counted = np.bincount(found["neighbour_id"], minlength=900).max()
    assert counted < torch.bincount(by_cosine.flatten(), minlength=900).max()


@pytest.mark.parametrize("vocabulary", [2, 3, 30, 111])
@pytest.mark.parametrize("screen", [False, True])
def test_small_vocabularies(vocabulary, screen):
    found = columns(random_rows(max(vocabulary, 6), 8)[:vocabulary], screen=screen)
    count = min(20, vocabulary - 1)
    near = found["neighbour_id"].reshape(vocabulary, count)
    for token, others in enumerate(near):
        assert token not in others
        assert len(set(others)) == count


def test_rows_without_direction():
    rows = random_rows(200, 16)
    rows[17] = 0
    rows -= rows.mean(dim=0)
    rows[17] = rows.mean(dim=0)
    for screen in (False, True):
        found = columns(rows, screen=screen)
        assert np.isfinite(found["cosine"]).all()
        assert np.abs(found["cosine"]).max() <= 1


@pytest.mark.parametrize("screen", [False, True])
def test_equal_rows(screen):
    rows = random_rows(300, 16)
    rows[100:200] = rows[100]  # as the unused rows of a padded vocabulary are
    found = columns(rows, screen=screen)
    near = found["neighbour_id"].reshape(300, -1)
    assert all(token not in others for token, others in enumerate(near))


@pytest.mark.parametrize("screen", [False, True])
def test_large_vocabularies_miss_a_few_and_say_how_many(screen, monkeypatch):
    monkeypatch.setattr(neighbours, "_FEWEST", 12)
    rows = random_rows(4000, 24)
    table = nearest_tokens(unembedding(rows), 12, screen=screen, limit=1000)
    assert (table["rank"].to_numpy() == np.tile(np.arange(1, 13), 4000)).all()
    near, cosines = table["neighbour_id"].to_numpy().reshape(4000, 12), table["cosine"].to_numpy()
    unit = torch.nn.functional.normalize(rows - rows.mean(dim=0), dim=1).double()
    paired = (unit.repeat_interleave(12, dim=0) * unit[near.flatten()]).sum(dim=1)
    np.testing.assert_allclose(cosines, paired.numpy(), atol=6e-4)  # what is there is right
    exact = brute_force(rows, 12, 96)[0].numpy()
    found = np.mean([len(set(a) & set(b)) / 12 for a, b in zip(near, exact, strict=True)])
    said = float(table.schema.metadata[RECALL])
    assert 0.5 < found < 0.999
    assert said == pytest.approx(found, abs=0.05)
    again = nearest_tokens(unembedding(rows), 12, screen=screen, limit=1000)
    assert again.equals(table, check_metadata=True)


def test_directions_that_hold_all_give_what_all_do():
    rows = random_rows(900, 24)
    wide = torch.nn.functional.pad(rows, (0, 24))
    all_of_them, chosen = columns(rows, screen=False), columns(wide, screen=False, limit=900**2 * 24)
    for name, column in all_of_them.items():
        assert (column == chosen[name]).mean() > 0.999


def test_how_many_directions_choose():
    assert neighbours.directions(49_152, 576) == 576
    assert neighbours.directions(262_144, 640) == 116
    assert neighbours.directions(10**7, 640) == 32
    assert (neighbours.effort(49_152, 576), neighbours.effort(262_144, 640)) == (49_152, 47_514)
