"""Descriptions, asked of a made-up endpoint on this machine."""

import json
import re
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from db.__main__ import main as ask
from db.catalogue.store import Catalogue
from db.neuron import Neuron
from db.texts.store import DESCRIPTIONS
from indexer import describe
from indexer.__main__ import main
from tests.catalogues import make_catalogue
from tests.texts import give_texts

Capture = pytest.CaptureFixture[str]


class _Model(BaseHTTPRequestHandler):
    asked: list[dict[str, Any]]
    refuse: list[int]
    """Statuses of the next answers, before it answers as it should."""

    def do_POST(self) -> None:
        if type(self).refuse:
            self.send_error(type(self).refuse.pop(0))
            return
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).asked.append({"path": self.path, "key": self.headers["Authorization"], **body})
        question = body["messages"][0]["content"]
        rated = re.search(r"list of (\d+) numbers", question)
        said = " odd\nplaces" if rated is None else str([10 - number for number in range(int(rated[1]))])
        answer = json.dumps({"choices": [{"message": {"content": said}}]}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Nothing on standard error."""


@pytest.fixture
def endpoint() -> Iterator[str]:
    _Model.asked, _Model.refuse = [], []
    with HTTPServer(("127.0.0.1", 0), _Model) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


@pytest.fixture
def build(tmp_path: Path) -> Path:
    toy = make_catalogue(tmp_path / "catalogue")
    give_texts(toy.path, k=4)
    return toy.path


def run(build: Path, endpoint: str, *options: str) -> int:
    place = ("--catalogue", str(build.parents[1]))
    return main(["describe", "--endpoint", endpoint, "--model", "teller", *place, *options])


def test_described_scored_kept_and_shown(
    build: Path, endpoint: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(describe.KEY, "s3cret")
    assert run(build, endpoint, "--layers", "1") == 0
    assert "7 neurons are to be described: 14 requests" in capsys.readouterr().err
    assert _Model.asked == []
    assert run(build, endpoint, "--neurons", "L1.F3", "L2.F0", "--yes") == 0
    assert "s3cret" not in "".join(capsys.readouterr())
    assert [(one["path"], one["key"], one["model"]) for one in _Model.asked] == [
        ("/v1/chat/completions", "Bearer s3cret", "teller")
    ] * 4
    with Catalogue.open(build) as atlas:
        assert atlas.texts
        found = atlas.texts.of(Neuron.ffn(1, 3))
        assert found.usual
        assert found.description
        shown, rated = (one["messages"][0]["content"] for one in _Model.asked[:2])
        assert shown.count("⟦") == len(found.at(found.usual)[::2]) + 1
        assert "described as: odd places" in rated
        held_out = sorted(
            (one.window, one.position, one.peak) for one in (*found.positive[1::2], *found.negative[:2])
        )  # usually positive
        assert found.usual.value == "promotes"
        peaks = [peak for *_, peak in held_out]
        expected = describe.rank_correlation(range(len(peaks), 0, -1), peaks)
        assert (found.description.text, found.description.by) == ("odd places", "teller")
        assert found.description.score == expected is not None
    assert ask(["texts", "L1.F3", "--json", "--catalogue", str(build)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["description"], told["described_by"], told["description_score"]) == ("odd places", "teller", expected)
    assert ask(["texts", "L1.F3", "--catalogue", str(build)]) == 0
    assert "described by teller: odd places (score " in capsys.readouterr().out


def test_it_goes_on_after_a_failure(build: Path, endpoint: str, capsys: Capture) -> None:
    assert run(build, endpoint, "--layers", "0", "--limit", "2", "--yes") == 0
    kept = (build.parent / DESCRIPTIONS).read_text()
    _Model.refuse = [401]
    assert run(build, endpoint, "--layers", "0", "--yes") == 2
    assert f"refuses (HTTP 401 Unauthorized). Check {describe.KEY}." in capsys.readouterr().err
    with (build.parent / DESCRIPTIONS).open("a") as file:
        file.write('{"neuron": "L0.F')  # as a kill may leave it
    assert run(build, endpoint, "--layers", "0", "--yes") == 0
    assert "5 neurons are to be described" in capsys.readouterr().err
    assert (build.parent / DESCRIPTIONS).read_text().startswith(kept)
    assert run(build, endpoint, "--layers", "0", "--yes") == 0
    assert "0 neurons are to be described" in capsys.readouterr().err


def test_a_busy_endpoint_is_asked_again(build: Path, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    _Model.refuse = [429, 503]
    assert run(build, endpoint, "--neurons", "L0.F0", "--yes") == 0
    assert waits == [1, 2]


@pytest.mark.parametrize(
    ("url", "options", "problem"),
    [
        ("file:///etc/passwd", (), "is no endpoint"),
        ("http://127.0.0.1:9/v1", ("--neurons", "L0.F0", "--yes"), "cannot be reached"),
        ("http://127.0.0.1:9/v1", ("--neurons", "L0.H0.N0", "--yes"), "attention neurons were left out"),
        (
            "http://127.0.0.1:9/v1",
            (
                "--layers",
                "7",
            ),
            "layers 0–2",
        ),
    ],
)
def test_what_cannot_be_asked(
    build: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, url: str, options: tuple[str, ...], problem: str
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    assert run(build, url, *options) == 2
    assert problem in capsys.readouterr().err


def test_rank_correlation() -> None:
    assert describe.rank_correlation([1, 2, 3, 4], [2, 2, 9, 9.5]) == pytest.approx(0.948683, abs=1e-6)
    assert describe.rank_correlation([1, 1, 1], [1, 2, 3]) is None
