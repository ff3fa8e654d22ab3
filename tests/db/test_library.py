from pathlib import Path

import pytest

from db.catalogue.builds import find_catalogue, models, remember_source, source_of
from db.errors import AtlasError
from tests.catalogues import make_catalogue


def test_the_only_model_is_the_default(root: Path) -> None:
    toy = make_catalogue(root)
    for given in (root, root / "toy", toy.path):
        assert find_catalogue(given) == toy.path
    assert find_catalogue(root, "toy") == toy.path
    assert find_catalogue(root / "toy", "toy") == toy.path


def test_several_models_need_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = make_catalogue(tmp_path), make_catalogue(tmp_path, model="other")
    assert models(tmp_path) == ["other", "toy"]
    with pytest.raises(AtlasError, match=r"several catalogues: other, toy\. Choose one with `--model NAME`"):
        find_catalogue(tmp_path)
    assert find_catalogue(tmp_path, "toy") == first.path
    assert find_catalogue(tmp_path, "other") == second.path
    for name in ("third", "..", "toy/../other", ""):
        with pytest.raises(AtlasError, match="there are: other, toy"):
            find_catalogue(tmp_path, name)
    with pytest.raises(AtlasError, match="leave out --model"):
        find_catalogue(tmp_path / "toy", "other")
    for name, meant in (("other", second.path), ("toy", first.path)):  # the server's choice is the shell's too
        monkeypatch.setenv("ATLAS_MODEL", name)
        assert find_catalogue(tmp_path) == meant
        assert find_catalogue(tmp_path, "toy") == first.path
    monkeypatch.setenv("ATLAS_MODEL", "gone")
    with pytest.raises(AtlasError, match="or ATLAS_MODEL"):
        find_catalogue(tmp_path)


def test_none(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for given in (tmp_path, tmp_path / "absent"):
        with pytest.raises(AtlasError, match=r"run `make index`, or `python -m indexer build MODEL`"):
            find_catalogue(given)
    with pytest.raises(AtlasError, match="no file"):
        find_catalogue(tmp_path / "absent.duckdb")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("build-gone.duckdb", "is missing"),
        ("../toy/build-one.duckdb", "no build of this folder"),
        ("/etc/passwd", "no build of this folder"),
        ("build-../x.duckdb", "no build of this folder"),
        ("", "no build of this folder"),
        ("\x00", "no build of this folder"),
    ],
)
def test_a_current_that_leads_nowhere(tmp_path: Path, name: str, problem: str) -> None:
    toy = make_catalogue(tmp_path)
    (toy.directory / "CURRENT").write_text(name)
    with pytest.raises(AtlasError, match=problem):
        find_catalogue(tmp_path)


def test_where_the_model_came_from_is_noted_beside_the_builds(tmp_path: Path) -> None:
    toy = make_catalogue(tmp_path)
    assert source_of(toy.path) is None
    remember_source(toy.directory, "owner/name")
    assert source_of(find_catalogue(tmp_path)) == "owner/name"
