"""The matrices of the method, read from a safetensors folder slice by slice, or from a live model.

Legend of dimensions: d = d_model, n = FFN neurons of a layer, a = heads x head_dim, kv_a = key-value heads x head_dim,
V = vocabulary.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from db.errors import AtlasError
from indexer.families import Architecture, Dimensions, NormKind


@dataclass(frozen=True)
class Weights:
    """Named access to one model's matrices, always in float32.

    ``read(name)`` returns the tensor of that name, or None where the model has none (a bias, an untied head).
    """

    architecture: Architecture
    dimensions: Dimensions
    read: Callable[[str], Tensor | None]

    def tensor(self, name: str) -> Tensor:
        """The tensor called `name`, in float32; AtlasError if there is none."""
        found = self.read(name)
        if found is None:
            raise AtlasError(
                f"The checkpoint has no tensor “{name}”. Is the folder complete, and the family's row right?"
            )
        return found.float()

    def optional(self, name: str) -> Tensor | None:
        found = self.read(name)
        return None if found is None else found.float()

    def _name(self, layer: int, part: str, leaf: str) -> str:
        return f"{self.architecture.layers}.{layer}.{part}.{leaf}"

    def _input_major(self, layer: int, part: str) -> Float[Tensor, "input output"]:
        matrix = self.tensor(self._name(layer, part, "weight"))
        return matrix if self.architecture.conv1d else matrix.T

    def ffn_values(self, layer: int) -> Float[Tensor, "n d"]:
        """Row k is the value vector of FFN neuron (layer, k)."""
        return self._input_major(layer, self.architecture.ffn_output)

    def attention_values(self, layer: int) -> Float[Tensor, "a d"]:
        """Row h·head_dim + n is the value vector of attention neuron (layer, h, n)."""
        return self._input_major(layer, self.architecture.attention_output)

    def ffn_bias(self, layer: int) -> Float[Tensor, " d"] | None:
        return self.optional(self._name(layer, self.architecture.ffn_output, "bias"))

    def attention_bias(self, layer: int) -> Float[Tensor, " d"] | None:
        return self.optional(self._name(layer, self.architecture.attention_output, "bias"))

    def ffn_keys(self, layer: int) -> tuple[Float[Tensor, "n d"], ...]:
        """What reads the residual stream: row k of each matrix is a key vector of FFN neuron k, norm not folded in."""
        return tuple(self._input_major(layer, part).T for part in self.architecture.ffn_keys)

    def value_projection_rows(self, layer: int) -> Float[Tensor, "kv_a d"]:
        """What an attention neuron reads: row kv·head_dim + n is that of (kv, n), norm not folded in."""
        return self._projection_rows(layer, self.architecture.value, 2)

    def key_projection_rows(self, layer: int) -> Float[Tensor, "kv_a d"]:
        """What the head's keys are computed with, in the same order, norm not folded in."""
        return self._projection_rows(layer, self.architecture.key, 1)

    def _projection_rows(self, layer: int, part: str, third: int) -> Float[Tensor, "kv_a d"]:
        rows, width = self._input_major(layer, part).T, self.dimensions.d_model
        return rows[third * width : (third + 1) * width] if self.architecture.fused_qkv else rows

    def norm_weight(self, layer: int, part: str) -> Float[Tensor, " d"]:
        """γ of the layer's norm called `part` (``architecture.attention_norm`` or ``ffn_norm``)."""
        return self.tensor(self._name(layer, part, "weight"))

    def final_norm(self) -> tuple[Float[Tensor, " d"], Float[Tensor, " d"] | None]:
        """γ of the final norm, and β where it has one."""
        name = self.architecture.final_norm
        beta = self.optional(f"{name}.bias") if self.architecture.norm is NormKind.LAYER else None
        return self.tensor(f"{name}.weight"), beta

    def head(self) -> tuple[Float[Tensor, "V d"], Float[Tensor, " V"] | None]:
        """The unembedding matrix (the embedding, where they are tied), and the head's bias where it has one."""
        matrix = self.optional(f"{self.architecture.head}.weight")
        if matrix is None:
            matrix = self.tensor(f"{self.architecture.embedding}.weight")
        return matrix, self.optional(f"{self.architecture.head}.bias")


def live_weights(model: torch.nn.Module, architecture: Architecture, dimensions: Dimensions) -> Weights:
    """The weights of a loaded model, without copying them."""
    state = dict(model.named_parameters(remove_duplicate=False))

    def read(name: str) -> Tensor | None:
        found = state.get(name)
        return None if found is None else found.detach()

    return Weights(architecture, dimensions, read)


def file_weights(folder: Path, architecture: Architecture, dimensions: Dimensions) -> Weights:
    """Weights read from `folder`'s safetensors files one tensor at a time; nothing is kept.

    The head is the one in the files, else the embedding: transformers keeps a head that a file holds, even where the
    config says that the two are tied.

    Raises:
        AtlasError: no safetensors in the folder, or a damaged file.
    """
    where: dict[str, Path] = {}
    for path in safetensors_files(folder):
        with _opened(path) as file:
            where |= dict.fromkeys(file.keys(), path)

    def read(name: str) -> Tensor | None:
        # Files saved from a bare base model lack the first part of every name: "h.0..." for "transformer.h.0...".
        stored = name if name in where else name.partition(".")[2]
        if stored not in where:
            return None
        with _opened(where[stored]) as file:
            found: Tensor = file.get_tensor(stored)
            return found

    return Weights(architecture, dimensions, read)


def safetensors_files(folder: Path) -> list[Path]:
    """The folder's weight files, in order.

    Raises:
        AtlasError: there is none.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
            files = [folder / Path(name).name for name in names]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _damaged(index, error) from error
    else:
        files = sorted(folder.glob("*.safetensors"))
    missing = [file.name for file in files if not file.is_file()]
    if missing or not files:
        lacking = "no " + ", ".join(missing[:3] or ["safetensors file"])
        raise AtlasError(
            f"{folder} holds {lacking}. Weights are read from safetensors only (.bin files can run code); fetch the "
            "model again, or save it with save_pretrained(..., safe_serialization=True)."
        )
    return files


def tensor_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor in the folder's files, from their headers alone.

    Raises:
        AtlasError: no safetensors in the folder, or a damaged file.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for path in safetensors_files(folder):
        with _opened(path) as file:
            names = file.keys()
            shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in names}
    return shapes


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> AtlasError:
    return AtlasError(f"{path} is damaged or cut short ({error}). Fetch the model again.")
