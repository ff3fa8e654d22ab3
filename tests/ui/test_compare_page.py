"""The page that compares, without a browser: its state in the address, and its figures are the library's."""

from urllib.parse import parse_qs, urlsplit

import pytest

from app.answers.two_runs import measured, sentence
from app.attribution import Settings, load
from app.attribution.compare import compare_prompts
from app.attribution.run import StoredRanges
from app.gallery import EXAMPLES
from app.state.address import Limits
from app.state.selections import MAX_PROMPT, ComparePlace, CompareSelection, PromptSelection, Rule
from app.words import nats, percent
from db.catalogue.builds import find_catalogue
from db.catalogue.store import Catalogue
from db.neuron import MAX_PARTS, Head, NeuronKind, Part, labels, parse_list
from tests.pages import component, texts

PROMPT, OTHER = "The river runs to", "The rain runs to the river"
LIMITS = Limits(323, 3, 4)


@pytest.fixture(scope="module")
def compared(small_folders):
    model = load(str(small_folders[0] / "llama"))
    found = {}

    def compared(other="", zero="", **second):
        key = (other, zero, *second.items())
        if key not in found:
            with Catalogue.open(find_catalogue(small_folders[1])) as atlas:
                asked = (other or PROMPT, Settings(**second))
                ranges = StoredRanges(atlas)
                found[key] = compare_prompts(model, (PROMPT, Settings()), asked, zero=parse_list(zero), ranges=ranges)
        return found[key]

    return compared


def params_of(href):
    return {name: values[0] for name, values in parse_qs(urlsplit(href).query).items()}


def shown_neurons(app):
    return [row["cells"][0]["text"] for row in component(app, "neurons")["rows"]]


def all_text(app):
    return " ".join(element.value for element in (*app.markdown, *app.caption)).replace("\\", "")


@pytest.mark.parametrize(
    "selection",
    [
        CompareSelection(),
        CompareSelection(PROMPT, other=OTHER),
        CompareSelection(PROMPT, target=4, position=2, other_target=5, other_position=1, top=7, rule=Rule.NOTEBOOK),
        CompareSelection(PROMPT, zero=parse_list("L1.H2,L2.F3,L0.ffn,attention:20,L1.H0.N3")),
        CompareSelection(PROMPT, other="long " * 900, place=ComparePlace(2, Head(2, 3), NeuronKind.ATTENTION)),
        CompareSelection(PROMPT, other=" \u202e<b>$x$", place=ComparePlace(1)),
    ],
)
def test_the_address_holds_the_whole_state(selection):
    assert CompareSelection.read(selection.params(), LIMITS) == (selection, [])


@pytest.mark.parametrize(
    ("params", "expected", "said"),
    [
        ({"p": PROMPT, "p2": PROMPT}, CompareSelection(PROMPT), None),
        ({"zero": "L1.H2,<b>"}, CompareSelection(), "was left out: “<b>” names no part"),
        ({"zero": ",".join(["L1.F1"] * (MAX_PARTS + 1))}, CompareSelection(), "at most 64"),
        ({"zero": "L1.F1" * 1000}, CompareSelection(), "zero"),
        ({"target2": "323", "at2": "-1", "k": "0"}, CompareSelection(), "target2=323"),
        ({"kind": "both", "head": "L3.H0", "layer": "x"}, CompareSelection(), "head=L3.H0"),
    ],
)
def test_what_the_address_cannot_mean_is_left_out_with_a_notice(params, expected, said):
    found, notices = CompareSelection.read(params, LIMITS)
    assert found == expected
    assert (said in " ".join(notices)) if said else not notices


def test_both_questions_for_the_prompt_page():
    asked = CompareSelection(PROMPT, target=4, position=2, zero=parse_list("L1.H2"))
    assert asked.first == asked.second == PromptSelection(PROMPT, 4, 2)
    assert CompareSelection(PROMPT, target=4, other_position=1).second == PromptSelection(PROMPT, None, 1)
    assert CompareSelection(PROMPT, target=4, other=OTHER).second == PromptSelection(OTHER)
    assert not CompareSelection.of(PromptSelection(PROMPT, 4)).compares
    for _, example in EXAMPLES:
        assert example.compares
        assert CompareSelection.read(example.params(), Limits(49152, 30, 9)) == (example, [])


def test_an_empty_page_offers_comparisons_and_one_prompt_alone_what_to_zero(small_page):
    items = component(small_page("compare"), "comparisons")["items"]
    offered = [(item["text"], params_of(item["href"]).get("zero", "")) for item in items]
    assert offered == [(words, labels(one.zero)) for words, one in EXAMPLES if not labels(one.zero).startswith("L")]
    assert {zero for _, zero in offered} == {"", "ffn:10"}  # none of another model's heads
    app = small_page("compare", p=PROMPT)
    zeros = [params_of(item["href"])["zero"] for item in component(app, "suggestions")["items"]]
    assert "ffn:10" in zeros
    assert params_of(component(app, "to_prompt")["items"][0]["href"]) == {"p": PROMPT}


@pytest.mark.parametrize(
    ("params", "asked"),
    [
        ({"p2": OTHER}, {"other": OTHER}),
        ({"zero": "L1.H2,ffn:3"}, {"zero": "L1.H2,ffn:3"}),
        ({"target2": "70"}, {"target": 70}),
        ({"at2": "2"}, {"position": 2}),
    ],
)
def test_every_figure_is_the_librarys(small_page, compared, params, asked):
    app, found = small_page("compare", p=PROMPT, **params), compared(**asked)
    zero = parse_list(asked.get("zero", ""))
    assert sentence(found, zero) in all_text(app)
    assert measured(found) in all_text(app)
    for which, side in (("first", found.first), ("second", found.second)):
        shown = component(app, f"bars_{which}")["items"]
        assert [one["words"] for one in shown] == [percent(one.probability) for one in side.predictions[: len(shown)]]
        assert len(component(app, f"tokens_{which}")["items"]) == len(side.tokens)
    changed = component(app, "changed")["rows"]
    assert changed[0]["cells"][2]["text"] == (
        f"{percent(found.predictions[0].first)} → {percent(found.predictions[0].second)}"
    )
    hints = [group["hint"] for group in component(app, "changed_layers")["groups"]]
    assert hints == [
        f"layer {layer}: Δ attention {nats(found.layers.attention[layer])}, Δ FFN {nats(found.layers.ffn[layer])}"
        for layer in range(3)
    ]
    cells = [row["cells"] for row in component(app, "changed_heads")["rows"]]
    assert [cell["hint"] for cell in cells[2]] == [
        f"L{layer}.H2: Δ {nats(float(found.heads[layer, 2]))} nats" for layer in range(3)
    ]
    rows = component(app, "neurons")["rows"]
    changes = found.neurons[NeuronKind.FFN][: len(rows)]
    assert len(rows) >= 50
    assert [row["cells"][0]["text"] for row in rows] == [one.neuron.label for one in changes]
    assert [row["cells"][1]["text"] for row in rows] == [nats(one.score) for one in changes]
    assert [row["cells"][2]["text"] for row in rows] == [
        f"{nats(one.first.score)} → {nats(one.second.score)}" for one in changes
    ]


def test_a_layer_a_head_and_a_kind_narrow_the_neurons(small_page, compared):
    found = compared(zero="L1.H2")
    app = small_page("compare", p=PROMPT, zero="L1.H2")
    target = params_of(component(app, "changed_layers")["groups"][2]["href"])
    assert target == {"p": PROMPT, "zero": "L1.H2", "layer": "2"}
    app = small_page("compare", **target)
    assert set(shown_neurons(app)) == {
        one.neuron.label for one in found.neurons[NeuronKind.FFN] if one.neuron.layer == 2
    }
    head = params_of(component(app, "changed_heads")["rows"][3]["cells"][1]["href"])
    assert head == {"p": PROMPT, "zero": "L1.H2", "head": "L1.H3"}
    app = small_page("compare", kind="attention", **head)
    assert shown_neurons(app)
    assert all(label.startswith("L1.H3.") for label in shown_neurons(app))
    one, two = (float(side.heads[1, 3]) for side in (found.first, found.second))
    assert f"{nats(one)} nats in the first run, {nats(two)} in the second, Δ {nats(two - one)}" in all_text(app)
    hrefs = [params_of(item["href"]) for item in component(app, "head")["items"]]
    assert hrefs[0] == {"p": PROMPT, "head": "L1.H3"}
    assert hrefs[1]["zero"] == "L1.H2,L1.H3"
    assert "L1.H2.N" in " ".join(shown_neurons(small_page("compare", p=PROMPT, zero="L1.H2", kind="attention")))


def test_what_is_zeroed_can_be_taken_back_and_a_neuron_be_zeroed_too(small_page):
    app = small_page("compare", p=PROMPT, zero="L1.H2,L2.F3")
    assert [params_of(one["href"])["zero"] for one in component(app, "zeroed")["items"]] == ["L2.F3", "L1.H2"]
    row = component(app, "neurons")["rows"][0]
    *_, zero = row["cells"][-1]["chips"]
    if row["cells"][0]["text"] != "L2.F3":
        assert params_of(zero["href"])["zero"] == f"L1.H2,L2.F3,{row['cells'][0]['text']}"


def test_the_form_asks_and_what_is_wrong_is_said(small_page):
    app = small_page("compare", p=PROMPT, target="70", zero="L1.H2")
    assert app.text_input(key="compare_zero").value == "L1.H2"
    app.text_input(key="compare_zero").set_value("H9")
    app.button[0].click().run()
    assert "“H9” names no part of a model" in texts(app)
    assert app.query_params["zero"] == "L1.H2"
    assert app.text_input(key="compare_zero").value == "H9"
    app.text_input(key="compare_zero").set_value("")
    app.text_area(key="compare_other").set_value(OTHER)
    app.button[0].click().run()
    assert dict(app.query_params.items()) == {"p": PROMPT, "target": "70", "p2": OTHER}
    assert not app.exception


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"zero": "L9.H0"}, "There is no head L9.H0"),
        ({"at2": "99"}, "There is no position 99"),
        ({"p2": "the " * 100}, "the limit is 64"),
    ],
)
def test_a_question_that_makes_no_sense_gets_one_notice(small_page, params, said):
    app = small_page("compare", p=PROMPT, **params)
    assert said in texts(app)
    assert "hourglass" not in all_text(app)
    assert len(app.error) == 1


def test_scores_of_many_parts_are_told_as_scores(compared):
    found = compared(zero="ffn:6")
    said = measured(found).partition("Scored one by one, in nats: ")[2]
    parts = [f"{one.part.label} {nats(one.score)}" for one in found.zeroed]
    assert said == f"{', '.join(parts[:4])} and 2 more; {nats(sum(one.score for one in found.zeroed))} together."


def test_what_is_too_long_is_said_and_stays(small_page):
    app = small_page("compare", p=PROMPT)
    long = "a" * (MAX_PROMPT + 1)
    app.text_area(key="compare_prompt").set_value("another")
    app.text_area(key="compare_other").set_value(long)
    app.button[0].click().run()
    assert "The second prompt has 8,001 characters; at most 8,000 are read." in texts(app)
    assert [app.text_area(key=f"compare_{one}").value for one in ("prompt", "other")] == ["another", long]
    assert dict(app.query_params.items()) == {"p": PROMPT}


def test_white_space_is_a_prompt_like_any_other(small_page):
    app = small_page("compare", p=PROMPT, p2=" ")
    assert not app.error
    assert "Second run" in [one.value for one in app.header]


def test_without_a_model_the_page_says_so(toy_page):
    app = toy_page("compare", p=PROMPT, zero="L0.H0")
    assert len(app.error) == 1


def test_the_prompt_page_leads_here(small_page):
    app = small_page("prompt", p=PROMPT, head="L1.H2")
    hrefs = [item["href"] for item in component(app, "compare")["items"]]
    assert params_of(hrefs[0]) == {"p": PROMPT}
    assert params_of(hrefs[1])["zero"] == "ffn:10"
    _, zero, *_ = component(app, "close_head")["items"]
    assert params_of(zero["href"]) == {"p": PROMPT, "zero": "L1.H2"}
    row = component(small_page("prompt", p=PROMPT), "neurons_ffn")["rows"][0]
    label = row["cells"][0]["text"]
    _, chip, *_ = row["cells"][-1]["chips"]
    assert params_of(chip["href"]) == {"p": PROMPT, "zero": label}
    assert Part.parse(label).neuron is not None
