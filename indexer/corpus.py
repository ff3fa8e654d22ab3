"""The documents of a corpus: text files, folders, JSONL, Parquet, or a data set on the hub, one after the other.

Nothing in a text is lost, and no text stops a run: bytes that are no UTF-8 become U+FFFD and are counted. What cannot
be read, or lacks the column, is refused with its file and row.
"""

import codecs
import gzip
import hashlib
import json
import mimetypes
import os
import re
import unicodedata
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from db.errors import AtlasError, first_line

OWN_WORDS = "own_words"
"""The key in the first record of a JSONL file that `indexer.own_words` wrote: by which model, and how."""

_LINES = (".jsonl", ".jsonl.gz", ".ndjson")
_ROWS = ".parquet"
_DATA_SET = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(/[\w.-]+)?")
_CONVERTED = "refs/convert/parquet"  # the branch on which the hub keeps each data set as Parquet
_SNIFFED = 2**16  # bytes of a file that are looked at to tell whether it is text
_BATCH = 64  # rows of Parquet held at a time; one may be a megabyte
_MARKS = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
"""Byte order marks, which say how a file is written and are no part of its text; so is that of UTF-8."""


class _Found(NamedTuple):
    """A document in its file: its text, its row for messages, and whether something in it had to be replaced."""

    text: str
    row: str
    mended: bool


@dataclass(frozen=True)
class Document:
    """One text of a corpus: its number from 0, and file and row, for messages."""

    number: int
    text: str
    source: str


@dataclass(frozen=True)
class _Part:
    """One file: what it is called in messages, and how to get at it."""

    name: str
    fetch: Callable[[], Path]


@dataclass
class Corpus:
    """A corpus; iterating streams its documents, from the start each time.

    Attributes:
        name: the file's, the folder's or the data set's.
        description: what it is, for a sentence.
        licence: empty where nobody said.
        column: of JSONL and Parquet, that holds the text.
        split: of a data set on the hub.
        own_words: whether a model wrote it.
        written_by: the identity of that model's checkpoint.
    """

    name: str
    description: str
    licence: str
    column: str
    split: str | None = None
    own_words: bool = False
    written_by: str | None = None
    limit: int | None = None
    left_out: list[str] = field(default_factory=list)  # files of a folder that are no text
    mended: int = 0  # documents in which something was replaced, in the last whole pass
    _parts: list[_Part] = field(default_factory=list)
    _hash: str | None = None

    def __iter__(self) -> Iterator[Document]:
        """The documents in order.

        Raises:
            AtlasError: one cannot be read, there is no text at all, or the corpus has changed since the last pass.
        """
        digest, mended, characters = hashlib.sha256(), 0, 0
        for number, found in enumerate(islice(self._found(), self.limit)):
            data = found.text.encode()
            digest.update(len(data).to_bytes(8, "little") + data)
            mended += found.mended
            characters += len(found.text)
            yield Document(number, found.text, found.row)
        if not characters:
            raise AtlasError(f"The corpus {self.name} holds no text. Give one that does.")
        fingerprint = f"sha256 {digest.hexdigest()}"
        if self._hash not in (None, fingerprint):
            raise AtlasError(
                f"The corpus {self.name} changed while it was read. Wait until it is complete, then try again."
            )
        self._hash, self.mended = fingerprint, mended

    def fingerprint(self) -> str:
        """“sha256 …” of the documents' texts in order, with their lengths; reads all of it the first time."""
        if self._hash is None:
            for _ in self:
                pass
        assert self._hash is not None
        return self._hash

    @property
    def notices(self) -> list[str]:
        """What was not taken as it is, in sentences; complete after a whole pass."""
        found = []
        if self.left_out:
            more = f" and {len(self.left_out) - 3} more" if len(self.left_out) > 3 else ""
            found.append(f"Left out, since they are no text: {', '.join(self.left_out[:3])}{more}.")
        if self.mended:
            noun = "document holds" if self.mended == 1 else "documents hold"
            found.append(f"{self.mended:,} {noun} bytes that are no UTF-8; each is shown as U+FFFD (�).")
        return found

    def _found(self) -> Iterator[_Found]:
        for part in self._parts:
            is_lines, is_rows = part.name.endswith(_LINES), part.name.endswith(_ROWS)
            reader = _read_lines if is_lines else _read_rows if is_rows else _read_text
            try:
                for found in reader(part.fetch(), self.column):
                    yield found._replace(row=f"{part.name}{found.row}")
            except AtlasError as error:
                raise AtlasError(f"{part.name}{error}") from error
            except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
                reason = getattr(error, "strerror", None) or first_line(error)
                raise AtlasError(f"{part.name} cannot be read ({reason}). Mend it, or leave it out.") from error


def open_corpus(
    given: str, *, column: str = "text", split: str | None = None, licence: str | None = None, limit: int | None = None
) -> Corpus:
    """Find a corpus; nothing is read yet but a folder's list of files.

    Args:
        given: a text file, which is one document; a .jsonl, .jsonl.gz or .parquet file; a folder of such files; or a
            data set on the hub, “owner/name” or “owner/name/configuration”.
        column: of JSONL and Parquet, that holds the text.
        split: of a data set on the hub (default: train, or the only one).
        licence: of the texts (default: what the data set's card says).
        limit: how many documents to read (default: all).

    Raises:
        AtlasError: there is no such corpus, it cannot be reached, or it has no file of text.
    """
    path = Path(given)
    if path.is_file() or path.is_dir():
        if split is not None:
            raise AtlasError(
                f"--split {split}: only data sets on the hub have splits. Leave it out, or give another file."
            )
        return _local(path, column, licence or "", limit)
    if path.exists():
        raise AtlasError(f"{given} is neither a file nor a folder.")
    if given.endswith((*_LINES, _ROWS, ".txt", ".json", ".md")) or not _DATA_SET.fullmatch(given) or ".." in given:
        raise AtlasError(f"There is no file or folder “{given}”, and it is no data set's name (owner/name) either.")
    return _from_hub(given, column, split, licence, limit)


def _local(path: Path, column: str, licence: str, limit: int | None) -> Corpus:
    name = _shown(path.resolve().name)
    if path.is_file():
        if not path.name.endswith((*_LINES, _ROWS)) and not _is_text(path):
            raise AtlasError(
                f"{path} is no text. Give a text file, .jsonl, .jsonl.gz or .parquet, or a folder of them."
            )
        own = _own_words(path)
        description = f"the file {name}"
        if own:
            description = f"{own['model']}'s own words on {own['topics']} topics, drawn with seed {own['seed']}"
        parts = [_Part(name, lambda: path)]
        return Corpus(name, description, licence, column, None, bool(own), own.get("checkpoint"), limit, _parts=parts)
    files, left_out = _files_of(path)
    if not files:
        raise AtlasError(f"The folder {path} has no file of text (text, .jsonl, .jsonl.gz or .parquet).")
    parts = [_Part(_shown(file.relative_to(path).as_posix()), partial(Path, file)) for file in files]
    noun = "file" if len(files) == 1 else "files"
    description = f"the {len(files):,} {noun} of the folder {name}"
    return Corpus(name, description, licence, column, limit=limit, left_out=left_out, _parts=parts)


def _files_of(folder: Path) -> tuple[list[Path], list[str]]:
    """The files of text in a folder, by path, and the names of the others; hidden ones are neither."""

    def fail(error: OSError) -> None:
        raise AtlasError(f"{error.filename} cannot be read ({error.strerror}). Mend it, or leave it out.") from error

    found, left_out = [], []
    for root, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(root, name) for name in names if not name.startswith(".") and Path(root, name).is_file()]
    files = []
    for path in sorted(found, key=lambda one: one.relative_to(folder).as_posix()):
        if path.name.endswith((*_LINES, _ROWS)) or _is_text(path):
            files.append(path)
        else:
            left_out.append(_shown(path.relative_to(folder).as_posix()))
    return files, left_out


def _is_text(path: Path) -> bool:
    """Whether a file reads as text: by its ending, or since few of its first characters are none."""
    if (mimetypes.guess_type(path.name)[0] or "").startswith("text/"):
        return True
    try:
        with path.open("rb") as file:
            start = _decoded(file.read(_SNIFFED))[0]
    except OSError:
        return True  # whoever reads it says why it cannot be read
    none = sum(one == "\ufffd" or (unicodedata.category(one) == "Cc" and one not in "\t\n\r\f\x1b") for one in start)
    return none <= len(start) / 10


def _own_words(path: Path) -> dict[str, Any]:
    """What the first record says, where a model wrote the file."""
    if not path.name.endswith(_LINES):
        return {}
    try:
        with _opened(path) as file:
            own = json.loads(file.readline()).get(OWN_WORDS)
    except (OSError, EOFError, zlib.error, ValueError, AttributeError, RecursionError):
        return {}  # whoever reads it says why it cannot be read
    return own if isinstance(own, dict) and {"model", "checkpoint", "topics", "seed"} <= set(own) else {}


# Readers: what one file holds. Their messages go on after the file's name.


def _read_text(path: Path, _column: str) -> Iterator[_Found]:
    text, mended = _decoded(path.read_bytes())
    yield _Found(text, "", mended)


def _read_lines(path: Path, column: str) -> Iterator[_Found]:
    with _opened(path) as file:
        for number, line in enumerate(file, 1):
            written, mended = _decoded(line)
            if not written.strip():
                continue
            row = f", line {number}"
            try:
                record = json.loads(written)
            except (ValueError, RecursionError) as error:
                raise AtlasError(
                    f"{row}: it is no JSON ({first_line(error)}). Mend the line, or leave it out."
                ) from error
            columns = list(record) if isinstance(record, dict) else []
            if column not in columns:
                raise _no_column(row, column, columns)
            text = "" if record[column] is None else record[column]
            if not isinstance(text, str):
                raise AtlasError(f"{row}: “{column}” is no text ({json.dumps(text)[:40]}). Name another: --column.")
            whole = _without_halves(text)
            yield _Found(whole, row, mended or whole != text)


def _read_rows(path: Path, column: str) -> Iterator[_Found]:
    with pq.ParquetFile(path, buffer_size=2**20) as file:
        names = file.schema_arrow.names
        if column not in names:
            raise _no_column("", column, names)
        kind = file.schema_arrow.field(column).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        kinds = (
            pa.types.is_string,
            pa.types.is_large_string,
            pa.types.is_binary,
            pa.types.is_large_binary,
            pa.types.is_null,
        )
        if not any(is_kind(kind) for is_kind in kinds):
            raise AtlasError(f": “{column}” is no text ({kind}). Name another: --column.")
        number = 0
        for batch in file.iter_batches(_BATCH, columns=[column]):
            # As bytes: pyarrow stops at a string that is no UTF-8.
            for data in batch.column(0).cast(pa.large_binary()).to_pylist():
                number += 1
                text, mended = (data or b"").decode("utf-8", "replace"), False
                if "\ufffd" in text:
                    mended = text.encode() != data
                yield _Found(text, f", row {number}", mended)


def _opened(path: Path) -> Any:
    return gzip.open(path) if path.name.endswith(".gz") else path.open("rb")


def _no_column(row: str, column: str, columns: list[str]) -> AtlasError:
    has = ", ".join(f"“{name[:40]}”" for name in columns[:8]) + (" …" if len(columns) > 8 else "")
    return AtlasError(
        f"{row}: it has no “{column}”{f', only {has}' if has else ''}. Name the column of the text: --column."
    )


def _decoded(data: bytes) -> tuple[str, bool]:
    """The text that bytes stand for, and whether some had to be replaced."""
    for mark, coding in _MARKS.items():
        if data.startswith(mark) and len(data) > len(mark):
            with suppress(UnicodeDecodeError):
                return data.removeprefix(mark).decode(coding), False
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        return data.decode(), False
    except UnicodeDecodeError:
        return data.decode(errors="replace"), True


def _without_halves(text: str) -> str:
    """The text with U+FFFD for halves of characters, which JSON may hold and no tokenizer reads."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _shown(name: str) -> str:
    """A file's name for a message, whatever its bytes."""
    return os.fsencode(name).decode("utf-8", "replace")


# A data set on the hub, by its Parquet files, which are fetched one after the other and kept in the hub's cache.


def _from_hub(given: str, column: str, split: str | None, licence: str | None, limit: int | None) -> Corpus:
    owner, name, *configuration = given.split("/")
    data_set = f"{owner}/{name}"
    try:
        card = huggingface_hub.dataset_info(data_set)
        try:
            info = huggingface_hub.dataset_info(data_set, revision=_CONVERTED)
        except RevisionNotFoundError:
            info = card
    except (httpx2.HTTPError, OSError) as error:
        raise AtlasError(
            f"“{given}” is neither a file or folder here nor to be had from the hub: {_why_not(error)}. Check the name "
            "and the network, or give a file or a folder."
        ) from error
    files = sorted(one.rfilename for one in info.siblings or [] if one.rfilename.endswith(_ROWS))
    if configuration:
        files = [file for file in files if configuration[0] in Path(file).parts]
    files, split = _of_split(files, split, given)
    found = licence or (card.card_data.get("license") if card.card_data else None) or ""
    parts = [_Part(f"{data_set}/{file}", partial(_fetch, data_set, file, info.sha)) for file in files]
    return Corpus(
        data_set,
        f"the data set {given}, split {split}",
        ", ".join(found) if isinstance(found, list) else str(found),
        column,
        split,
        limit=limit,
        _parts=parts,
    )


def _of_split(files: list[str], split: str | None, given: str) -> tuple[list[str], str]:
    """The files of a split, which is a folder's name or the beginning of the files' names."""
    by_place: dict[tuple[str, str], list[str]] = {}
    for file in files:
        folder, own = Path(file).parent, re.match(r"[A-Za-z_]+", Path(file).name)
        place = (folder.parent.as_posix(), folder.name) if own is None else (folder.as_posix(), own[0])
        by_place.setdefault(place, []).append(file)
    names = sorted({name for _, name in by_place})
    wanted = split or ("train" if "train" in names else names[0] if len(names) == 1 else "")
    found = {configuration: files for (configuration, name), files in by_place.items() if name == wanted}
    if not names:
        raise AtlasError(f"The data set {given} has no Parquet files. Fetch it, and give a file or a folder.")
    if not found:
        said = f"--split {split}: " if split else ""
        raise AtlasError(f"{said}the data set {given} has the splits {', '.join(names)}. Name one: --split.")
    if len(found) > 1:
        raise AtlasError(f"{given} has several configurations. Name one: {given}/{' or /'.join(sorted(found)[:20])}.")
    return next(iter(found.values())), wanted


def _fetch(data_set: str, file: str, revision: str | None) -> Path:
    try:
        return Path(huggingface_hub.hf_hub_download(data_set, file, repo_type="dataset", revision=revision))
    except (httpx2.HTTPError, OSError) as error:
        raise AtlasError(f" cannot be fetched: {_why_not(error)}. The same command goes on with a network.") from error


def _why_not(error: Exception) -> str:
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return "this process is offline (HF_HUB_OFFLINE is set)"
    if isinstance(error, RepositoryNotFoundError):
        return "there is no such data set, or it is private or gated"
    return "there is no connection" if not isinstance(error, HfHubHTTPError) else first_line(error)
