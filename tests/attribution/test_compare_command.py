"""Comparisons and interventions from the shell: the library's figures in text, JSON and files; errors are one line."""

import json

import pandas as pd
import pytest

from app.attribution import Settings
from app.attribution.__main__ import main
from app.attribution.compare import compare_prompts, neurons_frame
from app.attribution.form import written
from app.attribution.intervene import steer
from app.attribution.prompt import Sampling
from db.neuron import parse_interventions, parse_list
from tests import models

OTHER = "The rain runs to the river"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Run where no catalogue lies by chance."""
    monkeypatch.chdir(tmp_path)


def asked(*arguments):
    return main([models.PROMPT, "--model", str(models.folder("llama")), "--top", "5", *arguments])


def rounded(value):
    """The same object with its figures to five digits: two loads of a model may differ in the last bits."""
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return pytest.approx(value, abs=1e-5) if isinstance(value, float) else value


@pytest.mark.parametrize(
    ("arguments", "prompt", "changes", "zero"),
    [
        (["--against", OTHER], OTHER, {}, ""),
        (["--against-target", " the"], models.PROMPT, {"target": " the"}, ""),
        (["--against-position", "-3"], models.PROMPT, {"position": -3}, ""),
        (["--zero", "L1.H2, L2.F3"], models.PROMPT, {}, "L1.H2,L2.F3"),
        (["--against", OTHER, "--zero", "ffn:4"], OTHER, {}, "ffn:4"),
    ],
)
def test_json_is_what_the_library_says(arguments, prompt, changes, zero, capsys):
    assert asked(*arguments, "--json") == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    first, second = Settings(top=5), Settings(**{"top": 5} | changes)
    model = models.language_model("llama")
    found = compare_prompts(model, (models.PROMPT, first), (prompt, second), 5, zero=parse_list(zero))
    assert json.loads(out) == rounded(json.loads(json.dumps(written(found))))


def test_files_hold_the_whole_comparison_or_its_neurons(tmp_path, capsys):
    found = compare_prompts(models.language_model("llama"), (models.PROMPT, Settings()), (OTHER, Settings()), 5)
    for name in ("found.json", "found.csv", "found.parquet"):
        assert asked("--against", OTHER, "--out", name) == 0
        assert name in capsys.readouterr().out
    assert json.loads((tmp_path / "found.json").read_text()) == rounded(written(found))
    frames = (pd.read_csv(tmp_path / "found.csv"), pd.read_parquet(tmp_path / "found.parquet"))
    expected = neurons_frame(found)
    for frame in frames:
        assert frame["neuron"].tolist() == expected["neuron"].tolist()
        assert frame["delta_score"].tolist() == pytest.approx(expected["delta_score"].tolist(), abs=1e-5)


def test_a_person_can_read_it(capsys):
    assert asked("--zero", "L1.H2,L2.F3") == 0
    out = capsys.readouterr().out
    assert "zeroed in 2, with their scores (nats): L1.H2" in out
    assert "measured: Δ log-probability of the target" in out
    assert "-0.0000" not in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--against", ""], "The prompt to compare with is empty"),
        (["--zero", "H4"], "“H4” names no part of a model"),
        (["--zero", " , "], "No part is named"),
        (["--zero", "L9.H0"], "There is no head L9.H0"),
        (["--zero", "L1.H0", "--lens"], "--lens does not go with a comparison"),
        (["--against", OTHER, "--out", "found.txt"], "must be one of .json, .csv, .parquet"),
        (["--against", OTHER, "--out", "no/such/folder.json"], "cannot be written"),
        (["--against-target", " hydrogen"], "is not one token"),
        (["--against-position", "99"], "There is no position 99"),
        (["--against", "caf\udce9"], "not valid Unicode"),
    ],
)
def test_what_is_no_question_gets_one_line_and_status_2(arguments, said, capsys):
    assert asked(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    assert said in line


def test_many_prompts_are_not_compared(tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text(models.PROMPT)
    assert main(["--prompts", "prompts.txt", "--zero", "L1.H0", "--out", "x.jsonl"]) == 2
    assert "--prompts does not go with a comparison" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "interventions", "sampling"),
    [
        (["--scale", "L1.F7=4,L1.H2=0.5", "--clamp", "L0.F3=-2.5"], "L1.F7=4,L1.H2=0.5,L0.F3:=-2.5", None),
        (["--scale", "L1.F7=4", "--scale", "ffn:2=2", "--zero", "L0.H1"], "L0.H1,L1.F7=4,ffn:2=2", None),
        (["--zero", "L1.ffn", "--generate", "5"], "L1.ffn=0", {"tokens": 5}),
        (
            ["--generate", "6", "--temperature", "0.8", "--top-p", "0.9", "--seed", "3"],
            "",
            {"tokens": 6, "temperature": 0.8, "top_p": 0.9, "seed": 3},
        ),
    ],
)
def test_interventions_and_continuations_are_those_of_the_library(arguments, interventions, sampling, capsys):
    assert asked(*arguments, "--target", " the", "--json") == 0
    out = capsys.readouterr().out
    drawn = Sampling(**sampling) if sampling else None
    model, wanted = models.language_model("llama"), parse_interventions(interventions)
    found = steer(model, models.PROMPT, Settings(target=" the"), wanted, drawn)
    assert json.loads(out) == rounded(json.loads(json.dumps(written(found))))


def test_a_person_can_read_what_an_intervention_does(capsys):
    assert asked("--scale", "L1.F7=4", "--clamp", "L0.F3:=2", "--generate", "5") == 0
    out = capsys.readouterr().out
    assert "changed at every position: neuron L1.F7 scaled by 4; neuron L0.F3 clamped to 2" in out
    assert "Δ log-probability" in out
    assert "continued by up to 5 tokens (greedy)" in out
    assert [line.split(":")[0] for line in out.splitlines()[-2:]] == ["  as it is", "  changed"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--scale", "L1.F7"], "L1.F7 lacks a number after --scale. Write L29.F864=4"),
        (["--clamp", " , "], "No part is named after --clamp."),
        (["--clamp", "L1.H2=3"], "Head L1.H2 has many activations"),
        (["--scale", "L1.F7=2", "--zero", "L1.F7"], "L1.F7 is named 2 times"),
        (["--scale", "L1.F7=2", "--against", OTHER], "--against does not go with --scale"),
        (["--scale", "L1.F7=2", "--against-position", "0"], "--against-position does not go with"),
        (["--generate", "5", "--measure", "3"], "--measure does not go with"),
        (["--generate", "5", "--lens"], "--lens does not go with"),
        (["--seed", "5"], "--seed is for a continuation. Add --generate 40"),
        (["--scale", "L1.F7=2", "--temperature", "1"], "--temperature is for a continuation"),
        (["--generate", "5", "--seed", "2"], "--seed is for drawing tokens. Add --temperature 0.8"),
        (["--generate", "5", "--temperature", "1", "--top-p", "2"], "Top-p must be from 0.01 to 1, not 2"),
        (["--generate", "500"], "takes 64 tokens"),
        (["--scale", "L9.F7=2"], "There is no neuron L9.F7"),
    ],
)
def test_what_is_no_intervention_is_one_line(arguments, said, capsys):
    assert asked(*arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.strip().count("\n") == 0
