"""The pages of a mixture of experts, without a browser: labels that are links, the router's weight, the filter."""

import shutil
from collections.abc import Iterator

import pytest

from app.attribution import Settings, load, run_prompt
from app.attribution.query import activations
from db.catalogue.builds import find_catalogue
from db.catalogue.store import Catalogue
from db.neuron import Neuron, NeuronKind
from db.questions import Filters
from indexer.build import build
from indexer.checkpoint import Checkpoint
from tests import families
from tests.conftest import RunPage, _pages
from tests.pages import component

PROMPT = "The river runs to the sea"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("mixture")
    own = families.language_model("qwen2_moe").checkpoint.folder
    shutil.copytree(own, root / "models" / "mixture")
    build(Checkpoint("mixture", root / "models" / "mixture"), root / "catalogue", depth=10)
    return root / "models", root / "catalogue"


@pytest.fixture
def page(folders, tmp_path, monkeypatch) -> Iterator[RunPage]:
    yield from _pages(monkeypatch, tmp_path, *folders)


@pytest.fixture
def run(folders):
    return run_prompt(load(str(folders[0] / "mixture")), PROMPT, Settings())


def test_a_prompt_lists_experts_neurons_with_the_router_s_weight(page, run):
    app = page("prompt", p=PROMPT)
    rows = component(app, "neurons_ffn")["rows"]
    labels = [row["cells"][0]["text"] for row in rows]
    of_experts = [label for label in labels if ".E" in label]
    assert of_experts
    for label, row in zip(labels, rows, strict=True):
        assert row["href"].startswith(f"neuron?n={label}&")
        weight = run.value_neuron(Neuron.parse(label)).router
        said = " ".join(cell.get("remark") or "" for cell in row["cells"])
        assert ("router" in said) == (weight is not None)
        if weight is not None:
            assert f"router’s weight {weight:.2f}" in said


def test_an_expert_s_neuron_has_a_page(page, run):
    label = next(one.neuron.label for one in run.raising(NeuronKind.FFN, 100)[0] if one.neuron.expert is not None)
    neuron = Neuron.parse(label)
    app = page("neuron", n=label, p=PROMPT, keys="1")
    assert f"FFN neuron of expert {neuron.expert} in layer 1" in app.title[0].value
    said = " ".join(one.value for one in (*app.markdown, *app.caption)).replace("\\", "")
    weights = activations(run, neuron).router
    assert weights is not None
    assert f"chose expert {neuron.expert} at {sum(map(bool, weights))} of {len(weights)} positions" in said
    links = {item["text"]: item["href"] for item in component(app, "neighbours")["items"]}
    beside = f"L1.E{neuron.expert}.F{neuron.index + (-1 if neuron.index else 1)}"
    assert links[beside].startswith(f"neuron?n={beside}")
    assert all(one.startswith(f"L1.E{neuron.expert}.F") for one in links)


def test_a_search_is_filtered_by_expert(page, folders):
    with Catalogue.open(find_catalogue(folders[1])) as atlas:
        token = atlas.neuron(Neuron.parse("L1.E2.F3")).top[0].token
        found = atlas.search_token([token.token_id], Filters(expert=2), limit=50)
    app = page("search", t=str(token.token_id), by="token", expert="2")
    rows = component(app, "hits")["rows"]
    assert [row["cells"][0]["text"] for row in rows] == [one.neuron.label for one in found]
    assert "L1.E2.F3" in {row["cells"][0]["text"] for row in rows}
    assert rows[0]["href"].startswith(f"neuron?n={found[0].neuron.label}")
    assert next(one for one in app.selectbox if one.key == "search_expert").value == 2
