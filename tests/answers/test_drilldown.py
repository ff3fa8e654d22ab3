"""The drill-down of the prompt page without a browser: what each state shows is what the library says."""

from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

import pytest
import torch

from app.answers import explain
from app.answers.effects import all_measured
from app.attribution import analyse, load, run_prompt
from app.attribution.ablation import Effects
from app.attribution.analysis import raising_within
from app.attribution.drilldowns import answer
from app.attribution.frames import positions_frame
from app.attribution.heads import through_head
from app.attribution.measured import share_measured
from app.attribution.prompt import Settings
from app.attribution.query import activations, own_query
from app.attribution.results import overlap
from app.attribution.run import StoredRanges
from app.state.selections import PromptSelection
from app.ui.components import Typed
from app.ui.pages import neuron_activity
from app.words import nats
from db.catalogue.builds import find_catalogue
from db.catalogue.store import Catalogue
from db.neuron import Head, Neuron, NeuronKind, Part
from tests.pages import component, components_of, crossed, texts

PROMPT = "The river runs to"
DISTRACTOR = 70


@pytest.fixture(scope="session")
def model(small_folders):
    return load(str(small_folders[0] / "llama"))


@pytest.fixture(scope="session")
def analysis(small_folders, model):
    with Catalogue.open(find_catalogue(small_folders[1])) as atlas:
        return analyse(model, PROMPT, suppressing=True, distractor=DISTRACTOR, ranges=StoredRanges(atlas))


@pytest.fixture(scope="session")
def run(model):
    return run_prompt(model, PROMPT, Settings())


def labels(app, key):
    return [row["cells"][0]["text"] for row in component(app, key)["rows"]]


def params_of(href):
    return {name: values[0] for name, values in parse_qs(urlsplit(href).query).items()}


def all_text(app):
    return " ".join(element.value for element in (*app.markdown, *app.caption, *app.header)).replace("\\", "")


def test_a_layer_leads_to_its_heads_and_its_neurons(small_page, analysis, run):
    bars = component(small_page("prompt", p=PROMPT), "layers")["groups"]
    assert len(bars) == analysis.heads.shape[0]
    target = params_of(bars[1]["href"])
    assert target == {"p": PROMPT, "layer": "1"}
    app = small_page("prompt", **target)
    heads = component(app, "layer_heads")["groups"]
    assert [group["hint"] for group in heads] == [
        f"L1.H{head}: {nats(score)} nats" for head, score in enumerate(analysis.heads[1].tolist())
    ]
    own = raising_within(run, Part(1), NeuronKind.FFN, 300).neurons
    assert labels(app, "neurons_ffn") == [one.neuron.label for one in own]
    assert params_of(component(app, "trail")["steps"][0]["href"]) == {"p": PROMPT}
    assert params_of(component(app, "layers")["groups"][1]["href"]) == {"p": PROMPT}


def test_a_head_leads_to_its_source_positions_and_those_to_its_neurons(small_page, analysis, run):
    cells = component(small_page("prompt", p=PROMPT, open="map"), "heads")["rows"][2]["cells"]
    target = params_of(cells[1]["href"])
    assert target == {"p": PROMPT, "head": "L1.H2", "open": "map"}
    app = small_page("prompt", **target)
    rows = component(app, "positions")["rows"]
    frame = positions_frame(answer(run, "positions", Head(1, 2))).sort_values("score", key=abs, ascending=False)
    assert [row["cells"][1]["text"] for row in rows] == [nats(score) for score in frame["score"]]
    assert [row["cells"][5]["chips"][0]["text"] for row in rows] == [tokens[0] for tokens in frame["value_tokens"]]
    source = params_of(rows[0]["href"])
    app = small_page("prompt", **source)
    own = raising_within(
        run, Part(1, NeuronKind.ATTENTION, 2, position=int(source["from"])), NeuronKind.ATTENTION, 300
    ).neurons
    assert labels(app, "neurons_attention") == [one.neuron.label for one in own]


@pytest.mark.parametrize("show", ["lowered", "query"])
def test_the_other_lists(small_page, analysis, show):
    app = small_page("prompt", p=PROMPT, show=show, open="overlap,sure")
    if show == "lowered":
        assert labels(app, "neurons_ffn") == [one.neuron.label for one in analysis.ffn_suppressing_neurons]
        assert "from the catalogue’s stored extreme logits" in all_text(app)
    else:
        assert labels(app, "query_neurons") == [one.neuron.label for one in analysis.query.ffn_neurons]
        both = component(app, "overlap_both")["items"]
        assert [item["text"] for item in both] == overlap(analysis)["both"][: len(both)]


def test_a_value_neuron_leads_to_its_own_query_neurons_and_back_from_its_page(small_page, analysis, run):
    app = small_page("prompt", p=PROMPT, show="lowered", layer="2")
    row = component(app, "neurons_attention")["rows"][0]
    own = params_of(row["cells"][-1]["chips"][0]["href"])
    assert own["own"].startswith(row["cells"][0]["text"] + "@")
    app = small_page("prompt", **own)
    label, position = own["own"].split("@")
    query = own_query(run, Neuron.parse(label), int(position))
    assert labels(app, "own_query") == [one.neuron.label for one in query.ffn_neurons]
    neuron = params_of(component(app, "own_query")["rows"][0]["href"])
    back = component(small_page("neuron", **neuron), "paths")["items"][-1]["href"]
    assert params_of(back) == own


def test_a_query_neuron_is_read_through_a_head(small_page, analysis, model):
    app = small_page("prompt", p=PROMPT, read="L0.F5", through="L2.H1")
    expected = through_head(model, Neuron.ffn(0, 5), 2, 1)
    shown = [item["text"] for item in component(app, "through_promotes")["items"]]
    assert shown == [token.display for token in expected.promotes]
    first = next(one.neuron for one in analysis.attention_value_neurons if one.neuron.layer > 0)
    app = small_page("prompt", p=PROMPT, read="L0.F5")
    assert f"read through head L{first.layer}.H{first.head}" in all_text(app)
    app = small_page("prompt", p=PROMPT, read="L2.F5", through="L1.H0")
    assert "reads only what earlier layers wrote" in texts(app)


def test_a_distractor_turns_increases_into_shares(small_page, analysis):
    app = small_page("prompt", p=PROMPT, **{"not": str(DISTRACTOR)})
    assert labels(app, "neurons_ffn") == [one.neuron.label for one in analysis.contrast.ffn_neurons]
    assert nats(analysis.contrast.logit_difference) in all_text(app)
    assert component(app, "layers")["unit"] == "share (nats)"
    rows = component(small_page("prompt", p=PROMPT, head="L1.H0", **{"not": str(DISTRACTOR)}), "positions")["rows"]
    expected = sorted(analysis.contrast.positions[1, 0].tolist(), key=abs, reverse=True)
    assert [row["cells"][1]["text"] for row in rows] == [nats(share) for share in expected]
    assert params_of(component(app, "against")["items"][0]["href"]) == {"p": PROMPT}


def test_the_lens_has_a_line_a_layer_and_the_output(small_page, analysis):
    rows = component(small_page("prompt", p=PROMPT, map="lens"), "lens")["rows"]
    assert [row["text"] for row in rows][:2] == ["output", str(analysis.heads.shape[0] - 1)]
    assert rows[0]["cells"][-1]["text"] == analysis.predictions[0].token.display


def test_the_boxes_do_what_a_click_does(small_page):
    app = small_page("prompt", p=PROMPT, open="map")
    app.selectbox(key="prompt_layer").set_value(1).run()
    assert app.query_params["layer"] == "1"
    app.selectbox(key="prompt_head").set_value(2).run()
    assert app.query_params["head"] == "L1.H2"
    app.selectbox(key="prompt_layer").set_value(-1).run()
    assert "head" not in app.query_params
    assert not app.exception


def test_looking_around_analyses_nothing_anew(small_page, monkeypatch):
    asked = []
    small_page("prompt", p=PROMPT)
    monkeypatch.setattr("app.attribution.explain", lambda *_: asked.append(1))
    for place in ({"layer": "1"}, {"head": "L1.H2"}, {"show": "query"}, {"map": "lens"}, {"own": "L1.F3"}):
        assert component(small_page("prompt", p=PROMPT, **place), "predictions")["items"]
    assert not asked


WRONG = ["nonsense", "-1", "99999999999999999999", "L99.H0", "L0.F99999", "L1.F3@2", "<b>$x$"]
PLACES = ["map", "layer", "head", "from", "show", "own", "read", "through", "not", "try"]


@pytest.mark.parametrize(("name", "value"), crossed(PLACES, WRONG))
def test_a_prompt_survives_a_wrong_place(small_page, name, value):
    for page in ("prompt", "neuron"):
        app = small_page(page, p=PROMPT, n="L1.F3", head="L1.H0", **{name: value} if name != "head" else {})
        assert "fault of ours" not in texts(app)
        assert app.title


def test_a_neuron_is_tried_on_a_text(small_page, model, monkeypatch):
    for label in ("L1.F3", "L1.H2.N3"):
        app = small_page("neuron", n=label, p=PROMPT, **{"try": "The hill is blue"})
        found = activations(run_prompt(model, "The hill is blue", Settings()), Neuron.parse(label))
        pieces = component(app, "trial_activation")["pieces"]
        most = max(map(abs, found.activation))
        assert [piece["share"] for piece in pieces] == pytest.approx([value / most for value in found.activation])
    assert component(app, "trial_arriving")["pieces"]
    sent = iter(["A road"])
    monkeypatch.setattr(neuron_activity, "prompt_box", lambda text, **_: Typed(text, next(sent, None)))
    app.run()
    assert app.query_params["try"] == "A road"
    assert app.query_params["n"] == "L1.H2.N3"


def test_questions_are_told_apart(small_page, small_folders):
    """Another position, target or distractor is another analysis; another place is not."""
    small_page("prompt", p=PROMPT)
    with Catalogue.open(find_catalogue(small_folders[1])) as atlas:
        from app.state.selections import Place, PromptSelection

        first = explain.analysis(atlas, PromptSelection(PROMPT))
        assert explain.analysis(atlas, PromptSelection(PROMPT, place=Place(layer=1))) is first
        assert explain.analysis(atlas, PromptSelection(PROMPT, distractor=5)) is not first
        assert first.certificates[NeuronKind.FFN].scored


def strongest(small_folders, neurons):
    with Catalogue.open(find_catalogue(small_folders[1])) as atlas:
        return atlas.strongest_tokens(neurons, 5)


@pytest.mark.parametrize(
    ("order", "key"),
    [
        ("activation", lambda one: -one.activation),
        ("layer", lambda one: (one.neuron.layer, one.neuron.head, one.neuron.index)),
        ("source", lambda one: one.position),
    ],
)
def test_the_lists_are_ordered_as_asked(small_page, analysis, order, key):
    expected = sorted(analysis.attention_value_neurons, key=key)
    app = small_page("prompt", p=PROMPT, sort=order)
    assert labels(app, "neurons_attention") == [one.neuron.label for one in expected]
    (sorted_by,) = [column for column in component(app, "neurons_attention")["columns"] if column.get("sorted")]
    assert params_of(sorted_by["href"]) == {"p": PROMPT, "sort": order, "reverse": "1"}
    app = small_page("prompt", **params_of(sorted_by["href"]))
    assert labels(app, "neurons_attention") == [one.neuron.label for one in expected[::-1]]


def test_the_lists_are_searched_by_layer_head_label_and_token(small_page, small_folders, analysis):
    ffn, attention = analysis.ffn_value_neurons, analysis.attention_value_neurons
    for text in ("1", "l1", "L1"):
        app = small_page("prompt", p=PROMPT, has=text)
        ends = strongest(small_folders, [one.neuron for one in ffn])
        tokens = {one for one, end in ends.items() if text.lower() in said(end)}
        found = [one.neuron for one in ffn if one.neuron.layer == 1 or one.neuron in tokens]
        assert labels(app, "neurons_ffn") == [one.label for one in found]
    first = attention[0].neuron
    app = small_page("prompt", p=PROMPT, has=f"L{first.layer}.H{first.head}")
    assert set(labels(app, "neurons_attention")) >= {first.label}
    assert {label.rpartition(".")[0] for label in labels(app, "neurons_attention")} == {f"L{first.layer}.H{first.head}"}
    ends = strongest(small_folders, [one.neuron for one in ffn])
    word = ends[ffn[0].neuron].promotes[0].display.strip("␣")
    app = small_page("prompt", p=PROMPT, has=word.upper())
    expected = [one.neuron.label for one in ffn if word.lower() in said(ends[one.neuron])]
    assert labels(app, "neurons_ffn") == expected
    assert f"{len(expected)} of these {len(ffn)}" in all_text(app)


def said(ends):
    return " ".join(token.display.lower() for token in (*ends.promotes, *ends.suppresses))


def test_what_is_searched_for_goes_into_the_address(small_page):
    app = small_page("prompt", p=PROMPT)
    app.text_input(key="prompt_has").set_value("L2").run()
    app.selectbox(key="prompt_sort").set_value("layer-").run()
    assert {name: app.query_params[name] for name in ("has", "sort", "reverse")} == {
        "has": "L2",
        "sort": "layer",
        "reverse": "1",
    }
    app = small_page("prompt", p=PROMPT, has="no such thing")
    assert "There are none here" in texts(app)


def test_all_ffn_neurons_are_measured_by_a_button_and_stay_measured(
    small_page, small_folders, model, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    app = small_page("prompt", p=PROMPT, open="every")
    assert "ffn_helping" not in components_of(app)
    app.button(key="every_button").click().run()
    for _ in range(100):  # the browser's own polling, which is not in this test
        if "ffn_helping" in components_of(app):
            break
        app.run()
    run = run_prompt(model, PROMPT, Settings())
    every = Effects.of(run).entries(NeuronKind.FFN, torch.arange(run.ffn.activations.numel()))
    best = every.argsort(descending=True).tolist()
    assert labels(app, "ffn_helping") == [run.ffn.name(number)[0].label for number in best if every[number] > 0][:100]
    assert labels(app, "ffn_hindering")[0] == run.ffn.name(best[-1])[0].label
    assert f"exhaustive: all {len(every)} were measured" in all_text(app)
    kept = list((tmp_path / "cache" / "neuron-atlas" / "measured").iterdir())
    assert len(kept) == 1
    asked = analyse(model, PROMPT, top=3)
    assert share_measured(asked, kept[0].parent) == 1
    with Catalogue.open(find_catalogue(small_folders[1])) as atlas:
        old = replace(asked, checkpoint=None)  # as older versions wrote it, and the gallery's are
        assert all_measured(atlas, PromptSelection("another, which nobody asked"), old) == 1
    assert share_measured(analyse(model, f"{PROMPT} the", top=3), kept[0].parent) == 0
