"""The requests that the documentation shows are answered."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import streamlit as st
from starlette.testclient import TestClient

from tests.readmes import READMES
from tests.serving.api_client import client, problem

REQUESTS = [
    match[1]
    for readme in READMES
    for line in readme.code_lines
    if (match := re.match(r'curl "http://localhost:8501/api(/[^"]+)"', line))
]


@pytest.fixture(scope="module")
def demo(demo_catalogue_dir: Path) -> Iterator[TestClient]:
    """One for all requests, as a server is: the model is loaded once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATLAS_CATALOGUE", str(demo_catalogue_dir))
        patch.setenv("ATLAS_WORKSPACE", "off")
        yield client()
    st.cache_resource.clear()


def test_there_are_some():
    assert len(REQUESTS) >= 5


@pytest.mark.parametrize("request_path", REQUESTS)
def test_a_request_is_answered(demo, request_path):
    answer = demo.get(request_path)
    if request_path.startswith("/v1/activated"):  # the tests' catalogue has no texts
        assert "Gather them" in problem(answer, 404)
        return
    assert answer.status_code == 200, answer.text
    assert answer.json()
