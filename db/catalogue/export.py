"""Answers in other forms: records as JSON objects and as data frames; frames as files; a build as one file.

    >>> as_json(Neighbour(1, Token(7, " Paris", "␣Paris", False), 0.53125))
    {'token_id': 7, 'token': ' Paris', 'cosine': 0.531}

In JSON a neuron is its label, and a token its id and text; in a data frame a neuron is five columns, or six where any
is of an expert, and a token is shown in its unambiguous form (:mod:`db.token_text`).

JSON and Parquet hold every value exactly. In CSV a text that begins as a formula would (= + - @, a tab or a line
break, also after spaces or in full width) gets an apostrophe before it, so that no spreadsheet computes it: a token
" =SUM" is a token, whoever chose the vocabulary. ``token_id`` tells which token it is in any case.
"""

import io
import json
import shutil
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, is_dataclass
from enum import StrEnum
from functools import cache, partial
from operator import attrgetter
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args, get_origin, get_type_hints

from db.errors import AtlasError
from db.files import atomic_write
from db.groups import Group, GroupNeuron
from db.lazy import lazy_import
from db.neuron import Neuron, Sign
from db.questions import (
    ByName,
    ConceptSearch,
    Groups,
    InExcerpts,
    OneGroup,
    OneNeuron,
    OneToken,
    Question,
    Search,
    Similar,
    TextsOf,
)
from db.records import (
    HIDDEN,
    TEXTS,
    ConceptNeuron,
    Hit,
    Neighbour,
    NeuronCard,
    Rounded,
    SimilarNeuron,
    Spread,
    Token,
    TokenLogit,
)
from db.texts.records import Excerpt, FoundExcerpt, NamedNeuron, NeuronTexts

if TYPE_CHECKING:
    import pandas as pd

    from db.catalogue.store import Catalogue
else:
    pd = lazy_import("pandas")


# From the records' fields to JSON.

_SPREAD = {Neuron: Spread(neuron="label"), Token: Spread(token_id="token_id", token="text")}
_hints = partial(get_type_hints, include_extras=True)
_VALUE = "_value_"  # of an enum's member, where `value` would take as long as all other attributes together
_PLACE = ("layer", "head", "expert", "index")
_LABEL = "The neuron's label, such as L28.F29 or L21.H19.N7."


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a record's JSON."""

    name: str
    kind: type
    """Of the value, or of each of several: a plain type, a StrEnum or a record."""
    several: bool
    optional: bool
    about: str
    """What it holds, as a sentence; empty where the name says it."""
    get: Callable[[Any], Any]
    """Record to JSON value."""


@cache
def json_fields(record: Any) -> tuple[Field, ...]:
    """What the JSON of a record has, in its order."""
    found = [field for name, hint in _hints(record).items() for field in _fields(name, hint, [name])]
    order = getattr(record, "JSON", None)
    return tuple(found) if order is None else tuple(next(one for one in found if one.name == name) for name in order)


def as_json(answer: Any) -> Any:
    """A record, or a sequence of records of one kind, as plain objects for JSON."""
    if not isinstance(answer, Sequence):
        return as_json((answer,))[0]
    if not answer:
        return []
    record: Any = type(answer[0])
    fields = [(field.name, field.get) for field in json_fields(record)]
    return [{name: get(one) for name, get in fields} for one in answer]


def _parts(hint: Any) -> tuple[Any, tuple[Any, ...], bool]:
    """A type as annotated: the bare type, what is noted of it, and whether it may be None."""
    bare, *notes = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    if isinstance(bare, UnionType):
        (other,) = (kind for kind in get_args(bare) if kind is not NoneType)
        return other, tuple(notes), True
    return bare, tuple(notes), False


def _fields(name: str, hint: Any, path: list[str], optional: bool = False) -> Iterator[Field]:
    kind, notes, may_lack = _parts(hint)
    if HIDDEN in notes:
        return
    optional = optional or may_lack
    spread = next((note for note in notes if isinstance(note, Spread)), _SPREAD.get(kind))
    if spread is not None:
        for part, attribute in spread.items():
            yield from _fields(part, _attribute(kind, attribute), [*path, attribute], optional)
        return
    about = next((note for note in notes if isinstance(note, str) and note != TEXTS), "")
    several = get_origin(kind) is tuple
    kind = str if TEXTS in notes else get_args(kind)[0] if several else kind
    get = _getter(path, kind, notes, several)
    may_fail = optional and (len(path) > 1 or issubclass(kind, StrEnum))
    yield Field(name, kind, several, optional, about, _unless_none(path[0], get) if may_fail else get)


def _attribute(kind: type, name: str) -> Any:
    """The annotated type of a field or of a property."""
    if kind is Neuron and name == "label":
        return Annotated[str, _LABEL]
    found = getattr(kind, name, None)
    return get_type_hints(found.fget)["return"] if isinstance(found, property) else _hints(kind)[name]


def _getter(path: list[str], kind: type, notes: tuple[Any, ...], several: bool) -> Callable[[Any], Any]:
    get = attrgetter(".".join(path))
    if TEXTS in notes:
        return lambda record: [entry.text for entry in get(record)]
    if is_dataclass(kind):
        return lambda record: as_json(get(record))
    rounded = next((note for note in notes if isinstance(note, Rounded)), None)
    if rounded is not None:
        return lambda record: round(get(record), rounded.decimals)
    if issubclass(kind, StrEnum):
        return attrgetter(".".join([*path, _VALUE]))
    if several:
        return lambda record: list(get(record))
    return (lambda record: str(get(record))) if kind is Path else get


def _unless_none(owner: str, get: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """None where the value whose attribute is wanted is None."""
    return lambda record: None if getattr(record, owner) is None else get(record)


# From the records' fields to data frames, for notebooks, charts and exports. Column names are ASCII.


def frame_of(record: type, rows: Sequence[Any]) -> pd.DataFrame:
    """One row per record, in the order given.

    A neuron has the columns neuron, kind, layer, head (missing for FFN neurons), expert (only where any is an expert's)
    and index; a token has token_id and token, its unambiguous form. Several tokens are the columns tokens, which counts
    them, and one that lists them.
    """
    columns = _columns(record)
    table = pd.DataFrame({name: list(map(get, rows)) for name, get in columns.items()}, columns=list(columns))
    return experts_only(table.astype({"head": "Int64", "expert": "Int64"})) if "expert" in columns else table


def experts_only(table: pd.DataFrame) -> pd.DataFrame:
    """Without its column ``expert`` where that is empty, as in models that have none."""
    return table.drop(columns="expert") if table["expert"].isna().all() else table


def card_frame(card: NeuronCard) -> pd.DataFrame:
    """One row per stored token of the neuron: the promoted ones by rank, then the suppressed ones by rank."""
    found = frame_of(TokenLogit, (*card.top, *card.bottom))
    found.insert(0, "sign", [str(Sign.PROMOTES)] * len(card.top) + [str(Sign.SUPPRESSES)] * len(card.bottom))
    found.insert(1, "rank", [*range(1, len(card.top) + 1), *range(1, len(card.bottom) + 1)])
    return found


def texts_frame(found: NeuronTexts) -> pd.DataFrame:
    """One row per excerpt: the positive ones, strongest first, then the negative ones."""
    table = frame_of(Excerpt, (*found.positive, *found.negative))
    table.insert(0, "sign", [str(sign) for sign in Sign for _ in found.at(sign)])
    table.insert(1, "rank", [rank for sign in Sign for rank, _ in enumerate(found.at(sign), start=1)])
    return table


@cache
def _columns(record: type) -> dict[str, Callable[[Any], Any]]:
    found: dict[str, Callable[[Any], Any]] = {}
    for name, hint in _hints(record).items():
        kind, notes, optional = _parts(hint)
        spread = next((note for note in notes if isinstance(note, Spread)), None)
        if spread is not None:
            inner = _columns(kind)
            found |= {column: _within(attrgetter(name), inner[part]) for column, part in spread.items()}
        elif kind is Neuron:
            paths = {"neuron": "label", "kind": f"kind.{_VALUE}"} | {one: one for one in _PLACE}
            found |= {column: attrgetter(f"{name}.{path}") for column, path in paths.items()}
        elif kind is Token:
            found |= {"token_id": attrgetter(f"{name}.token_id"), "token": attrgetter(f"{name}.display")}
        elif TEXTS in notes:
            found |= _listing(attrgetter(name), name)
        elif get_origin(kind) is None and issubclass(kind, StrEnum):
            get = attrgetter(f"{name}.{_VALUE}")
            found[name] = _unless_none(name, get) if optional else get
        else:
            found[name] = attrgetter(name)
    return found


def _within(outer: Callable[[Any], Any], inner: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda record: inner(outer(record))


def _listing(get: Callable[[Any], Any], name: str) -> dict[str, Callable[[Any], Any]]:
    return {
        "tokens": lambda record: len(get(record)),
        name: lambda record: " ".join(entry.display for entry in get(record)),
    }


# Files.

EVERYTHING = 2**31 - 1
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def safe_cell(text: str) -> str:
    """The text as a spreadsheet may have it.

    >>> safe_cell("=1+1"), safe_cell("  -x"), safe_cell(" Paris"), safe_cell("＝1")
    ("'=1+1", "'  -x", ' Paris', "'＝1")
    """
    bare = unicodedata.normalize("NFKC", text.lstrip(" \xa0\u3000\ufeff\u200b"))
    return "'" + text if bare.startswith(_FORMULA) or text.startswith(_FORMULA) else text


def answer_frame(catalogue: "Catalogue", question: Question) -> pd.DataFrame:
    """The rows that answer a question; ``token`` is a token's display form, ``text`` its own text."""
    table = _rows_of(catalogue, question)
    if "token_id" in table:
        known = catalogue.tokens(int(token_id) for token_id in table["token_id"])
        texts = [known[int(token_id)].text for token_id in table["token_id"]]
        table.insert(list(table.columns).index("token") + 1, "text", texts)
    return table


_RECORDS: dict[type[Question], type] = {
    Search: Hit,
    Similar: SimilarNeuron,
    InExcerpts: FoundExcerpt,
    ByName: NamedNeuron,
    Groups: Group,
}
"""Of the questions whose answers are rows as they stand."""


def _rows_of(catalogue: "Catalogue", question: Question) -> pd.DataFrame:
    if (record := _RECORDS.get(type(question))) is not None:
        return frame_of(record, cast("Sequence[Any]", question.answer(catalogue)))
    match question:
        case ConceptSearch():
            return frame_of(ConceptNeuron, question.answer(catalogue).neurons)
        case OneNeuron():
            return card_frame(question.answer(catalogue))
        case TextsOf():
            return texts_frame(question.answer(catalogue))
        case OneGroup():
            return frame_of(GroupNeuron, question.answer(catalogue).members)
        case OneToken():
            return frame_of(Neighbour, catalogue.neighbours(catalogue.tokens_of(question.text)[0].token_id))
        case _:
            return catalogue.overview()


def to_csv(frame: pd.DataFrame) -> str:
    """The frame as CSV (RFC 4180), texts made safe for spreadsheets."""
    safe = frame.copy()
    for name in safe.columns:
        if safe[name].map(type).isin([str, Sign]).any():
            safe[name] = [safe_cell(str(value)) if isinstance(value, str) else value for value in safe[name]]
    # With any other line end, a carriage return within a text would not be quoted and would end the row.
    return str(safe.to_csv(index=False, lineterminator="\r\n"))


def to_json(frame: pd.DataFrame) -> str:
    """The frame as a list of objects; floats in full, what is missing as null."""
    rows = frame.astype(object).where(frame.notna(), None).to_dict(orient="records")
    return json.dumps(rows, allow_nan=False)


def as_bytes(frame: pd.DataFrame, form: str) -> bytes:
    """The frame as a file's content; form: "csv" (safe for spreadsheets), "json" or "parquet" (both exact)."""
    if form == "parquet":
        buffer = io.BytesIO()
        frame.to_parquet(buffer, index=False)
        return buffer.getvalue()
    return (to_csv(frame) if form == "csv" else to_json(frame)).encode("utf-8", "surrogatepass")


def write(frame: pd.DataFrame, path: Path | None, form: str | None) -> str:
    """Write the frame to a file and return a line that says so; without a file, return its text.

    Raises:
        AtlasError: an unknown ending, Parquet without a file, or a file that cannot be written.
    """
    form = form or (path.suffix.removeprefix(".").lower() if path else "") or "csv"
    if form not in ("csv", "json", "parquet"):
        raise AtlasError(f"“{form[:20]}” is no format to export to: use csv, json or parquet, or say --format.")
    if path is None:
        if form == "parquet":
            raise AtlasError("Parquet is no text: give a file to write it to, --to FILE.")
        return (to_csv(frame) if form == "csv" else to_json(frame)).removesuffix("\r\n")
    with atomic_write(path) as temporary:
        temporary.write_bytes(as_bytes(frame, form))
    return f"{len(frame):,} rows written to {path}"


def copy_build(source: Path, target: Path) -> str:
    """Copy a build's file; it is one file and answers from anywhere (``--catalogue FILE``).

    Raises:
        AtlasError: the target exists, or cannot be written.
    """
    with atomic_write(target, replace=False) as temporary:
        shutil.copyfile(source, temporary)
    return f"{source.name} copied to {target}, {target.stat().st_size:,} bytes"
