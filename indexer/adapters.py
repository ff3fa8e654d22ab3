"""A LoRA adapter and its base as one model: merged by peft, once, into a folder of plain weights.

peft passes over tensors that it does not know, draws those that it does not find, and warns of what it merges wrongly.
All three are refused here: the names must agree, and the result must compute what base and adapter do apart.
"""

import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from db.command_line import say
from db.errors import AtlasError, first_line
from db.lazy import lazy_import
from indexer import dequantised
from indexer.refusals import ADAPTER_CONFIG, read_json

if TYPE_CHECKING:
    import peft
    import torch

    from indexer import stored
else:
    peft, torch, stored = lazy_import("peft"), lazy_import("torch"), lazy_import("indexer.stored")

_ADAPTER_WEIGHTS = "adapter_model.safetensors"
_ADAPTED = {
    *("r", "lora_alpha", "use_rslora", "use_dora", "fan_in_fan_out", "rank_pattern", "alpha_pattern", "bias"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save"),
}
"""What an adapter's config says of how it is merged. Anything else that it sets is refused by name."""
_OF_ITS_TRAINING = {
    *("peft_type", "task_type", "base_model_name_or_path", "revision", "inference_mode", "peft_version"),
    *("lora_dropout", "init_lora_weights", "auto_mapping", "megatron_core", "ensure_weight_tying"),
}
_PROBE, _MERGED = 8, 1e-3
"""Tokens on which base with adapter and the merged model must agree, and how closely, of the largest logit."""
_DRAWN = (None, True, False, "gaussian")
"""How an adapter may have begun: other beginnings change the base too."""


def base_of(folder: Path) -> str:
    """What an adapter's config says that it changes.

    Raises:
        AtlasError: it names nothing, or is of a kind that is not merged here; the message says which.
    """
    config, advice = read_json(folder / ADAPTER_CONFIG), "Merge it (peft: merge_and_unload) and save the result."
    if not isinstance(config, dict) or not config.get("base_model_name_or_path"):
        raise AtlasError(f"The adapter in {folder} does not say in {ADAPTER_CONFIG} what its base is. {advice}")
    kind = config.get("peft_type")
    if kind != "LORA":
        raise AtlasError(f"The adapter in {folder} is of type {kind}; merged here is LoRA alone. {advice}")
    beyond = sorted(name for name, one in config.items() if one and name not in _ADAPTED | _OF_ITS_TRAINING)
    if config.get("init_lora_weights") not in _DRAWN:
        beyond.append(f"init_lora_weights {config['init_lora_weights']}")
    if beyond:
        raise AtlasError(f"The adapter in {folder} sets {', '.join(beyond)}, which is not merged here. {advice}")
    if not (folder / _ADAPTER_WEIGHTS).is_file():
        raise AtlasError(
            f"The adapter in {folder} has no {_ADAPTER_WEIGHTS}; pickled weights are never loaded. {advice}"
        )
    return str(config["base_model_name_or_path"])


def merged(folder: Path, name: str, base: Path, identity: str, models: Path) -> Path:
    """The folder in `models` that holds an adapter's base with the adapter merged into it; made the first time.

    Args:
        folder: the adapter's.
        name: its.
        base: the folder of the model that it changes.
        identity: of that model.
        models: where the folder is made.

    Raises:
        AtlasError: the two do not belong together, or the folder cannot be written.
    """
    parts = (folder / ADAPTER_CONFIG, folder / _ADAPTER_WEIGHTS)
    digest = dequantised.digest_of(*parts, identity)
    made = dequantised.place_for(folder, name, digest, models)
    if dequantised.is_whole(made, digest):
        return made
    room = 4.0 * sum(math.prod(place.shape) for place in stored.headers(stored.safetensors_files(base)).values())

    def fill(partial: Path) -> None:
        say(f"Merging the adapter {name} into {base}, into {made}: once, {room / 1e9:.1f} GB of float32 ...")
        stamp = {"model": name, "source": str(folder.resolve()), "source_sha256": digest, "base": identity}
        label = f"LoRA adapter {name} merged into {base.name}"
        tokenizer = dequantised.TokenizerFiles(folder if (folder / "tokenizer_config.json").is_file() else base)
        dequantised.write(
            _merge(folder, dequantised.read_whole(base)),
            tokenizer,
            partial,
            stamp | {"adapter": label},
            dequantised.quantisation_of(base),
        )

    dequantised.make(made, lambda: dequantised.is_whole(made, digest), fill, room=1.1 * room)
    return made


def _merge(folder: Path, model: Any) -> Any:
    given = read_json(folder / ADAPTER_CONFIG)
    config = peft.LoraConfig(**{name: given[name] for name in _ADAPTED & given.keys()}, inference_mode=True)
    try:
        with dequantised.silently(), warnings.catch_warnings(action="ignore"):
            found = peft.PeftModel.from_pretrained(model, folder, config=config)
        read = peft.get_peft_model_state_dict(found)
    except Exception as error:  # torch's, of sizes; peft's, of names
        raise AtlasError(f"The adapter in {folder} does not fit its base: {first_line(error)}.") from error
    if differ := sorted(stored.headers([folder / _ADAPTER_WEIGHTS]).keys() ^ read.keys()):
        raise AtlasError(
            f"The adapter in {folder} does not fit its base: there or in its files alone are {', '.join(differ[:3])}."
        )
    ids = torch.arange(_PROBE)[None]
    with torch.no_grad(), warnings.catch_warnings(action="ignore"):
        apart = found(ids).logits
        whole = found.merge_and_unload(safe_merge=True)
        whole.config.tie_word_embeddings = whole.get_output_embeddings().weight is whole.get_input_embeddings().weight
        off = (whole(ids).logits - apart).abs().max() / apart.abs().max()
    if not off <= _MERGED:
        raise AtlasError(
            f"The adapter in {folder} cannot be merged: the result computes something else (by {off:.1e})."
        )
    return whole


def adapter_of(folder: Path) -> str | None:
    """Which adapter was merged into the weights in a folder; None where none was, or where nobody says so."""
    found = dequantised.stamp_of(folder).get("adapter")
    return None if found is None else str(found)
