"""The certified strongest neurons of one part: the part's own top k, not what the overall top k happens to hold."""

import json
from dataclasses import replace

import pytest

from app.attribution import Settings, run_prompt
from app.attribution.__main__ import main
from app.attribution.ablation import Effects
from app.attribution.analysis import lowering_within, raising_within, shares_within, within
from app.attribution.prompt import Method
from db.errors import AtlasError
from db.neuron import NeuronKind, Part
from tests import models, oracle

TARGET = 270
CLOSE = 1e-4
SCOPES = (
    Part(1),
    Part(2, NeuronKind.FFN),
    Part(1, NeuronKind.ATTENTION, 2),
    Part(2, NeuronKind.ATTENTION, 3, position=4),
)


def run_of(name, **settings):
    return run_prompt(models.language_model(name), models.PROMPT, Settings(target=TARGET, **settings))


def key(one):
    neuron = one.neuron
    return (neuron.index,) if neuron.head is None else (neuron.head, one.position, neuron.index)


def every_score(name, run, scope, kind):
    """The plain scores of all entries of the part."""
    scores = oracle.run(models.folder(name), run.token_ids).scores(
        TARGET, removed=run.settings.method is Method.REMOVED
    )
    if kind is NeuronKind.FFN:
        return {(index,): score for index, score in enumerate(scores.ffn_neurons[scope.layer].tolist())}
    return {
        (head, position, index): score
        for head, positions in enumerate(scores.attention_neurons[scope.layer].tolist())
        for position, neurons in enumerate(positions)
        for index, score in enumerate(neurons)
        if scope.head in (None, head) and scope.position in (None, position)
    }


@pytest.mark.parametrize("scope", SCOPES, ids=[scope.label for scope in SCOPES])
@pytest.mark.parametrize("method", [Method.ADDED, Method.REMOVED])
@pytest.mark.parametrize("name", models.FAMILIES)
def test_a_part_has_its_own_top_and_bottom(name, method, scope):
    run = run_of(name, method=method)
    for kind in scope.kinds:
        every = every_score(name, run, scope, kind)
        for sign, found in (
            (1, raising_within(run, scope, kind, 5)),
            (-1, lowering_within(run, scope, kind, 5, None)),
        ):
            own = {key(one): one.score for one in found.neurons}
            surely, perhaps = (sum(sign * score > bar for score in every.values()) for bar in (CLOSE, -CLOSE))
            assert min(5, surely) <= len(own) == len(found.neurons) <= min(5, perhaps)
            assert all(one.neuron.layer == scope.layer and one.neuron.kind is kind for one in found.neurons)
            assert all(score == pytest.approx(every[place], abs=CLOSE) for place, score in own.items())
            sizes = [sign * score for score in own.values()]
            assert sizes == sorted(sizes, reverse=True)
            least = min(sizes, default=0.0)
            assert {place for place, score in every.items() if sign * score > least + CLOSE} <= set(own)
            assert found.certificate.total == len(every)


def test_a_weak_part_is_filled_where_the_overall_list_has_none_of_it():
    run = run_of("llama")
    overall = {(one.neuron, one.position) for one in run.raising(NeuronKind.ATTENTION, 3)[0]}
    for position in range(len(run.token_ids)):
        found = raising_within(
            run, Part(0, NeuronKind.ATTENTION, 0, position=position), NeuronKind.ATTENTION, 3
        ).neurons
        assert len(found) == 3
        if not {(one.neuron, one.position) for one in found} & overall:
            return
    pytest.fail("every position of the first head is among the overall three")


@pytest.mark.parametrize("scope", SCOPES, ids=[scope.label for scope in SCOPES])
def test_shares_of_a_part(scope):
    run = run_of("gpt2", distractor=71)
    for kind in scope.kinds:
        everywhere = [
            one.score
            for one in run.linear(kind, _direction(run), 10**6)[0]
            if one.neuron.layer == scope.layer
            and scope.head in (None, one.neuron.head)
            and scope.position in (None, one.position)
        ]
        scores = [share for share in everywhere if share > 0]
        lowest = [share for share in everywhere[::-1] if share < 0]
        best = shares_within(run, scope, kind, 4).neurons
        worst = shares_within(run, scope, kind, 4, opposing=True).neurons
        assert [one.score for one in best] == pytest.approx(scores[:4], abs=1e-6)
        assert [one.score for one in worst] == pytest.approx(lowest[:4], abs=1e-6)


def _direction(run):
    folded = run.model.unembedding.folded
    return (folded[run.target_id] - folded[run.distractor_id]) / run.scale


@pytest.mark.parametrize(
    ("scope", "words"),
    [
        (Part(99), "no layer 99"),
        (Part(0, NeuronKind.ATTENTION, 9), "no head L0.H9"),
        (Part(0, NeuronKind.ATTENTION, 0, position=99), "no source position 99"),
    ],
)
def test_what_there_is_not(scope, words):
    with pytest.raises(AtlasError, match=words):
        raising_within(run_of("llama"), scope, NeuronKind.ATTENTION, 3)


def test_a_head_has_no_ffn_neurons_and_no_distractor_no_shares():
    run = run_of("llama")
    with pytest.raises(AtlasError, match="no ffn neurons"):
        raising_within(run, Part(0, NeuronKind.ATTENTION, 0), NeuronKind.FFN, 3)
    with pytest.raises(AtlasError, match="Shares need a distractor"):
        shares_within(run, Part(0), NeuronKind.FFN, 3)


@pytest.mark.parametrize("distractor", [None, 70])
def test_the_first_of_each_list_are_measured(distractor):
    run = run_prompt(models.language_model("llama"), models.PROMPT, Settings(measure=2, distractor=distractor))
    effects = replace(Effects.of(run), minus=distractor)
    for lists in within(run, Part(1), 4, None).found.values():
        known = [one.effect for one in lists.neurons]
        assert known[:2] == pytest.approx(effects.neurons(lists.neurons[:2]), abs=1e-5)
        assert any(abs(effect or 0.0) > 1e-3 for effect in known[:2])
        assert len(known) > 2
        assert set(known[2:]) == {None}


def test_labels_are_read_back():
    for scope in SCOPES:
        assert Part.parse(scope.label) == scope
    assert Part.parse(" l23.h4@3 ") == Part(23, NeuronKind.ATTENTION, 4, position=3)
    for wrong in ("", "L", "23", "L1.F", "L1.ffn@2", "L1@2", "L1.H2@", "L1.H-2", "L12345"):
        with pytest.raises(AtlasError, match="names no part"):
            Part.parse(wrong)


def test_from_the_shell(capsys):
    arguments = [models.PROMPT, "--model", str(models.folder("llama")), "--top", "4", "--json", "--no-suppressing"]
    assert main([*arguments, "--within", "L1.H2", "--within", "L2"]) == 0
    said = json.loads(capsys.readouterr().out)["within"]
    run = run_prompt(models.language_model("llama"), models.PROMPT, Settings())
    found = raising_within(run, Part(1, NeuronKind.ATTENTION, 2), NeuronKind.ATTENTION, 4).neurons
    assert [one["neuron"] for one in said[0]["attention_raising"]["neurons"]] == [one.neuron.label for one in found]
    assert set(said[1]) == {"part", "ffn_raising", "ffn_lowering", "attention_raising", "attention_lowering"}
    assert main([*arguments, "--within", "nonsense"]) == 2
    assert "names no part" in capsys.readouterr().err
