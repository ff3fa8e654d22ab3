"""The API against its own OpenAPI document, with requests that fit it and requests that do not."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
import streamlit as st
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode

from app.answers import http
from app.serving.api import api
from tests.serving.api_client import client

pytestmark = pytest.mark.fuzz
PATHS = [
    "/v1/activated",
    "/v1/builds",
    "/v1/compare",
    "/v1/concept",
    "/v1/excerpts",
    "/v1/group",
    "/v1/groups",
    "/v1/models",
    "/v1/named",
    "/v1/neuron/{label}",
    "/v1/overview",
    "/v1/prompt",
    "/v1/search",
    "/v1/similar/{label}",
    "/v1/steer",
    "/v1/texts/{label}",
    "/v1/token",
]


@pytest.fixture(scope="module")
def document(toy_root: Path) -> Iterator[Any]:
    """The document of an application that answers from the toy catalogue."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATLAS_CATALOGUE", str(toy_root))
        yield schemathesis.openapi.from_asgi("/openapi.json", api(http.router()))
    st.cache_resource.clear()


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize("path", PATHS)
def test_answers_are_as_the_document_says(document: Any, path: str, mode: GenerationMode) -> None:
    """Statuses, kinds and shapes of the answers; and what does not fit the document is refused."""

    @given(case=document[path]["GET"].as_strategy(generation_mode=mode))
    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    def ask(case: schemathesis.Case) -> None:
        case.call_and_validate(
            excluded_checks=[
                # Parameters that fit one by one may not fit each other, or the model: it lacks that layer.
                schemathesis.checks.positive_data_acceptance,
            ]
        )

    ask()


def test_the_document(toy_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATLAS_CATALOGUE", str(toy_root))
    found = client().get("/openapi.json").json()
    assert sorted(found["paths"]) == PATHS
    for path, methods in found["paths"].items():
        assert list(methods) == ["get"]
        of_model = path.removeprefix("/v1/") in http.PAGES
        assert set(methods["get"]["responses"]) == {"200", "403" if of_model else "304", "400", "404", "422", "503"}
        for parameter in methods["get"]["parameters"]:
            assert parameter["description"], parameter["name"]
    assert "http" not in str(found["paths"])


def test_what_a_page_reads_from_its_address_has_its_kind_in_the_document(
    toy_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATLAS_CATALOGUE", str(toy_root))
    paths = client().get("/openapi.json").json()["paths"]
    schemas = {
        (path, one["name"]): one["schema"]["anyOf"]
        for path, methods in paths.items()
        for one in methods["get"]["parameters"]
        if "anyOf" in one["schema"]
    }
    assert schemas["/v1/prompt", "k"] == [{"type": "integer", "minimum": 1, "default": 300}]
    assert schemas["/v1/prompt", "target"] == [{"type": "integer", "minimum": 0}, {"type": "string"}]
    assert schemas["/v1/prompt", "method"] == [
        {"type": "string", "enum": ["added", "removed", "gradient"], "default": "added"}
    ]
    assert schemas["/v1/steer", "topp"] == [{"type": "number", "minimum": 0.01, "maximum": 1, "default": 1.0}]
    assert schemas["/v1/activated", "usual"] == [{"type": "integer", "enum": [0, 1]}]
    page = client().get("/").text
    for words in ("whole number, 300 without it", "added or removed or gradient, added without it", "0 or 1"):
        assert f"<td>{words}</td>" in page
    assert "<td>whole number or text</td>" in page
    assert "<td>number from 0.01 to 1, 1.0 without it</td>" in page
    assert "<td>number from -1,000,000 to 1,000,000</td>" in page
