"""A small random model of every family, and what is asked of each: its line of the table in indexer/README.md.

`python -m tests.families` writes the table anew; tests/indexer/test_every_family.py holds it to what is computed.
"""

import re
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils.logging import disable_progress_bar

from app.attribution.ablation import Effects, without
from app.attribution.heads import source_contributions
from app.attribution.prompt import Settings
from app.attribution.query import Readers
from app.attribution.run import PromptRun, run_prompt
from db.neuron import Head, Neuron, NeuronKind, Part
from indexer.checkpoint import Checkpoint
from indexer.experts import as_in_transformers
from indexer.families import ARCHITECTURES, WRAPPERS
from indexer.language_model import LanguageModel, check_row, load_model
from indexer.refusals import REFUSED
from indexer.tokens import TokenBytes
from tests import models
from tests.readmes import CHECKOUT

SIZES: dict[str, Any] = {
    "vocab_size": models.VOCABULARY,
    "hidden_size": models.D_MODEL,
    "num_hidden_layers": models.LAYERS,
    "num_attention_heads": models.HEADS,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": models.MAX_POSITIONS,
    "pad_token_id": None,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
ADDED_POSITIONS = {"biogpt", "gpt2", "gpt_bigcode", "gpt_neo", "opt", "xglm"}
BYTES, PIECES = "byte-level BPE", "SentencePiece with bytes"

RMS, LAYER = {"rms_norm_eps": 0.02}, {"layer_norm_eps": 0.02}
OLD = {"layer_norm_epsilon": 0.02}
WINDOW = {"sliding_window": 4}
EXPERTS = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 20}
SHARED = {"shared_expert_intermediate_size": 28}

LATENT = {
    "num_key_value_heads": models.HEADS,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 10,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
    "first_k_dense_replace": models.LAYERS,
}

CHOOSING = {"index_topk": 6, "index_n_heads": 2, "index_head_dim": 8}
"""Attention to fewer positions than the prompt has."""
ROUTED = {
    "n_routed_experts": 6,
    "num_experts_per_tok": 2,
    "n_shared_experts": 2,
    "moe_intermediate_size": 20,
    "first_k_dense_replace": 1,
    "n_group": 2,
    "topk_group": 1,
    "routed_scaling_factor": 1.7,
}

GRANITE_SHARED = (
    RMS
    | {"num_local_experts": 5, "num_experts_per_tok": 2, "shared_intermediate_size": 28}
    | {"embedding_multiplier": 3.0, "residual_multiplier": 0.6, "logits_scaling": 1.7, "attention_multiplier": 0.2}
)
ATTENTION_ALONE = {"layer_types": ["full_attention"] * models.LAYERS, "mamba_n_heads": 4, "mamba_d_head": 16}


class Case(NamedTuple):
    """One model: its `model_type`, the options that differ from `SIZES`, and the tokenizer of its kind."""

    family: str
    options: dict[str, Any]
    tokenizer: str = BYTES


CASES: dict[str, Case] = {
    "apertus": Case("apertus", RMS),
    "arcee": Case("arcee", RMS | {"head_dim": 12, "mlp_bias": True}),
    "bloom": Case("bloom", OLD),
    "cohere": Case("cohere", LAYER | {"logit_scale": 0.3, "use_qk_norm": True, "attention_bias": True}),
    "cohere2": Case("cohere2", LAYER | {"logit_scale": 0.3, "head_dim": 8} | WINDOW),
    "cohere2_moe": Case(
        "cohere2_moe",
        LAYER
        | WINDOW
        | {"logit_scale": 0.3, "head_dim": 8, "num_experts": 5, "num_experts_per_tok": 2, "num_shared_experts": 1}
        | {"shared_expert_combination_strategy": "sum", "expert_selection_fn": "sigmoid"}
        | {"mlp_layer_types": ["dense", "sparse", "sparse"], "prefix_dense_intermediate_size": 40},
    ),
    "dots1": Case(
        "dots1",
        RMS
        | EXPERTS
        | {"n_routed_experts": 6, "n_shared_experts": 2, "first_k_dense_replace": 1, "n_group": 2, "topk_group": 1}
        | {"norm_topk_prob": True, "routed_scaling_factor": 1.7, "head_dim": 12},
    ),
    "cwm": Case("cwm", RMS | {"head_dim": 12} | WINDOW),
    "deepseek_v2": Case("deepseek_v2", RMS | LATENT | {"q_lora_rank": None}),
    "deepseek_v3": Case("deepseek_v3", RMS | LATENT | {"q_lora_rank": 12}),
    "deepseek_v2, experts": Case(
        "deepseek_v2", RMS | LATENT | ROUTED | {"q_lora_rank": 12, "topk_method": "group_limited_greedy"}
    ),
    "deepseek_v3, experts": Case("deepseek_v3", RMS | LATENT | ROUTED | {"q_lora_rank": 12, "norm_topk_prob": True}),
    "deepseek_v32": Case("deepseek_v32", RMS | LATENT | ROUTED | CHOOSING | {"q_lora_rank": 12}),
    "ernie4_5": Case("ernie4_5", RMS | {"head_dim": 12, "use_bias": True}, PIECES),
    "ernie4_5_moe": Case(
        "ernie4_5_moe",
        RMS
        | EXPERTS
        | {"moe_num_experts": 5, "moe_k": 2, "moe_num_shared_experts": 1, "moe_layer_interval": 2, "use_bias": True},
        PIECES,
    ),
    "exaone4": Case("exaone4", RMS | {"sliding_window_pattern": 2} | WINDOW),
    "exaone_moe": Case(
        "exaone_moe",
        RMS
        | WINDOW
        | EXPERTS
        | {"mlp_layer_types": ["sparse", "dense", "sparse"], "n_group": 1, "topk_group": 1, "head_dim": 12},
    ),
    "falcon": Case("falcon", OLD | {"bias": True}),
    "falcon, new": Case("falcon", OLD | {"new_decoder_architecture": True, "num_kv_heads": 2, "bias": True}),
    "falcon, in turn": Case(
        "falcon", OLD | {"parallel_attn": False, "multi_query": False, "alibi": True, "bias": True}
    ),
    "flint": Case("flint", RMS | WINDOW | EXPERTS | SHARED | {"mlp_only_layers": [0], "head_dim": 12}),
    "flex_olmo": Case("flex_olmo", RMS | {"num_experts": 5, "num_experts_per_tok": 2, "norm_topk_prob": True}),
    "gemma": Case("gemma", RMS | {"head_dim": 12}, PIECES),
    "gemma2": Case(
        "gemma2",
        RMS
        | WINDOW
        | {
            "head_dim": 12,
            "query_pre_attn_scalar": 12,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "final_logit_softcapping": 5.0,
            "attn_logit_softcapping": 3.0,
        },
        PIECES,
    ),
    "gemma3_text": Case(
        "gemma3_text",
        RMS
        | {
            "head_dim": 12,
            "query_pre_attn_scalar": 12,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        }
        | WINDOW,
        PIECES,
    ),
    "glm": Case("glm", RMS | {"head_dim": 12}),
    "glm4": Case("glm4", RMS | {"head_dim": 12}),
    "glm4_moe": Case(
        "glm4_moe",
        RMS
        | EXPERTS
        | {"n_routed_experts": 6, "n_shared_experts": 1, "first_k_dense_replace": 2, "n_group": 2, "topk_group": 1}
        | {"routed_scaling_factor": 1.7, "head_dim": 12, "attention_bias": True, "use_qk_norm": True},
    ),
    "glm4_moe_lite": Case(
        "glm4_moe_lite",
        RMS | LATENT | ROUTED | {"q_lora_rank": 12, "mlp_layer_types": ["dense", "sparse", "sparse"]},
    ),
    "glm_moe_dsa": Case(
        "glm_moe_dsa",
        RMS
        | LATENT
        | ROUTED
        | CHOOSING
        | {"q_lora_rank": 12, "mlp_layer_types": ["dense", "sparse", "sparse"]}
        | {"indexer_types": ["full", "shared", "full"]},
    ),
    "gpt2": Case("gpt2", OLD | {"n_inner": 40}),
    "gpt_bigcode": Case("gpt_bigcode", OLD | {"n_inner": 40}),
    "gpt_bigcode, all heads": Case("gpt_bigcode", OLD | {"multi_query": False}),
    "gpt_neo": Case(
        "gpt_neo", OLD | {"attention_types": [[["global", "local", "global"], 1]], "window_size": 4, "num_layers": 3}
    ),
    "gpt_neox": Case("gpt_neox", LAYER | {"use_parallel_residual": True}),
    "gpt_neox, in turn": Case("gpt_neox", LAYER | {"use_parallel_residual": False}),
    "gpt_oss": Case(
        "gpt_oss",
        RMS
        | WINDOW
        | {"num_local_experts": 5, "num_experts_per_tok": 2, "head_dim": 12, "attention_bias": True}
        | {"intermediate_size": 64, "swiglu_limit": 0.7}  # widths that MXFP4's blocks fill
        | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    ),
    "gptj": Case("gptj", OLD | {"rotary_dim": 4, "n_inner": 40}),
    "granite": Case(
        "granite",
        RMS
        | {
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.6,
            "logits_scaling": 1.7,
            "attention_multiplier": 0.2,
            "attention_bias": True,
            "mlp_bias": True,
        },
    ),
    "granitemoe": Case(
        "granitemoe",
        RMS
        | {"num_local_experts": 5, "num_experts_per_tok": 2, "attention_bias": True}
        | {"embedding_multiplier": 3.0, "residual_multiplier": 0.6, "logits_scaling": 1.7, "attention_multiplier": 0.2},
    ),
    "granitemoehybrid": Case("granitemoehybrid", GRANITE_SHARED | ATTENTION_ALONE),
    "granitemoehybrid, no experts": Case(
        "granitemoehybrid",
        GRANITE_SHARED | ATTENTION_ALONE | {"num_local_experts": 0, "position_embedding_type": "rope"},
    ),
    "granitemoeshared": Case("granitemoeshared", GRANITE_SHARED),
    "helium": Case("helium", RMS | {"head_dim": 8}, PIECES),
    "hunyuan_v1_dense": Case("hunyuan_v1_dense", RMS | {"head_dim": 8}),
    "hunyuan_v1_moe": Case("hunyuan_v1_moe", RMS | {"num_experts": 5, "moe_topk": 2, "head_dim": 8}),
    "hy_v3": Case("hy_v3", RMS | EXPERTS | {"num_shared_experts": 1, "router_scaling_factor": 1.7, "head_dim": 12}),
    "jais2": Case("jais2", LAYER | {"head_dim": 8}),
    "llama": Case("llama", RMS | {"head_dim": 12, "attention_bias": True, "mlp_bias": True}, PIECES),
    "mellum": Case(
        "mellum",
        RMS
        | EXPERTS
        | WINDOW
        | {"head_dim": 12, "mlp_layer_types": ["sparse", "dense", "sparse"]}
        | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    ),
    "ministral": Case("ministral", RMS | {"head_dim": 12} | WINDOW),
    "ministral3": Case("ministral3", RMS | {"head_dim": 12}),
    "mistral": Case("mistral", RMS | {"head_dim": 12} | WINDOW, PIECES),
    "minimax_m2": Case(
        "minimax_m2", RMS | {"num_local_experts": 5, "num_experts_per_tok": 2, "head_dim": 12, "rotary_dim": 6}
    ),
    "mixtral": Case(
        "mixtral", RMS | WINDOW | {"num_local_experts": 5, "num_experts_per_tok": 2, "head_dim": 12}, PIECES
    ),
    "mpt": Case("mpt", OLD | {"max_seq_len": models.MAX_POSITIONS}),
    "nemotron": Case("nemotron", {"norm_eps": 0.02, "head_dim": 12}),
    "olmo": Case("olmo", {}),
    "olmo2": Case("olmo2", RMS),
    "olmo3": Case(
        "olmo3", RMS | WINDOW | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
    ),
    "olmoe": Case("olmoe", RMS | {"num_experts": 5, "num_experts_per_tok": 2, "norm_topk_prob": False}),
    "olmoe, normalised": Case("olmoe", RMS | {"num_experts": 5, "num_experts_per_tok": 3, "norm_topk_prob": True}),
    "opt": Case("opt", {"ffn_dim": 40, "word_embed_proj_dim": models.D_MODEL, "pad_token_id": 1}),
    "persimmon": Case("persimmon", LAYER),
    "phi": Case("phi", LAYER),
    "phi3": Case("phi3", RMS | WINDOW),
    "phimoe": Case(
        "phimoe",
        RMS | {"num_local_experts": 5, "num_experts_per_tok": 2, "attention_bias": True, "lm_head_bias": True},
    ),
    "qwen2": Case("qwen2", RMS),
    "qwen2_moe": Case("qwen2_moe", RMS | EXPERTS | SHARED | {"decoder_sparse_step": 2, "norm_topk_prob": False}),
    "qwen2_moe, normalised": Case(
        "qwen2_moe", RMS | EXPERTS | SHARED | {"mlp_only_layers": [0], "norm_topk_prob": True}
    ),
    "qwen3": Case("qwen3", RMS | {"head_dim": 12}),
    "qwen3_moe": Case("qwen3_moe", RMS | EXPERTS | {"norm_topk_prob": False, "head_dim": 12}),
    "qwen3_moe, normalised": Case(
        "qwen3_moe", RMS | EXPERTS | {"mlp_only_layers": [2], "norm_topk_prob": True, "head_dim": 12}
    ),
    "seed_oss": Case("seed_oss", RMS | {"head_dim": 12, "attention_out_bias": True, "mlp_bias": True}),
    "smollm3": Case("smollm3", RMS | {"no_rope_layer_interval": 2}),
    "solar_open": Case(
        "solar_open",
        RMS | EXPERTS | {"n_routed_experts": 6, "n_shared_experts": 1, "n_group": 2, "topk_group": 1, "head_dim": 12},
    ),
    "stablelm": Case("stablelm", LAYER | {"use_qkv_bias": True}),
    "stablelm, parallel": Case("stablelm", LAYER | {"use_parallel_residual": True, "qk_layernorm": True}),
    "starcoder2": Case("starcoder2", {"norm_epsilon": 0.02} | WINDOW),
    "vaultgemma": Case(
        "vaultgemma", RMS | {"head_dim": 12, "query_pre_attn_scalar": 12, "final_logit_softcapping": 8.0}, PIECES
    ),
    "youtu": Case("youtu", RMS | LATENT | {"q_lora_rank": 12}),
}

BY_RULE = {
    "biogpt": Case("biogpt", {}),
    "hyperclovax": Case("hyperclovax", RMS),
    "internlm3": Case("internlm3", RMS | {"head_dim": 12, "bias": True, "qkv_bias": True}),
    "iquestcoder": Case("iquestcoder", RMS),
    "xglm": Case("xglm", {"ffn_dim": 40, "attention_heads": models.HEADS, "num_layers": models.LAYERS}),
}
"""Families that have no row of their own, and for which the generic rule finds one."""
CASES |= BY_RULE

_FOLDERS = tempfile.TemporaryDirectory(prefix="atlas-families-")


@cache
def language_model(name: str) -> LanguageModel:
    """The case's model, saved and loaded as a user's would be."""
    case, folder = CASES[name], Path(_FOLDERS.name) / name
    config = CONFIG_MAPPING[case.family](**SIZES | case.options)
    module = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    draw(module, unit_offset=case.family in ARCHITECTURES and ARCHITECTURES[case.family].unit_offset)
    disable_progress_bar()
    module.save_pretrained(folder)
    tokenizer_of(case.tokenizer).save_pretrained(folder)
    return load_model(Checkpoint(name, folder))


def tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    return models.byte_level_tokenizer(bos=True) if kind == BYTES else models.sentencepiece_tokenizer()


def draw(module: nn.Module, *, unit_offset: bool) -> None:
    """Every parameter so that it matters."""
    generator = torch.Generator().manual_seed(0)
    norms = {id(one) for part in module.modules() if "Norm" in type(part).__name__ for one in part.parameters()}
    embeddings = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    with torch.no_grad():
        for name, buffer in sorted(module.named_buffers()):
            if name.endswith("correction_bias"):  # of a router: sways its choice, and not its weights
                buffer.copy_(0.3 * torch.randn(buffer.shape, generator=generator))
        for name, parameter in sorted(module.named_parameters()):
            drawn = torch.randn(parameter.shape, generator=generator)
            if parameter.numel() == 1:
                continue
            if id(parameter) in norms and name.endswith("weight"):
                parameter.copy_((not unit_offset) + 0.3 * drawn)
            elif parameter.ndim == 1:
                parameter.copy_(0.3 * drawn)
            elif id(parameter) in embeddings or name == "lm_head.weight":
                parameter.copy_(0.5 * drawn)
            else:
                parameter.copy_(1.5 * drawn / models.D_MODEL**0.5)


PROMPT = "The river runs to the sea, and the road runs to the hill"
TOP = 7


def run_of(name: str) -> PromptRun:
    model = language_model(name)
    run = run_prompt(model, PROMPT, Settings(top=TOP))
    assert len(run.token_ids) > 8, "no prompt longer than the sliding windows"
    assert 1e-4 < run.log_probabilities.exp().max() < 0.999, "no test on such a distribution would prove anything"
    return run


# What is asked: each returns the largest deviation found, or raises.


def identities(name: str) -> None:
    """All five, ten times as closely as where a model is loaded, on a prompt longer than any window."""
    run = run_of(name)
    check_row(run.model, list(run.token_ids), tolerance=1e-4)
    stream = run.stream
    written = stream.layer_input[0] + (stream.attention_output + stream.ffn_output).sum(dim=0)
    torch.testing.assert_close(written, stream.layer_input[-1], atol=1e-4 * float(written.abs().max()), rtol=0)
    for kind in NeuronKind:  # what switched value neurons on adds up to their scores
        read = run.readers(run.raising(kind, TOP)[0])
        shares = run.query_layers(read)
        total = shares.embedding + float(shares.attention.sum() + shares.ffn.sum())
        kept = float((read.weight * (_seen(run, kind, read) * read.keys).sum(dim=1)).sum())
        assert abs(total - kept) <= 1e-4 * (1 + abs(kept))
    if CASES[name].family not in ADDED_POSITIONS:  # embeddings as the key side reads them
        entered = run.model.weights.embeddings(slice(None), run.model.unembedding.epsilon)[list(run.token_ids)]
        torch.testing.assert_close(entered, stream.layer_input[0], atol=1e-5, rtol=1e-5)


def _seen(run: PromptRun, kind: NeuronKind, read: Readers) -> Tensor:
    """What value neurons read: the stream in front of their sub-layer, which a parallel block's FFN shares."""
    row, layer = run.model.architecture, read.layer
    found = run.stream.layer_input[layer, read.position]
    behind = kind is NeuronKind.FFN and not row.parallel
    return found + run.stream.attention_output[layer, read.position] if behind else found


def own_logits(model: LanguageModel, vectors: Tensor) -> Tensor:
    """[N, d] of normed residual vectors -> [N, V]: the model's own head, whatever it does there."""
    norm = model.module.get_submodule(model.architecture.final_norm)
    handle = norm.register_forward_hook(lambda _module, _args, _output: vectors[:, None])
    with torch.inference_mode():
        found: Tensor = model.module(torch.ones(len(vectors), 1, dtype=torch.long), use_cache=False).logits[:, 0]
    handle.remove()
    return found.double()


def frozen(model: LanguageModel, hidden: Tensor, vectors: Tensor) -> Tensor:
    """The final norm's module on vectors, its scale that at `hidden`."""
    norm = model.module.get_submodule(model.architecture.final_norm)
    zero, one = torch.zeros(1, len(hidden)), torch.ones(1, len(hidden))
    shift = norm(zero)
    centres = bool(torch.allclose(norm(one), shift, atol=1e-5))
    epsilon = model.unembedding.epsilon

    def scale(x: Tensor) -> Tensor:
        squares = (x - x.mean(-1, keepdim=True) if centres else x).square()
        return (squares.mean(-1, keepdim=True) + epsilon).sqrt()

    found: Tensor = (norm(vectors) - shift) * scale(vectors) / scale(hidden) + shift
    return found


def certified(name: str) -> None:
    """The proven lists of both ends against every score, by the model's own norm and head."""
    run = run_of(name)
    model, at = run.model, run.stream.position
    inputs = run.stream.layer_input[:, at]
    hidden = inputs[-1]

    def log_p(points: Tensor) -> Tensor:
        return own_logits(model, frozen(model, hidden, points)).log_softmax(-1)[:, run.target_id]

    for kind in NeuronKind:
        entries = run.entries(kind)
        every = torch.arange(entries.per_layer * models.LAYERS)
        if kind is NeuronKind.FFN:  # layers may be of different widths
            widths = torch.tensor([model.dimensions.ffn_neurons(layer) for layer in range(models.LAYERS)])
            every = every[every % entries.per_layer < widths[entries.layer(every)]]
        layers = entries.layer(every)
        bases = inputs[:-1] + (run.stream.attention_output[:, at] if kind is NeuronKind.FFN else 0)
        scores = log_p(bases[layers] + entries.contributions(every)) - log_p(bases)[layers]

        def ends(kind: NeuronKind, layer: int) -> tuple[Tensor, Tensor]:
            logits = run.entries(kind).values(layer) @ model.unembedding.folded.T
            return logits.amax(dim=1), logits.amin(dim=1)

        for ranges in (None, ends):
            found, certificate = run.raising(kind, TOP)
            _same(found, scores.topk(TOP).values)
            assert certificate.scored < certificate.total
            found, _ = run.lowering(kind, TOP, ranges)
            _same(found, -(-scores).topk(TOP).values)


def _same(found: Any, scores: Tensor) -> None:
    torch.testing.assert_close(torch.tensor([one.score for one in found]).double(), scores, atol=2e-5, rtol=1e-4)


def tokenizer_bytes(name: str) -> None:
    """The tokens' bytes are the text, and the ids those of the tokenizer's own file."""
    model = language_model(name)
    tokens = TokenBytes(model.tokenizer)
    own = AutoTokenizer.from_pretrained(model.checkpoint.folder).backend_tokenizer
    for text in (PROMPT, "a\tb\n\nΣ 🙂  é", " leading"):
        ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert ids == own.encode(text, add_special_tokens=False).ids
        joined = b"".join(tokens.bytes_of(one) for one in ids).decode()
        assert joined in (text, f" {text}")


def effects(name: str) -> None:
    """Measured effects, and zeroing, against plain hooked runs of the whole prompt."""
    run = run_of(name)
    model, row, at = run.model, run.model.architecture, run.stream.position
    multiplier, whole = model.dimensions.residual_multiplier, list(run.token_ids)
    for kind, part in ((NeuronKind.FFN, row.ffn_writes), (NeuronKind.ATTENTION, row.attention_writes)):
        best = [*run.raising(kind, 3)[0], *run.lowering(kind, 3, None)[0]]
        entries = run.entries(kind)
        numbers = torch.tensor([entries.numbers(one.neuron)[one.position or 0] for one in best])
        contributions = entries.contributions(numbers)
        for one, contribution, effect in zip(best, contributions, Effects.of(run).neurons(best), strict=True):
            module = model.module.get_submodule(f"{row.layers}.{one.neuron.layer}.{part}")
            handle = module.register_forward_hook(_less(contribution / multiplier, at))
            changed = _log_p(model, whole, run.target_id)
            handle.remove()
            plain = float(run.log_probabilities[run.target_id]) - changed
            assert abs(effect - plain) <= 1e-4, f"{one.neuron.label}: {effect} and {plain}"
    size, clean = model.dimensions, float(run.log_probabilities[run.target_id])
    some = next(one.neuron for one in run.raising(NeuronKind.FFN, 1, Part(1))[0])  # of an expert, where there are any
    parts = [Part.of(some), Part.parse("L1.H2@3"), Part.parse("L1.ffn")]
    together = Effects.of(run).together([[one] for one in parts])
    runs = [_without(model, some, whole, run.target_id, at)]
    taken = source_contributions(run, 1, 2)[3] / multiplier
    handle = _block(model, row.attention_writes).register_forward_hook(_less(taken, at))
    runs.append(_log_p(model, whole, run.target_id))
    handle.remove()
    runs.append(_without_ffn(model, whole, run.target_id, at))
    for effect, changed in zip(together, runs, strict=True):
        assert abs(effect - (clean - changed)) <= 1e-4
    head = slice(2 * size.head_dim, 3 * size.head_dim)
    handle = _block(model, row.attention_output).register_forward_pre_hook(_silent(head))
    headless = _log_p(model, whole, run.target_id)
    handle.remove()
    for zeroed, changed in (
        (Part.of(some), _without(model, some, whole, run.target_id)),
        (Part.of(Head(1, 2)), headless),
        (Part.parse("L1.ffn"), _without_ffn(model, whole, run.target_id)),
    ):
        found = without(run, [zeroed])
        assert abs(float(found.log_probabilities[run.target_id]) - changed) <= 1e-4


def _without(model: LanguageModel, neuron: Neuron, ids: list[int], target: int, at: int | None = None) -> float:
    """log p(target) of a plain run without an FFN neuron of layer 1, at one position or at all."""
    row = model.architecture
    columns = slice(neuron.index, neuron.index + 1)
    if neuron.expert is None:
        output = row.ffn_output
        if row.mixture is not None and model.dimensions.has_experts(1):
            output = row.mixture.of_shared(row.ffn, output)
        handle = _block(model, output).register_forward_pre_hook(_silent(columns, at))
    else:
        assert row.mixture is not None
        hook = _less_of_expert(neuron.expert, neuron.index, at)
        handle = _block(model, row.mixture.module).register_forward_hook(hook)
    with as_in_transformers(model.module):
        found = _log_p(model, ids, target)
    handle.remove()
    return found


def _without_ffn(model: LanguageModel, ids: list[int], target: int, at: int | None = None) -> float:
    """The same without all that layer 1's FFN adds, biases included."""
    here = slice(None) if at is None else at
    parts = model.architecture.ffn_adds(model.dimensions, 1)
    handles = [_block(model, part).register_forward_hook(_less(None, here)) for part in parts]
    found = _log_p(model, ids, target)
    for handle in handles:
        handle.remove()
    return found


def _less_of_expert(expert: int, index: int, at: int | None) -> Any:
    """Takes from what experts add what one neuron of one of them does, by the experts' own weights."""

    def hook(module: Any, args: tuple[Tensor, Tensor, Tensor], output: Tensor) -> Tensor:
        hidden, chosen, weights = args
        reads, writes = module.gate_up_proj[expert], module.down_proj[expert]
        if module.is_transposed:
            reads, writes = reads.T, writes.T
        both = nn.functional.linear(hidden, reads, module.gate_up_proj_bias[expert] if module.has_bias else None)
        active = module._apply_gate(both)[:, index] * (weights * (chosen == expert)).sum(dim=-1)
        taken = active[:, None] * writes[:, index]
        if at is not None:
            taken = taken * (torch.arange(len(taken)) == at)[:, None]
        found: Tensor = output - taken
        return found

    return hook


def _block(model: LanguageModel, part: str) -> nn.Module:
    return model.module.get_submodule(f"{model.architecture.layers}.1.{part}")


def _log_p(model: LanguageModel, ids: list[int], target: int) -> float:
    with torch.inference_mode():
        return float(model.module(torch.tensor([ids]), use_cache=False).logits[0, -1].log_softmax(-1)[target])


def _less(vector: Tensor | None, at: int | slice) -> Any:
    """Takes a vector from a module's output; None takes all of it."""

    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        first, *others = output if isinstance(output, tuple) else (output,)
        changed = first.clone()
        changed[..., at, :] -= changed[..., at, :].clone() if vector is None else vector
        return (changed, *others) if others else changed

    return hook


def _silent(columns: slice, at: int | None = None) -> Any:
    """At one position, or at all."""

    def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        changed = args[0].clone()
        changed[..., slice(None) if at is None else at, columns] = 0
        return (changed,)

    return hook


ASKED: dict[str, Callable[[str], None]] = {
    "identities hold": identities,
    "certified = exhaustive": certified,
    "tokenizer bytes": tokenizer_bytes,
    "effects = plain": effects,
}

REAL = {"llama": "SmolLM2-135M-Instruct", "gemma3_text": "gemma-3-270m"}
"""Families that are checked on real weights too (tests/indexer/test_every_family.py), and on which."""

TABLE = CHECKOUT / "indexer" / "README.md"
_MARKS = "<!-- families: begin -->\n", "<!-- families: end -->"


def line_of(family: str) -> str:
    """The family's line of the table, as it comes out; its cases are all asked."""
    cases = [name for name, case in CASES.items() if case.family == family]
    cells = [family, ", ".join(sorted({CASES[name].tokenizer for name in cases}))]
    for ask in ASKED.values():
        for name in cases:
            ask(name)
        cells.append("yes")
    return _line(cells)


def table() -> str:
    """All three tiers."""
    head = ["model type", "tokenizer tried", *ASKED]
    ruler = _line(["---"] * len(head))
    lines = []
    for title, chosen in (
        (f"Verified on real weights ({', '.join(sorted(REAL.values()))})", sorted(REAL)),
        ("Identities hold, on small random models", sorted(ARCHITECTURES.keys() - REAL.keys())),
        ("Read by the generic rule: among those without a row, some for which it finds one", sorted(BY_RULE)),
    ):
        lines += [f"**{title}**", "", _line(head), ruler, *map(line_of, chosen), ""]
    lines += ["**Read by the language trunk, which is all that a text passes**", ""]
    lines += [_line(["model types", "what holds"]), _line(["---"] * 2)]
    lines += [
        _line([", ".join(sorted(WRAPPERS)), "the line of the trunk's own type; logits are those of the whole"]),
        "",
    ]
    lines += ["**Refused by name, with the reason**", "", _line(["model types", "reason"]), _line(["---"] * 2)]
    for why in sorted(set(REFUSED.values())):
        lines.append(_line([", ".join(sorted(name for name in REFUSED if REFUSED[name] == why)), why]))
    return "\n".join(lines) + "\n"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def written_table() -> str:
    """The one in the README."""
    begin, end = _MARKS
    return TABLE.read_text(encoding="utf-8").partition(begin)[2].partition(end)[0]


def main() -> None:
    begin, end = _MARKS
    text = re.sub(f"(?<={begin}).*?(?={end})", table(), TABLE.read_text(encoding="utf-8"), flags=re.DOTALL)
    TABLE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
