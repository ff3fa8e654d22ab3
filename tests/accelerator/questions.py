"""What is asked of a model on an accelerator, and how its answers are compared with the CPU's."""

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch

from app.attribution import drilldowns
from app.attribution.ablation import Effects
from app.attribution.analysis import analyse
from app.attribution.batch import figures_on
from app.attribution.compare import compare_prompts
from app.attribution.form import written
from app.attribution.intervene import steer
from app.attribution.measured import Means
from app.attribution.prompt import Method, PromptLine, Sampling, Settings
from app.attribution.run import Ranges, run_prompt, tokens_beginning
from db.neuron import Head, Neuron, NeuronAt, NeuronKind, Part, Sign, parse_interventions, parse_list
from indexer.architecture import Conventions
from indexer.directions import rank_by_direction, similar_by_value
from indexer.language_model import LanguageModel
from indexer.neighbours import nearest_tokens
from indexer.projection import Projector
from tests.models import PROMPT

CLOSE = 2e-4
"""Nats, logits and activations: other sums in float32 differ by some 1e-6, anything else by far more."""
SETTINGS = Settings(top=6, suppressing=True, measure=1)
FFN, ATTENTION = Neuron.ffn(1, 3), Neuron.attention(2, 1, 4)
CHANGES = ("L1.F3=4,L2.H1=0.5,L1.F5:=2", "L1.F3=4,L2.H1=0.5,L0.ffn=0.9")
"""Interventions; models with norms behind the sub-layers have no activations to set."""
WHAT: dict[str, tuple[Any, ...]] = {
    "through": ((Neuron.ffn(0, 3), Head(2, 1)),),
    "positions": (Head(1, 2),),
    "pattern": (Head(1, 2),),
    "lens": (None,),
    "flow": (5,),
    "within": (Part(1), Part.parse("L2.H1@3")),
    "effects": (3, "all"),
    "own": (NeuronAt.parse("L2.F3"), NeuronAt.parse("L2.H1.N4@3")),
    "neuron": (FFN, ATTENTION),
    "active": (FFN, ATTENTION),
    "keys": (FFN, ATTENTION),
}
"""What each drill-down is asked about."""


def details(model: LanguageModel, ranges: Ranges | None, **settings: Any) -> dict[str, Any]:
    assert set(WHAT) == set(drilldowns.NAMES)
    run = run_prompt(model, PROMPT, replace(SETTINGS, **settings))
    with torch.inference_mode():
        return {name: [written(drilldowns.answer(run, name, one, ranges)) for one in WHAT[name]] for name in WHAT}


def effects(model: LanguageModel, _ranges: Ranges | None) -> dict[str, Any]:
    run = run_prompt(model, PROMPT, SETTINGS)
    sets = [[Part.of(FFN), Part.of(ATTENTION)], [Part(1, NeuronKind.FFN)], [Part.parse("L2.H1@3")]]
    with torch.inference_mode():
        found: dict[str, Any] = {"sets": Effects.of(run).together(sets)}
        if not model.architecture.ffn_post_norm:
            means = Means.over([run, run_prompt(model, "A blue river", SETTINGS)])
            by_means = Effects.of(run, means=means)
            found |= {"means": by_means.together(sets[:2]), "heads": by_means.heads(), **asdict(by_means.sublayers())}
        return found


def projection(model: LanguageModel, _ranges: Ranges | None) -> dict[str, Any]:
    projector = Projector(model.unembedding, 5, screen=False)
    values = torch.cat([model.weights.ffn_values(1), model.weights.attention_values(1)])
    return {name: one.numpy() for name, one in vars(projector.project(values)).items()}


def directions(model: LanguageModel, _ranges: Ranges | None) -> list[Any]:
    ranked: list[Any] = [
        rank_by_direction(model.weights, model.unembedding, [9, 12], [1.0, -0.5], 5, sign=sign)
        for sign in (None, *Sign)
    ]
    return [[asdict(one) for one in found] for found in (*ranked, similar_by_value(model.weights, ATTENTION, 5))]


ASKED: dict[str, Callable[[LanguageModel, Ranges | None], Any]] = {
    "analysis": lambda model, ranges: written(analyse(model, PROMPT, SETTINGS, ranges=ranges)),
    "without a catalogue": lambda model, _: written(analyse(model, PROMPT, SETTINGS, conventions=Conventions.NOTEBOOK)),
    "removed": lambda model, ranges: written(analyse(model, PROMPT, SETTINGS, ranges=ranges, method=Method.REMOVED)),
    "gradient": lambda model, ranges: written(analyse(model, PROMPT, SETTINGS, ranges=ranges, method=Method.GRADIENT)),
    "contrast": lambda model, ranges: written(analyse(model, PROMPT, SETTINGS, ranges=ranges, distractor=7)),
    "drill-downs": details,
    "drill-downs of a contrast": lambda model, ranges: details(model, ranges, distractor=7),
    "comparison": lambda model, ranges: written(
        compare_prompts(model, (PROMPT, SETTINGS), (PROMPT, SETTINGS), 5, zero=parse_list("L1.H2,ffn:3"), ranges=ranges)
    ),
    "steering": lambda model, _: written(
        steer(
            model,
            PROMPT,
            SETTINGS,
            parse_interventions(CHANGES[bool(model.architecture.ffn_post_norm)]),
            Sampling(5, 0.7),
        )
    ),
    "effects": effects,
    "sets": lambda model, _: figures_on(model, PromptLine(PROMPT), SETTINGS, [FFN, ATTENTION]),
    "targets": lambda model, _: [asdict(one) for one in tokens_beginning(run_prompt(model, PROMPT, SETTINGS), "r")],
    "projection": projection,
    "neighbours": lambda model, _: nearest_tokens(model.unembedding, 5, screen=False).to_pydict(),
    "directions": directions,
}


def assert_close(found: Any, expected: Any, place: str = "") -> None:
    """The same words and whole numbers, and figures within `CLOSE`; what says where and how quickly, apart."""
    if isinstance(expected, np.ndarray):
        found, expected = np.asarray(found).tolist(), expected.tolist()
    if isinstance(expected, dict):
        where = {"seconds", "notices"}
        assert found.keys() - where == expected.keys() - where, place
        for key in expected.keys() - where:
            assert_close(found[key], expected[key], f"{place}.{key}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), place
        for number, pair in enumerate(zip(found, expected, strict=True)):
            assert_close(*pair, f"{place}[{number}]")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=CLOSE, rel=CLOSE, nan_ok=True), place
    else:
        assert found == expected, place
