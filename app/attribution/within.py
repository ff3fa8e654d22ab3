"""The strongest neurons of one part of the model: a layer, its FFN, a head, or a head at one source position.

Not a filter of the overall top k, which may hold none of a part's neurons, but the certified top k among the part's
own. The entries of a part lie side by side in the numbering of :mod:`app.attribution.entries`, so its bounds are a
slice of its layer's.
"""

import torch
from torch import Tensor

from app.attribution.results import Certificate, Found, ValueNeuron, Within
from app.attribution.run import PromptRun, Ranges
from app.attribution.search import Bounds, Exact, Ranking, certified_bottom, certified_top
from db.errors import AtlasError
from db.neuron import NeuronKind, Part, check_exists


def raising_within(run: PromptRun, part: Part, kind: NeuronKind, k: int) -> Found:
    """The k neurons of the part that raised the target most; those with a score above zero.

    Raises:
        AtlasError: there is no such part, or it has no neurons of this kind.
    """
    start, stop = _span(run, part, kind)
    entries, bases = run.entries(kind), run.bases(kind)
    bounds = entries.dot(part.layer, bases.gradient[part.layer])[start:stop]
    return _named(run, part, kind, start, certified_top(bounds, _exact(run, part, kind, start), k, bases.tolerance), 1)


def lowering_within(run: PromptRun, part: Part, kind: NeuronKind, k: int, ranges: Ranges | None) -> Found:
    """The k neurons of the part that lowered the target most; those with a score below zero.

    Args:
        run: the prompt.
        part: where.
        kind: which neurons.
        k: how many.
        ranges: what the catalogue knows of the neurons' extreme logits; None bounds by norms, and scores most.

    Raises:
        AtlasError: there is no such part, or it has no neurons of this kind.
    """
    start, stop = _span(run, part, kind)
    entries, bases = run.entries(kind), run.bases(kind)
    longest = 2 * run.model.unembedding.longest_row
    spans = entries.values(part.layer).norm(dim=1) * longest if ranges is None else ranges(kind, part.layer)
    width = entries.scaled(part.layer, spans.to(bases.gradient)) / run.scale
    lower = (entries.dot(part.layer, bases.gradient[part.layer]) - width.square() / 8)[start:stop]
    proof = "norms" if ranges is None else "catalogue"
    ranking = certified_bottom(Bounds.dense(lower), _exact(run, part, kind, start), k, proof, bases.tolerance)
    return _named(run, part, kind, start, ranking, -1)


def shares_within(run: PromptRun, part: Part, kind: NeuronKind, k: int, *, opposing: bool = False) -> Found:
    """The k neurons of the part with the largest share of the difference of logits between target and distractor, or
    the most negative one; exact, since shares are linear.

    Raises:
        AtlasError: there is no such part, it has no neurons of this kind, or the run has no distractor.
    """
    start, stop = _span(run, part, kind)
    if run.distractor_id is None:
        raise AtlasError("Shares need a distractor: a token that the target is held against.")
    folded = run.model.unembedding.folded
    direction = (folded[run.target_id] - folded[run.distractor_id]) / run.scale
    sign = -1 if opposing else 1
    shares = run.entries(kind).dot(part.layer, direction)[start:stop]
    best = (sign * shares).topk(min(k, len(shares))).indices
    ranking = Ranking(best, shares[best], Certificate(len(shares), len(shares), "linear", 0.0))
    return _named(run, part, kind, start, ranking, sign)


def _span(run: PromptRun, part: Part, kind: NeuronKind) -> tuple[int, int]:
    """Where the part's entries lie among its layer's."""
    check_exists(part, run.model.dimensions, run.model.name)
    _, _, tokens, width = run.attention.shape
    if kind not in part.kinds or part.index is not None:
        raise AtlasError(f"{part.label} has no {kind} neurons.")
    if part.head is None:
        return 0, run.entries(kind).per_layer
    if part.position is None:
        return part.head * tokens * width, (part.head + 1) * tokens * width
    if part.position >= tokens:
        raise AtlasError(
            f"There is no source position {part.position}: those of the analysed position are 0–{tokens - 1}."
        )
    start = (part.head * tokens + part.position) * width
    return start, start + width


def _exact(run: PromptRun, part: Part, kind: NeuronKind, start: int) -> Exact:
    entries, bases = run.entries(kind), run.bases(kind)
    first = part.layer * entries.per_layer + start

    def scores(chosen: Tensor) -> Tensor:
        return bases.importance(entries.contributions(chosen + first), entries.layer(chosen + first))

    return scores


def _named(run: PromptRun, part: Part, kind: NeuronKind, start: int, ranking: Ranking, sign: int) -> Found:
    entries = run.entries(kind)
    numbers = ranking.entries + part.layer * entries.per_layer + start
    triples = zip(numbers.tolist(), ranking.scores.tolist(), entries.activation(numbers).tolist(), strict=True)
    found = tuple(
        ValueNeuron(*entries.name(entry), score, active) for entry, score, active in triples if sign * score > 0
    )
    return Found(found, ranking.certificate)


def within(run: PromptRun, part: Part, k: int, ranges: Ranges | None) -> Within:
    """The part's neurons by kind: those that raised and those that lowered the target; with a distractor, those that
    favoured either.
    """
    found: dict[str, Found] = {}
    with torch.inference_mode():
        for kind in part.kinds:
            if run.distractor_id is None:
                found[f"{kind}_raising"] = raising_within(run, part, kind, k)
                found[f"{kind}_lowering"] = lowering_within(run, part, kind, k, ranges)
            else:
                found[f"{kind}_favouring"] = shares_within(run, part, kind, k)
                found[f"{kind}_opposing"] = shares_within(run, part, kind, k, opposing=True)
    return Within(part, found)
