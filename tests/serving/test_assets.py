"""The frontend's files from memory, the pieces that a page names in advance, and connections that send at once."""

import gzip
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import streamlit
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from app.serving.frontend import Asset, Assets, of_folder, page_policy, with_preloads
from app.serving.startup import send_at_once
from app.ui.components import entry, script, script_name
from app.ui.pages import PAGES

FRONTEND = Path(streamlit.__file__).parent / "static"
SCRIPTS = FRONTEND / "static" / "js"
NEEDS = {page.path: page.needs for page in PAGES.values()}
TEXT = b"export default 1; // " + b"much of the same " * 200


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files that are served, and one that is not."""
    (tmp_path / "js").mkdir()
    (tmp_path / "js" / "long.js").write_bytes(TEXT)
    (tmp_path / "short.css").write_bytes(b"a{}")
    (tmp_path / "secret.txt").write_bytes(b"secret")
    return tmp_path


def _ask(folder: Path, client: str) -> Iterator[TestClient]:
    assets = {**of_folder(folder, "/static/"), "/": Asset(b"<html>", ".html", "no-cache")}
    rest = [Route("/{path:path}", lambda _: PlainTextResponse("not from memory"))]
    app = Starlette(routes=rest, middleware=[Middleware(Assets, assets=assets)])
    with TestClient(app, client=(client, 5000)) as ask:
        yield ask


@pytest.fixture
def near(folder: Path) -> Iterator[TestClient]:
    """A browser on the same machine."""
    yield from _ask(folder, "127.0.0.1")


@pytest.fixture
def far(folder: Path) -> Iterator[TestClient]:
    """A browser on another machine."""
    yield from _ask(folder, "192.0.2.7")


def test_a_file_is_answered_with_its_type_and_for_ever(near: TestClient) -> None:
    answer = near.get("/static/js/long.js")
    assert (answer.status_code, answer.content) == (200, TEXT)
    assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
    assert answer.headers["content-length"] == str(len(TEXT))
    assert "immutable" in answer.headers["cache-control"]
    assert near.get("/").headers["cache-control"] == "no-cache"


def test_only_what_was_there_is_answered(near: TestClient, folder: Path) -> None:
    (folder / "late.js").write_bytes(b"late")
    for path in ("static/secret.txt", "static/late.js", "static/../secret.txt", "static/%2e%2e/secret.txt", "static/"):
        assert near.get(f"/{path}").text == "not from memory", path
    assert near.post("/static/short.css").status_code == 405


def test_it_is_compressed_for_other_machines_that_can_unpack(near: TestClient, far: TestClient) -> None:
    with far.stream("GET", "/static/js/long.js") as answer:
        assert answer.headers["content-encoding"] == "gzip"
        assert answer.headers["vary"] == "Accept-Encoding"
        packed = b"".join(answer.iter_raw())
    assert gzip.decompress(packed) == TEXT
    assert int(answer.headers["content-length"]) == len(packed) < len(TEXT) / 5
    assert "content-encoding" not in far.get("/static/js/long.js", headers={"Accept-Encoding": "identity"}).headers
    assert "content-encoding" not in far.get("/static/short.css").headers
    assert "content-encoding" not in near.get("/static/js/long.js").headers


@pytest.fixture(scope="module")
def index() -> str:
    """The page that is served."""
    return with_preloads((FRONTEND / "index.html").read_text("utf-8"), SCRIPTS, NEEDS, ["drawn/own.js"])


def _told(index: str) -> list[object]:
    found = re.search(r"\)\(\.\.\.(\[.*\])\)</script>", index)
    assert found
    told: list[object] = json.loads(found[1])
    return told


def test_the_page_names_what_it_will_need(index: str) -> None:
    files, pages, further = _told(index)
    assert isinstance(files, list)
    assert isinstance(pages, dict)
    assert further == ["drawn/own.js"]
    assert all((SCRIPTS / name).is_file() for name in files)
    assert not any(f"static/js/{name}" in index.partition("<script>(")[0] for name in files), "named already"
    names = {page: [files[number].partition(".")[0] for number in always] for page, (always, _, _) in pages.items()}
    assert all("BidiComponent" in found for found in names.values())
    assert "embed" in names["overview"]
    assert "embed" not in names[""]


def test_every_piece_exists() -> None:
    there = {path.name.partition(".")[0] for path in SCRIPTS.glob("*.js")}
    named = {piece for needs in NEEDS.values() for piece in needs.always + needs.asked}
    assert named <= there


def test_the_policy_allows_the_page_its_script(index: str) -> None:
    plain = (FRONTEND / "index.html").read_text("utf-8")
    assert page_policy(index).count("'sha256-") == page_policy(plain).count("'sha256-") + 1
    assert index.index("<script>(") < index.index('rel="stylesheet"'), "it would wait for the style sheet"


def test_a_missing_piece_does_no_harm(tmp_path: Path) -> None:
    files, pages, _ = _told(with_preloads('<link rel="stylesheet">', tmp_path, NEEDS))
    assert files == []
    assert isinstance(pages, dict)
    assert set(pages) == set(NEEDS)


def test_the_components_script_is_one_file() -> None:
    assert script_name() in entry()
    assert len(entry()) < 400, "it is sent with every view"
    assert script().startswith(b"const STYLE = ")
    assert script().count(b"export default") == 1


def test_accepted_connections_send_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
        send_at_once()
        with socket.create_connection(server.getsockname()):
            accepted, _ = server.accept()
            with accepted:
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
