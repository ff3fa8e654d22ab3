"""Many prompts: what is written, what a killed run leaves, and what is made of it all."""

import json
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.answers.batches import parse_lines
from app.attribution import Settings, analyse, run_prompt
from app.attribution.__main__ import main
from app.attribution.batch import analyse_batch, means_over, read_prompts, read_rows
from app.attribution.frames import aggregate
from app.attribution.measured import Means
from app.attribution.prompt import PromptLine
from app.attribution.results import to_json
from db.errors import AtlasError
from db.neuron import Neuron, NeuronKind
from tests import families, models
from tests.attribution.test_effects import fill, plain_effect

PROMPTS = [PromptLine(models.PROMPT), PromptLine("The road is long", target=41), PromptLine("A blue river", position=1)]
SETTINGS = Settings(top=7, suppressing=True)


def without_seconds(row):
    return {name: value for name, value in row.items() if name != "seconds"}


def singly(model):
    return [without_seconds(to_json(analyse(model, line.prompt, line.applied(SETTINGS)))) for line in PROMPTS]


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_each_row_is_the_json_of_the_single_prompt(tmp_path, ending):
    model, out = models.language_model("llama"), tmp_path / f"out{ending}"
    rows = analyse_batch(model, PROMPTS, SETTINGS, out)
    expected = singly(model)
    assert [without_seconds(row) for row in rows] == expected
    assert [without_seconds(row) for row in read_rows(out)] == expected
    assert [path.name for path in tmp_path.iterdir()] == [out.name]  # nothing is left beside it
    assert expected[1]["target"]["id"] == 41
    assert expected[2]["position"] == 1


def test_a_killed_run_goes_on_from_its_whole_rows(tmp_path):
    model, out = models.language_model("llama"), tmp_path / "out.jsonl"

    class KilledError(Exception):
        pass

    def killed_after_two(places, _done, _total):
        yield from islice(places, 2)
        raise KilledError

    with pytest.raises(KilledError):
        analyse_batch(model, PROMPTS, SETTINGS, out, progress=killed_after_two)
    part = tmp_path / "out.jsonl.part"
    assert len(part.read_text().splitlines()) == 2
    assert not out.exists()
    part.write_text(part.read_text()[:-40])  # and the second row was cut short
    seen = []

    def watched(places, done, total):
        seen.append((list(places), done, total))
        return seen[0][0]

    analyse_batch(model, PROMPTS, SETTINGS, out, progress=watched)
    assert seen == [([1, 2], 1, 3)]
    assert [without_seconds(row) for row in read_rows(out)] == singly(model)


def test_rows_of_another_question_are_not_taken_over(tmp_path):
    model, out = models.language_model("llama"), tmp_path / "out.jsonl"
    (tmp_path / "out.jsonl.part").write_text('{"prompt": "old"}\n')
    (tmp_path / "out.jsonl.part.stamp").write_text("another")
    rows = analyse_batch(model, PROMPTS[:1], SETTINGS, out)
    assert [row["prompt"] for row in rows] == [models.PROMPT]


def test_a_prompt_that_cannot_be_analysed_does_not_stop_the_others(tmp_path):
    model, out = models.language_model("gpt2"), tmp_path / "out.parquet"
    rows = analyse_batch(model, [PromptLine(" sea" * 100), PromptLine(models.PROMPT)], SETTINGS, out)
    assert "64" in rows[0]["error"]
    assert rows[1]["ffn_value_neurons"]
    assert pq.read_table(out).column("error").to_pylist()[1] is None


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", b"", "holds no prompts"),
        ("p.txt", b"\xff", "UTF-8"),
        ("p.txt", "one\ntwo".encode("utf-16"), "UTF-16"),
        ("p.jsonl", '{"prompt": "a"}'.encode("utf-16-le"), "UTF-16"),
        ("p.txt", b"one\rtwo\r", "no line feeds"),
        ("p.json", b'[{"prompt": "a"}]', "jsonl"),
        ("p.jsonl", b'{"prompt": "a"}\n{"prompt": "\\ud800"}', "line 2.*not valid Unicode"),
        ("p.jsonl", b'{"prompt": "a"}\n{"promt": "b"}\n', "line 2"),
        ("p.jsonl", b"[1]\n", "line 1"),
        ("p.jsonl", b'{"prompt": "a", "target": true}\n', "target"),
        ("p.jsonl", b'{"prompt": "a", "position": 1.5}\n', "position"),
    ],
)
def test_unusable_files_are_named_with_the_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(AtlasError, match=message):
        read_prompts(tmp_path / name)


def test_text_files_hold_a_prompt_a_line(tmp_path):
    (tmp_path / "p.txt").write_text("one  two\n\n three\n")
    assert read_prompts(tmp_path / "p.txt") == [PromptLine("one  two"), PromptLine(" three")]


NO_ENDS = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e"
"""What `str.splitlines` takes for the end of a line, and no text editor does."""


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_only_line_feeds_end_a_prompt(tmp_path, end):
    prompts = [f"a{one}b" for one in NO_ENDS] + ["carriage\rreturn", " spaced "]
    (tmp_path / "p.txt").write_bytes(end.join(["\ufeff" + prompts[0], "", *prompts[1:], ""]).encode())
    assert [line.prompt for line in read_prompts(tmp_path / "p.txt")] == prompts
    rows = (json.dumps({"prompt": one, "target": f" {one}"}, ensure_ascii=False) for one in prompts)
    (tmp_path / "p.jsonl").write_bytes(("\ufeff" + end.join(rows)).encode())
    assert read_prompts(tmp_path / "p.jsonl") == [PromptLine(one, f" {one}") for one in prompts]
    field = "\ufeff" + end.join(f"{one}\t {one}" for one in prompts if "\r" not in one)
    assert parse_lines(field)[0] == [PromptLine(one, f" {one}") for one in prompts if "\r" not in one]


@pytest.mark.fuzz
@given(
    prompts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1), ascii_too=st.booleans()
)
def test_what_is_written_as_json_lines_is_read_as_the_same_prompts(tmp_path_factory, prompts, ascii_too):
    path = tmp_path_factory.mktemp("read") / "p.jsonl"
    lines = (json.dumps({"prompt": one}, ensure_ascii=ascii_too) for one in prompts)
    path.write_bytes("\n".join(lines).encode())
    assert [line.prompt for line in read_prompts(path)] == prompts


@pytest.mark.fuzz
@given(lines=st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r\0")), min_size=1))
def test_what_is_written_a_line_each_is_read_as_the_same_prompts(tmp_path_factory, lines):
    path = tmp_path_factory.mktemp("read") / "p.txt"
    path.write_bytes("\n".join(["first", *lines]).encode())
    kept = [one for one in lines if one.strip()]
    assert [line.prompt for line in read_prompts(path)] == ["first", *kept]
    fields = [one.partition("\t") for one in lines]
    expected = [PromptLine(one, target.rstrip("\t") or None) for one, _, target in fields if one.strip()]
    assert parse_lines("\n".join(["first", *lines]), 10_000)[0] == [PromptLine("first"), *expected]


@pytest.mark.parametrize("prompt", [" ", "\n", "\t", "\u00a0", "\u3000"])
def test_white_space_is_a_prompt_like_any_other(tmp_path, prompt, capsys):
    model, out = models.language_model("gpt2"), tmp_path / "out.jsonl"
    (tmp_path / "p.jsonl").write_text(json.dumps({"prompt": prompt}))
    rows = analyse_batch(model, read_prompts(tmp_path / "p.jsonl"), SETTINGS, out)
    assert without_seconds(rows[0]) == without_seconds(to_json(analyse(model, prompt, SETTINGS)))
    assert main([prompt, "--model", str(models.folder("gpt2")), "--top", "1", "--against", f"{prompt}x", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["first"]["prompt"] == prompt


def test_an_unknown_ending_is_refused_before_anything_is_run(tmp_path):
    with pytest.raises(AtlasError, match=r"\.jsonl, \.parquet"):
        analyse_batch(models.language_model("llama"), PROMPTS, SETTINGS, tmp_path / "out.csv")


def test_neurons_are_counted_once_a_prompt_with_their_strongest_position():
    rows: list[dict[str, Any]] = [
        {
            "ffn_value_neurons": [{"neuron": "L1.F2", "score": 0.5, "activation": 1.0}],
            "attention_value_neurons": [
                {"neuron": "L0.H0.N1", "position": 0, "score": 0.2, "activation": 3.0},
                {"neuron": "L0.H0.N1", "position": 1, "score": 0.4, "activation": -1.0},
            ],
        },
        {"prompt": "bad", "error": "too long"},
        {
            "ffn_value_neurons": [
                {"neuron": "L1.F2", "score": 0.1, "activation": -2.0},
                {"neuron": "L1.F3", "score": 0.9, "activation": 1.0},
            ],
            "attention_value_neurons": None,
        },
    ]
    table = aggregate(rows)
    assert table[["role", "neuron", "prompts", "share"]].values.tolist() == [
        ["FFN value", "L1.F2", 2, 1.0],
        ["FFN value", "L1.F3", 1, 0.5],
        ["attention value", "L0.H0.N1", 1, 0.5],
    ]
    # (0.5 + 0.1) / 2, 0.9, and the stronger of the two positions; activations likewise
    assert table["mean_score"].tolist() == pytest.approx([0.3, 0.9, 0.4])
    assert table["mean_activation"].tolist() == pytest.approx([-0.5, 1.0, -1.0])


def test_the_mean_effect_is_that_of_the_prompts_where_it_was_measured():
    one = {"neuron": "L1.F2", "score": 0.5, "activation": 1.0}
    lists = [[one | {"effect": 0.25}], [one | {"effect": -0.75}], [one, {"neuron": "L1.F3", "score": 0.1}]]
    rows = [{"ffn_value_neurons": some} for some in lists]
    table = aggregate(rows)
    assert table["mean_effect"].iloc[0] == -0.25
    assert table["mean_effect"].isna().tolist() == [False, True]
    assert table[["prompts", "measured"]].values.tolist() == [[3, 2], [1, 0]]
    assert "mean_effect" not in aggregate(rows[2:])


def test_no_rows_make_an_empty_table():
    assert aggregate([]).empty


def test_the_shell_writes_the_file_and_prints_the_aggregate(tmp_path, capsys):
    source, out = tmp_path / "p.jsonl", tmp_path / "out.jsonl"
    source.write_text(json.dumps({"prompt": models.PROMPT}) + "\n" + json.dumps({"prompt": "The sea"}) + "\n")
    folder = str(models.folder("llama"))
    assert main(["--prompts", str(source), "--out", str(out), "--model", folder, "--top", "5", "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert {row["role"] for row in table} >= {"FFN value", "attention value", "FFN query"}
    assert len(list(read_rows(out))) == 2
    assert main(["--prompts", str(source), "--model", folder]) == 2
    assert "--out" in capsys.readouterr().err


def test_means_are_of_families_whose_activations_can_be_replaced():
    means = means_over(models.language_model("llama"), PROMPTS, SETTINGS)
    assert isinstance(means, Means)
    assert means.prompts == len(PROMPTS)
    assert "family “gemma2” a norm" in str(means_over(families.language_model("gemma2"), PROMPTS, SETTINGS))
    assert "two prompts or more" in str(means_over(models.language_model("llama"), PROMPTS[:1], SETTINGS))


def test_rows_say_what_neurons_do_at_their_means(tmp_path, capsys):
    model, asked = models.language_model("llama"), replace(SETTINGS, measure=3)
    rows = analyse_batch(model, PROMPTS[:2], asked, tmp_path / "out.jsonl")
    assert list(read_rows(tmp_path / "out.jsonl")) == rows
    runs = [run_prompt(model, line.prompt, line.applied(asked)) for line in PROMPTS[:2]]
    for run, row in zip(runs, rows, strict=True):
        for one in row["ffn_value_neurons"]:
            if one.get("effect") is None:
                assert "effect_of_mean" not in one
                continue
            neuron = Neuron.parse(one["neuron"])
            mean = np.mean([float(each.stream.ffn_activation[neuron.layer, -1, neuron.index]) for each in runs])
            expected = plain_effect(run, NeuronKind.FFN, neuron.layer, fill(neuron.index, mean))
            assert one["effect_of_mean"] == pytest.approx(expected, abs=1e-4)
    (tmp_path / "p.txt").write_text("\n".join(line.prompt for line in PROMPTS))
    shell = [
        "--prompts",
        str(tmp_path / "p.txt"),
        "--out",
        str(tmp_path / "two.parquet"),
        "--top",
        "7",
        "--measure",
        "3",
    ]
    assert main([*shell, "--model", str(models.folder("llama"))]) == 0
    shown = capsys.readouterr()
    assert "mean_effect_of_mean" in shown.out
    assert "without the ten strongest FFN neurons of its list an answer loses" in shown.out
    assert main([*shell, "--model", str(families.language_model("gemma2").checkpoint.folder)]) == 0
    shown = capsys.readouterr()
    assert "mean_effect_of_mean" not in shown.out
    assert "No neuron was replaced by its mean. In models of the family “gemma2”" in shown.err
