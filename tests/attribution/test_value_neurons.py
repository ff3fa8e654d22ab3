"""The certified top k is the exhaustive top k: of every family's neurons, and of hand-made and random bounds."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from app.attribution import Conventions, analyse
from app.attribution.prompt import Method
from app.attribution.search import certified_top
from db.neuron import Neuron, NeuronKind
from tests import models, oracle

CLOSE = 1e-5  # nats; float32 rounding of scores of the order of 1 stays near 1e-6
TARGET = 270  # " The": not the top prediction


class Recorder:
    """Exact scores that remember who asked for which."""

    def __init__(self, scores: torch.Tensor):
        self.scores, self.asked = scores, list[int]()

    def __call__(self, entries: torch.Tensor) -> torch.Tensor:
        self.asked += entries.tolist()
        return self.scores[entries]


def by_label(neurons) -> dict[tuple[str, int | None], float]:
    return {(one.neuron.label, one.position): one.score for one in neurons}


def exhaustive(scores: oracle.Scores, kind: NeuronKind) -> dict[tuple[str, int | None], float]:
    """Every entry's score under the label that the analysis would give it."""
    if kind is NeuronKind.FFN:
        table = scores.ffn_neurons
        return {
            (Neuron.ffn(layer, index).label, None): float(table[layer, index])
            for layer in range(table.shape[0])
            for index in range(table.shape[1])
        }
    table = scores.attention_neurons
    layers, heads, positions, width = table.shape
    return {
        (Neuron.attention(layer, head, index).label, position): float(table[layer, head, position, index])
        for layer in range(layers)
        for head in range(heads)
        for position in range(positions)
        for index in range(width)
    }


def assert_is_top(found, every: dict[tuple[str, int | None], float], k: int) -> None:
    """`found` is the top k of `every`, best first; entries that tie within float32 may stand for each other."""
    best = sorted(every.values(), reverse=True)[:k]
    own = by_label(found)
    assert len(own) == len(found) == len(best)
    for (label, score), expected in zip(own.items(), best, strict=True):
        assert score == pytest.approx(every[label], abs=CLOSE), label
        assert score == pytest.approx(expected, abs=CLOSE), label
    scores = list(own.values())
    assert scores == sorted(scores, reverse=True)
    clear = {label for label, score in every.items() if score > best[-1] + 2 * CLOSE}
    assert clear <= set(own)


@pytest.mark.parametrize("conventions", Conventions)
@pytest.mark.parametrize("top", [1, 10, 60])
@pytest.mark.parametrize("name", models.FAMILIES)
@pytest.mark.parametrize("method", [Method.ADDED, Method.REMOVED])
def test_certified_equals_exhaustive(name, top, conventions, method):
    model = models.language_model(name)
    changes = {"top": top, "target": TARGET, "conventions": conventions, "method": method}
    analysis = analyse(model, models.PROMPT, **changes)
    expected = oracle.run(models.folder(name), model.tokenizer(models.PROMPT)["input_ids"])
    scores = expected.scores(TARGET, beta=conventions is Conventions.EXACT, removed=method is Method.REMOVED)
    np.testing.assert_allclose(analysis.heads, scores.heads, atol=oracle.CLOSE)
    np.testing.assert_allclose(analysis.layers.attention, scores.attention, atol=oracle.CLOSE)
    np.testing.assert_allclose(analysis.layers.ffn, scores.ffn, atol=oracle.CLOSE)
    for kind, found in (
        (NeuronKind.FFN, analysis.ffn_value_neurons),
        (NeuronKind.ATTENTION, analysis.attention_value_neurons),
    ):
        every = exhaustive(scores, kind)
        assert_is_top(found, every, top)
        certificate = analysis.certificates[kind]
        assert certificate.total == len(every)
        assert top <= certificate.scored <= len(every)


@pytest.mark.parametrize("name", models.FAMILIES)
def test_activations_keep_their_sign_and_place(name):
    model = models.language_model(name)
    analysis = analyse(model, models.PROMPT, top=10**6, target=TARGET)
    expected = oracle.run(models.folder(name), model.tokenizer(models.PROMPT)["input_ids"])
    for one in analysis.ffn_value_neurons:
        activation = expected.layers[one.neuron.layer].ffn_activation[one.neuron.index]
        assert one.activation == pytest.approx(float(activation), abs=CLOSE)
    for one in analysis.attention_value_neurons:
        activations = expected.layers[one.neuron.layer].attention_activation
        assert one.activation == pytest.approx(
            float(activations[one.neuron.head, one.position, one.neuron.index]), abs=CLOSE
        )
    assert any(one.activation < 0 for one in analysis.attention_value_neurons)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_more_than_there_are_gives_all_of_them(name):
    model = models.language_model(name)
    analysis = analyse(model, models.PROMPT, top=10**6)
    _, width, ffn = models.SIZES[name]
    tokens = len(analysis.tokens)
    totals = {
        NeuronKind.FFN: models.LAYERS * ffn,
        NeuronKind.ATTENTION: models.LAYERS * models.HEADS * tokens * width,
    }
    assert len(by_label(analysis.ffn_value_neurons)) == totals[NeuronKind.FFN]
    assert len(by_label(analysis.attention_value_neurons)) == totals[NeuronKind.ATTENTION]
    for kind, certificate in analysis.certificates.items():
        assert (certificate.scored, certificate.total) == (totals[kind], totals[kind])


def test_none_asked_for_none_scored():
    analysis = analyse(models.language_model("llama"), models.PROMPT, top=0)
    assert analysis.ffn_value_neurons == analysis.attention_value_neurons == ()
    for kind, total in ((NeuronKind.FFN, 3 * 48), (NeuronKind.ATTENTION, 3 * 4 * 7 * 12)):
        certificate = analysis.certificates[kind]
        assert (certificate.scored, certificate.total) == (0, total)


def test_a_loose_bound_first_by_hand():
    # Bounds 9, 5, 3, ...; the first entry is scored first and is poor, the second has 4 >= 3: no need to look further
    bounds = torch.cat([torch.tensor([9.0, 3.0, 5.0]), torch.full((1000,), 2.0)])
    scores = Recorder(torch.cat([torch.tensor([1.0, 2.5, 4.0]), torch.full((1000,), 1.5)]))
    found = certified_top(bounds, scores, 1)
    assert found.entries.tolist() == [2]
    assert found.scores.tolist() == [4.0]
    assert found.certificate.scored == len(scores.asked) < 1003


def test_an_entry_whose_bound_is_barely_above_is_looked_at():
    # Entry 0 scores 4; entry 1, whose bound is 4.1, really scores 4.05: stopping early would miss it
    found = certified_top(torch.tensor([10.0, 4.1]), torch.tensor([4.0, 4.05]).__getitem__, 1)
    assert found.entries.tolist() == [1]
    assert found.certificate.scored == 2


def test_bounds_that_are_reached_stop_at_once():
    # every score equals its bound: after the first k the next bound cannot beat the k-th score
    bounds = torch.arange(5000, dtype=torch.float32)
    found = certified_top(bounds, Recorder(bounds), 3)
    assert found.entries.tolist() == [4999, 4998, 4997]
    assert found.certificate.scored < 100


@given(
    gaps=st.lists(st.sampled_from([0.0, 0.5, 1.0, 7.0, 40.0]), min_size=1, max_size=400),
    k=st.integers(0, 450),
    seed=st.integers(0, 2**16),
)
@settings(deadline=None)
def test_any_bounds_that_are_bounds_give_the_true_top(gaps, k, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(len(gaps), generator=generator).round(decimals=1)  # many ties
    exact = Recorder(scores)
    found = certified_top(scores + torch.tensor(gaps), exact, k)
    k = min(k, len(gaps))
    assert found.scores.tolist() == scores.sort(descending=True).values[:k].tolist()
    assert scores[found.entries].tolist() == found.scores.tolist()
    assert len(set(found.entries.tolist())) == k
    assert len(exact.asked) == len(set(exact.asked)) == found.certificate.scored  # nothing scored twice
    assert found.certificate.total == len(gaps)
