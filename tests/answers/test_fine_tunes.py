"""Two fine-tunes with one name and one head, and a model that is trained on in its place: the pages mix nothing up."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import pytest
import streamlit as st

from app.answers import batches, explain, stored
from app.attribution import analyse
from app.attribution.results import Analysis, to_json
from app.serving import resources
from app.state.address import shared
from app.state.selections import ManySelection, NeuronSelection, PromptSelection
from app.ui.common import saved_href
from db.catalogue.builds import remember_source, set_current
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.neuron import Neuron
from db.workspace import Workspace
from indexer.build import build
from indexer.checkpoint import Checkpoint
from indexer.language_model import load_model
from tests import models
from tests.pages import component, run_page, texts

PROMPT, OTHER = "The river runs to", "The road to the"


class Runs(NamedTuple):
    folders: tuple[Path, Path]
    catalogue: Path
    builds: tuple[Path, Path]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    root = tmp_path_factory.mktemp("fine-tunes")
    folders = models.fine_tunes(root)
    first, second = (build(Checkpoint("final", one), root / "catalogue", depth=5).path for one in folders)
    return Runs(folders, root / "catalogue", (first, second))


@pytest.fixture
def served(made: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Serve a folder of catalogues, with no folder of models."""

    def serve(catalogue: Path) -> None:
        monkeypatch.setenv("ATLAS_CATALOGUE", str(catalogue))
        monkeypatch.setenv("ATLAS_MODELS", str(tmp_path / "none"))
        monkeypatch.setenv("ATLAS_WORKSPACE", f"sqlite:///{tmp_path / 'atlas.sqlite'}")
        st.cache_resource.clear()

    serve(made.catalogue)
    yield serve
    st.cache_resource.clear()


def expected(folder: Path, prompt: str) -> Analysis:
    return analyse(load_model(Checkpoint("final", folder)), prompt, top=5, suppressing=True)


def figures(found: Analysis) -> list[Any]:
    lists = (found.ffn_value_neurons, found.attention_value_neurons, found.ffn_suppressing_neurons)
    return [(one.neuron.label, pytest.approx(one.score, abs=1e-5)) for each in lists for one in each]


def link_to(path: Path, page: str = "prompt") -> dict[str, str]:
    """The parameters of “Copy link” with a build open."""
    with Catalogue.open(path) as atlas:
        selection = PromptSelection(PROMPT, top=5) if page == "prompt" else NeuronSelection("L1.F2")
        return dict(parse_qsl(urlsplit(shared(selection, atlas.info)).query))


def test_each_is_explained_with_its_own_weights(made, served):
    for folder, path in zip(made.folders, made.builds, strict=True):
        atlas = resources.catalogue(path.parent.name)
        found = explain.analysis(atlas, PromptSelection(PROMPT, top=5))
        assert figures(found) == figures(expected(folder, PROMPT))
        assert found.checkpoint == atlas.info.checkpoint == Checkpoint("final", folder).identity
        assert not texts(run_page("prompt", p=PROMPT, k="5", model=path.parent.name))
    assert figures(expected(made.folders[0], PROMPT)) != figures(expected(made.folders[1], PROMPT))


@pytest.mark.parametrize("page", ["prompt", "neuron"])
def test_a_link_to_a_build_that_is_gone_is_not_answered_with_the_others(page, made, served, tmp_path):
    link = link_to(made.builds[0], page)
    build(Checkpoint("final", made.folders[1]), tmp_path / "catalogue", depth=5)  # is called final there
    served(tmp_path / "catalogue")
    app = run_page(page, **link)
    (error,) = app.error
    for path in made.builds:
        with Catalogue.open(path) as atlas:
            assert atlas.info.checkpoint.removeprefix("sha256 ")[:8] in error.value
    assert link["b"][:8] in error.value
    assert not app.get("arrow_vega_lite_chart")
    (change,) = component(app, "build")["items"]
    anew = dict(parse_qsl(change["href"].removeprefix("?")))
    assert "b" not in anew
    assert not texts(run_page(page, **anew))


def test_nor_is_a_link_to_a_model_that_is_gone(made, served, tmp_path):
    link = link_to(made.builds[0], "neuron") | {"model": "gone"}
    build(Checkpoint("final", made.folders[1]), tmp_path / "catalogue", depth=5)
    served(tmp_path / "catalogue")
    app = run_page("neuron", **link)
    (error,) = app.error
    assert link["b"][:8] in error.value
    assert not app.get("arrow_vega_lite_chart")
    (change,) = component(app, "build")["items"]
    anew = dict(parse_qsl(change["href"].removeprefix("?")))
    assert anew == {"n": "L1.F2", "model": "final"}
    assert not texts(run_page("neuron", **anew))


def test_a_link_finds_its_build_in_whichever_folder_it_is(made, served, tmp_path):
    link = link_to(made.builds[0])
    for folder in reversed(made.folders):  # the names are dealt out the other way round
        path = build(Checkpoint("final", folder), tmp_path / "catalogue", depth=5).path
    assert path.name == made.builds[0].name
    assert path.parent.name != link["model"]
    served(tmp_path / "catalogue")
    app = run_page("prompt", **link)
    assert not app.error
    assert f"catalogue {path.stem.removeprefix('build-')}" in " ".join(one.value for one in app.caption)


def test_of_a_folder_that_both_shared_the_older_build_is_not_explained_with_the_other_model(made, served, tmp_path):
    """As older versions left it."""
    folder = tmp_path / "catalogue" / "final"
    folder.mkdir(parents=True)
    first, second = (Path(shutil.copy(path, folder)) for path in made.builds)
    set_current(folder, second)
    remember_source(folder, str(made.folders[1]))
    served(tmp_path / "catalogue")
    app = run_page("prompt", **link_to(first) | {"model": "final"})
    (error,) = (one.value for one in app.error)
    for run in made.folders:
        assert Checkpoint("final", run).identity[:19] in error
    assert str(made.folders[1]) in error.replace("\\", "")


def test_a_saved_explanation_belongs_to_its_weights(made, served, tmp_path):
    one, two = (resources.catalogue(path.parent.name) for path in made.builds)
    question = PromptSelection(PROMPT, top=5)
    with Workspace.open(f"sqlite:///{tmp_path / 'atlas.sqlite'}") as workspace:
        kept = workspace.save(explain.draft("kept", question, explain.analysis(one, question), one))
        assert kept.checkpoint == one.info.checkpoint
        # Of the same name, as where the model was trained on in its place.
        renamed: Any = replace_model(two, "final")
        assert stored.answer(one, question) is not None
        assert stored.answer(renamed, question) is None
        assert stored.fits(kept, renamed) is False
        href = dict(parse_qsl(urlsplit(saved_href(kept, renamed)).query))
        assert not texts(run_page("prompt", **href))
        neuron = workspace.mentions("final", Neuron.parse(first_neuron(one, question)))[0].neuron
        counted = [workspace.count_mentions("final", neuron, checkpoint=each.info.checkpoint)[1] for each in (one, two)]
        assert counted == [1, 0]
        shown = [workspace.mentions("final", neuron, checkpoint=each.info.checkpoint) for each in (one, two)]
        assert [bool(each) for each in shown] == [True, False]


def test_notes_go_by_weights_and_older_ones_by_a_name_that_only_one_has(made, served, tmp_path):
    one, two = (resources.catalogue(path.parent.name) for path in made.builds)
    renamed, neuron = replace_model(two, "final"), Neuron.ffn(1, 3)
    with Workspace.open(f"sqlite:///{tmp_path / 'atlas.sqlite'}") as workspace:
        workspace.write_note("final", neuron, "of nobody knows which", ["old"])
        first, second = (stored.noted_among(workspace, each) for each in (one, renamed))
        assert (first, second) == ((one.info.checkpoint,), (two.info.checkpoint,)), "two of that name are known"
        workspace.write_note("final", neuron, "of the second", ["two"], among=second)
        workspace.write_note("final", neuron, "of the first", ["one"], among=first)
        for page in (run_page("neuron", n=neuron.label, model="final"), run_page("saved", model="final")):
            shown = " ".join(each.value for each in page.markdown)
            assert "of the first" in shown
            assert "of the second" not in shown
            assert "nobody" not in shown


def replace_model(atlas: Catalogue, name: str) -> Catalogue:
    """A build of another name."""
    other = Catalogue(atlas.path)
    other.__dict__["info"] = replace(atlas.info, model=name)
    return other


def first_neuron(atlas: Catalogue, question: PromptSelection) -> str:
    return explain.analysis(atlas, question).ffn_value_neurons[0].neuron.label


def test_what_an_older_version_saved_is_shown_but_not_vouched_for(made, served, tmp_path):
    one, two = (resources.catalogue(path.parent.name) for path in made.builds)
    question = PromptSelection(PROMPT, top=5)
    draft = explain.draft("kept", question, explain.analysis(one, question), one)
    with Workspace.open(f"sqlite:///{tmp_path / 'atlas.sqlite'}") as workspace:
        entry = draft.model_copy(update={"checkpoint": "", "build_id": "gone"})
        workspace.save(entry)
        assert "Older versions did not note the weights" in texts(run_page("prompt", p=PROMPT, k="5", model="final"))
    assert stored.fits(entry, two) is None
    own = draft.model_copy(update={"checkpoint": ""})
    assert stored.fits(own, one) is True
    beside = replace_model(two, "final")
    shutil.copy(made.builds[0], beside.path.parent)
    assert stored.fits(own, beside) is False  # its build is here, and says so
    (beside.path.parent / made.builds[0].name).unlink()


def test_a_file_of_the_others_analyses_gets_no_tokens(made, served):
    rows = [to_json(expected(made.folders[0], prompt)) for prompt in (PROMPT, OTHER)]
    found = batches.aggregate_of(rows)
    for path, own in zip(made.builds, (True, False), strict=True):
        atlas = resources.catalogue(path.parent.name)
        assert found.is_of(atlas) == own
        known = atlas if found.is_of(atlas) else None
        shown = batches.with_tokens(batches.neurons(found.frame, ManySelection(role="FFN value"), known), known)
        assert shown
        assert all((one.tokens is not None) == own for one in shown)
    older = batches.aggregate_of([{name: value for name, value in row.items() if name != "checkpoint"} for row in rows])
    assert older.is_of(resources.catalogue("final"))


def test_a_model_trained_on_while_it_is_served_is_refused_until_it_is_indexed(made, served, tmp_path):
    folder = Path(shutil.copytree(made.folders[0], tmp_path / "final"))
    before = build(Checkpoint("final", folder), tmp_path / "catalogue", depth=5).path
    served(tmp_path / "catalogue")
    question = PromptSelection(PROMPT, top=5)
    assert figures(explain.analysis(resources.catalogue(), question)) == figures(expected(folder, PROMPT))
    os.utime(folder / "model.safetensors")  # the same weights, written anew
    other = explain.analysis(resources.catalogue(), replace(question, prompt=OTHER))
    assert figures(other) == figures(expected(folder, OTHER))
    models.retrain(folder, 9)
    new = replace(question, prompt="The hill is far")
    with pytest.raises(AtlasError, match="trained on since") as refusal:
        explain.analysis(resources.catalogue(), new)
    for one in (Checkpoint("final", folder), Checkpoint("final", made.folders[0])):
        assert one.identity[:19] in str(refusal.value)
    after = build(Checkpoint("final", folder), tmp_path / "catalogue", depth=5).path
    assert after.parent == before.parent
    found = explain.analysis(resources.catalogue(), new)
    assert figures(found) == figures(expected(folder, new.prompt))
    assert found.checkpoint == Checkpoint("final", folder).identity
    assert not run_page("prompt", **link_to(before)).error, "what was worked out with the old weights is still theirs"
    app = run_page("prompt", **link_to(before) | {"p": "Who runs to the sea"})
    assert any(Checkpoint("final", folder).identity[:19] in one.value for one in app.error), (
        "the old build, new weights"
    )
