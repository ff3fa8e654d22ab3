"""Asking the API in the test's own process."""

import json
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.answers import http
from app.serving.api import api
from db.__main__ import main


def client() -> TestClient:
    """A client of a new application, which answers what it did not foresee with 500 as a server does."""
    return TestClient(api(http.router()), raise_server_exceptions=False)


def shell(capsys: pytest.CaptureFixture[str], root: Path, *arguments: str) -> str:
    """What the same question prints in the shell."""
    capsys.readouterr()
    assert main([*arguments, "--catalogue", str(root), "--json"]) == 0
    return capsys.readouterr().out.removesuffix("\n")


def problem(answer: Any, status: int) -> str:
    """The sentence of a problem of that status."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found = json.loads(answer.text)
    assert list(found) == ["type", "title", "status", "detail"]
    assert found["status"] == status
    sentence = str(found["detail"])
    assert sentence.endswith(".")
    assert "Traceback" not in sentence
    assert "\n" not in sentence
    return sentence
