"""Small random checkpoints of every family, saved as people have them: config, tokenizer and safetensors in a folder.

Norm weights, biases and ε are far from their defaults, so that whoever forgets one of them is found out; every size is
asserted, so that a misspelt option cannot leave a full-size model.
"""

import json
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)
from transformers.utils.logging import disable_progress_bar

from indexer.checkpoint import Checkpoint
from indexer.language_model import LanguageModel, load_model

torch.set_num_threads(1)  # for models this small, threads spend their time waiting for each other: four times as long

VOCABULARY = 323  # rows of the unembedding: more than the tokenizer's tokens, and no multiple of 16
TOKENS = 300
LAYERS = 3
D_MODEL = 32
HEADS = 4
MAX_POSITIONS = 64

PROMPT = "The river runs to the sea"
SENTENCES = (
    "The river runs to the sea, and the sea is blue.",
    "The road to the hill is long; the hill is far from the sea.",
    "A blue river and a long road: where the river ends, the road ends.",
    "Who runs to the hill? The rain runs to the river, the river to the sea.",
)

_SHARED: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": D_MODEL,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": MAX_POSITIONS,
    "rms_norm_eps": 0.02,
}
_GPT2: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "n_embd": D_MODEL,
    "n_layer": LAYERS,
    "n_head": HEADS,
    "n_positions": MAX_POSITIONS,
    "layer_norm_epsilon": 0.02,
    "bos_token_id": 0,
    "eos_token_id": 0,
}


class Variant(NamedTuple):
    """One small model: its configuration, and what that must come to."""

    config: Any
    kv_heads: int
    head_dim: int
    ffn_neurons: int  # a layer
    biases: tuple[str, ...] = ()  # that the model must have


_GPT2_BIASES = ("c_attn", "c_proj", "c_fc", "ln_1", "ln_2", "ln_f")
VARIANTS: dict[str, Variant] = {
    # heads x head_dim = 48, not d
    "llama": Variant(LlamaConfig(**_SHARED, head_dim=12, tie_word_embeddings=False), 2, 12, 48),
    # heads x head_dim = n = d: square matrices, which may be transposed without anyone noticing
    "llama-square": Variant(
        LlamaConfig(
            **_SHARED | {"intermediate_size": D_MODEL}, attention_bias=True, mlp_bias=True, tie_word_embeddings=True
        ),
        2,
        8,
        32,
        ("q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"),
    ),
    # a window shorter than the prompt, and one key-value head for all
    "mistral": Variant(MistralConfig(**_SHARED | {"num_key_value_heads": 1}, head_dim=10, sliding_window=4), 1, 10, 48),
    "qwen2": Variant(Qwen2Config(**_SHARED, tie_word_embeddings=True), 2, 8, 48, ("q_proj", "v_proj")),
    "qwen3": Variant(Qwen3Config(**_SHARED, head_dim=12, tie_word_embeddings=False), 2, 12, 48),
    "gpt2": Variant(GPT2Config(**_GPT2), 4, 8, 128, _GPT2_BIASES),
    "gpt2-narrow": Variant(
        GPT2Config(**_GPT2, n_inner=40, scale_attn_by_inverse_layer_idx=True, tie_word_embeddings=False),
        4,
        8,
        40,
        _GPT2_BIASES,
    ),
}
CONFIGS = {name: variant.config for name, variant in VARIANTS.items()}
SIZES = {name: (variant.kv_heads, variant.head_dim, variant.ffn_neurons) for name, variant in VARIANTS.items()}
FAMILIES = tuple(VARIANTS)
LAYER_NORM_FAMILIES = tuple(name for name in FAMILIES if CONFIGS[name].model_type == "gpt2")
RMS_NORM_FAMILIES = tuple(name for name in FAMILIES if name not in LAYER_NORM_FAMILIES)

_FOLDERS = tempfile.TemporaryDirectory(prefix="atlas-models-")


@cache
def folder(name: str) -> Path:
    """The checkpoint's folder; made once a run, not to be changed (copy it first)."""
    return save(name, Path(_FOLDERS.name) / name)


@cache
def checkpoint(name: str) -> Checkpoint:
    return Checkpoint(name, folder(name))


@cache
def language_model(name: str) -> LanguageModel:
    """The checkpoint, loaded; shared by all tests, which leave it as it was."""
    return load_model(checkpoint(name))


@cache
def tokens_of(name: str) -> list[int]:
    """The ids that are tokens; the other rows of the unembedding are padding."""
    found = sorted(set(checkpoint(name).tokenizer.get_vocab().values()))
    assert TOKENS <= len(found) < VOCABULARY
    return found


def save(name: str, into: Path, seed: int = 0) -> Path:
    """Draw the variant's weights and save it with its tokenizer."""
    model = random_model(name, seed)
    disable_progress_bar()  # it writes on standard error, which may be what a test looks at
    model.save_pretrained(into)
    tokenizer = byte_level_tokenizer(bos=name not in LAYER_NORM_FAMILIES)
    tokenizer.save_pretrained(into)
    loaded = AutoTokenizer.from_pretrained(into)
    assert loaded(PROMPT)["input_ids"] == tokenizer(PROMPT)["input_ids"]
    return into


def fine_tunes(root: Path, name: str = "llama-square") -> tuple[Path, Path]:
    """`run1/final` and `run2/final`: one tokenizer, embedding, final norm and head, but other layers."""
    first = save(name, root / "run1" / "final")
    second = Path(shutil.copytree(first, root / "run2" / "final"))
    retrain(second, 1)
    return first, second


def retrain(folder: Path, seed: int) -> None:
    """Other layers in the same place; all else stays, as where embedding and head are frozen."""
    tensors, generator = load_file(folder / "model.safetensors"), torch.Generator().manual_seed(seed)
    for name, tensor in sorted(tensors.items()):
        if ".layers." in name and "norm" not in name:
            tensors[name] = tensor + 0.5 * tensor.std() * torch.randn(tensor.shape, generator=generator)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def random_model(name: str, seed: int = 0) -> Any:
    """A model whose every parameter is drawn so that it matters: layers, norms, biases."""
    model = AutoModelForCausalLM.from_config(
        VARIANTS[name].config, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter_name, parameter in sorted(model.named_parameters()):
            draw = torch.randn(parameter.shape, generator=generator)
            if "norm" in parameter_name or ".ln_" in parameter_name:
                draw = 1 + 0.3 * draw if parameter_name.endswith("weight") else 0.3 * draw
            elif parameter_name.endswith("bias"):
                draw = 0.3 * draw
            elif parameter_name.endswith(("embed_tokens.weight", "wte.weight", "wpe.weight", "lm_head.weight")):
                draw = 0.5 * draw
            else:
                draw = 1.5 * draw / D_MODEL**0.5
            parameter.copy_(draw)
    _assert_as_meant(name, model)
    return model


def _assert_as_meant(name: str, model: Any) -> None:
    variant = VARIANTS[name]
    state = dict(model.named_parameters(remove_duplicate=False))
    assert state["lm_head.weight"].shape == (VOCABULARY, D_MODEL)
    assert any("norm" in key or ".ln_" in key for key in state)
    if name in LAYER_NORM_FAMILIES:
        assert len(model.transformer.h) == LAYERS
        assert state["transformer.wpe.weight"].shape == (MAX_POSITIONS, D_MODEL)
        assert state["transformer.h.2.attn.c_attn.weight"].shape == (D_MODEL, 3 * D_MODEL)
        assert state["transformer.h.2.mlp.c_proj.weight"].shape == (variant.ffn_neurons, D_MODEL)
    else:
        layer = "model.layers.2"
        assert len(model.model.layers) == LAYERS
        names = (f"{layer}.mlp.{part}.weight" for part in ("down_proj", "c_proj"))
        output = next(state[key] for key in names if key in state)
        assert output.shape == (D_MODEL, variant.ffn_neurons)
        assert state[f"{layer}.self_attn.v_proj.weight"].shape == (variant.kv_heads * variant.head_dim, D_MODEL)
        assert state[f"{layer}.self_attn.o_proj.weight"].shape == (D_MODEL, HEADS * variant.head_dim)
    for part in variant.biases:
        biases = [value for key, value in state.items() if key.endswith(f"{part}.bias")]
        assert biases, f"{name} has no bias in {part}"
        assert all(value.abs().max() > 0.1 for value in biases)
    with torch.no_grad():
        logits = model(torch.arange(8)[None]).logits[0]
    assert logits.std(dim=-1).min() > 1, "the logits are flat: no test on them would prove anything"
    assert logits.std(dim=-1).max() < 20, "the logits are extreme: one token has all the probability"


def byte_level_tokenizer(*, bos: bool = False) -> PreTrainedTokenizerFast:
    """GPT-2's kind: byte-level BPE, here with 300 tokens; `bos`: puts <s> in front, as Llama's do."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TOKENS,
        special_tokens=["<s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    assert tokenizer.get_vocab_size() == TOKENS
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="<s>")


def sentencepiece_tokenizer(
    extra: tuple[str, ...] = (), *, prepend: str = "first", fallback: bool = True, template: str = "$A"
) -> PreTrainedTokenizerFast:
    """Llama-2's kind: BPE with “▁” for the space and <0x0A> for the bytes of what has no piece.

    `extra`: further pieces, as a large vocabulary has them. `prepend`: where a space is put before a text: "first",
    "always" or "never". `fallback`: what has no piece becomes bytes, else <unk>. `template`: such as "<s> $A </s>".
    """
    single = sorted({character for sentence in SENTENCES for character in sentence.replace(" ", "▁")})
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *single]
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("s", "e"), ("se", "a"), ("▁", "sea")]
    pieces += ["".join(merge) for merge in merges] + list(extra)
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=fallback, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend, split=False)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme=prepend)])
    tokenizer.post_processor = _template(template)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def unigram_tokenizer(*, prepend: str = "always", template: str = "$A </s>") -> PreTrainedTokenizerFast:
    """T5's kind: Unigram with “▁” for the space, here with bytes for what has no piece."""
    single = sorted({character for sentence in SENTENCES for character in sentence.replace(" ", "▁")})
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *((f"<0x{byte:02X}>", -9.0) for byte in range(256))]
    pieces += [(piece, -5.0) for piece in single] + [(piece, -2.0) for piece in ("▁the", "▁sea", "sea")]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend, split=True)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme=prepend)])
    tokenizer.post_processor = _template(template)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def like_tiktoken() -> PreTrainedTokenizerFast:
    """Llama 3's and Qwen's kind: a pattern of their own cuts the text, and what it leaves is written as bytes."""
    cuts = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    cuts += r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    found = byte_level_tokenizer().backend_tokenizer
    found.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(cuts), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=found, bos_token="<s>", eos_token="<s>")


def like_gemma(*, prepend: bool = False, space: str = "▁") -> PreTrainedTokenizerFast:
    """Gemma's kind, where a normaliser writes the spaces, with runs of them as added tokens; `prepend`: Llama 2's,
    where it puts one before every text. `space`: what a space is written as.
    """
    found = sentencepiece_tokenizer(extra=("▁▁", "▁▁▁")).backend_tokenizer
    state = json.loads(found.to_str().replace("▁", space))
    model = state["model"]
    model["merges"] += [[space, space], [space * 2, space]]
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": space}
    steps = [{"type": "Prepend", "prepend": space}, replace] if prepend else [replace]
    back = {"type": "Replace", "pattern": {"String": space}, "content": " "}
    state |= {
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}]},
    }
    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)), unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    made.add_tokens([AddedToken(space * count, normalized=False) for count in (2, 3)])
    return made


def word_pieces() -> PreTrainedTokenizerFast:
    """BERT's kind: a piece that goes on with a word is written “##ing”; spaces are not written."""
    letters = sorted({character for sentence in SENTENCES for character in sentence if character.isalpha()})
    pieces = ["[UNK]", "the", "sea", "##er", *letters, *(f"##{one}" for one in letters), "."]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")


def word_ends() -> PreTrainedTokenizerFast:
    """GPT-1's and BioGPT's kind: a piece that ends a word is written “the</w>”."""
    letters = sorted({character for sentence in SENTENCES for character in sentence if character.isalpha()})
    pieces = ["<unk>", *letters, *(f"{one}</w>" for one in letters), "he</w>", "the</w>"]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    merges = [("h", "e</w>"), ("t", "he</w>")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def _template(single: str) -> Any:
    return processors.TemplateProcessing(single=single, special_tokens=[("<s>", 1), ("</s>", 2)])


def with_tokenizer(tokenizer: PreTrainedTokenizerFast, into: Path, name: str = "llama") -> Path:
    """A copy of a checkpoint that has another tokenizer."""
    shutil.copytree(folder(name), into, ignore=shutil.ignore_patterns("*token*"))
    tokenizer.save_pretrained(into)
    return into
