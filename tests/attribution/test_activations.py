"""One neuron at every position of a prompt, and what switched on one that lowered the target."""

import pytest

from app.attribution import Settings, run_prompt
from app.attribution.query import activations, own_query
from db.errors import AtlasError
from db.neuron import Neuron, NeuronKind
from tests import models


def run_of(name, **settings):
    return run_prompt(models.language_model(name), models.PROMPT, Settings(target=270, **settings))


@pytest.mark.parametrize("name", models.FAMILIES)
def test_an_ffn_neuron_at_the_analysed_position_is_what_its_score_is_made_with(name):
    run = run_of(name)
    found = activations(run, Neuron.ffn(1, 3))
    assert len(found.activation) == len(run.token_ids)
    assert found.activation[-1] == pytest.approx(run.value_neuron(Neuron.ffn(1, 3)).activation, abs=1e-6)
    assert found.attention_weight is None
    assert found.arriving is None


@pytest.mark.parametrize("name", models.FAMILIES)
def test_an_earlier_position_is_as_active_as_when_the_prompt_ends_there(name):
    whole, part = activations(run_of(name), Neuron.ffn(1, 3)), activations(run_of(name, position=2), Neuron.ffn(1, 3))
    assert part.activation == pytest.approx(whole.activation[:3], abs=1e-4)


@pytest.mark.parametrize("name", models.FAMILIES)
def test_of_an_attention_neuron_arrives_attention_times_value(name):
    run = run_of(name)
    neuron = Neuron.attention(1, 2, 3)
    found = activations(run, neuron)
    assert found.arriving == pytest.approx([one.activation for one in run.value_neurons(neuron)], abs=1e-6)
    assert found.attention_weight == pytest.approx(run.stream.attention_weight[1, 2].tolist())
    assert found.attention_weight is not None
    products = [weight * value for weight, value in zip(found.attention_weight, found.activation, strict=True)]
    assert found.arriving == pytest.approx(products, abs=1e-6)


@pytest.mark.parametrize("neuron", [Neuron.ffn(999, 0), Neuron.ffn(0, 99_999), Neuron.attention(0, 99, 0)])
def test_a_neuron_that_is_not_there_is_refused(neuron):
    with pytest.raises(AtlasError, match="There is no neuron"):
        activations(run_of("llama"), neuron)


def test_what_switched_on_a_lowering_neuron_has_a_negative_share():
    run = run_of("llama")
    lowering, _ = run.lowering(NeuronKind.ATTENTION, 1, None)
    own = own_query(run, lowering[0].neuron, lowering[0].position, k=10**6)
    one, query = own.one, own.query
    assert one.score < 0
    scores = [each.score for each in query.ffn_neurons]
    assert scores == sorted(scores)
    raising, _ = run.raising(NeuronKind.ATTENTION, 1)
    own = own_query(run, raising[0].neuron, raising[0].position, k=10**6)
    one, query = own.one, own.query
    scores = [each.score for each in query.ffn_neurons]
    assert one.score > 0
    assert scores == sorted(scores, reverse=True)
