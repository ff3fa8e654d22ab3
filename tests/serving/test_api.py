"""The API answers what the shell answers, refuses what it must, and says when an answer is old."""

import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import streamlit as st
from pydantic import TypeAdapter
from starlette.testclient import TestClient

from app.serving import resources
from app.serving.api import ANSWERS, form
from app.serving.problems import Pool, UnavailableError
from app.serving.settings import configuration
from db.__main__ import parser
from db.catalogue.builds import set_current
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.questions import QUESTIONS, OneNeuron
from db.texts.store import DESCRIPTIONS
from tests.catalogues import TOKENS, make_catalogue
from tests.serving.api_client import client, problem, shell

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def ask(toy_root: Path) -> Iterator[TestClient]:
    """A client on the toy catalogue."""
    with pytest.MonkeyPatch.context() as patch, client() as queries:
        patch.setenv("ATLAS_CATALOGUE", str(toy_root))
        yield queries
    st.cache_resource.clear()


SAME = [
    (("search", " Python"), "search?text=%20Python"),
    (
        ("search", "python", "--promotes", "--kind", "ffn", "--layers", "1-2", "--by", "rank", "--limit", "5"),
        "search?text=python&sign=promotes&kind=ffn&layers=1-2&by=rank&limit=5",
    ),
    (
        ("search", "x", "--suppresses", "--head", "1", "--max-rank", "4", "--min-z", "0.5", "--by", "logit"),
        "search?text=x&sign=suppresses&head=1&max_rank=4&min_z=0.5&by=logit",
    ),
    (("search", "x", "--layers", "2", "--offset", "3"), "search?text=x&layers=2&offset=3"),
    (("search", "Paris", "--min-z", "99"), "search?text=Paris&min_z=99"),
    (("concept", "python, -code absent"), "concept?text=python%2C%20-code%20absent"),
    (
        ("concept", "python", "--drop", "2", "--add", "9", "--add", "3", "--widen", "0", "--limit", "3"),
        "concept?text=python&drop=2&add=9&add=3&widen=0&limit=3",
    ),
    (("neuron", "l2.h1.n2"), "neuron/l2.h1.n2"),
    (("neuron", "L0.F0"), "neuron/L0.F0?model=toy"),
    (("similar", "L0.F0"), "similar/L0.F0"),
    (("similar", "L0.F0", "--limit", "2"), "similar/L0.F0?limit=2"),
    (("texts", "L0.F0"), "texts/L0.F0"),
    (("texts", "L2.F6", "--limit", "1"), "texts/L2.F6?limit=1"),
    (("excerpts", 'python "drop table"'), "excerpts?text=python%20%22drop%20table%22"),
    (("excerpts", "w1", "--limit", "2", "--offset", "1"), "excerpts?text=w1&limit=2&offset=1"),
    (("named", "python"), "named?text=python"),
    (("token", "Paris"), "token?text=Paris"),
    (("token", "Paris", "--limit", "0"), "token?text=Paris&limit=0"),
    (("overview",), "overview"),
    (("overview", "--limit", "3"), "overview?limit=3"),
    (("overview", "--limit", "0"), "overview?limit=0"),
]


SHAPES: dict[str, TypeAdapter[Any]] = {name: TypeAdapter(answer) for name, answer in ANSWERS.items()}
"""What the OpenAPI document says of the answers."""


@pytest.mark.parametrize(("arguments", "path"), SAME, ids=[path for _, path in SAME])
def test_the_answer_is_the_shells(
    ask: TestClient, toy_root: Path, capsys: Capture, arguments: tuple[str, ...], path: str
) -> None:
    answer = ask.get(f"/v1/{path}")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.text == shell(capsys, toy_root, *arguments)
    SHAPES[arguments[0]].validate_json(answer.text, strict=True)


def test_builds_are_the_shells_without_the_place_on_this_machine(
    ask: TestClient, toy_root: Path, capsys: Capture
) -> None:
    expected = json.loads(shell(capsys, toy_root, "builds"))
    for build in expected:
        build["path"] = str(Path(build["path"]).relative_to(toy_root))
    answer = ask.get("/v1/builds")
    assert answer.json() == expected
    SHAPES["builds"].validate_json(answer.text, strict=True)
    SHAPES["models"].validate_json(ask.get("/v1/models").text, strict=True)
    assert str(toy_root) not in answer.text
    (model,) = ask.get("/v1/models").json()
    assert (model["model"], model["build_id"], model["layers"], model["first"]) == ("toy", "one", 3, True)


def test_parameters_are_the_shells_options() -> None:
    """By name, default and choice, so that neither can gain one without the other."""
    whole = parser()
    (commands,) = [action.choices for action in whole._actions if isinstance(action, argparse._SubParsersAction)]
    for name, question in QUESTIONS.items():
        options = {
            action.dest: action.default
            for action in commands[name]._actions
            if action.dest not in ("help", "json", "catalogue", "model", "label")
        }
        fields = {field: info.default for field, info in form(question).model_fields.items() if field != "model"}
        for needed in ("text", "group"):
            fields.pop(needed, None), options.pop(needed, None)
        assert fields == options, name


@pytest.mark.parametrize("token_id", range(len(TOKENS)))
def test_nasty_tokens_come_through(ask: TestClient, toy_root: Path, token_id: int) -> None:
    with Catalogue.open(toy_root / "toy" / "build-one.duckdb") as catalogue:
        token = catalogue.token(token_id)
    # What is not valid UTF-8 cannot be asked for; it is added to a concept by its id.
    found = ask.get(f"/v1/concept?text=python&widen=0&add={token_id}").json()["tokens"]
    assert [entry["token"] for entry in found if entry["token_id"] == token_id] == [token.text]
    try:
        text = TOKENS[token_id].decode()
    except UnicodeDecodeError:
        return
    if text:
        answer = ask.get(f"/v1/token?text={quote(text, safe='')}")
        assert (answer.json()["token_id"], answer.json()["token"]) == (token_id, text)
        assert all(hit["token"] == text for hit in answer.json()["promotes"])


def test_html_in_a_token_is_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evil = "<script>alert(1)</script>"
    make_catalogue(tmp_path, tokens=(*TOKENS, evil.encode()))
    monkeypatch.setenv("ATLAS_CATALOGUE", str(tmp_path))
    answer = client().get("/v1/token", params={"text": evil})
    assert answer.json()["token"] == evil
    assert answer.headers["content-type"] == "application/json"
    refused = problem(client().get("/v1/search", params={"text": f"{evil} {evil}"}), 404)
    assert "is not one token" in refused
    st.cache_resource.clear()


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("search", 422, "The parameter “text” is missing."),
        ("search?text=", 422, "“text” should have at least 1 character"),
        (f"search?text={'x' * 1001}", 422, "“text” should have at most 1000 characters"),
        ("search?text=x&foo=1", 422, "There is no parameter “foo”"),
        ("search?text=x&limit=1001", 422, "“limit” should be less than or equal to 1000, and “1001” was given"),
        ("search?text=x&limit=-1", 422, "“limit” should be greater than or equal to 0"),
        ("search?text=x&limit=many", 422, "“limit”"),
        ("search?text=x&offset=1000001", 422, "“offset”"),
        ("search?text=x&min_z=nan", 422, "“min_z”"),
        ("search?text=x&sign=loves", 422, "'promotes' or 'suppresses'"),
        ("search?text=x&layers=a-b", 422, "“a-b” is no range of layers"),
        ("search?text=x&layers=2-1", 422, "no range"),
        ("search?text=x&layers=2-9", 422, "layers 0–2"),
        ("search?text=x&head=7", 422, "heads 0–1"),
        ("search?text=x&kind=ffn&head=1", 422, "no head"),
        ("search?text=x&limit=1&limit=2", 400, "“limit” is given twice"),
        ("search?text=%FF%FE", 400, "not valid UTF-8"),
        ("search?text=Python%20code", 404, "it splits into “Python”, “␣code”"),
        ("token?text=absent", 404, "is not one token"),
        ("neuron/L0.F99", 404, "FFN neurons 0–6"),
        ("similar/L9.H0.N0", 404, "layers 0–2"),
        ("neuron/nonsense", 422, "“nonsense” is no neuron label"),
        ("neuron/L1.F1?limit=3", 422, "There is no parameter “limit”"),
        ("texts/L0.F99", 404, "FFN neurons 0–6"),
        ("texts/L0.H0.N0", 404, "attention neurons were left out"),
        ("excerpts?text=%20", 422, "from 1 to 16 words"),
        ("concept?text=-", 422, "no word"),
        ("concept?text=x&add=99", 422, "vocabulary"),
        ("concept?text=x&widen=201", 422, "“widen”"),
        ("concept?text=x" + "&add=1" * 201, 422, "at most 200 items"),
        ("overview?model=absent", 404, "there are: toy"),
        ("builds?model=absent", 404, "there are: toy"),
        ("models?model=absent", 404, "there are: toy"),
        ("nothing", 404, "There is nothing at this address"),
    ],
)
def test_problems(ask: TestClient, toy_root: Path, path: str, status: int, said: str) -> None:
    answer = ask.get(f"/v1/{path}")
    assert said in problem(answer, status)
    assert str(toy_root) not in answer.text


@pytest.mark.parametrize("path", ["", "openapi.json", "v1/models", "v1/search?text=%20Paris", "v1/neuron/L99.F1"])
def test_head_is_answered_as_get_without_a_body(ask: TestClient, path: str) -> None:
    whole, head = ask.get(f"/{path}"), ask.head(f"/{path}")
    assert (head.status_code, head.headers) == (whole.status_code, whole.headers)
    assert whole.content
    assert head.content == b""


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_it_is_read_only(ask: TestClient, method: str) -> None:
    answer = ask.request(method, "/v1/search?text=x")
    assert "read-only" in problem(answer, 405)
    assert answer.headers["allow"] == "GET"


def test_an_unchanged_answer_is_not_sent_again(ask: TestClient) -> None:
    first = ask.get("/v1/neuron/L0.F0")
    assert first.headers["cache-control"] == "no-cache"
    assert first.headers["build-id"] == "one"
    tag = first.headers["etag"]
    for known in (tag, f'"other", {tag}', tag.removeprefix("W/")):
        again = ask.get("/v1/neuron/L0.F0", headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert ask.get("/v1/neuron/L0.F0", headers={"If-None-Match": '"other"'}).status_code == 200
    assert ask.get("/v1/neuron/L0.F1", headers={"If-None-Match": tag}).status_code == 200
    beside = resources.catalogue().path.parent / DESCRIPTIONS
    beside.write_text("{}\n")
    assert ask.get("/v1/neuron/L0.F0", headers={"If-None-Match": tag}).status_code == 200, "there may be one of it now"
    beside.unlink()
    assert problem(ask.get("/v1/neuron/L0.F99", headers={"If-None-Match": "*"}), 404)
    listed = ask.get("/v1/builds")
    assert ask.get("/v1/builds", headers={"If-None-Match": listed.headers["etag"]}).status_code == 304


def test_pages_follow_each_other(ask: TestClient) -> None:
    whole = ask.get("/v1/search?text=python&limit=1000").json()
    found, path = [], "/v1/search?text=python&limit=7"
    for _ in range(len(whole)):
        answer = ask.get(path)
        found += answer.json()
        if "link" not in answer.headers:
            break
        path = answer.links["next"]["url"]
    assert found == whole
    assert len(whole) > 14


def test_a_new_build_answers_the_next_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATLAS_CATALOGUE", str(tmp_path))
    with client() as ask:
        assert "make index" in problem(ask.get("/v1/neuron/L0.F0"), 503)
        assert "make index" in problem(ask.get("/v1/builds"), 503)
        make_catalogue(tmp_path)
        before = ask.get("/v1/neuron/L0.F0")
        assert before.status_code == 200
        assert len(ask.get("/v1/builds").json()) == 1
        make_catalogue(tmp_path, build_id="two", seed=1)
        after = ask.get("/v1/neuron/L0.F0", headers={"If-None-Match": before.headers["etag"]})
        assert (after.status_code, after.headers["build-id"]) == (200, "two")
        assert after.json()["mean"] != before.json()["mean"]
        assert [build["current"] for build in ask.get("/v1/builds").json()] == [True, False]
        assert ask.get("/v1/models").json()[0]["build_id"] == "two"
    st.cache_resource.clear()


def test_a_build_that_is_replaced_while_it_is_opened(ask: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str | None] = []

    def catalogue(model: str | None) -> Catalogue:
        asked.append(model)
        if len(asked) == 1:
            raise AtlasError("CURRENT names build-old.duckdb, which is missing.")
        return resources.catalogue(model)

    monkeypatch.setattr("app.serving.api.catalogue", catalogue)
    assert ask.get("/v1/neuron/L0.F0?model=toy").status_code == 200
    assert asked == ["toy", "toy"]


def test_a_damaged_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = make_catalogue(tmp_path)
    broken = toy.directory / "build-broken.duckdb"
    data = bytearray(toy.path.read_bytes())
    broken.write_bytes(data[: len(data) // 2])
    set_current(toy.directory, broken)
    monkeypatch.setenv("ATLAS_CATALOGUE", str(tmp_path))
    with client() as ask:
        answer = ask.get("/v1/neuron/L0.F0")
        assert "build-broken.duckdb is" in problem(answer, 503)
        assert answer.headers["retry-after"]
        (model,) = ask.get("/v1/models").json()
        assert model["build_id"] is None
        assert "build-broken.duckdb is" in model["problem"]
        assert str(tmp_path) not in answer.text + model["problem"]
        # Damaged where opening does not look: the error comes from the middle of a question.
        for place in range(12_288 + 100, len(data), 4096):
            data[place] ^= 0xFF
        later = toy.directory / "build-later.duckdb"
        later.write_bytes(data)
        set_current(toy.directory, later)
        assert problem(ask.get("/v1/search?text=x"), 503)
    st.cache_resource.clear()


def test_several_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_catalogue(tmp_path, model="first")
    make_catalogue(tmp_path, model="second", seed=1)
    monkeypatch.setenv("ATLAS_CATALOGUE", str(tmp_path))
    monkeypatch.setenv("ATLAS_MODEL", "second")
    with client() as ask:
        assert [(model["model"], model["first"]) for model in ask.get("/v1/models").json()] == [
            ("first", False),
            ("second", True),
        ]
        plain, first, second = (ask.get(f"/v1/neuron/L0.F0{query}") for query in ("", "?model=first", "?model=second"))
        assert plain.json() == second.json() != first.json()
        assert len({answer.headers["etag"] for answer in (plain, first, second)}) == 3
    st.cache_resource.clear()


def test_the_model_whose_build_was_made_first_is_shown_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for time, (model, seed) in enumerate([("later", 5), ("sooner", 1)], 1):
        os.utime(make_catalogue(tmp_path, model=model, seed=seed).path, (time, time))  # as copied
    monkeypatch.setenv("ATLAS_CATALOGUE", str(tmp_path))
    with client() as ask:
        assert [model["model"] for model in ask.get("/v1/models").json() if model["first"]] == ["sooner"]
        plain, sooner = (ask.get(f"/v1/neuron/L0.F0{query}").json() for query in ("", "?model=sooner"))
        assert plain == sooner
        (tmp_path / "another").mkdir()
        (tmp_path / "another" / "CURRENT").write_text("build-x.duckdb")
        (tmp_path / "another" / "build-x.duckdb").write_bytes(b"no build")
        assert ask.get("/v1/neuron/L0.F0").json() == sooner
    st.cache_resource.clear()


def test_a_defect_is_one_sentence(ask: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(OneNeuron, "answer", fail)
    answer = ask.get("/v1/neuron/L0.F0")
    assert "defect" in problem(answer, 500)
    assert "secret" not in answer.text


def test_other_sites_may_read_only_where_the_settings_name_them(
    ask: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = {"Origin": "https://example.org"}
    assert "access-control-allow-origin" not in ask.get("/v1/neuron/L0.F0", headers=origin).headers
    monkeypatch.setenv("ATLAS_CORS_ORIGINS", "https://example.org")
    configuration.cache_clear()
    with client() as open_to_one:
        assert (
            open_to_one.get("/v1/neuron/L0.F0", headers=origin).headers["access-control-allow-origin"]
            == origin["Origin"]
        )
        other = open_to_one.get("/v1/neuron/L0.F0", headers={"Origin": "https://example.com"})
        assert "access-control-allow-origin" not in other.headers


def test_too_many_questions_at_once() -> None:
    import asyncio
    from threading import Event

    go, pool = Event(), Pool(threads=1, waiting=1)

    async def ask_thrice() -> list[object]:
        running = [asyncio.create_task(pool.run(go.wait)) for _ in range(2)]
        await asyncio.sleep(0)
        refused = await asyncio.gather(pool.run(go.wait), return_exceptions=True)
        go.set()
        return [*await asyncio.gather(*running), *refused, await pool.run(lambda: "again")]

    first, second, refused, again = asyncio.run(ask_thrice())
    assert (first, second, again) == (True, True, "again")
    assert isinstance(refused, UnavailableError)


def test_the_page_for_people(ask: TestClient) -> None:
    page = ask.get("/")
    assert page.headers["content-type"].startswith("text/html")
    for path in ask.get("/openapi.json").json()["paths"]:
        assert f"GET {path}" in page.text
    assert "<script" not in page.text
    assert "//" not in page.text.replace("</", "")
    for link in ("/v1/search?text=%20Paris", "/v1/neuron/L2.F3"):
        assert f'href="{link}"' in page.text
        assert ask.get(link).status_code == 200
