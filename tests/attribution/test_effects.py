"""Measured effects against plain hooked runs, one part at a time without any cache, on every family."""

import json
import os
from typing import Any

import numpy as np
import pytest
import torch
from transformers.models.gemma2 import modeling_gemma2
from transformers.models.llama import modeling_llama
from transformers.models.llama.modeling_llama import repeat_kv

from app.attribution import Settings, analyse, explain, run_prompt, score
from app.attribution import measured as measuring
from app.attribution.__main__ import main
from app.attribution.ablation import Effects, without
from app.attribution.analysis import measured
from app.attribution.form import read
from app.attribution.measured import Means, Sweep, effect_everywhere, most_effective, together
from app.attribution.prompt import Method
from app.attribution.results import LISTS, Analysis, ValueNeuron
from db.errors import AtlasError
from db.neuron import Neuron, NeuronAt, NeuronKind, Part
from tests import families, models

TARGET = 270
CLOSE = 1e-4  # nats
LONG = f"{models.PROMPT}, and the road to the hill is long"  # longer than Mistral's window here


def run_of(name, prompt=LONG, **settings):
    return run_prompt(models.language_model(name), prompt, Settings(target=TARGET, **settings))


def plain_effect(run, kind, layer, change):
    """log p(w) of the model as it is, minus that of a whole pass in which `change` was made to the sub-layer's last
    input ("input", what its neurons' activations are) or output ("output"), at the last position only.
    """
    return plain_effects(run, [(kind, layer, change)])


def plain_effects(run, changes, *, everywhere=False):
    """The same of several changes at once, at the last position or at each."""
    names = run.model.architecture

    def hooked(kind, layer, change):
        output = names.ffn_output if kind is NeuronKind.FFN else names.attention_output
        module = run.model.module.get_submodule(f"{names.layers}.{layer}.{output}")
        where, make = change

        def changed(tensor):
            found = tensor.clone()
            for vector in found[0] if everywhere else found[0, -1:]:
                make(vector)
            return found

        if where == "input":
            return module.register_forward_pre_hook(lambda _module, args: (changed(args[0]), *args[1:]))
        return module.register_forward_hook(lambda _module, _args, result: changed(result))

    ids = run.stream.token_ids[None]
    with torch.inference_mode():
        clean = run.model.module(ids, use_cache=False).logits[0, -1].log_softmax(-1)[run.target_id]
        handles = [hooked(*one) for one in changes]
        try:
            changed = run.model.module(ids, use_cache=False).logits[0, -1].log_softmax(-1)[run.target_id]
        finally:
            for handle in handles:
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


@pytest.mark.parametrize(("name", "modeling"), [("llama", modeling_llama), ("gemma2", modeling_gemma2)])
def test_keys_and_values_are_not_copied_for_each_head(name, modeling, monkeypatch):
    run = families.run_of(name)
    effects, numbers = Effects.of(run), torch.arange(0, run.ffn.activations.numel(), 7)
    config: Any = run.model.module.config
    expected = effects.entries(NeuronKind.FFN, numbers)
    copies = []

    def copying(states, groups):
        copies.append(groups)
        return repeat_kv(states, groups)

    monkeypatch.setattr(modeling, "repeat_kv", copying)
    assert torch.equal(effects.entries(NeuronKind.FFN, numbers), expected)
    assert not copies
    assert config._attn_implementation == "eager"
    families.run_of(name)
    assert set(copies) == {models.HEADS // 2}


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


# Several parts at once, everywhere, and replaced by means.

SEVERAL = tuple(map(Part.parse, ("L0.F3", "L1.F7", "L1.F9", "L1.H2", "L2.H0.N3", "L2.ffn", "L0.attention")))


def changes_of(run, parts, value_of=lambda _kind, _layer, _places: 0.0):
    """The same parts as changes for `plain_effects`; `value_of` says what places are set to."""
    width = run.attention.shape[3]
    for part in parts:
        if part.index is None and part.head is None:
            yield part.kind, part.layer, ("output", lambda vector: vector.zero_())
            continue
        start = 0 if part.head is None else part.head * width
        places = slice(start, start + width) if part.index is None else start + part.index
        yield part.kind, part.layer, fill(places, value_of(part.kind, part.layer, places))


def fill(places, value):
    def make(vector):
        vector[places] = value

    return "input", make


@pytest.mark.parametrize("name", models.FAMILIES)
def test_sets_of_parts_at_once_here_and_everywhere(name):
    run = run_of(name)
    sets = [SEVERAL, SEVERAL[1:3], (), SEVERAL[3:5]]
    found = Effects.of(run).together(sets)
    assert found == pytest.approx([plain_effects(run, [*changes_of(run, parts)]) for parts in sets], abs=CLOSE)
    assert Effects.of(run_of(name, memory_mb=1)).together(sets) == pytest.approx(found, abs=CLOSE)
    assert found[2] == pytest.approx(0, abs=CLOSE)
    for parts in sets:
        everywhere = plain_effects(run, [*changes_of(run, parts)], everywhere=True)
        assert effect_everywhere(run, parts) == pytest.approx(everywhere, abs=CLOSE)
    assert abs(effect_everywhere(run, SEVERAL) - found[0]) > 0.01  # not the same question
    alone = Part.parse("L1.F8")
    less = without(run, SEVERAL)
    assert effect_everywhere(less, [alone]) == pytest.approx(
        effect_everywhere(run, [*SEVERAL, alone]) - effect_everywhere(run, SEVERAL), abs=CLOSE
    )


@pytest.mark.parametrize("name", models.FAMILIES)
def test_what_came_from_one_position_is_taken_out_as_it_was(name):
    run = run_of(name)
    width = run.attention.shape[3]
    parts = [Part.parse("L1.H2.N3@1"), Part.parse("L2.H1@0"), Part.parse("L1.F3")]
    active = [run.stream.attention_activation(layer) for layer in range(models.LAYERS)]
    neuron = run.model.weights.attention_values(1)[2 * width + 3] * active[1][2, 1, 3]
    head = active[2][1, 0] @ run.model.weights.attention_values(2)[width : 2 * width]
    changes = [
        (NeuronKind.ATTENTION, 1, subtract(neuron, 1)),
        (NeuronKind.ATTENTION, 2, subtract(head, 1)),
        (NeuronKind.FFN, 1, silence(3)),
    ]
    assert Effects.of(run).together([parts]) == pytest.approx([plain_effects(run, changes)], abs=CLOSE)
    with pytest.raises(AtlasError, match="no source position 99"):
        Effects.of(run).together([[Part.parse("L1.H2.N3@99")]])


@pytest.mark.parametrize("name", models.FAMILIES)
def test_parts_are_replaced_by_their_means_over_prompts(name):
    run, prompts = run_of(name), models.SENTENCES
    means = Means.over(run_of(name, prompt) for prompt in prompts)
    inputs = mean_inputs(run, prompts)
    measure, width = Effects.of(run, means=means), run.attention.shape[3]

    def mean(kind, layer, places):
        return inputs[kind, layer][places]

    def expected(*parts):
        return plain_effects(run, [*changes_of(run, parts, mean)])

    neurons, heads = [part for part in SEVERAL if part.index is not None], [Part.parse("L1.H2"), Part.parse("L0.H3")]
    found = measure.together([neurons, heads, [Part.parse("L2.ffn")]])
    whole = [(NeuronKind.FFN, 2, fill(slice(None), inputs[NeuronKind.FFN, 2]))]
    assert found == pytest.approx([expected(*neurons), expected(*heads), plain_effects(run, whole)], abs=CLOSE)
    assert means.prompts == len(prompts)
    numbers = torch.tensor([3, run.ffn.per_layer + 7])
    assert measure.entries(NeuronKind.FFN, numbers).tolist() == pytest.approx(
        [expected(Part.parse("L0.F3")), expected(Part.parse("L1.F7"))], abs=CLOSE
    )
    assert measure.heads()[1, 2] == pytest.approx(expected(heads[0]), abs=CLOSE)
    assert measure.sublayers().ffn[2] == pytest.approx(found[2], abs=CLOSE)
    attention = [(NeuronKind.ATTENTION, 1, fill(slice(None), inputs[NeuronKind.ATTENTION, 1]))]
    assert measure.sublayers().attention[1] == pytest.approx(plain_effects(run, attention), abs=CLOSE)
    assert abs(found[0] - Effects.of(run).together([neurons])[0]) > 1e-3  # a mean is not nothing
    for refused in (
        lambda: measure.entries(NeuronKind.ATTENTION, torch.tensor([width])),
        lambda: measure.together([[Part.parse("L1.H2@1")]]),
    ):
        with pytest.raises(AtlasError, match="no mean"):
            refused()


def mean_inputs(run, prompts):
    """What each output matrix is given at the last position, on average."""
    names, found = run.model.architecture, {}
    for kind, output in ((NeuronKind.FFN, names.ffn_output), (NeuronKind.ATTENTION, names.attention_output)):
        for layer in range(models.LAYERS):
            kept: list[torch.Tensor] = []
            module = run.model.module.get_submodule(f"{names.layers}.{layer}.{output}")
            handle = module.register_forward_pre_hook(lambda _module, args, kept=kept: kept.append(args[0][0, -1]))
            for prompt in prompts:
                run_of(run.model.name, prompt)
            handle.remove()
            found[kind, layer] = torch.stack(kept).mean(dim=0)
    return found


def test_without_prompts_there_are_no_means():
    with pytest.raises(AtlasError, match="no prompts to take means over"):
        Means.over([])


# The strongest together, and the target's place among a neuron's own tokens.


@pytest.mark.parametrize("name", models.FAMILIES)
def test_the_strongest_are_taken_out_together_beside_random_ones(name):
    run = run_of(name, measure=30, top=30)
    found = measured(run, explain(run))
    for kind, neurons in (
        (NeuronKind.FFN, found.ffn_value_neurons),
        (NeuronKind.ATTENTION, found.attention_value_neurons),
    ):
        one = found.together[kind]
        best = sorted(neurons, key=lambda neuron: -(neuron.effect or 0))[:10]
        assert [part.label for part in one.parts] == [NeuronAt(each.neuron, each.position).label for each in best]
        assert one.by == "effect"
        if kind is NeuronKind.FFN:
            changes = [(kind, part.layer, silence(part.index)) for part in one.parts]
            assert one.effect == pytest.approx(plain_effects(run, changes), abs=CLOSE)
        assert len(one.controls) == 5
        assert len(set(one.controls)) > 1
    assert measured(run, explain(run)).together == found.together  # draws repeat
    few = together(Effects.of(run), {NeuronKind.FFN: explain(run).ffn_value_neurons})[NeuronKind.FFN]
    assert (few.by, [part.index for part in few.parts]) == (
        "score",
        [one.neuron.index for one in found.ffn_value_neurons[:10]],
    )


@pytest.mark.parametrize("kind", NeuronKind)
def test_a_random_neuron_is_of_the_same_layer_and_as_active(kind):
    run = run_of("gpt2", top=8)
    listed = run.raising(kind, 8)[0]
    drawn = [measuring._like(run, listed, draw) for draw in range(5)]
    assert drawn == [measuring._like(run, listed, draw) for draw in range(5)]
    assert len({tuple(one) for one in drawn}) == 5
    for draw in drawn:
        assert [part.layer for part in draw] == [one.neuron.layer for one in listed]
        named = {(part.neuron, part.position) for part in draw}
        assert len(named) == len(listed)
        assert not named & {(one.neuron, one.position) for one in listed}
        for part, one in zip(draw, listed, strict=True):
            in_layer = [abs(each.activation) for each in of_layer(run, kind, part.layer)]
            own = abs(run.value_neurons(part.neuron)[part.position or 0].activation)
            nearer = sum(abs(each - abs(one.activation)) < abs(own - abs(one.activation)) for each in in_layer)
            assert nearer < measuring.NEAREST + 2 * len(listed)


def of_layer(run, kind, layer):
    per_layer = run.entries(kind).per_layer
    for number in range(layer * per_layer, (layer + 1) * per_layer):
        neuron, position = run.entries(kind).name(number)
        yield ValueNeuron(neuron, position, 0.0, float(run.entries(kind).activation(torch.tensor([number]))))


@pytest.mark.parametrize("at_once", [score.AT_ONCE, 96])  # all tokens, and a few at a time
@pytest.mark.parametrize("name", models.FAMILIES)
def test_the_targets_place_among_a_neurons_own_tokens(name, at_once, monkeypatch):
    monkeypatch.setattr(score, "AT_ONCE", at_once)
    run = run_of(name, measure=4, top=6, suppressing=True)
    found = measured(run, explain(run))
    matrix, (gamma, _) = run.model.weights.head()[0], run.model.weights.final_norm()
    for listed in LISTS:
        for one in getattr(found, listed)[:4]:
            number = run.entries(one.neuron.kind).numbers(one.neuron)[one.position or 0]
            contribution = run.entries(one.neuron.kind).contributions(torch.tensor([number]))[0]
            if name in models.LAYER_NORM_FAMILIES:
                contribution = contribution - contribution.mean()
            logits = matrix @ (gamma * contribution)
            tokens = torch.tensor(models.tokens_of(name))
            assert one.rank == 1 + int((logits[tokens] > logits[TARGET]).sum())
        assert [one.rank for one in getattr(found, listed)[4:]] == [None, None]


# All FFN neurons, as a job.


def test_a_stopped_job_goes_on_where_it_was(tmp_path, monkeypatch):
    run = run_of("gpt2")
    at_once = Sweep.of(run).finish()
    monkeypatch.setattr(measuring, "CHUNK", 50)
    first = Sweep.of(run, tmp_path).steps()
    assert [next(first), next(first)] == [50, 100]
    del first  # as one that is killed: nothing is written at the end
    chunks, entries = [], Effects.entries

    def watched(effects, kind, numbers):
        chunks.append(numbers.tolist())
        return entries(effects, kind, numbers)

    monkeypatch.setattr(Effects, "entries", watched)
    second = Sweep.of(run, tmp_path)
    assert second.done == 100
    assert np.isnan(second.effects[100:]).all()
    np.testing.assert_allclose(second.finish(), at_once, atol=CLOSE)
    assert [number for chunk in chunks for number in chunk] == list(range(100, len(at_once)))
    assert Sweep.of(run, tmp_path).done == len(at_once)
    assert list(Sweep.of(run, tmp_path).steps()) == []


def test_a_job_is_of_one_question_and_of_one_checkpoint(tmp_path):
    run = run_of("llama")
    next(Sweep.of(run, tmp_path).steps())
    others = [
        run_of("llama", models.PROMPT),
        run_prompt(run.model, LONG, Settings(target=271)),
        run_of("qwen2"),
        without(run, [Part.parse("L1.F3")]),
    ]
    assert [Sweep.of(one, tmp_path).done for one in (run, *others)] == [144, 0, 0, 0, 0]
    assert Sweep.of(run_of("llama", method=Method.REMOVED, top=5), tmp_path).done == 144  # a score changes no effect


@pytest.mark.parametrize("damaged", [b"", b"no array", b"\x93NUMPY\x01\x00"])
def test_a_damaged_file_counts_as_none(tmp_path, damaged):
    run = run_of("llama")
    path = Sweep.of(run, tmp_path).path
    assert path is not None
    path.write_bytes(damaged)
    assert Sweep.of(run, tmp_path).done == 0
    np.testing.assert_array_equal(Sweep.of(run, tmp_path).finish(), np.load(path))


def test_two_who_measure_at_once_add_to_each_other(tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "CHUNK", 48)
    run = run_of("llama")
    one, other = Sweep.of(run, tmp_path), Sweep.of(run, tmp_path)
    assert [next(one.steps()), next(one.steps()), next(other.steps())] == [48, 96, 144]


def test_where_nothing_can_be_kept_that_is_said_before_anything_is_measured(tmp_path, monkeypatch):
    (tmp_path / "measured").write_text("a file")
    monkeypatch.setattr(Effects, "entries", None)
    with pytest.raises(AtlasError, match="XDG_CACHE_HOME"):
        next(Sweep.of(run_of("llama"), tmp_path / "measured").steps())


def test_the_oldest_measurements_make_room(tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "_MOST_KEPT", 2)
    paths = []
    for age, target in ((3, 270), (2, 271), (1, 272)):
        sweep = Sweep.of(run_prompt(models.language_model("llama"), LONG, Settings(target=target)), tmp_path)
        sweep.finish()
        assert sweep.path is not None
        os.utime(sweep.path, (1_000_000_000 - age,) * 2)
        paths.append(sweep.path)
    assert sorted(tmp_path.iterdir()) == sorted(paths[1:])


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
    assert exhaustive.found["ffn_helping"].chosen == f"exhaustive: all {len(every)} were measured"
    by_scores = "candidates: the first 6 at either end by added, removed and gradient"
    assert {one.chosen for one in (*some.found.values(), exhaustive.found["attention_helping"])} == {by_scores}
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


def test_what_does_most_from_the_shell(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
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
    assert [path.suffix for path in (tmp_path / "neuron-atlas" / "measured").iterdir()] == [".npy"]
    monkeypatch.setattr(Effects, "measure", None)
    assert np.load(next((tmp_path / "neuron-atlas" / "measured").iterdir())).shape == (144,)
    with pytest.raises(SystemExit):
        main([*asked, "some"])


def test_parts_from_the_shell(capsys, tmp_path):
    (tmp_path / "prompts.txt").write_text("\n".join(models.SENTENCES))
    asked = [LONG, "--model", str(models.folder("llama")), "--target-id", str(TARGET), "--top", "3", "--json"]
    some = ["--effect-of", "L1.F7,L2.H1", "--effect-of", "ffn:2"]
    assert main([*asked, *some, "--means", str(tmp_path / "prompts.txt")]) == 0
    both = json.loads(capsys.readouterr().out)["effects_of"]
    run, parts = run_of("llama"), [Part.parse("L1.F7"), Part.parse("L2.H1")]
    assert both[0]["parts"] == ["L1.F7", "L2.H1"]
    assert both[1]["parts"] == [one.neuron.label for one in run.raising(NeuronKind.FFN, 2)[0]]
    assert both[0]["position"] == pytest.approx(plain_effects(run, [*changes_of(run, parts)]), abs=CLOSE)
    assert both[0]["everywhere"] == pytest.approx(effect_everywhere(run, parts), abs=CLOSE)
    means = Means.over(run_of("llama", prompt) for prompt in models.SENTENCES)
    assert both[0]["mean"] == pytest.approx(Effects.of(run, means=means).together([parts])[0], abs=CLOSE)
    assert both[0]["prompts"] == len(models.SENTENCES)
    for wrong, said in (
        (["--effect-of", ","], "No part is named"),
        (["--means", "prompts.txt"], "--means FILE goes with"),
        (["--effect-of", "L1.F7", "--zero", "L1.F7"], "goes with one prompt"),
        (["--effect-of", "L9.F7"], "There is no neuron L9.F7"),
    ):
        assert main([*asked, *wrong]) == 2
        assert said in capsys.readouterr().err


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


def test_where_two_effects_of_one_neuron_may_differ_it_is_said():
    """Behind a norm: a list leaves what it divides by as it was, parts that are named do not."""
    told = {}
    for name in ("olmo2", "qwen2"):
        model = families.language_model(name)
        analysis = analyse(model, models.PROMPT, top=3, measure=3)
        told[name] = [one for one in analysis.notices if "stands a norm" in one]
        first = analysis.ffn_value_neurons[0]
        (named,) = Effects.of(run_prompt(model, models.PROMPT, Settings(top=3))).together([[Part.of(first.neuron)]])
        assert first.effect is not None
        assert (abs(named - first.effect) > 1e-3) == bool(told[name])
    assert len(told["olmo2"]) == 1
