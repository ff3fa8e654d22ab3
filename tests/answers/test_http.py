"""The questions that ask the model, over HTTP: each answers what the shell prints, and refuses what it must."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import streamlit as st
from starlette.testclient import TestClient

from app.answers import effects, explain, http
from app.attribution.__main__ import main
from app.serving.worker import Reason, RefusedError
from db.catalogue.builds import find_catalogue
from tests.conftest import RunPage
from tests.serving.api_client import client, problem
from tests.texts import give_texts

PROMPT = "The river runs to"
P = quote(PROMPT)


@pytest.fixture(scope="module")
def folders(small_folders: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The small model and its catalogue, with texts."""
    catalogue = tmp_path_factory.mktemp("http") / "catalogue"
    shutil.copytree(small_folders[1], catalogue)
    give_texts(find_catalogue(catalogue))
    return small_folders[0], catalogue


@pytest.fixture(scope="module")
def ask(folders: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATLAS_MODELS", str(folders[0]))
        patch.setenv("ATLAS_CATALOGUE", str(folders[1]))
        patch.setenv("ATLAS_WORKSPACE", f"sqlite:///{tmp_path_factory.mktemp('workspace') / 'atlas.sqlite'}")
        yield client()
    st.cache_resource.clear()


def shell(capsys: pytest.CaptureFixture[str], folders: tuple[Path, Path], *arguments: str) -> Any:
    capsys.readouterr()
    where = "--model", str(folders[0] / "llama"), "--catalogue", str(folders[1]), "--json"
    assert main([*arguments, *where]) == 0
    return untimed(json.loads(capsys.readouterr().out))


def untimed(answer: dict[str, Any]) -> dict[str, Any]:
    answer.pop("seconds", None)
    return answer


SAME = [
    ((PROMPT, "--measure", "300", "--flow"), f"prompt?p={P}"),
    (
        (PROMPT, "--target-id", "70", "--top", "5", "--measure", "5", "--flow", "--lens", "--query-of", "L1.F3"),
        f"prompt?p={P}&target=70&k=5&map=lens&own=L1.F3",
    ),
    (
        (PROMPT, "--distractor-id", "70", "--measure", "300", "--flow", "--within", "L1.ffn"),
        f"prompt?p={P}&not=70&layer=1&part=ffn",
    ),
    (
        (PROMPT, "--position", "2", "--measure", "300", "--flow", "--head", "L1.H0", "--within", "L1.H0@1"),
        f"prompt?p={P}&at=2&head=L1.H0&from=1",
    ),
    ((PROMPT, "--against", "The sea runs to", "--top", "100"), f"compare?p={P}&p2={quote('The sea runs to')}"),
    ((PROMPT, "--zero", "L1.H0,ffn:3", "--top", "7"), f"compare?p={P}&zero=L1.H0,ffn:3&k=7"),
    ((PROMPT, "--scale", "L1.F3=4", "--generate", "5"), f"steer?p={P}&do=L1.F3=4&n=5"),
    (
        (PROMPT, "--zero", "L0.H1", "--generate", "4", "--temperature", "0.9", "--seed", "3"),
        f"steer?p={P}&do=L0.H1&n=4&temp=0.9&seed=3",
    ),
    (("--activated-by", PROMPT, "--kind", "ffn", "--layers", "1"), f"activated?text={P}&kind=ffn&layers=1-1"),
]


@pytest.mark.parametrize(("arguments", "path"), SAME, ids=[path for _, path in SAME])
def test_the_answer_is_the_shells(
    ask: TestClient,
    folders: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    path: str,
) -> None:
    answer = ask.get(f"/v1/{path}")
    assert answer.status_code == 200, answer.text
    found = untimed(answer.json())
    assert found == shell(capsys, folders, *arguments)
    if path.startswith("prompt"):
        assert found["ffn_value_neurons"][0]["effect"] is not None
    for part in found.get("within", ()):
        lists = [one["neurons"] for name, one in part.items() if name != "part"]
        assert all(neuron["effect"] is not None for neurons in lists for neuron in neurons)
        assert sum(map(len, lists)) > 0


def test_a_token_may_be_named_by_its_text(ask: TestClient) -> None:
    first = ask.get(f"/v1/prompt?p={P}&k=2").json()
    token = first["predictions"][3]
    by_id = ask.get(f"/v1/prompt?p={P}&k=2&target={token['id']}").json()
    by_text = ask.get(f"/v1/prompt?p={P}&k=2&target={quote(token['text'])}").json()
    assert by_text["target"]["id"] == token["id"] != first["target"]["id"]
    assert untimed(by_id) == untimed(by_text)


def test_a_link_to_a_page_is_a_question(ask: TestClient) -> None:
    """What only changes how the page looks changes nothing here."""
    plain = ask.get(f"/v1/prompt?p={P}&k=3")
    link = ask.get(f"/v1/prompt?p={P}&k=3&sort=layer&tables=1&show=query&b=0000~20200101")
    assert link.status_code == 200
    assert link.text == plain.text
    assert plain.headers["Build-Id"]


def test_the_page_names_the_address_of_its_figures(ask: TestClient, small_page: RunPage) -> None:
    page = small_page("prompt", p=PROMPT, k="3", head="L1.H0")
    (link,) = [one.value for one in page.code if "api/v1/" in one.value]
    answer = ask.get("/v1/" + link.partition("api/v1/")[2])
    assert answer.status_code == 200, answer.text
    assert answer.json()["head_details"][0]["head"] == 0
    assert len(answer.json()["ffn_value_neurons"]) == 3


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("prompt", "“p” is missing"),
        ("prompt?p=%20", "“p” is missing"),
        ("activated?kind=ffn", "“text” is missing"),
        (f"prompt?p={P}&k=0", "k=0 cannot be used: a whole number from 1"),
        (f"prompt?p={P}&top=5", "top cannot be used: this page has no parameter of that name"),
        (f"prompt?p={P}&target=two%20tokens%20at%20least", "is not one token but 14"),
        (f"prompt?p={P}&at=99", "position"),
        (f"prompt?p={P}&head=L9.H0", "head=L9.H0 cannot be used"),
        (f"activated?text={P}&target=x", "target cannot be used"),
        (f"compare?p={P}", "nothing to compare with"),
        (f"steer?p={P}&n=1000", "n=1000 cannot be used"),
    ],
)
def test_what_cannot_be_meant_is_refused(ask: TestClient, path: str, said: str) -> None:
    assert said in problem(ask.get(f"/v1/{path}"), 422)


def test_what_is_given_twice_is_refused(ask: TestClient) -> None:
    assert "given twice" in problem(ask.get(f"/v1/prompt?p={P}&p=x"), 400)


def test_what_the_model_has_not_is_not_found(ask: TestClient) -> None:
    assert "other" in problem(ask.get(f"/v1/prompt?p={P}&model=other"), 404)
    assert "L9.F1" in problem(ask.get(f"/v1/steer?p={P}&do=L9.F1=2"), 404)


@pytest.mark.parametrize("mode", ["catalogue", "demo"])
def test_a_server_that_explains_no_prompts_says_so(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setenv("ATLAS_MODELS", str(folders[0]))
    monkeypatch.setenv("ATLAS_CATALOGUE", str(folders[1]))
    monkeypatch.setenv("ATLAS_MODE", mode)
    monkeypatch.setenv("ATLAS_WORKSPACE", "off")
    for path in (f"prompt?p={P}", f"compare?p={P}&zero=L0.H0", f"steer?p={P}", f"activated?text={P}"):
        assert "machine of your own" in problem(client().get(f"/v1/{path}"), 403)


def test_a_server_without_a_model_answers_what_is_stored(
    demo_catalogue_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A view of the gallery, which looks into a head: what was not stored of that is left out."""
    monkeypatch.setenv("ATLAS_CATALOGUE", str(demo_catalogue_dir))
    monkeypatch.setenv("ATLAS_MODELS", str(tmp_path))
    monkeypatch.setenv("ATLAS_MODE", "catalogue")
    monkeypatch.setenv("ATLAS_WORKSPACE", "off")
    answer = client().get("/v1/prompt?p=The+capital+of+France+is&head=L23.H4")
    assert answer.status_code == 200, answer.text
    assert answer.json()["ffn_value_neurons"][0]["effect"] is not None
    assert answer.json()["head_details"][0]["head"] == 4
    assert "within" not in answer.json()


def test_work_that_is_refused_for_want_of_time_may_be_asked_again(
    ask: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(*_asked: Any) -> Any:
        raise RefusedError(Reason.TIME, "It took too long.")

    monkeypatch.setattr(explain, "analysis", late)
    answer = ask.get(f"/v1/prompt?p={P}")
    assert problem(answer, 503) == "It took too long."
    assert answer.headers["Retry-After"]


def test_every_parameter_of_the_document_is_one_of_the_pages(ask: TestClient) -> None:
    document = ask.get("/openapi.json").json()
    for name, page in http.PAGES.items():
        asked = document["paths"][f"/v1/{name}"]["get"]
        named = [one["name"] for one in asked["parameters"]]
        assert set(named) == {*page.parameters, "model"}
        notices = page.selection.read(dict.fromkeys(page.parameters, "~"))[1]
        assert not [one for one in notices if "this page has no" in one]


def test_the_page_for_people_has_an_example_of_each(ask: TestClient) -> None:
    page = ask.get("/").text
    for name in http.PAGES:
        assert f"GET /v1/{name}" in page
    assert "/v1/prompt?p=The%20capital%20of%20France%20is" in page


def test_measuring_that_takes_too_long_is_told_and_not_passed_over(ask, monkeypatch):
    def measured(*_: Any) -> None:
        raise RefusedError(Reason.TIME, "This was stopped after 2 seconds.")

    monkeypatch.setattr(effects, "measured", measured)
    assert problem(ask.get(f"/v1/prompt?p={P}&k=6"), 503) == "This was stopped after 2 seconds."
