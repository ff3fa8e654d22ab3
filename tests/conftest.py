"""What tests of several rooms share: models, catalogues, pages, a browser; and how the tests are dealt out.

The demo model and its catalogue are made by `make index`, the browser comes with the operating system, Ray from
indexer/requirements-ray.txt. On a developer's machine a test that lacks one of them is skipped; where ``CI`` is set it
fails, so that a check that passes has checked everything. The other fixtures are small models and catalogues that the
tests make themselves.

`make test` deals the files out to worker processes, the files that take longest first. All tests of a file stay
together, in their order, and each worker serves an app of its own, so that a test has for itself what it would have
alone.
"""

import gc
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

if TYPE_CHECKING:
    from streamlit.testing.v1 import AppTest

RunPage = Callable[..., "AppTest"]

CHECKOUT = Path(__file__).resolve().parents[1]
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
"""The first is Chromium without windows, which would take more than half of the processor's time that a page takes."""
WORKER_BYTES = 4 * 2**30
"""Memory for a worker: it may load the demo model, and so may the app that it serves to a browser of its own."""
MOST_WORKERS = 8
"""More would find little left to do, and every one serves an app."""
SLOWEST_FILES = tuple(
    f"{name}.py"
    for name in (
        *("browser/test_appearance", "browser/test_drilldown", "browser/test_prompt", "indexer/test_cluster"),
        *("browser/test_journeys", "browser/test_nasty", "browser/test_steer", "browser/test_add", "indexer/test_kill"),
        *("indexer/test_texts", "ui/test_search_pages", "browser/test_compare", "browser/test_concepts"),
        *("browser/test_texts", "browser/test_log", "answers/test_add", "indexer/test_gemma", "browser/test_saving"),
        *("benchmarks/test_load", "charts/test_pictures", "faults/test_killed", "attribution/test_memory"),
        *("browser/test_report", "faults/test_model", "browser/test_accessibility", "state/test_fuzz"),
    )
)
"""What takes longest; a long file that began late would be waited for alone."""

if "PYTEST_XDIST_WORKER" in os.environ:
    # The cores are shared out among the workers. The servers that a test starts inherit it.
    _threads = max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    os.environ.setdefault("OMP_NUM_THREADS", str(_threads))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One more than there are cores, because a browser waits; 0, which is this process alone, where that is better."""
    cores = os.cpu_count() or 1
    room = psutil.virtual_memory().total // WORKER_BYTES
    found = int(min(cores + 1, room, MOST_WORKERS))
    one_file = len(config.args) == 1 and ".py" in config.args[0]
    return 0 if one_file or cores == 1 or found == 1 else found


def pytest_configure() -> None:
    """What is imported stays. Searching it for garbage again and again took a tenth of the time of the pages' tests."""
    gc.disable()


def pytest_collection_finish() -> None:
    """See `pytest_configure`."""
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slowest files first where files are dealt out; elsewhere the order of names is easier to follow."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        places = {name: place for place, name in enumerate(SLOWEST_FILES)}
        items.sort(key=lambda item: places.get(str(item.path.relative_to(CHECKOUT / "tests")), len(places)))


def _lacking(what: str) -> None:
    """Skip, or fail in CI: ``what`` says what is missing and how to get it."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} In CI this must not be missing.", pytrace=False)
    pytest.skip(what)


@pytest.fixture(scope="session")
def demo_model_dir() -> Path:
    """The checkout's demo model as a safetensors folder."""
    folder = CHECKOUT / "models" / "SmolLM2-135M-Instruct"
    if not (folder / "atlas-source.json").is_file():
        _lacking(f"The demo model is not in {folder}; `make index` fetches it.")
    return folder


@pytest.fixture(scope="session")
def gemma_model_dir() -> Path:
    """The checkout's Gemma 3 270M as a safetensors folder."""
    folder = CHECKOUT / "models" / "gemma-3-270m"
    if not (folder / "atlas-source.json").is_file():
        _lacking(f"Gemma 3 270M is not in {folder}; `python -m indexer fetch-demo --model gemma-3-270m` fetches it.")
    return folder


@pytest.fixture(scope="session")
def demo_catalogue_dir(demo_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of catalogues with the checkout's build of the demo model, and without what `make texts` put beside it
    or other models: what pages show must not depend on that.
    """
    made, folder = CHECKOUT / "catalogue" / demo_model_dir.name, tmp_path_factory.mktemp("demo") / "catalogue"
    if not (made / "CURRENT").is_file():
        _lacking(f"No build of {demo_model_dir.name} is published in {made.parent}; `make index` makes one.")
    own = folder / made.name
    own.mkdir(parents=True)
    build = (made / "CURRENT").read_text(encoding="utf-8").strip()
    for name in ("CURRENT", "SOURCE", "generic.json", build):  # no links, which would lead to what lies beside them
        if (made / name).is_file():
            shutil.copy(made / name, own)
    return folder


@pytest.fixture(scope="session")
def chromium_executable() -> str:
    """The machine's own Chromium; Playwright's browsers are never downloaded."""
    named = os.environ.get("CHROMIUM")
    found = shutil.which(named) if named else next(filter(None, map(shutil.which, BROWSERS)), None)
    if not found:
        _lacking(
            f"CHROMIUM={named} is not an executable."
            if named
            else f"None of {', '.join(BROWSERS)} is on PATH; install one or set CHROMIUM."
        )
    return str(found)


@pytest.fixture(scope="session")
def ray_is_installed() -> None:
    """Ray, which only those need who index on a cluster."""
    if find_spec("ray") is None:
        _lacking("Ray is not installed; `.venv/bin/pip install -r indexer/requirements-ray.txt`.")


@pytest.fixture(scope="session")
def compressed_tensors_is_installed() -> None:
    """Which only those need who dequantise its models."""
    if find_spec("compressed_tensors") is None:
        _lacking("compressed-tensors is not installed; `.venv/bin/pip install -r indexer/requirements-quantised.txt`.")


@pytest.fixture(autouse=True)
def fresh_settings() -> Iterator[None]:
    """Settings are read once per process; a test that sets variables needs them read again."""
    _forget_settings()
    yield
    _forget_settings()


def _forget_settings() -> None:
    module = sys.modules.get("app.serving.settings")  # most tests of the lower rooms never import it
    if module is not None:
        module.configuration.cache_clear()


# What needs Streamlit or torch is imported where it is used: the tests of `db` need neither.


@pytest.fixture(scope="session")
def small_folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of models and one of catalogues, with a random Llama in each, which has a chat template."""
    from indexer.build import build
    from tests import models

    root = tmp_path_factory.mktemp("small")
    models.save("llama", root / "models" / "llama")
    (root / "models" / "llama" / "chat_template.jinja").write_text("<s>{{ messages[0]['content'] }}, the")
    build(models.checkpoint("llama"), root / "catalogue", depth=10)
    return root / "models", root / "catalogue"


@pytest.fixture(scope="session")
def toy_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalogue with the nastiest tokens and no model."""
    from tests.catalogues import make_catalogue

    root = tmp_path_factory.mktemp("toy")
    make_catalogue(root)
    return root


@pytest.fixture(scope="session")
def texts_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with texts that activate its FFN neurons: what `tests.texts.make_texts` makes of its build."""
    from tests.catalogues import make_catalogue
    from tests.texts import give_texts

    root = tmp_path_factory.mktemp("texts")
    give_texts(make_catalogue(root).path)
    return root


@pytest.fixture
def small_page(small_folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunPage]:
    """``small_page("prompt", p="The river")`` runs a page with these parameters; nothing is saved yet."""
    yield from _pages(monkeypatch, tmp_path, *small_folders)


@pytest.fixture
def toy_page(toy_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunPage]:
    """The same on the toy catalogue, whose model is not available."""
    yield from _pages(monkeypatch, tmp_path, toy_root / "none", toy_root)


@pytest.fixture
def texts_page(texts_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunPage]:
    """The same on the catalogue with texts."""
    yield from _pages(monkeypatch, tmp_path, texts_root / "none", texts_root)


def _pages(monkeypatch: pytest.MonkeyPatch, folder: Path, models: Path, catalogue: Path) -> Iterator[RunPage]:
    import streamlit as st

    from tests.pages import run_page

    monkeypatch.setenv("ATLAS_WORKSPACE", f"sqlite:///{folder / 'atlas.sqlite'}")
    monkeypatch.setenv("ATLAS_MODELS", str(models))
    monkeypatch.setenv("ATLAS_CATALOGUE", str(catalogue))
    yield run_page
    st.cache_resource.clear()
