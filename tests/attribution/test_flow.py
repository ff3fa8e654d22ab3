"""The strongest moves of heads over all layers: complete, exact, in order, against the plain way."""

import json

import pytest
import torch

from app.attribution import Settings, run_prompt
from app.attribution.__main__ import main
from app.attribution.analysis import contrast
from app.attribution.drilldowns import to_json
from app.attribution.frames import flow_frame
from app.attribution.heads import contrast_flow, flow
from app.attribution.prompt import Method
from indexer.architecture import Conventions
from tests import models, oracle

TARGET = 270
CLOSE = 1e-4


def run_of(name, **settings):
    return run_prompt(models.language_model(name), models.PROMPT, Settings(target=TARGET, **settings))


def by_place(found):
    return {(one.layer, one.head, one.position): one.score for one in found.moves}


@pytest.mark.parametrize("conventions", Conventions)
@pytest.mark.parametrize("method", [Method.ADDED, Method.REMOVED])
@pytest.mark.parametrize("name", models.FAMILIES)
def test_the_strongest_are_those_of_the_plain_way(name, method, conventions):
    run = run_of(name, conventions=conventions, method=method)
    expected = oracle.run(models.folder(name), run.token_ids)
    scores = expected.scores(TARGET, beta=conventions is Conventions.EXACT, removed=method is Method.REMOVED)
    every = {
        (layer, head, position): score
        for layer, heads in enumerate(scores.head_sources.tolist())
        for head, positions in enumerate(heads)
        for position, score in enumerate(positions)
    }
    for count in (1, 12):
        found = flow(run, count)
        own = by_place(found)
        assert len(own) == count
        assert [abs(one.score) for one in found.moves] == sorted(map(abs, own.values()), reverse=True)
        assert all(score == pytest.approx(every[place], abs=CLOSE) for place, score in own.items())
        least = min(map(abs, own.values()))
        assert {place for place, score in every.items() if abs(score) > least + CLOSE} <= set(own)
        assert found.certificate.total == len(every)


def test_most_are_left_unscored_where_the_bound_is_good():
    run = run_of("llama")
    quiet = run.__class__(run.model, run.prompt, run.settings, run.token_ids, run.stream, TARGET, None, 1000.0)
    found = flow(quiet, 3)  # a large frozen scale makes all changes small, where |Imp| is nearly |c · g|
    assert found.certificate.scored < found.certificate.total / 2


def test_both_signs_and_all_of_them():
    run = run_of("llama")
    found = flow(run, 10**6)
    layers, heads, tokens = run.stream.attention_weight.shape
    assert len(by_place(found)) == len(found.moves) == layers * heads * tokens
    assert {one.score > 0 for one in found.moves} == {True, False}
    for one in found.moves:
        assert one.attention_weight == pytest.approx(
            float(run.stream.attention_weight[one.layer, one.head, one.position])
        )
        assert one.token == run.tokens[one.position]


def test_an_earlier_position_has_only_its_own_sources():
    run = run_of("gpt2", position=2)
    assert {one.position for one in flow(run, 10**6).moves} == {0, 1, 2}


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_in_a_contrast_moves_are_shares(name):
    run = run_of(name, distractor=71)
    against = contrast(run, 71, 3)
    found = contrast_flow(run, against, 10**6)
    heads = torch.zeros(against.heads.shape)
    for one in found.moves:
        heads[one.layer, one.head] += one.score
    torch.testing.assert_close(heads, torch.as_tensor(against.heads), atol=1e-4, rtol=1e-4)
    assert [abs(one.score) for one in contrast_flow(run, against, 5).moves] == sorted(
        (abs(score) for score in by_place(found).values()), reverse=True
    )[:5]


def test_frame_and_json_say_the_same():
    found = flow(run_of("llama"), 7)
    frame, said = flow_frame(found), to_json(found)
    assert frame["score"].tolist() == [one["score"] for one in said["moves"]] == [one.score for one in found.moves]
    assert frame["token"].tolist() == [one.token.display for one in found.moves]
    assert said["certificate"]["proven"] is True
    json.dumps(said, allow_nan=False)


def test_from_the_shell(capsys):
    arguments = [models.PROMPT, "--model", str(models.folder("llama")), "--top", "0", "--json"]
    assert main([*arguments, "--flow", "5"]) == 0
    said = json.loads(capsys.readouterr().out)["flow"]
    expected = flow(run_prompt(models.language_model("llama"), models.PROMPT, Settings()), 5)
    assert [one["score"] for one in said["moves"]] == pytest.approx([one.score for one in expected.moves], abs=1e-5)
    assert main([*arguments, "--flow"]) == 0
    assert len(json.loads(capsys.readouterr().out)["flow"]["moves"]) == 40
