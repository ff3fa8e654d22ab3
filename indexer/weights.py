"""The matrices of the method, read from a safetensors folder slice by slice, or from a live model.

Legend of dimensions: d = d_model, n = FFN neurons of a layer, a = heads x head_dim, kv_a = key-value heads x head_dim,
V = vocabulary.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from torch import Tensor

from db.errors import AtlasError
from indexer.experts import expert_rows
from indexer.families import Architecture, Dimensions, Fusion, NormKind
from indexer.refusals import (
    INDEX,
    SAVE_AGAIN,
    SINGLE,
    adapter_alone,
    adapter_files,
    adapter_too,
    as_base_model,
    as_other_task,
    as_quantised,
    no_weights,
    read_json,
)

CPU = torch.device("cpu")
PLAIN = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""The kinds of numbers that are weights as they stand; all others are codes that something else makes weights of."""
_DISTRIBUTED = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")

_HARMLESS = re.compile(
    r"(^|\.)(rotary_emb\.(inv_freq|(cos|sin)_cached)|(attn|attention)\.(masked_)?bias|position_ids|_extra_state)$"
)
"""Buffers that older checkpoints hold; transformers computes them."""
_ADAPTER = re.compile(
    r"(lora|ia3|hada|lokr|oft|boft|vera|adalora|lokr|bone|fourierft)_|\.base_layer\.|^base_model\.model\.|modules_to_save"
    r"|prompt_(embeddings|encoder)|(^|\.)adapters?\."
)
_QUANTISED = {
    "bitsandbytes": re.compile(r"\.(SCB|weight_format|absmax|quant_map|nested_\w+|quant_state\.\w+)$"),
    "GPTQ or AWQ": re.compile(r"\.(qweight|qzeros|g_idx|q_(weight|scale|invperm|perm|groups|group_map|scale_max))$"),
    "FP8 with block scales": re.compile(r"_scale_inv$"),
    "numbers with scales": re.compile(
        r"(weight|input|output|activation|act|[qkv]|kv|bias)_(global_)?(scales?(_2)?|zero_point|packed|shape)$"
        r"|\.(scales?|biases|zeros|codes|codebooks?|qdata|W_q|_data|_scale|zero_point)$|:(qdata|scale|zero_point)$"
    ),
}
_OTHER_TASK = re.compile(
    r"(^|\.)(score|classifier|classification_head|(v|value|reward|rm|regression|ranking)_head|qa_outputs|pooler"
    r"|multiple_choice_head|summary)(\.|$)"
)
_MEDIA = re.compile(r"(^|[._])(vision|visual|image|audio|speech|video|multi_modal|multimodal|mm_projector)")


@dataclass(frozen=True)
class Weights:
    """Named access to one model's matrices, always in float32.

    ``read(name)`` returns the tensor of that name, or None where the model has none (a bias, an untied head). Value
    vectors and output biases are what is added to the residual stream: with the weight of a norm behind the sub-layer,
    and what the family multiplies by, folded in. Only the scale of such a norm is left to the prompt.

    Attributes:
        keep: whether what is folded is kept for the next time.
        device: where the tensors are.
    """

    architecture: Architecture
    dimensions: Dimensions
    read: Callable[[str], Tensor | None]
    keep: bool = False
    device: torch.device = CPU
    _kept: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def tensor(self, name: str, rows: slice = slice(None)) -> Tensor:
        """The tensor called `name`, or some of its rows, in float32; AtlasError if there is none."""
        found = self.read(name)
        if found is None:
            raise AtlasError(
                f"The checkpoint has no tensor “{name}”. Is the folder complete, and the family's row right?"
            )
        return found[rows].float()

    def optional(self, name: str) -> Tensor | None:
        found = self.read(name)
        return None if found is None else found.float()

    def _name(self, layer: int, part: str, leaf: str) -> str:
        return f"{self.architecture.layers}.{layer}.{part}.{leaf}"

    def _input_major(self, layer: int, part: str) -> Float[Tensor, "input output"]:
        matrix = self.tensor(self._name(layer, part, "weight"))
        return matrix if self.architecture.conv1d else matrix.T

    def ffn_values(self, layer: int, rows: Int[Tensor, " m"] | None = None) -> Float[Tensor, "n d"]:
        """Row k is the value vector of FFN neuron (layer, k); only some rows, where these are given.

        For the order in a layer with experts see `db.neuron.Experts`; all rows of it are a copy.
        """
        row = self.architecture
        if not self.dimensions.has_experts(layer):
            found = self._added(layer, row.ffn_output, row.ffn_post_norm)
            return found if rows is None else found[rows]
        shared, module = self._shared(layer, row.ffn_output)
        found = expert_rows(shared, self.tensor(f"{module}.down_proj").transpose(1, 2), rows)
        factor = self._factor(layer, row.ffn_post_norm)
        return found if factor is None else found * factor

    def _shared(self, layer: int, part: str) -> tuple[Float[Tensor, "shared d"] | None, str]:
        """The shared expert's rows in its counterpart of the FFN's module, and the name of the other experts."""
        row, experts = self.architecture, self.dimensions.experts
        assert row.mixture is not None
        assert experts is not None
        shared = self._input_major(layer, row.mixture.of_shared(row.ffn, part)) if experts.shared else None
        return shared, f"{row.layers}.{layer}.{row.mixture.module}"

    def attention_values(self, layer: int) -> Float[Tensor, "a d"]:
        """Row h·head_dim + n is the value vector of attention neuron (layer, h, n)."""
        return self._added(layer, self.architecture.attention_output, self.architecture.attention_post_norm)

    def _added(self, layer: int, part: str, post_norm: str | None) -> Float[Tensor, "input d"]:
        """The output matrix as it reaches the residual stream."""
        name = self._name(layer, part, "weight")
        if name in self._kept:
            return self._kept[name]
        matrix, factor = self._input_major(layer, part), self._factor(layer, post_norm)
        if factor is None:
            return matrix
        if self.keep:
            return self._kept.setdefault(name, matrix * factor)
        return matrix * factor

    def _factor(self, layer: int, post_norm: str | None) -> Tensor | float | None:
        """What an output is multiplied by on its way to the residual stream; None: by nothing."""
        multiplier = self.dimensions.residual_multiplier
        if post_norm is None:
            return None if multiplier == 1 else multiplier
        return self.norm_weight(layer, post_norm) * multiplier

    def _added_bias(self, layer: int, part: str, post_norm: str | None) -> Float[Tensor, " d"] | None:
        bias, factor = self.optional(self._name(layer, part, "bias")), self._factor(layer, post_norm)
        return bias if bias is None or factor is None else bias * factor

    def catalogued(self) -> list[str]:
        """The names of the tensors that a catalogue is made of."""
        row, values = self.architecture, []
        parts = [part for part in (row.attention_output, row.ffn_post_norm, row.attention_post_norm) if part]
        for layer in range(self.dimensions.layers):
            values += [self._name(layer, part, "weight") for part in (*parts, *self._ffn_outputs(layer))]
            if row.mixture is not None and self.dimensions.has_experts(layer):
                values.append(self._name(layer, row.mixture.module, "down_proj"))
        return [*values, *(f"{part}.{leaf}" for part in (row.final_norm, row.head) for leaf in ("weight", "bias"))]

    def _ffn_outputs(self, layer: int) -> list[str]:
        """The layer's FFN output matrix, or its shared expert's, where it has one."""
        inputs = self.architecture.ffn_inputs(self.dimensions, layer)
        mixture = self.architecture.mixture
        return [part for part, _ in inputs if mixture is None or part != mixture.active]

    def ffn_bias(self, layer: int) -> Float[Tensor, " d"] | None:
        found = [self._added_bias(layer, part, self.architecture.ffn_post_norm) for part in self._ffn_outputs(layer)]
        return found[0] if found else None

    def attention_bias(self, layer: int) -> Float[Tensor, " d"] | None:
        return self._added_bias(layer, self.architecture.attention_output, self.architecture.attention_post_norm)

    def ffn_keys(self, layer: int, place: int, rows: Int[Tensor, " m"] | None = None) -> Float[Tensor, "n d"]:
        """What reads the residual stream: row k is a key vector of FFN neuron k, norm not folded in.

        Args:
            layer: of the neurons.
            place: 0 for the only one or the gate's, 1 for the up row.
            rows: only of these neurons.
        """
        part = self.architecture.ffn_keys[place]
        if not self.dimensions.has_experts(layer):
            found = self._input_major(layer, part).T[self.key_rows(place)]
            return found if rows is None else found[rows]
        shared, module = self._shared(layer, part)
        both = self.tensor(f"{module}.gate_up_proj")
        half = both.shape[1] // 2
        return expert_rows(None if shared is None else shared.T, both[:, place * half : (place + 1) * half], rows)

    def ffn_key_bias(self, layer: int, place: int) -> Float[Tensor, " n"] | None:
        """What is added to their products with it."""
        part, experts, mixture = self.architecture.ffn_keys[place], self.dimensions.experts, self.architecture.mixture
        if experts is not None and mixture is not None and layer in experts.layers:
            name = self._name(layer, mixture.of_shared(self.architecture.ffn, part), "bias")
            bias = self.optional(name) if experts.shared else None
            return None if bias is None else torch.cat([bias, bias.new_zeros(experts.count * experts.width)])
        bias = self.optional(self._name(layer, part, "bias"))
        return None if bias is None else bias[self.key_rows(place)]

    def key_rows(self, place: int) -> slice:
        """The rows of one of an FFN's key vectors in the matrix that computes them."""
        width = self.dimensions.ffn_width
        return slice(place * width, (place + 1) * width) if self.architecture.fused_gate else slice(None)

    def value_projection_rows(self, layer: int) -> Float[Tensor, "kv_a d"]:
        """What an attention neuron reads: row kv·head_dim + n is that of (kv, n), norm not folded in."""
        return self._input_major(layer, self.architecture.value).T[fused_rows(self.architecture, self.dimensions, 1)]

    def value_projection_bias(self, layer: int) -> Float[Tensor, " kv_a"] | None:
        """What is added to their products with it."""
        bias = self.optional(self._name(layer, self.architecture.value, "bias"))
        return None if bias is None else bias[fused_rows(self.architecture, self.dimensions, 1)]

    def key_projection_rows(self, layer: int) -> Float[Tensor, "kv_a d"]:
        """What the head's keys are computed with, in the same order, norm not folded in."""
        return self._input_major(layer, self.architecture.key).T[fused_rows(self.architecture, self.dimensions, 0)]

    def norm_weight(self, layer: int, part: str | None) -> Float[Tensor, " d"]:
        """γ of the layer's norm called `part`, such as ``architecture.attention_norm``; ones where there is no norm."""
        return self._gamma(part and f"{self.architecture.layers}.{layer}.{part}")

    def norm_bias(self, layer: int, part: str | None) -> Float[Tensor, " d"] | None:
        """β of that norm; None where it has none."""
        return self._beta(part and f"{self.architecture.layers}.{layer}.{part}")

    def reading(
        self, layer: int, norm: str | None, rows: Float[Tensor, "n d"]
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, " n"] | float]:
        """Rows that read through that norm, with its weight folded in and centred as it centres, and what its β adds.
        Their products with the residual stream are still to be divided by the norm's scale.
        """
        folded, beta = rows * self.norm_weight(layer, norm), self.norm_bias(layer, norm)
        if norm is not None and self.architecture.norm is NormKind.LAYER:
            folded -= folded.mean(dim=1, keepdim=True)
        return folded, 0.0 if beta is None else rows @ beta

    def final_norm(self) -> tuple[Float[Tensor, " d"], Float[Tensor, " d"] | None]:
        """γ of the final norm, and β where it has one."""
        return self._gamma(self.architecture.final_norm), self._beta(self.architecture.final_norm)

    def _gamma(self, norm: str | None) -> Float[Tensor, " d"]:
        if norm is None or self.architecture.bare_norms:
            return torch.ones(self.dimensions.d_model, device=self.device)
        weight = self.tensor(f"{norm}.weight")
        return 1 + weight if self.architecture.unit_offset else weight

    def _beta(self, norm: str | None) -> Float[Tensor, " d"] | None:
        return self.optional(f"{norm}.bias") if norm and self.architecture.norm is NormKind.LAYER else None

    def head(self) -> tuple[Float[Tensor, "V d"], Float[Tensor, " V"] | None]:
        """The unembedding matrix (the embedding, where they are tied), and the head's bias where it has one."""
        matrix = self.optional(f"{self.architecture.head}.weight")
        if matrix is None:
            matrix = self.tensor(f"{self.architecture.embedding}.weight")
        bias, factor = self.optional(f"{self.architecture.head}.bias"), self.dimensions.logit_multiplier
        return (matrix, bias) if factor == 1 else (matrix * factor, None if bias is None else bias * factor)

    def embeddings(self, rows: slice = slice(None), epsilon: float = 0.0) -> Float[Tensor, "V d"]:
        """Tokens' embeddings as they enter the first layer, but for positions; `epsilon` is of a norm behind them."""
        row = self.architecture
        found = self.tensor(f"{row.embedding}.weight", rows)
        if row.embedding_norm is not None:
            gamma, beta = self._gamma(row.embedding_norm), self._beta(row.embedding_norm)
            found = torch.nn.functional.layer_norm(found, found.shape[1:], gamma, beta, epsilon)
        factor = self.dimensions.embedding_multiplier
        return found if factor == 1 else found * factor


def fused_rows(row: Architecture, size: Dimensions, which: int) -> slice | Int[Tensor, " kv_a"]:
    """The rows of keys (0) or values (1), in the order of heads, in the matrix that computes them."""
    if row.fused_qkv is Fusion.GROUPED:
        every = torch.arange((size.heads + 2 * size.kv_heads) * size.head_dim)
        return every.view(size.kv_heads, size.group + 2, size.head_dim)[:, size.group + which].flatten()
    if row.fused_qkv is Fusion.CONCATENATED:
        start = (size.heads + which * size.kv_heads) * size.head_dim
        return slice(start, start + size.kv_heads * size.head_dim)
    return slice(None)


def live_weights(model: torch.nn.Module, architecture: Architecture, dimensions: Dimensions) -> Weights:
    """The weights of a loaded model, without copying them; what is folded into some is kept."""
    state = dict(model.named_parameters(remove_duplicate=False))

    def read(name: str) -> Tensor | None:
        found = state.get(name)
        return None if found is None else found.detach()

    return Weights(architecture, dimensions, read, keep=True, device=next(model.parameters()).device)


def file_weights(stored: Mapping[str, "Stored"], architecture: Architecture, dimensions: Dimensions) -> Weights:
    """Weights read from their files one tensor at a time; nothing is kept."""

    def read(name: str) -> Tensor | None:
        found = stored.get(name)
        if found is None:
            return None
        if found.parts:  # of every expert, gate and up or the output matrix
            return torch.stack([torch.cat([tensor_of(one) for one in expert]) for expert in found.parts])
        return tensor_of(found)

    def tensor_of(place: "Stored") -> Tensor:
        with _opened(place.file) as file:
            tensor: Tensor = file.get_tensor(place.name)
            return tensor

    return Weights(architecture, dimensions, read)


# Which files are the model


def safetensors_files(folder: Path) -> list[Path]:
    """The files that are the model, in order: those that the pinned transformers loads, and no others.

    This is the file that config.json names as ``transformers_weights``; else model.safetensors; else the shards that
    model.safetensors.index.json names. Averages, backups and left-over shards are not the model.

    Raises:
        AtlasError: there is none, one is missing, or an adapter lies there; the message says what to do.
    """
    config = read_json(folder / "config.json")
    named = config.get("transformers_weights") if isinstance(config, dict) else None
    if named is not None:
        path = _inside(folder, named, folder / "config.json")
    else:
        path = next((folder / name for name in (SINGLE, INDEX) if (folder / name).is_file()), folder / INDEX)
    if adapter := adapter_files(folder):
        raise adapter_too(folder, adapter) if path.is_file() else adapter_alone(folder)
    if any(_DISTRIBUTED.match(file.name) for file in folder.glob("shard-*.safetensors")):
        raise AtlasError(
            f"{folder} holds the shards of a distributed checkpoint (shard-…), which transformers loads in place of "
            f"all else. Load it there and save it whole: {SAVE_AGAIN}."
        )
    files = _shards(folder, path) if path.name.endswith(".index.json") and path.is_file() else [path]
    missing = [str(file.relative_to(folder)) for file in files if not file.is_file()]
    if not folder.is_dir():
        raise AtlasError(f"There is no folder “{folder}” any more.")
    if missing == [INDEX]:
        raise AtlasError(f"{folder} holds {no_weights(folder)}")
    if missing:
        names = ", ".join(missing[:3]) + (" …" if len(missing) > 3 else "")
        raise AtlasError(
            f"{folder} lacks {len(missing)} of the {len(files)} files that are the model ({names}; "
            f"{'config.json' if path in files else path.name} names them). Fetch or copy them into the folder."
        )
    return files


def other_weights(folder: Path) -> list[str]:
    """The names of weight files in the folder that are not the model."""
    files = safetensors_files(folder)
    found = [path for path in folder.glob("*.safetensors") if path not in files]
    if folder / SINGLE in files:
        found += [path for path in (folder / INDEX,) if path.is_file()]
    return sorted(path.name for path in found)


def _shards(folder: Path, index: Path) -> list[Path]:
    content = read_json(index)
    try:
        files = [_inside(folder, name, index) for name in sorted(set(content["weight_map"].values()))]
    except (KeyError, TypeError, AttributeError) as error:
        raise _damaged(index, error) from error
    if not files:
        raise _damaged(index, ValueError("it names no file"))
    if not isinstance(content.get("metadata"), dict):
        raise AtlasError(f'{index} lacks "metadata", and transformers does not load it so. Add "metadata": {{}} to it.')
    return files


def _inside(folder: Path, name: Any, namer: Path) -> Path:
    """The file of that name, which `namer` gives; AtlasError unless it is a weight file within the folder."""
    normal = Path(os.path.normpath(str(name)))
    if (
        normal.is_absolute()
        or ".." in normal.parts
        or not normal.name.endswith((".safetensors", ".safetensors.index.json"))
    ):
        raise AtlasError(f"{namer} names {name} as weights; it must be a safetensors file within {folder}.")
    return folder / normal


# What is in them


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor's place, from the header of its file."""

    file: Path
    name: str
    """In the file."""
    shape: tuple[int, ...]
    dtype: str
    """As safetensors calls it, such as BF16."""
    parts: tuple[tuple["Stored", ...], ...] = ()
    """What it is made of, where files keep it by expert: for each of them, what stands one below the other."""


@dataclass(frozen=True, slots=True)
class Promised:
    """What a config promises.

    Attributes:
        shapes: of every parameter, by the name that transformers' model gives it.
        prefix: of the base model, which its own files lack.
        tied: the head's weight and the embedding's, where they are one.
        loader: the class that loads it.
        named: whether the config names such a class itself.
        layers: the name of the list of layers.
        embedding: the name of the embedding's weight.
        renamed: what the head's weight is called in older files, and here.
        pieces: of experts, a file's name for a tensor -> the model's; and which expert's part it is and at which place,
            where the model holds those of all experts as one.
    """

    shapes: Mapping[str, tuple[int, ...]]
    prefix: str
    tied: tuple[str, str] | None
    loader: str
    named: bool
    layers: str
    embedding: str
    renamed: tuple[str, str] | None = None
    pieces: Callable[[str], tuple[str, tuple[int, int] | None]] | None = None


def stored_tensors(folder: Path, promised: Promised) -> dict[str, Stored]:
    """Every tensor of the model by its name in transformers, from the files' headers alone.

    The head of a tied model is the one in the files, else the embedding: transformers keeps a head that a file holds.

    Raises:
        AtlasError: the files are missing or damaged, or are no language model in plain numbers as the config promises:
            quantised, an adapter, another task's, incomplete, of other shapes, or with tensors that nobody would read.
    """
    found: dict[str, Stored] = {}
    left: list[str] = []
    by_expert: dict[str, dict[tuple[int, int], Stored]] = {}
    for name, place in _headers(safetensors_files(folder)).items():
        called, piece = (name, None) if promised.pieces is None else promised.pieces(name)
        known = _known_name(called, promised)
        if known is not None and piece is not None:
            by_expert.setdefault(known, {})[piece] = place
        elif known is None:
            left.append(name)
        elif known in found:
            raise AtlasError(
                f"{place.file} holds “{known}” twice, as {found[known].name} and {name}, and which of them is the "
                f"model's is chance. Save it again: {SAVE_AGAIN}."
            )
        else:
            found[known] = place
    found |= {name: _joined(name, pieces) for name, pieces in by_expert.items() if name not in found}
    if promised.tied:
        for one, other in (promised.tied, promised.tied[::-1]):
            if one not in found and other in found:
                found[one] = found[other]
    missing = sorted(promised.shapes.keys() - found.keys())
    _explain_unread(folder, promised, [name for name in left if not _HARMLESS.search(name)], missing)
    if coded := sorted({place.dtype for place in found.values()} - PLAIN.keys()):
        raise as_quantised(folder, f"numbers of type {', '.join(coded)}")
    if missing:
        raise _incomplete(folder, promised, missing)
    for name, shape in promised.shapes.items():
        if found[name].shape != shape:
            what = "an embedding" if name == promised.embedding else f"“{name}”"
            raise AtlasError(
                f"The config of {folder} promises {what} of {_sizes(shape)}, the files hold "
                f"{_sizes(found[name].shape)}. Put the config.json beside them that they were saved with."
            )
    bare = not any(name.startswith(f"{promised.prefix}.") for name in (place.name for place in found.values()))
    if bare and promised.tied and found[promised.tied[0]] is found[promised.tied[1]] and not promised.named:
        raise as_base_model(folder, "its tensors' names", promised.loader)
    return found


def _headers(files: list[Path]) -> dict[str, Stored]:
    """As transformers merges them: of tensors with one name, the last file's."""
    found: dict[str, Stored] = {}
    for path in files:
        with _opened(path) as file:
            for name in file.keys():  # noqa: SIM118, no mapping
                part = file.get_slice(name)
                found[name] = Stored(path, name, tuple(part.get_shape()), str(part.get_dtype()))
    return found


def _joined(name: str, pieces: Mapping[tuple[int, int], Stored]) -> Stored:
    """The tensor of all experts that their pieces are."""
    experts, places = (max(one[which] for one in pieces) + 1 for which in (0, 1))
    first = next(iter(pieces.values()))
    lacking = [one for one in product(range(experts), range(places)) if one not in pieces]
    if lacking or len({(one.shape, one.dtype) for one in pieces.values()}) > 1:
        raise AtlasError(
            f"{first.file.parent} holds not all of “{name}”, or its experts are of different sizes: {len(pieces)} of "
            f"{experts * places} parts are there. Fetch or copy the files again."
        )
    parts = tuple(tuple(pieces[expert, place] for place in range(places)) for expert in range(experts))
    rows, columns = first.shape
    return Stored(first.file, name, (experts, places * rows, columns), first.dtype, parts)


def _known_name(name: str, promised: Promised) -> str | None:
    """The model's own name for a tensor: files of a bare base model lack the prefix; a head may have one too many."""
    if promised.renamed and name == promised.renamed[0]:
        return promised.renamed[1]
    within, outside = f"{promised.prefix}.{name}", name.removeprefix(f"{promised.prefix}.")
    return next((one for one in (outside, within, name) if one in promised.shapes), None)


def _explain_unread(folder: Path, promised: Promised, left: list[str], missing: list[str]) -> None:
    """Refuse tensors that nobody would read, by what they mean."""
    if not left:
        return

    def some(pattern: re.Pattern[str]) -> str:
        return _listed([name for name in left if pattern.search(name)])

    if names := some(_ADAPTER):
        raise AtlasError(
            f"The weights in {folder} hold an adapter that is not merged into them ({names}). Merge it (peft: "
            "merge_and_unload), save the result with save_pretrained, and give that folder."
        )
    for method, pattern in _QUANTISED.items():
        if names := some(pattern):
            raise as_quantised(folder, f"{method}: {names}")
    if names := some(_OTHER_TASK):
        raise as_other_task(folder, f"its files hold another task's head, {names}")
    if names := some(_MEDIA):
        raise as_other_task(folder, f"its files hold parts for pictures or sound, {names}")
    if missing and (prefix := next((known for known in (_lead(name, promised) for name in left) if known), None)):
        raise AtlasError(
            f"The names of the tensors in {folder} begin with “{prefix}” ({_listed(left)}), as a wrapper of the model "
            "saves them, and transformers does not know them so. Save the model within the wrapper."
        )
    count = len(left)
    raise AtlasError(
        f"The files in {folder} hold {count} tensor{'' if count == 1 else 's'} that {promised.loader} with this config "
        f"does not read ({_listed(left)}). If the model needs them, it is of another kind than its config says; if "
        f"not, save it without them: {SAVE_AGAIN}."
    )


def _lead(name: str, promised: Promised) -> str | None:
    """What stands in front of a name that would be known without it, such as “module.”."""
    parts = name.split(".")
    rests = (".".join(parts[count:]) for count in range(1, len(parts)))
    return next((name.removesuffix(rest) for rest in rests if _known_name(rest, promised)), None)


def _incomplete(folder: Path, promised: Promised, missing: list[str]) -> AtlasError:
    if missing == ["lm_head.weight"]:
        advice = (
            "Files without a head are those of a base or embedding model, or config.json is another model's: its "
            f"tie_word_embeddings tells whether the head is the embedding. Save the whole model: {promised.loader}."
        )
    else:
        advice = (
            "Nothing of the files is cut off: the model was saved so. Save it again, or put the config.json that they "
            "were saved with beside them."
        )
    return AtlasError(
        f"The weights in {folder} are incomplete: {_tensors(missing)} missing ({_listed(missing)}). {advice}"
    )


def _tensors(names: list[str]) -> str:
    return "1 tensor is" if len(names) == 1 else f"{len(names)} tensors are"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")


def _sizes(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> AtlasError:
    with suppress(OSError), path.open("rb") as file:
        if file.read(11) == b"version htt":  # as a clone without LFS leaves it
            return AtlasError(f"{path} only points to the file, which Git LFS keeps. Run `git lfs pull` in its folder.")
    return AtlasError(f"{path} is damaged or cut short ({error}). Fetch or copy that file again.")
