"""A loaded model with everything the analysis needs, checked before it is handed out."""

import threading
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from db.errors import AtlasError
from indexer.checkpoint import Checkpoint
from indexer.families import Architecture, Dimensions, dimensions_of
from indexer.forward import ResidualStream, capture
from indexer.identities import check_identities, check_shapes, probe_tokens
from indexer.tokens import TokenBytes
from indexer.unembedding import Unembedding
from indexer.weights import Weights, live_weights


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """One model in memory, float32. `forward` is safe to call from several threads: one pass runs at a time."""

    name: str
    family: str
    module: torch.nn.Module
    tokenizer: Any
    tokens: TokenBytes
    architecture: Architecture
    dimensions: Dimensions
    weights: Weights
    unembedding: Unembedding
    lock: threading.RLock = field(default_factory=threading.RLock)

    def forward(self, token_ids: list[int], patterns: Collection[int] = ()) -> ResidualStream:
        """One hooked pass; the last token is the analysed position. patterns: layers whose whole attention is kept."""
        with self.lock:
            return capture(self.module, self.architecture, self.dimensions, torch.tensor(token_ids), patterns)


def load_model(checkpoint: Checkpoint, *, layers: int | None = None) -> LanguageModel:
    """Load in float32 and check the architecture row by the identities.

    Args:
        checkpoint: what to load.
        layers: load only the first so many layers, to check a large model's row without holding it; None loads all.

    Raises:
        AtlasError: the family is unknown, the files are unreadable, or an identity fails.
    """
    architecture, config = checkpoint.architecture, checkpoint.config
    if layers is not None:
        fewer = {**config.to_dict(), "num_hidden_layers": min(layers, config.num_hidden_layers)}
        if fewer.get("layer_types"):  # one a layer, and a config checks it when it is made
            fewer["layer_types"] = fewer["layer_types"][: fewer["num_hidden_layers"]]
        config = type(config).from_dict(fewer)
    module = _load_module(checkpoint, config)
    dimensions = dimensions_of(config)
    weights = live_weights(module, architecture, dimensions)
    model = LanguageModel(
        name=checkpoint.name,
        family=str(config.model_type),
        module=module,
        tokenizer=checkpoint.tokenizer,
        tokens=TokenBytes(checkpoint.tokenizer),
        architecture=architecture,
        dimensions=dimensions,
        weights=weights,
        unembedding=Unembedding.from_weights(weights, checkpoint.epsilon()),
    )
    check_shapes(weights, model.family)
    stream = model.forward(probe_tokens(dimensions.vocabulary).tolist())
    check_identities(stream, weights, model.unembedding, model.family)
    return model


def _load_module(checkpoint: Checkpoint, config: Any) -> torch.nn.Module:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        module, report = AutoModelForCausalLM.from_pretrained(
            checkpoint.folder,
            config=config,
            dtype=torch.float32,
            attn_implementation="eager",  # the only one that returns the attention weights
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:  # transformers, safetensors and torch each raise their own
        line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise AtlasError(f"The model in {checkpoint.folder} cannot be loaded ({line}). Fetch it again.") from error
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
    if report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"])[:3])
        raise AtlasError(
            f"The weights in {checkpoint.folder} are incomplete: {len(report['missing_keys'])} tensors are missing "
            f"({missing} …) and would be random. Fetch the model again."
        )
    found: torch.nn.Module = module.eval().requires_grad_(False).to(device)
    _let_go_of_files(found)
    return found


def _let_go_of_files(module: torch.nn.Module) -> None:
    """Copy the weights into memory of our own, one by one. Loaded tensors may be maps of their file, and a process that
    reads a map whose file was cut short is killed by the system.
    """
    for tensor in (*module.parameters(), *module.buffers()):  # tied ones come once
        if tensor.device.type == "cpu":
            tensor.data = tensor.data.clone()
