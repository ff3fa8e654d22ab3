"""The offline job on small checkpoints: what it publishes is brute force, and what interrupts it does no harm."""

import errno
import shutil
import weakref
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from app.attribution.run import require_same_model
from db.catalogue.builds import current_build
from db.catalogue.check import content_hash
from db.catalogue.reader import read_only_connection
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.neuron import Neuron
from indexer import build as module
from indexer import language_model
from indexer.__main__ import main
from indexer.build import build
from indexer.checkpoint import Checkpoint
from indexer.projection import Projector
from indexer.shards import Shards
from tests import models, oracle
from tests.oracle import assert_same_end

DEPTH = 10  # shallow enough for a vocabulary of 323 to be screened
CLOSE = 1e-5


def every_neuron(name: str) -> list[tuple[Neuron, torch.Tensor]]:
    """(neuron, value vector) in the order of the catalogue's ids."""
    _, width, _ = models.SIZES[name]
    found: list[tuple[Neuron, torch.Tensor]] = []
    for layer in range(models.LAYERS):
        ffn, attention = oracle.value_vectors(models.folder(name), layer)
        found += [(Neuron.ffn(layer, index), row) for index, row in enumerate(ffn)]
        found += [(Neuron.attention(layer, *divmod(place, width)), row) for place, row in enumerate(attention)]
    return found


def assert_is_brute_force(path: Path, name: str, depth: int) -> None:
    """Every list and statistic in the file, over the rows that are tokens; and that the catalogue answers with them
    under the right label.
    """
    head, neurons = oracle.head_of(models.folder(name)), every_neuron(name)
    every = head.logits(torch.stack([vector for _, vector in neurons]), beta=False)[:, models.tokens_of(name)]
    with read_only_connection(path) as connection:
        rows = connection.execute("SELECT * FROM neuron_token ORDER BY neuron_id, sign DESC, rank").fetchnumpy()
        figures = connection.execute("SELECT mean, std, norm FROM neuron ORDER BY neuron_id").fetchnumpy()
    assert len(rows["rank"]) == len(neurons) * 2 * depth
    tokens: list[Any] = rows["token_id"].reshape(-1, 2, depth).tolist()
    logits: list[Any] = rows["logit"].reshape(-1, 2, depth).tolist()
    for place, own in enumerate(every):
        for end, largest in ((0, True), (1, False)):
            assert_same_end(tokens[place][end], logits[place][end], own, largest=largest, atol=CLOSE)
    assert figures["mean"] == pytest.approx(every.mean(dim=1).numpy(), abs=CLOSE)
    assert figures["std"] == pytest.approx(every.std(dim=1, correction=0).numpy(), abs=CLOSE)
    assert figures["norm"] == pytest.approx([float(vector.norm()) for _, vector in neurons], abs=CLOSE)

    with Catalogue.open(path) as catalogue:
        for place in range(0, len(neurons), 17):
            card = catalogue.neuron(neurons[place][0])
            for entries, end in ((card.top, 0), (card.bottom, 1)):
                assert [one.token.token_id for one in entries] == tokens[place][end]
                assert [one.z for one in entries] == pytest.approx(
                    [(logit - card.mean) / card.std for logit in logits[place][end]], abs=1e-4
                )


def spoil(tmp_path: Path, name: str, change) -> Checkpoint:
    """A copy of a checkpoint whose tensors `change` edits in place."""
    folder = shutil.copytree(models.folder(name), tmp_path / "spoilt")
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return Checkpoint("spoilt", folder)


def published(catalogue: Path) -> list[Path]:
    """Whatever a reader could take for a build."""
    return [*catalogue.rglob("*.duckdb"), *catalogue.rglob("CURRENT")]


@pytest.mark.parametrize("name", models.FAMILIES)
def test_what_is_published_is_brute_force(name, tmp_path):
    built = build(models.checkpoint(name), tmp_path, depth=5)
    assert built.fresh
    assert built.path == current_build(tmp_path / name)
    assert built.neurons == len(every_neuron(name))
    assert_is_brute_force(built.path, name, 5)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_screening_publishes_the_same(name, tmp_path):
    screened = build(models.checkpoint(name), tmp_path / "screened", depth=DEPTH, screen=True)
    plainly = build(models.checkpoint(name), tmp_path / "plain", depth=DEPTH, screen=False)
    assert screened.screened == screened.neurons
    assert plainly.screened == 0
    for built in (screened, plainly):
        assert_is_brute_force(built.path, name, DEPTH)


def test_a_depth_beyond_the_vocabulary_keeps_every_token(tmp_path):
    built = build(models.checkpoint("llama-square"), tmp_path, depth=1000)
    with Catalogue.open(built.path) as catalogue:
        card = catalogue.neuron(Neuron.ffn(1, 2))
        assert sorted(one.token.token_id for one in card.top) == list(range(models.TOKENS))
        assert [one.token for one in card.top] == [one.token for one in reversed(card.bottom)]


def test_the_stamp_says_what_was_built(tmp_path):
    built = build(models.checkpoint("qwen2"), tmp_path, depth=5)
    model = models.language_model("qwen2")
    with Catalogue.open(built.path) as catalogue:
        info = catalogue.info
        require_same_model(model, catalogue)
        texts = {catalogue.token(token_id).text for token_id in model.tokenizer(models.PROMPT)["input_ids"]}
        assert texts == {"<s>", "The", " river", " runs", " to", " the", " sea"}
        assert catalogue.token(models.VOCABULARY - 1).special  # a row that no token uses
        match = catalogue.resolve(" sea").matched[0]  # the exact text comes first
        assert match.token_id == model.tokenizer(" sea", add_special_tokens=False)["input_ids"][0]
    assert (info.model, info.family, info.layers, info.d_model) == ("qwen2", "qwen2", models.LAYERS, models.D_MODEL)
    assert (info.ffn_neurons, info.attention_neurons) == (3 * 48, 3 * 4 * 8)
    assert (info.heads, info.head_dim, info.vocabulary, info.depth) == (models.HEADS, 8, models.VOCABULARY, 5)
    assert info.tokens == len(models.tokens_of("qwen2")) == models.VOCABULARY - (info.padding or 0)
    assert info.checkpoint == models.checkpoint("qwen2").identity
    assert f"build-{info.build_id}.duckdb" == built.path.name


def test_a_second_run_does_nothing(tmp_path, monkeypatch):
    first = build(models.checkpoint("llama"), tmp_path, depth=5)
    before = written(first.path)
    monkeypatch.setattr(Shards, "write", None)
    monkeypatch.setattr(module, "load_model", None)
    second = build(models.checkpoint("llama"), tmp_path, depth=5)
    assert not second.fresh
    assert (second.path, second.neurons) == (first.path, first.neurons)
    assert written(second.path) == before


def written(path: Path) -> tuple[int, int, int]:
    """Which file it is, and when it was written; not when it was read."""
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


@pytest.mark.parametrize("change", ["depth", "weights", "tokenizer"])
def test_other_input_is_another_build(change, tmp_path):
    folder = Path(shutil.copytree(models.folder("llama"), tmp_path / "llama"))
    first = build(Checkpoint("llama", folder), tmp_path / "catalogue", depth=5)
    if change == "weights":
        models.save("llama", folder, seed=1)
    elif change == "tokenizer":
        models.byte_level_tokenizer(bos=False).save_pretrained(folder)
    second = build(Checkpoint("llama", folder), tmp_path / "catalogue", depth=6 if change == "depth" else 5)
    assert second.fresh
    assert second.path != first.path
    assert current_build(first.path.parent) == second.path
    assert first.path.exists()  # someone may be reading it


def test_a_current_build_that_is_cut_short_does_not_pass_for_done(tmp_path):
    first = build(models.checkpoint("llama"), tmp_path, depth=5)
    with first.path.open("r+b") as file:
        file.truncate(5000)
    second = build(models.checkpoint("llama"), tmp_path, depth=5)
    assert second.fresh
    assert second.path == first.path
    assert_is_brute_force(second.path, "llama", 5)


@pytest.mark.parametrize("screen", [False, True])
def test_a_lost_current_is_restored_whichever_way_is_the_faster_now(screen, tmp_path):
    first = build(models.checkpoint("llama"), tmp_path, depth=DEPTH, screen=False)
    (tmp_path / "llama" / "CURRENT").unlink()
    again = build(models.checkpoint("llama"), tmp_path, depth=DEPTH, screen=screen)
    assert current_build(tmp_path / "llama") == again.path
    assert_is_brute_force(again.path, "llama", DEPTH)
    assert_is_brute_force(first.path, "llama", DEPTH)


def written_layers(monkeypatch) -> list[int]:
    """The layers that builds from now on write a shard of."""
    written: list[int] = []
    write = Shards.write

    def noted(shards, name, tables):
        written.append(int(name.removeprefix("layer-")))
        write(shards, name, tables)

    monkeypatch.setattr(Shards, "write", noted)
    return written


@pytest.mark.parametrize("finished", [0, 1, 2])
@pytest.mark.parametrize("screen", [False, True])
def test_a_killed_job_goes_on_from_the_finished_layers(screen, finished, tmp_path, monkeypatch):
    whole = build(models.checkpoint("llama"), tmp_path / "whole", depth=DEPTH, screen=screen)

    def killed(layers, _total):
        for _ in range(finished):
            yield next(layers)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(models.checkpoint("llama"), tmp_path / "killed", depth=DEPTH, screen=screen, progress=killed)
    assert published(tmp_path / "killed") == []

    written = written_layers(monkeypatch)
    resumed = build(models.checkpoint("llama"), tmp_path / "killed", depth=DEPTH, screen=screen)
    assert written == list(range(finished, models.LAYERS))
    assert content_hash(resumed.path) == content_hash(whole.path)
    assert [path.name for path in resumed.path.parent.iterdir() if path.is_dir()] == []  # no shards left behind


@pytest.mark.parametrize("file", [1, 2, 3, 6])
def test_a_job_killed_while_it_writes_leaves_no_half_layer(file, tmp_path, monkeypatch):
    whole = build(models.checkpoint("gpt2"), tmp_path / "whole", depth=5, screen=False)
    calls: list[Path] = []
    write_table = pq.write_table

    def killed(table, path, **options):
        calls.append(path)
        if len(calls) == file:
            Path(path).write_bytes(b"PAR1 half a file")
            raise KeyboardInterrupt
        write_table(table, path, **options)

    with monkeypatch.context() as patched:
        patched.setattr(pq, "write_table", killed)
        with pytest.raises(KeyboardInterrupt):
            build(models.checkpoint("gpt2"), tmp_path / "killed", depth=5, screen=False)
    assert len(calls) == file
    resumed = build(models.checkpoint("gpt2"), tmp_path / "killed", depth=5, screen=False)
    assert content_hash(resumed.path) == content_hash(whole.path)


@pytest.mark.parametrize("file", [1, 4])
def test_a_full_disk_is_said_and_nothing_is_published(file, tmp_path, monkeypatch):
    old = build(models.checkpoint("llama"), tmp_path, depth=3)
    calls: list[Path] = []
    write_table = pq.write_table

    def full(table, path, **options):
        calls.append(path)
        if len(calls) == file:
            raise OSError(errno.ENOSPC, "No space left on device")
        write_table(table, path, **options)

    with monkeypatch.context() as patched:
        patched.setattr(pq, "write_table", full)
        with pytest.raises(AtlasError) as refusal:
            build(models.checkpoint("llama"), tmp_path, depth=5)
    assert "The disk is full" in str(refusal.value)
    assert str(tmp_path / "llama") in str(refusal.value)
    assert sorted(published(tmp_path)) == sorted([old.path, tmp_path / "llama" / "CURRENT"])
    assert current_build(tmp_path / "llama") == old.path
    # with room made, the same command goes on
    assert_is_brute_force(build(models.checkpoint("llama"), tmp_path, depth=5).path, "llama", 5)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("layer", [0, 2])
def test_weights_that_are_not_numbers_are_not_published(layer, value, tmp_path):
    def break_one(tensors):
        tensors[f"model.layers.{layer}.mlp.down_proj.weight"][3, 4] = value

    with pytest.raises(AtlasError):
        build(spoil(tmp_path, "llama", break_one), tmp_path / "catalogue", depth=DEPTH)
    assert published(tmp_path / "catalogue") == []


@pytest.mark.parametrize("screen", [False, True])
def test_dead_neurons_are_published_as_such(screen, tmp_path):
    def kill(tensors):
        tensors["model.layers.1.mlp.down_proj.weight"][:, 7] = 0

    built = build(spoil(tmp_path, "llama", kill), tmp_path / "catalogue", depth=DEPTH, screen=screen)
    with Catalogue.open(built.path) as catalogue:
        card = catalogue.neuron(Neuron.ffn(1, 7))
    assert (card.mean, card.std, card.norm) == (0, 0, 0)
    assert {one.z for one in (*card.top, *card.bottom)} == {0}


def test_a_missing_layer_is_not_published(tmp_path):
    checkpoint = spoil(tmp_path, "llama", lambda tensors: tensors.pop("model.layers.2.self_attn.o_proj.weight"))
    with pytest.raises(AtlasError, match=r"model\.layers\.2\.self_attn\.o_proj\.weight"):
        build(checkpoint, tmp_path / "catalogue", depth=5)
    assert published(tmp_path / "catalogue") == []


def test_from_the_shell(tmp_path, capsys):
    arguments = ["build", str(models.folder("gpt2-narrow")), "--catalogue", str(tmp_path), "--depth", "4"]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert out == ""
    path = current_build(tmp_path / "gpt2-narrow")
    assert f"Published {path}: {3 * (40 + 32)} neurons" in err
    assert_is_brute_force(path, "gpt2-narrow", 4)
    capsys.readouterr()  # what loading the model for the comparison says
    assert main(arguments) == 0
    assert capsys.readouterr().err.startswith(f"Nothing to do: {path}")


@pytest.mark.parametrize("case", ["cut", "bin", "config", "depth", "absent"])
def test_bad_input_gets_one_line_and_status_2(case, tmp_path, capsys):
    folder = Path(shutil.copytree(models.folder("llama"), tmp_path / "model"))
    weights, depth, given = folder / "model.safetensors", "5", str(folder)
    if case == "cut":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif case == "bin":
        weights.rename(folder / "pytorch_model.bin")
    elif case == "config":
        (folder / "config.json").write_text("{}")
    elif case == "depth":
        depth = "0"
    else:
        given = str(tmp_path / "no such model")
    assert main(["build", given, "--catalogue", str(tmp_path / "catalogue"), "--depth", depth]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    assert published(tmp_path / "catalogue") == []


def test_shards_left_by_a_kill_after_publishing_are_removed(tmp_path):
    built = build(models.checkpoint("gpt2"), tmp_path, depth=5)
    left = built.path.parent / built.path.stem.replace("build-", "work-")
    left.mkdir()
    assert not build(models.checkpoint("gpt2"), tmp_path, depth=5).fresh
    assert not left.exists()


def test_one_layer_is_held_at_a_time(tmp_path, monkeypatch):
    """However many there are: what an earlier layer took is given back before the next is projected."""
    project = Projector.project
    held: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []
    paged: list[torch.Tensor] = []

    def watched(self: Any, values: torch.Tensor) -> Any:
        held.append(weakref.ref(values))
        alive.append(sum(one() is not None for one in held))
        return project(self, values)

    monkeypatch.setattr(Projector, "project", watched)
    monkeypatch.setattr(language_model, "page_out", paged.append)
    checkpoint = Checkpoint("llama", models.folder("llama"))
    build(checkpoint, tmp_path, depth=3)
    assert alive == [1] * models.LAYERS
    weights = checkpoint.weights()
    assert len(paged) == sum(weights.read(name) is not None for name in weights.catalogued())
