"""Where weights, config and tokenizer come from: the demo model, a local folder, or a hub id where there is a network.

Weights are read from safetensors only and no code of a checkpoint is ever run.
"""

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from transformers import AutoConfig, AutoTokenizer

from db import settings
from db.errors import AtlasError
from db.files import State, sha256_of, state_of
from indexer import demo_model
from indexer.families import Architecture, Dimensions, architecture_of, dimensions_of
from indexer.weights import Weights, file_weights, safetensors_files

DEMO = "demo"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_READ = ("*.safetensors", "*.safetensors.index.json", "config.json", "*token*.json", "vocab.*", "merges.txt", "*.model")
_HUB_FILES = ("*.safetensors", "*.safetensors.index.json", "*.json", "tokenizer.model", "merges.txt", "vocab.*")


@dataclass(frozen=True)
class Checkpoint:
    """A model on disk: a folder with config, tokenizer and safetensors."""

    name: str
    folder: Path
    revision: str | None = None  # the hub's commit, where it came from one
    hub_id: str | None = None  # likewise its name there

    @property
    def source(self) -> str:
        """What `locate` finds this checkpoint by, from any folder: its hub id or its absolute path."""
        return self.hub_id or str(self.folder.resolve())

    @cached_property
    def config(self) -> Any:
        """The transformers config."""
        try:
            return AutoConfig.from_pretrained(self.folder, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, KeyError) as error:
            raise AtlasError(
                f"The config of {self.folder} cannot be read ({first_line(error)}). A model folder holds config.json, "
                "the tokenizer's files and *.safetensors."
            ) from error

    @cached_property
    def tokenizer(self) -> Any:
        """The transformers tokenizer."""
        try:
            return AutoTokenizer.from_pretrained(self.folder, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise AtlasError(
                f"The tokenizer of {self.folder} cannot be read ({first_line(error)}). Copy the tokenizer's files "
                "(tokenizer.json, tokenizer_config.json) beside the weights."
            ) from error

    @cached_property
    def architecture(self) -> Architecture:
        return architecture_of(self.config)

    @cached_property
    def dimensions(self) -> Dimensions:
        return dimensions_of(self.config)

    def weights(self) -> Weights:
        """The matrices, read tensor by tensor; the model is never instantiated."""
        return file_weights(self.folder, self.architecture, self.dimensions)

    def epsilon(self) -> float:
        return float(getattr(self.config, self.architecture.epsilon))

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
        found = {path for pattern in _READ for path in self.folder.glob(pattern)}
        return {path: state_of(path) for path in sorted(found)}

    @property
    def is_unchanged(self) -> bool:
        """Whether the files are still those that `files` found."""
        return Checkpoint(self.name, self.folder).files == self.files

    @cached_property
    def tokenizer_json(self) -> str | None:
        """The tokenizer in the `tokenizers` library's format; None for tokenizers written in Python."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        return None if backend is None else str(backend.to_str())

    @cached_property
    def tokenizer_hash(self) -> str:
        text = self.tokenizer_json or repr(sorted(self.tokenizer.get_vocab().items()))
        return hashlib.sha256(text.encode()).hexdigest()


def locate(model: str, *, models: Path | None = None) -> Checkpoint:
    """Find a model by “demo”, a folder, the name of a folder under `models` (default: ATLAS_MODELS), or a hub id.

    Raises:
        AtlasError: nothing of that name, or the hub cannot be reached.
    """
    models = settings.paths().models if models is None else models
    if model == DEMO:
        folder = models / demo_model.NAME
        if not (folder / "config.json").is_file():
            raise AtlasError("The demo model is not here yet. Run `make index`, or `python -m indexer fetch-demo`.")
        return Checkpoint(demo_model.NAME, folder)
    for folder in (Path(model), models / model):
        if folder.is_dir():
            if not (folder / "config.json").is_file():
                raise AtlasError(f"{folder} is no model folder: it has no config.json.")
            safetensors_files(folder)
            return Checkpoint(folder.resolve().name, folder)
    if Path(model).suffix == ".gguf" or Path(model).is_file():
        raise AtlasError(f"{model} is a file; give the folder that holds config.json, the tokenizer and *.safetensors.")
    if not _HUB_ID.fullmatch(model) or ".." in model:
        raise AtlasError(f"There is no folder “{model}”, and it is no hub id (owner/name) either.")
    return _from_hub(model)


def _from_hub(model: str) -> Checkpoint:
    try:
        folder = Path(huggingface_hub.snapshot_download(model, allow_patterns=list(_HUB_FILES)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise AtlasError(
            f"“{model}” is neither a folder here nor to be had from the hub ({first_line(error)}). Check the name and "
            "the network, or give the path of a folder with config.json, the tokenizer and *.safetensors."
        ) from error
    safetensors_files(folder)
    return Checkpoint(model.rpartition("/")[2], folder, revision=folder.name, hub_id=model)


def first_line(error: BaseException) -> str:
    """What a library's error says, for a sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
