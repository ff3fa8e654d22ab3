"""What the settings may say of device and numbers, and that no figure depends on the type that weights are kept in."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from app.attribution import measured
from app.attribution.run import StoredRanges
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from indexer import device as module
from indexer import language_model
from indexer.build import build
from indexer.checkpoint import Checkpoint
from indexer.device import Placement, chosen_device, chosen_dtype
from indexer.language_model import check_row, load_model
from tests import families, models
from tests.accelerator.questions import ASKED, assert_close

CPU = torch.device("cpu")


def rounded(folder, into, dtype=torch.bfloat16, only=""):
    """The checkpoint with all numbers rounded to a type and saved in it; `only`: tensors whose name has that."""
    copy = Path(shutil.copytree(folder, into))
    for path in copy.glob("*.safetensors"):
        tensors = {name: one.to(dtype) if only in name else one for name, one in load_file(path).items()}
        save_file(tensors, path, metadata={"format": "pt"})
    return copy


def loaded(folder, dtype, monkeypatch):
    monkeypatch.setenv("ATLAS_DTYPE", dtype)
    return load_model(Checkpoint(folder.name, folder))


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("ATLAS_DEVICE", "gpu", "ATLAS_DEVICE is 'gpu', but must be auto, cpu, cuda, mps, or one of several"),
        ("ATLAS_DEVICE", "cuda:x", "must be auto, cpu, cuda, mps"),
        ("ATLAS_DTYPE", "int8", "ATLAS_DTYPE is 'int8', but must be auto, float32, bfloat16 or float16"),
    ],
)
def test_settings_that_name_nothing(variable, value, said, monkeypatch):
    monkeypatch.setenv(variable, value)
    with pytest.raises(AtlasError, match=said):
        load_model(models.checkpoint("llama"))


@pytest.mark.parametrize("name", ["cuda", "cuda:3", "mps"])
def test_a_device_that_is_not_there(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setenv("ATLAS_DEVICE", name)
    with pytest.raises(AtlasError, match=f"ATLAS_DEVICE is {name}, which torch does not find here.* Choose cpu.$"):
        load_model(models.checkpoint("llama"))


def test_which_device_is_chosen(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    for said, expected in (("auto", "cuda:1"), ("cuda", "cuda:1"), ("cuda:0", "cuda:0"), ("cpu", "cpu")):
        monkeypatch.setenv("ATLAS_DEVICE", said)
        assert chosen_device() == torch.device(expected)
    monkeypatch.setenv("ATLAS_DEVICE", "cuda:2")
    with pytest.raises(AtlasError, match="Choose cpu or cuda:0 or cuda:1"):
        chosen_device()


def test_which_type_is_chosen(monkeypatch):
    """By itself float32, unless the device has too little memory for it."""
    cuda, half = torch.device("cuda:0"), torch.bfloat16
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (24 * 10**9, 24 * 10**9))
    assert chosen_dtype(cuda, 2 * 10**9, half) is torch.float32
    assert chosen_dtype(cuda, 8 * 10**9, half) is half
    assert chosen_dtype(cuda, 8 * 10**9, torch.float64) is torch.float32
    assert chosen_dtype(CPU, 8 * 10**9, half) is torch.float32
    monkeypatch.setenv("ATLAS_DTYPE", "float16")
    assert chosen_dtype(CPU, 1, half) is torch.float16


@pytest.mark.parametrize(("name", "dtype"), [("llama", "bfloat16"), ("gpt2", "float16")])
def test_no_figure_depends_on_it(name, dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(measured, "kept_folder", lambda: None)
    folder = rounded(models.folder(name), tmp_path / name, module.DTYPES[dtype])
    wide, half = (loaded(folder, one, monkeypatch) for one in ("float32", dtype))
    assert wide.placement == Placement(CPU, torch.float32)
    assert half.placement == Placement(CPU, module.DTYPES[dtype])
    assert [sum(p.nbytes for p in one.module.parameters()) for one in (wide, half)] == [
        size * half.module.num_parameters() for size in (4, 2)
    ]
    with Catalogue.open(build(wide.checkpoint, tmp_path / "catalogue").path) as catalogue:
        ranges = StoredRanges(catalogue)
        for what, ask in ASKED.items():
            assert_close(ask(half, ranges), ask(wide, ranges), what)
    assert {one.dtype for one in half.module.parameters()} == {module.DTYPES[dtype]}
    (notice,) = half.placement.notices()
    assert f"Computed on cpu in float32; weights are kept in {dtype}." == notice


@pytest.mark.parametrize("name", ["bloom", "falcon, new", "gemma3_text", "gptj", "mpt", "opt", "phi3", "qwen2_moe"])
def test_identities_are_no_looser(name, tmp_path, monkeypatch):
    folder = rounded(families.language_model(name).checkpoint.folder, tmp_path / "model")
    wide, half = (loaded(folder, one, monkeypatch) for one in ("float32", "bfloat16"))
    ids = models.tokens_of("llama")[:12]
    check_row(half, ids, tolerance=1e-4)
    assert torch.equal(half.forward(ids).logits, wide.forward(ids).logits)


def test_what_a_type_would_round_stays_as_it_is(tmp_path, monkeypatch):
    """Of files in float32 only the norms were made to hold numbers that bf16 has."""
    folder = rounded(models.folder("llama"), tmp_path / "model")
    shutil.copyfile(models.folder("llama") / "model.safetensors", folder / "model.safetensors")
    tensors = load_file(folder / "model.safetensors")
    tensors |= {name: one.bfloat16().float() for name, one in tensors.items() if "norm" in name}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    wide, half = (loaded(folder, one, monkeypatch) for one in ("float32", "bfloat16"))
    norms = sum("norm" in name for name in tensors)
    assert half.placement.wide == len(tensors) - norms > norms > 0
    assert f"({len(tensors) - norms} tensors in float32, which that would round)" in half.placement.notices()[0]
    ids = models.tokens_of("llama")[:12]
    assert torch.equal(half.forward(ids).logits, wide.forward(ids).logits)
    assert half.unembedding.hash == wide.unembedding.hash


def test_weights_are_narrow_again_after_a_pass_that_failed(tmp_path, monkeypatch):
    half = loaded(rounded(models.folder("llama"), tmp_path / "model"), "bfloat16", monkeypatch)
    with pytest.raises(IndexError):
        half.module(torch.tensor([[10**6]]))
    assert {one.dtype for one in half.module.parameters()} == {torch.bfloat16}


def test_a_device_that_cannot_run_a_model(monkeypatch):
    def fails(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore")

    monkeypatch.setattr(language_model, "chosen_device", lambda: torch.device("cuda:0"))
    monkeypatch.setattr(language_model, "chosen_dtype", lambda *_: torch.float32)
    monkeypatch.setattr(language_model, "put", fails)
    with pytest.raises(AtlasError, match=r"llama cannot be run on cuda:0 \(CUDA out of memory.*Set ATLAS_DTYPE"):
        load_model(models.checkpoint("llama"))
