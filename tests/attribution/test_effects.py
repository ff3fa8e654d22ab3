"""Measured effects against plain hooked runs, one part at a time without any cache, on every family."""

import json

import pytest
import torch

from app.attribution import Settings, run_prompt
from app.attribution.__main__ import main
from app.attribution.ablation import Effects, most_effective, without
from app.attribution.analysis import LISTS
from app.attribution.form import read
from app.attribution.prompt import Method
from app.attribution.results import Analysis, ValueNeuron
from db.errors import AtlasError
from db.neuron import Neuron, NeuronKind, Part
from tests import models

TARGET = 270
CLOSE = 1e-4  # nats
LONG = f"{models.PROMPT}, and the road to the hill is long"  # longer than Mistral's window here


def run_of(name, prompt=LONG, **settings):
    return run_prompt(models.language_model(name), prompt, Settings(target=TARGET, **settings))


def plain_effect(run, kind, layer, change):
    """log p(w) of the model as it is, minus that of a whole pass in which `change` was made to the sub-layer's last
    input ("input", what its neurons' activations are) or output ("output"), at the last position only.
    """
    names = run.model.architecture
    output = names.ffn_output if kind is NeuronKind.FFN else names.attention_output
    module = run.model.module.get_submodule(f"{names.layers}.{layer}.{output}")
    where, make = change

    def before(_module, args):
        changed = args[0].clone()
        make(changed[0, -1])
        return (changed, *args[1:])

    def after(_module, _args, result):
        changed = result.clone()
        make(changed[0, -1])
        return changed

    ids = run.stream.token_ids[None]
    with torch.inference_mode():
        clean = run.model.module(ids, use_cache=False).logits[0, -1].log_softmax(-1)[run.target_id]
        handle = module.register_forward_pre_hook(before) if where == "input" else module.register_forward_hook(after)
        try:
            changed = run.model.module(ids, use_cache=False).logits[0, -1].log_softmax(-1)[run.target_id]
        finally:
            handle.remove()
    return float(clean - changed)


def silence(places):
    def make(vector):
        vector[places] = 0

    return "input", make


def subtract(vector_of, amount):
    def make(vector):
        vector -= amount * vector_of

    return "output", make


@pytest.mark.parametrize("name", models.FAMILIES)
def test_ffn_neurons_are_zeroed_where_the_prompt_is_explained(name):
    run = run_of(name)
    found = Effects.of(run).entries(NeuronKind.FFN, torch.arange(run.ffn.activations.numel()))
    width = run.ffn.per_layer
    sample = range(0, len(found), 5)
    expected = [plain_effect(run, NeuronKind.FFN, n // width, silence(n % width)) for n in sample]
    torch.testing.assert_close(found[list(sample)], torch.tensor(expected), atol=CLOSE, rtol=0)
    assert max(map(abs, expected)) > 0.01


@pytest.mark.parametrize("name", models.FAMILIES)
def test_attention_neurons_lose_what_they_took_from_one_position(name):
    run = run_of(name)
    layers, heads, tokens, width = run.attention.shape
    numbers = torch.arange(0, layers * heads * tokens * width, 29)
    found = Effects.of(run).entries(NeuronKind.ATTENTION, numbers)
    expected = []
    for number in numbers.tolist():
        layer, head, _, index = (int(one) for one in torch.unravel_index(torch.tensor(number), run.attention.shape))
        value = run.model.weights.attention_values(layer)[head * width + index]
        amount = float(run.attention.activation(torch.tensor([number])))
        expected.append(plain_effect(run, NeuronKind.ATTENTION, layer, subtract(value, amount)))
    torch.testing.assert_close(found, torch.tensor(expected), atol=CLOSE, rtol=0)
    assert max(map(abs, expected)) > 0.003


@pytest.mark.parametrize("name", models.FAMILIES)
def test_heads_and_sub_layers(name):
    run = run_of(name)
    measure, width = Effects.of(run), run.attention.shape[3]
    heads, layers = measure.heads(), measure.sublayers()
    for layer in range(models.LAYERS):
        for head in range(models.HEADS):
            places = slice(head * width, (head + 1) * width)
            expected = plain_effect(run, NeuronKind.ATTENTION, layer, silence(places))
            assert heads[layer, head] == pytest.approx(expected, abs=CLOSE)
        for kind, found in ((NeuronKind.ATTENTION, layers.attention), (NeuronKind.FFN, layers.ffn)):
            whole = ("output", lambda vector: vector.zero_())
            assert found[layer] == pytest.approx(plain_effect(run, kind, layer, whole), abs=CLOSE)


@pytest.mark.parametrize("name", models.FAMILIES)
def test_listed_neurons_whatever_their_order_and_the_size_of_batches(name):
    run = run_of(name, memory_mb=1)
    found = [*run.raising(NeuronKind.FFN, 7)[0], *run.raising(NeuronKind.ATTENTION, 7)[0]]
    mixed = found[::-2] + found[::2]
    effects = Effects.of(run).neurons(mixed)
    for one, effect in zip(mixed, effects, strict=True):
        number = run.entries(one.neuron.kind).numbers(one.neuron)[one.position or 0]
        alone = Effects.of(run).entries(one.neuron.kind, torch.tensor([number]))
        assert effect == pytest.approx(float(alone[0]), abs=CLOSE)
    assert Effects.of(run).neurons([]) == []


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_prompt_of_one_token_has_no_earlier_keys(name):
    run = run_prompt(models.language_model(name), "sea", Settings(target=TARGET, position=0))
    assert run.stream.position == 0
    found = Effects.of(run).entries(NeuronKind.FFN, torch.tensor([3, run.ffn.per_layer + 5]))
    expected = [plain_effect(run, NeuronKind.FFN, layer, silence(index)) for layer, index in ((0, 3), (1, 5))]
    assert found.tolist() == pytest.approx(expected, abs=CLOSE)


@pytest.mark.parametrize("name", models.FAMILIES)
def test_an_inactive_neuron_has_no_effect(name):
    run = run_of(name)
    zeroed = without(run, [Part.parse("L1.F7")])
    inactive, other = zeroed.value_neuron(Neuron.parse("L1.F7")), zeroed.value_neuron(Neuron.parse("L1.F8"))
    nothing, something = Effects.of(zeroed).neurons([inactive, other])
    assert nothing == pytest.approx(0, abs=1e-5)
    assert abs(something) > 1e-4  # measured on the model that lacks L1.F7


@pytest.mark.parametrize("name", models.FAMILIES)
def test_gradients_are_the_slope_of_the_effect(name):
    run = run_of(name, method=Method.GRADIENT)
    small = 0.02  # of the contribution: effects of both signs cancel what is not linear
    for kind in NeuronKind:
        for one in (*run.raising(kind, 4)[0], *run.lowering(kind, 4, None)[0]):
            number = torch.tensor([run.entries(kind).numbers(one.neuron)[one.position or 0]])
            c = run.entries(kind).contributions(number)[0]
            less, more = (plain_effect(run, kind, one.neuron.layer, subtract(c, sign * small)) for sign in (1, -1))
            assert one.score == pytest.approx((less - more) / (2 * small), rel=0.01, abs=2e-4)
    everything = [float(run.value_neuron(Neuron.parse(f"L1.F{n}")).score) for n in range(run.ffn.per_layer)]
    listed = run.raising(NeuronKind.FFN, 3, Part.parse("L1.ffn"))
    assert [one.score for one in listed[0]] == pytest.approx(sorted(everything, reverse=True)[:3])
    assert listed[1].bound == "linear"


def test_gradients_without_a_part_are_those_of_the_model_without_it():
    run = run_of("llama", method=Method.GRADIENT)
    found = without(run, [Part.parse("L2.F0"), Part.parse("L2.H1")])
    one = found.raising(NeuronKind.FFN, 1, Part.parse("L1.ffn"))[0][0]
    effect = Effects.of(found).neurons([one])[0]
    assert not torch.allclose(found.gradients, run.gradients, atol=1e-4)
    assert effect * one.score > 0


@pytest.mark.parametrize("name", models.FAMILIES)
def test_all_are_measured_or_all_candidates(name):
    run = run_of(name, top=6)
    measure, width = Effects.of(run), run.ffn.per_layer
    every = measure.entries(NeuronKind.FFN, torch.arange(models.LAYERS * width)).tolist()
    by_size = sorted(range(len(every)), key=lambda number: -every[number])
    exhaustive, some = most_effective(run, "all"), most_effective(run, 6)
    assert (exhaustive.tried, some.tried) == ("all FFN neurons", "candidates")
    for sign, found in ((1, exhaustive.found["ffn_helping"]), (-1, exhaustive.found["ffn_hindering"])):
        assert (found.measured, found.total) == (len(every), len(every))
        best = [every[number] for number in by_size[::sign][:6]]
        assert [one.effect for one in found.neurons] == pytest.approx(best, abs=CLOSE)
        for one in found.neurons:
            assert one.effect == pytest.approx(every[one.neuron.layer * width + one.neuron.index], abs=CLOSE)
            assert one.score == pytest.approx(run.value_neuron(one.neuron).score, abs=1e-5)
    for kind in NeuronKind:
        ends = [neurons_of(run, kind, method) for method in Method]
        helping, hindering = some.found[f"{kind}_helping"], some.found[f"{kind}_hindering"]
        assert helping.measured == len(set.union(*ends)) < helping.total
        assert {(one.neuron, one.position) for one in (*helping.neurons, *hindering.neurons)} <= set.union(*ends)
        assert min([one.effect or 0 for one in helping.neurons], default=1) > 0
        assert max([one.effect or 0 for one in hindering.neurons], default=-1) < 0
        assert len(helping.neurons) <= 6


def neurons_of(run, kind, method):
    scored = run_of(run.model.name, method=method)
    lists = (*scored.raising(kind, 6)[0], *scored.lowering(kind, 6, None)[0])
    return {(one.neuron, one.position) for one in lists}


def test_what_does_most_from_the_shell(capsys):
    asked = [LONG, "--model", str(models.folder("llama")), "--top", "3", "--json", "--effects"]
    assert main([*asked, "2"]) == 0
    found = json.loads(capsys.readouterr().out)["effects"]
    assert found["tried"] == "candidates"
    assert len(found["ffn_helping"]["neurons"]) == 2
    assert found["ffn_helping"]["neurons"][0]["effect"] > 0 > found["attention_hindering"]["neurons"][0]["effect"]
    assert "proven" not in json.dumps(found)
    assert main([*asked, "all"]) == 0
    found = json.loads(capsys.readouterr().out)["effects"]
    assert found["tried"] == "all FFN neurons"
    assert found["ffn_helping"]["measured"] == found["ffn_helping"]["total"] == 144
    with pytest.raises(SystemExit):
        main([*asked, "some"])


def test_a_run_that_cannot_be_repeated_is_refused():
    run = run_of("llama")
    measure = Effects.of(run)
    measure.earlier.layers[1].keys = measure.earlier.layers[1].keys + 1
    with pytest.raises(AtlasError, match="unchanged prompt"):
        measure.entries(NeuronKind.FFN, torch.tensor([3]))


def test_no_hook_stays_behind():
    run = run_of("qwen3")
    measure = Effects.of(run)
    measure.heads()
    with pytest.raises(RuntimeError):
        next(measure.measure(NeuronKind.FFN, torch.tensor([1]), lambda _some: torch.zeros(1, 7)))  # 7 is no d_model
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in run.model.module.modules())
    assert torch.equal(run.model.forward(list(run.token_ids)).logits, run.stream.logits)


def test_from_the_shell(capsys):
    folder = str(models.folder("llama"))
    asked = [LONG, "--model", folder, "--top", "9", "--measure", "4"]
    assert main([*asked, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    measure = Effects.of(run_prompt(models.language_model("llama"), LONG, Settings()))
    for name in LISTS:
        effects = [one.get("effect") for one in found[name]]
        assert None not in effects[:4]
        assert effects[4:] == [None] * 5
        neurons: tuple[ValueNeuron, ...] = getattr(read(Analysis, found), name)[:4]
        assert effects[:4] == pytest.approx(measure.neurons(neurons), abs=CLOSE)
    assert found["head_effects"] == pytest.approx(measure.heads(), abs=CLOSE)
    assert found["layer_effects"]["ffn"] == pytest.approx(measure.sublayers().ffn, abs=CLOSE)
    assert read(Analysis, found).ffn_value_neurons[0].effect == found["ffn_value_neurons"][0]["effect"]
    assert main(asked) == 0
    assert capsys.readouterr().out.count("  measured ") == 8
    assert main([*asked[:-2], "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert "method" not in plain  # as before there was a choice
    assert "effect" not in json.dumps(plain)


def test_removals_from_the_shell(capsys):
    asked = [LONG, "--model", str(models.folder("gpt2")), "--top", "5", "--method", "removed"]
    assert main([*asked, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    run = run_prompt(models.language_model("gpt2"), LONG, Settings(method=Method.REMOVED))
    assert found["method"] == "removed"
    assert [one["score"] for one in found["ffn_value_neurons"]] == pytest.approx(
        [one.score for one in run.raising(NeuronKind.FFN, 5)[0]], abs=1e-5
    )
    assert main(asked) == 0
    assert "(log-probability lost by removal, nats)" in capsys.readouterr().out
