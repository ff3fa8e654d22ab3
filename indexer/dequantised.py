"""Quantised models made folders of plain weights, once: a GGUF file, or codes with scales.

The numbers are those that transformers gives, in float32: a code times its scale has more digits than float16 or
bfloat16 keep. The folder is made beside and renamed when it is whole; its stamp,
``atlas-source.json``, is written last and says what it was made of and how that was quantised. A model's identity is
that of the folder's weights, as any folder's.

These readers pass over what they do not know, and draw at random what they do not find. Both are refused here.
"""

import contextlib
import errno
import hashlib
import io
import json
import logging
import math
import re
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from db.command_line import say
from db.errors import AtlasError, first_line
from db.files import locked, sha256_of
from db.lazy import lazy_import
from indexer.families import ARCHITECTURES, architecture_of
from indexer.refusals import REFUSED, as_quantised, read_json, require_language_model

if TYPE_CHECKING:
    import gguf
    import torch
    import transformers

    from indexer import stored
else:  # where the folder is in place already, nobody need wait for these
    gguf, torch, transformers = (lazy_import(name) for name in ("gguf", "torch", "transformers"))
    stored = lazy_import("indexer.stored")

STAMP = "atlas-source.json"
SUFFIX = ".gguf"
_SLOWED = "rope_freqs.weight"
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
_PLAIN = {"F32", "F16", "BF16", "F64"}
_SETTINGS = {
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "attention.sliding_window": "sliding_window",
}
"""What a file says of how its model computes and the reader may leave out, and the config's name for it."""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Header:
    """What a GGUF file says of itself, but for its vocabulary.

    Attributes:
        metadata: its single values by name.
        numbers: how many of its numbers are stored in each way, such as Q8_0.
        names: of its tensors.
        slowed: by how much each rotation of positions is slowed down, as Llama 3.1 and later have it; else nothing.
    """

    metadata: Mapping[str, Any]
    numbers: Counter[str]
    names: tuple[str, ...]
    slowed: tuple[float, ...] = ()

    def of_model(self, name: str) -> Any:
        """A value that the file's architecture has; None where it has none."""
        return self.metadata.get(f"{self.metadata['general.architecture']}.{name}")

    @property
    def quantisation(self) -> str | None:
        """Such as “GGUF Q4_K_M: 63 % Q8_0, 37 % Q5_0”, by the share of all numbers; None where they are plain ones."""
        total = self.numbers.total()
        shares = {kind: round(100 * count / total) for kind, count in self.numbers.most_common()}
        if not shares.keys() - _PLAIN:
            return None
        with contextlib.suppress(KeyError, ValueError):
            kind = gguf.LlamaFileType(self.metadata["general.file_type"]).name.removeprefix("MOSTLY_")
            return f"GGUF {kind}: {', '.join(f'{share} % {name}' for name, share in shares.items() if share)}"
        return f"GGUF: {', '.join(f'{share} % {name}' for name, share in shares.items() if share)}"


def folder_of(path: Path, models: Path, progress: Progress = say) -> Path:
    """The folder in `models` that holds the model of a GGUF file; made the first time, which takes a while.

    It is called as the file is, and where another model has that folder, with the beginning of the file's hash added.

    Raises:
        AtlasError: the file is damaged, no language model, or of a kind that cannot be read as what it is; or the
            folder cannot be written. Nothing half-made is kept.
    """
    digest = sha256_of(path)
    folder = place_for(path, path.stem, digest, models)
    if is_whole(folder, digest):
        return folder
    header = read_header(path)
    config = config_of(path, header)
    room = 4.0 * header.numbers.total()

    def fill(partial: Path) -> None:
        kind = header.quantisation or "GGUF"
        progress(f"Dequantising {path.name} ({kind}) into {folder}: once, {room / 1e9:.1f} GB of float32 ...")
        write(
            *load(path, header, config),
            partial,
            {"model": path.stem, "source": path.name, "gguf_sha256": digest},
            header.quantisation,
        )

    make(folder, lambda: is_whole(folder, digest), fill, room=1.1 * room)
    return folder


def place_for(source: Path, name: str, digest: str, models: Path) -> Path:
    """The folder in `models` for what is made of a source: its own, else one that is free."""
    folders = [models / name, models / f"{name}-{digest[:8]}"]
    own = next((one for one in folders if digest in _made_of(one)), None)
    folder = own or next((one for one in folders if not one.exists()), None)
    if folder is None:
        raise AtlasError(f"{source} would be dequantised into {folders[1]}, where something else lies. Move that away.")
    return folder


# What a GGUF file says of itself


def read_header(path: Path) -> Header:
    """Read all but the tensors' contents.

    Raises:
        AtlasError: it is no GGUF file, damaged or cut short; or holds no whole model.
    """
    try:
        reader = gguf.GGUFReader(path)
        single = {name: field for name, field in reader.fields.items() if field.types[:1] != [gguf.GGUFValueType.ARRAY]}
        metadata = {name: field.contents() for name, field in single.items() if field.types}
        numbers: Counter[str] = Counter()
        for tensor in reader.tensors:
            numbers[tensor.tensor_type.name] += int(tensor.n_elements)
        slowed = [float(x) for tensor in reader.tensors if tensor.name == _SLOWED for x in tensor.data.flatten()]
        found = Header(metadata, numbers, tuple(tensor.name for tensor in reader.tensors), tuple(slowed))
        _ = metadata["general.architecture"]
    except Exception as error:  # the reader has none of its own
        raise AtlasError(
            f"{path} is no GGUF file, or is damaged or cut short ({first_line(error)}). Fetch or copy it again."
        ) from error
    kind, parts = metadata.get("general.type", "model"), int(metadata.get("split.count", 1))
    if kind != "model":
        raise AtlasError(f"{path} is no model: it is a GGUF file of kind “{kind}”. Give the file of the whole model.")
    if parts > 1:
        raise AtlasError(f"{path} is one of {parts} parts. Join them (llama-gguf-split --merge) and give the result.")
    if not found.names:
        raise AtlasError(f"{path} is no model: it holds no weights, as files of a vocabulary alone do.")
    return found


def config_of(path: Path, header: Header) -> Any:
    """The file's config, of a language model of a known family that transformers reads as what it is.

    Raises:
        AtlasError: it is not; with the reason.
    """
    try:
        with silently():
            # The whole path, since transformers would take a file of that name in the working directory before it.
            config = transformers.AutoConfig.from_pretrained(path.parent, gguf_file=str(path.resolve()))
    except Exception as error:  # an architecture that it does not know, or values that it does not accept
        raise _unreadable(path, first_line(error)) from error
    require_language_model(config.to_dict(), path)
    if config.model_type in ARCHITECTURES or config.model_type in REFUSED:
        architecture_of(config)
    for theirs, ours in _SETTINGS.items():
        given = header.of_model(theirs)
        if given is not None and given != getattr(config, ours, None):
            raise _unreadable(path, f"the file gives {theirs} {given}, which it reads as {getattr(config, ours, None)}")
    scaling = header.of_model("rope.scaling.type")
    if scaling not in (None, "none") and (config.rope_parameters or {}).get("rope_type", "default") == "default":
        raise _unreadable(path, f"positions are scaled ({scaling}), which it leaves out")
    if header.slowed:
        known = {"rope_type": "llama3", "factor": max(header.slowed), **_LLAMA3}
        if config.model_type != "llama" or not _slows_down(header.slowed, config.rope_parameters["rope_theta"]):
            raise _unreadable(path, f"positions are scaled in a way of their own ({_SLOWED}), which it leaves out")
        config.rope_parameters = {**config.rope_parameters, **known}
    return config


def _slows_down(factors: tuple[float, ...], theta: float) -> bool:
    """Whether these are Llama 3's factors: 1 for waves far within the length it was first trained on, the largest
    beyond it, and between the two by a formula.
    """
    count, length = len(factors), _LLAMA3["original_max_position_embeddings"]
    for place, factor in enumerate(factors):
        wave = 2 * math.pi * theta ** (place / count)
        smooth = min(1.0, max(0.0, (length / wave - 1) / (_LLAMA3["high_freq_factor"] - 1)))
        if not math.isclose(factor, 1 / ((1 - smooth) / max(factors) + smooth), rel_tol=1e-4):
            return False
    return True


def _unreadable(path: Path, why: str) -> AtlasError:
    return AtlasError(
        f"{path} cannot be dequantised by transformers: {why}. Give the folder of the model that it was made from, "
        "with config.json, the tokenizer and *.safetensors."
    )


# From the file to the folder


def load(path: Path, header: Header, config: Any) -> tuple[Any, Any]:
    """The file's model in float32, which no longer knows that it was quantised, and its tokenizer.

    Raises:
        AtlasError: transformers cannot read it, or does not read all of it.
    """
    where: dict[str, Any] = {"pretrained_model_name_or_path": path.parent, "gguf_file": str(path.resolve())}
    try:
        with silently():
            tokenizer = transformers.AutoTokenizer.from_pretrained(**where)
            quantised, report = transformers.AutoModelForCausalLM.from_pretrained(
                **where, config=config, dtype=torch.float32, output_loading_info=True
            )
    except Exception as error:  # gguf, numpy, tokenizers and transformers each raise their own
        raise _unreadable(path, first_line(error)) from error
    if lacking := sorted(report["missing_keys"]):
        raise _unreadable(path, f"the file lacks {', '.join(lacking[:3])}{' …' if len(lacking) > 3 else ''}")
    require_all_read(path, header, sum(one.numel() for one in quantised.parameters()))
    return _unmarked(quantised), tokenizer


def require_all_read(path: Path, header: Header, parameters: int) -> None:
    """Raises an AtlasError unless the model of a file has as many numbers as the file."""
    there = header.numbers.total() - len(header.slowed)
    if parameters != there:
        raise _unreadable(path, f"the file holds {there:,} numbers, and the model it makes of them has {parameters:,}")


def _unmarked(quantised: Any) -> Any:
    """The same model without any memory of its quantisation, which save_pretrained would refuse or do again."""
    config = quantised.config
    config.__dict__.pop("quantization_config", None)
    config.tie_word_embeddings = quantised.get_output_embeddings().weight is quantised.get_input_embeddings().weight
    config.__dict__.pop("_model_name_or_path", None)  # the file's title for a training run
    with silently(), torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(quantised.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config = quantised.generation_config
    return model


def write(model: Any, tokenizer: Any, folder: Path, stamp: Mapping[str, str], quantisation: str | None) -> None:
    """Save model and tokenizer in a folder, and last of all the stamp."""
    with silently():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    files = _weights(folder)
    for path in files:
        shutil.copymode(folder / "config.json", path)  # safetensors leaves it readable by its owner alone
    whole = {
        **stamp,
        "quantisation": quantisation,
        "weights_sha256": _sha256(files),
        "weights_bytes": _size(files),
    }
    (folder / STAMP).write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")


def make(
    folder: Path, whole: Callable[[], bool], fill: Callable[[Path], None], *, room: float, what: str = "The model"
) -> None:
    """Let `fill` make the content of `folder` beside it, and put it in place; one process at a time.

    Args:
        folder: the folder; replaced where it has a stamp but is damaged.
        whole: whether it is there already, which another process may have seen to meanwhile.
        fill: makes the content in the new folder that it is given.
        room: bytes that must be free.
        what: the subject of a sentence on what failed.

    Raises:
        AtlasError: the disk is full or not writable, or a folder without a stamp is in the way.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.parent / f".{folder.name}.lock", f"Another process is making {folder}.", seconds=-1):
            if not whole():
                _make(folder, fill, room)
    except AtlasError:
        raise
    except Exception as error:  # safetensors reports a full disk with an error class of its own
        if not isinstance(error, OSError) and "No space left" not in str(error):
            raise
        raise AtlasError(
            f"{what} could not be written under {folder.parent}: {error}. It needs a writable folder with "
            f"{room / 2**20:.0f} MB free; make room and run this again. Nothing half-made was kept."
        ) from error


def _make(folder: Path, fill: Callable[[Path], None], room: float) -> None:
    if folder.exists() and not (folder / STAMP).exists():
        raise AtlasError(
            f"{folder} exists but has no {STAMP}, so it was not made by this program and is not overwritten. "
            "Move it away (or delete it) and run this again."
        )
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a run that was killed
    partial.mkdir()
    try:
        free = shutil.disk_usage(partial).free
        if free < room:
            raise OSError(errno.ENOSPC, f"{free / 2**20:.0f} MB are free", str(folder.parent))
        fill(partial / folder.name)
        if folder.exists():
            shutil.rmtree(folder)  # stamped but damaged, or made from another file
        (partial / folder.name).rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


# Codes with scales, in safetensors

_UNDONE = {"fp8": "FP8", "mxfp8": "MXFP8", "mxfp4": "MXFP4"}
"""By the method that a config names, the quantisations which transformers undoes on any machine."""
_COMPRESSED = {"pack-quantized": "I32", "float-quantized": "F8_E4M3"}
"""Of compressed-tensors, the formats that are undone too, with the type of their codes."""
SCALE = re.compile(
    r"(_scale_inv|\.(activation|input|output|[qkv])_(scale|zero_point)|\.experts\.(gate_up|down)_proj_scales"
    r"|\.weight_(scale|shape|zero_point|g_idx))$"
)
_TOKENIZER = ("*token*.json", "vocab.*", "merges.txt", "*.model", "*.jinja", "generation_config.json")


@dataclass(frozen=True)
class TokenizerFiles:
    """A folder's tokenizer, which is copied as it is."""

    folder: Path

    def save_pretrained(self, to: Path) -> None:
        """As tokenizers do."""
        for path in {path for pattern in _TOKENIZER for path in self.folder.glob(pattern)}:
            shutil.copy(path, to / path.name)


def coding_of(folder: Path) -> str | None:
    """How the weights in a folder are quantised, if that can be undone; None for all else."""
    config = read_json(folder / "config.json")
    given = config.get("quantization_config") if isinstance(config, dict) else None
    if not isinstance(given, dict):
        return None
    if given.get("quant_method") == "compressed-tensors":
        changed = any(given.get(name) for name in ("transform_config", "sparsity_config"))
        return None if changed or given.get("format") not in _COMPRESSED else f"compressed-tensors {given['format']}"
    return _UNDONE.get(str(given.get("quant_method")))


def require_scales(folder: Path) -> None:
    """Raises an AtlasError unless each code has a scale, of blocks that fill it; what lacks one would be read as it is,
    and a scale of other blocks be spread over all.
    """
    places, kind = stored.headers(stored.safetensors_files(folder)), coding_of(folder)
    given = read_json(folder / "config.json")["quantization_config"]
    block, compressed = given.get("weight_block_size"), _COMPRESSED.get(given.get("format", ""))
    if compressed and find_spec("compressed_tensors") is None:
        raise AtlasError(
            f"The model in {folder} is quantised ({kind}), and what undoes that is not installed: "
            "`pip install -r indexer/requirements-quantised.txt`."
        )
    for name, place in places.items():
        if place.dtype in stored.PLAIN or SCALE.search(name):
            continue
        if name.endswith(stored.BLOCKS) and kind == "MXFP4":
            scale = places.get(f"{name.removesuffix(stored.BLOCKS)}_scales")
            if scale is None or (scale.dtype, scale.shape) != ("U8", place.shape[:-1]) or place.shape[-1] != 16:
                raise as_quantised(folder, f"{name} is not 16 bytes with one scale, as MXFP4 has them")
            continue
        if compressed:
            if place.dtype != compressed or f"{name.removesuffix(stored.PACKED)}_scale" not in places:
                raise as_quantised(folder, f"{name} is of type {place.dtype} without a scale that is undone here")
            continue
        scale = places.get(f"{name}_scale_inv")
        if not place.dtype.startswith("F8") or scale is None:
            raise as_quantised(folder, f"{name} is of type {place.dtype} without a scale that transformers undoes")
        if math.prod(scale.shape) != 1 and scale.shape != _grid(place.shape, block):
            raise as_quantised(folder, f"the blocks of {name} do not divide it, and transformers does not undo that")


def _grid(shape: tuple[int, ...], block: Sequence[int] | None) -> tuple[int, ...] | None:
    """How many blocks a matrix has each way; None where they do not fill it."""
    if block is None or len(shape) != len(block) or any(size % part for size, part in zip(shape, block, strict=True)):
        return None
    return tuple(size // part for size, part in zip(shape, block, strict=True))


def of_codes(folder: Path, name: str, models: Path, numbers: int) -> Path:
    """The folder in `models` that holds the weights of a folder of codes; made the first time. See `folder_of`.
    `numbers`: how many the model has.

    Raises:
        AtlasError: transformers does not read all of it, or the folder cannot be written.
    """
    files, kind = stored.safetensors_files(folder), coding_of(folder)
    digest = digest_of(folder / "config.json", *files)
    made = place_for(folder, name, digest, models)
    if is_whole(made, digest):
        return made
    room = 4.0 * numbers

    def fill(partial: Path) -> None:
        say(f"Dequantising {name} ({kind}) into {made}: once, {room / 1e9:.1f} GB of float32 ...")
        stamp = {"model": name, "source": str(folder.resolve()), "source_sha256": digest}
        write(_unmarked(read_whole(folder, dequantize=True)), TokenizerFiles(folder), partial, stamp, kind)

    make(made, lambda: is_whole(made, digest), fill, room=1.1 * room)
    return made


def read_whole(folder: Path, **quantisation: Any) -> Any:
    """The model of a folder in float32, all of it; `quantisation` is what its config is told of that besides."""
    where: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        with silently():
            config = transformers.AutoConfig.from_pretrained(folder, **where)
            if quantisation:
                config.quantization_config = {**config.quantization_config, **quantisation}
            model, report = transformers.AutoModelForCausalLM.from_pretrained(
                folder, config=config, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **where
            )
    except Exception as error:  # whatever its operations raise
        raise AtlasError(f"transformers cannot read the model in {folder}: {first_line(error)}.") from error
    if lacking := sorted(map(str, (*report["missing_keys"], *report["mismatched_keys"]))):
        raise AtlasError(f"transformers does not find all of the model in {folder}: {', '.join(lacking[:3])}.")
    return model


def digest_of(*parts: Path | str) -> str:
    """Of the content of files, and of texts."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(bytes.fromhex(sha256_of(part)) if isinstance(part, Path) else part.encode())
    return digest.hexdigest()


# The folder's stamp


def stamp_of(folder: Path) -> dict[str, Any]:
    """What the folder's stamp says; nothing where it has none that can be read."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((folder / STAMP).read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    return {}


def _made_of(folder: Path) -> set[Any]:
    """The hash of what the folder was made of; nothing where its stamp does not say."""
    return {stamp_of(folder).get(name) for name in ("gguf_sha256", "source_sha256")} - {None}


def is_whole(folder: Path, source_sha256: str, *, verify: bool = False) -> bool:
    """Whether the folder holds all that was made of that source: by the size of its weights, with `verify` by hash."""
    stamp, files = stamp_of(folder), _weights(folder)
    if source_sha256 not in _made_of(folder) or stamp.get("weights_bytes") != _size(files):
        return False
    needed = ("config.json", "tokenizer.json") if "gguf_sha256" in stamp else ("config.json",)
    if not all((folder / name).is_file() for name in needed):
        return False
    return not verify or stamp.get("weights_sha256") == _sha256(files)


def quantisation_of(folder: Path) -> str | None:
    """How the weights in a folder were quantised before; None where they were not, or where nobody says so."""
    stamp = stamp_of(folder)
    found = stamp.get("quantisation")
    return str(found) if found and stamp.get("weights_bytes") == _size(_weights(folder)) else None


def _weights(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def _size(files: list[Path]) -> int:
    return sum(path.stat().st_size for path in files)


def _sha256(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(2**22):
                digest.update(block)
    return digest.hexdigest()


class _Silence:
    """How many want it at once, and what was set before the first of them."""

    lock = threading.Lock()
    holders = 0
    before = (logging.WARNING, True)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """transformers prints no line and no bar of its own within; what matters of it is said in our messages."""
    theirs = transformers.utils.logging
    with _Silence.lock:
        if not _Silence.holders:
            _Silence.before = (theirs.get_verbosity(), theirs.is_progress_bar_enabled())
            theirs.set_verbosity(logging.CRITICAL)
            theirs.disable_progress_bar()
        _Silence.holders += 1
    try:
        yield
    finally:
        with _Silence.lock:
            _Silence.holders -= 1
            if not _Silence.holders:
                theirs.set_verbosity(_Silence.before[0])
                if _Silence.before[1]:
                    theirs.enable_progress_bar()


@contextlib.contextmanager
def silently() -> Iterator[None]:
    """The same of what is printed past its settings, as its reader of GGUF files does."""
    with quietly(), contextlib.redirect_stderr(io.StringIO()):
        yield
