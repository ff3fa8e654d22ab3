"""The analysis from the shell: one JSON object on standard output, or one clear line on standard error and status 2."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from app.attribution import analyse
from app.attribution.__main__ import main
from app.attribution.results import to_json
from indexer.build import build
from tests import models

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch) -> Path:
    """Run where no catalogue and no model lies by chance."""
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    return empty


@pytest.fixture
def copy(tmp_path) -> Path:
    """A checkpoint folder that a test may spoil."""
    return Path(shutil.copytree(models.folder("llama"), tmp_path / "spoilt"))


def refusal(capsys, *arguments: str) -> str:
    """The one line that the command refuses with."""
    assert main(list(arguments)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = str(err).splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize("name", models.FAMILIES)
def test_json_is_one_object_and_nothing_else(name, capsys):
    arguments = [models.PROMPT, "--model", str(models.folder(name)), "--top", "5", "--target", " the", "--json"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    given = json.loads(out)
    expected = to_json(analyse(models.language_model(name), models.PROMPT, top=5, target=" the"))
    assert given["model"] == name
    assert given["tokens"] == expected["tokens"]
    assert given["target"] == expected["target"]
    assert given["seconds"]["load"] > 0
    for kind in ("ffn_value_neurons", "attention_value_neurons"):
        assert [one["neuron"] for one in given[kind]] == [one["neuron"] for one in expected[kind]]
        assert [one["score"] for one in given[kind]] == pytest.approx(
            [one["score"] for one in expected[kind]], abs=1e-5
        )


def test_as_a_program_it_prints_the_object_and_nothing_else(elsewhere):
    command = [sys.executable, "-m", "app.attribution", models.PROMPT, "--model", str(models.folder("gpt2")), "--json"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["prompt"] == models.PROMPT
    assert done.stdout.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_options_reach_the_analysis(capsys):
    folder = str(models.folder("gpt2"))
    arguments = ["--model", folder, "--json", "--top", "2", "--position", "-2", "--conventions", "notebook"]
    assert main([models.PROMPT, *arguments]) == 0
    given = json.loads(capsys.readouterr().out)
    assert given["position"] == len(given["tokens"]) - 2
    assert given["conventions"] == "notebook"
    assert [len(given[f"{kind}_value_neurons"]) for kind in ("ffn", "attention")] == [2, 2]


def test_without_json_a_person_can_read_it(capsys):
    assert main([models.PROMPT, "--model", str(models.folder("llama")), "--top", "3", "--target", " the"]) == 0
    out = capsys.readouterr().out
    analysis = analyse(models.language_model("llama"), models.PROMPT, top=3, target=" the")
    best, target = analysis.ffn_value_neurons[0], analysis.target
    (row,) = [line for line in out.splitlines() if line.split()[:1] == [best.neuron.label]]
    assert f"{best.score:+.4f}" in row
    assert f"{target.probability:.4f}" in out
    assert "␣the" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([""], "The prompt is empty"),
        ([models.PROMPT, "--max-tokens", "3"], "the limit is 3. Shorten it. Or allow more with --max-tokens."),
        (["the " * 300], "the limit is 64, all that llama takes. Shorten it."),
        (["x" * 20_000], "20,000 characters, far more than 64 tokens, all that llama takes. Shorten it."),
        ([models.PROMPT, "--against", ""], "The prompt to compare with is empty"),
        ([models.PROMPT, "--target", " hydrogen"], "is not one token"),
        ([models.PROMPT, "--target", ""], "The target is empty"),
        ([models.PROMPT, "--position", "7"], "There is no position 7"),
        (["caf\udce9"], "prompt"),  # what a shell hands over for bytes that are not UTF-8
        ([models.PROMPT, "--target", "\udce9"], "target"),
        ([models.PROMPT, "--catalogue", "nowhere"], "nowhere"),
        ([models.PROMPT, "--no-suppressing", "--within", "L1.F3"], "L1.F3 is one neuron, and has none within it"),
        ([models.PROMPT, "--through", "L0.F3"], "names no head. Write a neuron and a head"),
        (["--prompts", "nowhere.txt", "--out", "x.jsonl"], "nowhere.txt cannot be read (No such file or directory)."),
    ],
)
def test_bad_questions_get_one_line_and_status_2(arguments, said, capsys):
    assert said in refusal(capsys, *arguments, "--model", str(models.folder("llama")), "--json")


def test_a_tokenizer_says_nothing_of_its_own_of_a_long_prompt(copy, capsys):
    path = copy / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": 5}))
    assert main(["the " * 10, "--model", str(copy), "--top", "1", "--no-suppressing", "--json"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("arguments", "endings"),
    [
        (["--prompts", "no.txt", "--out", "x.csv"], ".jsonl, .parquet."),
        (["--prompts", "no.txt", "--against-prompts", "no.txt", "--out", "x.jsonl"], ".json, .csv, .parquet."),
        (["--activated-by", "x", "--out", "x.jsonl"], ".json, .csv, .parquet."),
        ([models.PROMPT, "--against", "x", "--out", "x.jsonl"], ".json, .csv, .parquet."),
    ],
)
def test_a_file_of_unknown_form_is_refused_before_anything_is_read(arguments, endings, capsys):
    assert f"must be one of {endings}" in refusal(capsys, *arguments, "--model", "nowhere")


@pytest.mark.parametrize("arguments", [[models.PROMPT, "--top", "-1"], [models.PROMPT, "--conventions", "mine"], []])
def test_wrong_options_are_refused_with_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("asked", "more"),
    [
        (["--keys", "L0.F1"], ["--out", "x.csv"]),
        (["--keys", "L0.F1"], ["--position", "0"]),
        (["--generic"], ["--flow"]),
        (["--generic"], ["--zero", "L1.H1"]),
        (["--activated-by", "a river"], ["--measure", "3"]),
        (["--prompts", "x.txt", "--out", "x.jsonl"], ["--flow", "5"]),
        (["--prompts", "x.txt", "--out", "x.jsonl"], ["--head", "L1.H1"]),
        ([models.PROMPT, "--zero", "L1.H1"], ["--measure", "3"]),
        ([models.PROMPT, "--scale", "L1.H1=2"], ["--effect-of", "L1.H1"]),
    ],
)
def test_an_option_that_would_be_passed_over_is_refused(asked, more, capsys):
    assert f"{more[0]} does not go with " in refusal(capsys, *asked, *more)


def test_a_folder_without_safetensors(copy, capsys):
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    line = refusal(capsys, models.PROMPT, "--model", str(copy))
    assert "no safetensors file" in line
    assert str(copy) in line


def test_a_cut_safetensors_file(copy, capsys):
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert str(copy) in refusal(capsys, models.PROMPT, "--model", str(copy))


def test_a_folder_without_config(copy, capsys):
    (copy / "config.json").unlink()
    assert "has no config.json" in refusal(capsys, models.PROMPT, "--model", str(copy))


def test_a_config_that_is_no_json(copy, capsys):
    (copy / "config.json").write_text('{"model_type": "llama"')
    assert "config" in refusal(capsys, models.PROMPT, "--model", str(copy))


def test_a_folder_without_tokenizer(copy, capsys):
    for path in copy.glob("tokenizer*"):
        path.unlink()
    assert "tokenizer" in refusal(capsys, models.PROMPT, "--model", str(copy))


def test_a_family_without_a_row(copy, capsys):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(
        json.dumps(config | {"model_type": "codegen", "architectures": ["CodeGenForCausalLM"]})
    )
    assert AutoConfig.from_pretrained(copy).model_type == "codegen"
    line = refusal(capsys, models.PROMPT, "--model", str(copy))
    assert "“codegen”" in line
    assert "llama" in line


def test_no_such_model(capsys):
    assert "no folder" in refusal(capsys, models.PROMPT, "--model", "no/such/model/anywhere")


def test_weights_that_are_not_numbers(copy, capsys):
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "model.safetensors")
    weights["model.layers.2.mlp.down_proj.weight"][3, 4] = torch.nan
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    line = refusal(capsys, models.PROMPT, "--model", str(copy))
    assert "not finite (in model.layers.2.mlp.down_proj.weight)" in line


def test_a_token_whose_embedding_is_no_number(copy, capsys):
    """The probe, by which a model is checked when it is loaded, has other tokens."""
    from safetensors.torch import load_file, save_file

    token = models.language_model("llama").tokenizer.encode(models.PROMPT)[2]
    weights = load_file(copy / "model.safetensors")
    weights["model.embed_tokens.weight"][token, 4] = torch.nan
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert "not finite" in refusal(capsys, models.PROMPT, "--model", str(copy), "--no-suppressing", "--json")


@pytest.mark.parametrize("option", ["--model", "--prompts", "--catalogue"])
def test_a_path_that_the_system_refuses(option, capsys):
    prompt = [] if option == "--prompts" else [models.PROMPT]
    out = ["--out", "found.jsonl"] if option == "--prompts" else []
    given = ["--model", str(models.folder("llama"))] if option != "--model" else []
    line = refusal(capsys, *prompt, *out, *given, option, "x" * 300)
    assert "File name too long" in line
    assert len(line) < 400


def test_the_catalogue_of_another_model(tmp_path, capsys):
    built = build(models.checkpoint("mistral"), tmp_path / "catalogue", depth=3)
    for catalogue in (built.path, built.path.parent):
        arguments = [models.PROMPT, "--model", str(models.folder("llama")), "--catalogue", str(catalogue)]
        line = refusal(capsys, *arguments)
        assert "other weights" in line
        assert "mistral" in line
        assert "llama" in line


def test_with_its_catalogue_the_report_shows_the_tokens_that_a_neuron_raises(tmp_path, capsys):
    from db.catalogue.store import Catalogue
    from db.token_text import shorten

    built = build(models.checkpoint("llama"), tmp_path / "catalogue", depth=6)
    arguments = [
        "--model",
        str(models.folder("llama")),
        "--catalogue",
        str(built.path),
        "--top",
        "4",
        "--target",
        " the",
    ]
    assert main([models.PROMPT, *arguments]) == 0
    out = capsys.readouterr().out
    analysis = analyse(models.language_model("llama"), models.PROMPT, top=4, target=" the")
    with Catalogue.open(built.path) as catalogue:
        for one in analysis.ffn_value_neurons:
            card = catalogue.neuron(one.neuron)
            # an activation above zero raises what the neuron promotes, one below zero what it suppresses
            raised = card.top if one.activation > 0 else card.bottom
            (row,) = [line for line in out.splitlines() if line.split()[:1] == [one.neuron.label]]
            assert row.endswith("raises " + " ".join(shorten(entry.token.display, 16) for entry in raised[:5]))
