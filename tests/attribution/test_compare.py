"""Comparative neuron analysis: identities of two runs, and every Δ against the runs themselves."""

import json
from dataclasses import replace

import pytest
import torch

from app.attribution import Settings, run_prompt
from app.attribution.ablation import without
from app.attribution.compare import TABLES, changes_frame, compare, compare_prompts, heads_frame
from app.attribution.compare import layers_frame as compared_layers
from app.attribution.form import written
from app.attribution.text import comparison_text
from db.neuron import Neuron, NeuronKind, parse_list
from tests import models, oracle

OTHER = "The rain runs to the river"
QUESTION = (models.PROMPT, Settings(target=270))


def spans(model):
    """What a catalogue would know: highest and lowest logit of every value vector."""

    def ranges(kind, layer):
        values = model.weights.ffn_values(layer) if kind is NeuronKind.FFN else model.weights.attention_values(layer)
        logits = values @ model.unembedding.folded.T
        return logits.max(dim=1).values, logits.min(dim=1).values

    return ranges


@pytest.mark.parametrize("name", models.FAMILIES)
def test_a_run_compared_with_itself_has_not_changed(name):
    model = models.language_model(name)
    found = compare_prompts(model, QUESTION, QUESTION, k=20, ranges=spans(model))
    assert not found.layers.attention.any()
    assert not found.layers.ffn.any()
    assert not found.heads.any()
    assert found.log_probability == 0
    assert all(one.probability == 0 for one in found.predictions)
    for kind in NeuronKind:
        assert len(found.neurons[kind]) >= 1
        assert all(one.score == 0 and one.activation == 0 for one in found.neurons[kind])


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_every_change_is_second_minus_first_under_the_first_scale(name):
    model = models.language_model(name)
    first, second = (run_prompt(model, text, Settings(target=270)) for text in (models.PROMPT, OTHER))
    assert first.scale != second.scale
    found = compare(first, second, k=20)
    assert found.scale == first.scale
    whole = float((found.layers.attention + found.layers.ffn).sum())
    # each run telescopes, under the common scale, from the embedding to the final hidden state
    expected = []
    for run in (first, second):
        ends = run.stream.layer_input[[0, -1], -1]
        log_p = model.unembedding.logits(ends, first.scale).log_softmax(-1)[:, 270]
        expected.append(float(log_p[1] - log_p[0]))
    assert whole == pytest.approx(expected[1] - expected[0], abs=1e-4)
    second = replace(second, frozen_scale=first.scale)
    tops = [{one.neuron for one in run.raising(NeuronKind.ATTENTION, 20)[0]} for run in (first, second)]
    assert {one.neuron for one in found.neurons[NeuronKind.ATTENTION]} == tops[0] | tops[1]
    for one in found.neurons[NeuronKind.ATTENTION]:
        for run, own in ((first, one.first), (second, one.second)):
            best = max(run.value_neurons(one.neuron), key=lambda each: abs(each.score))
            assert own.score == pytest.approx(best.score, abs=1e-5)
            assert own.activation == pytest.approx(best.activation, abs=1e-5)
        assert one.score == pytest.approx(one.second.score - one.first.score)
    sizes = [abs(one.score) for one in found.neurons[NeuronKind.FFN]]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("name", models.FAMILIES)
def test_exchanging_the_runs_of_one_prompt_turns_the_signs(name):
    model = models.language_model(name)
    one, other = (models.PROMPT, Settings(target=270)), (models.PROMPT, Settings(target=41))
    there, back = compare_prompts(model, one, other, k=15), compare_prompts(model, other, one, k=15)
    assert abs(there.heads + back.heads).max() < 1e-5
    assert abs(there.layers.ffn + back.layers.ffn).max() < 1e-5
    assert there.log_probability == pytest.approx(-back.log_probability)
    scores = {one.neuron: one.score for one in there.neurons[NeuronKind.FFN]}
    for change in back.neurons[NeuronKind.FFN]:
        assert change.score == pytest.approx(-scores[change.neuron], abs=1e-5)


@pytest.mark.parametrize("name", models.FAMILIES)
def test_zeroed_parts_against_plain_scores_under_the_first_scale(name):
    """Every score of the second run once more: log_softmax in float64 on what the run without the parts wrote."""
    model = models.language_model(name)
    parts = "L0.H1,L1.H2.N3,L1.F7"
    found = compare_prompts(model, QUESTION, QUESTION, k=25, zero=parse_list(parts), ranges=spans(model))
    run = run_prompt(model, *QUESTION)
    without_parts = without(run, [one.part for one in found.zeroed])
    head = oracle.head_of(models.folder(name))
    stream = without_parts.stream

    def increase(base, added):
        log_p = head.logits(torch.stack([base + added, base]).double(), run.scale).log_softmax(-1)[:, 270]
        return float(log_p[0] - log_p[1])

    for layer in range(models.LAYERS):
        base = stream.layer_input[layer, -1]
        scores = (increase(base, stream.attention_output[layer, -1]), float(found.second.layers.attention[layer]))
        assert scores[0] == pytest.approx(scores[1], abs=oracle.CLOSE)
    for change in found.neurons[NeuronKind.FFN]:
        layer, index = change.neuron.layer, change.neuron.index
        base = stream.layer_input[layer, -1] + stream.attention_output[layer, -1]
        activation = 0.0 if change.neuron.label == "L1.F7" else float(stream.ffn_activation[layer, -1, index])
        added = activation * model.weights.ffn_values(layer)[index]
        assert change.second.activation == pytest.approx(activation, abs=1e-6)
        assert change.second.score == pytest.approx(increase(base, added), abs=oracle.CLOSE)
    assert [one.part.label for one in found.zeroed] == parts.split(",")
    assert found.second.target.log_probability == pytest.approx(
        float(stream.logits.double().log_softmax(-1)[270]), abs=1e-5
    )
    assert found.first.target.probability == pytest.approx(float(run.stream.logits.softmax(-1)[270]), abs=1e-6)
    assert found.heads[0, 1] == pytest.approx(-float(found.first.heads[0, 1]), abs=1e-6)
    assert found.second.target.rank == 1 + int((stream.logits > stream.logits[270]).sum())


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_every_change_beyond_the_bound_is_listed(name):
    model = models.language_model(name)
    found = compare_prompts(model, QUESTION, (OTHER, Settings(target=270)), k=30, ranges=spans(model))
    every = compare_prompts(model, QUESTION, (OTHER, Settings(target=270)), k=10**6, ranges=spans(model))
    for kind in NeuronKind:
        above = found.complete_above[kind]
        assert above is not None
        assert 0 < above < max(abs(one.score) for one in every.neurons[kind])
        listed = {one.neuron for one in found.neurons[kind]}
        assert {one.neuron for one in every.neurons[kind] if abs(one.score) > above} <= listed
        assert len(every.neurons[kind]) > len(listed)
        assert every.complete_above[kind] is not None


def test_without_ranges_nothing_is_claimed_and_without_neurons_none_are_scored():
    model = models.language_model("llama")
    assert set(compare_prompts(model, QUESTION, QUESTION, k=3).complete_above.values()) == {None}
    found = compare_prompts(model, QUESTION, (OTHER, Settings()), k=0, ranges=spans(model))
    assert found.neurons == dict.fromkeys(NeuronKind, ())
    assert json.dumps(written(found), allow_nan=False)
    assert all(len(frame(found)) == 0 for frame in (TABLES["neurons"], TABLES["zeroed"]))


def test_the_second_target_is_the_first_only_at_the_same_place():
    model, first = models.language_model("llama"), (models.PROMPT, Settings())
    own = [run_prompt(model, models.PROMPT, Settings(position=place)).target_id for place in (-1, 2)]
    zero = parse_list("ffn:30 attention:30")
    assert compare_prompts(model, first, first, k=1, zero=zero).second.target.token.id == own[0]
    assert compare_prompts(model, first, (models.PROMPT, Settings(position=6)), k=1).second.target.token.id == own[0]
    elsewhere = compare_prompts(model, first, (models.PROMPT, Settings(position=2)), k=1)
    assert elsewhere.second.target.token.id == own[1] != own[0]
    assert elsewhere.second.position == 2


def test_frames_and_json_hold_the_same():
    found = compare_prompts(models.language_model("llama"), (models.PROMPT, Settings()), (OTHER, Settings()), k=10)
    text = json.loads(json.dumps(written(found), allow_nan=False))
    for kind in NeuronKind:
        frame = changes_frame(found, kind)
        assert frame["neuron"].tolist() == [one["neuron"] for one in text["neurons"][kind]]
        assert frame["delta_score"].tolist() == [one["delta_score"] for one in text["neurons"][kind]]
        assert frame["position_1"].isna().all() == (kind is NeuronKind.FFN)
        assert (frame["delta_score"] == frame["score_2"] - frame["score_1"]).all()
    assert text["second"]["prompt"] == OTHER
    assert text["second"]["tokens"] == [token.text for token in found.second.tokens]
    target = found.first.target
    assert text["first"]["target"] == {
        **{"id": target.token.id, "text": target.token.text, "rank": target.rank},
        **{"probability": target.probability, "log_probability": target.log_probability},
    }
    assert text["delta_log_probability"] == found.log_probability
    for one, row in zip(found.predictions, text["predictions"], strict=True):
        assert row == {
            **{"id": one.token.id, "text": one.token.text},
            **{"probability_1": one.first, "probability_2": one.second},
        }
    layers, heads = compared_layers(found), heads_frame(found)
    assert layers[layers["part"] == "ffn"]["delta_score"].tolist() == pytest.approx(text["layers"]["ffn"], abs=1e-6)
    assert heads["delta_score"].tolist() == pytest.approx(found.heads.flatten().tolist(), abs=1e-6)
    report = comparison_text(found, None)
    best = found.neurons[NeuronKind.FFN][0]
    (row,) = [line for line in report.splitlines() if line.split()[:1] == [best.neuron.label]]
    assert f"{best.score:+.4f}" in row
    assert Neuron.parse(text["neurons"]["ffn"][0]["neuron"]) == best.neuron
