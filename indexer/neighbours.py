"""Each token's nearest tokens: cosine between the folded unembedding's rows, less their mean. Pure tensors.

Rows share a large mean direction, under which every token resembles every other; without it, tokens that a model uses
alike are close: " Paris" to " London", "python" to " Python". What remains is that frequent tokens (" the", " (")
are near everything: by cosine alone, most of the twenty nearest tokens of " war" are such hubs. So of the tokens
nearest by cosine those are kept, in this order, that are nearest by

    2 cos(x, y) - r(x) - r(y),   r = mean cosine of a token with its own ten nearest

(cross-domain similarity local scaling, Conneau et al. 2018): to be near y counts for less where everything is near y.

Where the CPU multiplies bf16 faster, that product only chooses: every stored cosine is computed in float32.
"""

import threading

import pyarrow as pa
import torch
from jaxtyping import Float, Int
from torch import Tensor

from indexer.products import in_threads
from indexer.projection import Pyramid, bf16_is_faster, levels_for, padded, sampled_products
from indexer.unembedding import Unembedding

COUNT = 20
"""Neighbours of each token: what concept search widens a word by, at about 4 bytes each in the catalogue."""

LIMIT = 8e13
"""Largest V x V x d that is computed: some minutes of bf16 products on two cores."""

_POOL = 96  # nearest by cosine, of which the best by the corrected measure are kept
_SPARE = 8  # kept beyond count until the exact cosines are known
_OWN = 10  # nearest tokens whose mean cosine is a token's r
_SCORED = 4096  # tokens whose exact cosines are computed together
_LOWEST = -2.0  # below every cosine
_DECIMALS = 3  # of the stored cosine: they pack into a third of the room, and nothing hangs on the fourth


def affordable(tokens: int, width: int) -> bool:
    """Whether a build finds the neighbours of so many tokens."""
    return tokens * tokens * float(width) <= LIMIT


def nearest_tokens(
    unembedding: Unembedding,
    count: int = COUNT,
    *,
    screen: bool | None = None,
    chunk: int = 1024,
    limit: float = LIMIT,
) -> pa.Table | None:
    """The `count` nearest other tokens of every token, as the catalogue's table ``token_neighbour``.

    Args:
        unembedding: the model's folded unembedding.
        count: neighbours per token; fewer where the vocabulary is smaller.
        screen: whether to choose in bf16; None measures which is faster here.
        chunk: tokens at a time; the memory in use beside two copies of the rows is about chunk x V x 4 bytes, and
            V x 800 bytes for the tokens to choose from.
        limit: largest V x V x d.

    Returns:
        Columns token_id (rows of no token are left out, on both sides), rank (from 1, by the corrected measure),
        neighbour_id, cosine (in [-1, 1], rounded to three decimals), sorted by token_id and rank; rows that are zero
        have cosine 0 with everything. None beyond `limit`.
    """
    width, used = unembedding.folded.shape[1], unembedding.used
    vocabulary = unembedding.folded.shape[0] if used is None else used.shape[0]
    if vocabulary * vocabulary * float(width) > limit:
        return None
    unit = _unit_rows(unembedding.rows)
    count = min(count, vocabulary - 1)
    pool = min(max(_POOL, count + _SPARE), vocabulary - 1)
    fast = unit.device.type == "cpu" and bf16_is_faster(width) if screen is None else screen
    tokens, cosines = _pools(unit.bfloat16() if fast else unit, pool, chunk)
    own = cosines.topk(min(_OWN, pool), dim=1).values.mean(dim=1) if pool else cosines.new_zeros(vocabulary)

    def chosen(part: slice) -> tuple[Tensor, Tensor]:
        nearest = _best(tokens[part].long(), cosines[part], own, count + _SPARE)[0].sort(dim=1).values
        found = _best(nearest, sampled_products(unit[part], unit, nearest), own, count)
        return found[0].cpu(), found[1].cpu()

    parts = [slice(start, start + _SCORED) for start in range(0, vocabulary, _SCORED)]
    kept, exact = zip(*in_threads(chosen, parts, _workers(unit)), strict=True)
    ids = torch.arange(vocabulary) if used is None else used.cpu()
    return _table(ids, torch.cat(kept), torch.cat(exact))


def _unit_rows(rows: Float[Tensor, "V d"]) -> Float[Tensor, "V d"]:
    """The rows less their mean, each of length 1; rows that are the mean stay zero."""
    centred = rows - rows.mean(dim=0)
    lengths = centred.norm(dim=1, keepdim=True)
    return centred.div_(lengths.where(lengths > 0, torch.ones_like(lengths)))


def _workers(unit: Tensor) -> int:
    return torch.get_num_threads() if unit.device.type == "cpu" else 1


def _pools(unit: Float[Tensor, "V d"], pool: int, chunk: int) -> tuple[Int[Tensor, "V m"], Float[Tensor, "V m"]]:
    """The nearest other tokens of each by cosine, in no order, and these cosines."""
    vocabulary = unit.shape[0]
    tokens = torch.empty(vocabulary, pool, dtype=torch.int32, device=unit.device)
    cosines = torch.empty(vocabulary, pool, device=unit.device)
    levels = levels_for(vocabulary, pool) if unit.device.type == "cpu" else 0
    height = padded(vocabulary, levels)
    workers = _workers(unit)
    each = max(1, chunk // workers)
    buffers = threading.local()  # memory that is new to the process costs as much as the product

    def search(part: slice) -> None:
        width = part.stop - part.start
        if getattr(buffers, "products", None) is None:
            buffers.products = unit.new_empty(height * each)
        products = buffers.products[: height * width].view(height, width)
        products[vocabulary:] = _LOWEST
        torch.mm(unit, unit[part].T, out=products[:vocabulary])
        products[part].diagonal().fill_(_LOWEST)
        tokens[part] = _nearest(products, vocabulary, pool, levels)
        cosines[part] = products.gather(0, tokens[part].long().T).T.float()

    in_threads(search, [slice(at, min(at + each, vocabulary)) for at in range(0, vocabulary, each)], workers)
    return tokens, cosines


def _nearest(products: Float[Tensor, "V2 c"], vocabulary: int, pool: int, levels: int) -> Int[Tensor, "c m"]:
    """Where the largest entries of each column stand."""
    if not levels:
        return products[:vocabulary].topk(pool, dim=0).indices.T.int()
    places, least = Pyramid(products, levels).largest(pool)
    for column in (~(least > 0)).nonzero().flatten():  # a pyramid finds only what is above zero
        places[column] = products[:vocabulary, column].contiguous().topk(pool).indices.int()
    return places


def _best(
    tokens: Int[Tensor, "token m"], cosines: Float[Tensor, "token m"], own: Float[Tensor, " V"], count: int
) -> tuple[Int[Tensor, "token k"], Float[Tensor, "token k"]]:
    """The best by the corrected measure; the row token's own r is the same for all and left out."""
    corrected = 2 * cosines - own[tokens]
    order = corrected.topk(min(count, tokens.shape[1]), dim=1).indices
    return tokens.gather(1, order), cosines.gather(1, order)


def _table(ids: Int[Tensor, " V"], nearest: Int[Tensor, "V k"], cosines: Float[Tensor, "V k"]) -> pa.Table:
    """ids: of the tokens that the rows are of; `nearest` holds their places."""
    vocabulary, count = nearest.shape
    rounded = cosines.clamp(-1, 1).double().round(decimals=_DECIMALS)
    return pa.table(
        {
            "token_id": pa.array(ids.repeat_interleave(count).numpy(), pa.int32()),
            "rank": pa.array(torch.arange(1, count + 1).repeat(vocabulary).numpy(), pa.int16()),
            "neighbour_id": pa.array(ids[nearest.flatten().long()].numpy(), pa.int32()),
            "cosine": pa.array(rounded.flatten().numpy(), pa.float32()),
        }
    )
