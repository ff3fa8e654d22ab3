"""The strongest neurons of one part of the model: a layer, a sub-layer, a head, or a head at one source position.

Not a filter of the overall top k, which may hold none of a part's neurons, but the certified top k among the part's
own. Lists hold no neuron of the other sign.
"""

from dataclasses import replace

import torch

from app.attribution.results import Found, Within
from app.attribution.run import PromptRun, Ranges
from db.neuron import NeuronKind, Part


def raising_within(run: PromptRun, part: Part, kind: NeuronKind, k: int) -> Found:
    """The k neurons of the part that raised the target most; those with a score above zero.

    Raises:
        AtlasError: there is no such part, or it has no neurons of this kind.
    """
    neurons, certificate = run.raising(kind, k, part)
    return Found(tuple(one for one in neurons if one.score > 0), certificate)


def lowering_within(run: PromptRun, part: Part, kind: NeuronKind, k: int, ranges: Ranges | None) -> Found:
    """The k neurons of the part that lowered the target most; those with a score below zero. See `PromptRun.lowering`.

    Raises:
        AtlasError: there is no such part, or it has no neurons of this kind.
    """
    neurons, certificate = run.lowering(kind, k, ranges, part)
    return Found(tuple(one for one in neurons if one.score < 0), certificate)


def shares_within(run: PromptRun, part: Part, kind: NeuronKind, k: int, *, opposing: bool = False) -> Found:
    """The k neurons of the part with the largest share of the difference of logits between target and distractor, or
    the most negative one; exact, since shares are linear.

    Raises:
        AtlasError: there is no such part, it has no neurons of this kind, or the run has no distractor.
    """
    sign = -1 if opposing else 1
    neurons, certificate = run.linear(kind, sign * run.contrast_direction, k, part)
    signed = (replace(one, score=sign * one.score) for one in neurons)
    return Found(tuple(one for one in signed if sign * one.score > 0), certificate)


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
