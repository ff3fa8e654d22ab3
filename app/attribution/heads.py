"""Heads: what one took from where, its attention pattern, what a query neuron says through it; which heads of the whole
model moved what from where; and the logit lens.

Legend: L = layers, H = heads, T = tokens, D = head_dim, d = d_model, V = vocabulary.
"""

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
from app.attribution.search import Bounds, certified_top
from db.errors import AtlasError
from db.neuron import Head, Neuron, NeuronKind, check_exists
from indexer.families import NormKind
from indexer.forward import attention_pattern
from indexer.language_model import LanguageModel
from indexer.unembedding import Unembedding

SHOWN = 10


def source_contributions(run: PromptRun, layer: int, head: int) -> Float[Tensor, "T d"]:
    """What the head wrote at the analysed position, from each source position; they sum to the head's contribution."""
    activation = run.stream.attention_activation(layer)[head]  # [T, D]
    width = activation.shape[1]
    return activation @ run.model.weights.attention_values(layer)[head * width : (head + 1) * width]


def source_scores(run: PromptRun, layer: int, head: int) -> Float[Tensor, " T"]:
    """Log-probability increase of the head's contribution from each source position, nats."""
    check_exists(Head(layer, head), run.model.dimensions, run.model.name)
    contributions = source_contributions(run, layer, head)
    return run.at_attention.importance(contributions, torch.full((contributions.shape[0],), layer))


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
    weights, architecture = run.model.weights, run.model.architecture
    width = run.model.dimensions.head_dim
    kv_head = head // run.model.dimensions.group
    rows = weights.key_projection_rows(layer)[kv_head * width : (kv_head + 1) * width]
    rows = rows * weights.norm_weight(layer, architecture.attention_norm)
    if architecture.norm is NormKind.LAYER:
        rows = rows - rows.mean(dim=1, keepdim=True)
    inputs = run.stream.layer_input[layer]
    return (inputs / run.model.unembedding.scale(inputs)) @ rows.T @ rows


def strongest_tokens(
    model: LanguageModel, vectors: Float[Tensor, "m d"], count: int = SHOWN
) -> list[tuple[PromptToken, ...]]:
    """The tokens with the highest logits under each vector."""
    found = model.unembedding.logits(vectors, model.unembedding.scale(vectors)).topk(count, dim=1).indices
    return [tuple(token_of(model, token_id) for token_id in row) for row in found.tolist()]


def head_pattern(run: PromptRun, layer: int, head: int) -> Float[Tensor, "T T"]:
    """The head's attention from every position (row) to every position (column): as the run kept it, else by another
    forward pass.

    Raises:
        AtlasError: there is no such head.
    """
    model = run.model
    check_exists(Head(layer, head), model.dimensions, model.name)
    if layer in run.stream.patterns:
        return run.stream.patterns[layer][head]
    with model.lock:
        return attention_pattern(model.module, model.architecture, run.stream.token_ids, layer)[head]


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
    value = weights.ffn_values(neuron.layer)[neuron.index]
    keys = key_vectors(weights, [Neuron.attention(layer, head, n) for n in range(size.head_dim)])
    moved = (keys @ value) @ weights.attention_values(layer)[head * size.head_dim : (head + 1) * size.head_dim]
    (promotes, suppresses), (direct, direct_bottom) = _both_ends(model, moved, shown), _both_ends(model, value, shown)
    return ThroughHead(neuron, layer, head, promotes, suppresses, direct, direct_bottom)


def _both_ends(
    model: LanguageModel, vector: Float[Tensor, " d"], count: int
) -> tuple[tuple[PromptToken, ...], tuple[PromptToken, ...]]:
    logits = model.unembedding.folded @ vector
    top, bottom = logits.topk(count).indices, logits.topk(count, largest=False).indices
    return tuple(token_of(model, one) for one in top.tolist()), tuple(token_of(model, one) for one in bottom.tolist())


# Which heads moved what from where: the strongest head x source-position contributions of a whole prompt.


def moves(run: PromptRun, count: int = MOVES) -> Flow:
    """The strongest moves, in a contrast by their shares."""
    if run.distractor_id is None:
        return flow(run, count)
    return contrast_flow(run, contrast(run, run.distractor_id, 0), count)


def flow(run: PromptRun, count: int = MOVES) -> Flow:
    """The `count` strongest moves over all layers by |log-probability increase|; bounded by Hoeffding's lemma."""
    bases, stream = run.at_attention, run.stream
    layers, heads, tokens = stream.attention_weight.shape
    reach = 2 * _longest_centred_row(run.model.unembedding) / run.scale

    def bound(layer: int) -> Float[Tensor, " HT"]:
        parts = _parts(run, layer).flatten(0, 1)
        upper = parts @ bases.gradient[layer]
        return torch.maximum(upper, (reach * parts.norm(dim=1)).square() / 8 - upper)

    def scores(entries: Int[Tensor, " m"]) -> Float[Tensor, " m"]:
        layer = entries // (heads * tokens)
        found = torch.empty(len(entries), stream.layer_input.shape[2])
        for one in layer.unique().tolist():
            here = layer == one
            found[here] = _parts(run, one).flatten(0, 1)[entries[here] % (heads * tokens)]
        return bases.importance(found, layer)

    whole = Bounds(bound, layers, heads * tokens)
    ranking = certified_top(whole, lambda entries: scores(entries).abs(), count, bases.tolerance)
    moves = zip(ranking.entries.tolist(), scores(ranking.entries).tolist(), strict=True)
    return Flow(tuple(_move(run, entry, score) for entry, score in moves), replace(ranking.certificate, bound="norms"))


def contrast_flow(run: PromptRun, contrast: Contrast, count: int = MOVES) -> Flow:
    """The same by |share of the difference of logits|, which is linear: all are known, the strongest are kept."""
    shares = contrast.positions.flatten()
    best = np.argsort(-np.abs(shares), kind="stable")[:count]
    moves = tuple(_move(run, entry, float(shares[entry])) for entry in best.tolist())
    return Flow(moves, Certificate(len(shares), len(shares), "linear", 0.0))


def _parts(run: PromptRun, layer: int) -> Float[Tensor, "H T d"]:
    """What each head of a layer wrote at the analysed position, by source position."""
    activation = run.stream.attention_activation(layer)  # [H, T, D]
    heads, _, width = activation.shape
    return activation @ run.model.weights.attention_values(layer).view(heads, width, -1)


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

ROWS_AT_ONCE = 64


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
        of_target.append(probabilities[:, run.target_id])
    named = [[token_of(run.model, one) for one in row] for row in torch.cat(best).view(layers, tokens).tolist()]
    return LogitLens(
        tokens=run.tokens,
        top=tuple(tuple(row) for row in named),
        top_probability=torch.cat(best_probability).view(layers, tokens).numpy(),
        target_probability=torch.cat(of_target).view(layers, tokens).numpy(),
    )
