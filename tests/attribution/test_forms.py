"""The shell's JSON object and the pages' data frames hold the analysis' figures, under the promised names."""

import json

import pytest

from app.attribution import analyse
from app.attribution.frames import heads_frame, layers_frame, predictions_frame, value_neurons_frame
from app.attribution.results import to_json
from db.neuron import Neuron, NeuronKind
from tests import models

PROMISED = {
    "model": str,
    "prompt": str,
    "tokens": [str],
    "position": int,
    "target": {"id": int, "text": str, "probability": float, "log_probability": float},
    "predictions": [{"id": int, "text": str, "probability": float}],
    "layers": {"attention": [float], "ffn": [float]},
    "heads": [[float]],
    "ffn_value_neurons": [{"neuron": str, "score": float, "activation": float}],
    "attention_value_neurons": [{"neuron": str, "position": int, "score": float, "activation": float}],
    "certificate": {
        "ffn": {"scored": int, "total": int, "proven": bool},
        "attention": {"scored": int, "total": int, "proven": bool},
    },
    "seconds": {"load": float, "forward": float, "total": float},
}
# What later additions may bring; everything else has exactly the promised keys.
OPEN = ("", ".certificate.ffn", ".certificate.attention")


@pytest.fixture(params=["llama", "gpt2"], scope="module")
def analysis(request):
    return analyse(models.language_model(request.param), models.PROMPT, top=12, target=" the")


def check(value, promised, where: str = "") -> None:
    if isinstance(promised, dict):
        assert set(promised) <= set(value), where
        if where not in OPEN:
            assert set(promised) == set(value), where
        for key, inner in promised.items():
            check(value[key], inner, f"{where}.{key}")
    elif isinstance(promised, list):
        assert value, f"{where} is empty"
        for item in value:
            check(item, promised[0], f"{where}[]")
    else:
        assert type(value) is promised, f"{where} is {value!r}"


def test_the_object_has_the_promised_shape_and_survives_json(analysis):
    given = to_json(analysis)
    read = json.loads(json.dumps(given, allow_nan=False))
    assert read == given  # plain lists, strings and numbers: nothing is changed by the way
    check(read, PROMISED)


def test_its_figures_are_the_analysis(analysis):
    given = to_json(analysis)
    sizes = models.SIZES["llama" if analysis.family == "llama" else "gpt2"]
    assert given["model"] == analysis.model
    assert given["prompt"] == models.PROMPT
    assert "".join(text for text in given["tokens"] if text != "<s>") == models.PROMPT
    assert given["position"] == len(given["tokens"]) - 1
    assert given["target"]["text"] == " the"
    assert len(given["predictions"]) == 10
    assert [len(given["layers"][part]) for part in ("attention", "ffn")] == [models.LAYERS] * 2
    assert [len(heads) for heads in given["heads"]] == [models.HEADS] * models.LAYERS
    assert given["heads"][1][2] == float(analysis.heads[1, 2])
    for kind, found in (("ffn", analysis.ffn_value_neurons), ("attention", analysis.attention_value_neurons)):
        rows = given[f"{kind}_value_neurons"]
        assert len(rows) == 12
        for row, one in zip(rows, found, strict=True):
            assert Neuron.parse(row["neuron"]) == one.neuron
            assert (row["score"], row["activation"], row.get("position")) == (one.score, one.activation, one.position)
        assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
    tokens = len(given["tokens"])
    assert given["certificate"]["ffn"]["total"] == models.LAYERS * sizes[2]
    assert given["certificate"]["attention"]["total"] == models.LAYERS * models.HEADS * tokens * sizes[1]
    seconds = given["seconds"]
    assert 0 < seconds["forward"] <= seconds["total"]


def test_every_text_says_which_token_it_is():
    model = models.language_model("llama")
    given = to_json(analyse(model, "the é", top=0))  # é is two tokens, each half a character
    assert given["tokens"][-2:] == ["⟨C3⟩", "⟨A9⟩"]


def test_frames_hold_the_same_figures(analysis):
    predictions = predictions_frame(analysis)
    assert predictions["token_id"].tolist() == [one.token.id for one in analysis.predictions]
    assert predictions["probability"].tolist() == [one.probability for one in analysis.predictions]

    layers = layers_frame(analysis)
    for part, scores in (("attention", analysis.layers.attention), ("ffn", analysis.layers.ffn)):
        rows = layers[layers["part"] == part].sort_values("layer")
        assert rows["layer"].tolist() == list(range(models.LAYERS))
        assert rows["score"].tolist() == scores.tolist()

    heads = heads_frame(analysis).pivot_table(index="layer", columns="head", values="score")
    assert heads.to_numpy().tolist() == analysis.heads.tolist()


@pytest.mark.parametrize("kind", NeuronKind)
def test_neuron_frames_name_neuron_and_source(analysis, kind):
    frame = value_neurons_frame(analysis, kind)
    found = analysis.ffn_value_neurons if kind is NeuronKind.FFN else analysis.attention_value_neurons
    assert frame["neuron"].tolist() == [one.neuron.label for one in found]
    assert frame["score"].tolist() == [one.score for one in found]
    assert frame["activation"].tolist() == [one.activation for one in found]
    assert frame["layer"].tolist() == [one.neuron.layer for one in found]
    if kind is NeuronKind.FFN:
        assert frame[["head", "position", "source"]].isna().all(axis=None)
    else:
        assert frame["head"].tolist() == [one.neuron.head for one in found]
        sources = [analysis.tokens[one.position].display for one in found]
        assert frame["source"].tolist() == sources


def test_frames_of_no_neurons_keep_their_columns():
    analysis = analyse(models.language_model("qwen2"), models.PROMPT, top=0)
    full = analyse(models.language_model("qwen2"), models.PROMPT, top=1)
    for kind in NeuronKind:
        empty = value_neurons_frame(analysis, kind)
        assert len(empty) == 0
        assert list(empty.columns) == list(value_neurons_frame(full, kind).columns)
