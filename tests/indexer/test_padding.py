"""Rows of the unembedding that are no token, its padding and its holes: counted apart, and in nothing else."""

import json
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from app.attribution import Settings, analyse, run_prompt
from app.attribution.heads import source_positions, through_head
from app.attribution.query import key_sides
from app.attribution.run import StoredRanges
from app.attribution.score import logit_spans
from db.catalogue.check import check_build
from db.catalogue.reader import read_only_connection
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.neuron import Neuron, NeuronKind
from indexer.build import build
from indexer.checkpoint import Checkpoint
from indexer.directions import rank_by_direction
from indexer.language_model import load_model
from indexer.neighbours import nearest_tokens
from indexer.projection import Projector
from indexer.verify import verify
from indexer.work import unembedding_of
from tests import models

HOLES = (120, 259)
PADDING = frozenset({*HOLES, *range(models.TOKENS, models.VOCABULARY)})
TABLES = ("neuron", "neuron_token", "token_neuron", "token_neighbour", "token")
DEPTH = 8


def padded(into: Path, size: float, name: str = "llama") -> Checkpoint:
    """The model with a tokenizer that lacks two more ids; every row of no token is `size` times one and the same."""
    shutil.copytree(models.folder(name), into)
    tokenizer = json.loads((into / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    gone = {piece for piece, token_id in vocabulary.items() if token_id in HOLES}
    assert len(gone) == len(HOLES)
    tokenizer["model"]["vocab"] = {piece: token_id for piece, token_id in vocabulary.items() if piece not in gone}
    merges = tokenizer["model"]["merges"]
    tokenizer["model"]["merges"] = [one for one in merges if not gone & {*one, "".join(one)}]
    (into / "tokenizer.json").write_text(json.dumps(tokenizer))
    tensors = load_file(into / "model.safetensors")
    for part in ("lm_head.weight", "model.embed_tokens.weight"):
        if part in tensors:
            row = torch.randn(models.D_MODEL, generator=torch.Generator().manual_seed(3))
            tensors[part][sorted(PADDING)] = size * row
    save_file(tensors, into / "model.safetensors", metadata={"format": "pt"})
    return Checkpoint(into.name, into)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[float, Checkpoint]:
    """Models that differ in rows of no token alone: of zero, small and large ones."""
    root = tmp_path_factory.mktemp("padded")
    return {size: padded(root / f"size-{size}", size) for size in (0.0, 0.5, 12.0)}


@cache
def contents(path: Path) -> dict[str, dict[str, Any]]:
    with read_only_connection(path) as connection:
        return {table: connection.execute(f"SELECT * FROM {table} ORDER BY ALL").fetchnumpy() for table in TABLES}


@pytest.mark.parametrize("screen", [False, True])
def test_what_the_other_rows_hold_changes_nothing(checkpoints, tmp_path, screen):
    paths = {
        size: build(one, tmp_path / str(size), depth=DEPTH, screen=screen).path for size, one in checkpoints.items()
    }
    first, *others = (contents(path) for path in paths.values())
    stored = first["neuron_token"]["token_id"]
    assert not set(stored.tolist()) & PADDING
    assert not {*first["token_neighbour"]["token_id"].tolist(), *first["token_neighbour"]["neighbour_id"]} & PADDING
    assert len(set(first["token_neighbour"]["token_id"].tolist())) == models.VOCABULARY - len(PADDING)
    for other in others:
        for table in TABLES:
            for name, column in first[table].items():
                if column.dtype.kind == "f":
                    np.testing.assert_allclose(other[table][name], column, atol=2e-6)
                else:
                    assert np.array_equal(other[table][name], column), (table, name)
    for size, path in paths.items():
        with Catalogue.open(path) as catalogue:
            info = catalogue.info
            assert (info.vocabulary, info.padding) == (models.VOCABULARY, len(PADDING))
            assert {one for one in range(info.vocabulary) if catalogue.bytes_of(one) == b""} == PADDING
        assert verify(path, checkpoints[size], seed=0).deviation < 1e-5


def test_statistics_are_those_of_the_tokens_by_brute_force(checkpoints, tmp_path):
    checkpoint = checkpoints[12.0]
    with Catalogue.open(build(checkpoint, tmp_path, depth=DEPTH).path) as catalogue:
        card = catalogue.neuron(Neuron.parse("L2.F5"))
    tensors = load_file(checkpoint.folder / "model.safetensors")
    real = [one for one in range(models.VOCABULARY) if one not in PADDING]
    value = tensors["model.layers.2.mlp.down_proj.weight"][:, 5].double()
    rows = tensors["lm_head.weight"].double() * tensors["model.norm.weight"].double()
    every = rows @ value
    assert every.std(correction=0) > 1.5 * every[real].std(correction=0)  # or the test would prove nothing
    assert card.mean == pytest.approx(float(every[real].mean()), abs=1e-5)
    assert card.std == pytest.approx(float(every[real].std(correction=0)), abs=1e-5)
    best = sorted(real, key=lambda one: -float(every[one]))
    assert [one.token.token_id for one in card.top] == best[:DEPTH]
    assert [one.token.token_id for one in card.bottom] == best[::-1][:DEPTH]
    assert [one.z for one in card.top] == pytest.approx(
        [(float(every[i]) - card.mean) / card.std for i in best[:DEPTH]]
    )


@pytest.mark.parametrize("screen", [False, True])
@pytest.mark.parametrize("rows", [2000, 5000])
def test_projections_of_larger_vocabularies(rows, screen):
    """Long columns, whose extremes a pyramid finds: as if the rows were not there."""
    generator = torch.Generator().manual_seed(rows)
    checkpoint = models.checkpoint("llama")
    own = unembedding_of(checkpoint)
    folded = torch.randn(rows, 16, generator=generator)
    padding = torch.cat([torch.arange(7, 300, 13), torch.arange(rows - 100, rows)])
    folded[padding] = 30 * torch.randn(16, generator=generator)
    whole = replace(own, folded=folded, padding=padding)
    assert whole.used is not None
    alone = replace(own, folded=folded[whole.used].contiguous(), padding=None)
    values = torch.randn(90, 16, generator=generator)
    found, expected = (Projector(one, 20, screen=screen).project(values) for one in (whole, alone))
    for name in ("mean", "std", "norm", "top_logits", "bottom_logits"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name))
    for name in ("top_tokens", "bottom_tokens"):
        assert torch.equal(getattr(found, name).long(), whole.used[getattr(expected, name).long()])
    near, without = nearest_tokens(whole, 5, screen=screen), nearest_tokens(alone, 5, screen=screen)
    assert near is not None
    assert without is not None
    for name in ("token_id", "neighbour_id"):
        assert near[name].to_pylist() == whole.used[torch.tensor(without[name].to_pylist())].tolist()
    assert near["cosine"].to_pylist() == pytest.approx(without["cosine"].to_pylist(), abs=0.0011)


def test_directions_and_the_prompt_side_list_no_padding(checkpoints):
    by_size = {}
    for size, checkpoint in checkpoints.items():
        model = load_model(checkpoint)
        found = rank_by_direction(model.weights, model.unembedding, [40, 41], [1.0, -0.5], 10)
        run = run_prompt(model, models.PROMPT, Settings(target=270))
        lists = [part for side in key_sides(model, Neuron.ffn(1, 3), 400) for part in (side.highest, side.lowest)]
        ids = [{one.token.id for one in part} for part in lists]
        through = through_head(model, Neuron.ffn(0, 5), 2, 3, shown=400)
        ids += [{one.id for one in part} for part in (through.promotes, through.directly_suppresses)]
        for one in source_positions(run, 1, 2, shown=400):
            ids += [{each.id for each in part} for part in (one.input_tokens, one.key_tokens, one.value_tokens)]
        assert all(part == set(range(models.VOCABULARY)) - PADDING for part in ids)
        sides = [(side.mean, side.std) for side in key_sides(model, Neuron.ffn(1, 3))]
        by_size[size] = [(one.neuron, one.sign) for one in found], [one.mean_z for one in found], sides
    first, *others = by_size.values()
    for other in others:
        assert other[0] == first[0]
        assert other[1] == pytest.approx(first[1], rel=1e-4)
        np.testing.assert_allclose(other[2], first[2], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [0.0, 0.5, 12.0])
def test_the_lowest_are_certified_with_every_row_in_the_softmax(checkpoints, tmp_path, size):
    """The model gives rows of no token probability, so they bound how far a neuron can lower the target."""
    model = load_model(checkpoints[size])
    with Catalogue.open(build(checkpoints[size], tmp_path, depth=DEPTH).path) as catalogue:
        settings = Settings(target=270, suppressing=True, top=12)
        found = analyse(model, models.PROMPT, settings, ranges=StoredRanges(catalogue))
        run = run_prompt(model, models.PROMPT, settings)
        ends = [torch.from_numpy(one) for one in catalogue.extremes(1, NeuronKind.FFN)]
    values = model.weights.ffn_values(1)
    every = values @ model.unembedding.folded.T
    spans, largest = logit_spans(values, model.unembedding, (ends[0], ends[1]))
    assert (largest >= every.abs().amax(dim=1)).all()
    assert (spans >= every.amax(dim=1) - every.amin(dim=1)).all()
    exhaustive = analyse(model, models.PROMPT, replace(settings, top=10**6))
    for listed, whole in (
        (found.ffn_suppressing_neurons, exhaustive.ffn_value_neurons),
        (found.attention_suppressing_neurons, exhaustive.attention_value_neurons),
    ):
        assert [one.score for one in listed] == pytest.approx(sorted(one.score for one in whole)[:12], abs=1e-5)
    total = sum(one.probability for one in run.predictions(10**6))
    assert total == pytest.approx(1, abs=1e-5)
    for one in run.predictions(10**6):
        assert one.token.display.startswith("⟨no token ") == (one.token.id in PADDING)


def earlier(path: Path) -> Path:
    """The build as a version made it that did not count rows of no token."""
    with duckdb.connect(str(path)) as connection:
        connection.execute("ALTER TABLE build DROP COLUMN padding")
    return path


def test_an_earlier_build_of_a_padded_model_is_refused_and_built_again(checkpoints, tmp_path):
    checkpoint = checkpoints[0.5]
    path = earlier(build(checkpoint, tmp_path, depth=DEPTH).path)
    for opened in (lambda: Catalogue.open(path), lambda: verify(path, checkpoint)):
        with pytest.raises(AtlasError, match=f"earlier version, which took {len(PADDING)} rows .* Build it again"):
            opened()
    assert build(checkpoint, tmp_path, depth=DEPTH).fresh


def test_an_earlier_build_without_padding_is_as_good_as_ever(tmp_path):
    folder = shutil.copytree(models.folder("gpt2-narrow"), tmp_path / "full")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    more = [f"more{number}" for number in range(models.TOKENS, models.VOCABULARY)]
    tokenizer["model"]["vocab"] |= {text: models.TOKENS + place for place, text in enumerate(more)}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    checkpoint = Checkpoint("full", folder)
    made = build(checkpoint, tmp_path / "catalogue", depth=DEPTH)
    with Catalogue.open(made.path) as catalogue:
        assert catalogue.info.padding == 0
        build_id = catalogue.info.build_id
    earlier(made.path)
    with Catalogue.open(made.path) as catalogue:
        assert (catalogue.info.padding, catalogue.info.tokens) == (None, models.VOCABULARY)
        assert catalogue.info.build_id == build_id
        check_build(made.path, catalogue.info)
    assert verify(made.path, checkpoint, seed=1).sampled
    assert not build(checkpoint, tmp_path / "catalogue", depth=DEPTH).fresh


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE neuron_token SET token_id = 310 WHERE neuron_id = 4 AND sign = 1 AND rank = 2",
        "UPDATE token_neighbour SET neighbour_id = 310 WHERE token_id = 4 AND rank = 2",
        "UPDATE build SET padding = 3",
    ],
)
def test_a_build_with_padding_in_a_list_is_not_whole(checkpoints, tmp_path, change):
    path = build(checkpoints[0.5], tmp_path, depth=DEPTH).path
    with duckdb.connect(str(path)) as connection:
        connection.execute(change)
    with Catalogue.open(path) as catalogue:
        stamp = catalogue.info
    with pytest.raises(AtlasError, match=r"no token|no other token"):
        check_build(path, stamp)


def test_a_tokenizer_without_any_token_of_the_model_is_refused():
    class Nothing:
        all_special_ids: tuple[int, ...] = ()

        def get_vocab(self) -> dict[str, int]:
            return {"far": 10**6}

    checkpoint = Checkpoint("llama", models.folder("llama"))
    checkpoint.__dict__["tokenizer"] = Nothing()
    with pytest.raises(AtlasError, match="no token for any row"):
        unembedding_of(checkpoint)
