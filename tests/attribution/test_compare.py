"""Comparative neuron analysis: identities of two runs, and every Δ against the runs themselves."""

import json

import pytest

from app.attribution import Settings, run_prompt
from app.attribution.compare import changes_frame, compare, compare_prompts, comparison_json
from db.neuron import NeuronKind
from tests import models

OTHER = "The rain runs to the river"


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_run_compared_with_itself_has_not_changed(name):
    question = (models.PROMPT, Settings(target=270))
    found = compare_prompts(models.language_model(name), question, question, k=20)
    assert not found.layers.attention.any()
    assert not found.heads.any()
    for kind in NeuronKind:
        assert len(found.neurons[kind]) >= 1
        assert all(one.score == 0 and one.activation == 0 for one in found.neurons[kind])


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_every_change_is_second_minus_first_under_the_first_scale(name):
    model = models.language_model(name)
    first, second = (run_prompt(model, text, Settings(target=270)) for text in (models.PROMPT, OTHER))
    assert first.scale != second.scale
    found = compare(first, second, k=20)
    assert found.second.scale == first.scale
    whole = float((found.layers.attention + found.layers.ffn).sum())
    # each run telescopes, under the common scale, from the embedding to the final hidden state
    expected = []
    for run in (found.first, found.second):
        ends = run.stream.layer_input[[0, -1], -1]
        log_p = model.unembedding.logits(ends, first.scale).log_softmax(-1)[:, 270]
        expected.append(float(log_p[1] - log_p[0]))
    assert whole == pytest.approx(expected[1] - expected[0], abs=1e-4)
    tops = [{one.neuron for one in run.raising(NeuronKind.ATTENTION, 20)[0]} for run in (found.first, found.second)]
    assert {one.neuron for one in found.neurons[NeuronKind.ATTENTION]} == tops[0] | tops[1]
    for one in found.neurons[NeuronKind.ATTENTION][:5]:
        best = max(each.score for each in found.first.value_neurons(one.neuron))
        assert one.first.score == pytest.approx(best, abs=1e-5)
        assert one.score == pytest.approx(one.second.score - one.first.score)
    sizes = [abs(one.score) for one in found.neurons[NeuronKind.FFN]]
    assert sizes == sorted(sizes, reverse=True)


def test_exchanging_the_runs_of_one_prompt_turns_the_signs():
    model = models.language_model("llama")
    one, other = (models.PROMPT, Settings(target=270)), (models.PROMPT, Settings(target=41))
    there, back = compare_prompts(model, one, other, k=15), compare_prompts(model, other, one, k=15)
    assert (there.heads + back.heads).abs().max() < 1e-5
    scores = {one.neuron: one.score for one in there.neurons[NeuronKind.FFN]}
    for change in back.neurons[NeuronKind.FFN]:
        assert change.score == pytest.approx(-scores[change.neuron], abs=1e-5)


def test_frames_and_json_hold_the_same():
    found = compare_prompts(models.language_model("llama"), (models.PROMPT, Settings()), (OTHER, Settings()), k=10)
    text = json.loads(json.dumps(comparison_json(found), allow_nan=False))
    for kind in NeuronKind:
        frame = changes_frame(found, kind)
        assert frame["neuron"].tolist() == [one["neuron"] for one in text["neurons"][kind]]
        assert frame["delta_score"].tolist() == [one["delta_score"] for one in text["neurons"][kind]]
        assert frame["position_1"].isna().all() == (kind is NeuronKind.FFN)
    assert text["second"]["prompt"] == OTHER
