"""The estimate counts what the build will write, reads no tensor, and says what it cannot estimate."""

import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors

from indexer import estimate as module
from indexer import projection, stored
from indexer.__main__ import main
from indexer.build import build
from indexer.estimate import estimate
from indexer.families import ARCHITECTURES
from tests import models


@pytest.mark.parametrize(("name", "screened"), [("llama", False), ("gpt2-narrow", True)])
def test_it_counts_what_a_build_holds(name, screened, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_TRIAL_NEURONS", 16)
    monkeypatch.setattr(projection, "bf16_is_faster", lambda _width: screened)  # on some machines so, on some not
    found = estimate(models.checkpoint(name), depth=5)
    built = build(models.checkpoint(name), tmp_path, depth=5)
    assert found.neurons == built.neurons
    assert found.rows == built.neurons * 2 * 5
    assert found.model == name
    assert found.screened == screened
    for expected in (found.indexing_seconds, found.publishing_seconds, found.file_size, found.disk_while_building):
        assert expected > 0
    assert found.seconds > found.indexing_seconds + found.publishing_seconds
    assert found.peak_memory < 1e9


def test_no_tensor_is_read(monkeypatch):
    opened = safetensors.safe_open

    class Headers:
        def __init__(self, *arguments, **options):
            self._file = opened(*arguments, **options)

        def __enter__(self):
            self._file.__enter__()
            return self

        def __exit__(self, *error):
            return self._file.__exit__(*error)

        def keys(self):
            return self._file.keys()

        def get_slice(self, name):
            return self._file.get_slice(name)

    monkeypatch.setattr(stored, "safe_open", Headers)
    assert estimate(models.checkpoint("gpt2"), depth=5).neurons == 3 * (128 + 32)


def test_from_the_shell(tmp_path, capsys):
    arguments = ["estimate", str(models.folder("llama")), "--catalogue", str(tmp_path), "--depth", "4"]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("llama: 288 neurons, 2,304 rows")
    assert [line.split()[0] for line in out.splitlines()[1:]] == ["model", "work", "time", "with", "memory", "disk"]
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["neurons"], found["rows"]) == (288, 2304)
    assert {"seconds", "peak_memory", "file_size", "disk_while_building"} <= set(found)
    assert list(tmp_path.iterdir()) == []


def test_files_that_do_not_fit_the_config(tmp_path, capsys):
    folder = Path(shutil.copytree(models.folder("llama"), tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 400}))
    assert main(["estimate", str(folder)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "promises an embedding of 400 × 32, the files hold 323 × 32" in line


@pytest.mark.parametrize("option", ["--depth", "--memory-mb"])
def test_bad_numbers(option, capsys):
    assert main(["estimate", str(models.folder("llama")), option, "0"]) == 2
    assert f"{option} 0" in capsys.readouterr().err


def llama(vocabulary, width, ffn, layers, heads, kv_heads, **more):
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "dtype": "bfloat16",
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "tie_word_embeddings": False,
    } | more


KNOWN = {
    # the config's facts; V, d; by hand: neurons of FFNs and of attention, parameters; directions that choose
    "gpt2-xl": (
        {
            "model_type": "gpt2",
            "architectures": ["GPT2LMHeadModel"],
            "vocab_size": 50257,
            "n_embd": 1600,
            "n_layer": 48,
            "n_head": 25,
            "n_positions": 1024,
        },
        (50257, 1600),
        (307_200, 76_800, 1_557_611_200),
        1600,
    ),
    "llama-2-7b": (llama(32000, 4096, 11008, 32, 32, 32), (32000, 4096), (352_256, 131_072, 6_738_415_616), 4096),
    "llama-3-8b": (llama(128256, 4096, 14336, 32, 32, 8), (128256, 4096), (458_752, 131_072, 8_030_261_248), 486),
    "llama-3-70b": (llama(128256, 8192, 28672, 80, 64, 8), (128256, 8192), (2_293_760, 655_360, 70_553_706_496), 486),
    "qwen2.5-72b": (
        llama(152064, 8192, 29568, 80, 64, 8, model_type="qwen2", architectures=["Qwen2ForCausalLM"]),
        (152064, 8192),
        (2_365_440, 655_360, 72_706_203_648),
        345,  # 8e12 / 152,064²
    ),
    "mixtral-8x7b": (
        llama(
            *(32000, 4096, 14336, 32, 32, 8),
            model_type="mixtral",
            architectures=["MixtralForCausalLM"],
            num_local_experts=8,
            num_experts_per_tok=2,
        ),
        (32000, 4096),
        (3_670_016, 131_072, 46_702_792_704),
        4096,
    ),
    "olmoe-1b-7b": (
        llama(
            *(50304, 2048, 1024, 16, 16, 16),
            model_type="olmoe",
            architectures=["OlmoeForCausalLM"],
            num_experts=64,
            num_experts_per_tok=8,
        ),
        (50304, 2048),
        (1_048_576, 32_768, 6_919_161_856),
        2048,
    ),
}


@pytest.mark.parametrize("name", [name for name, known in KNOWN.items() if known[0]["model_type"] in ARCHITECTURES])
def test_from_a_config_alone(name, tmp_path, monkeypatch, capsys):
    """Of two ways to name it: a folder without weights, and the file."""
    config, (vocabulary, width), (ffn, attention, parameters), directions = KNOWN[name]
    near = math.ceil(vocabulary * directions / width)
    folder = tmp_path / name
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    seconds = 1e-3
    trial = (seconds, SimpleNamespace(screens=False, workspace=lambda _vocabulary: 1e9))
    monkeypatch.setattr(module, "_trial", lambda *_: trial)
    assert main(["estimate", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    neurons = ffn + attention
    assert (found["model"], found["neurons"], found["rows"]) == (name, neurons, neurons * 100)
    assert (found["parameters"], found["weight_bytes"]) == (parameters, parameters * (4 if name == "gpt2-xl" else 2))
    assert found["flops"] == pytest.approx(2.0 * (neurons + near) * vocabulary * width)
    assert found["indexing_seconds"] == pytest.approx((neurons + 0.4 * near) * seconds)
    assert found["seconds"] > found["gpu_seconds"] > found["gpus_seconds"] > found["publishing_seconds"]
    assert "Only the config" in found["notices"][0]
    mixture = "num_experts_per_tok" in config  # its experts are joined in memory; of others two layers are enough
    assert (found["peak_memory"] > found["weight_bytes"]) == mixture

    assert main(["estimate", "--config", str(folder / "config.json"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found
    assert main(["estimate", str(folder)]) == 0
    assert f"{neurons:,} neurons, {neurons * 100:,} rows" in capsys.readouterr().out


def test_hours_of_seventy_billion_parameters(tmp_path, monkeypatch, capsys):
    """At 100 GFLOP/s, as two cores without bf16 reach: 6.2 PFLOP, 17 h; on a GPU, and on eight, minutes."""
    (tmp_path / "config.json").write_text(json.dumps(KNOWN["llama-3-70b"][0]))
    seconds = 2 * 128256 * 8192 / 1e11
    monkeypatch.setattr(module, "_trial", lambda *_: (seconds, SimpleNamespace(screens=False, workspace=lambda _: 1e9)))
    assert main(["estimate", "--config", str(tmp_path / "config.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "70.55 billion parameters, 141.1 GB" in lines[1]
    assert "6.21e+03 TFLOP" in lines[2]
    assert "indexing 17.2 h" in lines[3]
    assert "H100" in lines[4]
    assert "9 min, with eight 6 min" in lines[4]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Give one of the two: MODEL, or --config FILE"),
        (["demo", "--config", "config.json"], "Give one of the two"),
        (["--config", "absent.json"], "there is no such file"),
    ],
)
def test_nothing_to_estimate(arguments, said, capsys):
    assert main(["estimate", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


@pytest.mark.parametrize("beside", ["model.safetensors.index.json", "adapter_config.json", "pytorch_model.bin"])
def test_a_folder_that_lost_its_weights_is_no_config_alone(beside, tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps(KNOWN["llama-2-7b"][0]))
    (tmp_path / beside).write_text("{}")
    assert main(["estimate", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err
