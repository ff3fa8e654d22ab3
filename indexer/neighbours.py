"""Each token's nearest tokens: cosine between the folded unembedding's rows, less their mean. Pure tensors.

Rows share a large mean direction, under which every token resembles every other; without it, tokens that a model uses
alike are close: " Paris" to " London", "python" to " Python". What remains is that frequent tokens (" the", " (")
are near everything: by cosine alone, most of the twenty nearest tokens of " war" are such hubs. So of the tokens
nearest by cosine those are kept, in this order, that are nearest by

    2 cos(x, y) - r(x) - r(y),   r = mean cosine of a token with its own ten nearest

(cross-domain similarity local scaling, Conneau et al. 2018): to be near y counts for less where everything is near y.

Where the CPU multiplies bf16 faster, that product only chooses: every stored cosine is computed in float32. In large
vocabularies the tokens to choose from are found by some of the rows' principal directions (README, How a build works).
"""

import threading

import pyarrow as pa
import torch
from jaxtyping import Float, Int
from torch import Tensor

from indexer.device import in_threads
from indexer.projection import Pyramid, bf16_is_faster, levels_for, padded, sampled_products
from indexer.weights import Unembedding

COUNT = 20
"""Neighbours of each token: what concept search widens a word by, at about 4 bytes each in the catalogue."""

LIMIT = 8e12
"""Largest V x V x d that is computed: some three minutes of float32 products on two cores. Beyond it, fewer d."""

RECALL = b"recall"
"""The table's metadata: which share of the nearest tokens it has, where they are chosen by some directions."""

_POOL = 96  # nearest by cosine, of which the best by the corrected measure are kept
_SPARE = 8  # kept beyond count until the exact cosines are known
_OWN = 10  # nearest tokens whose mean cosine is a token's r
_SCORED = 4096  # tokens whose exact cosines are computed together
_LOWEST = -2.0  # below every cosine
_FEWEST = 32  # directions
_MEASURED = 400  # tokens compared with all others, to measure the recall
_DECIMALS = 3  # of the stored cosine: they pack into a third of the room, and nothing hangs on the fourth


def nearest_tokens(
    unembedding: Unembedding,
    count: int = COUNT,
    *,
    screen: bool | None = None,
    chunk: int = 1024,
    limit: float = LIMIT,
) -> pa.Table:
    """The `count` nearest other tokens of every token, as the catalogue's table ``token_neighbour``.

    Args:
        unembedding: the model's folded unembedding.
        count: neighbours per token; fewer where the vocabulary is smaller.
        screen: whether to choose in bf16; None measures which is faster here.
        chunk: tokens at a time; the memory in use beside two copies of the rows is about chunk x V x 4 bytes, and
            V x 800 bytes for the tokens to choose from.
        limit: largest V x V x d that is computed.

    Returns:
        Columns token_id (rows of no token are left out, on both sides), rank (from 1, by the corrected measure),
        neighbour_id, cosine (in [-1, 1], rounded to three decimals), sorted by token_id and rank; rows that are zero
        have cosine 0 with everything. Beyond `limit` its metadata has `RECALL`.
    """
    width, used = unembedding.folded.shape[1], unembedding.used
    vocabulary = unembedding.folded.shape[0] if used is None else used.shape[0]
    unit = _unit_rows(unembedding.rows)
    count = min(count, vocabulary - 1)
    pool = min(max(_POOL, count + _SPARE), vocabulary - 1)
    fast = unit.device.type == "cpu" and bf16_is_faster(width) if screen is None else screen
    along = directions(vocabulary, width, limit)
    searched = unit if along == width else _along(unit, along)
    tokens, cosines = nearest_rows(searched.bfloat16() if fast else searched, pool, chunk)
    del searched
    parts = [slice(start, start + _SCORED) for start in range(0, vocabulary, _SCORED)]
    if along < width:  # the cosines are of some directions only

        def exactly(part: slice) -> None:
            cosines[part] = sampled_products(unit[part], unit, tokens[part])

        in_threads(exactly, parts, _workers(unit))
    own = cosines.topk(min(_OWN, pool), dim=1).values.mean(dim=1) if pool else cosines.new_zeros(vocabulary)

    def chosen(part: slice) -> tuple[Tensor, Tensor]:
        nearest = _best(tokens[part].long(), cosines[part], own, count + _SPARE)[0].sort(dim=1).values
        found = _best(nearest, sampled_products(unit[part], unit, nearest), own, count)
        return found[0].cpu(), found[1].cpu()

    kept, exact = zip(*in_threads(chosen, parts, _workers(unit)), strict=True)
    ids = torch.arange(vocabulary) if used is None else used.cpu()
    table = _table(ids, torch.cat(kept), torch.cat(exact))
    if along == width:
        return table
    recall = _recall(unit, torch.cat(kept), own, pool)
    return table.replace_schema_metadata({RECALL: f"{recall:.4f}".encode()})


def directions(tokens: int, width: int, limit: float = LIMIT) -> int:
    """By how many of the rows' principal directions neighbours are chosen; all of them where that is affordable."""
    return min(width, max(_FEWEST, int(limit / tokens**2)))


def effort(tokens: int, width: int) -> int:
    """What finding the neighbours of a vocabulary takes, as a number of tokens that are compared with every other."""
    return -(-tokens * directions(tokens, width) // width)


def _unit_rows(rows: Float[Tensor, "V d"]) -> Float[Tensor, "V d"]:
    """The rows less their mean, each of length 1; rows that are the mean stay zero."""
    centred = rows - rows.mean(dim=0)
    lengths = centred.norm(dim=1, keepdim=True)
    return centred.div_(lengths.where(lengths > 0, torch.ones_like(lengths)))


def _workers(unit: Tensor) -> int:
    return torch.get_num_threads() if unit.device.type == "cpu" else 1


def nearest_rows(unit: Float[Tensor, "V d"], pool: int, chunk: int) -> tuple[Int[Tensor, "V m"], Float[Tensor, "V m"]]:
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


def _along(unit: Float[Tensor, "V d"], count: int) -> Float[Tensor, "V k"]:
    """The rows' parts along their principal directions, each of length 1."""
    found = torch.linalg.eigh(unit.T @ unit).eigenvectors[:, -count:]  # in rising order
    return torch.nn.functional.normalize(unit @ found, dim=1)


def _recall(unit: Float[Tensor, "V d"], kept: Int[Tensor, "V k"], own: Float[Tensor, " V"], pool: int) -> float:
    """Which share of its neighbours a token keeps where some directions choose: the mean of a sample, drawn once."""
    drawn = torch.randperm(unit.shape[0], generator=torch.Generator().manual_seed(1))[:_MEASURED].to(unit.device)
    cosines = unit[drawn] @ unit.T
    cosines[torch.arange(len(drawn), device=unit.device), drawn] = _LOWEST
    nearest = cosines.topk(pool, dim=1)
    wanted = _best(nearest.indices, nearest.values, own, kept.shape[1])[0].cpu()
    return float((kept[drawn.cpu()][:, :, None] == wanted[:, None]).any(dim=2).float().mean())


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
