"""One process serves the dashboard, the API and the health check, with headers that a browser obeys."""

import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import requests
import streamlit
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.testclient import TestClient

from app.answers import stored
from app.serving.frontend import page_policy
from app.serving.health import health
from db.catalogue.builds import set_current
from tests.catalogues import ToyCatalogue, make_catalogue
from tests.conftest import CHECKOUT
from tests.server_process import COMMAND, serving

START_SECONDS = 60
CANARY = "canary-5b0c"


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> ToyCatalogue:
    """A catalogue whose CURRENT a test may change for a while."""
    return make_catalogue(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module", params=["", "/behind/proxy"])
def served(request: pytest.FixtureRequest, toy: ToyCatalogue, tmp_path_factory: Any) -> Iterator[str]:
    """The address of a server, at the root of its host or under a path."""
    log = tmp_path_factory.mktemp("log") / "server.log"
    environment = {"ATLAS_CATALOGUE": str(toy.directory.parent), "ATLAS_WORKSPACE": "off"}
    with serving(log, path=request.param, **environment) as server:
        yield server.address
    assert "Traceback" not in log.read_text()
    assert CANARY not in log.read_text()


def once_well(served: str) -> requests.Response:
    """What the health check answers when it is content; a machine with much to do may take a while to get there."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        health = requests.get(f"{served}/health", timeout=60)
        if health.status_code == 200:
            return health
        assert "has not answered for" in health.text, health.text
        assert time.monotonic() < deadline, health.text


def test_the_dashboard_the_api_and_the_health_checks(served: str) -> None:
    page = requests.get(f"{served}/", timeout=60)
    assert (page.status_code, "<title>Streamlit</title>" in page.text) == (200, True)
    assert requests.get(f"{served}/search", timeout=60).text == page.text
    assert requests.get(f"{served}/_stcore/health", timeout=60).text == "ok"
    health = once_well(served)
    assert health.headers["cache-control"] == "no-store"
    assert health.json()["status"] == "ok"
    assert health.json()["parts"]["catalogue"] == {
        "status": "ok",
        "model": "toy",
        "build_id": "one",
        "mode": "full",
        "model_loaded": False,
        "device": None,
        "dtype": None,
    }
    assert health.json()["parts"]["workspace"] == {"status": "off"}
    assert requests.get(f"{served}/api/v1/neuron/L0.F0", timeout=60).json()["neuron"] == "L0.F0"
    document = requests.get(f"{served}/api/openapi.json", timeout=60).json()
    prefix = document["servers"][0]["url"]
    assert served.endswith(prefix.removesuffix("/api"))
    people = requests.get(f"{served}/api", timeout=60)
    assert people.url == f"{served}/api/"
    assert f'href="{prefix}/v1/overview"' in people.text
    absent = requests.get(f"{served}/api/v1/absent", timeout=60)
    assert (absent.status_code, absent.headers["content-type"]) == (404, "application/problem+json")


def test_the_model_is_there_before_anybody_asks(small_folders: tuple[Path, Path], tmp_path: Path) -> None:
    models, catalogue = map(str, small_folders)
    environment = {"ATLAS_MODELS": models, "ATLAS_CATALOGUE": catalogue, "ATLAS_WORKSPACE": "off"}
    with serving(tmp_path / "log", ATLAS_PRELOAD="true", **environment) as server:
        deadline = time.monotonic() + START_SECONDS
        while not once_well(server.address).json()["parts"]["catalogue"]["model_loaded"]:
            assert time.monotonic() < deadline
            time.sleep(0.2)


def test_what_is_typed_is_not_written_down(served: str) -> None:
    """The log is read when the server has stopped."""
    for path in (
        "api/v1/search?text=",
        "api/v1/concept?layers=",
        "search?q=",
        "api/v1/neuron/",
        "api/v1/overview?model=",
    ):
        requests.get(f"{served}/{path}{CANARY}", timeout=60)


def test_following_pages_are_below_the_same_address(served: str) -> None:
    answer = requests.get(f"{served}/api/v1/search?text=python&limit=3", timeout=60)
    host = "/".join(served.split("/")[:3])
    following = requests.get(host + answer.links["next"]["url"], timeout=60)
    assert following.status_code == 200
    assert len(following.json()) == 3
    assert following.json() != answer.json()


def test_headers(served: str) -> None:
    script = re.search(r'src="\./(static/js/[^"]+)"', requests.get(f"{served}/", timeout=60).text)
    assert script
    for path in ("", "search", script[1], "_stcore/health", "health", "api/", "api/v1/models", "api/v1/absent"):
        headers = requests.get(f"{served}/{path}", timeout=60).headers
        assert headers["x-content-type-options"] == "nosniff", path
        assert headers["referrer-policy"] == "same-origin", path
        policy = headers["content-security-policy"]
        assert f"frame-ancestors '{'none' if path.startswith('api') else 'self'}'" in policy, path
        assert "unsafe-inline" not in policy.partition("script-src")[2].partition(";")[0], path
    assert (
        requests.get(f"{served}/api/v1/models", timeout=60)
        .headers["content-security-policy"]
        .startswith("default-src 'none'")
    )


def test_health_tells_what_is_wrong_and_recovers(served: str, toy: ToyCatalogue) -> None:
    missing = toy.directory / "build-absent.duckdb"
    set_current(toy.directory, missing)
    try:
        ill = requests.get(f"{served}/health", timeout=60)
        refused = requests.get(f"{served}/api/v1/neuron/L0.F0", timeout=60)
    finally:
        set_current(toy.directory, toy.path)
    assert (ill.status_code, ill.json()["status"]) == (503, "broken")
    assert "build-absent.duckdb, which is missing" in ill.json()["parts"]["catalogue"]["problem"]
    assert str(toy.directory) not in ill.text
    assert (refused.status_code, refused.json()["status"]) == (503, 503)
    assert requests.get(f"{served}/health", timeout=60).status_code == 200


def test_a_server_without_its_workspace_is_impaired(
    toy: ToyCatalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATLAS_CATALOGUE", str(toy.directory.parent))
    file = tmp_path / "kept.sqlite"
    monkeypatch.setenv("ATLAS_WORKSPACE", f"sqlite:///{file}")
    with TestClient(Starlette(routes=[Route("/health", health(stored.workspace))])) as ask:
        assert ask.get("/health").json()["parts"]["workspace"] == {"status": "ok"}  # nothing was saved yet
        assert not file.exists()
        file.write_text("no database " * 1000)
        answer = ask.get("/health")
    assert (answer.status_code, answer.json()["status"]) == (200, "impaired")
    assert answer.json()["parts"]["catalogue"]["status"] == "ok"
    assert answer.json()["parts"]["workspace"]["status"] == "broken"
    assert str(tmp_path) not in answer.text
    streamlit.cache_resource.clear()


def test_a_catalogue_that_hangs_is_broken(toy: ToyCatalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    go = Event()
    monkeypatch.setenv("ATLAS_WORKSPACE", "off")
    monkeypatch.setattr("app.serving.health.PATIENCE", 0.05)
    monkeypatch.setattr("app.serving.health.catalogue", lambda: go.wait())
    with TestClient(Starlette(routes=[Route("/health", health(stored.workspace))])) as ask:
        answer = ask.get("/health")
    go.set()
    assert answer.status_code == 503
    assert "has not answered" in answer.json()["parts"]["catalogue"]["problem"]


def test_a_wrong_setting_stops_the_start_with_one_line() -> None:
    environment = os.environ | {"ATLAS_MAX_TOKENS": "many"}
    done = subprocess.run(COMMAND, cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "ATLAS_MAX_TOKENS" in done.stderr


@pytest.mark.parametrize("host", ["atlas.example.org", "127.0.0.1:8501", "[::1]:8501"])
def test_the_policy_lets_a_browser_open_its_socket_here(host: str) -> None:
    assert f"wss://{host};" in page_policy("", host)


@pytest.mark.parametrize("host", ["", "x; script-src *", "evil.org/path", "a b", "*"])
def test_no_other_host_gets_into_the_policy(host: str) -> None:
    assert "wss:" not in page_policy("", host)
    assert page_policy("", host).count("script-src") == 1


def test_the_policy_knows_streamlits_inline_scripts() -> None:
    index = (Path(streamlit.__file__).parent / "static" / "index.html").read_text(encoding="utf-8")
    inline = re.findall(r"<script(?![^>]*\bsrc=)[^>]*>", index)
    assert len(inline) == page_policy(index).count("'sha256-")
