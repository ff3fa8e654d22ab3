"""Zeroed parts against a plain copy of the model whose weights were zeroed, on every family; and that hooks go away."""

import math
import threading
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from app.attribution import Settings, run_prompt
from app.attribution.ablation import part_scores, resolve, without, zeroed
from db.errors import AtlasError
from db.neuron import MAX_PARTS, MAX_STRONGEST, Neuron, NeuronKind, Part, Strongest, labels, parse_list, parse_wanted
from tests import models, oracle

TARGET = 270
PARTS = ("L0.H1", "L1.H2.N3", "L1.H3.N0", "L1.F7", "L2.F0", "L2.F31", "L0.ffn", "L2.attention")


def run_of(name, **settings):
    return run_prompt(models.language_model(name), models.PROMPT, Settings(target=TARGET, **settings))


def parts_of(*texts):
    return tuple(map(Part.parse, texts))


def plain_copy(name, parts, folder):
    """A checkpoint of the family, with rows of its output matrices zeroed, and biases where all of a matrix is."""
    model = AutoModelForCausalLM.from_pretrained(models.folder(name), dtype=torch.float32)
    gpt2 = model.config.model_type == "gpt2"
    width = models.SIZES[name][1]
    with torch.no_grad():
        for part in parts:
            block = (model.transformer.h if gpt2 else model.model.layers)[part.layer]
            if part.kind is NeuronKind.FFN:
                module = block.mlp.c_proj if gpt2 else block.mlp.down_proj
                places = slice(None) if part.index is None else [part.index]
            else:
                module = block.attn.c_proj if gpt2 else block.self_attn.o_proj
                inside = range(width) if part.index is None else [part.index]
                places = slice(None) if part.head is None else [part.head * width + one for one in inside]
            if gpt2:
                module.weight[places] = 0
            else:
                module.weight[:, places] = 0
            if part.head is None and part.index is None and module.bias is not None:
                module.bias[:] = 0
    model.save_pretrained(folder)
    return folder


def hooks_of(module):
    return sum(len(one._forward_hooks) + len(one._forward_pre_hooks) for one in module.modules())


@pytest.mark.parametrize("name", models.FAMILIES)
@pytest.mark.parametrize("texts", [(part,) for part in PARTS] + [PARTS], ids=" ".join)
def test_zeroing_is_what_zero_columns_of_the_weights_do(name, texts, tmp_path):
    parts, run = parts_of(*texts), run_of(name)
    there = oracle.run(plain_copy(name, parts, tmp_path), run.token_ids)
    found = without(run, parts)
    torch.testing.assert_close(found.stream.logits.double(), there.logits, atol=oracle.CLOSE, rtol=0)
    assert (found.stream.logits - run.stream.logits).abs().max() > 1e-3  # and it did something
    for layer, residual in enumerate(there.residual):
        torch.testing.assert_close(found.stream.layer_input[layer].double(), residual, atol=oracle.CLOSE, rtol=0)
    expected = there.scores(TARGET)
    scores = found.layer_scores()
    torch.testing.assert_close(
        torch.as_tensor(scores.attention).double(), expected.attention, atol=oracle.CLOSE, rtol=0
    )
    torch.testing.assert_close(torch.as_tensor(scores.ffn).double(), expected.ffn, atol=oracle.CLOSE, rtol=0)
    torch.testing.assert_close(found.head_scores().double(), expected.heads, atol=oracle.CLOSE, rtol=0)
    for kind, every in ((NeuronKind.FFN, expected.ffn_neurons), (NeuronKind.ATTENTION, expected.attention_neurons)):
        best = [one.score for one in found.raising(kind, 12)[0]]
        torch.testing.assert_close(
            torch.tensor(best).double(), every.flatten().topk(12).values, atol=oracle.CLOSE, rtol=0
        )


@pytest.mark.parametrize("name", models.FAMILIES)
def test_zeroed_neurons_are_inactive_and_others_are_not(name):
    run = run_of(name)
    found = without(run, parts_of("L1.H2.N3", "L2.H1", "L1.F7"))
    for label in ("L1.H2.N3", "L2.H1.N5", "L1.F7"):
        assert all(one.activation == 0 and abs(one.score) < 1e-5 for one in found.value_neurons(Neuron.parse(label)))
        assert any(one.activation != 0 for one in run.value_neurons(Neuron.parse(label)))
    for label in ("L1.H2.N4", "L1.H3.N3", "L2.H0.N5", "L1.F8"):  # H3 and H0 share key-value heads with the zeroed ones
        assert any(one.activation != 0 and one.score != 0 for one in found.value_neurons(Neuron.parse(label)))


@pytest.mark.parametrize("name", models.FAMILIES)
def test_the_score_of_a_part_is_that_of_all_it_adds(name):
    run = run_of(name)
    layers, heads = run.layer_scores(), run.head_scores()
    found = part_scores(run, parts_of("L1.ffn", "L0.H2", "L1.attention", "L2.F5", "L2.H1.N3"))
    assert found[:3] == pytest.approx([float(layers.ffn[1]), float(heads[0, 2]), float(layers.attention[1])], abs=1e-4)
    assert found[3] == pytest.approx(run.value_neuron(Neuron.parse("L2.F5")).score, abs=1e-5)
    there = oracle.run(models.folder(name), run.token_ids)
    layer = there.layers[2]
    added = layer.attention_activation[1, :, 3].sum() * layer.attention_values[1, 3]
    base, scale = there.residual[2][-1], there.head.scale(there.residual[-1][-1])
    log_p = there.head.logits(torch.stack([base + added, base]), scale).log_softmax(-1)[:, TARGET]
    assert found[4] == pytest.approx(float(log_p[0] - log_p[1]), abs=1e-4)


def test_zeroing_nothing_is_the_run_itself():
    run = run_of("llama")
    assert without(run, ()) is run
    with zeroed(run.model, ()):
        assert torch.equal(run.model.forward(list(run.token_ids)).logits, run.stream.logits)


def test_the_model_is_as_it_was_also_after_a_failure():
    run = run_of("gpt2")
    before = {name: value.clone() for name, value in run.model.module.state_dict().items()}
    hooks = hooks_of(run.model.module)

    def failing():
        with zeroed(run.model, parts_of("L0.H1", "L1.ffn")):
            assert hooks_of(run.model.module) > hooks
            raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        failing()
    without(run, parts_of("L0.H1", "L1.ffn"))
    assert hooks_of(run.model.module) == hooks
    assert all(torch.equal(value, before[name]) for name, value in run.model.module.state_dict().items())
    assert torch.equal(run.model.forward(list(run.token_ids)).logits, run.stream.logits)


def test_no_other_thread_runs_the_model_meanwhile():
    run, seen = run_of("llama"), []
    with zeroed(run.model, parts_of("L0.attention")):
        other = threading.Thread(target=lambda: seen.append(run.model.forward(list(run.token_ids)).logits))
        other.start()
        other.join(0.2)
        assert other.is_alive()
    other.join(10)
    assert torch.equal(seen[0], run.stream.logits)


def test_another_position_and_target_are_kept():
    run = run_of("llama", position=-3)
    found = without(run, parts_of("L1.H0"))
    assert (found.stream.position, found.target_id) == (run.stream.position, TARGET)
    assert replace(found, frozen_scale=run.scale).scale == run.scale != found.scale


@pytest.mark.parametrize("kind", list(NeuronKind))
def test_the_strongest_are_the_value_neurons_in_order(kind):
    run = run_of("llama")
    listed = dict.fromkeys(one.neuron for one in run.raising(kind, 200)[0])
    found = resolve(run, [Strongest(kind, 5), Part.of(next(iter(listed)))])
    assert found == tuple(map(Part.of, list(listed)[:5]))
    every = resolve(run, [Strongest(kind, MAX_STRONGEST)])
    size = run.model.dimensions
    neurons = size.layers * (size.ffn_width if kind is NeuronKind.FFN else size.attention_width)
    assert len(every) == min(neurons, MAX_STRONGEST)
    assert len(set(every)) == len(every)


@pytest.mark.parametrize(
    ("label", "missing"),
    [
        ("L3.ffn", "layer 3"),
        ("L0.H4", "head L0.H4"),
        ("L0.F48", "neuron L0.F48"),
        ("L0.H0.N12", "neuron L0.H0.N12"),
        ("L99.attention", "layer 99"),
    ],
)
def test_a_part_that_is_not_there_is_refused(label, missing):
    run = run_of("llama")
    with pytest.raises(AtlasError, match=f"There is no {missing}: the model has layers 0–2, .*heads 0–3"):
        without(run, parts_of(label))
    with pytest.raises(AtlasError, match="There is no"):
        part_scores(run, parts_of(label))
    assert math.isfinite(part_scores(run, parts_of("L2.ffn"))[0])


def test_parts_are_read_as_they_are_written():
    wanted = parse_list("l23.h4, L29.F864 L29.h1.n46,L3.attn,L3.attention L4.FFN ffn:10 attention:200")
    assert labels(wanted) == "L23.H4,L29.F864,L29.H1.N46,L3.attention,L4.ffn,ffn:10,attention:200"
    assert parse_list(labels(wanted)) == wanted
    assert parse_list(" , ") == ()
    for bad in ("L23", "H4", "ffn:0", "ffn:1001", "L1.H2.N3@4", "<b>", "ffn", "L1.H2.F3"):
        with pytest.raises(AtlasError):
            parse_wanted(bad)
    with pytest.raises(AtlasError, match="at most 64"):
        parse_list(" ".join(f"L0.F{index}" for index in range(MAX_PARTS + 1)))
