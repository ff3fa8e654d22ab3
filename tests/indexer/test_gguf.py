"""GGUF files as models: written here by the gguf package, as llama.cpp's converter does, and read back as folders."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from numpy.typing import NDArray
from transformers import LlamaConfig, LlamaForCausalLM

from db.catalogue.store import Catalogue
from db.errors import AtlasError
from indexer import dequantised
from indexer.__main__ import main
from indexer.checkpoint import locate
from indexer.language_model import load_model
from indexer.verify import verify
from tests import models

HEADS, KV_HEADS, HEAD_DIM, D_MODEL = 4, 2, 16, 64
CONFIG = LlamaConfig(
    vocab_size=models.TOKENS,
    hidden_size=D_MODEL,
    intermediate_size=96,
    num_hidden_layers=3,
    num_attention_heads=HEADS,
    num_key_value_heads=KV_HEADS,
    head_dim=HEAD_DIM,
    rms_norm_eps=0.02,
    max_position_embeddings=64,
    tie_word_embeddings=False,
)
KINDS = {"ffn_": Kind.Q5_0, "attn_": Kind.Q4_0, "token_embd": Kind.Q8_0, "output": Kind.Q8_0}
LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"} | {
    f"blk.{layer}.{theirs}": f"model.layers.{layer}.{ours}" for layer in range(3) for theirs, ours in LAYER.items()
}
Array = NDArray[Any]
Change = Callable[[gguf.GGUFWriter], object]


def tensors(seed: int = 0) -> dict[str, Array]:
    """The model's, by its names in the file."""
    generator = np.random.default_rng(seed)
    shapes = {name: one.shape for name, one in LlamaForCausalLM(CONFIG).state_dict().items()}
    found = {}
    for theirs, ours in NAMES.items():
        drawn = generator.standard_normal(shapes[f"{ours}.weight"]).astype(np.float32)
        found[theirs] = 1 + 0.3 * drawn if "norm" in theirs else 1.5 * drawn / D_MODEL**0.5
    return found


def turned(name: str, matrix: Array, halves: tuple[int, int]) -> Array:
    """Rows of queries and keys, whose rotated pairs llama.cpp puts side by side and transformers half a head apart."""
    heads = {"attn_q": HEADS, "attn_k": KV_HEADS}.get(name.split(".")[-1])
    if heads is None:
        return matrix
    return matrix.reshape(heads, *halves, -1).swapaxes(1, 2).reshape(matrix.shape)


def stored(name: str, matrix: Array) -> tuple[Array, Kind]:
    """As the file holds it."""
    kind = next((kind for start, kind in KINDS.items() if name.split(".")[-1].startswith(start)), Kind.F32)
    if "norm" in name:
        kind = Kind.F32
    return gguf.quantize(turned(name, matrix, (2, HEAD_DIM // 2)), kind), kind


def expected(seed: int = 0) -> dict[str, torch.Tensor]:
    """What the folder must hold: each tensor dequantised by itself."""
    found = {}
    for name, matrix in tensors(seed).items():
        plain = gguf.dequantize(*stored(name, matrix))
        found[f"{NAMES[name]}.weight"] = torch.from_numpy(turned(name, plain, (HEAD_DIM // 2, 2)).copy())
    return found


def write(
    path: Path,
    change: Change = lambda _: None,
    *,
    seed: int = 0,
    leave: str | None = None,
    architecture: str = "llama",
    theta: float = 1e4,
) -> Path:
    """A small Llama; `leave` out the tensors whose names begin so."""
    file = gguf.GGUFWriter(path, architecture)
    file.add_context_length(64)
    file.add_block_count(3)
    file.add_embedding_length(D_MODEL)
    file.add_feed_forward_length(96)
    file.add_head_count(HEADS)
    file.add_head_count_kv(KV_HEADS)
    file.add_layer_norm_rms_eps(0.02)
    file.add_rope_dimension_count(HEAD_DIM)
    file.add_rope_freq_base(theta)
    file.add_vocab_size(models.TOKENS)
    file.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    tokenizer = json.loads(models.byte_level_tokenizer().backend_tokenizer.to_str())["model"]
    file.add_tokenizer_model("gpt2")
    file.add_tokenizer_pre("default")
    file.add_token_list(sorted(tokenizer["vocab"], key=lambda piece: tokenizer["vocab"][piece]))
    file.add_token_types([gguf.TokenType.CONTROL] + [gguf.TokenType.NORMAL] * (models.TOKENS - 1))
    file.add_token_merges([" ".join(merge) for merge in tokenizer["merges"]])
    file.add_bos_token_id(0)
    file.add_eos_token_id(0)
    file.add_add_bos_token(True)
    for name, matrix in tensors(seed).items():
        if leave is None or not name.startswith(leave):
            data, kind = stored(name, matrix)
            file.add_tensor(f"{name}.weight", data, raw_dtype=kind)
    change(file)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """Not to be changed."""
    return write(tmp_path_factory.mktemp("gguf") / "tiny-Q4_0.gguf")


@pytest.fixture(scope="module")
def folder(file: Path) -> Path:
    """What was made of it; likewise."""
    return dequantised.folder_of(file, file.parent / "models", lambda _line: None)


def test_weights_are_those_of_the_file_dequantised_one_by_one(folder):
    weights = load_model(locate(str(folder))).weights
    for name, matrix in expected().items():
        assert torch.equal(weights.tensor(name), matrix), name


def test_the_model_computes_what_a_plain_one_with_these_weights_does(folder):
    plain = LlamaForCausalLM(CONFIG).eval()
    plain.load_state_dict(expected())
    model = load_model(locate(str(folder)))
    ids = models.byte_level_tokenizer(bos=True)(models.SENTENCES[0])["input_ids"]
    assert model.tokenizer(models.SENTENCES[0])["input_ids"] == ids
    assert ids[0] == 0
    with torch.no_grad():
        logits = plain(torch.tensor([ids])).logits[0, -1]
    torch.testing.assert_close(model.forward(ids).logits, logits, atol=1e-4, rtol=1e-4)


def test_build_verify_and_what_the_build_says(file, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ATLAS_MODELS", str(tmp_path / "models"))
    assert main(["build", str(file), "--depth", "5", "--catalogue", str(tmp_path / "catalogue")]) == 0
    said = capsys.readouterr().err
    assert "Dequantising tiny-Q4_0.gguf (GGUF Q4_0: " in said
    assert "The weights were dequantised (GGUF Q4_0: " in said
    (path,) = (tmp_path / "catalogue" / "tiny-Q4_0").glob("build-*.duckdb")
    with Catalogue.open(path) as catalogue:
        assert catalogue.info.dequantised is not None
        shares = catalogue.info.dequantised.removeprefix("GGUF Q4_0: ").split(", ")
    total = sum(one.numel() for one in expected().values())
    ffn = 100 * 3 * 3 * 96 * D_MODEL / total
    assert shares[0] == f"{ffn:.0f} % Q5_0"
    assert verify(path, locate(str(file)), sample=50).sampled == 50
    assert main(["build", str(file), "--depth", "5", "--catalogue", str(tmp_path / "catalogue")]) == 0
    assert "Nothing to do" in capsys.readouterr().err  # nor is it dequantised again


def test_an_estimate_reads_the_header_alone(tmp_path, monkeypatch, capsys):
    path = write(tmp_path / "tiny-Q4_0.gguf")
    monkeypatch.setenv("ATLAS_MODELS", str(tmp_path / "models"))
    monkeypatch.setattr(dequantised, "load", None)
    monkeypatch.setattr(dequantised, "sha256_of", None)
    assert main(["estimate", str(path), "--json", "--depth", "5"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["model"], found["neurons"]) == ("tiny-Q4_0", 3 * (96 + HEADS * HEAD_DIM))
    assert found["weight_bytes"] == 4 * sum(one.numel() for one in expected().values())
    assert found["disk_while_building"] > found["weight_bytes"]
    assert found["notices"][0].startswith("A build first dequantises the file (GGUF Q4_0: ")
    assert not (tmp_path / "models").exists()


def test_a_copy_is_the_same_model_and_another_file_of_the_name_is_not(file, folder, tmp_path):
    copy = Path(shutil.copy(file, tmp_path / file.name))
    assert dequantised.folder_of(copy, folder.parent, lambda _line: None) == folder
    (tmp_path / "other").mkdir()
    other = write(tmp_path / "other" / file.name, seed=1)
    found = dequantised.folder_of(other, folder.parent, lambda _line: None)
    assert found.name.startswith(f"{folder.name}-")
    assert locate(str(found)).identity != locate(str(folder)).identity
    again = tmp_path / "another models folder"
    assert locate(str(dequantised.folder_of(copy, again, lambda _line: None))).identity == locate(str(folder)).identity


def test_a_run_that_was_killed_is_begun_again(file, tmp_path):
    half = tmp_path / f".{file.stem}.partial" / file.stem
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"half")
    folder = dequantised.folder_of(file, tmp_path, lambda _line: None)
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".lock") == [folder.name]
    (folder / "model.safetensors").write_bytes(b"cut")
    dequantised.folder_of(file, tmp_path, lambda _line: None)
    name = "model.norm.weight"
    assert torch.equal(load_model(locate(str(folder))).weights.tensor(name), expected()[name])


def test_a_folder_of_the_users_own_is_left_alone(file, tmp_path):
    own = tmp_path / file.stem / "notes.txt"
    own.parent.mkdir()
    own.write_text("mine")
    assert dequantised.folder_of(file, tmp_path, lambda _line: None) != own.parent
    assert own.read_text() == "mine"


def test_plain_numbers_are_kept_as_they_are(tmp_path, monkeypatch):
    for start in KINDS:
        monkeypatch.setitem(KINDS, start, Kind.F16)
    folder = dequantised.folder_of(write(tmp_path / "plain.gguf"), tmp_path, lambda _line: None)
    weights = load_model(locate(str(folder))).weights
    assert all(torch.equal(weights.tensor(name), matrix) for name, matrix in expected().items())
    assert locate(str(folder)).quantisation is None


def test_positions_as_llama_3_scales_them(tmp_path):
    rope = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    config = LlamaConfig(**CONFIG.to_dict() | {"rope_parameters": rope | {"original_max_position_embeddings": 8192}})
    scaled, plain = (
        LlamaForCausalLM(one).model.rotary_emb.inv_freq
        for one in (
            config,
            LlamaConfig(**CONFIG.to_dict() | {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}),
        )
    )
    assert not torch.equal(scaled, plain)

    def slow(file: gguf.GGUFWriter) -> None:
        file.add_tensor("rope_freqs.weight", (plain / scaled).numpy())

    folder = dequantised.folder_of(write(tmp_path / "llama3.gguf", slow, theta=5e5), tmp_path, lambda _line: None)
    model = load_model(locate(str(folder)))
    torch.testing.assert_close(model.module.get_buffer("model.rotary_emb.inv_freq"), scaled, atol=0, rtol=1e-5)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5000])


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut short": (lambda path: cut(write(path)), "damaged or cut short"),
    "cut in its header": (lambda path: path.write_bytes(write(path).read_bytes()[:300]), "damaged or cut short"),
    "another kind of file": (lambda path: path.write_bytes(b"PK\3\4" * 100), "no GGUF file"),
    "empty": (lambda path: path.write_bytes(b""), "no GGUF file"),
    "an adapter": (lambda path: write(path, lambda file: file.add_type("adapter")), "no model: .*adapter"),
    "a picture reader": (lambda path: write(path, lambda file: file.add_type("mmproj")), "no model: .*mmproj"),
    "a part": (lambda path: write(path, lambda file: file.add_uint16("split.count", 3)), "one of 3 parts.*merge"),
    "a vocabulary": (lambda path: write(path, leave=""), "holds no weights"),
    "an encoder": (lambda path: write(path, architecture="bert"), "bert is not supported"),
    "an encoder-decoder": (lambda path: write(path, architecture="t5"), "encoder-decoder"),
    "layers without attention": (lambda path: write(path, architecture="mamba"), "layers without attention"),
    "nobody knows it": (lambda path: write(path, architecture="new"), "new is not supported"),
    "a tensor is missing": (lambda path: write(path, leave="blk.2.ffn_up"), "lacks model.layers.2.mlp.up_proj.weight"),
    "biases": (
        lambda path: write(path, lambda file: file.add_tensor("blk.0.attn_q.bias", np.ones(64, np.float32))),
        "holds [0-9,]* numbers, and the model it makes of them has",
    ),
    "scaled positions": (
        lambda path: write(path, lambda file: file.add_tensor("rope_freqs.weight", np.arange(1, 9, dtype=np.float32))),
        "in a way of their own .rope_freqs.weight",
    ),
    "stretched positions": (
        lambda path: write(path, lambda file: file.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)),
        "positions are scaled .linear",
    ),
    "a window": (lambda path: write(path, lambda file: file.add_sliding_window(8)), "attention.sliding_window 8"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_as_what_it_is_is_refused(case, tmp_path, monkeypatch, capsys):
    make, said = REFUSED[case]
    path = tmp_path / "model.gguf"
    make(path)
    monkeypatch.setenv("ATLAS_MODELS", str(tmp_path / "models"))
    with pytest.raises(AtlasError, match=said):
        locate(str(path))
    left = tmp_path / "models"
    assert not left.exists() or [one.name for one in left.iterdir() if one.suffix != ".lock"] == []
    capsys.readouterr()
    assert main(["estimate", str(path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert main(["build", str(path), "--catalogue", str(tmp_path / "catalogue")]) == 2
    assert len(capsys.readouterr().err.splitlines()) <= 2
