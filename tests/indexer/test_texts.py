"""A corpus through a model, to a published file: what one pass a window tells, whoever ran it, whatever was killed."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from db.catalogue.builds import current_build, current_texts
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.neuron import Neuron
from db.texts.publish import Window, _content
from indexer import activations, language_model, texts
from indexer.__main__ import main
from indexer.activations import Activations, Batch, Reader, batches_of, longest_window, windows_of
from indexer.build import build
from indexer.corpus import Document
from indexer.device import Placement
from indexer.language_model import LanguageModel, load_model
from indexer.texts import CorpusChoice, Kept, plan
from tests import families, models
from tests.accelerator.second_device import DEVICE, second_device
from tests.conftest import CHECKOUT
from tests.indexer.test_text_statistics import Held, assert_is_brute_force
from tests.ray_process import ray_cluster, ray_settings

FAMILIES = ("llama", "gpt2", "mistral", "gemma2", "qwen2_moe", "deepseek_v3, experts", "phi3", "bloom", "granitemoe")
"""GQA, a BOS; no gate; a window of 4; norms behind; a gated shared expert; two kinds; one matrix; ALiBi; factors."""
SMALL_BATCH = 60  # tokens
TEXTS = (
    *models.SENTENCES,
    "",
    "a",
    models.SENTENCES[0],  # a duplicate
    " ".join(models.SENTENCES * 3),  # longer than a window
    "The",
    "日本 🙂 \0 <b>&amp;</b>",
)


def model_of(name: str) -> LanguageModel:
    return models.language_model(name) if name in models.VARIANTS else families.language_model(name)


def windows(model: LanguageModel, length: int = 40) -> list[Window]:
    documents = [Document(number, text, "") for number, text in enumerate(TEXTS)]
    return list(windows_of(documents, model.tokenizer, length))


def read(model: LanguageModel, some: list[Window], limit: int) -> dict[int, list[Activations]]:
    """What each window's neurons did, layer by layer, run in batches of so many tokens."""
    found: dict[int, list[Activations]] = {window.window_id: [] for window in some}
    reader = Reader(model, attention=True)
    for batch in batches_of(iter(some), limit):
        ends = np.cumsum([len(window.token_ids) for window in batch.windows]).tolist()

        def tell(one: Activations, batch: Batch = batch, ends: list[int] = ends) -> None:
            for window, end in zip(batch.windows, ends, strict=True):
                own = slice(end - len(window.token_ids), end)
                parts: list[Any] = [None if part is None else part[own].clone() for part in one[1:]]
                found[window.window_id].append(Activations(one.layer, *parts))

        reader.run(batch, tell)
    return found


def test_documents_never_share_a_window_and_are_cut_without_overlap():
    model = model_of("llama")
    some = windows(model, 7)
    assert [window.window_id for window in some] == list(range(len(some)))
    for number, text in enumerate(TEXTS):
        own = [window for window in some if window.document == number]
        assert [token for window in own for token in window.token_ids] == model.tokenizer(
            text, add_special_tokens=False
        )["input_ids"]
        assert [window.first for window in own] == list(range(0, 7 * len(own), 7))
    batches = list(batches_of(iter(some), 20))
    assert sorted(window.window_id for batch in batches for window in batch.windows) == list(range(len(some)))
    assert [batch.number for batch in batches] == list(range(len(batches)))
    assert max(len(one.windows) * max(len(window.token_ids) for window in one.windows) for one in batches) <= 21


@pytest.mark.parametrize("name", FAMILIES)
def test_a_batch_tells_of_each_window_what_a_pass_of_its_own_does(name):
    model = model_of(name)
    some, before = windows(model, 30), list(model.tokens.added[0])
    found = read(model, some, 200)
    for window in some[:9]:
        stream = model.forward([*before, *window.token_ids])
        assert len(found[window.window_id]) == model.dimensions.layers
        for layer, ffn, _, attention in found[window.window_id]:
            expected = stream.ffn_activation[layer, len(before) :, : ffn.shape[1]]
            assert ffn.shape == (len(window.token_ids), model.dimensions.ffn_neurons(layer))
            assert (ffn - expected).abs().max() <= 1e-5 * expected.abs().max()
            assert attention is not None
            last = stream.attention_activation(layer).sum(dim=1).flatten()
            assert (attention[-1] - last).abs().max() <= 1e-5 * last.abs().max()
    assert all(one.any() for one in (ffn for _, ffn, _, _ in found[0]))


def factors(model: LanguageModel, ids: list[int], layer: int) -> tuple[Tensor, Tensor]:
    """Gate's and up's sides, [T, n], from the module's own weights and what it reads; the shared expert first."""
    kept: list[Tensor] = []
    block = model.module.get_submodule(f"{model.architecture.layers}.{layer}.{model.architecture.ffn}")
    handle = block.register_forward_pre_hook(lambda _module, args: kept.append(args[0][0]))
    model.forward(ids)
    handle.remove()
    read_there, state = kept[0], dict(block.named_parameters())
    if "gate_up_proj.weight" in state:
        both = read_there @ state["gate_up_proj.weight"].T
        half = both.shape[1] // 2
        return both[:, :half], both[:, half:]
    shared = "shared_expert." if "shared_expert.gate_proj.weight" in state else ""
    sides = [read_there @ state[f"{shared}{side}_proj.weight"].T for side in ("gate", "up")]
    if shared:
        experts = torch.einsum("td,ewd->tew", read_there, state["experts.gate_up_proj"])
        half = experts.shape[2] // 2
        sides = [
            torch.cat([one, part.flatten(1)], dim=1)
            for one, part in zip(sides, (experts[..., :half], experts[..., half:]), strict=True)
        ]
    return sides[0], sides[1]


@pytest.mark.parametrize("name", ["llama", "phi3", "glm", "gemma2", "qwen2_moe"])
def test_signs_of_gate_and_up_are_those_of_the_modules_weights(name):
    model = model_of(name)
    some, before = windows(model, 30)[:3], list(model.tokens.added[0])
    for window_id, layers in read(model, some, 200).items():
        for layer, ffn, gates, _ in layers:
            gate, up = (one[len(before) :] for one in factors(model, [*before, *some[window_id].token_ids], layer))
            active = ffn != 0
            assert gates is not None
            assert active.any()
            sure = active & (gate.abs() > 1e-4) & (up.abs() > 1e-4)
            assert torch.equal(gates[sure], gate[sure] > 0)
            assert torch.equal((ffn[sure] > 0) == gates[sure], up[sure] > 0)


def test_without_a_gate_that_keeps_signs_there_are_no_cases():
    model = model_of("llama")
    ungated, own = model_of("gpt2").checkpoint, model.checkpoint.config
    assert not activations.signs_are_known(ungated.config, ungated.architecture)
    for function, known in {"silu": True, "gelu": True, "relu": True, "sigmoid": False, "tanhh": False}.items():
        config = type(own).from_dict(own.to_dict() | {"hidden_act": function})
        assert activations.signs_are_known(config, model.architecture) is known


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "qwen2_moe"])
def test_everything_published_is_brute_force(name, corpus, tmp_path, monkeypatch):
    """One window a batch, so that what is held, by a pass of each window's own, is the same to the last bit."""
    monkeypatch.setattr(activations, "_TOKENS", 1)
    model = model_of(name)
    before, some, size = list(model.tokens.added[0]), windows(model, 36), model.dimensions
    job = plan(model.checkpoint, CorpusChoice(str(corpus)), tmp_path, window=36, excerpts=4, attention=True).job
    assert job.batches == len(some)
    kept = Kept(model.checkpoint, job.stamp)
    reader = Reader(model, attention=True)
    for batch in batches_of(iter(some), 1):
        kept.add(reader, batch)
    signs = read(model, some, 1)
    streams = [model.forward([*before, *window.token_ids]) for window in some]
    blocks = list(kept.gathered())
    assert np.concatenate([one.neuron_ids for one in blocks]).tolist() == list(range(size.neurons_before(size.layers)))
    for layer, block in enumerate(blocks[::2]):
        count = size.ffn_neurons(layer)
        held = []
        for window, stream in zip(some, streams, strict=True):
            gates = signs[window.window_id][layer].gates
            active = stream.ffn_activation[layer, len(before) :, :count].numpy()
            held.append(Held(window, active, None if gates is None else gates.numpy()))
        assert_is_brute_force(block, held, 4)
    for layer, block in enumerate(blocks[1::2]):
        held = []
        for window in some:
            found = signs[window.window_id][layer].attention
            assert found is not None
            held.append(Held(window, found.numpy()))
        assert_is_brute_force(block, held, 4)


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    """With a build of the model."""
    build(models.checkpoint("llama"), tmp_path / "catalogue", depth=3, screen=False)
    return tmp_path / "catalogue"


def command(corpus: Path, catalogue: Path, *more: str) -> list[str]:
    common = [str(models.folder("llama")), "--corpus", str(corpus), "--catalogue", str(catalogue), "--window", "20"]
    return ["texts", *common, *more]


def published(catalogue: Path) -> str:
    """The content of the current texts."""
    path = current_texts(current_build(catalogue / "llama"))
    assert path is not None
    found = _content(path)
    (catalogue / "llama" / "TEXTS").unlink()
    path.unlink()
    return found


def test_the_command_publishes_and_a_second_run_has_nothing_to_do(corpus, catalogue, capsys):
    assert main(command(corpus, catalogue, "--estimate", "--json")) == 0
    estimated = json.loads(capsys.readouterr().out)
    assert main(command(corpus, catalogue, "--json")) == 0
    told = capsys.readouterr()
    done = json.loads(told.out)
    seen = windows(model_of("llama"), 20)
    assert done["fresh"]
    assert {name: done[name] for name in ("documents", "windows", "tokens")} == {
        "documents": len(TEXTS),
        "windows": len(seen),
        "tokens": sum(len(window.token_ids) for window in seen),
    }
    assert {estimated[name] == done[name] for name in ("documents", "windows", "tokens")} == {True}
    assert "tokens a second" in told.err
    with Catalogue.open(current_build(catalogue / "llama")) as opened:
        assert opened.texts is not None
        found = opened.texts.of(Neuron.parse("L1.F5"))
        stamp = opened.texts.stamp
    assert (found.tokens_seen, stamp.window, stamp.attention, stamp.own_words) == (done["tokens"], 20, False, False)
    best = found.positive[0]
    assert best.activations[best.peak_at] == pytest.approx(best.peak, rel=1e-3)
    own = seen[best.window]
    stream = model_of("llama").forward([0, *own.token_ids])
    assert best.peak == pytest.approx(float(stream.ffn_activation[1, 1 + best.position, 5]), rel=1e-5)
    assert (best.document, len(best.tokens)) == (own.document, min(len(own.token_ids), best.position + 9) - best.first)
    assert main(command(corpus, catalogue)) == 0
    assert "Nothing to do" in capsys.readouterr().err
    assert not list((catalogue / "llama").glob("work-*"))


TRIAL = 4  # batches that are counted for the estimate


def noted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the batches that are counted from now on."""
    add, numbers = Kept.add, list[int]()

    def counted(kept: Kept, reader: Reader, batch: Batch) -> None:
        numbers.append(batch.number)
        add(kept, reader, batch)

    monkeypatch.setattr(Kept, "add", counted)
    return numbers


def stopping_after(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop, as by a kill, after so many batches have been counted."""
    add, done = Kept.add, list[Batch]()

    def counted(kept: Kept, reader: Reader, batch: Batch) -> None:
        if len(done) == count + TRIAL:
            raise KeyboardInterrupt
        done.append(batch)
        add(kept, reader, batch)

    monkeypatch.setattr(Kept, "add", counted)


@pytest.mark.parametrize("after", [0, 1, 4])
def test_stopped_and_gone_on_sharded_and_merged_are_one_run(after, corpus, catalogue, capsys, monkeypatch):
    monkeypatch.setattr(activations, "_TOKENS", SMALL_BATCH)
    assert main(command(corpus, catalogue)) == 0
    whole = published(catalogue)

    with monkeypatch.context() as patch:
        patch.setattr(texts, "SAVE_SECONDS", 0.0)
        patch.setattr(texts, "_MOST_SAVING", 1e9)
        stopping_after(after, patch)
        assert main(command(corpus, catalogue)) == 130
    assert "goes on from what is finished" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        numbers = noted(patch)
        assert main(command(corpus, catalogue)) == 0
    assert numbers[TRIAL] == after
    assert published(catalogue) == whole

    for number in (3, 1, 2):
        assert main(command(corpus, catalogue, "--shard", f"{number}/3")) == 0
    with monkeypatch.context() as patch:
        patch.setattr(Kept, "add", None)  # nothing is left to do
        assert main(command(corpus, catalogue)) == 0
    assert published(catalogue) == whole


def killed_after(count: int, words: list[str]) -> None:
    """What a process does that is killed when so many batches have been counted."""
    add, done = Kept.add, list[Batch]()

    def counted(kept: Kept, reader: Reader, batch: Batch) -> None:
        add(kept, reader, batch)
        done.append(batch)
        if len(done) == count + TRIAL:
            os.kill(os.getpid(), signal.SIGKILL)

    texts.SAVE_SECONDS, texts._MOST_SAVING, activations._TOKENS = 0.0, 1e9, SMALL_BATCH
    Kept.add = counted  # type: ignore[method-assign,assignment]
    main(words)


def test_killed_without_warning_it_goes_on(corpus, catalogue, monkeypatch):
    monkeypatch.setattr(activations, "_TOKENS", SMALL_BATCH)
    assert main(command(corpus, catalogue)) == 0
    whole = published(catalogue)
    process = multiprocessing.get_context("spawn").Process(target=killed_after, args=(3, command(corpus, catalogue)))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    (stored,) = (catalogue / "llama").glob("work-*/share-*.json")
    assert json.loads(stored.read_text())["files"]["state.safetensors"]["rows"] == 2
    numbers = noted(monkeypatch)
    assert main(command(corpus, catalogue)) == 0
    assert numbers[TRIAL] == 2
    assert published(catalogue) == whole


def test_shares_that_are_begun_say_among_how_many_and_others_are_not_mixed_in(corpus, catalogue, monkeypatch):
    monkeypatch.setattr(activations, "_TOKENS", SMALL_BATCH)
    assert main(command(corpus, catalogue)) == 0
    whole = published(catalogue)
    assert main(command(corpus, catalogue, "--shard", "2/2")) == 0
    numbers = noted(monkeypatch)
    assert main(command(corpus, catalogue)) == 0
    assert {number % 2 for number in numbers[TRIAL:]} == {0}
    assert published(catalogue) == whole
    assert main(command(corpus, catalogue, "--shard", "1/2", "--excerpts", "3")) == 0  # of other texts
    assert main(command(corpus, catalogue)) == 0
    assert published(catalogue) == whole


def test_memory_is_flat(corpus):
    """No state grows with what is counted."""
    model = model_of("llama")
    job = plan(model.checkpoint, CorpusChoice(str(corpus)), corpus.parent).job
    kept, reader = Kept(model.checkpoint, job.stamp), Reader(model)
    sizes = []
    for _ in range(2):
        for batch in batches_of(iter(windows(model, 20)), 100):
            kept.add(reader, batch)
        sizes.append(sum(one.nbytes for one in kept.tensors().values()))
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--window", "64"], "--window 64: give 1 to 63"),
        (["--excerpts", "0"], "--excerpts 0: give at least 1"),
        (["--column", "body"], "it has no “body”"),
        (["--shard", "1/2", "--engine", "ray"], "--shard is for jobs"),
        (["--task-cpus", "2"], "--task-cpus is for a cluster"),
    ],
)
def test_bad_options_get_one_line(more, said, corpus, catalogue, capsys):
    assert main(command(corpus, catalogue, *more)) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_without_a_catalogue_it_says_what_to_build(corpus, tmp_path, capsys):
    assert main(command(corpus, tmp_path / "none")) == 2
    assert "python -m indexer build" in capsys.readouterr().err.splitlines()[-1]


def test_a_token_that_the_model_has_not_is_told_with_its_document():
    model = model_of("llama")
    batch = Batch(0, (Window(0, 0, 0, (5,)), Window(1, 7, 0, (5, 999))))
    with pytest.raises(AtlasError, match="token 999 of document 7"):
        Reader(model).run(batch, lambda _found: None)


def test_windows_are_as_long_as_the_model_allows_unless_told():
    model = model_of("llama")
    assert longest_window(model.dimensions, model.tokens, None) == models.MAX_POSITIONS - 1  # and the BOS
    assert longest_window(model.dimensions, model.tokens, 5) == 5


@pytest.mark.parametrize("name", ["llama", "qwen2_moe"])
def test_a_second_device_counts_the_same(name, corpus, monkeypatch):
    here = model_of(name)
    job = plan(here.checkpoint, CorpusChoice(str(corpus)), corpus.parent, attention=True).job
    module = language_model._load_module(here.checkpoint, here.checkpoint.config, torch.float32)
    monkeypatch.setattr(language_model, "_load_module", lambda *_: module)
    monkeypatch.setattr(language_model, "chosen_device", lambda: DEVICE)
    monkeypatch.setattr(language_model, "chosen_dtype", lambda *_: torch.float32)

    def run(model: LanguageModel) -> dict[str, Tensor]:
        kept, reader = Kept(model.checkpoint, job.stamp), Reader(model, attention=True)
        for batch in batches_of(iter(windows(here, 30)), 200):
            kept.add(reader, batch)
        return kept.tensors()

    with second_device():
        there = load_model(here.checkpoint)
        assert there.placement == Placement(DEVICE, torch.float32)
        found = run(there)
    for part, one in run(here).items():
        assert torch.equal(one.nan_to_num(nan=-1), found[part].nan_to_num(nan=-1)), part


@pytest.mark.slow
def test_two_ray_workers_give_what_one_process_gives(corpus, catalogue, ray_is_installed, capsys):
    assert main(command(corpus, catalogue)) == 0
    whole = published(catalogue)
    with ray_cluster(2) as address:
        parts = command(
            Path(os.path.relpath(corpus, corpus.parent)), catalogue, "--engine", "ray", "--address", address
        )
        parts[1] = os.path.relpath(models.folder("llama"), corpus.parent)
        own = os.environ | ray_settings() | {"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
        line = [sys.executable, "-m", "indexer", *parts]
        done = subprocess.run(line, env=own, cwd=corpus.parent, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "2 shards are made by a cluster: machines 1, tasks at a time 2" in done.stderr
    assert published(catalogue) == whole
