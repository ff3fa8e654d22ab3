"""Is a catalogue what its model gives? Counts and order of all rows; and a sample of neurons, derived again.

The derivation here is the plainest there is, one float64 product with the whole unembedding and a comparison with
every token. It shares nothing with the way the build was made but the reading of the weights, and that is compared with
the model as transformers loads it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from db.catalogue.check import check_build
from db.catalogue.reader import read_only_connection
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.records import BuildStamp, short_identity
from indexer.build import stamp_of
from indexer.checkpoint import Checkpoint
from indexer.language_model import compare_with_loaded
from indexer.weights import Unembedding
from indexer.work import unembedding_of

CLOSE = 1e-5
"""Allowed deviation of a logit, as a share of |value vector| × the longest row; float32 products stay below 1e-6."""
_AT_ONCE = 32
_OF_THE_RUN = {
    *("build_id", "schema_version", "code_version", "created_at", "model", "checkpoint"),
    *("dequantised", "neighbour_recall"),
}
"""The fields of a stamp that may differ: they tell when, by which code, how and from what the build was made, and
its folder's name; the checkpoint's identity is compared before.
"""


@dataclass(frozen=True, slots=True)
class Verified:
    """What `verify` found to be right."""

    path: Path
    neurons: int
    """All: their rows were counted, and their order was checked."""
    sampled: int
    """Derived again."""
    deviation: float
    """The largest, of all sampled logits and statistics, as a share of |value vector| × the longest row."""


def verify(path: Path, checkpoint: Checkpoint, *, sample: int = 200, seed: int | None = None) -> Verified:
    """Check a build's file against its stamp, against itself, and against its checkpoint.

    Args:
        path: the build.
        checkpoint: the model that it says it is of.
        sample: neurons to derive again, each as likely as any other.
        seed: of the draw; None draws others every time.

    Raises:
        AtlasError: the first thing that differs, by name.
    """
    with Catalogue.open(path) as catalogue:
        stamp = catalogue.info
    try:
        check_build(path, stamp)
    except AtlasError as error:
        problem = str(error).partition(": ")[2].rpartition(". ")[0] or str(error)
        raise _differs(path, problem) from error
    except duckdb.Error as error:
        raise _differs(path, f"it cannot be read ({str(error).splitlines()[0][:160]})") from error

    unembedding = unembedding_of(checkpoint)
    if not checkpoint.has(stamp.checkpoint):
        raise AtlasError(
            f"{path} is not of the model in {checkpoint.folder}: its stamp has checkpoint "
            f"{short_identity(stamp.checkpoint)}, the model {short_identity(checkpoint.identity)}. It was trained on "
            "since, or is another of the same name. Name the build's own with --checkpoint, or build this one."
        )
    expected = stamp_of(checkpoint, unembedding, stamp.depth)
    for name in (field.name for field in fields(stamp) if field.name not in _OF_THE_RUN):
        counted = name != "padding" or stamp.padding is not None  # a build without any may be of an earlier version
        counted &= name != "family" or _type(stamp) != _type(expected)  # which may have a row by now
        if counted and getattr(stamp, name) != getattr(expected, name):
            told, found = (str(getattr(one, name))[:60] for one in (stamp, expected))
            raise _differs(path, f"its stamp has {name} {told}, the checkpoint {found}")
    compare_with_loaded(checkpoint)

    generator = np.random.default_rng(seed)
    chosen = np.sort(generator.choice(stamp.neurons, min(sample, stamp.neurons), replace=False))
    size = checkpoint.dimensions
    firsts = np.array([size.neurons_before(layer) for layer in range(size.layers)])
    layers = np.searchsorted(firsts, chosen, side="right") - 1
    worst = 0.0
    for layer in np.unique(layers):
        ids = chosen[layers == layer]
        values = _value_vectors(checkpoint, int(layer), ids - firsts[layer])
        worst = max(worst, _compare_layer(path, stamp, ids, values, unembedding))
    return Verified(path, stamp.neurons, len(chosen), worst)


def _type(stamp: BuildStamp) -> str:
    """The model's type, without how it was read."""
    return stamp.family.partition(",")[0]


def _value_vectors(checkpoint: Checkpoint, layer: int, places: NDArray[np.int64]) -> Float[Tensor, "n d"]:
    weights = checkpoint.weights()
    both = torch.cat([weights.ffn_values(layer), weights.attention_values(layer)])
    return both[torch.from_numpy(places)]


def _compare_layer(
    path: Path, stamp: BuildStamp, ids: NDArray[np.int64], values: Float[Tensor, "n d"], unembedding: Unembedding
) -> float:
    """The largest deviation; AtlasError if one is too large."""
    stored, statistics = _stored(path, ids)
    worst = 0.0
    logits_of = _every_logit(unembedding, values)
    for place, (neuron, logits) in enumerate(zip(ids, logits_of, strict=True)):
        vector = values[place].double()
        scale = max(float(vector.norm()) * unembedding.longest_row, 1e-30)
        real = logits[~np.isnan(logits)]
        own = {"mean": real.mean(), "std": real.std(), "norm": float(vector.norm())}
        for name, value in own.items():
            # The norm is no logit: a share of itself.
            deviation = abs(statistics[name][place] - value) / (max(value, 1e-30) if name == "norm" else scale)
            worst = max(worst, float(deviation))
            if not deviation <= CLOSE:
                raise _differs(path, f"neuron {neuron} has {name} {statistics[name][place]:.6g}, not {value:.6g}")
        rows = stored[place * 2 * stamp.depth : (place + 1) * 2 * stamp.depth]
        for end, sign in ((rows[: stamp.depth], 1), (rows[stamp.depth :], -1)):
            worst = max(worst, _compare_end(path, int(neuron), end, sign * logits, sign, scale))
    return worst


def _every_logit(unembedding: Unembedding, values: Float[Tensor, "n d"]) -> Iterator[NDArray[np.float64]]:
    """The logits of each value vector over the whole vocabulary, in float64; NaN where a row is no token."""
    for some in values.double().split(_AT_ONCE):
        slices = [rows.double() @ some.T for rows in unembedding.folded.split(8192)]
        logits = torch.cat(slices)
        if unembedding.padding is not None:
            logits[unembedding.padding] = torch.nan
        yield from logits.T.contiguous().numpy()


def _compare_end(
    path: Path, neuron: int, rows: NDArray[Any], logits: NDArray[np.float64], sign: int, scale: float
) -> float:
    """`logits` with the sign of the end, so that its tokens are the highest."""
    end = "promotes" if sign > 0 else "suppresses"
    own = logits[rows["token_id"]]
    deviation = np.abs(sign * rows["logit"] - own) / scale
    if not (deviation <= CLOSE).all():
        first = int(np.argmax(~(deviation <= CLOSE)))
        token, told = rows["token_id"][first], rows["logit"][first]
        raise _differs(
            path, f"neuron {neuron} {end} token {token} with a logit of {told:.6g}, not {sign * own[first]:.6g}"
        )
    others = logits.copy()
    others[rows["token_id"]] = -np.inf
    missing = int(np.nanargmax(others))
    if others[missing] > own.min() + CLOSE * scale:
        raise _differs(path, f"neuron {neuron} {end} token {missing}, which its list lacks")
    return float(deviation.max())


def _stored(path: Path, ids: NDArray[np.int64]) -> tuple[NDArray[Any], dict[str, Any]]:
    """The sampled neurons' rows in the order of ids, ends and ranks; and their statistics."""
    wanted = ", ".join(map(str, ids))
    with read_only_connection(path) as connection:
        pairs = connection.execute(
            f"SELECT token_id, logit FROM neuron_token WHERE neuron_id IN ({wanted}) "
            "ORDER BY neuron_id, sign DESC, rank"
        ).fetchnumpy()
        statistics = connection.execute(
            f"SELECT mean, std, norm FROM neuron WHERE neuron_id IN ({wanted}) ORDER BY neuron_id"
        ).fetchnumpy()
    rows = np.zeros(len(pairs["logit"]), [("token_id", np.int64), ("logit", np.float64)])
    rows["token_id"], rows["logit"] = pairs["token_id"], pairs["logit"]
    return rows, statistics


def _differs(path: Path, what: str) -> AtlasError:
    return AtlasError(f"{path} is not what its model gives: {what}. Delete it and build again.")
