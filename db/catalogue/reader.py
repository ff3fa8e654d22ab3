"""One immutable build's file, opened read-only and checked: its stamp, and the vocabulary from text to tokens."""

import math
import re
import zlib
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self

import duckdb
from duckdb_sqlalchemy import ConnectionWrapper
from sqlalchemy import URL, Engine, Table, create_engine, false, select
from sqlalchemy.exc import DBAPIError, InternalError, OperationalError

from db.catalogue import schema, statements
from db.catalogue.concepts import checked, is_word, spellings
from db.catalogue.statements import Answer, Statement
from db.errors import AtlasError
from db.lazy import lazy_import
from db.records import BuildStamp, Token, TokenMatches, read_experts
from db.token_text import readings

if TYPE_CHECKING:
    import tokenizers
    from tokenizers import Tokenizer
else:
    tokenizers = lazy_import("tokenizers")

# Opening a build's file: read-only, shut off from other files and the network, bounded in memory.

_HEADER = 3 * 4096  # bytes before the first block
REBUILD = "Build it again with `python -m indexer build MODEL`."

# One configuration for every reader: within a process DuckDB refuses to open a file twice with different ones.
READ_ONLY_CONFIG: dict[str, Any] = {
    "enable_external_access": "false",
    "autoload_known_extensions": "false",
    "autoinstall_known_extensions": "false",
    "allow_community_extensions": "false",
    "python_enable_replacements": "false",
    "lock_configuration": "true",
    "threads": 2,
    "memory_limit": "1GB",
    "allocator_flush_threshold": "8MB",  # of what queries freed, before the system gets it back; else 128 MB
}


def read_only_engine(path: Path) -> Engine:
    """An engine on one immutable file. Connects lazily: a bad file shows at the first statement."""
    url = URL.create("duckdb", database=str(path))
    # Left to itself the dialect would add its name to the configuration, and so exclude read_only_connection.
    return create_engine(url, creator=lambda: ConnectionWrapper(read_only_connection(path)))


def read_only_connection(path: Path) -> duckdb.DuckDBPyConnection:
    """A bare DuckDB connection with the same restrictions, for bulk reading as arrays."""
    return duckdb.connect(str(path), read_only=True, config=READ_ONLY_CONFIG)


def _check_whole(engine: Engine, path: Path, what: str, again: str) -> None:
    """Refuse a file that is missing, no DuckDB file or shorter than the blocks it says it uses.

    DuckDB opens some truncated files and fails only when a query reaches the missing part.

    Args:
        engine: on the file.
        path: the file.
        what: it should be, for the message.
        again: how it is made again, as a sentence.

    Raises:
        AtlasError: names the file and what is wrong.
    """
    if not path.is_file():
        raise AtlasError(f"{path} is not a file, so no {what} can be read from it. {again}")
    try:
        with engine.connect() as connection:
            found = connection.exec_driver_sql(
                f"SELECT block_size * used_blocks + {_HEADER} FROM pragma_database_size()"
            ).scalar_one()
    except DBAPIError as error:
        raise unreadable(path, error.orig, f"{path} is not a readable {what} ({reason(error)}). {again}") from error
    size = path.stat().st_size
    if size < found:
        raise AtlasError(f"{path} is cut short: {size:,} of {found:,} bytes are there. {again}")


def reason(error: DBAPIError) -> str:
    """What the database said, in one line."""
    return (str(error.orig).strip().splitlines() or ["no reason given"])[0][:160]


_LOCKED = re.compile(r"Could not set lock on file|Conflicting lock")
_HOLDER = re.compile(r"lock is held in (.+?) \(PID (\d+)\)")


def unreadable(path: Path, error: object, otherwise: str) -> AtlasError:
    """Why a file cannot be opened: another process writes to it, this one may not read it, or what the caller says."""
    said = str(error)
    if _LOCKED.search(said):
        holder = _HOLDER.search(said)
        who = "another process" if holder is None else f"process {holder[2]} ({Path(holder[1]).name})"
        return AtlasError(f"{path} is locked: {who} has it open for writing. Close it there, then try again.")
    if "Permission denied" in said:
        return AtlasError(f"{path} may not be read by this user (permission denied). Change that, then try again.")
    return AtlasError(otherwise)


def checkpoint_of(path: Path) -> str | None:
    """The identity of a build's checkpoint, whatever the build's schema; None where the file cannot tell.

    Raises:
        AtlasError: the file is locked, or may not be read.
    """
    try:
        with read_only_connection(path) as connection:
            found = connection.execute("SELECT checkpoint FROM build").fetchone()
    except duckdb.IOException as error:
        if str(problem := unreadable(path, error, "")):
            raise problem from error
        return None
    except duckdb.Error:
        return None
    return None if found is None else str(found[0])


class ReadOnlyFile:
    """An immutable DuckDB file with a stamp. May be shared by threads: each statement takes a connection of its own."""

    STAMP: ClassVar[Table]
    """The table of one row that says what the file is; has a column schema_version. The file has its whole metadata."""
    VERSION: ClassVar[int]
    LATER: ClassVar[frozenset[str]] = frozenset()
    """Columns that files of earlier versions lack."""
    WHAT: ClassVar[str]
    """It is, for messages, and what a database that is none should be."""
    KIND: ClassVar[str]
    AGAIN: ClassVar[str]
    """How it is made again, as a sentence."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._engine = read_only_engine(path)
        self._closed = False

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a file.

        Raises:
            AtlasError: the file is missing, truncated, of another kind, or of another schema version.
        """
        reader = cls(path)
        try:
            _check_whole(reader._engine, path, cls.WHAT, cls.AGAIN)
            reader._check_schema()
        except BaseException:
            reader.close()
            raise
        return reader

    def close(self) -> None:
        """Let go of the file; further questions raise AtlasError."""
        self._closed = True
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def rows(self, statement: Statement) -> Sequence[Answer]:
        """All rows at once: a result left half read would hold its connection."""
        if self._closed:
            raise AtlasError(f"The {self.WHAT} {self.path.name} was closed: open it, or its successor, again.")
        try:
            with self._engine.connect() as connection:
                return connection.execute(statement).all()
        except (OperationalError, InternalError) as error:
            words = (
                f"{self.path} cannot be read ({reason(error)}): the file is damaged, or the disk fails. {self.AGAIN}"
            )
            raise unreadable(self.path, error.orig, words) from error

    def _check_schema(self) -> None:
        try:
            versions = self.rows(select(self.STAMP.c.schema_version))
            if len(versions) != 1 or versions[0][0] != self.VERSION:
                found = versions[0][0] if versions else "unknown"
                raise AtlasError(
                    f"{self.path} has schema version {found}, but this program reads version {self.VERSION}. "
                    f"{self.AGAIN}"
                )
            has = {str(name) for name in self.rows(statements.stamp(self.STAMP))[0]._mapping}
            for table in self.STAMP.metadata.sorted_tables:
                columns = [one for one in table.columns if one.name in has or one.name not in self.LATER]
                # No bound parameter here: DuckDB imports pandas at the first one, which opening should not wait for.
                self.rows(select(*columns).where(false()))
            self._check_content(has)
        except DBAPIError as error:
            raise AtlasError(
                f"{self.path} is a database, but not a {self.KIND} ({reason(error)}). {self.AGAIN}"
            ) from error

    def _check_content(self, has: set[str]) -> None:
        """Refuse what earlier versions did wrong; `has` are the columns of the stamp."""


class Reader(ReadOnlyFile):
    """A build's file."""

    STAMP, VERSION, LATER = schema.build, schema.SCHEMA_VERSION, schema.LATER
    WHAT, KIND, AGAIN = "catalogue", "catalogue of neurons", REBUILD

    def _check_content(self, has: set[str]) -> None:
        """Refuse what was built before rows of no token were left out of every list and statistic, if it has any."""
        unused = 0 if "padding" in has else self.rows(statements.unused_rows())[0][0]
        if unused:
            raise AtlasError(
                f"{self.path} was built by an earlier version, which took {unused:,} rows of the unembedding that no "
                f"token uses for tokens: its lists, means and z are wrong. {REBUILD}"
            )


# The vocabulary.

_SHORTEST_BEGINNING = 3
_LONGEST_WORD = 40
_SHORTEST_SHARED = 4
_SUGGESTED = 3
_ID = re.compile("#[0-9]{1,9}")


class Tokens(Reader):
    """The stamp and the tokens of one build."""

    @cached_property
    def info(self) -> BuildStamp:
        """The build's stamp."""
        (row,) = self.rows(statements.stamp(schema.build))
        stored = dict(row._mapping)
        packed = stored.pop("tokenizer_zlib")
        try:
            text = None if packed is None else zlib.decompress(packed).decode("utf-8", "surrogatepass")
        except (zlib.error, UnicodeDecodeError) as error:
            raise AtlasError(f"The tokenizer in {self.path} is damaged. {REBUILD}") from error
        experts = read_experts(stored.pop("experts", None))
        return BuildStamp(**stored, tokenizer_json=text, experts=experts)

    @cached_property
    def _tokenizer(self) -> "Tokenizer | None":
        if self.info.tokenizer_json is None:
            return None
        try:
            found = tokenizers.Tokenizer.from_str(self.info.tokenizer_json)
        except Exception as error:  # the library raises nothing narrower
            raise AtlasError(
                f"The tokenizer in this catalogue cannot be read ({str(error)[:120]}): "
                "install the pinned version of `tokenizers`, or build the catalogue again."
            ) from error
        found.no_truncation()
        found.no_padding()
        return found

    @cached_property
    def _seen(self) -> dict[int, Token]:
        """Tokens met so far, at most the vocabulary: a search asks for those that resolving its text has just found."""
        return {}

    @cached_property
    def has_neighbours(self) -> bool:
        """Whether the build holds the neighbours of tokens: earlier versions left them out for large vocabularies."""
        return bool(self.rows(statements.any_neighbour()))

    def resolve(self, text: str) -> TokenMatches:
        """The tokens a text stands for, whatever its leading space and case, and what the tokenizer splits it into. It
        may be a display form (␣Paris), written as in a vocabulary (ĠParis), or an id (#259).

        Raises:
            AtlasError: the text is empty, too long or not valid Unicode.
        """
        for reading in readings(checked(text)):
            found = self._spelt(reading)
            if found:
                return TokenMatches(text, found, *self.split(text))
        if _ID.fullmatch(text) and int(text[1:]) < self.info.vocabulary:
            return TokenMatches(text, (self.token(int(text[1:])),), *self.split(text))
        return TokenMatches(text, (), *self.split(text), self.spelt_like(text))

    def _spelt(self, data: bytes) -> tuple[Token, ...]:
        """The tokens that are some bytes; of a text in any spelling, the exact one first."""
        try:
            wanted = {spelling: place for place, spelling in enumerate(spellings(data.decode()))}
        except UnicodeDecodeError:
            return self.tokens_by_bytes(data)
        found = self.tokens_by_text(list(wanted))
        # A text that holds a NUL is stored as bytes alone.
        return tuple(sorted(found, key=lambda token: wanted[token.text])) or self.tokens_by_bytes(data)

    def split(self, text: str) -> tuple[tuple[Token, ...], tuple[int, ...] | None]:
        """What the model's tokenizer splits the text into, and the ids among it for which the unembedding has no row;
        nothing and None where the build holds no tokenizer.

        White space around the text does not count, but for one leading space.
        """
        if self._tokenizer is None:
            return (), None
        stripped = text.strip()
        lead = " " if text.startswith(" ") else ""
        split = self._tokenizer.encode(lead + stripped if stripped else text, add_special_tokens=False).ids
        ids = [token_id for token_id in split if token_id < self.info.vocabulary]
        known = self.tokens(ids)
        rowless = tuple(token_id for token_id in split if token_id >= self.info.vocabulary)
        return tuple(known[token_id] for token_id in ids), rowless

    def tokens_by_text(self, texts: Sequence[str]) -> tuple[Token, ...]:
        """The tokens that are exactly one of the texts, by id."""
        found = sorted(
            (token_of(row) for row in self.rows(statements.tokens_by_text(texts))), key=attrgetter("token_id")
        )
        self._seen.update((token.token_id, token) for token in found)
        return tuple(found)

    def tokens_by_bytes(self, data: bytes) -> tuple[Token, ...]:
        """The tokens that are exactly some bytes, by id."""
        return tuple(token_of(row) for row in self.rows(statements.tokens_by_bytes(data)))

    def tokens_beginning(self, word: str) -> tuple[Token, ...]:
        """The few shortest tokens that begin with a word of three letters or more, whatever their case."""
        rows = self.rows(statements.tokens_beginning(word)) if len(word) >= _SHORTEST_BEGINNING else ()
        return tuple(token_of(row) for row in rows)

    def beginning_like(self, word: str) -> tuple[Token, ...]:
        """The few shortest words among the tokens that share the longest beginning with a word, half of it or more."""
        least = max(_SHORTEST_SHARED, math.ceil(len(word) / 2))
        for length in range(min(len(word) - 1, _LONGEST_WORD), least - 1, -1):
            found = tuple(token for token in self.tokens_beginning(word[:length]) if is_word(token.text))
            if found:
                return found
        return ()

    def spelt_like(self, word: str) -> tuple[str, ...]:
        """The few words among the tokens that are spelt most like one; none for a text that is no word."""
        bare = word.strip().lower()
        if not is_word(bare) or len(bare) > _LONGEST_WORD:
            return ()
        rows = self.rows(statements.tokens_spelt_like(bare, 1 if len(bare) < 5 else 2))
        found: dict[str, str] = {}
        words = [row.text for row in rows if is_word(row.text)]
        whole = [text for text in words if text[0].isspace()] or words  # “regation” is a piece of words
        for text in map(str.strip, whole):
            found.setdefault(text.lower(), text)

        def unlike(other: str) -> tuple[bool, float]:  # letters that changed places are the likeliest slip
            return sorted(other) != sorted(bare), -SequenceMatcher(None, bare, other).ratio()

        likest = sorted(found, key=unlike)
        return tuple(found[other] for other in likest[:_SUGGESTED])

    def token(self, token_id: int) -> Token:
        """One token.

        Raises:
            AtlasError: no such id in the vocabulary.
        """
        return self.tokens([token_id])[token_id]

    def bytes_of(self, token_id: int) -> bytes:
        """What a token stands for exactly; no bytes for a row of the unembedding that no token uses.

        Raises:
            AtlasError: no such id in the vocabulary.
        """
        return self.bytes_by_id([token_id])[token_id]

    def bytes_by_id(self, ids: Iterable[int]) -> dict[int, bytes]:
        """The same of several tokens."""
        wanted = self.known_ids(ids)
        rows = self.rows(statements.token_bytes(wanted)) if wanted else ()
        return {token_id: bytes(data) for token_id, data in rows}

    def tokens(self, ids: Iterable[int]) -> dict[int, Token]:
        """Tokens by id, in the order given.

        Raises:
            AtlasError: an id that is not in the vocabulary.
        """
        wanted = self.known_ids(ids)
        unseen = [token_id for token_id in wanted if token_id not in self._seen]
        if unseen:
            self._seen.update((row.token_id, token_of(row)) for row in self.rows(statements.tokens_by_id(unseen)))
        return {token_id: self._seen[token_id] for token_id in wanted}

    def known_ids(self, ids: Iterable[int]) -> list[int]:
        """The ids, each once.

        Raises:
            AtlasError: an id that is not in the vocabulary.
        """
        wanted = list(dict.fromkeys(ids))
        size = self.info.vocabulary
        for token_id in wanted:
            if not 0 <= token_id < size:
                raise AtlasError(f"There is no token {token_id}: the vocabulary of {self.info.model} is 0–{size - 1}.")
        return wanted


def token_of(row: statements.Answer) -> Token:
    """The token that the columns ``statements.TOKEN_COLUMNS`` of a row describe."""
    return Token(row.token_id, row.display if row.text is None else row.text, row.display, bool(row.special))
