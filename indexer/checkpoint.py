"""Where weights, config and tokenizer come from: a model that is fetched, a folder, a GGUF file, or a hub id where
there is a network.

Weights are read from safetensors only and no code of a checkpoint is ever run.
"""

import hashlib
import json
import math
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import huggingface_hub
import torch
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    IncompleteSnapshotError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from db import settings
from db.errors import AtlasError, first_line
from db.files import State, sha256_of, state_of
from indexer import adapters, demo_model, dequantised
from indexer.architecture import Architecture, Dimensions
from indexer.dequantised import quietly
from indexer.experts import expert_files
from indexer.families import ARCHITECTURES, TRUNKS, WRAPPERS, architecture_of, dimensions_of, epsilon_of
from indexer.generic import row_of
from indexer.probe import config_of_first
from indexer.refusals import (
    INDEX,
    REFUSED,
    SINGLE,
    adapter_alone,
    adapter_files,
    is_named_language_model,
    no_weights,
    require_language_model,
)
from indexer.stored import PLAIN, Promised, Stored, other_weights, safetensors_files, stored_tensors, unread_tensors
from indexer.tokens import load_tokenizer
from indexer.weights import Weights, file_weights

_BESIDE_A_CONFIG = {"", ".jinja", ".json", ".md", ".model", ".py", ".txt"}
"""Endings of files that lie where the weights do not."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_READ = ("*.safetensors.index.json", "config.json", "*token*.json", "vocab.*", "merges.txt", "*.model", "*.jinja")
_NOT_THE_MODEL = ("original/*", "onnx/*", "consolidated*")
_HUB_FILES = (
    "*.safetensors",
    "*.safetensors.index.json",
    "*.json",
    "tokenizer.model",
    "merges.txt",
    "vocab.*",
    "*.jinja",
)


@dataclass(frozen=True)
class Checkpoint:
    """A model on disk: a folder with config, tokenizer and safetensors; for an estimate, its config alone."""

    name: str
    folder: Path
    revision: str | None = None  # the hub's commit, where it came from one
    hub_id: str | None = None  # likewise its name there
    config_alone: Path | None = None  # the file that tells its config, where nothing else is read
    coded: str | None = None  # what a build does first where files hold no plain weights: “dequantises the file”

    @property
    def source(self) -> str:
        """What `locate` finds this checkpoint by, from any folder: its hub id or its absolute path."""
        return self.hub_id or str(self.folder.resolve())

    @cached_property
    def config(self) -> Any:
        """The transformers config, of a language model in plain numbers and of a known family; AtlasError if not."""
        path = self.config_alone or self.folder / "config.json"
        if path.suffix == dequantised.SUFFIX:
            return dequantised.config_of(path, dequantised.read_header(path))
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise AtlasError(
                f"{path} is not readable as JSON ({first_line(error)}). Copy the model's own there."
            ) from error
        if not isinstance(content, dict) or not content.get("model_type"):
            raise AtlasError(f"{path} is no model's config: it gives no model_type. Copy the model's own there.")
        if self.coded:
            content.pop("quantization_config", None)
        if content["model_type"] in REFUSED:
            architecture_of(SimpleNamespace(model_type=content["model_type"]))
        require_language_model(content, self.folder, wrapper=content["model_type"] in WRAPPERS and not self.coded)
        if content["model_type"] not in CONFIG_MAPPING:
            architecture_of(SimpleNamespace(model_type=content["model_type"]))
        try:
            with quietly():
                found = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
                if self.coded:
                    found.__dict__.pop("quantization_config", None)
                return _trunk_of(found) if found.model_type in WRAPPERS else found
        except Exception as error:  # transformers' checks of a config raise their own
            raise AtlasError(
                f"{path} is no config of the family “{content['model_type']}” ({first_line(error)}). Copy the model's "
                "own there."
            ) from error

    @cached_property
    def wrapper(self) -> str | None:
        """The family of the whole, where this is the language trunk of a model that reads pictures too."""
        path = self.config_alone or self.folder / "config.json"
        if path.suffix == dequantised.SUFFIX:
            return None
        family = json.loads(path.read_text(encoding="utf-8"))["model_type"]
        return family if family in WRAPPERS else None

    @cached_property
    def tokenizer(self) -> Any:
        """The transformers tokenizer; see `indexer.tokens.load_tokenizer`."""
        with quietly():
            return load_tokenizer(self.folder)

    @cached_property
    def architecture(self) -> Architecture:
        """The family's row, or the one that the generic rule found."""
        return row_of(self.config)

    @cached_property
    def dimensions(self) -> Dimensions:
        found = dimensions_of(self.config, self.architecture)
        if self.wrapper and (found.logit_multiplier != 1 or found.soft_cap):
            raise AtlasError(
                f"The model in {self.folder} (“{self.wrapper}”) is not supported: the whole of it does not change its "
                f"logits as its language trunk (“{self.config.model_type}”) does, so that the trunk is another model."
            )
        return found

    @cached_property
    def stored(self) -> dict[str, Stored]:
        """Where each tensor of the model lies, from the files' headers; AtlasError unless they are what it needs."""
        return stored_tensors(self.folder, self._promised())

    def weights(self) -> Weights:
        """The matrices, read tensor by tensor; the model is never instantiated."""
        return file_weights(self.stored, self.architecture, self.dimensions)

    @property
    def stored_dtype(self) -> torch.dtype:
        """The type of most of the files' numbers; a model loaded in it is a map of its files and takes no memory."""
        size: dict[str, int] = {}
        for place in self.stored.values():
            size[place.dtype] = size.get(place.dtype, 0) + math.prod(place.shape)
        return PLAIN[max(size, key=lambda dtype: size[dtype])]

    @property
    def family(self) -> str:
        """The config's model_type, and how it is read, where that is not plain; as a build's stamp has it."""
        trunk = f", trunk of {self.wrapper}" if self.wrapper else ""
        rule = "" if self.config.model_type in ARCHITECTURES else ", read by the generic rule"
        adapted = f", {adapter}" if (adapter := adapters.adapter_of(self.folder)) else ""
        return f"{self.config.model_type}{trunk}{rule}{adapted}"

    @cached_property
    def readings(self) -> tuple[str, ...]:
        """How the model is read, where that is not plain, in sentences."""
        found = []
        if self.wrapper:
            found.append(
                f"The model (“{self.wrapper}”) reads pictures too. Only its language trunk is read "
                f"(“{self.config.model_type}”), which is all that a text alone passes."
            )
        if self.config.model_type not in ARCHITECTURES:
            found.append(
                f"The family “{self.config.model_type}” has no row of its own: it is read by the generic rule, whose "
                "row passed every identity."
            )
        return tuple(found)

    def notices(self) -> list[str]:
        """What of the folder is not used, and how the rest is read, in sentences."""
        found = list(self.readings)
        if self.coded:
            found.append(f"A build first {self.coded} into a folder of float32 weights, once.")
            return found
        if self.config_alone is not None:
            found.append(
                "Only the config was looked at. Whether its files are fit for a build shows when they are here."
            )
            return found
        if self.wrapper and (unread := unread_tensors(self.folder, self.stored)):
            found.append(f"{len(unread)} tensors outside the trunk are not read ({', '.join(unread[:2])} …).")
        if self.quantisation:
            found.append(
                f"The weights were dequantised ({self.quantisation}), so they differ a little from those that their "
                "makers trained."
            )
        if adapter := adapters.adapter_of(self.folder):
            found.append(f"The weights are of two: {adapter}.")
        if others := other_weights(self.folder):
            used = ", ".join(path.name for path in safetensors_files(self.folder)[:2])
            more = f" and {len(others) - 3} more" if len(others) > 3 else ""
            found.append(f"The model is {used}, as transformers loads it; not read: {', '.join(others[:3])}{more}.")
        if getattr(self.config, "auto_map", None):
            found.append("The folder brings code of its own, which is never run: transformers' own class is used.")
        return found

    @property
    def quantisation(self) -> str | None:
        """How the weights were quantised before they were put into this folder; None where they were not."""
        return dequantised.quantisation_of(self.folder)

    def _promised(self) -> Promised:
        """All layers have the parameters of the first, so that one tells their names and shapes; but where there are
        experts, in some layers only.
        """
        mixture = self.architecture.mixture is not None
        config = self.config if mixture else config_of_first(self.config, 1)
        module = self._without_tensors(config)
        row = self.architecture
        shapes: dict[str, tuple[int, ...]] = {}
        for name, parameter in module.state_dict().items():
            first = f"{row.layers}.0."
            every = range(self.dimensions.layers) if name.startswith(first) and not mixture else (0,)
            shapes |= {name.replace(first, f"{row.layers}.{layer}.", 1): tuple(parameter.shape) for layer in every}
        tied = next(iter(module.all_tied_weights_keys.items()), None)
        return Promised(
            shapes,
            module.base_model_prefix,
            tied,
            type(module).__name__,
            bool(self.wrapper) or is_named_language_model(self.config.to_dict()),
            row.layers,
            f"{row.embedding}.weight",
            (f"{row.old_head}.weight", f"{row.head}.weight") if row.old_head else None,
            expert_files(module) if mixture else None,
            bool(self.wrapper),
            dequantised.SCALE if self.coded else None,
        )

    def _without_tensors(self, config: PretrainedConfig) -> PreTrainedModel:
        try:
            with quietly(), torch.device("meta"):
                module: PreTrainedModel = AutoModelForCausalLM.from_config(config)
        except Exception as error:  # each model checks its config in its own way
            raise AtlasError(
                f"transformers makes no model of {self.folder / 'config.json'} ({type(error).__name__}: "
                f"{first_line(error)}). Copy the model's own there."
            ) from error
        return module

    @property
    def parameters(self) -> int:
        """How many numbers the model has, by its config; tied ones count once.

        Raises:
            AtlasError: the config makes no model.
        """
        return sum(one.numel() for one in self._without_tensors(self.config).parameters())

    def epsilon(self) -> float:
        """Of all norms."""
        return epsilon_of(self.config, self.architecture)

    @cached_property
    def identity(self) -> str:
        """The hub's commit, or the SHA-256 of the weight files' bytes: by it, and not by its name, a checkpoint is
        joined with its catalogue and its results.

        Raises:
            AtlasError: the files cannot be read, or are being written.
        """
        return f"revision {self.revision}" if self.revision else self._content

    @cached_property
    def _content(self) -> str:
        digest = hashlib.sha256()
        for path in safetensors_files(self.folder):
            digest.update(bytes.fromhex(sha256_of(path)))
        return f"sha256 {digest.hexdigest()}"

    def has(self, identity: str) -> bool:
        """Whether an identity is this checkpoint's, which has two where it lies in the hub's cache: the commit, and
        the hash of its files for whoever names the folder.
        """
        if identity == self.identity:
            return True
        if self.revision:
            return identity == self._content
        place = self.folder.resolve()
        return place.parent.name == "snapshots" and identity == f"revision {place.name}"

    @cached_property
    def files(self) -> dict[Path, State | None]:
        """What config, tokenizer and weights are read from, with the state of each when this was first asked for."""
        found = {path for pattern in _READ for path in self.folder.glob(pattern)} | set(safetensors_files(self.folder))
        return {path: state_of(path) for path in sorted(found)}

    @property
    def is_unchanged(self) -> bool:
        """Whether the files are still those that `files` found."""
        try:
            return Checkpoint(self.name, self.folder).files == self.files
        except (AtlasError, OSError):  # some of them are gone
            return False

    @cached_property
    def tokenizer_json(self) -> str | None:
        """The tokenizer in the `tokenizers` library's format; None for tokenizers written in Python."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        return None if backend is None else str(backend.to_str())

    @cached_property
    def tokenizer_hash(self) -> str:
        text = self.tokenizer_json or repr(sorted(self.tokenizer.get_vocab().items()))
        return hashlib.sha256(text.encode()).hexdigest()


def config_only(model: str | Path) -> Checkpoint | None:
    """The model of a config's file, or of a folder (perhaps under ATLAS_MODELS) that holds no weights of any kind; None
    for anything else.
    """
    given = Path(model)
    if given.is_file() and given.suffix == ".json":
        name = given.resolve().parent.name if given.name == "config.json" else given.stem
        return Checkpoint(name, given.parent, config_alone=given)
    folder = given if given.is_dir() else settings.paths().models / given
    path = folder / "config.json"
    if not path.is_file() or any(one.suffix not in _BESIDE_A_CONFIG for one in folder.iterdir()):
        return None
    if adapter_files(folder) or any(folder.glob("*.index.json")):
        return None
    return Checkpoint(folder.resolve().name, folder, config_alone=path)


def locate(model: str, *, models: Path | None = None, make: bool = True) -> Checkpoint:
    """Find a model by “demo”, a folder, the name of a folder under `models` (default: ATLAS_MODELS), a GGUF file, or a
    hub id. What holds no plain weights is made a folder of them under `models` (:mod:`indexer.dequantised`); with
    `make` false it is looked at alone, and what is returned is `coded`.

    Raises:
        AtlasError: nothing of that name, a GGUF file that cannot be read, or the hub cannot be reached.
    """
    models = settings.paths().models if models is None else models
    if known := demo_model.MODELS.get(model):
        folder = models / known.name
        if not (folder / "config.json").is_file():
            raise AtlasError(
                f"{known.title} is not here yet. Run `make index MODEL={model}`, or `python -m indexer fetch-demo "
                f"--model {model}`."
            )
        return Checkpoint(known.name, folder)
    for folder in (Path(model), models / model):
        if folder.is_dir():
            if _is_adapter(folder):
                return _adapted(Checkpoint(folder.resolve().name, folder), models, make=make)
            if not (folder / "config.json").is_file():
                raise _no_model(folder)
            safetensors_files(folder)
            return _decoded(Checkpoint(folder.resolve().name, folder), models, make=make)
    if Path(model).is_file() and Path(model).suffix == dequantised.SUFFIX:
        return _of_gguf(Path(model), models, make=make)
    if Path(model).is_file():
        raise AtlasError(f"{model} is a file; give the folder that holds config.json, the tokenizer and *.safetensors.")
    if Path(model).suffix == dequantised.SUFFIX:
        raise AtlasError(f"There is no file “{model}”.")
    if not _HUB_ID.fullmatch(model) or ".." in model:
        raise AtlasError(f"There is no folder “{model}”, and it is no hub id (owner/name) either.")
    return _decoded(_from_hub(model), models, make=make)


def _of_gguf(path: Path, models: Path, *, make: bool) -> Checkpoint:
    if make:
        folder = dequantised.folder_of(path, models)
        return Checkpoint(folder.name, folder)
    header = dequantised.read_header(path)
    how = f"dequantises the file ({header.quantisation or 'GGUF'})"
    found = Checkpoint(path.stem, path.parent, config_alone=path, coded=how)
    dequantised.require_all_read(path, header, found.parameters)
    return found


def _decoded(found: Checkpoint, models: Path, *, make: bool) -> Checkpoint:
    """The checkpoint itself, or where its files hold codes that can be undone, the one of what they stand for."""
    if _is_adapter(found.folder):
        return _adapted(found, models, make=make)
    kind = dequantised.coding_of(found.folder)
    if kind is None:
        return found
    coded = replace(found, coded=f"dequantises the files ({kind})")
    _ = coded.stored  # refuses what is not as its config says
    dequantised.require_scales(found.folder)
    if not make:
        return coded
    folder = dequantised.of_codes(found.folder, found.name, models, coded.parameters)
    return Checkpoint(folder.name, folder)


def _is_adapter(folder: Path) -> bool:
    return bool(adapter_files(folder)) and not any((folder / name).is_file() for name in (SINGLE, INDEX))


def _adapted(adapter: Checkpoint, models: Path, *, make: bool) -> Checkpoint:
    """An adapter's base, which is here or in the hub's cache, with the adapter merged into it."""
    name, base = adapters.base_of(adapter.folder), None
    there = next((one for one in (Path(name), models / Path(name).name) if one.is_dir()), None)
    if there is not None:
        base = locate(str(there), models=models, make=make)
    elif _HUB_ID.fullmatch(name):
        with suppress(AtlasError):
            base = _decoded(_from_hub(name, cached=True), models, make=make)
    if base is None:
        raise adapter_alone(adapter.folder)
    if not make:
        return replace(base, name=adapter.name, coded=f"merges the adapter into {base.name}")
    made = adapters.merged(adapter.folder, adapter.name, base.folder, base.identity, models)
    return Checkpoint(made.name, made)


def _no_model(folder: Path) -> AtlasError:
    """Why a folder without config.json is none, and which folder may be meant."""
    within = sorted(path.parent for path in (*folder.glob("*/config.json"), *folder.glob("snapshots/*/config.json")))
    if (folder / "modules.json").is_file():
        return AtlasError(f"{folder} is no language model: it is an embedding model of sentence-transformers.")
    if within:
        names = ", ".join(map(str, within[:3])) + (" …" if len(within) > 3 else "")
        return AtlasError(f"{folder} is no model folder: it has no config.json. Do you mean {names}?")
    if any(path.is_file() and path.suffix != ".json" for path in folder.iterdir()):
        return AtlasError(f"{folder} is no model folder: it has no config.json, and it holds {no_weights(folder)}")
    return AtlasError(f"{folder} is no model folder: it has no config.json.")


def _from_hub(model: str, *, cached: bool = False) -> Checkpoint:
    """The hub's snapshot, fetched where it can be reached, or else (with `cached`, in any case) from its cache where
    that has all of the model.
    """
    problem: Exception | None = None
    try:
        folder = Path(
            huggingface_hub.snapshot_download(
                model,
                allow_patterns=list(_HUB_FILES),
                ignore_patterns=list(_NOT_THE_MODEL),
                local_files_only=cached,
            )
        )
    except IncompleteSnapshotError as error:  # perhaps of files that do not matter
        folder, problem = Path(error.snapshot_path), error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise AtlasError(
            f"“{model}” is neither a folder here nor to be had from the hub: {_why_not(error)}. Check the name and the "
            "network, or give the path of a folder with config.json, the tokenizer and *.safetensors."
        ) from error
    checkpoint = Checkpoint(model.rpartition("/")[2], folder, revision=folder.name, hub_id=model)
    try:
        if _is_adapter(folder):
            return checkpoint
        if not (folder / "config.json").is_file():
            raise _no_model(folder)
        safetensors_files(folder)
        return checkpoint
    except AtlasError as lacking:
        if problem is None and (cached or _hub_is_there(model)):
            raise
        raise AtlasError(
            f"“{model}” is only partly in the hub's cache here, and the hub cannot be reached: {_why_not(problem)}. "
            f"{lacking} Run the same command again with a network, or give a folder that holds the whole model."
        ) from lacking


def _hub_is_there(model: str) -> bool:
    try:
        huggingface_hub.model_info(model, timeout=10)
        return True
    except (HfHubHTTPError, httpx2.HTTPError, OSError):
        return False


def _why_not(error: Exception | None) -> str:
    """Why the hub gave nothing, in our words."""
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return "this process is offline (HF_HUB_OFFLINE is set)"
    if isinstance(error, GatedRepoError):
        return "it is gated; accept its licence there and log in (hf auth login)"
    if isinstance(error, RepositoryNotFoundError):
        return "there is no such model, or it is private"
    if isinstance(error, LocalEntryNotFoundError) or error is None:
        return "there is no connection"
    return first_line(error)


def _trunk_of(config: Any) -> Any:
    """The config of the language trunk of a model that reads pictures too."""
    text = config.get_text_config()
    content = text.to_dict() | {"tie_word_embeddings": config.tie_word_embeddings}
    if text.model_type not in TRUNKS:
        return type(text).from_dict(content)
    rope = {name: one for name, one in content["rope_parameters"].items() if not name.startswith("mrope")}
    kind = CONFIG_MAPPING[TRUNKS[text.model_type]]
    return kind.from_dict(content | {"rope_parameters": rope, "model_type": kind.model_type})
