"""What is no language model in plain numbers, by its config or its files, and what to do instead."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from db.errors import AtlasError

_LANGUAGE_MODELS = ("ForCausalLM", "LMHeadModel")
"""How transformers' classes of language models end. A base model's ends with “Model” alone."""
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER_CONFIG = "adapter_config.json"
SAVE_AGAIN = "AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW)"
_PICKLED = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}

# Families.

_REFUSED = {
    "its router multiplies what experts read, not what they write": "llama4_text",
    "its attention chooses among experts": "jetmoe",
    "its experts are kept in a layout of their own": "dbrx",
    "it has layers without attention": "bailing_hybrid bamba falcon_h1 falcon_mamba jamba kimi_linear "
    "lfm2 lfm2_moe lfm3 mamba mamba2 minimax nemotron_h olmo_hybrid qwen3_5_moe_text qwen3_5_text qwen3_next "
    "qwen4_exp_text recurrent_gemma rwkv xlstm zamba zamba2",
    "a gate stands between what its heads read and what they write": "afmoe beam hy_v4 laguna",
    "it is an encoder-decoder": "bart bigbird_pegasus blenderbot blenderbot-small led longt5 m2m_100 marian mbart mt5 "
    "musicgen musicgen_melody mvp pegasus plbart prophetnet t5 t5gemma trocr umt5 whisper",
    "it is a wrapper that reads pictures or sound too": "emu3 fuyu gemma4 gemma4_unified git got_ocr2 llama4 mllama "
    "moshi paligemma phi4_multimodal qwen3_5 qwen3_5_moe qwen4_exp",
    "the whole of it does not multiply its logits as its language trunk does": "aya_vision",
    "it reads texts in both directions": "bert bert-generation big_bird camembert data2vec-text electra ernie "
    "megatron-bert modernbert rembert roberta roberta-prelayernorm roc_bert roformer xlm xlm-roberta "
    "xlm-roberta-xl xlnet xmod",
    "a norm stands between its neurons and their value vectors": "bitnet",
    "its queries, keys and values are fused in an order of their own": "codegen",
    "its heads subtract one attention pattern from another": "diffllama",
    "its residual stream has several copies, which each layer mixes": "deepseek_v4 gemma3n gemma3n_text reformer",
    "its layers multiply the residual stream": "doge gemma4_text gemma4_unified_text zaya",
    "its attention's sinks stand outside the weights that its code gives": "granite_swa granitemoe_swa",
    "its values are mixed with those of earlier tokens before attention reads them": "inkling2_text inkling_text",
    "what it multiplies its sub-layers' outputs by depends on the number of layers": "minicpm3",
    "its norms stand behind the sums, so that it has no residual stream": "openai-gpt",
    "its final norm stands in front of the first layer too": "nanochat",
}

REFUSED: dict[str, str] = {name: why for why, names in _REFUSED.items() for name in names.split()}
"""Why a family has no row, where that is known."""


# Configs.

_WRAPPER = "ForConditionalGeneration"


def require_language_model(config: Mapping[str, Any], folder: Path, *, wrapper: bool = False) -> None:
    """Is the content of a config.json that of a language model in plain numbers, or of one that is a wrapper's trunk?

    Raises:
        AtlasError: it is not; the message says what it is of instead, and what to do.
    """
    if config.get("is_encoder_decoder"):
        raise as_other_task(folder, "its config is an encoder-decoder's")
    if config.get("is_causal") is False:
        raise as_other_task(folder, "by its config it reads texts in both directions, as embedding models do")
    if any((folder / name).is_file() for name in ("modules.json", "config_sentence_transformers.json")):
        raise as_other_task(folder, "it is an embedding model of sentence-transformers")
    names = names_of_classes(config)
    if names and not is_named_language_model(config) and not (wrapper and names[0].endswith(_WRAPPER)):
        if names[0].lower() == f"{config.get('model_type')}model":
            ending = _LANGUAGE_MODELS[config["model_type"] == "gpt2"]
            raise as_base_model(folder, f"its config, “{names[0]}”,", names[0].removesuffix("Model") + ending)
        raise as_other_task(folder, f"its config names {names[0]}")
    for key in ("quantization_config", "compression_config", "quantization"):
        if given := config.get(key):
            method = given.get("quant_method") or given.get("bits") if isinstance(given, Mapping) else None
            raise as_quantised(folder, f"{key} in its config{f': {method}' if method else ''}")


def names_of_classes(config: Mapping[str, Any]) -> list[str]:
    """Of the model classes that a config names."""
    given = config.get("architectures") or []
    return [str(name) for name in given] if isinstance(given, list) else [str(given)]


def is_named_language_model(config: Mapping[str, Any]) -> bool:
    """Whether one of them is a language model's."""
    return any(name.endswith(_LANGUAGE_MODELS) for name in names_of_classes(config))


def as_quantised(folder: Path, sign: str) -> AtlasError:
    """The refusal of a quantised model, and what it shows by."""
    return AtlasError(
        f"The model in {folder} is quantised ({sign}): what its files hold are codes, not weights. Give the model that "
        "it was made from, in float32, float16 or bfloat16; or dequantise it and save that."
    )


def as_other_task(folder: Path, sign: str) -> AtlasError:
    """The refusal of a model that was trained for something else than next tokens."""
    return AtlasError(
        f"{folder} is no language model: {sign}. Its neurons say nothing about next tokens. Give a language model, "
        "such as the one that it was made from."
    )


def as_base_model(folder: Path, sign: str, loader: str) -> AtlasError:
    """The refusal of a model that was saved without a head, which may be an embedding model."""
    return AtlasError(
        f"{folder} may be no language model: by {sign} it was saved without a head, as embedding models are. If its "
        f'head is its embedding, say so in config.json, "architectures": ["{loader}"]; else save it with its head.'
    )


# Folders without a model's files, by what they hold instead.


def no_weights(folder: Path) -> str:
    """What a folder without a model's files has instead, and what to do: the rest of a sentence."""
    paths = sorted(path for path in folder.iterdir() if path.is_file())
    lost = [
        path for path in folder.iterdir() if path.suffix == ".safetensors" and path.is_symlink() and not path.exists()
    ]

    def named(found: list[Path]) -> str:
        return ", ".join(path.name for path in found[:3]) + (" …" if len(found) > 3 else "")

    if lost:
        return f"links to weights that are no longer there ({named(sorted(lost))}). Fetch or copy the files."
    if found := [path for path in paths if path.suffix == ".safetensors"]:
        if any(re.search(r"-\d+-of-\d+$", path.stem) for path in found):
            return (
                f"shards ({named(found)}) without {INDEX}, which tells that they are the model. Fetch or copy that too."
            )
        if all(path.name.startswith("consolidated") for path in found):
            return (
                f"the weights in their maker's own form only ({named(found)}). Give the folder in transformers' form, "
                f"with {SINGLE}."
            )
        return (
            f"no {SINGLE}, and transformers loads no file of another name ({named(found)}). If that is the model, give "
            f"it that name."
        )
    if found := [path for path in paths if path.suffix == ".gguf"]:
        return (
            f"GGUF files only ({named(found)}). Give the path of one of them, which is dequantised once; or the model "
            "that they were made from."
        )
    if found := [path for path in paths if path.suffix in _PICKLED]:
        return (
            f"no safetensors file, only pickled ones ({named(found)}), which can run code and are never loaded. Save "
            f"the model as safetensors where you trust it: {SAVE_AGAIN}."
        )
    return (
        "no safetensors file. Weights are read from safetensors only: copy model.safetensors, or its shards and their "
        "index, into the folder."
    )


def adapter_files(folder: Path) -> list[str]:
    return sorted(
        path.name
        for pattern in (ADAPTER_CONFIG, "adapter_model*.safetensors", "adapter_model*.bin")
        for path in folder.glob(pattern)
    )


def adapter_too(folder: Path, files: list[str]) -> AtlasError:
    return AtlasError(
        f"{folder} holds a model and an adapter ({', '.join(files)}), and nothing says whether the two belong "
        "together. Merge them (peft: merge_and_unload) and save the result; or, for the model without it, move the "
        "adapter's files away."
    )


def adapter_alone(folder: Path) -> AtlasError:
    """Why a folder with an adapter and no model is refused."""
    config = read_json(folder / ADAPTER_CONFIG)
    base = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    return AtlasError(
        f"{folder} holds an adapter{f' for {base}' if base else ''} (LoRA or the like), not a model. LoRA is merged "
        "here where the base is a folder or in the hub's cache. Else merge it into its base (peft: merge_and_unload), "
        "save the result with save_pretrained, and give that folder."
    )


def read_json(path: Path) -> Any:
    """The file's content; None where there is none to read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
