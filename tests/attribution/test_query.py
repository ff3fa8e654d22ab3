"""Query neurons and layers, target against distractor, and the certified bottom k: each against plain loops."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from app.attribution import Conventions, Settings, analyse, drilldowns, run_prompt
from app.attribution.analysis import explain
from app.attribution.compare import compare
from app.attribution.frames import query_layers_frame
from app.attribution.heads import contrast_flow, flow
from app.attribution.prompt import Method
from app.attribution.query import own_query, readers
from app.attribution.results import from_json, to_json
from db.neuron import Neuron, NeuronAt, NeuronKind
from tests import models, oracle

CLOSE = 1e-5  # nats
TARGET, DISTRACTOR = 270, 41
ALL = 10**6


def ids_of(name: str) -> list[int]:
    return list(models.language_model(name).tokenizer(models.PROMPT)["input_ids"])


@pytest.mark.parametrize("conventions", Conventions)
@pytest.mark.parametrize("name", models.FAMILIES)
def test_query_neurons_are_those_of_the_loops(name, conventions):
    model, folder, ids = models.language_model(name), models.folder(name), ids_of(name)
    analysis = analyse(model, models.PROMPT, top=ALL, query_top=9, target=TARGET, conventions=conventions)
    at = [oracle.run(folder, ids, position) for position in range(len(ids))]
    expected = torch.zeros(models.LAYERS, models.SIZES[name][2], dtype=torch.float64)
    for one in analysis.attention_value_neurons[:9]:
        head, index, layer, position = one.neuron.head, one.neuron.index, one.neuron.layer, one.position
        assert head is not None
        assert position is not None
        key = oracle.attention_key(folder, layer, head, index, centre=conventions is Conventions.EXACT)
        denominator = at[position].residual[layer][position] @ key
        for earlier in range(layer):
            part = at[position].layers[earlier]
            for k in range(expected.shape[1]):
                written = part.ffn_activation[k] * part.ffn_values[k]
                expected[earlier, k] += (written @ key) / denominator * one.score
    assert analysis.query is not None
    assert analysis.query.skipped == 0
    found = {one.neuron: one.score for one in analysis.query.ffn_neurons}
    last = max(one.neuron.layer for one in analysis.attention_value_neurons[:9])
    assert len(found) == expected[:last].numel() > 0  # those of the last reader's layer and later ones switched nothing
    for neuron, score in found.items():
        assert score == pytest.approx(float(expected[neuron.layer, neuron.index]), rel=1e-4, abs=CLOSE)
    assert list(found.values()) == sorted(found.values(), reverse=True)


@pytest.mark.parametrize("name", models.FAMILIES)
def test_query_layers_are_those_of_the_loops(name):
    model, folder, ids = models.language_model(name), models.folder(name), ids_of(name)
    analysis = analyse(model, models.PROMPT, top=5, query_top=9, target=TARGET)
    ranked = analyse(model, models.PROMPT, top=100, target=TARGET)
    run = oracle.run(folder, ids)
    query = analysis.query
    assert query is not None

    def shares(neurons, keys, position_of) -> tuple[dict[str, float], float]:
        """Each part's share, and the rounding to expect: a small sum of large parts loses digits."""
        expected: dict[str, float] = {}
        rounding = 0.0
        for one, key in zip(neurons, keys, strict=True):
            layer, place = one.neuron.layer, position_of(one)
            parts = {"embedding": run.residual[0][place]}
            for earlier in range(models.LAYERS):
                if earlier < layer or (earlier == layer and one.position is None):
                    parts[f"attention {earlier}"] = run.layers[earlier].attention_output[place]
                if earlier < layer:
                    parts[f"ffn {earlier}"] = run.layers[earlier].ffn_output[place]
            read = {part: float(vector @ key) for part, vector in parts.items()}
            for part, product in read.items():
                expected[part] = expected.get(part, 0.0) + product / sum(read.values()) * one.score
            rounding += 1e-6 * (sum(map(abs, read.values())) / sum(read.values())) ** 2 * abs(one.score)
        return expected, rounding

    top = ranked.attention_value_neurons[:9]
    keys = [oracle.attention_key(folder, n.neuron.layer, int(n.neuron.head or 0), n.neuron.index) for n in top]
    expected = [shares(top, keys, lambda one: one.position)]
    top = ranked.ffn_value_neurons[:100]
    both = [oracle.ffn_keys(folder, n.neuron.layer, n.neuron.index) for n in top]
    expected += [shares(top, [keys[i] for keys in both], lambda _one: run.position) for i in range(len(both[0]))]

    found = [query.attention_layers.named(), *(layers.named() for layers in query.ffn_layers)]
    assert len(found) == len(expected)
    for got, (want, rounding) in zip(found, expected, strict=True):
        assert got == pytest.approx({part: want.get(part, 0.0) for part in got}, rel=1e-5, abs=CLOSE + rounding)


@pytest.mark.parametrize("label", ["L0.H2.N3@4", "L0.F5", "L1.H2.N3@4", "L1.F5", "L2.H0.N1@2", "L2.F7"])
def test_only_neurons_of_earlier_layers_switched_a_neuron_on(label):
    run = run_prompt(models.language_model("llama"), models.PROMPT, Settings(target=TARGET))
    at = NeuronAt.parse(label)
    before, width = at.neuron.layer, models.SIZES["llama"][2]
    for k in (1, 30, ALL):
        found = own_query(run, at.neuron, at.position, k)
        assert all(one.neuron.layer < before for one in found.ffn_neurons)
        assert len(found.ffn_neurons) == min(k, before * width)
        assert all(one.score for one in found.ffn_neurons)
    frame = query_layers_frame(found.query)
    frame = frame[frame["readers"] == str(at.neuron.kind)]
    own = at.neuron.kind is NeuronKind.FFN  # which reads after its own layer's attention
    assert set(frame[frame["part"] == "attention"]["layer"]) == set(range(before + own))
    assert set(frame[frame["part"] == "ffn"]["layer"]) == set(range(before))


def test_lists_of_earlier_versions_lose_what_did_nothing():
    model = models.language_model("llama")
    run = run_prompt(model, models.PROMPT, Settings(target=TARGET))
    analysis, own = analyse(model, models.PROMPT, top=6), own_query(run, Neuron.parse("L1.F5"), k=6)
    forms: tuple[tuple[dict[str, Any], Callable[[Any], Any]], ...] = (
        (to_json(analysis), lambda data: from_json(data).query),
        (drilldowns.to_json(own), lambda data: drilldowns.from_json("own", data, analysis)),
    )
    for written, read in forms:
        assert len(written["query_ffn_neurons"]) == 6
        kept = read(written).ffn_neurons
        written["query_ffn_neurons"] += [{"neuron": "L2.F7", "score": 0.0}, {"neuron": "L2.F9", "score": -0.0}]
        assert read(written).ffn_neurons == kept


def test_what_was_silent_stands_in_no_list():
    model = models.language_model("llama")
    run = run_prompt(model, models.PROMPT, Settings(target=TARGET, suppressing=True, distractor=DISTRACTOR, top=ALL))
    silent = [(0, 3), (1, 40)]
    activation = run.stream.ffn_activation.clone()
    for layer, index in silent:
        activation[layer, :, index] = 0
    weight = run.stream.attention_weight.clone()
    weight[1, 2, 3] = 0  # as outside a layer's window
    quiet = replace(run, stream=replace(run.stream, ffn_activation=activation, attention_weight=weight))
    analysis = explain(quiet)
    assert analysis.query is not None
    assert analysis.contrast is not None
    labels = {f"L{layer}.F{index}" for layer, index in silent}
    everywhere: list[Any] = [analysis.ffn_value_neurons, analysis.ffn_suppressing_neurons, analysis.query.ffn_neurons]
    everywhere += [analysis.contrast.ffn_neurons, analysis.contrast.ffn_opposing]
    everywhere += [own_query(quiet, Neuron.attention(2, 0, 1), 2, ALL).ffn_neurons]
    for found in everywhere:
        assert found
        assert not labels & {one.neuron.label for one in found}
    lists = (
        analysis.attention_value_neurons,
        analysis.attention_suppressing_neurons,
        analysis.contrast.attention_neurons,
        analysis.contrast.attention_opposing,
    )
    for listed in lists:
        assert listed
        assert not [one for one in listed if one.position == 3 and (one.neuron.layer, one.neuron.head) == (1, 2)]
    for moves in (flow(quiet, ALL), contrast_flow(quiet, analysis.contrast, ALL)):
        assert len(moves.moves) == weight.numel() - 1
        assert not [one for one in moves.moves if (one.layer, one.head, one.position) == (1, 2, 3)]


def test_a_list_of_nothing_is_empty():
    run = run_prompt(models.language_model("llama"), models.PROMPT, Settings(target=TARGET))
    stream = replace(run.stream, attention_weight=torch.zeros_like(run.stream.attention_weight))
    analysis = explain(replace(run, stream=stream))
    assert analysis.attention_value_neurons == ()
    assert analysis.query is None
    assert compare(replace(run, stream=stream), run, 3).neurons[NeuronKind.ATTENTION]


def test_a_vanishing_denominator_is_left_out_and_counted():
    model, ids = models.language_model("llama"), ids_of("llama")
    stream = model.forward(ids)
    neurons = [(Neuron.attention(1, 0, 3), 2, 0.5), (Neuron.attention(1, 3, 4), 2, 0.25)]
    plainly = readers(stream, model.weights, neurons)
    assert plainly.skipped.tolist() == [False, False]
    # take from the residual stream what the first neuron reads: its denominator is then rounding alone
    key = plainly.keys[0]
    inputs = stream.layer_input.clone()
    for _ in range(3):  # until float32 finds no more of it
        inputs[1, 2] -= (inputs[1, 2] @ key) / (key @ key) * key
    changed = readers(replace(stream, layer_input=inputs), model.weights, neurons)
    assert changed.skipped.tolist() == [True, False]
    assert changed.weight[0] == 0


@pytest.mark.parametrize("conventions", Conventions)
@pytest.mark.parametrize("name", models.FAMILIES)
def test_the_shares_of_a_contrast_add_up_to_the_difference_of_logits(name, conventions):
    model, run = models.language_model(name), oracle.run(models.folder(name), ids_of(name))
    analysis = analyse(model, models.PROMPT, top=ALL, target=TARGET, distractor=DISTRACTOR, conventions=conventions)
    found = analysis.contrast
    assert found is not None
    exact = conventions is Conventions.EXACT
    scale = run.head.scale(run.residual[-1][-1])

    def difference(vectors: torch.Tensor) -> torch.Tensor:
        logits = run.head.logits(vectors, scale, beta=False)
        return logits[..., TARGET] - logits[..., DISTRACTOR]

    def near(got: Any, expected: torch.Tensor) -> None:
        torch.testing.assert_close(torch.as_tensor(got).double(), expected, atol=1e-4, rtol=0)

    whole = run.head.logits(run.residual[-1][-1], scale, beta=exact)
    total = found.embedding + float(found.layers.attention.sum() + found.layers.ffn.sum()) + found.constant
    assert total == pytest.approx(float(whole[TARGET] - whole[DISTRACTOR]), abs=1e-4)
    assert total == pytest.approx(found.logit_difference, abs=1e-4)
    for number, layer in enumerate(run.layers):
        entries = layer.attention_activation[..., None] * layer.attention_values[:, None]  # [H, T, D, d]
        near(found.positions[number], difference(entries.sum(dim=2)))
        near(found.heads[number], difference(entries.sum(dim=(1, 2))))
        near(found.layers.attention[number], difference(layer.attention_output[-1]))
        near(found.layers.ffn[number], difference(layer.ffn_output[-1]))
    every = torch.stack([difference(layer.ffn_activation[:, None] * layer.ffn_values) for layer in run.layers])
    for one in found.ffn_neurons:
        assert one.score == pytest.approx(float(every[one.neuron.layer, one.neuron.index]), abs=CLOSE)


def test_exchanging_target_and_distractor_turns_the_signs_round():
    model = models.language_model("gpt2")
    one = analyse(model, models.PROMPT, top=20, target=TARGET, distractor=DISTRACTOR).contrast
    other = analyse(model, models.PROMPT, top=20, target=DISTRACTOR, distractor=TARGET).contrast
    assert one is not None
    assert other is not None
    assert one.logit_difference == -other.logit_difference
    assert (one.heads == -other.heads).all()
    assert [n.neuron for n in one.ffn_neurons] == [n.neuron for n in other.ffn_opposing]
    assert [n.score for n in one.attention_neurons] == [-n.score for n in other.attention_opposing]


@pytest.mark.parametrize("bounds", ["catalogue", "norms"])
@pytest.mark.parametrize("top", [1, 25])
@pytest.mark.parametrize("method", [Method.ADDED, Method.REMOVED])
@pytest.mark.parametrize("name", models.FAMILIES)
def test_the_certified_ends_are_the_exhaustive_ends(name, method, top, bounds):
    model, folder = models.language_model(name), models.folder(name)
    head = oracle.head_of(folder)

    def ranges(kind: NeuronKind, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        logits = head.logits(oracle.value_vectors(folder, layer)[0 if kind is NeuronKind.FFN else 1], beta=False)
        return logits.amax(dim=1).float(), logits.amin(dim=1).float()

    analysis = analyse(
        model,
        models.PROMPT,
        top=top,
        target=TARGET,
        suppressing=True,
        method=method,
        ranges=ranges if bounds == "catalogue" else None,
    )
    removed = method is Method.REMOVED
    scores = oracle.run(folder, ids_of(name)).scores(TARGET, removed=removed)
    lists = {
        (NeuronKind.FFN, 1): analysis.ffn_value_neurons,
        (NeuronKind.FFN, -1): analysis.ffn_suppressing_neurons,
        (NeuronKind.ATTENTION, 1): analysis.attention_value_neurons,
        (NeuronKind.ATTENTION, -1): analysis.attention_suppressing_neurons,
    }
    for (kind, sign), found in lists.items():
        every = scores.ffn_neurons if kind is NeuronKind.FFN else scores.attention_neurons
        best = (sign * every.flatten()).sort(descending=True).values[:top].tolist()
        assert [sign * one.score for one in found] == pytest.approx(best, abs=CLOSE)
        for one in found:
            own = (
                every[one.neuron.layer, one.neuron.index]
                if kind is NeuronKind.FFN
                else every[one.neuron.layer, one.neuron.head, one.position, one.neuron.index]
            )
            assert one.score == pytest.approx(float(own), abs=CLOSE)
        certificate = (analysis.certificates if sign > 0 else analysis.suppressing_certificates)[kind]
        assert certificate.bound == ("concavity" if removed == (sign < 0) else bounds)
        assert top <= certificate.scored <= certificate.total == every.numel()
