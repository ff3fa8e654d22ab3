"""Products of 8-bit integers are exact sums, close to those of what was rounded."""

import torch

from indexer import neighbours
from indexer.neighbours import LARGEST, integers_are_faster, product, rotation, rounded


def test_products_are_exact():
    generator = torch.Generator().manual_seed(0)
    left = torch.randint(-LARGEST, LARGEST + 1, (100, 577), generator=generator).to(torch.int8)
    right = torch.randint(-LARGEST, LARGEST + 1, (33, 577), generator=generator).to(torch.int8)
    out = torch.empty(100, 33, dtype=torch.int32)
    product(left, right, out)
    assert torch.equal(out.double(), left.double() @ right.double().T)


def test_a_rotation_keeps_products():
    turn = rotation(48)
    assert torch.equal(turn, rotation(48))
    assert torch.allclose(turn @ turn.T, torch.eye(48), atol=1e-5)


def test_rounding_loses_half_a_step_at_most():
    vectors = torch.randn(9000, 16, generator=torch.Generator().manual_seed(1))
    turn = rotation(16)
    turned = vectors @ turn
    codes, step = rounded(vectors, turn, float(turned.abs().max()))
    assert codes.dtype == torch.int8
    assert (codes.float() * step - turned).abs().max() <= step * 0.501


def test_what_is_cut_off_and_what_is_nothing():
    assert rounded(torch.full((1, 1), 5.0), torch.ones(1, 1), 1.0).codes.item() == LARGEST
    assert rounded(torch.zeros(2, 3), rotation(3), 0.0).codes.abs().max() == 0


def test_integers_are_refused_where_their_sums_are_cut_off(monkeypatch):
    def saturating(left, right, out):
        out.copy_((left.double() @ right.double().T).clamp(-(2**15), 2**15 - 1))

    monkeypatch.setattr(neighbours, "product", saturating)
    assert not integers_are_faster(64)
