"""Sets of prompts: the neurons that are particular to one set against another, and those that most prompts list. Needs
no torch.

A neuron's figure on a prompt is its score, in nats, for that prompt's own target. The difference of its means over the
two sets is its specificity. How often chance alone would make it as large is found by dealing the prompts out anew: the
neurons to compare are therefore chosen without regard to which prompt is in which set, or chance would look smaller
than it is. Query neurons are left out: what they are given is no contribution of theirs to the target.

Legend: P = prompts of both sets, N = neurons.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from app.attribution.measured import TEN
from app.attribution.results import LISTS
from db.errors import AtlasError
from db.neuron import Neuron, NeuronKind

COMPARED = 300
"""How many neurons of each kind are compared."""
DEALS = 10_000
"""How often the prompts are dealt out anew, where there are more ways to do it."""
OF_LISTS, PARTICULAR = "strongest {} neurons of its list", "{} neurons most particular to A"
ANSWERS = "an answer of A", "an answer of B"
OF_MEAN = "effect_of_mean"
"""What a row's neuron does where it is replaced by its mean over the prompts, instead of by nothing."""
_SEED = 0
_AT_A_TIME = 500


@dataclass(frozen=True, eq=False)
class Figures:
    """What some neurons did on every prompt of both sets.

    Attributes:
        neurons: which, N of them.
        scores: nats. An attention neuron counts with all that it wrote, from every source position.
        effects: measured, nats; NaN where it was not measured; None where nothing was.
        everywhere: every neuron was scored on every prompt. If not, one that a prompt's lists lack counts as 0 there.
        of_means: effects where a neuron is replaced by its mean over the prompts, not by nothing; None where none are.
    """

    neurons: tuple[Neuron, ...]
    scores: Float[np.ndarray, "P N"]
    effects: Float[np.ndarray, "P N"] | None
    everywhere: bool
    of_means: Float[np.ndarray, "P N"] | None = None


def listed_figures(rows: Sequence[dict[str, Any]], count: int = COMPARED) -> Figures:
    """What the lists of the prompts say, of the `count` neurons of each kind whose scores vary most over all of them.

    Args:
        rows: JSON objects of single prompts (`results.to_json`), none with an error.
        count: how many of each kind; fewer where fewer are listed.
    """
    entries = [
        (place, one["neuron"], one["score"], one.get("effect"))
        for place, row in enumerate(rows)
        for name in LISTS
        for one in row.get(name) or ()
    ]
    if not entries:
        return Figures((), np.zeros((len(rows), 0)), None, everywhere=False)
    every = pd.DataFrame(entries, columns=["prompt", "neuron", "score", "effect"]).astype({"effect": float})
    sums = every.groupby(["neuron", "prompt"])[["score", "effect"]].sum(min_count=1)
    table = sums["score"].unstack().reindex(columns=range(len(rows))).fillna(0.0).sort_index()
    varied = table.var(axis=1, ddof=0).sort_values(ascending=False, kind="stable").index
    labels = [
        label
        for kind in NeuronKind
        for label in [label for label in varied if Neuron.parse(label).kind is kind][:count]
    ]
    effects = sums["effect"].unstack().reindex(index=labels, columns=range(len(rows)))
    return Figures(
        tuple(map(Neuron.parse, labels)),
        table.loc[labels].to_numpy(float).T,
        effects.to_numpy(float).T if effects.notna().any(axis=None) else None,
        everywhere=False,
    )


def specificity(figures: Figures, first: Bool[np.ndarray, " P"]) -> pd.DataFrame:
    """The neurons, those that are most particular to the first set at the top: by the measured difference where every
    neuron was measured on every prompt, else by the difference of scores.

    Args:
        figures: of all prompts.
        first: which of them are of the first set.

    Returns:
        Columns: neuron, kind, mean_a, mean_b, difference (nats, of scores), p, q; where effects were measured also
            effect_a, effect_b, effect_difference, effect_p and effect_q, the last two absent where some are missing;
            where neurons were replaced by their means, effect_of_mean_a, effect_of_mean_b and
            effect_of_mean_difference. p: see `permutation_p`; q: see `false_discoveries`, over all neurons of the
            table.

    Raises:
        AtlasError: a set has no prompt.
    """
    if first.all() or not first.any():
        raise AtlasError("Each of the two sets needs at least one prompt that can be explained.")
    frame = pd.DataFrame(
        {
            "neuron": [one.label for one in figures.neurons],
            "kind": [one.kind.value for one in figures.neurons],
            **_means(figures.scores, first, "mean_a", "mean_b", "difference"),
        }
    )
    frame["p"] = permutation_p(figures.scores, first)
    frame["q"] = false_discoveries(frame["p"].to_numpy())
    best = "difference"
    if figures.effects is not None:
        frame = frame.assign(**_means(figures.effects, first, "effect_a", "effect_b", "effect_difference"))
        if not np.isnan(figures.effects).any():
            best = "effect_difference"
            frame["effect_p"] = permutation_p(figures.effects, first)
            frame["effect_q"] = false_discoveries(frame["effect_p"].to_numpy())
    if figures.of_means is not None:
        frame = frame.assign(**_means(figures.of_means, first, *(f"{OF_MEAN}_{of}" for of in ("a", "b", "difference"))))
    return frame.sort_values([best, "neuron"], ascending=[False, True]).reset_index(drop=True)


def most_particular(
    figures: Figures, first: Bool[np.ndarray, " P"], count: int = TEN
) -> dict[NeuronKind, list[Neuron]]:
    """Of each kind the first neurons of the table that `specificity` makes, where all were measured.

    Raises:
        AtlasError: a set has no prompt.
    """
    table = specificity(replace(figures, of_means=None), first)
    kinds = {kind: table["neuron"][table["kind"] == kind.value][:count] for kind in NeuronKind}
    return {kind: list(map(Neuron.parse, labels)) for kind, labels in kinds.items() if len(labels)}


Pairs = Mapping[NeuronKind, Sequence[tuple[float, float]]]
"""By kind and prompt, what the answer lost without ten neurons, and on average without as many random ones; nats."""


def together_of(rows: Iterable[dict[str, Any]]) -> dict[NeuronKind, tuple[tuple[float, float], ...]]:
    """What the rows of single prompts say of ten neurons taken out together."""
    found: dict[NeuronKind, list[tuple[float, float]]] = {}
    for row in rows:
        for kind, one in (row.get("together") or {}).items():
            if one and one["controls"]:
                found.setdefault(NeuronKind(kind), []).append((one["effect"], float(np.mean(one["controls"]))))
    return {kind: tuple(found[kind]) for kind in NeuronKind if kind in found}


def controls(sets: Mapping[str, Pairs], which: str, nats: Callable[[float], str] = "{:+.3f}".format) -> str:
    """What ten neurons of each kind hold together beside random ones, on average over the prompts of one or two sets;
    empty where nothing was measured.

    Args:
        sets: what was measured, by the words that name the set's answers.
        which: the ten, with a place for the kind's name.
        nats: how an effect is written.
    """

    def mean(values: np.ndarray) -> str:
        return f"{nats(float(values.mean()))} ± {values.std():.3f}"

    found = []
    for kind in NeuronKind:
        lost = {answer: np.array(pairs[kind]).T for answer, pairs in sets.items() if pairs.get(kind)}
        said = (
            f"{answer} loses {mean(ten)}, without as many random ones of the same layers {mean(random)}"
            for answer, (ten, random) in lost.items()
        )
        if lost:
            found.append(f"without the ten {which.format(kind.words)} {', and '.join(said)}")
    return f"Mean over the prompts ± deviation, nats: {'; '.join(found)}." if found else ""


def _means(
    values: Float[np.ndarray, "P N"], first: Bool[np.ndarray, " P"], *names: str
) -> dict[str, Float[np.ndarray, " N"]]:
    """Means over each set, of the prompts where there is a value, and their difference."""
    known = ~np.isnan(values)
    sums, counts = np.where(known, values, 0.0), known.astype(float)
    means = []
    for here in (first, ~first):
        found = counts[here].sum(axis=0)
        means.append(np.divide(sums[here].sum(axis=0), found, out=np.full(len(found), np.nan), where=found > 0))
    return dict(zip(names, [*means, means[0] - means[1]], strict=True))


def permutation_p(values: Float[np.ndarray, "P N"], first: Bool[np.ndarray, " P"]) -> Float[np.ndarray, " N"]:
    """Of each neuron, how often the difference of means is at least as large in size when the prompts are dealt out to
    two sets of these sizes anew: in every way there is, or in `DEALS` ways drawn with a fixed seed (then the sets as
    they are count as one more). Two-sided.
    """
    size, total = int(first.sum()), len(first)
    every = comb(total, size) <= DEALS
    weights = np.array([1 / size, -1 / (total - size)])
    observed = np.abs(np.where(first, *weights) @ values)
    observed -= 1e-9 * (1 + observed)  # sums of the same numbers in another order are the same
    hits, dealt = np.zeros(values.shape[1]), _deals(size, total, every)
    for some in np.array_split(dealt, -(-len(dealt) // _AT_A_TIME)):
        chosen = np.zeros((len(some), total), dtype=bool)
        np.put_along_axis(chosen, some, True, axis=1)
        hits += (np.abs(np.where(chosen, *weights) @ values) >= observed).sum(axis=0)
    found: Float[np.ndarray, " N"] = hits / len(dealt) if every else (hits + 1) / (len(dealt) + 1)
    return found


def _deals(size: int, total: int, every: bool) -> np.ndarray:
    """[deals x size]; the places of the first set."""
    if every:
        return np.array(list(combinations(range(total), size)))
    return np.random.default_rng(_SEED).random((DEALS, total)).argsort(axis=1)[:, :size]


def least_p(first: int, second: int) -> float:
    """The smallest p that sets of these sizes can give. In sets of one size, the sets exchanged differ as much.

    >>> least_p(3, 3), least_p(1, 9)
    (0.1, 0.1)
    """
    ways = comb(first + second, first)
    return (2 if first == second else 1) / ways if ways <= DEALS else 1 / (DEALS + 1)


def false_discoveries(p: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """q by Benjamini and Hochberg: the share of false discoveries to expect among the neurons up to each.

    >>> false_discoveries(np.array([0.01, 0.5, 0.02])).tolist()
    [0.03, 0.5, 0.03]
    """
    order = p.argsort(kind="stable")
    raised = p[order] * len(p) / np.arange(1, len(p) + 1)
    found = np.empty(len(p))
    found[order] = np.minimum(np.minimum.accumulate(raised[::-1])[::-1], 1.0)
    return found


# Generic neurons: in the lists of most prompts, whatever these are about.

VARIED = Path(__file__).with_name("varied_prompts.txt")
"""Fifty prompts of many kinds, written for this."""


def generic_neurons(rows: Iterable[dict[str, Any]]) -> tuple[int, dict[str, int]]:
    """How many prompts were explained, and the neurons that are in the lists of more than half of them, those that
    raised the target or those that lowered it, with the number of such prompts; most frequent first.

    Args:
        rows: JSON objects of single prompts; those with an error are passed over.
    """
    usable = [row for row in rows if "error" not in row]
    counts = Counter(
        label for row in usable for label in {one["neuron"] for name in LISTS for one in row.get(name) or ()}
    )
    common = sorted((-count, label) for label, count in counts.items() if 2 * count > len(usable))
    return len(usable), {label: -count for count, label in common}
