"""The gallery's views fit the catalogue, are small, and open without the model; none of torch is imported for them."""

import gzip
import json
import os
import subprocess
import sys

import pytest

from app import gallery
from app.attribution import drilldowns
from app.attribution.drilldowns import DETAILS, TOP
from app.attribution.drilldowns import to_json as to_json_of
from app.attribution.results import CONTRAST_LISTS, LISTS, SCORE_TOLERANCE, from_json, to_json
from app.gallery import CHOICES
from app.gallery.__main__ import MOST_BYTES, build, packed
from app.state.selections import PromptSelection
from db.catalogue.builds import find_catalogue
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.neuron import NeuronKind
from tests.conftest import CHECKOUT

EARLIER = sorted((CHECKOUT / "tests" / "gallery" / "earlier").iterdir())
OPEN_ALL = """
import json, sys
from tests.pages import AppTest
shown = {}
app = AppTest.from_file("app/main.py", default_timeout=120)
app.switch_page("ui/pages/gallery.py").run()
assert not app.exception and not app.error, (app.exception, app.error)
from app import gallery
for view in gallery.views():
    app = AppTest.from_file("app/main.py", default_timeout=120)
    for name, value in view.selection.params().items():
        app.query_params[name] = value
    app.switch_page("ui/pages/prompt.py").run()
    assert not app.exception, (view.choice.name, app.exception)
    assert not app.error, (view.choice.name, [one.value for one in app.error])
    shown[view.choice.name] = [element.proto.id.rpartition("-")[2] for element in app.get("bidi_component")]
app = AppTest.from_file("app/main.py", default_timeout=120)
app.switch_page("ui/pages/start.py").run()
assert not app.exception and not app.error, (app.exception, app.error)
shown["start"] = [element.proto.id.rpartition("-")[2] for element in app.get("bidi_component")]
json.dump({"shown": shown, "torch": "torch" in sys.modules}, sys.stdout)
"""


@pytest.fixture
def atlas(demo_catalogue_dir):
    with Catalogue.open(find_catalogue(demo_catalogue_dir, "SmolLM2-135M-Instruct")) as opened:
        yield opened


def test_every_choice_has_its_file_and_no_other_is_there():
    files = {path.name.removesuffix(gallery.ENDING): path for path in gallery.FOLDER.iterdir()}
    assert set(files) == {choice.name for choice in CHOICES}
    assert len(gallery.views()) == len(CHOICES) <= 10
    assert sum(path.stat().st_size for path in files.values()) < MOST_BYTES


@pytest.mark.parametrize("view", gallery.views(), ids=lambda view: view.choice.name)
def test_a_view_answers_its_own_question(view):
    assert gallery.answers(view.entry.model, view.entry.question) or view.choice.against
    analysis = from_json(view.entry.result)
    assert analysis.prompt == view.selection.prompt
    assert analysis.model == view.entry.model
    assert (analysis.contrast is None) == (not view.choice.against)
    assert all(analysis.certificates[kind].scored for kind in NeuronKind)


@pytest.mark.parametrize("view", gallery.views(), ids=lambda view: view.choice.name)
def test_a_view_has_what_was_measured(view):
    """A server without a model could not measure it."""
    analysis = from_json(view.entry.result)
    scored, names = (analysis, LISTS) if analysis.contrast is None else (analysis.contrast, CONTRAST_LISTS)
    assert all(one.effect is not None for name in names for one in getattr(scored, name))
    assert scored.head_effects is not None
    assert scored.head_effects.shape == scored.heads.shape
    assert set(scored.together) == set(NeuronKind)
    assert to_json(analysis) == {k: v for k, v in view.entry.result.items() if k not in (TOP, DETAILS)}


@pytest.mark.parametrize("path", EARLIER, ids=lambda path: path.name.partition(".")[0])
def test_a_view_of_an_earlier_version_is_written_as_it_was(path):
    """The files are of version 1; since then a certificate says its tolerance as well, and all of them are read."""
    kept = json.loads(gzip.decompress(path.read_bytes()))["analyses"][0]["result"]
    analysis = from_json(kept)
    again = to_json(analysis)
    for certificates in (again["certificate"], again["suppressing_certificate"]):
        for one in certificates.values():
            assert one.pop("tolerance") == SCORE_TOLERANCE
    assert again == {name: value for name, value in kept.items() if name not in (TOP, DETAILS)}
    for name, answers in kept[DETAILS].items():
        for label, given in answers.items():
            found = drilldowns.from_json(name, given, analysis, label)
            written = json.dumps(to_json_of(found))
            assert json.dumps(to_json_of(drilldowns.from_json(name, json.loads(written), analysis))) == written


def test_the_obvious_target_and_position_may_be_named():
    view = next(one for one in gallery.views() if one.choice.name == "language")
    result = view.entry.result
    target, last = result["target"]["id"], len(result["tokens"]) - 1
    prompt = view.selection.prompt
    from app.state.selections import question_key

    for asked, found in (
        (PromptSelection(prompt), True),
        (PromptSelection(prompt, target=target, position=last), True),
        (PromptSelection(prompt, target=target + 1), False),
        (PromptSelection(prompt, position=last - 1), False),
        (PromptSelection(prompt, distractor=5), False),
    ):
        assert bool(gallery.answers(view.entry.model, question_key(asked))) == found
    assert gallery.answers("another model", question_key(PromptSelection(prompt))) == ()


def test_the_views_fit_the_current_catalogue(atlas):
    views = gallery.of_model(atlas.info.model, atlas.info.checkpoint)
    assert [view.choice.name for view in views] == [choice.name for choice in CHOICES], "run python -m app.gallery"
    for view in views:
        analysis = from_json(view.entry.result)
        shown = [one.neuron for one in (*analysis.ffn_value_neurons[:5], *analysis.attention_value_neurons[:5])]
        assert len(atlas.strongest_tokens(shown, 5)) == len(set(shown))
        assert {
            token.token_id: token.display for token in atlas.tokens([one.id for one in analysis.tokens]).values()
        } == {one.id: one.display for one in analysis.tokens}


@pytest.mark.slow
def test_all_open_without_the_model_and_without_torch(demo_catalogue_dir, tmp_path):
    settings = {
        "ATLAS_MODE": "catalogue",
        "ATLAS_MODELS": str(tmp_path / "none"),
        "ATLAS_CATALOGUE": str(demo_catalogue_dir),
        "ATLAS_MODEL": "SmolLM2-135M-Instruct",
        "ATLAS_WORKSPACE": "off",
        "PYTHONPATH": str(CHECKOUT),
    }
    done = subprocess.run(
        [sys.executable, "-c", OPEN_ALL],
        cwd=CHECKOUT,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["torch"] is False
    start = found["shown"].pop("start")
    assert {"example", "neuron_first", "neuron_carrying", "neuron_query", "neuron_through"} <= set(start)
    assert "start_prompt" not in start
    assert "start_search" in start
    assert set(found["shown"]) == {choice.name for choice in CHOICES}
    assert all("predictions" in keys and "tokens" in keys for keys in found["shown"].values())
    assert "positions" in found["shown"]["capital"]
    assert "own_query" in found["shown"]["thanks"]


def test_packing_is_the_same_every_time():
    assert packed('{"b": 1, "a": [1.5]}') == packed('{ "b":1,"a":[1.5] }')


def test_building_needs_a_catalogue_of_the_model(small_folders, tmp_path):
    with pytest.raises(AtlasError):
        build(str(small_folders[0] / "llama"), tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
