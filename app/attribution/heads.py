"""Heads: what one took from where, its attention pattern, what a query neuron says through it; which heads of the whole
model moved what from where; and the logit lens.

Legend: L = layers, H = heads, T = tokens, D = head_dim, d = d_model, V = vocabulary.
"""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from app.attribution.analysis import contrast
from app.attribution.drilldowns import MOVES
from app.attribution.prompt import PromptToken, token_of
from app.attribution.query import key_vectors
from app.attribution.results import Certificate, Contrast, Flow, LogitLens, Move, SourcePosition, ThroughHead
from app.attribution.run import PromptRun
from app.attribution.score import array, bend
from app.attribution.search import Bounds, certified_top
from db.errors import AtlasError
from db.neuron import Head, Neuron, NeuronKind, check_exists
from indexer.forward import attention_pattern
from indexer.language_model import LanguageModel
from indexer.weights import Unembedding

SHOWN = 10
ROWS_AT_ONCE = 64
"""Rows of V logits held at a time."""


def source_contributions(
    run: PromptRun, layer: int, head: int, positions: slice | Int[Tensor, " T"] = slice(None)
) -> Float[Tensor, "T d"]:
    """What the head wrote at the analysed position, from each source position; all sum to the head's contribution."""
    stream, width = run.stream, run.model.dimensions.head_dim
    value = stream.value[layer, positions, head // run.model.dimensions.group]  # [T, D]
    activation = stream.attention_weight[layer, head, positions, None] * value
    return activation @ run.model.weights.attention_values(layer)[head * width : (head + 1) * width]


def source_scores(run: PromptRun, layer: int, head: int) -> Float[Tensor, " T"]:
    """Score of the head's contribution from each source position, nats."""
    check_exists(Head(layer, head), run.model.dimensions, run.model.name)
    contributions = source_contributions(run, layer, head)
    return run.scores(contributions, [NeuronKind.ATTENTION], [torch.full((contributions.shape[0],), layer)])


def source_positions(run: PromptRun, layer: int, head: int, shown: int = SHOWN) -> tuple[SourcePosition, ...]:
    """Everything the reference shows of a head, a row a source position.

    Raises:
        AtlasError: there is no such head.
    """
    scores = source_scores(run, layer, head)
    model, stream = run.model, run.stream
    width = model.dimensions.head_dim
    values = stream.value[layer, :, head // model.dimensions.group]
    written = values @ model.weights.attention_values(layer)[head * width : (head + 1) * width]
    lists = [
        strongest_tokens(model, vectors, shown)
        for vectors in (stream.layer_input[layer], _keys_in_residual(run, layer, head), written)
    ]
    return tuple(
        SourcePosition(
            position=place,
            token=run.tokens[place],
            score=float(scores[place]),
            attention_weight=float(stream.attention_weight[layer, head, place]),
            input_tokens=lists[0][place],
            key_tokens=lists[1][place],
            value_tokens=lists[2][place],
        )
        for place in range(scores.shape[0])
    )


def _keys_in_residual(run: PromptRun, layer: int, head: int) -> Float[Tensor, "T d"]:
    """Each position's key, mapped back through the key matrix: W_Kᵀ W_K norm(x), before any rotation."""
    weights, norm = run.model.weights, run.model.architecture.attention_norm
    size, inputs = run.model.dimensions, run.stream.layer_input[layer]
    width, kv_head = size.key_dim or size.head_dim, head // size.group
    rows = weights.key_projection_rows(layer)[kv_head * width : (kv_head + 1) * width]
    own, _ = weights.reading(layer, norm, rows)
    shared, _ = weights.reading(layer, norm, weights.shared_key_rows(layer))
    scale = 1.0 if norm is None else run.model.unembedding.scale(inputs)
    seen = inputs / scale
    return seen @ own.T @ own / weights.latent_scale(layer, inputs, scale) + seen @ shared.T @ shared


def strongest_tokens(
    model: LanguageModel, vectors: Float[Tensor, "m d"], count: int = SHOWN
) -> list[tuple[PromptToken, ...]]:
    """The tokens with the highest logits under each vector."""
    found: list[list[int]] = []
    for rows in vectors.split(ROWS_AT_ONCE):
        logits = model.unembedding.logits(rows, model.unembedding.scale(rows))
        found += model.unembedding.extremes(logits, count)[1].tolist()
    return [tuple(token_of(model, token_id) for token_id in row) for row in found]


def head_pattern(run: PromptRun, layer: int, head: int) -> Float[Tensor, "T T"]:
    """The head's attention from every position (row) to every position (column), on the CPU: as the run kept it, or of
    a long prompt by another forward pass.

    Raises:
        AtlasError: there is no such head.
    """
    model = run.model
    check_exists(Head(layer, head), model.dimensions, model.name)
    if run.stream.patterns is not None:
        return run.stream.patterns[layer, head].clone().cpu()  # what is kept of it does not keep the other heads'
    with model.lock:
        return attention_pattern(model.module, model.architecture, run.stream.token_ids, layer)[head].clone().cpu()


def through_head(model: LanguageModel, neuron: Neuron, layer: int, head: int, shown: int = SHOWN) -> ThroughHead:
    """What an FFN neuron says once a later head has moved it: value vector, input norm, the head's value and output
    matrices.

    Shallow neurons that read as noise directly become readable (README, Method, Query neurons).

    Raises:
        AtlasError: the head does not exist, or does not come after the neuron.
    """
    check_exists(Head(layer, head), model.dimensions, model.name)
    check_exists(neuron, model.dimensions, model.name)
    size, weights = model.dimensions, model.weights
    if neuron.kind is not NeuronKind.FFN:
        raise AtlasError(f"{neuron.label} is not an FFN neuron; only those are read through heads.")
    if neuron.layer >= layer:
        raise AtlasError(f"L{layer}.H{head} cannot read {neuron.label}: a head reads only what earlier layers wrote.")
    value = weights.ffn_values(neuron.layer, torch.tensor([neuron.row(size)]))[0]
    keys = key_vectors(weights, [Neuron.attention(layer, head, n) for n in range(size.head_dim)])
    moved = (keys @ value) @ weights.attention_values(layer)[head * size.head_dim : (head + 1) * size.head_dim]
    (promotes, suppresses), (direct, direct_bottom) = _both_ends(model, moved, shown), _both_ends(model, value, shown)
    return ThroughHead(neuron, layer, head, promotes, suppresses, direct, direct_bottom)


def _both_ends(
    model: LanguageModel, vector: Float[Tensor, " d"], count: int
) -> tuple[tuple[PromptToken, ...], tuple[PromptToken, ...]]:
    logits = model.unembedding.folded @ vector
    top, bottom = (model.unembedding.extremes(logits, count, largest=end)[1] for end in (True, False))
    return tuple(token_of(model, one) for one in top.tolist()), tuple(token_of(model, one) for one in bottom.tolist())


# Which heads moved what from where: the strongest head x source-position contributions of a whole prompt.


def moves(run: PromptRun, count: int = MOVES) -> Flow:
    """The strongest moves, in a contrast by their shares."""
    if run.distractor_id is None:
        return flow(run, count)
    return contrast_flow(run, contrast(run, run.distractor_id, 0), count)


def flow(run: PromptRun, count: int = MOVES) -> Flow:
    """The `count` strongest moves over all layers by |score|; bounded by Hoeffding's lemma."""
    stream, tolerance = run.stream, run.at_attention.tolerance
    layers, heads, tokens = stream.attention_weight.shape
    unembedding = run.model.unembedding
    # A common part of the rows changes no score, but where logits are capped.
    longest = _longest_centred_row(unembedding) if unembedding.soft_cap is None else unembedding.longest_row
    reach = longest / run.scale

    def bound(layer: int) -> Float[Tensor, " HT"]:
        found = []
        for head in range(heads):  # one at a time: all of a layer's would be [H, T, d]
            parts = source_contributions(run, layer, head)
            slope = parts @ run.gradient(NeuronKind.ATTENTION, layer)
            change = reach * parts.norm(dim=1)  # at most so large is any change of a logit
            lower, upper = run.between(slope, (2 * change).square() / 8, bend(change, change, unembedding))
            found.append(torch.maximum(upper, -lower))
        return torch.cat(found)

    def scores(entries: Int[Tensor, " m"]) -> Float[Tensor, " m"]:
        found = stream.layer_input.new_empty(len(entries), stream.layer_input.shape[2])
        every = entries // tokens
        for one in every.unique().tolist():
            here = every == one
            found[here] = source_contributions(run, one // heads, one % heads, entries[here] % tokens)
        return run.scores(found, [NeuronKind.ATTENTION], [every // heads])

    whole = Bounds(bound, layers, heads * tokens)
    ranking = certified_top(whole, lambda entries: scores(entries).abs(), count, tolerance)
    moves = zip(ranking.entries.tolist(), scores(ranking.entries).tolist(), strict=True)
    return Flow(_moves(run, moves), replace(ranking.certificate, bound="norms"))


def contrast_flow(run: PromptRun, contrast: Contrast, count: int = MOVES) -> Flow:
    """The same by |share of the difference of logits|, which is linear: all are known, the strongest are kept."""
    shares = contrast.positions.flatten()
    best = np.argsort(-np.abs(shares), kind="stable")[:count]
    moves = zip(best.tolist(), shares[best].tolist(), strict=True)
    return Flow(_moves(run, moves), Certificate(len(shares), len(shares), "linear", 0.0))


def _moves(run: PromptRun, scored: Iterable[tuple[int, float]]) -> tuple[Move, ...]:
    """By name; without those of no attention (a position outside a layer's window), which moved nothing."""
    found = (_move(run, entry, score) for entry, score in scored)
    return tuple(one for one in found if one.attention_weight)


def _longest_centred_row(unembedding: Unembedding) -> float:
    """max |row - ū|, without a second matrix of the unembedding's size."""
    folded = unembedding.folded
    mean = folded.mean(dim=0)
    squares = folded.norm(dim=1).square() - 2 * (folded @ mean) + mean.square().sum()
    # The three terms are rounded one by one; the sum of their roundings stays far below this part.
    return float(squares.max().clamp_min(0).sqrt()) * (1 + 1e-5)


def _move(run: PromptRun, entry: int, score: float) -> Move:
    _, heads, tokens = run.stream.attention_weight.shape
    rest, position = divmod(entry, tokens)
    layer, head = divmod(rest, heads)
    weight = float(run.stream.attention_weight[layer, head, position])
    return Move(layer, head, position, run.tokens[position], score, weight)


# The logit lens: what the residual stream would predict after each layer, at each position.


def logit_lens(run: PromptRun) -> LogitLens:
    """Read every layer's input at every position up to the analysed one."""
    unembedding = run.model.unembedding
    layers, tokens, _ = run.stream.layer_input.shape
    best, best_probability, of_target = [], [], []
    for rows in run.stream.layer_input.flatten(0, 1).split(ROWS_AT_ONCE):
        probabilities = unembedding.logits(rows, unembedding.scale(rows)).softmax(dim=-1)
        highest = probabilities.max(dim=-1)
        best.append(highest.indices)
        best_probability.append(highest.values)
        of_target.append(probabilities[:, run.target_id].clone())  # a view would keep the whole distribution
    named = [[token_of(run.model, one) for one in row] for row in torch.cat(best).view(layers, tokens).tolist()]
    return LogitLens(
        tokens=run.tokens,
        top=tuple(tuple(row) for row in named),
        top_probability=array(torch.cat(best_probability).view(layers, tokens)),
        target_probability=array(torch.cat(of_target).view(layers, tokens)),
    )
