"""No name that comes from outside reaches a file that it should not: models, builds, uploads, files to download."""

import shutil
from urllib.parse import urlencode

import pytest

from app.answers.batches import read_upload
from app.serving.settings import configuration, public
from app.ui.navigation import follow
from db.catalogue.builds import build_path, current_build, find_build, find_catalogue
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from tests.catalogues import make_catalogue
from tests.pages import component, texts

OUTSIDE = ["../secret", "../../etc/passwd", "/etc/passwd", "toy/../../secret", "..", ".", "a" * 5000, "toy\x00", "\x00"]
OUTSIDE += [
    "~",
    "toy/",
    "build-one.duckdb",
    "file:///etc/passwd",
    "C:\\secret",
    "\udc80",
    "%2e%2e%2fsecret",
    "*",
    "[!a]*",
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of catalogues beside another one that is nobody's business."""
    folder = tmp_path_factory.mktemp("library")
    make_catalogue(folder / "catalogue")
    make_catalogue(folder, model="secret", build_id="hidden")
    return folder


@pytest.fixture
def library(made, tmp_path):
    """The folder of catalogues in a copy, which a test may change."""
    return shutil.copytree(made, tmp_path, dirs_exist_ok=True) / "catalogue"


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_model_is_one_of_those_listed(library, name):
    with pytest.raises(AtlasError):
        find_catalogue(library, name)


@pytest.mark.parametrize("name", [*OUTSIDE, "hidden", "../../secret/build-hidden", ""])
def test_a_build_is_one_of_those_in_the_folder(library, name):
    assert find_build(find_catalogue(library, "toy"), name) is None


def test_a_build_is_found_by_its_beginning_where_only_one_has_it(library):
    current = find_catalogue(library, "toy")
    other = make_catalogue(library, build_id="oak").path
    assert find_build(current, "on") == current
    assert find_build(current, "oak") == other
    assert find_build(current, "o") is None
    (other.parent / "build-o.duckdb").write_bytes(b"")
    assert find_build(current, "o") == other.parent / "build-o.duckdb"


@pytest.mark.parametrize("name", [*OUTSIDE[:8], "a/b", ".hidden", "-x"])
def test_a_builds_id_is_a_plain_name(library, name):
    with pytest.raises(AtlasError):
        build_path(library / "toy", name)


@pytest.mark.parametrize("named", ["../secret/build-hidden.duckdb", "/etc/passwd", "build-../x.duckdb", "", "\x00"])
def test_current_names_a_build_of_its_own_folder(library, named):
    (library / "toy" / "CURRENT").write_text(named)
    with pytest.raises(AtlasError):
        current_build(library / "toy")


def test_a_catalogue_opens_no_other_file_through_a_query(library):
    with Catalogue.open(find_catalogue(library, "toy")) as atlas:
        matches = atlas.resolve("'; SELECT * FROM read_text('/etc/passwd'); --")
        assert not matches.matched


@pytest.mark.parametrize("name", [name for name in OUTSIDE if "\udc80" not in name])
def test_a_page_shows_the_default_model_instead(toy_page, name):
    root = configuration().catalogue.absolute()
    app = toy_page("search", q="Paris", model=name)
    assert component(app, "tokens")["items"]
    said = texts(app)
    assert "No catalogue of" in said
    assert f"in {root.name}; there are" in said.replace("\\", "")
    assert str(root.parent) not in said
    assert "fault of ours" not in said
    assert "\x00" not in said


@pytest.mark.parametrize(
    "name", ["../../x.jsonl", "/etc/passwd.jsonl", "a\x00.jsonl", "a" * 5000 + ".jsonl", "..jsonl"]
)
def test_an_uploads_name_is_no_path(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    row = b'{"prompt": "a", "model": "m", "ffn_value_neurons": [{"neuron": "L1.F2", "score": 0.5}]}'
    assert len(read_upload(name, row)) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "link", ["http://elsewhere.invalid", "//elsewhere", "javascript:alert(1)", "../secret", "/etc"]
)
def test_a_link_that_is_no_page_leads_nowhere(link, monkeypatch):
    monkeypatch.setattr("streamlit.switch_page", lambda *_, **__: pytest.fail("followed"))
    follow(link)
    follow(f"{link}?q=x")
    follow("token?" + urlencode({f"n{number}": "x" for number in range(1000)}))


@pytest.mark.parametrize(
    ("workspace", "place", "shown"),
    [
        ("", "{here}/catalogue/toy/build-1.duckdb", "catalogue/toy/build-1.duckdb"),
        ("", "{here}/models/toy/config.json", "models/toy/config.json"),
        ("sqlite:///{here}/kept/atlas.sqlite", "{here}/kept/atlas.sqlite", "atlas.sqlite"),
        ("postgresql://atlas:secret@inside.example/shared", "postgresql://atlas:***@inside.example/shared", "shared"),
        (
            "postgresql://atlas@inside.example/shared",
            'The workspace (role "atlas" does not exist)',
            "The workspace (role … does not exist)",
        ),
        ("off", "{here}/models/toy", "models/toy"),
        ("", "/etc/models", "/etc/models"),
    ],
)
def test_visitors_are_not_told_where_things_lie(monkeypatch, tmp_path, workspace, place, shown):
    own = {"CATALOGUE": str(tmp_path / "catalogue"), "MODELS": str(tmp_path / "models"), "WORKSPACE": workspace}
    for name, value in own.items():
        monkeypatch.setenv(f"ATLAS_{name}", value.format(here=tmp_path))
    configuration.cache_clear()
    assert public(f"{place.format(here=tmp_path)} is damaged.") == f"{shown} is damaged."
