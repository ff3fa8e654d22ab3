"""A good build is verified; whatever is changed in one is found and named."""

import shutil
from pathlib import Path

import duckdb
import pytest

from db.catalogue.builds import current_build
from db.errors import AtlasError
from indexer.__main__ import main
from indexer.build import build
from indexer.checkpoint import Checkpoint
from indexer.verify import verify
from tests import models

EVERY = 10_000
BOTH = ("neuron_token", "token_neuron")


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    return build(models.checkpoint("qwen3"), tmp_path_factory.mktemp("catalogue"), depth=5).path


@pytest.fixture
def copy(good, tmp_path) -> Path:
    folder: Path = tmp_path / "catalogue" / "qwen3"
    shutil.copytree(good.parent, folder)
    return folder / str(good.name)


def change(path: Path, *statements: str) -> None:
    with duckdb.connect(str(path)) as connection:
        for statement in statements:
            connection.execute(statement)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt2-narrow"])
def test_every_neuron_of_a_good_build(name, tmp_path):
    built = build(models.checkpoint(name), tmp_path, depth=5)
    found = verify(built.path, models.checkpoint(name), sample=EVERY)
    assert found.sampled == found.neurons == built.neurons
    assert 0 < found.deviation < 1e-6


CHANGES = {
    "a logit": (
        ["UPDATE neuron_token SET logit = logit + 0.01 WHERE neuron_id = 7 AND sign = 1 AND rank = 1"],
        "neuron 7 promotes token .* with a logit of",
    ),
    "a token": (
        [
            f"UPDATE {table} SET token_id = (SELECT min(t) FROM range(323) r(t) WHERE t NOT IN "
            "(SELECT token_id FROM neuron_token WHERE neuron_id = 7 AND sign = -1)) "
            "WHERE neuron_id = 7 AND sign = -1 AND rank = 5"
            for table in BOTH
        ],
        "is not what its model gives: (neuron 7 suppresses|the rows by token are not)",
    ),
    "a mean": (["UPDATE neuron SET mean = mean + 0.5 WHERE neuron_id = 7"], "neuron 7 has mean"),
    "a standard deviation": (["UPDATE neuron SET std = std * 1.1 WHERE neuron_id = 7"], "neuron 7 has std"),
    "a norm": (["UPDATE neuron SET norm = norm * 1.001 WHERE neuron_id = 7"], "neuron 7 has norm"),
    "a row": (["DELETE FROM neuron_token WHERE neuron_id = 7 AND sign = 1 AND rank = 3"], "neuron_token"),
    "the stamp": (["UPDATE build SET unembedding_hash = 'other'"], "its stamp has unembedding_hash other"),
    "the checkpoint": (["UPDATE build SET checkpoint = 'sha256 other'"], "its stamp has checkpoint sha256 other"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_was_changed_is_named(what, copy):
    statements, message = CHANGES[what]
    change(copy, *statements)
    with pytest.raises(AtlasError, match=message) as refusal:
        verify(copy, models.checkpoint("qwen3"), sample=EVERY)
    assert str(copy) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_lists_of_another_model_are_found_in_a_sample(copy, tmp_path):
    """All stamps forged: the figures alone give it away."""
    other = Checkpoint("qwen3", models.save("qwen3", tmp_path / "other", seed=1))
    stamps = build(other, tmp_path / "other-catalogue", depth=5).path
    change(
        copy,
        f"ATTACH '{stamps}' AS other (READ_ONLY)",
        "UPDATE build SET unembedding_hash = (SELECT unembedding_hash FROM other.build), "
        "checkpoint = (SELECT checkpoint FROM other.build)",
        "DETACH other",
    )
    with pytest.raises(AtlasError, match=r"neuron \d+ has"):
        verify(copy, other, sample=3)


def test_from_the_shell(copy, capsys):
    arguments = ["--catalogue", str(copy.parent.parent), "--checkpoint", str(models.folder("qwen3")), "--sample", "20"]
    assert main(["verify", *arguments]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{current_build(copy.parent)}: ")
    assert "20 derived again, all equal" in out
    assert err == ""
    change(copy, "UPDATE neuron SET mean = mean + 0.5")
    assert main(["verify", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {copy} is not what its model gives: neuron ")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("arguments", [["--sample", "0"], ["--model", "nobody"], ["--checkpoint", "no such model"]])
def test_bad_arguments_get_one_line_and_status_2(arguments, copy, capsys):
    given = ["--checkpoint", str(models.folder("qwen3")), *arguments]
    assert main(["verify", "--catalogue", str(copy.parent.parent), *given]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
