"""The rows of the neuron-token tables in both stored orders, sorted in memory.

The order by token is one sort of whole numbers: a row's token, sign, rank and place in the order by neuron stand in one
number of 64 bits, so that nothing but these numbers is moved.

Legend: n = neuron-token rows, p = neurons.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

BYTES_A_ROW = 60
"""Of memory while rows are sorted: both orders, and the numbers that are sorted."""
_PIECE_ROWS = 1_500_000
"""About; DuckDB writes the pieces of a table side by side, and each leaves a block half full."""
_ROUND_ROWS = 24_576  # a piece has a multiple of so many: whole row groups
_AT_ONCE = 1 << 17  # rows: what is computed of so many stays in the processor's cache
_Whole = NDArray[np.signedinteger]


def by_neuron(pairs: pa.Table) -> pa.Table:
    """Rows of ``neuron_token``, sorted by neuron, sign descending, rank. Rows that are so already are handed back."""
    neurons, signs, ranks = (_numbers(pairs, name) for name in ("neuron_id", "sign", "rank"))
    sorted_so_far, last = True, None
    for part in _parts(len(neurons)):
        # A rank, a sign and a neuron, 15 bits, one bit and 32.
        place = (neurons[part].astype(np.int64) * 2 + (signs[part] < 0)) * (1 << 15) + ranks[part]
        sorted_so_far &= bool((place[1:] >= place[:-1]).all()) and (last is None or last <= place[0])
        last = place[-1]
    return pairs if sorted_so_far else pairs.take(pa.array(np.lexsort((ranks, -signs.astype(np.int32), neurons))))


def by_token(pairs: pa.Table, neurons: pa.Table) -> pa.Table:
    """Rows of ``token_neuron``, sorted by token, sign descending, rank, neuron.

    Args:
        pairs: rows of ``neuron_token`` in their order.
        neurons: columns neuron_id, mean and std, every neuron once.
    """
    columns = {name: _numbers(pairs, name) for name in ("neuron_id", "sign", "rank", "token_id")}
    order = _token_order(columns["token_id"], columns["sign"], columns["rank"])
    columns["z"] = _z(columns["neuron_id"], _numbers(pairs, "logit"), neurons)
    size = _piece(len(order))
    pieces = [order[start : start + size] for start in range(0, max(len(order), 1), size)]
    return pa.concat_tables([pa.table({name: column[piece] for name, column in columns.items()}) for piece in pieces])


def in_pieces(table: pa.Table) -> pa.Table:
    """The same rows in pieces."""
    return pa.Table.from_batches(table.to_batches(max_chunksize=_piece(len(table))), table.schema)


def _piece(rows: int) -> int:
    """Rows of a piece, such that all are about alike."""
    each = -(-rows // max(1, round(rows / _PIECE_ROWS)))
    return max(1, -(-each // _ROUND_ROWS)) * _ROUND_ROWS


def _numbers(table: pa.Table, name: str) -> NDArray:  # type: ignore[type-arg]
    return np.asarray(table[name].combine_chunks())


def _parts(rows: int) -> Iterator[slice]:
    return (slice(start, min(start + _AT_ONCE, rows)) for start in range(0, rows, _AT_ONCE))


def _token_order(tokens: _Whole, signs: _Whole, ranks: _Whole) -> NDArray[np.int64]:
    """Where the rows stand, which are in the order by neuron, in the order by token."""
    rows = len(tokens)
    if rows == 0:
        return np.zeros(0, np.int64)
    place_bits, rank_bits = rows.bit_length(), int(ranks.max()).bit_length()
    if min(tokens.min(), ranks.min()) < 0 or place_bits + rank_bits + 1 + int(tokens.max()).bit_length() > 63:
        return np.lexsort((ranks, -signs.astype(np.int32), tokens))
    keys = np.empty(rows, np.int64)
    for part in _parts(rows):
        some = tokens[part].astype(np.int64)
        some <<= 1
        some |= signs[part] < 0
        some <<= rank_bits
        some |= ranks[part]
        some <<= place_bits
        some |= np.arange(part.start, part.stop)
        keys[part] = some
    keys.sort()
    keys &= (1 << place_bits) - 1
    return keys


def _z(neuron_ids: _Whole, logits: NDArray[np.float32], neurons: pa.Table) -> NDArray[np.float32]:
    """(logit - mean) / std of the row's neuron, 0 where the neuron is constant or unknown; rows are in neuron order."""
    neurons = neurons.sort_by("neuron_id")
    known, mean, std = (_numbers(neurons, name) for name in ("neuron_id", "mean", "std"))
    starts = np.flatnonzero(np.diff(neuron_ids, prepend=neuron_ids[0] - 1)) if len(neuron_ids) else np.zeros(0, int)
    found = np.minimum(np.searchsorted(known, neuron_ids[starts]), max(len(known) - 1, 0))
    counts = np.diff(starts, append=len(neuron_ids))
    divisor = np.where(known[found] == neuron_ids[starts], std[found], 0).astype(np.float32)
    with np.errstate(invalid="ignore", divide="ignore"):
        z: NDArray[np.float32] = mean[found].repeat(counts)
        np.subtract(logits, z, out=z)
        z /= divisor.repeat(counts)
    for start, count in zip(starts[divisor == 0], counts[divisor == 0], strict=True):
        z[start : start + count] = 0
    return z
