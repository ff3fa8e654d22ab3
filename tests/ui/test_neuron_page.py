"""The neuron page's key side and head neighbours, and the start page's example: what they show is the library's."""

import pytest

from app.gallery import CONCEPTS, NEURONS, PROMPTS, TRIALS, WALKTHROUGH_PROMPT
from db.catalogue.builds import find_catalogue
from db.catalogue.store import Catalogue
from db.neuron import Neuron
from tests.pages import component, texts


def shown(app, key) -> bool:
    return any(element.proto.id.endswith(f"-{key}") for element in app.get("bidi_component"))


@pytest.mark.parametrize(("label", "names"), [("L1.F3", ("gate", "up")), ("L1.H2.N3", ("value",))])
def test_the_key_side_is_the_librarys(small_page, small_folders, label, names):
    from app.attribution import load
    from app.attribution.query import key_sides

    sides = key_sides(load(str(small_folders[0] / "llama")), Neuron.parse(label))
    app = small_page("neuron", n=label, keys="1")
    assert tuple(side.name for side in sides) == names
    for side in sides:
        for end, found in (("highest", side.highest), ("lowest", side.lowest)):
            items = component(app, f"key_{side.name}_{end}")["items"]
            assert [item["text"] for item in items] == [one.token.display for one in found[:16]]
            assert [item["href"] for item in items] == [f"token?t={one.token.id}" for one in found[:16]]


def test_the_key_side_is_asked_for_and_the_wish_stands_in_the_address(small_page):
    app = small_page("neuron", n="L1.F3")
    (asked,) = component(app, "ask_keys")["items"]
    assert asked["href"] == "neuron?n=L1.F3&keys=1"


def test_without_a_model_the_key_side_says_so(toy_page):
    app = toy_page("neuron", n="L1.F1", keys="1")
    assert len(app.error) == 1
    assert "fault of ours" not in texts(app)
    assert not shown(app, "key_gate_highest")


def test_the_other_dimensions_of_a_head_are_all_there_the_sharpest_first(small_page, small_folders):
    app = small_page("neuron", n="L1.H2.N3")
    rows = component(app, "head")["rows"]
    with Catalogue.open(find_catalogue(small_folders[1])) as atlas:
        cards = {row["cells"][0]["text"]: atlas.neuron(Neuron.parse(row["cells"][0]["text"])) for row in rows}
    assert set(cards) == {f"L1.H2.N{index}" for index in range(12) if index != 3}
    peaks = [max(abs(card.top[0].z), abs(card.bottom[0].z)) for card in cards.values()]
    assert peaks == sorted(peaks, reverse=True)
    for row, card in zip(rows, cards.values(), strict=True):
        assert [item["text"] for item in row["cells"][2]["chips"]] == [one.token.display for one in card.top[:6]]
        assert [item["text"] for item in row["cells"][3]["chips"]] == [one.token.display for one in card.bottom[:6]]


def test_an_ffn_neuron_has_no_head(small_page):
    assert not shown(small_page("neuron", n="L1.F3"), "head")


def test_a_trial_says_where_the_neuron_is_most_active(small_page, small_folders):
    from app.attribution import Settings, load, run_prompt
    from app.attribution.query import activations

    run = run_prompt(load(str(small_folders[0] / "llama")), "The river runs", Settings())
    values = activations(run, Neuron.ffn(1, 3)).activation
    place = max(range(len(values)), key=lambda one: abs(values[one]))
    app = small_page("neuron", n="L1.F3", **{"try": "The river runs"})
    said = " ".join(element.value for element in app.markdown).replace("\\", "")
    assert f"Most active at position {place}, “{run.tokens[place].display}”" in said
    items = component(app, "explain_trial")["items"]
    assert items[0]["href"] == "prompt?p=The+river+runs"
    assert [item["text"] for item in component(small_page("neuron", n="L1.F3"), "trials")["items"]] == list(TRIALS)


def test_the_example_is_the_analysis_own(small_page, small_folders):
    from app.attribution import analyse, load

    found = analyse(load(str(small_folders[0] / "llama")), WALKTHROUGH_PROMPT, top=10)
    assert (
        component(small_page("start"), "whole")["items"][0]["text"] == WALKTHROUGH_PROMPT
    )  # nothing waits for the model
    small_page("prompt", p="The river")  # loads it
    app = small_page("start")
    first = component(app, "neuron_first")["items"]
    assert first[0]["text"] == found.ffn_value_neurons[0].neuron.label
    assert len(first) > 1
    behind = component(app, "neuron_query")["items"]
    assert Neuron.parse(behind[0]["text"]).head is None
    assert component(app, "neuron_through")["items"][-1]["href"].startswith("prompt?p=")


def test_without_a_model_the_start_page_leads_on_all_the_same(toy_page):
    app = toy_page("start")
    assert not app.error
    assert len(component(app, "prompts")["items"]) == len(PROMPTS)
    assert len(component(app, "concepts")["items"]) == len(CONCEPTS)


def test_examples_are_some_ten_of_each_and_all_of_the_demo_model(demo_catalogue_dir):
    assert 8 <= len(PROMPTS) <= 12
    assert 8 <= len(CONCEPTS) <= 12
    with Catalogue.open(find_catalogue(demo_catalogue_dir, "SmolLM2-135M-Instruct")) as atlas:
        for label in NEURONS:
            assert atlas.neuron(Neuron.parse(label)).top
        for concept in CONCEPTS:
            best = atlas.concept_neurons(atlas.concept(concept), limit=1)[0]
            assert len(best.matched) >= 11, concept


@pytest.mark.parametrize("page", ["start", "neuron"])
def test_the_neurons_to_look_at_are_of_the_model_that_is_shown(small_page, page):
    app = small_page(page)
    items = component(app, "neurons" if page == "start" else "examples")["items"]
    labels = [item["text"] for item in items]
    assert len(set(labels)) == len(labels) == len(NEURONS)
    for label in labels:
        assert not texts(small_page("neuron", n=label))
    if page == "neuron":
        assert app.text_input(key="neuron_label").placeholder == labels[0]
        assert "such as L2.F11" in " ".join(one.value for one in app.caption)


def test_the_gallery_of_another_model_leads_to_its_own(small_page, monkeypatch):
    from app.serving import resources

    named = resources.catalogue_names()
    assert [item["text"] for item in component(small_page("gallery"), "none")["items"]] == ["Explain a prompt"]
    monkeypatch.setattr(resources, "catalogue_names", lambda: [*named, "SmolLM2-135M-Instruct"])
    *_, last = component(small_page("gallery"), "none")["items"]
    assert last["href"] == "gallery?model=SmolLM2-135M-Instruct"
