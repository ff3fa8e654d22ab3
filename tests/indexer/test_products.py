"""Float32 products by either library: the same but for the order of sums, whatever the layout."""

from types import SimpleNamespace

import pytest
import torch

from indexer import device
from indexer.device import best_seconds, onednn_is_faster, page_out, product


@pytest.fixture(params=[True, False])
def library(request, monkeypatch):
    """oneDNN, and torch's BLAS."""
    if request.param and not torch.backends.mkldnn.is_available():
        pytest.skip("This build of torch has no oneDNN.")
    monkeypatch.setattr(device, "onednn_is_faster", lambda: request.param)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("rows", [1, 3, 64])
def test_it_is_the_product_in_float32(rows, turned):
    torch.manual_seed(rows)
    left, right = torch.randn(rows, 70), torch.randn(70, 90).T if turned else torch.randn(90, 70)
    exact = left.double() @ right.double().T
    found = product(left, right)
    assert found.dtype is torch.float32
    assert found.shape == (rows, 90)
    assert float((found.double() - exact).abs().max()) < 2e-5
    bf16 = left.bfloat16().double() @ right.bfloat16().double().T
    assert float((bf16 - exact).abs().max()) > 1e-2  # so that rounding on the way would have been seen


def test_few_shapes_are_met():
    assert [device.tiled_rows(rows) for rows in (1, 2, 3, 31, 32, 33, 320)] == [1, 2, 4, 32, 32, 64, 320]
    filled = device.tiled(torch.ones(33, 4))
    assert filled.sum(dim=1).tolist() == [4.0] * 33 + [0.0] * 31
    wide = torch.ones(33, 20_000)
    assert device.tiled(wide) is wide


@pytest.mark.usefixtures("library")
def test_what_it_gives_can_be_written_to():
    found = product(torch.ones(2, 3), torch.ones(4, 3))
    found += 1
    assert found.tolist() == [[4.0] * 4] * 2


def test_without_the_operator_it_is_torchs_own(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    onednn_is_faster.cache_clear()
    try:
        assert not onednn_is_faster()
        assert product(torch.eye(2), torch.tensor([[1.0, 2.0]])).tolist() == [[1.0], [2.0]]
    finally:
        onednn_is_faster.cache_clear()


def test_the_best_of_several_turns_counts(monkeypatch):
    times = iter([0.0, 5.0, 5.0, 6.0] + [0.0, 2.0, 2.0, 9.0] * device.TRIALS)
    monkeypatch.setattr("indexer.device.time", SimpleNamespace(perf_counter=lambda: next(times)))
    assert best_seconds([lambda: None, lambda: None]) == [2.0, 1.0]


@pytest.mark.parametrize("mapped", [True, False])
def test_what_is_paged_out_is_read_again(mapped, tmp_path):
    """A map of a file, and memory of its own, both over several pages and not aligned."""
    torch.arange(9000.0).numpy().tofile(tmp_path / "numbers")
    numbers = torch.from_file(str(tmp_path / "numbers"), size=9000) if mapped else torch.arange(9000.0)
    page_out(numbers[3:8999])
    assert torch.equal(numbers, torch.arange(9000.0))
    page_out(torch.empty(0))
