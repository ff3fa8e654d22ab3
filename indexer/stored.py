"""Which files of a folder are the model, and where in them each of its tensors lies, from their headers alone."""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from db.errors import AtlasError
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

PLAIN = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""The kinds of numbers that are weights as they stand; all others are codes that something else makes weights of."""
BLOCKS = "_blocks"
"""How names end of what holds MXFP4's codes, two to a byte: [E, written, blocks, 16] for [E, read, written]."""
PACKED = "_packed"
"""The same of what holds several codes to a number of 32 bits, as compressed-tensors does."""
_DISTRIBUTED = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")

_HARMLESS = re.compile(
    r"(^|\.)(rotary_emb\.(inv_freq|(cos|sin)_cached)|(attn|attention)\.(masked_)?bias|position_ids|_extra_state)$"
)
"""Buffers that older checkpoints hold; transformers computes them."""
TRUNK_NAMES = {
    "model.language_model.": "model.",
    "model.text_model.": "model.",
    "language_model.model.": "model.",
    "language_model.lm_head.": "lm_head.",
}
"""How names of tensors begin in the files of a model that reads pictures too, and in its language trunk."""
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
_MEDIA = re.compile(r"(^|[._])(vision|visual|image|audio|speech|video|multi_modal|multimodal|mm_projector|connector)")


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
        wrapped: whether the files are those of a model that reads pictures too, whose language trunk this is.
        scales: names of what stands beside codes, where codes are allowed.
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
    wrapped: bool = False
    scales: re.Pattern[str] | None = None


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
    for name, place in headers(safetensors_files(folder)).items():
        if promised.scales is not None and promised.scales.search(name):
            continue
        if promised.scales is not None:
            name = name.removesuffix(BLOCKS).removesuffix(PACKED)
        called, piece = (name, None) if promised.pieces is None else promised.pieces(name)
        known = _known_name(called, promised)
        if known is not None and name != place.name:
            place = _unpacked(place, promised.shapes[known][-1])
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
    if (coded := sorted({place.dtype for place in found.values()} - PLAIN.keys())) and promised.scales is None:
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


def unread_tensors(folder: Path, stored: Mapping[str, Stored]) -> list[str]:
    """The names of those in the files that are no part of the model."""
    return sorted(headers(safetensors_files(folder)).keys() - {place.name for place in stored.values()})


def headers(files: list[Path]) -> dict[str, Stored]:
    """The tensors of files by name, as transformers merges them: of those with one name, the last file's."""
    found: dict[str, Stored] = {}
    for path in files:
        with opened(path) as file:
            for name in file.keys():  # noqa: SIM118, no mapping
                part = file.get_slice(name)
                found[name] = Stored(path, name, tuple(part.get_shape()), str(part.get_dtype()))
    return found


def _unpacked(place: Stored, columns: int) -> Stored:
    """What codes stand for, where several share a byte or a number; as it is, where it is no such thing.

    `columns`: how many the config promises, since codes may have 4 or 8 bits.
    """
    if place.name.endswith(BLOCKS) and len(place.shape) == 4:
        experts, written, blocks, width = place.shape
        return replace(place, shape=(experts, 2 * width * blocks, written))
    if place.name.endswith(PACKED) and len(place.shape) == 2 and columns in (4 * place.shape[1], 8 * place.shape[1]):
        return replace(place, shape=(place.shape[0], columns))
    return place


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
    if promised.wrapped:
        name = next((f"{new}{name[len(old) :]}" for old, new in TRUNK_NAMES.items() if name.startswith(old)), name)
    if promised.renamed and name == promised.renamed[0]:
        return promised.renamed[1]
    within, outside = f"{promised.prefix}.{name}", name.removeprefix(f"{promised.prefix}.")
    return next((one for one in (outside, within, name) if one in promised.shapes), None)


def _explain_unread(folder: Path, promised: Promised, left: list[str], missing: list[str]) -> None:
    """Refuse tensors that nobody would read, by what they mean; but for the parts of a wrapper that see."""
    if promised.wrapped:
        left = [name for name in left if not _MEDIA.search(name)]
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
def opened(path: Path) -> Iterator[Any]:
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
