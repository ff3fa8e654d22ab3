"""The key side of a neuron, against the model's own modules run on every token's embedding, in every family."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from app.attribution.__main__ import main
from app.attribution.drilldowns import to_json
from app.attribution.frames import keys_frame
from app.attribution.query import key_sides, keys
from app.attribution.results import Keys
from app.attribution.text import keys_text
from db.errors import AtlasError
from db.neuron import Neuron
from tests import models, oracle

NEURONS = (Neuron.ffn(0, 0), Neuron.ffn(2, 31), Neuron.attention(0, 0, 0), Neuron.attention(2, 3, 5))


def plain_readings(name, neuron):
    """[V] for each key vector: the module that reads, on the normed embedding of each token; float64."""
    model = AutoModelForCausalLM.from_pretrained(models.folder(name), dtype=torch.float64)
    gpt2 = model.config.model_type == "gpt2"
    with torch.no_grad():
        embedding = (model.transformer.wte if gpt2 else model.model.embed_tokens).weight
        block = model.transformer.h[neuron.layer] if gpt2 else model.model.layers[neuron.layer]
        if neuron.head is None:
            if gpt2:
                return {"key": block.mlp.c_fc(block.ln_2(embedding))[:, neuron.index]}
            read = block.post_attention_layernorm(embedding)
            return {part: getattr(block.mlp, f"{part}_proj")(read)[:, neuron.index] for part in ("gate", "up")}
        kv_heads, width, _ = models.SIZES[name]
        place = neuron.head // (models.HEADS // kv_heads) * width + neuron.index
        if gpt2:
            return {"value": block.attn.c_attn(block.ln_1(embedding))[:, 2 * models.D_MODEL + place]}
        return {"value": block.self_attn.v_proj(block.input_layernorm(embedding))[:, place]}


@pytest.mark.parametrize("name", models.FAMILIES)
@pytest.mark.parametrize("neuron", NEURONS, ids=lambda neuron: neuron.label)
def test_readings_are_what_the_model_would_read_from_each_embedding(name, neuron):
    sides = key_sides(models.language_model(name), neuron, shown=40)
    expected = plain_readings(name, neuron)
    assert [side.name for side in sides] == list(expected)
    for side, of_rows in zip(sides, expected.values(), strict=True):
        every = of_rows[models.tokens_of(name)]  # the others are padding
        for found, largest in ((side.highest, True), (side.lowest, False)):
            tokens, readings = [one.token.id for one in found], [one.reading for one in found]
            assert len(tokens) == 40
            oracle.assert_same_end(tokens, readings, every, largest=largest)
            zs = (every[tokens] - every.mean()) / every.std(correction=0)
            assert [one.z for one in found] == pytest.approx(zs.tolist(), abs=1e-4)
        assert side.mean == pytest.approx(float(every.mean()), abs=1e-5)
        assert side.std == pytest.approx(float(every.std(correction=0)), rel=1e-5)


@pytest.mark.parametrize("name", models.FAMILIES)
def test_the_key_is_the_methods_key_vector(name):
    model, folder = models.language_model(name), models.folder(name)
    ffn, attention = Neuron.ffn(1, 3), Neuron.attention(1, 2, 3)
    keys = {ffn: oracle.ffn_keys(folder, 1, 3), attention: [oracle.attention_key(folder, 1, 2, 3)]}
    values, heads = oracle.value_vectors(folder, 1)
    width = models.SIZES[name][1]
    written = {ffn: values[3], attention: heads[2 * width + 3]}
    for neuron, own in keys.items():
        sides = key_sides(model, neuron)
        assert [side.norm for side in sides] == pytest.approx([float(key.norm()) for key in own], rel=1e-5)
        cosines = [float(torch.cosine_similarity(key, written[neuron], dim=0)) for key in own]
        assert [side.cosine for side in sides] == pytest.approx(cosines, abs=1e-5)


def test_the_whole_vocabulary_is_ranked():
    (side,) = key_sides(models.language_model("gpt2"), Neuron.ffn(0, 1), shown=10**6)
    assert sorted(one.token.id for one in side.highest) == list(range(models.TOKENS))
    assert [one.token.id for one in side.lowest] == [one.token.id for one in side.highest][::-1]


def test_frame_json_and_text_hold_the_same():
    neuron = Neuron.ffn(1, 3)
    sides = key_sides(models.language_model("llama"), neuron, shown=4)
    frame, shape = keys_frame(sides), to_json(Keys(neuron, sides))
    assert len(frame) == 2 * 2 * 4
    assert list(frame.columns) == ["key", "end", "rank", "token_id", "token", "reading", "z"]
    for key in shape["keys"]:
        for end in ("highest", "lowest"):
            rows = frame[(frame["key"] == key["key"]) & (frame["end"] == end)]
            assert rows["token_id"].tolist() == [one["id"] for one in key[end]]
            assert rows["reading"].tolist() == [one["reading"] for one in key[end]]
    text = keys_text(Keys(neuron, sides))
    assert "gate: mean" in text
    assert f"{sides[1].lowest[0].reading:+.2f}" in text


@pytest.mark.parametrize(
    "neuron", [Neuron.ffn(3, 0), Neuron.ffn(0, 48), Neuron.attention(0, 4, 0), Neuron.attention(0, 0, 12)]
)
def test_a_neuron_that_is_not_there_is_refused(neuron):
    with pytest.raises(AtlasError, match="There is no neuron"):
        key_sides(models.language_model("llama"), neuron)


def test_the_shell_gives_the_same(capsys):
    folder = str(models.folder("llama"))
    assert main(["--keys", "L1.F3", "--keys", "L0.H1.N2", "--model", folder, "--json"]) == 0
    given = json.loads(capsys.readouterr().out)
    model = models.language_model("llama")
    neurons = (Neuron.ffn(1, 3), Neuron.attention(0, 1, 2))
    assert given == {"keys": [to_json(keys(model, one)) for one in neurons]}
    assert main(["--keys", "L1.F3", "--model", folder]) == 0
    assert "L1.F3" in capsys.readouterr().out


@pytest.mark.parametrize("label", ["nonsense", "L99.F0"])
def test_the_shell_refuses_a_wrong_label_in_one_line(capsys, label):
    assert main(["--keys", label, "--model", str(models.folder("llama"))]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
