"""Projections -> the rows of the catalogue's tables ``neuron`` and ``neuron_token``, as Arrow tables.

A layer's neurons stand in the order of their ids: FFN neurons, then attention neurons, heads in order.
"""

import numpy as np
import pyarrow as pa

from db.tables import KIND_CODES, SIGN_CODES
from indexer.architecture import Dimensions
from indexer.projection import Projection


def neuron_rows(projection: Projection, layer: int, size: Dimensions) -> pa.Table:
    """A row a neuron of one layer."""
    ffn, attention = np.arange(size.ffn_neurons), np.arange(size.attention_neurons)
    kinds = [KIND_CODES["ffn"]] * len(ffn) + [KIND_CODES["attention"]] * len(attention)
    heads = pa.concat_arrays([pa.nulls(len(ffn), pa.int16()), pa.array(attention // size.head_dim, pa.int16())])
    count = len(kinds)
    return pa.table(
        {
            "neuron_id": pa.array(np.arange(layer * count, (layer + 1) * count), pa.int32()),
            "kind": pa.array(kinds, pa.int16()),
            "layer": pa.array(np.full(count, layer), pa.int16()),
            "head": heads,
            "index": pa.array(np.concatenate([ffn, attention % size.head_dim]), pa.int32()),
            "mean": pa.array(projection.mean.numpy(), pa.float32()),
            "std": pa.array(projection.std.numpy(), pa.float32()),
            "norm": pa.array(projection.norm.numpy(), pa.float32()),
        }
    )


def pair_rows(projection: Projection, layer: int) -> pa.Table:
    """Both ends of every neuron of one layer: sorted by neuron, promotes before suppresses, rank."""
    count, depth = projection.top_tokens.shape
    first = layer * count
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
