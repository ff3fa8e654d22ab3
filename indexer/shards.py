"""Finished pieces of a job in a folder or an object store: there whole or not at all, believed only when proven whole.

    <place>/work-<build id>/layer-0003.json                the shard's stamp: its build; rows, bytes, checksum of files
    <place>/work-<build id>/layer-0003-<digits>/*.parquet  its files; the digits are of their checksums

The stamp is written last, so that neither a kill nor a power cut leaves half a shard that passes for one; and should a
disk or a network lose bytes all the same, the checksums tell. Two jobs that do the same shard never mix their files.
"""

import hashlib
import json
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem
from safetensors.torch import save_file
from torch import Tensor

from db.catalogue.builds import WORK
from db.catalogue.schema import KIND_CODES, SIGN_CODES
from db.errors import AtlasError, first_line
from db.files import locked, sync
from db.records import BuildStamp, short_identity
from db.texts.records import TextsStamp
from indexer.architecture import Dimensions
from indexer.projection import Projection

_PARTIAL = ".part"
_ABANDONED = 3600  # seconds: what nobody has written to for so long is of a job that was killed
_LOCK = ".indexing.lock"


Counted = tuple[Mapping[str, Tensor], int]
"""Tensors by name, to be stored in one file, and what counts as its rows."""


class Shards:
    """The shards of one build, or of the texts of one model.

    Args:
        place: a folder, or the URL of one that fsspec can reach, such as ``s3://bucket/atlas``.
        stamp: the build's, or the texts'.

    Raises:
        AtlasError: of this and of every method: the store cannot be reached or written, or what it needs is not
            installed. In a folder of this machine that is an OSError.
    """

    def __init__(self, place: str | Path, stamp: BuildStamp | TextsStamp) -> None:
        self.place = re.sub("//[^/@]*@", "//", str(place))  # a URL may hold a password
        self._id, self._of = _named(stamp)
        try:
            if isinstance(place, Path) or "://" not in place:
                self._files, base = LocalFileSystem(), str(Path(place).absolute())
            else:
                self._files, base = fsspec.core.url_to_fs(place)
        except Exception as error:  # each store's library raises its own
            raise AtlasError(f"Shards cannot be kept in {self.place}: {first_line(error)}.") from error
        self._base = base.rstrip("/")
        self._root = f"{self._base}/{WORK}{self._id}"
        self._folder = Path(self._root) if type(self._files) is LocalFileSystem else None

    def write(self, name: str, tables: Mapping[str, pa.Table | Counted]) -> None:
        """Write tables and tensors, by file name; the shard is there when all of it is stored."""
        with self._workplace(name) as partial, self._reached():
            files = {}
            for file, table in tables.items():
                files[file] = _described(partial / file, _written(table, partial / file))
            for file in files:
                self._store(partial / file, f"{_folder_name(name, files)}/{file}")
            stamp = {"build": self._id, "of": self._of, "files": files}
            (partial / name).write_text(json.dumps(stamp), encoding="utf-8")
            self._store(partial / name, f"{name}.json")

    def replace(self, name: str, tables: Mapping[str, pa.Table | Counted]) -> None:
        """The same, and what was stored under the name before is removed."""
        before = self._folder_of(name)
        self.write(name, tables)
        if before not in (None, self._folder_of(name)):
            with self._reached(), suppress(FileNotFoundError):
                self._files.rm(f"{self._root}/{before}", recursive=True)

    def _folder_of(self, name: str) -> str | None:
        try:
            return _folder_name(name, json.loads(self._read(f"{name}.json") or "")["files"])
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def names(self) -> list[str]:
        """The shards that are there, whole or not."""
        try:
            self._files.invalidate_cache()
            found = [path.rpartition("/")[2] for path in self._files.ls(self._root, detail=False)]
        except FileNotFoundError:
            return []
        return sorted(one.removesuffix(".json") for one in found if one.endswith(".json"))

    def fetch(self, name: str, rows: Mapping[str, int] | None, into: Path) -> Path | None:
        """The folder of a shard's files on this machine.

        Args:
            name: the shard's.
            rows: of each of its files; None: any.
            into: where they are copied to if they are not on this machine; what is there already is not copied again.

        Returns:
            None where there is no whole shard of this name with these files: it is missing, or damaged.

        Raises:
            AtlasError: it is of another build.
        """
        try:
            stamp = json.loads(self._read(f"{name}.json") or "")
            files, build = dict(stamp["files"]), str(stamp["build"])
            folder = _folder_name(name, files)
            promised = {file: one["rows"] for file, one in files.items()}
        except (OSError, ValueError, TypeError, KeyError):
            return None
        if build != self._id:
            raise AtlasError(f"{self._root}/{name}.json is of another build, {_described_build(stamp)}: delete it.")
        if rows is not None and promised != rows:
            return None
        local = (self._folder or into) / folder
        if all(self._fetch(f"{folder}/{file}", local / file, one) for file, one in files.items()):
            return local
        return None

    def is_whole(self, name: str, rows: Mapping[str, int]) -> bool:
        """Whether the shard is there, with the bytes that were written."""
        with tempfile.TemporaryDirectory() as folder:
            return self.fetch(name, rows, Path(folder)) is not None

    def others(self) -> list[str]:
        """The other builds that have shards in the same place, for a sentence."""
        found = []
        with suppress(Exception):  # it is only told
            self._files.invalidate_cache()
            for path in sorted(one.rstrip("/") for one in self._files.ls(self._base, detail=False)):
                if path.rpartition("/")[2].startswith(WORK) and not path.endswith(self._id):
                    stamps = sorted(one for one in self._files.ls(path, detail=False) if one.endswith(".json"))
                    found += [_described_build(json.loads(self._files.cat_file(stamp))) for stamp in stamps[:1]]
        return found

    def clean(self) -> None:
        """Remove what jobs that were killed left half written in a folder of this machine."""
        for path in self._folder.glob(f"*{_PARTIAL}") if self._folder is not None else ():
            with suppress(FileNotFoundError):  # it has been finished meanwhile
                if time.time() - path.stat().st_mtime > _ABANDONED:
                    shutil.rmtree(path, ignore_errors=True)

    @contextmanager
    def _workplace(self, name: str) -> Iterator[Path]:
        """A folder to write in: beside the shards, so that files are renamed and not copied, where that can be."""
        if self._folder is None:
            with tempfile.TemporaryDirectory() as folder:
                yield Path(folder)
            return
        partial = self._folder / f"{name}-{uuid.uuid4().hex}{_PARTIAL}"
        partial.mkdir(parents=True)
        try:
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _store(self, file: Path, name: str) -> None:
        if self._folder is None:
            self._files.put_file(str(file), f"{self._root}/{name}")
            return
        target = self._folder / name
        target.parent.mkdir(exist_ok=True)
        sync(file)
        file.replace(target)
        sync(target.parent)

    def _read(self, name: str) -> bytes | None:
        with self._reached():
            try:
                return bytes(self._files.cat_file(f"{self._root}/{name}"))
            except FileNotFoundError:
                return None

    def _fetch(self, name: str, local: Path, description: Mapping[str, Any]) -> bool:
        """Whether the file is here, after copying it where it was not, with the bytes that were written."""
        if self._is_here(local, description) or self._folder is not None:
            return self._is_here(local, description)
        local.parent.mkdir(parents=True, exist_ok=True)
        with self._reached(), suppress(FileNotFoundError):
            self._files.get_file(f"{self._root}/{name}", str(local))
        return self._is_here(local, description)

    @staticmethod
    def _is_here(path: Path, description: Mapping[str, Any]) -> bool:
        try:
            return _described(path, description["rows"]) == description
        except OSError:
            return False

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if self._folder is not None:
                raise
            raise AtlasError(
                f"{self.place} cannot be used ({first_line(error)}). Set right what it needs, and run the same command "
                "again: finished shards are kept."
            ) from error


def _folder_name(name: str, files: Mapping[str, Mapping[str, Any]]) -> str:
    digest = hashlib.sha256("".join(files[file]["sha256"] for file in sorted(files)).encode())
    return f"{name}-{digest.hexdigest()[:16]}"


def _written(table: pa.Table | Counted, path: Path) -> int:
    """Write one file of a shard; how many rows it has."""
    if isinstance(table, tuple):
        save_file({name: one.cpu() for name, one in table[0].items()}, path)
        return int(table[1])
    # Read once, soon: better compression would cost more than it saves.
    pq.write_table(table, path, compression="lz4", use_dictionary=["sign", "rank", "kind", "layer"])
    return int(table.num_rows)


def _named(stamp: BuildStamp | TextsStamp) -> tuple[str, dict[str, Any]]:
    """The id that shards have in common, and what they are of."""
    of = {"model": stamp.model, "checkpoint": stamp.checkpoint}
    if isinstance(stamp, BuildStamp):
        return stamp.build_id, of | {"depth": stamp.depth}
    return stamp.texts_id, of | {"corpus": stamp.corpus}


def _described_build(stamp: Mapping[str, Any]) -> str:
    of = dict(stamp.get("of", {}))
    model, checkpoint = of.pop("model", None), short_identity(str(of.pop("checkpoint", "")))
    return f"{stamp['build']} ({', '.join([str(model), checkpoint, *(f'{name} {one}' for name, one in of.items())])})"


def _described(path: Path, rows: int) -> dict[str, Any]:
    with path.open("rb") as file:
        return {
            "rows": rows,
            "bytes": path.stat().st_size,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }


def work_folder(directory: Path, build_id: str) -> Path:
    """Where the shards of one build lie until it is published."""
    return directory / f"{WORK}{build_id}"


def work_folders(directory: Path) -> list[Path]:
    """Unfinished work of any build of this model."""
    return sorted(path for path in directory.glob(f"{WORK}*") if path.is_dir())


@contextmanager
def only_indexer(directory: Path, seconds: float = 0) -> Iterator[None]:
    """Hold a model's folder for one indexer, after waiting for it so long. The system lets go of it when the process
    ends, however it ends.

    Raises:
        AtlasError: another process holds it.
    """
    held = (
        f"Another process is indexing into {directory}: wait until it has finished, or stop it; the same command then "
        "goes on from its finished layers."
    )
    with locked(directory / _LOCK, held, seconds=seconds):
        yield


def neuron_rows(projection: Projection, layer: int, size: Dimensions) -> pa.Table:
    """The rows of the catalogue's table ``neuron`` for one layer."""
    ffn, attention = np.arange(size.ffn_neurons(layer)), np.arange(size.attention_width)
    kinds = [KIND_CODES["ffn"]] * len(ffn) + [KIND_CODES["attention"]] * len(attention)
    heads = pa.concat_arrays([pa.nulls(len(ffn), pa.int16()), pa.array(attention // size.head_dim, pa.int16())])
    count, first = len(kinds), size.neurons_before(layer)
    return pa.table(
        {
            "neuron_id": pa.array(np.arange(first, first + count), pa.int32()),
            "kind": pa.array(kinds, pa.int16()),
            "layer": pa.array(np.full(count, layer), pa.int16()),
            "head": heads,
            "index": pa.array(np.concatenate([ffn, attention % size.head_dim]), pa.int32()),
            "mean": pa.array(projection.mean.numpy(), pa.float32()),
            "std": pa.array(projection.std.numpy(), pa.float32()),
            "norm": pa.array(projection.norm.numpy(), pa.float32()),
        }
    )


def pair_rows(projection: Projection, layer: int, size: Dimensions) -> pa.Table:
    """The rows of its table ``neuron_token`` for one layer: by neuron, promotes before suppresses, by rank."""
    count, depth = projection.top_tokens.shape
    first = size.neurons_before(layer)
    signs = np.array([SIGN_CODES["promotes"], SIGN_CODES["suppresses"]], np.int16)
    tokens = np.stack([projection.top_tokens.numpy(), projection.bottom_tokens.numpy()], axis=1)  # [neuron, end, rank]
    logits = np.stack([projection.top_logits.numpy(), projection.bottom_logits.numpy()], axis=1)
    return pa.table(
        {
            "neuron_id": pa.array(np.arange(first, first + count, dtype=np.int32).repeat(2 * depth)),
            "sign": pa.array(np.tile(signs.repeat(depth), count)),
            "rank": pa.array(np.tile(np.arange(1, depth + 1, dtype=np.int16), 2 * count)),
            "token_id": pa.array(tokens.reshape(-1).astype(np.int32, copy=False)),
            "logit": pa.array(logits.reshape(-1)),
        }
    )
