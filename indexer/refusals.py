"""What is no language model in plain numbers, by its config or its files, and what to do instead."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from db.errors import AtlasError

_LANGUAGE_MODELS = ("ForCausalLM", "LMHeadModel")
"""How transformers' classes of language models end. A base model's ends with “Model” alone."""


def require_language_model(config: Mapping[str, Any], folder: Path) -> None:
    """Is the content of a config.json that of a language model in plain numbers?

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
    if names and not is_named_language_model(config):
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
