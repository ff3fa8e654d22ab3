"""What was gathered over a corpus to one checked, immutable file beside the builds, and then TEXTS.

    catalogue/<model>/texts-<id>.duckdb     written once under a hidden name, checked, renamed
    catalogue/<model>/TEXTS                 the name of the texts that readers open next

Whatever fails on the way leaves the folder as it was.
"""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from db.catalogue.builds import TEXTS, build_path, current_build
from db.catalogue.publish import ROW_GROUP_ROWS, create_tables, publishing
from db.catalogue.reader import read_only_connection
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.neuron import NeuronKind
from db.questions import Filters, texts_of
from db.records import short_identity
from db.texts import schema
from db.texts.names import named
from db.texts.records import AFTER, BEFORE, EXCERPT_TOKENS, SKETCH, TextsStamp
from db.texts.store import Texts, deflated, folded, packed, packed_excerpts

_BYTES_A_NEURON = 2000
_WINDOWS_AT_ONCE = 2000
_SIGNS = np.array([1, -1], np.int16)
_OUTSIDE = "an excerpt does not lie in its window"
_Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Gathered:
    """What was counted and selected of n neurons; arrays, signs in the order positive, negative.

    Attributes:
        neuron_ids: i4 [n], ids as in the build, each once in all blocks together.
        mean: f8 [n], of the activations over all tokens.
        std: f8 [n], of the same, population standard deviation.
        positive: i8 [n], tokens with an activation above 0.
        negative: i8 [n], below 0.
        active_positive: i8 [n], active tokens above 0.
        active_negative: i8 [n], active tokens below 0.
        active_above: f4 [n], from which |activation| counts as active.
        highest: f4 [n].
        lowest: f4 [n].
        octaves: i8 [n, B], activations between two edges.
        octave_edges: f4 [B + 1], ascending.
        peak: f4 [n, 2, k], strongest first; NaN where there is no further excerpt.
        window: i4 [n, 2, k], number of the window; -1 where there is none.
        position: i2 [n, 2, k], of the peak in its window.
        first: i2 [n, 2, k], of the first token shown in its window.
        gate: i1 [n, 2, k], sign of the gate at the peak; 0 without a gate.
        activations: f4 [n, 2, k, 32]; NaN beyond the excerpt's tokens.
        case_count: i8 [n, 4], tokens by the signs of (gate, up): ++, +-, -+, --; None without a gate.
        case_mean: f8 [n, 4]; NaN where there are no tokens.
        case_strongest: f4 [n, 4], the activation of greatest size; NaN where there are no tokens.
        sketch: f4 [n, 512], what neurons that are active together have alike: the cosine of two rows estimates how
            their activations correlate, to ± 0.044. Stored with four bits each.
    """

    neuron_ids: _Array
    mean: _Array
    std: _Array
    positive: _Array
    negative: _Array
    active_positive: _Array
    active_negative: _Array
    active_above: _Array
    highest: _Array
    lowest: _Array
    octaves: _Array
    octave_edges: _Array
    peak: _Array
    window: _Array
    position: _Array
    first: _Array
    gate: _Array
    activations: _Array
    case_count: _Array | None = None
    case_mean: _Array | None = None
    case_strongest: _Array | None = None
    sketch: _Array | None = None


class Window(NamedTuple):
    """A run of tokens of one document."""

    window_id: int
    document: int
    first: int
    """Position in the document of its first token."""
    token_ids: Sequence[int]


def publish_texts(directory: Path, stamp: TextsStamp, gathered: Iterable[Gathered], windows: Iterable[Window]) -> Path:
    """Make what was gathered the texts of a model's builds; returns the file.

    Args:
        directory: ``catalogue/<model>/``, whose current build is of the stamp's checkpoint.
        stamp: what the file says about itself.
        gathered: blocks of neurons in ascending order of their ids, each held only while it is written.
        windows: those that excerpts refer to, in ascending order; others may be among them and are left out.

    Raises:
        AtlasError: no build of that checkpoint, arrays that contradict each other, the stamp or the build, a full disk,
            another publisher at work, or existing texts of this id with other content. TEXTS is then as it was.
    """
    if stamp.schema_version != schema.SCHEMA_VERSION:
        raise AtlasError(f"The stamp has schema version {stamp.schema_version}, not {schema.SCHEMA_VERSION}.")
    target = build_path(directory, stamp.texts_id, "texts")
    with Catalogue.open(current_build(directory)) as catalogue:
        _check_stamp(stamp, catalogue)
        needed = 3 * catalogue.info.ffn_neurons * _BYTES_A_NEURON
        with publishing(target, TEXTS, _content, needed, "What was gathered", "gather it again") as temporary:
            _load(temporary, stamp, gathered, windows, catalogue)
            with Texts.next_to(catalogue, temporary):
                _check(temporary, stamp, catalogue)
    return target


def name_again(directory: Path) -> Path:
    """Make the names of a model's current texts anew, as the rules are now; returns the new file, now current.

    Raises:
        AtlasError: there are no texts that can be read, or the disk is full.
    """
    with Catalogue.open(current_build(directory)) as catalogue:
        texts = texts_of(catalogue)
        source, stamp = texts.path, texts.stamp
        texts.close()  # within a process DuckDB opens a file in one way only
        plain = stamp.texts_id.partition("-named-")[0]
        target = build_path(directory, f"{plain}-named-{datetime.now(UTC):%Y%m%dT%H%M%S}", "texts")
        needed = 2 * source.stat().st_size
        with publishing(target, TEXTS, _content, needed, "The texts", "gather them again") as temporary:
            shutil.copyfile(source, temporary)
            with duckdb.connect(str(temporary)) as connection, read_only_connection(catalogue.path) as build:
                figures = connection.execute("SELECT * FROM neuron_text ORDER BY neuron_id").to_arrow_table()
                columns = [name for name in figures.column_names if not name.startswith("name")]
                renamed = _with_names(figures.select(columns), connection, build)
                connection.execute("DELETE FROM neuron_text")
                connection.register("rows_source", renamed)
                connection.execute("INSERT INTO neuron_text BY NAME SELECT * FROM rows_source")
                connection.execute("UPDATE texts SET texts_id = ?", [target.stem.removeprefix("texts-")])
                connection.execute("CHECKPOINT")
            _close_gaps(temporary)
    return target


def _check_stamp(stamp: TextsStamp, catalogue: Catalogue) -> None:
    if stamp.checkpoint != catalogue.info.checkpoint:
        raise AtlasError(
            f"The texts were gathered with the checkpoint {short_identity(stamp.checkpoint)}, but the current build is "
            f"of {short_identity(catalogue.info.checkpoint)}: build the model's catalogue again, then publish them."
        )
    if min(stamp.tokens_seen, stamp.windows, stamp.excerpts) < 1:
        raise AtlasError("No token was seen, so there is nothing to publish: give a corpus that holds some text.")


def _load(
    path: Path, stamp: TextsStamp, gathered: Iterable[Gathered], windows: Iterable[Window], catalogue: Catalogue
) -> None:
    quoted = str(path).replace("'", "''")
    with duckdb.connect() as connection:
        connection.execute(f"ATTACH '{quoted}' AS texts_file (ROW_GROUP_SIZE {ROW_GROUP_ROWS})")
        connection.execute("USE texts_file")
        create_tables(connection, schema.metadata)
        row = asdict(stamp)
        marks = ", ".join("?" for _ in row)
        values = [int(value) if isinstance(value, bool) else value for value in row.values()]
        names = ", ".join(f'"{name}"' for name in row)
        connection.execute(f"INSERT INTO texts ({names}) VALUES ({marks})", values)
        edges: dict[tuple[float, float], int] = {}
        figures: list[pa.Table] = []
        spans: list[_Array] = []
        for block in gathered:
            _check_block(block, stamp)
            spans.append(_spans(block))
            figures.append(_figures_table(block, edges))
            for table, rows in _tables(block).items():
                _insert(connection, table, rows)
        if not figures:
            raise AtlasError("Nothing was gathered of any neuron, so there is nothing to publish.")
        bins = [(number, *edge) for edge, number in edges.items()]
        _insert(connection, "histogram_edge", _columns(bins, bin=pa.int16(), low=pa.float32(), high=pa.float32()))
        shown = np.concatenate(spans, axis=1)
        used = set(np.unique(shown[0]).tolist())
        lengths: dict[int, int] = {}
        wanted = (one for one in windows if one.window_id in used)
        while some := list(islice(wanted, _WINDOWS_AT_ONCE)):
            _insert(connection, "text_window", _window_table(some, catalogue))
            lengths |= {one.window_id: len(one.token_ids) for one in some}
        _check_spans(shown, lengths)
        with read_only_connection(catalogue.path) as build:
            _insert(connection, "neuron_text", _with_names(pa.concat_tables(figures), connection, build))
        connection.execute("CHECKPOINT texts_file")
        connection.execute("USE memory")
        connection.execute("DETACH texts_file")
    _close_gaps(path)


def _close_gaps(path: Path) -> None:
    """Write the file anew, by one thread: many inserts leave unused blocks, up to half of it."""
    loose = path.with_suffix(".loose")
    path.rename(loose)
    before, after = (str(one).replace("'", "''") for one in (loose, path))
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.execute(f"ATTACH '{before}' AS loose (READ_ONLY)")
        connection.execute(f"ATTACH '{after}' AS texts_file (ROW_GROUP_SIZE {ROW_GROUP_ROWS})")
        connection.execute("COPY FROM DATABASE loose TO texts_file")
        connection.execute("CHECKPOINT texts_file")
        connection.execute("DETACH texts_file")
    loose.unlink()


def _insert(connection: duckdb.DuckDBPyConnection, table: str, rows: pa.Table) -> None:
    connection.register("rows_source", rows)
    names = ", ".join(f'"{name}"' for name in rows.column_names)
    connection.execute(f"INSERT INTO texts_file.{table} ({names}) SELECT {names} FROM rows_source")
    connection.unregister("rows_source")


def _columns(rows: Sequence[tuple[Any, ...]], **types: pa.DataType) -> pa.Table:
    """A table of rows given as tuples."""
    whole = list(zip(*rows, strict=True)) or [()] * len(types)
    return pa.table({name: pa.array(cells, kind) for (name, kind), cells in zip(types.items(), whole, strict=True)})


def _check_block(block: Gathered, stamp: TextsStamp) -> None:
    n, k = len(block.neuron_ids), stamp.excerpts
    wanted = {
        **dict.fromkeys(("peak", "window", "position", "first", "gate"), (n, 2, k)),
        **dict.fromkeys(("case_count", "case_mean", "case_strongest"), (n, 4)),
        "activations": (n, 2, k, EXCERPT_TOKENS),
        "octaves": (n, len(block.octave_edges) - 1),
        "octave_edges": block.octave_edges.shape,
        "sketch": (n, SKETCH),
    }
    for name, array in ((name, getattr(block, name)) for name in Gathered.__slots__):
        shape = wanted.get(name, (n,))
        if array is not None and array.shape != shape:
            raise AtlasError(f"What was gathered has {name} of shape {array.shape}, not {shape}.")
    _refuse("a histogram does not count every token", int((block.octaves.sum(axis=1) != stamp.tokens_seen).sum()))
    _refuse(_OUTSIDE, int((block.first != np.maximum(0, block.position - BEFORE))[block.window >= 0].sum()))


def _spans(block: Gathered) -> _Array:
    """[3, excerpts]; each one's window, position, and how many tokens it shows."""
    at = block.window >= 0
    return np.stack(
        [block.window[at], block.position[at], (~np.isnan(block.activations[at])).sum(axis=1)], dtype=np.int32
    )


def _check_spans(shown: _Array, lengths: Mapping[int, int]) -> None:
    """Refuse an excerpt that is not what its window holds around its peak."""
    window, position, count = shown
    number, place = np.unique(window, return_inverse=True)
    length = np.array([lengths.get(one, -1) for one in number.tolist()])[place]
    expected = np.minimum(position + 1 + AFTER, length) - np.maximum(0, position - BEFORE)
    _refuse(_OUTSIDE, int(((length >= 0) & (expected != count)).sum()))


def _refuse(problem: str, count: int) -> None:
    if count:
        raise AtlasError(f"What was gathered cannot be published: {problem} ({count:,} times).")


def _figures_table(block: Gathered, edges: dict[tuple[float, float], int]) -> pa.Table:
    """`edges` numbers the histogram's bins, and new ones are added."""
    pairs = list(zip(block.octave_edges[:-1].tolist(), block.octave_edges[1:].tolist(), strict=True))
    numbers = [edges.setdefault(pair, len(edges)) for pair in pairs]
    bins = np.zeros((len(block.neuron_ids), len(edges)), np.int64)
    bins[:, numbers] = block.octaves
    plain = ("mean", "std", "positive", "negative", "active_positive", "active_negative")
    single = ("active_above", "highest", "lowest")
    return pa.table(
        {
            "neuron_id": pa.array(block.neuron_ids, pa.int32()),
            **{name: pa.array(getattr(block, name)) for name in plain},
            **{name: pa.array(getattr(block, name), pa.float32()) for name in single},
            **_case_columns(block),
            "histogram": pa.array([deflated(row) for row in bins], pa.binary()),
        }
    )


def _case_columns(block: Gathered) -> dict[str, pa.Array]:
    if block.case_count is None or block.case_mean is None or block.case_strongest is None:
        return {}
    found = {}
    for place, case in enumerate(schema.CASES):
        count = block.case_count[:, place]
        found[f"count_{case}"] = pa.array(count)
        found[f"mean_{case}"] = pa.array(block.case_mean[:, place], mask=count == 0)
        found[f"strongest_{case}"] = pa.array(block.case_strongest[:, place], pa.float32(), mask=count == 0)
    return found


def _with_names(figures: pa.Table, texts: duckdb.DuckDBPyConnection, build: duckdb.DuckDBPyConnection) -> pa.Table:
    """The figures and the names that follow from them, the excerpts and the build's tokens."""
    ids, positive, negative = (figures[name].to_numpy() for name in ("neuron_id", "active_positive", "active_negative"))
    if (np.diff(ids) <= 0).any():
        raise AtlasError("What was gathered has a neuron twice, or neurons are out of order.")
    usual = np.where(positive + negative == 0, 0, np.where(positive >= negative, 1, -1))
    labels = named(texts, build, ids.astype(np.int64), usual)
    columns = {"name": "text", "name_rule": "rule", "name_confidence": "confidence"}
    kinds = {"name_confidence": pa.float32()}
    for name, field in columns.items():
        cells = pa.array([label and getattr(label, field) for label in labels], kinds.get(name, pa.string()))
        figures = figures.append_column(name, cells)
    return figures


def _tables(block: Gathered) -> dict[str, pa.Table]:
    """The other rows of a block, in stored order."""
    places = (len(block.neuron_ids), -1)
    rows = packed_excerpts(
        block.activations.reshape(*places, EXCERPT_TOKENS), (block.position - block.first).reshape(places)
    )
    found = {
        "excerpt": _excerpt_table(block),
        "neuron_excerpts": pa.table({"neuron_id": block.neuron_ids, "activations": pa.array(rows, pa.binary())}),
    }
    if block.sketch is not None:
        rows = [row.tobytes() for row in packed(block.sketch)]
        found["neuron_sketch"] = pa.table({"neuron_id": block.neuron_ids, "sketch": pa.array(rows, pa.binary())})
    return found


def _excerpt_table(block: Gathered) -> pa.Table:
    neuron, sign, rank = np.nonzero(block.window >= 0)
    at = (neuron, sign, rank)
    return pa.table(
        {
            "neuron_id": block.neuron_ids[neuron],
            "sign": _SIGNS[sign],
            "rank": (rank + 1).astype(np.int16),
            "window_id": block.window[at].astype(np.int32),
            "position": block.position[at].astype(np.int16),
            "gate": block.gate[at].astype(np.int16),
            "peak": block.peak[at].astype(np.float32),
        }
    )


def _window_table(windows: Sequence[Window], catalogue: Catalogue) -> pa.Table:
    size = catalogue.info.vocabulary
    known = catalogue.bytes_by_id({one for window in windows for one in window.token_ids if one < size})
    rows = [
        (
            window.window_id,
            window.document,
            window.first,
            deflated(np.asarray(window.token_ids, "<i4")),
            "".join(folded(known.get(one, b"") for one in window.token_ids)),
        )
        for window in windows
    ]
    kinds = {"window_id": pa.int32(), "document": pa.int32(), "first": pa.int32()}
    return _columns(rows, **kinds, token_ids=pa.binary(), folded=pa.string())


# What keys and constraints would guarantee.

_WRONG = {
    "a neuron's figures are not finite": """
        SELECT count(*) FROM neuron_text WHERE NOT (isfinite(mean) AND isfinite(std) AND isfinite(active_above)
            AND isfinite(highest) AND isfinite(lowest) AND std >= 0)""",
    "a neuron's counts contradict each other": """
        SELECT count(*) FROM neuron_text WHERE positive < active_positive OR negative < active_negative
            OR active_positive < 0 OR active_negative < 0 OR positive + negative > {tokens}""",
    "a histogram's edges are not finite or do not rise": """
        SELECT count(*) FROM histogram_edge WHERE NOT (isfinite(low) AND isfinite(high) AND low < high)""",
    "an excerpt refers to a window that is missing": """
        SELECT count(*) FROM excerpt ANTI JOIN text_window USING (window_id)""",
    "a window is there twice": """
        SELECT count(*) - count(DISTINCT window_id) FROM text_window""",
    "an excerpt's ranks have gaps": """
        SELECT count(*) FROM (SELECT max(rank) AS last, count(*) AS n, count(DISTINCT rank) AS ranks FROM excerpt
            GROUP BY neuron_id, sign)
        WHERE last <> n OR ranks <> n""",
    "an excerpt's peak is not of its sign, or not as its rank says": """
        SELECT count(*) FROM (SELECT peak * sign AS size,
            lag(peak * sign) OVER (PARTITION BY neuron_id, sign ORDER BY rank) AS stronger FROM excerpt)
        WHERE NOT (isfinite(size) AND size > 0) OR size > stronger""",
    "the cases of a neuron are more than the tokens": """
        SELECT count(*) FROM neuron_text WHERE count_pp + count_pn + count_np + count_nn > {tokens}""",
}


def _check(path: Path, stamp: TextsStamp, catalogue: Catalogue) -> None:
    """Compare the file's content with its stamp, its build and itself.

    Raises:
        AtlasError: the first thing that is wrong.
    """
    with read_only_connection(path) as connection:
        for problem, query in _WRONG.items():
            (count,) = connection.execute(query.format(tokens=stamp.tokens_seen)).fetchone() or (0,)
            _refuse(problem, count)
        found = connection.execute("SELECT neuron_id FROM neuron_text").fetchnumpy()["neuron_id"]
    spans = catalogue.layout.spans(Filters(kind=None if stamp.attention else NeuronKind.FFN))
    spans = [(0, catalogue.info.neurons - 1)] if spans is None else spans
    expected = np.concatenate([np.arange(first, last + 1) for first, last in spans] or [np.zeros(0, int)])
    if not np.array_equal(found, expected):
        raise AtlasError(
            f"What was gathered is of {len(found):,} neurons, but the build has {len(expected):,}: gather them all."
        )


def _content(path: Path) -> str:
    """Tells two files of texts apart by what they hold, but for when and by which code they were made."""
    told = []
    with read_only_connection(path) as connection:
        for table in schema.metadata.sorted_tables:
            left_out = " EXCLUDE (created_at, code_version)" if table is schema.texts else ""
            query = f"SELECT count(*), bit_xor(hash(t)) FROM (SELECT *{left_out} FROM {table.name}) t"
            told.append(str(connection.execute(query).fetchone()))
    return " ".join(told)
