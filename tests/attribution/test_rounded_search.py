"""Certified searches on bf16 scores, over a vocabulary of real size: the lists are those of an exhaustive search.

The rounded path is forced on, whatever this processor is good at, and the oracle scores every entry in float64.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from operator import mul

import pytest
import torch
from torch import Tensor

from app.attribution import Settings, fast, run_prompt
from app.attribution.analysis import lowering_within, raising_within
from app.attribution.fast import TOLERANCE, Shortlist
from app.attribution.heads import flow
from app.attribution.results import Certificate
from app.attribution.run import PromptRun
from app.attribution.score import base_points
from db.neuron import NeuronKind, Part
from indexer.weights import Unembedding
from tests import models

VOCABULARY, TARGET, K = 49_152, 4711, 40
CLOSE = TOLERANCE + 1e-5
"""Nats: what is proven of the rounded scores, and what float32 adds."""


@pytest.fixture(scope="module")
def run():
    model = models.language_model("llama")
    generator = torch.Generator().manual_seed(3)
    lengths = 0.2 + torch.rand(VOCABULARY, 1, generator=generator) ** 6
    rows = torch.randn(VOCABULARY, models.D_MODEL, generator=generator) * lengths
    own = model.unembedding
    wide = replace(
        model,
        unembedding=Unembedding(rows, None, None, own.norm, own.epsilon),
        dimensions=replace(model.dimensions, vocabulary=VOCABULARY),
    )
    patch = pytest.MonkeyPatch()
    patch.setattr(fast, "bf16_is_faster", lambda _d_model: True)
    with torch.inference_mode():
        found = run_prompt(wide, models.PROMPT, Settings(target=TARGET))
        assert found.at_ffn.tolerance == TOLERANCE  # the rounded rows are in use
    patch.undo()
    return found


@pytest.fixture(autouse=True)
def rounded(monkeypatch):
    """How many scores were taken from bf16 products; a test that took none has shown nothing."""
    taken: list[int] = []
    scores = Shortlist.scores

    def counted(self: Shortlist, contributions: Tensor, base: Tensor) -> tuple[Tensor, Tensor]:
        found = scores(self, contributions, base)
        taken.append(int((found[1] <= TOLERANCE).sum()))
        return found

    monkeypatch.setattr(Shortlist, "scores", counted)
    yield
    assert sum(taken) > 0


def in_float64(run: PromptRun, contributions: Tensor, points: Tensor, layer: Tensor) -> Tensor:
    """log p(w | point of its layer + c) - log p(w | point of its layer), a few rows at a time."""
    folded = run.model.unembedding.folded.double().T

    def log_target(rows: Tensor) -> Tensor:
        return (rows.double() @ folded / run.scale).log_softmax(-1)[:, TARGET]

    after = [log_target(some) for some in (points[layer] + contributions).split(64)]
    return torch.cat(after) - log_target(points)[layer]


@cache
def every_score(run: PromptRun, kind: NeuronKind) -> dict[tuple[str, int | None], float]:
    entries = run.entries(kind)
    numbers = torch.arange(entries.per_layer * models.LAYERS)
    points = base_points(run.stream)[0 if kind is NeuronKind.ATTENTION else 1]
    scores = in_float64(run, entries.contributions(numbers), points, entries.layer(numbers)).tolist()
    names = (entries.name(number) for number in numbers.tolist())
    return {(neuron.label, position): score for (neuron, position), score in zip(names, scores, strict=True)}


def assert_best(own: dict, every: dict, k: int, size: Callable[[float], float]) -> None:
    """`own` are the k largest of `every` by `size`; what ties within the scores' errors may stand for one another."""
    assert len(own) == min(k, len(every))
    assert all(score == pytest.approx(every[name], abs=CLOSE) for name, score in own.items())
    least = sorted(map(size, every.values()), reverse=True)[len(own) - 1]
    assert {name for name, score in every.items() if size(score) > least + 2 * CLOSE} <= set(own)


def assert_certified(certificate: Certificate, total: int, k: int) -> None:
    assert certificate.tolerance == TOLERANCE
    assert min(k, total) <= certificate.scored <= certificate.total == total


@pytest.mark.parametrize("kind", NeuronKind)
def test_neurons_of_the_whole_model(run, kind):
    every = every_score(run, kind)
    for sign, (found, certificate) in ((1, run.raising(kind, K)), (-1, run.lowering(kind, K, None))):
        assert_best({(one.neuron.label, one.position): one.score for one in found}, every, K, partial(mul, sign))
        assert_certified(certificate, len(every), K)


@pytest.mark.parametrize("label", ["L1", "L2.ffn", "L1.H2"])
def test_neurons_of_a_part(run, label):
    part = Part.parse(label)
    for kind in part.kinds:
        every = {name: score for name, score in every_score(run, kind).items() if is_in(name, part)}
        for sign, found in (
            (1, raising_within(run, part, kind, K)),
            (-1, lowering_within(run, part, kind, K, None)),
        ):
            own = {(one.neuron.label, one.position): one.score for one in found.neurons}
            positive = {name: score for name, score in every.items() if sign * score > CLOSE}
            assert len(own) >= min(K, len(positive))  # a part's list holds no neuron of the other sign
            assert_best(own, every, len(own), partial(mul, sign))
            assert_certified(found.certificate, len(every), K)


def is_in(name: tuple[str, int | None], part: Part) -> bool:
    place = Part.parse(name[0])
    return place.layer == part.layer and part.head in (None, place.head)


def test_moves(run):
    stream, weights = run.stream, run.model.weights
    layers, heads, tokens = stream.attention_weight.shape
    width = run.model.dimensions.head_dim
    parts = torch.stack(
        [
            stream.attention_activation(layer) @ weights.attention_values(layer).view(heads, width, -1)
            for layer in range(layers)
        ]
    )
    layer = torch.arange(layers).repeat_interleave(heads * tokens)
    scores = in_float64(run, parts.flatten(0, 2), base_points(stream)[0], layer).view(layers, heads, tokens).tolist()
    every = {
        (layer, head, position): scores[layer][head][position]
        for layer in range(layers)
        for head in range(heads)
        for position in range(tokens)
    }
    found = flow(run, K)
    assert_best({(one.layer, one.head, one.position): one.score for one in found.moves}, every, K, abs)
    assert_certified(found.certificate, len(every), K)
