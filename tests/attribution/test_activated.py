"""Search by text: which neurons a passage activates far more than the corpus did, against plain loops."""

import json

import numpy as np
import pandas as pd
import pytest

from app.attribution.__main__ import main
from app.attribution.activated import activated_by
from app.attribution.frames import activated_frame
from db.catalogue.builds import find_catalogue
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.neuron import NeuronKind, Sign
from db.questions import Filters
from indexer.build import build
from tests import models
from tests.texts import give_texts

PASSAGE = "The road to the sea is blue"
FAMILIES = ("llama", "gpt2")


@pytest.fixture(scope="module", params=FAMILIES)
def known(request, tmp_path_factory):
    """A model, its catalogue, and the figures of its texts by neuron."""
    root = tmp_path_factory.mktemp(request.param)
    build(models.checkpoint(request.param), root, depth=8)
    made = give_texts(find_catalogue(root), attention=True)
    with Catalogue.open(find_catalogue(root)) as catalogue:
        figures = {
            catalogue.layout.neuron(int(number)): (float(row.mean(dtype=float)), float(row.std(dtype=float)))
            for number, row in zip(made.neuron_ids, made.activations, strict=True)
        }
        yield models.language_model(request.param), catalogue, figures


def every_activation(model, ids: list[int], neuron) -> list[float]:
    """A neuron's activation at every token, from one run that ends at each: its input of the output projection."""
    start, found = list(model.tokens.added[0]), []
    for end in range(1, len(ids) + 1):
        stream = model.forward([*start, *ids[:end]])
        if neuron.kind is NeuronKind.FFN:
            found.append(float(stream.ffn_activation[neuron.layer, -1, neuron.index]))
        else:
            arriving = stream.attention_activation(neuron.layer)[neuron.head, :, neuron.index]
            found.append(float(arriving.sum()))
    return found


def expected(activations: list[float], mean: float, std: float) -> tuple[float, int, Sign]:
    """z, position and end of the peak: the activation furthest from the mean on its own side of zero."""
    ends = [((one - mean) / std if one > 0 else (mean - one) / std, at) for at, one in enumerate(activations)]
    z, at = max(ends, key=lambda end: end[0])
    return z, at, Sign.PROMOTES if activations[at] > 0 else Sign.SUPPRESSES


@pytest.mark.parametrize("kind", NeuronKind)
def test_z_and_peak_equal_a_run_for_every_token(known, kind):
    model, catalogue, figures = known
    found = activated_by(model, catalogue.texts, PASSAGE, Filters(kind=kind), limit=10_000)
    ids = [token.id for token in found.tokens]
    assert ids == model.tokenizer(PASSAGE, add_special_tokens=False)["input_ids"]
    assert found.compared == sum(neuron.kind is kind for neuron in figures)
    by_neuron = {one.neuron: one for one in found.neurons}
    for neuron in [one for one in figures if one.kind is kind][::7]:
        activations = every_activation(model, ids, neuron)
        z, at, sign = expected(activations, *figures[neuron])
        if z <= 0:
            assert neuron not in by_neuron
            continue
        one = by_neuron[neuron]
        assert one.activations == pytest.approx(activations, abs=1e-5)
        assert one.z == pytest.approx(z, abs=1e-4)
        assert (one.position, one.sign) == (at, sign)
        assert one.activation == one.activations[at]
        assert (one.mean, one.std) == pytest.approx(figures[neuron])


def test_the_largest_z_come_first_whatever_the_limit(known):
    model, catalogue, _ = known
    found = activated_by(model, catalogue.texts, PASSAGE, limit=10_000).neurons
    assert [one.z for one in found] == sorted((one.z for one in found), reverse=True)
    assert len(found) > 40
    assert activated_by(model, catalogue.texts, PASSAGE, limit=9).neurons == found[:9]
    assert activated_by(model, catalogue.texts, PASSAGE, limit=0).neurons == ()


@pytest.mark.parametrize(
    "conditions",
    [
        Filters(layers=(1, 1)),
        Filters(head=2),
        Filters(sign=Sign.SUPPRESSES),
        Filters(usual=True),
        Filters(min_z=1.5, kind=NeuronKind.FFN),
        Filters(sign=Sign.PROMOTES, layers=(0, 1), kind=NeuronKind.ATTENTION),
    ],
    ids=lambda conditions: conditions.sentence("x"),
)
def test_conditions_are_met(known, conditions):
    model, catalogue, _ = known
    whole = activated_by(model, catalogue.texts, PASSAGE, limit=10_000).neurons
    found = activated_by(model, catalogue.texts, PASSAGE, conditions, limit=10_000).neurons
    low, high = conditions.layers or (0, 99)

    def meets(one) -> bool:
        return (
            low <= one.neuron.layer <= high
            and conditions.kind in (None, one.neuron.kind)
            and conditions.head in (None, one.neuron.head)
            and one.z >= (conditions.min_z or 0)
        )

    assert found
    assert all(map(meets, found))
    if conditions.usual:
        assert all(one.sign is one.usual for one in found)
        assert {one.neuron for one in whole if one.sign is one.usual} <= {one.neuron for one in found}
    elif conditions.sign is None:
        assert found == tuple(filter(meets, whole))
    else:
        assert {one.sign for one in found} == {conditions.sign}
        own = [one for one in whole if meets(one) and one.sign is conditions.sign]
        assert {one.neuron for one in own} <= {one.neuron for one in found}


def test_what_is_known_of_the_neurons_is_told(known):
    model, catalogue, _ = known
    found = activated_by(model, catalogue.texts, PASSAGE, limit=5)
    marks = catalogue.texts.marks([one.neuron for one in found.neurons])
    tokens = catalogue.strongest_tokens([one.neuron for one in found.neurons], 6)
    for one in found.neurons:
        assert one.usual is marks[one.neuron].sign
        assert [token.id for token in one.raises] == [token.token_id for token in tokens[one.neuron].at(one.sign)]
    frame = activated_frame(found.tokens, found.neurons)
    assert list(frame["neuron"]) == [one.neuron.label for one in found.neurons]
    assert list(frame["token"]) == [found.tokens[one.position].display for one in found.neurons]


@pytest.mark.parametrize(
    ("text", "problem"), [("", "is empty"), ("sea " * 60, "more than 40 tokens"), ("\udce4", "not valid")]
)
def test_texts_that_cannot_be_searched_by(known, text, problem):
    model, catalogue, _ = known
    with pytest.raises(AtlasError, match=problem):
        activated_by(model, catalogue.texts, text)


def test_from_the_shell(known, capsys, tmp_path):
    model, catalogue, _ = known
    arguments = ["--activated-by", PASSAGE, "--model", str(models.folder(model.name)), "--top", "4"]
    arguments += ["--catalogue", str(catalogue.path), "--layers", "1-2"]
    expected = activated_by(model, catalogue.texts, PASSAGE, Filters(layers=(1, 2)), limit=4)
    assert main([*arguments, "--json"]) == 0
    given = json.loads(capsys.readouterr().out)
    assert [one["neuron"] for one in given["neurons"]] == [one.neuron.label for one in expected.neurons]
    assert given["neurons"][0]["activations"] == pytest.approx(expected.neurons[0].activations)
    assert given["tokens"] == [token.text for token in expected.tokens]
    assert main(arguments) == 0
    assert expected.neurons[0].neuron.label in capsys.readouterr().out
    assert main([*arguments, "--out", str(tmp_path / "found.parquet")]) == 0
    frame = pd.read_parquet(tmp_path / "found.parquet")
    assert np.allclose(frame["z"], [one.z for one in expected.neurons])


def test_what_is_missing_is_said(tmp_path, capsys):
    build(models.checkpoint("llama"), tmp_path, depth=4)
    arguments = ["--model", str(models.folder("llama")), "--catalogue", str(tmp_path)]
    assert main(["--activated-by", PASSAGE, *arguments]) == 2
    assert "No texts were gathered" in capsys.readouterr().err
    give_texts(find_catalogue(tmp_path))
    assert main(["--activated-by", PASSAGE, "--kind", "attention", *arguments]) == 2
    assert "without attention neurons" in capsys.readouterr().err
    assert main([PASSAGE, "--layers", "1", *arguments]) == 2
    assert "go with --activated-by" in capsys.readouterr().err
