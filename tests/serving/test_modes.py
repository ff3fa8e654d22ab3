"""What a server does by its settings: with a model, without one, for demonstration, and within its limits."""

import gc
import itertools
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import streamlit as st

from app.answers import explain, stored
from app.gallery import CHOICES, EXAMPLES, PROMPTS, READY, TRIALS, WALKTHROUGH_PROMPT
from app.serving import access, resources
from app.serving.resources import Loaded
from app.serving.settings import configuration
from app.serving.worker import Reason, RefusedError, Workshop
from app.state.selections import PromptSelection
from db.errors import AtlasError
from db.neuron import Part
from indexer.build import build
from indexer.language_model import LanguageModel
from tests import models
from tests.pages import component, components_of, run_page, texts

CHECKOUT = Path(__file__).resolve().parents[2]
PROMPT = "The river"


def set_to(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"ATLAS_{name.upper()}", value)
    configuration.cache_clear()


def refusal(ask: Any) -> RefusedError:
    with pytest.raises(RefusedError) as raised:
        ask()
    assert "\n" not in str(raised.value)
    return raised.value


def test_by_default_every_prompt_is_explained(small_page):
    access.require_allowed("anything at all", 1000)
    app = small_page("prompt", p=PROMPT, k="5")
    assert not app.info
    assert not app.error


def test_a_catalogue_server_explains_nothing_and_says_what_it_does(monkeypatch, small_page):
    set_to(monkeypatch, mode="catalogue")
    app = small_page("prompt", p=PROMPT)
    assert "This server has no model" in texts(app)
    assert not app.error
    assert small_page("neuron", n="L0.F3").title[0].value.replace("\\", "").startswith("L0.F3")


@pytest.mark.parametrize("page", ["start", "many", "neuron"])
def test_pages_that_would_ask_the_model_say_that_there_is_none(page, monkeypatch, small_page):
    set_to(monkeypatch, mode="catalogue")
    app = small_page(page, ps=PROMPT, n="L0.F3", **{"try": PROMPT})
    assert "This server has no model" in texts(app)
    assert not app.error


def test_a_catalogue_server_offers_only_what_it_can_answer(monkeypatch, small_page):
    """No field, example or link that ends at “this server has no model”; what is stored is offered."""
    entry = SimpleNamespace(unembedding_hash="", build_id="")
    monkeypatch.setattr(stored, "answer", lambda _, asked: entry if asked.prompt == PROMPTS[2] else None)
    set_to(monkeypatch, mode="catalogue")
    start = small_page("start")
    assert [one["text"] for one in component(start, "prompts")["items"]] == [PROMPTS[2]]
    offered = {"start": start} | {
        page: small_page(page, n="L0.F3", q="river") for page in ("compare", "many", "neuron")
    }
    keys = {key for app in offered.values() for key in components_of(app)}
    assert keys.isdisjoint({"start_prompt", "comparisons", "ready", "neuron_trial", "trials", "ask_keys", "whole"})
    assert not [one.key for page in ("compare", "many") for one in (*offered[page].text_area, *offered[page].button)]
    assert "without_model" in components_of(offered["compare"])
    assert not small_page("search", q="river", by="concept").toggle


def test_a_demonstration_explains_all_that_its_pages_offer(monkeypatch):
    set_to(monkeypatch, mode="demo")
    gallery = (choice.selection.prompt for choice in CHOICES)
    for prompt in (WALKTHROUGH_PROMPT, *PROMPTS, *TRIALS, *gallery, *(one.prompt for _, one in EXAMPLES)):
        access.require_allowed(prompt)


def test_a_catalogue_server_never_loads_a_model(monkeypatch, small_folders):
    set_to(monkeypatch, mode="catalogue", catalogue=str(small_folders[1]), models=str(small_folders[0]))
    atlas = resources.catalogue()
    for ask in (
        lambda: resources.model_of(atlas),
        lambda: resources.workshop().result("analysis", ("build",), lambda _: 1 / 0),
    ):
        assert refusal(ask).reason is Reason.MODE
    assert not resources.is_loaded(atlas)


def test_a_catalogue_server_draws_its_pages_without_torch(small_folders):
    """In a process of its own, since this one has imported everything."""
    code = r"""
import re, sys
from pathlib import Path
from tests.pages import run_page
for page, params in [
    ("start", {}), ("search", {"t": "river"}), ("token", {"t": "5"}), ("overview", {}), ("neuron", {"n": "L0.F3"}),
    ("prompt", {"p": "The river"}), ("many", {"ps": "The river"}),
]:
    run_page(page, **params)
    assert "torch" not in sys.modules, page
status = Path("/proc/self/status")  # what the resource module says includes the process that started this one
if status.exists():
    peak = int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) / 1024
    assert peak < 400, f"{peak:.0f} MB"
"""
    environment = {
        "PATH": "/usr/bin:/bin",
        "ATLAS_MODE": "catalogue",
        "ATLAS_MODELS": str(small_folders[0]),
        "ATLAS_CATALOGUE": str(small_folders[1]),
    }
    ended = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2000:]


def test_a_demonstration_explains_its_own_prompts_only(monkeypatch, small_page):
    set_to(monkeypatch, mode="demo")
    own = PROMPTS[0]
    explained = small_page("prompt", p=own, k="5")
    assert "is a demonstration" not in texts(explained)
    assert component(explained, "neurons_ffn")["rows"]
    other = small_page("prompt", p=own + " ", k="5")
    assert "is a demonstration" in texts(other)
    assert not other.error
    assert "is a demonstration" in texts(small_page("neuron", n="L0.F3", **{"try": "My own text"}))
    assert "is a demonstration" in texts(small_page("many", ps="My own text"))
    assert "is a demonstration" not in texts(small_page("many", set=next(iter(READY))))


def test_a_demonstration_is_searched_freely(monkeypatch, small_page):
    set_to(monkeypatch, mode="demo")
    assert "is a demonstration" not in texts(small_page("search", t="river"))


def test_more_neurons_than_allowed_are_refused(monkeypatch, small_page):
    set_to(monkeypatch, max_top="7")
    assert refusal(lambda: access.require_allowed(PROMPT, 8)).reason is Reason.LIMIT
    app = small_page("prompt", p=PROMPT, k="8", open="settings")
    assert "from 1 to 7" in texts(app)  # the address is read with the same limit
    assert app.number_input(key="prompt_top").max == 7
    assert not app.error


def test_a_prompt_of_too_many_tokens_is_refused_before_the_model_runs(monkeypatch, small_page):
    set_to(monkeypatch, max_tokens="3")
    assert not texts(small_page("prompt", p="The", k="5"))  # the model is loaded, which runs it
    monkeypatch.setattr("indexer.language_model.LanguageModel.forward", lambda *_: 1 / 0)
    app = small_page("prompt", p="The river flows and flows and flows")
    assert "3" in texts(app)
    assert "tokens" in texts(app)
    assert "fault of ours" not in texts(app)


def test_more_prompts_than_allowed_are_left_out(monkeypatch, small_page):
    set_to(monkeypatch, max_prompts="2")
    assert refusal(lambda: access.require_batch(3)).reason is Reason.LIMIT
    app = small_page("many", ps="The river\nThe sea\nThe lake")
    assert "Only the first 2 of 3 prompts are explained" in texts(app)


def test_work_over_its_time_ends_with_a_sentence(monkeypatch, small_page):
    set_to(monkeypatch, max_seconds="60")
    hours = itertools.count(step=3600)
    monkeypatch.setattr(resources, "Workshop", partial(Workshop, clock=lambda: next(hours), patience=1e9))
    app = small_page("prompt", p=PROMPT, k="5")
    assert "stopped after 60 seconds" in texts(app)
    assert not app.error


@pytest.mark.parametrize(("name", "what"), [("flow", 40), ("lens", None), ("effects", 5), ("within", "L1")])
def test_a_drill_down_over_its_time_ends_in_its_midst(name, what, monkeypatch, small_folders, request):
    """None of them says what it is doing: they are looked at whenever they compute."""
    set_to(monkeypatch, catalogue=str(small_folders[1]), models=str(small_folders[0]))
    request.addfinalizer(st.cache_resource.clear)
    atlas, question = resources.catalogue(), PromptSelection(PROMPT, top=5)
    explain.analysis(atlas, question)
    seconds, shop = itertools.count(), resources._shop()
    monkeypatch.setattr(shop, "_clock", lambda: next(seconds))
    monkeypatch.setattr(shop, "_limit", 20)
    monkeypatch.setattr(shop, "_patience", 1e9)
    what = Part.parse(what) if isinstance(what, str) else what
    ask = partial(explain.detail, atlas, question, name, what)
    assert refusal(ask).reason is Reason.TIME


def test_one_of_many_prompts_that_takes_too_long_does_not_stop_the_others(monkeypatch, small_page):
    set_to(monkeypatch, max_seconds="60")
    hours = itertools.count(step=3600)
    monkeypatch.setattr(resources, "Workshop", partial(Workshop, clock=lambda: next(hours), patience=1e9))
    app = small_page("many", ps="The river\nThe sea")
    assert not app.error
    assert "2 could not be explained" in [one.label for one in app.expander]


def test_only_so_many_models_are_in_memory():
    loaded: list[str] = []
    memory: list[str] = []

    def load(source: str) -> str:
        memory.append(f"{source} after {len(loaded)}")
        loaded.append(source)
        return source.upper()

    kept: Loaded[str, str] = Loaded(2, load, lambda: memory.append("made room"))
    assert [kept.get(one) for one in "abacab"] == list("ABACAB")
    assert loaded == ["a", "b", "c", "b"]
    assert memory == ["a after 0", "b after 1", "made room", "c after 2", "made room", "b after 3"]
    assert [kept.peek(one) is not None for one in "abc"] == [True, True, False]


def test_two_who_need_a_model_at_once_wait_for_one_loading():
    loading, go, loaded = threading.Event(), threading.Event(), []

    def load(source: str) -> str:
        loading.set()
        assert go.wait(20)
        loaded.append(source)
        return source

    kept: Loaded[str, str] = Loaded(1, load)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(kept.get, "a")
        assert loading.wait(20)
        second = threads.submit(kept.get, "a")
        assert kept.peek("a") is None
        go.set()
        assert (first.result(20), second.result(20)) == ("a", "a")
    assert loaded == ["a"]


def test_a_model_that_cannot_be_loaded_may_be_tried_again():
    attempts = iter([AtlasError("It is not here."), None])

    def load(source: str) -> str:
        problem = next(attempts)
        if problem is not None:
            raise problem
        return source

    kept: Loaded[str, str] = Loaded(1, load)
    with pytest.raises(AtlasError, match="not here"):
        kept.get("a")
    assert kept.get("a") == "a"


def test_several_models_can_be_chosen_and_one_makes_room_for_the_other(monkeypatch, tmp_path):
    for family in ("llama", "gpt2"):
        models.save(family, tmp_path / "models" / family)
        build(models.checkpoint(family), tmp_path / "catalogue", depth=5)
    set_to(monkeypatch, models=str(tmp_path / "models"), catalogue=str(tmp_path / "catalogue"), model="llama")
    try:
        loaded: list[weakref.ref[LanguageModel]] = []
        found = {name: resources.catalogue(name) for name in ("llama", "gpt2")}
        assert resources.catalogue().info.model == "llama"
        for name, other in (("llama", "gpt2"), ("gpt2", "llama")):
            app = run_page("prompt", p=PROMPT, k="5", model=name)
            assert not texts(app)
            assert f"Model {name} " in " ".join(one.value for one in app.caption).replace("\\", "")
            assert (resources.is_loaded(found[name]), resources.is_loaded(found[other])) == (True, False)
            assert explain.detail(found[name], PromptSelection(PROMPT), "beginning", "r")
            loaded.append(weakref.ref(resources.model_of(found[name])))
            gc.collect()
            assert [one() is not None for one in loaded] == [False] * (len(loaded) - 1) + [True], "one is held"
    finally:
        st.cache_resource.clear()
