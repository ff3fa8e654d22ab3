"""A published file of texts, read-only, beside the build whose neurons and tokens it speaks of."""

import codecs
import json
import re
import unicodedata
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from db.catalogue.builds import GATHER
from db.catalogue.concepts import checked
from db.catalogue.reader import ReadOnlyFile
from db.catalogue.statements import Answer, stamp
from db.errors import AtlasError, NotFoundError
from db.files import State, state_of
from db.lazy import lazy_import
from db.neuron import Neuron, NeuronKind, Sign
from db.records import Token, short_identity
from db.texts import schema
from db.texts.records import (
    AFTER,
    BEFORE,
    NO_NAME,
    Description,
    Excerpt,
    FoundExcerpt,
    HistogramBin,
    Mark,
    Name,
    NamedNeuron,
    NeuronTexts,
    SignCase,
    TextsStamp,
    Usual,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from db.catalogue.store import Catalogue
else:
    np = lazy_import("numpy")

_SIGNS = {1: "+", -1: "-", 0: None}
_ROWS_AT_ONCE = 1000  # of a search in excerpts
_MOST_LOOKED_AT = 50_000
_MOST_WORDS = 16


class Statistics(NamedTuple):
    """Of the activations of a layer and kind: arrays of shape [neurons], NaN for neurons not looked at."""

    mean: "NDArray[np.float64]"
    std: "NDArray[np.float64]"
    highest: "NDArray[np.float32]"
    lowest: "NDArray[np.float32]"


class Texts(ReadOnlyFile):
    """What activates the neurons of a model. Reached as :attr:`db.catalogue.store.Catalogue.texts`.

    Safe to share between threads. Every method raises AtlasError for a neuron, layer or kind that the build lacks, and
    for a file that turns out to be damaged.
    """

    STAMP, VERSION = schema.texts, schema.SCHEMA_VERSION
    WHAT, KIND, AGAIN = "file of texts", "file of texts", GATHER

    catalogue: "Catalogue"

    @classmethod
    def next_to(cls, catalogue: "Catalogue", path: Path) -> Self:
        """Open the texts in a file, of the neurons of a build.

        Raises:
            AtlasError: the file cannot be read, or its texts are of another checkpoint.
        """
        found = cls.open(path)
        found.catalogue = catalogue
        theirs, ours = found.stamp.checkpoint, catalogue.info.checkpoint
        if theirs != ours:
            found.close()
            raise AtlasError(
                f"{path.name} was gathered with another checkpoint ({short_identity(theirs)}) than that of this build "
                f"({short_identity(ours)}). {GATHER}"
            )
        return found

    @cached_property
    def stamp(self) -> TextsStamp:
        """What the file says about itself."""
        stored = dict(self.rows(stamp(schema.texts))[0]._mapping)
        flags = {name: bool(stored[name]) for name in ("own_words", "attention")}
        return TextsStamp(**stored | flags)

    def of(self, neuron: Neuron, limit: int | None = None) -> NeuronTexts:
        """What activates a neuron, with at most `limit` excerpts of each sign.

        Raises:
            NotFoundError: no such neuron, or it was not looked at.
        """
        neuron_id = self.catalogue.layout.neuron_id(neuron)
        rows = self.rows(schema.figures(neuron_id))
        if not rows:
            why = "attention neurons were left out (`--attention` takes them in)" if neuron.head is not None else ""
            raise NotFoundError(f"There are no texts for {neuron}: {why or 'it was not looked at'}.")
        (row,), seen = rows, self.stamp.tokens_seen
        active = row.active_positive + row.active_negative
        mark = _mark(row, seen)
        most = self.stamp.excerpts if limit is None else limit
        excerpts = self._excerpts(
            [one for one in self.rows(schema.excerpts(neuron_id)) if one.rank <= most], {neuron_id: row.activations}
        )
        counts = inflated(row.histogram, "<i8")
        positive, negative = (tuple(one for one in excerpts if one.peak * sign > 0) for sign in (1, -1))
        return NeuronTexts(
            neuron=neuron,
            tokens_seen=seen,
            rate=active / seen,
            mean=row.mean,
            std=row.std,
            positive_share=row.positive / seen,
            positive=positive,
            negative=negative,
            active_above=row.active_above,
            active_positive_share=row.active_positive / active if active else None,
            usual=mark.sign,
            highest=row.highest,
            lowest=row.lowest,
            cases=_cases(row, seen),
            histogram=tuple(
                HistogramBin(low, high, int(counts[number]))
                for number, low, high in self._edges
                if number < len(counts) and counts[number]
            ),
            name=mark.name,
            description=descriptions(self.path.parent, self.stamp.checkpoint).get(neuron.label),
        )

    @cached_property
    def _edges(self) -> Sequence[Answer]:
        """Of the histograms' bins, from the lowest."""
        return self.rows(schema.edges())

    def window(self, window_id: int) -> tuple[int, int, list[int]]:
        """A window's document, the position there of its first token, and its token ids.

        Raises:
            NotFoundError: no excerpt refers to that window.
        """
        rows = self.rows(schema.window(window_id))
        if not rows:
            raise NotFoundError(f"Window {window_id} is not stored: no excerpt refers to it.")
        return rows[0].document, rows[0].first, inflated(rows[0].token_ids, "<i4").tolist()

    def tokens_of(self, window_id: int) -> tuple[Token, ...]:
        """All tokens of a window, in order.

        Raises:
            NotFoundError: no excerpt refers to that window.
        """
        ids = self.window(window_id)[2]
        known = self._tokens([ids])
        return tuple(known[token_id] for token_id in ids)

    @cached_property
    def usual_ends(self) -> str:
        """1 for each end that is usually active, else 0: of every neuron by id, the end it suppresses, then the one it
        promotes.
        """
        table = np.array([tuple(row) for row in self.rows(schema.usual_ends())], np.int64).reshape(-1, 3)
        ids, positive, negative = table.T
        ends = np.zeros((self.catalogue.info.neurons, 2), np.uint8)
        ends[ids, 1] = positive >= np.maximum(negative, 1)
        ends[ids, 0] = negative > positive
        return (ends + ord("0")).tobytes().decode()

    def marks(self, neurons: Iterable[Neuron]) -> dict[Neuron, Mark]:
        """The usual end and the name of neurons, in one statement; those not looked at are left out."""
        ids = {self.catalogue.layout.neuron_id(neuron): neuron for neuron in neurons}
        return {ids[neuron_id]: mark for neuron_id, mark in self.marks_by_id(ids).items()}

    def marks_by_id(self, neuron_ids: Collection[int]) -> dict[int, Mark]:
        """The same by stored ids."""
        rows = self.rows(schema.marks(sorted(neuron_ids))) if neuron_ids else ()
        return {row.neuron_id: _mark(row, self.stamp.tokens_seen) for row in rows}

    def statistics(self, layer: int, kind: NeuronKind) -> Statistics:
        """The figures of the activations of a layer's neurons of one kind."""
        block = self.catalogue.layout.block(layer, kind)
        rows = self.rows(schema.statistics(block.first, block.size))
        table = np.full((4, block.size), np.nan)
        for neuron_id, *figures in rows:
            table[:, neuron_id - block.first] = figures
        mean, std, highest, lowest = table
        return Statistics(mean, std, highest.astype(np.float32), lowest.astype(np.float32))

    def sketches(self) -> "tuple[NDArray[np.int32], NDArray[np.float32]]":
        """Neuron ids, [n], and sketches, [n, 512]: the cosine of two estimates how activations correlate."""
        rows = self.rows(schema.sketches())
        values = unpacked(np.frombuffer(b"".join(row.sketch for row in rows), np.uint8).reshape(len(rows), -1))
        return np.array([row.neuron_id for row in rows], np.int32), values

    def peaks(self, count: int) -> dict[int, list[tuple[Sign, Token]]]:
        """By neuron's id, the tokens at the peaks of its strongest excerpts, so many of each sign."""
        windows = {row.window_id: inflated(row.token_ids, "<i4") for row in self.rows(schema.windows())}
        rows = self.rows(schema.peaks(count))
        ids = [int(windows[row.window_id][row.position]) for row in rows]
        known, found = self._tokens([list(set(ids))]), dict[int, list[tuple[Sign, Token]]]()
        for row, token_id in zip(rows, ids, strict=True):
            found.setdefault(row.neuron_id, []).append((Sign.of(row.sign), known[token_id]))
        return found

    def named(self, text: str, *, limit: int = 20, offset: int = 0) -> tuple[NamedNeuron, ...]:
        """The neurons whose name holds all words of a text, the surest names first.

        Raises:
            AtlasError: the text has no words, or too many.
        """
        words = list(patterns_of(checked(text)))
        found = []
        for row in self.rows(schema.named(words, limit, offset)):
            mark = _mark(row, self.stamp.tokens_seen)
            neuron, rate = self.catalogue.layout.neuron(row.neuron_id), mark.usual.rate if mark.usual else 0.0
            found.append(NamedNeuron(neuron, mark.name, mark.sign, rate))
        return tuple(found)

    def search_excerpts(self, text: str, *, limit: int = 20, offset: int = 0) -> tuple[FoundExcerpt, ...]:
        """The excerpts whose text holds all words of a text, by how far the peak stands out.

        A word is found where one begins with it, whatever its case; several words in quotation marks only as they are.

        Raises:
            AtlasError: the text has no words, or too many.
        """
        patterns = patterns_of(checked(text))
        pieces = list(patterns)
        found: list[Answer] = []
        for start in range(0, _MOST_LOOKED_AT, _ROWS_AT_ONCE):
            rows = self.rows(schema.holding(pieces, _ROWS_AT_ONCE, start))
            spans = self._spans(rows, list(patterns.values()))
            found += [row for row in rows if spans[row.window_id].hold(row.position - BEFORE, row.position + 1 + AFTER)]
            if len(found) >= offset + limit or len(rows) < _ROWS_AT_ONCE:
                break
        return self._found(found[offset : offset + limit])

    def _found(self, page: Sequence[Answer]) -> tuple[FoundExcerpt, ...]:
        if not page:
            return ()
        neuron_ids = sorted({row.neuron_id for row in page})
        rows = self.rows(schema.these_excerpts(neuron_ids, sorted({row.window_id for row in page})))
        activations = {row.neuron_id: row.activations for row in rows}
        excerpts = self._excerpts(rows, activations)
        stored = {(row.neuron_id, row.sign, row.rank): one for row, one in zip(rows, excerpts, strict=True)}
        neurons = {neuron_id: self.catalogue.layout.neuron(neuron_id) for neuron_id in neuron_ids}
        marks = self.marks(neurons.values())
        found = []
        for row in page:
            neuron = neurons[row.neuron_id]
            mark, excerpt = marks[neuron], stored[row.neuron_id, row.sign, row.rank]
            found.append(FoundExcerpt(neuron, Sign.of(row.sign), row.z, excerpt, mark.sign, mark.name.text))
        return tuple(found)

    def _spans(self, rows: Sequence[Answer], patterns: "Sequence[re.Pattern[str]]") -> "dict[int, _Spans]":
        windows = {row.window_id: inflated(row.token_ids, "<i4").tolist() for row in rows}
        size = self.catalogue.info.vocabulary
        known = self.catalogue.bytes_by_id({one for ids in windows.values() for one in ids if one < size})
        return {
            window_id: _Spans(folded([known.get(one, b"") for one in ids]), patterns)
            for window_id, ids in windows.items()
        }

    def _excerpts(self, rows: Sequence[Answer], activations: Mapping[int, bytes]) -> list[Excerpt]:
        """The excerpts in rows, with the stored activations of their neurons."""
        by_neuron = {neuron_id: unpacked_excerpts(data) for neuron_id, data in activations.items()}
        parts = []
        for row in rows:
            first = max(0, row.position - BEFORE)
            place = row.rank - 1 + (self.stamp.excerpts if row.sign < 0 else 0)
            around: list[float] = by_neuron[row.neuron_id][place].tolist()
            around.insert(row.position - first, row.peak)
            ids: list[int] = inflated(row.token_ids, "<i4")[first : first + len(around)].tolist()
            parts.append((row, first, around, ids))
        known = self._tokens(ids for *_, ids in parts)
        return [
            Excerpt(
                peak=row.peak,
                document=row.document,
                position=row.position,
                tokens=tuple(known[token_id] for token_id in ids),
                activations=tuple(around),
                first=first,
                window=row.window_id,
                gate=_SIGNS[row.gate],
            )
            for row, first, around, ids in parts
        ]

    def _tokens(self, ids: Iterable[Sequence[int]]) -> dict[int, Token]:
        """Tokens by id; those that the unembedding lacks are shown by their number."""
        wanted = {token_id for some in ids for token_id in some}
        size = self.catalogue.info.vocabulary
        known = self.catalogue.tokens(sorted(token_id for token_id in wanted if token_id < size))
        beyond = (token_id for token_id in wanted if token_id >= size)
        return known | {number: Token(number, f"⟨{number}⟩", f"⟨{number}⟩", True) for number in beyond}


def _mark(row: Answer, seen: int) -> Mark:
    promoting, suppressing = row.active_positive, row.active_negative
    active, usual = promoting + suppressing, None
    if active:
        sign = Sign.PROMOTES if promoting >= suppressing else Sign.SUPPRESSES
        usual = Usual(sign, max(promoting, suppressing) / active, active / seen)
    if row.name is None or usual is None:
        return Mark(usual, NO_NAME)
    return Mark(usual, Name(row.name, row.name_rule, row.name_confidence, usual.sign))


def _cases(row: Answer, seen: int) -> tuple[SignCase, ...]:
    stored = (row._mapping[f"{what}_{case}"] for case in schema.CASES for what in ("count", "mean", "strongest"))
    cases = tuple(zip(("++", "+-", "-+", "--"), stored, stored, stored, strict=True))
    return tuple(
        SignCase(signs[0], signs[1], count / seen, mean, strongest)
        for signs, count, mean, strongest in cases
        if count is not None
    )


# What is stored as one value.


def deflated(values: "NDArray[Any]") -> bytes:
    """[n] whole numbers from 0: all lowest bytes, all next ones, as far as any is not 0; each part by itself."""
    parts = values.view(np.uint8).reshape(-1, values.itemsize).T
    last = max((place for place, part in enumerate(parts) if part.any()), default=0)
    return b"".join(_deflated(part.tobytes()) for part in parts[: last + 1])


def _deflated(data: bytes) -> bytes:
    """As short as zlib makes it: by repetitions, or by how common each byte is alone."""
    found = []
    for strategy in (zlib.Z_DEFAULT_STRATEGY, zlib.Z_HUFFMAN_ONLY):
        writer = zlib.compressobj(9, zlib.DEFLATED, -10, 6, strategy)
        found.append(writer.compress(data) + writer.flush())
    return min(found, key=len)


def _inflated(data: bytes) -> "Iterator[NDArray[np.uint8]]":
    """The parts, one after the other.

    Raises:
        AtlasError: they are damaged.
    """
    while data:
        reader = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            part = reader.decompress(data)
        except zlib.error:
            raise AtlasError(f"The file of texts is damaged. {GATHER}") from None
        yield np.frombuffer(part, np.uint8)
        data = reader.unused_data


def inflated(data: bytes, kind: str) -> "NDArray[Any]":
    """[n]; what `deflated` was given, of the same type."""
    parts = list(_inflated(data))
    found = np.zeros((len(parts[0]), np.dtype(kind).itemsize), np.uint8)
    for place, part in enumerate(parts):
        found[:, place] = part
    return found.view(kind)[:, 0]


_LEAST = -127
"""Exponent that is stored as 0."""


def packed_excerpts(activations: "NDArray[np.float32]", peak_at: "NDArray[np.int64]") -> list[bytes]:
    """[n, k, 32], NaN beyond an excerpt's tokens; [n, k] -> of each neuron one value.

    An activation is a 16-bit float of activation / 2^exponent; the one at the peak is left out, because the peak itself
    is stored. Of all excerpts the high bytes, of which many are alike, then the low ones; how many there are of each
    excerpt; and the exponents.
    """
    inside = ~np.isnan(activations)
    greatest = np.abs(np.where(inside, activations, 0)).max(axis=2).astype(np.float64)
    exponents = np.frexp(greatest)[1].clip(_LEAST)
    halves = np.ldexp(activations.astype(np.float64), -exponents[..., None]).astype("<f2")
    inside &= np.arange(activations.shape[2]) != peak_at[..., None]
    counts, levels = inside.sum(axis=2).astype(np.uint8), (exponents - _LEAST).astype(np.uint8)
    found = []
    for row, own in enumerate(inside):
        low, high = halves[row][own].view(np.uint8).reshape(-1, 2).T
        found.append(b"".join(_deflated(part.tobytes()) for part in (high, low, counts[row], levels[row])))
    return found


def unpacked_excerpts(data: bytes) -> "list[NDArray[np.float64]]":
    """Of each of a neuron's excerpts, the activations but for the peak's."""
    high, low, counts, levels = _inflated(data)
    halves = np.stack([low, high], axis=1).view("<f2")[:, 0].astype(np.float64)
    values = np.ldexp(halves, np.repeat(levels.astype(np.int32) + _LEAST, counts))
    return np.split(values, np.cumsum(counts[:-1], dtype=np.int64))


def packed(sketches: "NDArray[np.float32]") -> "NDArray[np.uint8]":
    """[n, s] -> [n, s / 2]; of each number the root, as so many sevenths of the row's greatest, in four bits."""
    size = np.abs(sketches)
    greatest = size.max(axis=1, keepdims=True)
    sevenths = 7 * np.sqrt(size / np.where(greatest > 0, greatest, 1))
    levels = (8 + np.rint(np.copysign(sevenths, sketches))).astype(np.uint8)
    found: NDArray[np.uint8] = levels[:, ::2] << 4 | levels[:, 1::2]
    return found


def unpacked(stored: "NDArray[np.uint8]") -> "NDArray[np.float32]":
    """The sketches again, but for their length."""
    levels = np.stack([stored >> 4, stored & 15], axis=2).reshape(len(stored), -1).astype(np.float32) - 8
    found: NDArray[np.float32] = levels * np.abs(levels)
    return found


# A window's text as it is searched.

_TO_SPACE = str.maketrans({"\n": " ", "\t": " ", "\r": " ", "\0": "\ufffd"})  # DuckDB's texts hold no NUL
_WORDS = re.compile(r'["“”„]([^"“”„]*\w[^"“”„]*)["“”]|(\S+)')
_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")
"""Scripts that put no spaces between words, by the names of their letters."""


def fold(text: str) -> str:
    """The text whatever its case, every space a plain one."""
    return text.casefold().translate(_TO_SPACE)


def folded(tokens: Iterable[bytes]) -> list[str]:
    """What each token adds to its window's text, folded: a character that several share comes with the last."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    return [fold(decoder.decode(data)) for data in tokens]


def patterns_of(text: str) -> "dict[str, re.Pattern[str]]":
    """The words and the quoted phrases of a text, folded, and what finds each: beginnings of words, whole phrases.

    >>> {piece: bool(found.search("a cafeteria")) for piece, found in patterns_of('cafe "a cafe" teria').items()}
    {'cafe': True, 'a cafe': False, 'teria': False}

    Raises:
        AtlasError: there are none, or too many.
    """
    found = {}
    for phrase, word in _WORDS.findall(text):
        piece = " ".join(fold(phrase or word).split())
        spaced = not unicodedata.name(piece[:1] or " ", "").startswith(_UNSPACED)
        before = r"(?<!\w)" if piece[:1].isalnum() and spaced else ""
        found[piece] = re.compile(before + re.escape(piece) + (r"(?!\w)" if phrase and spaced else ""))
    if not 0 < len(found) <= _MOST_WORDS:
        raise AtlasError(f"Excerpts are searched for from 1 to {_MOST_WORDS} words; {len(found)} were given.")
    return found


class _Spans:
    """Where in a window words stand."""

    def __init__(self, pieces: Sequence[str], patterns: "Sequence[re.Pattern[str]]") -> None:
        ends = np.cumsum([len(piece) for piece in pieces])
        text = "".join(pieces)
        self._found = [
            [
                (int(np.searchsorted(ends, one.start(), "right")), int(np.searchsorted(ends, one.end() - 1, "right")))
                for one in pattern.finditer(text)
            ]
            for pattern in patterns
        ]

    def hold(self, first: int, end: int) -> bool:
        """Whether the tokens from the first to before the end hold all of the words."""
        return all(any(first <= start and last < end for start, last in places) for places in self._found)


# What a language model said of neurons, one JSON object a line, beside a model's builds.

DESCRIPTIONS = "descriptions.jsonl"


def descriptions(folder: Path, checkpoint: str) -> Mapping[str, Description]:
    """Those of a checkpoint's neurons, by label: of several of one neuron the last."""
    path = folder / DESCRIPTIONS
    return _descriptions(path, checkpoint, state_of(path))


@lru_cache(maxsize=16)
def _descriptions(path: Path, checkpoint: str, state: State | None) -> Mapping[str, Description]:
    """As it stood when the file was in this state; a line that a kill left unfinished says nothing."""
    found = {}
    try:
        lines = [] if state is None else path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        try:
            one = Description(**json.loads(line))
        except (ValueError, TypeError):
            continue
        if one.checkpoint == checkpoint:
            found[one.neuron] = one
    return found


def add_description(folder: Path, found: Description) -> None:
    """Write one more, at once.

    Raises:
        AtlasError: it cannot be written.
    """
    path = folder / DESCRIPTIONS
    try:
        with path.open("a+b") as file:
            file.seek(0, 2)
            if file.tell():
                file.seek(-1, 2)
            torn = file.read(1) not in (b"", b"\n")
            file.write(b"\n" * torn + json.dumps(asdict(found)).encode() + b"\n")
    except OSError as error:
        raise AtlasError(f"{path} cannot be written ({error.strerror or error}).") from error
