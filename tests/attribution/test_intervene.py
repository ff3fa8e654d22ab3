"""Steering against plain copies of the model whose weights are scaled, and against transformers' own `generate`."""

import threading
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from app.attribution import Settings, form, run_prompt
from app.attribution.ablation import Changes, changed, without
from app.attribution.intervene import Steered, Steering, generate, steer
from app.attribution.prompt import Sampling
from db.errors import AtlasError
from db.neuron import MAX_PARTS, Intervention, NeuronKind, Part, labels, parse_interventions
from tests import models, oracle

TARGET = 270
SETTINGS = Settings(target=TARGET)
GREEDY = Sampling(tokens=30)
SCALES = ("L0.H1=2.5", "L1.H2.N3=-4", "L1.F7=8", "L0.ffn=0.5", "L2.attention=1.5", "L1.H3=0", "L2.F3=0")


def plain(name):
    return AutoModelForCausalLM.from_pretrained(models.folder(name), dtype=torch.float32, attn_implementation="eager")


def output_of(model, part):
    gpt2 = model.config.model_type == "gpt2"
    block = (model.transformer.h if gpt2 else model.model.layers)[part.layer]
    if part.kind is NeuronKind.FFN:
        return block.mlp.c_proj if gpt2 else block.mlp.down_proj
    return block.attn.c_proj if gpt2 else block.self_attn.o_proj


def places_of(name, part):
    width = models.SIZES[name][1]
    if part.kind is NeuronKind.FFN or part.head is None:
        return slice(None) if part.index is None else [part.index]
    return [part.head * width + one for one in (range(width) if part.index is None else [part.index])]


def scaled_copy(name, interventions):
    """Columns of the output matrices, and the biases of whole sub-layers, multiplied by the factors."""
    model = plain(name)
    with torch.no_grad():
        for one in interventions:
            module, places = output_of(model, one.part), places_of(name, one.part)
            if model.config.model_type == "gpt2":
                module.weight[places] *= one.amount
            else:
                module.weight[:, places] *= one.amount
            if one.part.head is None and one.part.index is None and module.bias is not None:
                module.bias *= one.amount
    return model


def own_generate(model, ids, tokens):
    ends = model.generation_config.eos_token_id
    entered = torch.tensor([ids])
    given = {"attention_mask": torch.ones_like(entered), "pad_token_id": 0}
    found = model.generate(entered, max_new_tokens=tokens, do_sample=False, **given)
    new = found[0, len(ids) :].tolist()
    return new[:-1] if new and new[-1] == ends else new


def steered(name, text="", prompt=models.PROMPT, settings=SETTINGS):
    return Steered.of(models.language_model(name), prompt, settings, parse_interventions(text))


def written(one, sampling, *, steered=True):
    return list(one.continued(sampling, steered=steered))


@pytest.mark.parametrize("name", models.FAMILIES)
def test_without_interventions_it_writes_what_transformers_generates(name):
    one = steered(name)
    found = written(one, GREEDY)
    assert found == own_generate(plain(name), list(one.run.token_ids), 30)
    assert len(found) > 3


@pytest.mark.parametrize("name", models.FAMILIES)
@pytest.mark.parametrize("text", [*SCALES, " ".join(SCALES)])
def test_scaling_is_what_scaled_columns_of_the_weights_do(name, text):
    one = steered(name, text)
    copy = scaled_copy(name, one.interventions)
    with torch.no_grad():
        logits = copy(torch.tensor([one.run.token_ids])).logits[0, -1]
    after = one.result().after
    expected = float(logits.log_softmax(-1)[TARGET])
    assert after.log_probability == pytest.approx(expected, abs=oracle.CLOSE)
    assert after.rank == 1 + int((logits > logits[TARGET]).sum())
    assert written(one, GREEDY) == own_generate(copy, list(one.run.token_ids), 30)


@pytest.mark.parametrize("name", models.FAMILIES)
def test_clamping_sets_activations_at_every_position_of_every_step(name):
    """Against a plain loop without keys and values, with a hook of its own."""
    text = "L0.F5:=3 L1.H2.N3:=-2"
    one, model = steered(name, text), plain(name)
    for change in one.interventions:

        def clamp(_module, args, change=change):
            held = args[0].clone()
            held[..., places_of(name, change.part)] = change.amount
            return (held,)

        output_of(model, change.part).register_forward_pre_hook(clamp)
    ids = list(one.run.token_ids)
    with torch.no_grad():
        first = model(torch.tensor([ids]), use_cache=False).logits[0, -1].log_softmax(-1)
        for _ in range(12):
            ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    expected = ids[len(one.run.token_ids) :]
    ends = model.generation_config.eos_token_id
    expected = expected[: expected.index(ends)] if ends in expected else expected
    found = one.result()
    assert found.after.log_probability == pytest.approx(float(first[TARGET]), abs=oracle.CLOSE)
    assert abs(found.log_probability) > 1e-3
    assert written(one, Sampling(tokens=12)) == expected


@pytest.mark.parametrize("name", models.FAMILIES)
def test_a_factor_of_one_changes_nothing_and_zero_is_zeroing(name):
    parts = ("L0.H1", "L1.H2.N3", "L1.F7", "L0.ffn", "L2.attention")
    one = steered(name, ",".join(f"{part}=1" for part in parts))
    found = one.result()
    assert found.after == found.before
    assert all(change.probability == 0 for change in found.predictions)
    assert written(one, GREEDY) == written(one, GREEDY, steered=False)
    zero = steered(name, ",".join(f"{part}=0" for part in parts)).result()
    there = without(one.run, tuple(map(Part.parse, parts)))
    assert zero.after.log_probability == pytest.approx(float(there.log_probabilities[TARGET]), abs=1e-6)
    assert zero == steered(name, ",".join(parts)).result()


def test_clamping_to_the_own_activation_changes_nothing_where_there_is_one_position():
    run = run_prompt(models.language_model("llama"), "T", replace(SETTINGS, bos=False))
    assert len(run.token_ids) == 1
    own = float(run.stream.ffn_activation[1, 0, 7])
    change = Intervention(Part.parse("L1.F7"), own, clamped=True)
    found = Steered(run, (change,)).result()
    assert found.after.log_probability == pytest.approx(found.before.log_probability, abs=1e-6)
    assert Steered(run, (replace(change, amount=own + 9),)).result().log_probability != pytest.approx(0, abs=1e-3)


def test_the_same_seed_draws_the_same_text_and_another_one_another():
    one = steered("llama", "L1.F7=3")
    drawn = [written(one, Sampling(tokens=30, temperature=1.5, seed=seed)) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    few = {written(one, Sampling(tokens=1, temperature=1, top_p=0.05, seed=seed))[0] for seed in range(20)}
    assert few == {written(one, Sampling(tokens=1))[0]}  # the most probable one has more than 5 %


def test_tokens_are_drawn_as_often_as_they_are_probable():
    one = steered("llama")
    sharp = (one.run.stream.logits / 0.5).softmax(-1)
    best = int(sharp.argmax())
    drawn = [written(one, Sampling(tokens=1, temperature=0.5, seed=seed)) for seed in range(300)]
    share = sum(found == [best] for found in drawn) / 300
    assert share == pytest.approx(float(sharp[best]), abs=4 * (0.25 / 300) ** 0.5)


def test_the_model_ends_the_text_itself(monkeypatch):
    one = steered("llama")
    model, plainly = one.run.model, written(one, GREEDY)
    end = plainly[3]
    monkeypatch.setattr(model.module.generation_config, "eos_token_id", [end, 299])
    found = steer(model, models.PROMPT, SETTINGS, (), GREEDY).continuations[0]
    assert [token.id for token in found.tokens] == plainly[: plainly.index(end)]
    assert found.ended


def test_others_use_the_model_between_two_tokens_and_no_hook_is_left():
    one = steered("gpt2", "L1.ffn=2,L0.F3:=4")
    module, before = one.run.model.module, one.run.stream.logits
    tokens = one.continued(GREEDY, steered=True)
    next(tokens)
    seen = []
    other = threading.Thread(
        target=lambda: seen.append(one.run.model.forward(one.run.stream.token_ids.tolist()).logits)
    )
    other.start()
    other.join(20)
    assert torch.equal(seen[0], before)
    next(tokens)
    tokens.close()
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    with pytest.raises(ValueError, match="on purpose"), changed(one.run.model, one.changes):
        raise ValueError("on purpose")
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


def test_the_text_goes_on_after_the_analysed_position():
    one = steered("llama", settings=replace(SETTINGS, position=2))
    assert written(one, GREEDY) == own_generate(plain("llama"), list(one.run.token_ids[:3]), 30)


def test_the_strongest_are_scaled_by_name():
    one = steered("llama", "ffn:3=2, attention:2:=1")
    strongest = [Part.of(found.neuron) for found in one.run.raising(NeuronKind.FFN, 3)[0]]
    assert [change.part for change in one.interventions[:3]] == strongest
    assert [(change.amount, change.clamped) for change in one.interventions] == [(2, False)] * 3 + [(1, True)] * 2


def test_as_json_and_back():
    found = steer(models.language_model("gpt2"), models.PROMPT, SETTINGS, parse_interventions("L1.F7=3"), GREEDY)
    data = form.written(found)
    assert data["interventions"] == ["L1.F7=3"]
    assert data["delta_log_probability"] == found.after.log_probability - found.before.log_probability
    assert [one["text"] for one in data["continuations"]] == [one.text for one in found.continuations]
    assert len(found.continuations) == 2
    assert form.read(Steering, data) == found


def test_interventions_are_read_as_they_are_written():
    found = parse_interventions("l23.h4 = 0.5; L29.F864 := -2.5,L29.H1.N46:=1e3 L4.FFN=1.23456789 ffn:10 L3.attn=-0")
    assert labels(found) == "L23.H4=0.5,L29.F864:=-2.5,L29.H1.N46:=1000,L4.ffn=1.23457,ffn:10=0,L3.attention=0"
    assert parse_interventions(labels(found)) == found
    assert parse_interventions(" , ") == ()
    assert [one.words for one in found[:2]] == ["head L23.H4 scaled by 0.5", "neuron L29.F864 clamped to −2.5"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("L29.F864=x", "“x” is no factor for L29.F864"),
        ("L29.F864=", "is no factor"),
        ("L29.F864=nan", "is no factor"),
        ("L29.F864:=1e999", "“1e999” is no value for L29.F864"),
        ("L29.F864=2=3", "“2=3” is no factor"),
        ("L23.H4:=2", "Head L23.H4 has many activations"),
        ("L23.ffn:=2", "The FFN of layer 23 has many activations"),
        ("L23=2", "“L23” names no part of a model that can be"),
        ("=2", "names no part"),
        ("L1.F2=3,L1.F2=4", "L1.F2 is named 2 times"),
        (" ".join(f"L0.F{one}=2" for one in range(MAX_PARTS + 1)), "at most 64 can be changed"),
    ],
)
def test_what_is_no_intervention_is_refused(text, said):
    with pytest.raises(AtlasError, match=said):
        parse_interventions(text)


def test_what_cannot_be_done_is_refused():
    model = models.language_model("llama")
    with pytest.raises(AtlasError, match=r"There is no neuron L0\.F48"):
        steer(model, models.PROMPT, SETTINGS, parse_interventions("L0.F48=2"))
    one = steered("llama")
    room = models.MAX_POSITIONS - len(one.run.token_ids)
    assert written(one, Sampling(tokens=room))
    with pytest.raises(AtlasError, match=rf"takes 64 tokens, and the prompt has .*ask for at most {room} more"):
        one.continued(Sampling(tokens=room + 1), steered=False)
    with pytest.raises(AtlasError, match="none can follow"):
        generate(model, torch.arange(64), GREEDY, Changes())
    huge = parse_interventions("L0.ffn=1e6 L1.ffn=1e6 L2.ffn=1e6 L0.attention=1e6 L0.F1:=1e6")
    run = Steered.of(model, models.PROMPT, SETTINGS, huge)
    run.changes.factors[(2, NeuronKind.FFN)] *= 1e37
    with pytest.raises(AtlasError, match="grow beyond all bounds"):
        run.result()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"tokens": 0}, "The number of tokens must be from 1 to"),
        ({"temperature": -1}, "The temperature must be from 0 to 100, not -1"),
        ({"temperature": float("nan")}, "The temperature must be"),
        ({"top_p": 0}, "Top-p must be from 0.01 to 1"),
        ({"seed": -1}, "The seed must be"),
    ],
)
def test_settings_that_draw_nothing_are_refused(given, said):
    with pytest.raises(AtlasError, match=said):
        Sampling(**given)
