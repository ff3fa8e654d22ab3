"""Whatever is asked, in whatever bytes: an answer or a problem, never a defect."""

import asyncio
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_from_bytes

import pytest
import streamlit
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.serving.api import api
from tests.catalogues import TOKENS

pytestmark = pytest.mark.fuzz
_KNOWN = "text limit offset sign kind layers head min_z max_rank by widen add drop model"
NAMES = st.sampled_from([*_KNOWN.split(), "text", "other", "", "text[]", "__proto__"])
NUMBERS = st.one_of(st.integers(), st.floats(), st.integers(-1, 50)).map(str)
TYPED = st.one_of(
    st.text(max_size=30),
    st.sampled_from([token.decode(errors="replace") for token in TOKENS]),
    st.sampled_from(["promotes", "ffn", "0-1", "1-0", "z", "logit", "toy", "python, -code", "null", "[]", "٣", "1e3"]),
    NUMBERS,
)
VALUES = st.one_of(TYPED.map(lambda text: quote(text, errors="replace")), st.binary(max_size=12).map(quote_from_bytes))
QUERIES = st.one_of(
    st.lists(st.tuples(NAMES, VALUES), max_size=6).map(lambda pairs: "&".join("=".join(pair) for pair in pairs)),
    st.text(st.characters(max_codepoint=126, min_codepoint=33), max_size=40),
).map(str.encode)
LABELS = st.one_of(
    st.sampled_from(["L0.F0", "l2.h1.n2", "L9999.F9999999", "L0.F٣", " L0.F0", "L0.F0\n", "L0.F0/../x", "L-1.F0"]),
    st.text(max_size=20),
)
PATHS = st.one_of(
    st.sampled_from(
        [
            f"/v1/{name}"
            for name in [
                "search",
                "concept",
                "token",
                "overview",
                "builds",
                "models",
                "excerpts",
                "named",
                "groups",
                "group",
            ]
        ],
    ),
    st.builds("/v1/{}/{}".format, st.sampled_from(["neuron", "similar", "texts"]), LABELS),
    st.text(max_size=20).map("/".__add__),
)


async def ask(app: FastAPI, path: str, query: bytes) -> tuple[int, str, bytes]:
    """Status, kind and body of what an application answers to bytes that no HTTP client would send."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode("utf-8", "surrogatepass"),
        "query_string": query,
        "root_path": "",
        "headers": [(b"host", b"localhost"), (b"if-none-match", b'"x')],
        "server": ("localhost", 80),
        "client": ("localhost", 1),
    }
    await app(scope, receive, send)
    kind = dict(sent[0]["headers"]).get(b"content-type", b"").decode()
    return sent[0]["status"], kind, b"".join(message.get("body", b"") for message in sent[1:])


@pytest.mark.parametrize("valid_text", [True, False])
def test_anything(toy_root: Path, monkeypatch: pytest.MonkeyPatch, valid_text: bool) -> None:
    monkeypatch.setenv("ATLAS_CATALOGUE", str(toy_root))
    app = api()
    statuses = set()

    @given(path=PATHS, query=QUERIES)
    @settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
    def check(path: str, query: bytes) -> None:
        status, kind, body = asyncio.run(ask(app, path, b"text=python&" + query if valid_text else query))
        statuses.add(status)
        assert status in (200, 400, 404, 422)
        assert b"Traceback" not in body
        if path in ("/", "/openapi.json") or status == 200:
            return
        assert kind == "application/problem+json"
        assert json.loads(body)["detail"].endswith((".", "…"))

    check()
    assert {200, 404, 422} <= statuses
    streamlit.cache_resource.clear()
