"""The drill-down: heads and their source positions, patterns, the lens, single neurons, a neuron through a head."""

import json
import re
from dataclasses import replace
from typing import Any

import pytest
import torch

from app.attribution import Settings, analyse, run_prompt
from app.attribution.__main__ import main
from app.attribution.drilldowns import answer, parse_through
from app.attribution.frames import lens_frame, pattern_frame, positions_frame, query_layers_frame
from app.attribution.heads import (
    head_pattern,
    logit_lens,
    source_contributions,
    source_positions,
    source_scores,
    through_head,
)
from app.attribution.query import own_query
from app.attribution.results import overlap, to_json
from app.attribution.text import ROWS
from db.errors import AtlasError
from db.neuron import Head, Neuron, NeuronAt, NeuronKind
from tests import models, oracle

ALL = 10**6


def run_of(name, **settings):
    return run_prompt(models.language_model(name), models.PROMPT, Settings(target=270, **settings))


@pytest.mark.parametrize("name", models.FAMILIES)
def test_source_positions_sum_to_the_head_and_heads_to_the_layer(name):
    run = run_of(name)
    bias = [run.model.weights.attention_bias(layer) for layer in range(models.LAYERS)]
    for layer in range(models.LAYERS):
        whole = torch.zeros(models.D_MODEL)
        for head in range(models.HEADS):
            parts = source_contributions(run, layer, head)
            torch.testing.assert_close(parts.sum(dim=0), run.head_contributions[layer, head], atol=1e-5, rtol=1e-5)
            whole += parts.sum(dim=0)
        whole += 0 if bias[layer] is None else bias[layer]
        torch.testing.assert_close(whole, run.stream.attention_output[layer, -1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_source_scores_are_the_increase_by_that_position_alone(name):
    run = run_of(name)
    reference = oracle.run(models.folder(name), run.token_ids)
    layer, head = 1, 2
    base = run.stream.layer_input[layer, -1].double()
    scale = float(reference.head.scale(reference.residual[-1][-1]))

    def log_p(vector):
        return float(reference.head.logits(vector.double(), scale).log_softmax(-1)[270])

    expected = [log_p(base + part.double()) - log_p(base) for part in source_contributions(run, layer, head)]
    assert source_scores(run, layer, head).tolist() == pytest.approx(expected, abs=1e-4)
    rows = source_positions(run, layer, head)
    assert [row.attention_weight for row in rows] == run.stream.attention_weight[layer, head].tolist()
    assert [row.token.id for row in rows] == list(run.token_ids)


@pytest.mark.parametrize("name", models.FAMILIES)
def test_a_head_pattern_is_causal_and_ends_with_the_analysed_row(name):
    run = run_of(name)
    pattern = head_pattern(run, 2, 1)
    tokens = len(run.token_ids)
    assert pattern.shape == (tokens, tokens)
    torch.testing.assert_close(pattern.sum(dim=1), torch.ones(tokens))
    assert not pattern.triu(1).any()
    torch.testing.assert_close(pattern[-1], run.stream.attention_weight[2, 1])
    assert pattern_frame(answer(run, "pattern", Head(2, 1)))["weight"].sum() == pytest.approx(tokens, abs=1e-4)
    again = replace(run, stream=replace(run.stream, patterns=None))
    torch.testing.assert_close(head_pattern(again, 2, 1), pattern)
    assert not run.model.module._forward_hooks


def test_the_patterns_of_a_long_prompt_are_not_kept(monkeypatch):
    model = models.language_model("llama")
    kept = model.forward([1, 2, 3]).patterns
    assert kept is not None
    assert kept.shape == (models.LAYERS, models.HEADS, 3, 3)
    monkeypatch.setattr("indexer.forward.PATTERN_BYTES", kept.nbytes - 1)
    assert model.forward([1, 2, 3]).patterns is None


@pytest.mark.parametrize("name", models.FAMILIES)
def test_the_lens_ends_at_the_model_s_own_output(name):
    run = run_of(name)
    lens = logit_lens(run)
    best = run.predictions(1)[0]
    assert lens.top[-1][-1].id == best.token.id
    assert float(lens.top_probability[-1, -1]) == pytest.approx(best.probability, abs=1e-5)
    assert float(lens.target_probability[-1, -1]) == pytest.approx(run.token_probability(270).probability, abs=1e-5)
    assert lens.top_probability.shape == (models.LAYERS + 1, len(run.token_ids))
    assert len(lens_frame(lens)) == lens.top_probability.size


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_readers_own_queries_sum_to_the_whole_query(name):
    run = run_of(name)
    analysis = analyse(run.model, models.PROMPT, top=ALL, query_top=3, target=270)
    assert analysis.query is not None
    alone: dict[Neuron, float] = {}
    for one in analysis.attention_value_neurons[:3]:
        own = own_query(run, one.neuron, one.position, k=ALL)
        chosen, query = own.one, own.query
        assert (chosen.neuron, chosen.position) == (one.neuron, one.position)
        assert chosen.score == pytest.approx(one.score, abs=1e-5)
        for each in query.ffn_neurons:
            alone[each.neuron] = alone.get(each.neuron, 0.0) + each.score
    for each in analysis.query.ffn_neurons:
        assert alone[each.neuron] == pytest.approx(each.score, rel=1e-3, abs=1e-4)


def test_an_attention_neuron_without_a_position_is_taken_at_its_strongest():
    run = run_of("llama")
    neuron = Neuron.attention(1, 2, 3)
    every = run.value_neurons(neuron)
    assert [one.position for one in every] == list(range(len(run.token_ids)))
    assert run.value_neuron(neuron).score == max(one.score for one in every)
    assert run.value_neuron(neuron, -1) == every[-1]


def test_through_a_head_is_the_product_of_its_matrices():
    model = models.language_model("gpt2")
    neuron, layer, head = Neuron.ffn(0, 5), 2, 3
    found = through_head(model, neuron, layer, head, shown=4)
    whole: Any = model.module
    module = whole.transformer.h
    wide, width = models.D_MODEL, models.D_MODEL // models.HEADS
    columns = slice(2 * wide + head * width, 2 * wide + (head + 1) * width)
    value = module[0].mlp.c_proj.weight[5]
    normed = (value - value.mean()) * module[layer].ln_1.weight
    moved = normed @ module[layer].attn.c_attn.weight[:, columns]
    moved = moved @ module[layer].attn.c_proj.weight[head * width : (head + 1) * width]
    final = (moved - moved.mean()) * whole.transformer.ln_f.weight
    logits = whole.lm_head.weight[: models.TOKENS] @ final
    assert [token.id for token in found.promotes] == logits.topk(4).indices.tolist()
    assert [token.id for token in found.suppresses] == logits.topk(4, largest=False).indices.tolist()


def test_heads_and_neurons_that_cannot_be_are_refused():
    run = run_of("llama")
    for layer, head in ((3, 0), (0, 4), (-1, 0)):
        with pytest.raises(AtlasError, match=r"layers 0–2, .*heads 0–3"):
            answer(run, "positions", Head(layer, head))
    with pytest.raises(AtlasError, match="earlier layers"):
        through_head(run.model, Neuron.ffn(2, 0), 2, 0)
    with pytest.raises(AtlasError, match="FFN neuron"):
        through_head(run.model, Neuron.attention(0, 0, 0), 2, 0)
    for neuron in (Neuron.ffn(3, 0), Neuron.ffn(0, 48), Neuron.attention(0, 4, 0), Neuron.attention(0, 0, 12)):
        with pytest.raises(AtlasError, match=r"0–"):
            own_query(run, neuron)
    with pytest.raises(AtlasError, match="position 99"):
        own_query(run, Neuron.attention(0, 0, 0), 99)


def test_labels_are_read_and_refused():
    assert Head.parse(" l23.h4 ") == (23, 4)
    assert NeuronAt.parse("L29.H1.N46@4") == (Neuron.attention(29, 1, 46), 4)
    assert NeuronAt.parse("L29.F864") == (Neuron.ffn(29, 864), None)
    assert parse_through("L11.F1229:L23.H4") == (Neuron.ffn(11, 1229), (23, 4))
    for text in ("L2", "H1.L2", "L1.H", "L1.H²", ""):
        with pytest.raises(AtlasError, match="head label"):
            Head.parse(text)
    with pytest.raises(AtlasError, match="position"):
        NeuronAt.parse("L1.H1.N1@x")


def test_overlap_parts_the_two_lists():
    analysis = analyse(models.language_model("llama"), models.PROMPT, top=12)
    parts = overlap(analysis)
    assert to_json(analysis)["query_value_overlap"] == parts
    assert analysis.query is not None
    value = {one.neuron.label for one in analysis.ffn_value_neurons}
    query = {one.neuron.label for one in analysis.query.ffn_neurons}
    assert set(parts["both"]) == value & query
    assert set(parts["value_only"]) == value - query
    assert set(parts["query_only"]) == query - value


def test_frames_hold_what_the_results_hold():
    run = run_of("llama")
    analysis = analyse(run.model, models.PROMPT, top=12, target=270)
    assert analysis.query is not None
    frame = query_layers_frame(analysis.query)
    behind = frame[frame["readers"] == "attention"]["score"].sum()
    assert behind == pytest.approx(sum(analysis.query.attention_layers.named().values()), abs=1e-5)
    rows = positions_frame(answer(run, "positions", Head(1, 2)))
    assert rows["token"].tolist() == [token.display for token in run.tokens]
    assert rows["attention_weight"].sum() == pytest.approx(1, abs=1e-5)


def test_the_shell_gives_the_details(capsys):
    words = ["--model", str(models.folder("llama")), "--top", "3", "--no-suppressing", "--json"]
    words += ["--head", "L1.H2", "--lens", "--query-of", "L2.H1.N3", "--query-of", "L2.F5", "--through", "L0.F1:L2.H3"]
    assert main([models.PROMPT, *words]) == 0
    found = json.loads(capsys.readouterr().out)
    run = run_prompt(models.language_model("llama"), models.PROMPT, Settings())
    assert found["head_details"][0]["pattern"][-1] == pytest.approx(
        run.stream.attention_weight[1, 2].tolist(), abs=1e-6
    )
    assert len(found["logit_lens"]["top"]) == models.LAYERS + 1
    assert [one["neuron"] for one in found["own_queries"]] == ["L2.H1.N3", "L2.F5"]
    assert "query_layers_up" in found["own_queries"][1]
    assert found["through_heads"][0]["neuron"] == "L0.F1"
    assert NeuronKind.FFN in {Neuron.parse(one["neuron"]).kind for one in found["query_ffn_neurons"]}
    assert main([models.PROMPT, *words, "--head", "L9.H0"]) == 2
    assert "L9.H0" in capsys.readouterr().err


def test_as_text_the_details_are_tables_of_the_same_figures(capsys):
    words = ["--model", str(models.folder("llama")), "--top", "30", "--no-suppressing", "--head", "L1.H2", "--lens"]
    words += ["--flow", "30", "--within", "L1.ffn", "--query-of", "L2.H1.N3", "--effects", "2", "--effect-of", "L2.F5"]
    assert main([models.PROMPT, *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert main([models.PROMPT, *words]) == 0
    printed = capsys.readouterr().out.partition("Also asked for (scores and effects in nats):")[2]
    lines = [re.split(r" {2,}", line.strip()) for line in printed.splitlines()]
    listed = found["within"][0]["ffn_raising"]["neurons"]
    assert len(listed) > ROWS
    for one in listed[:ROWS]:
        assert [one["neuron"], f"{one['score']:.4g}", f"{one['activation']:.4g}"] in lines
    assert [f"… {len(listed) - ROWS} more with --json"] in lines
    for place, row in enumerate(found["head_details"][0]["pattern"]):
        assert [str(place), *(f"{weight:.4g}" for weight in row)] in lines
    one = found["effects_of"][0]
    assert ["effects of", "parts L2.F5", *(f"{name} {one[name]:.4g}" for name in ("position", "everywhere"))] in lines
    layer, effect = max(found["own_queries"][0]["query_layers"].items(), key=lambda item: abs(item[1]))
    assert ["query layers", f"{layer} {effect:+.4f}"] in [line[:2] for line in lines]


def test_the_shell_runs_the_prompt_once_whatever_is_asked_of_it(capsys, monkeypatch):
    passes: list[int] = []
    model = models.language_model("llama")
    hook = model.module.register_forward_pre_hook(lambda *_: passes.append(1))
    monkeypatch.setattr("app.attribution.analysis.load", lambda _name: model)
    words = ["--top", "3", "--no-suppressing", "--json", "--flow", "5", "--within", "L1.H2", "--through", "L0.F1:L2.H3"]
    words += ["--head", "L1.H2", "--head", "L2.H0", "--lens", "--query-of", "L2.H1.N3"]
    try:
        assert main([models.PROMPT, *words]) == 0
    finally:
        hook.remove()
    assert len(passes) == 1
    found = json.loads(capsys.readouterr().out)
    for one, head in zip(found["head_details"], ((1, 2), (2, 0)), strict=True):
        assert (one["layer"], one["head"]) == head
        expected = head_pattern(run_prompt(model, models.PROMPT, Settings()), *head)
        torch.testing.assert_close(torch.tensor(one["pattern"]), expected)
