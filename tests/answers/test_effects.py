"""Measured effects on the prompt page and in its files: what each state shows is what the library measures."""

import io
import json
import zipfile
from dataclasses import replace
from itertools import pairwise

import pandas as pd
import pytest
import streamlit as st

from app.answers import effects, explain
from app.answers.reading import disagreement, how_found
from app.attribution import analyse, load, run_prompt
from app.attribution.ablation import Effects
from app.attribution.analysis import lowering_within, raising_within
from app.attribution.frames import heads_frame
from app.attribution.prompt import Method, Settings
from app.attribution.results import CONTRAST_LISTS, LISTS, Certificate, from_json
from app.attribution.run import StoredRanges
from app.report import FILES, Material, Origin
from app.serving import resources
from app.serving.settings import configuration
from app.state.selections import Place, PromptSelection, Show
from app.words import nats
from db.errors import AtlasError
from db.neuron import Head, NeuronKind, Part
from tests.pages import component, texts

PROMPT = "The river runs to"
ASKED = PromptSelection(PROMPT)
DISTRACTOR = 70


@pytest.fixture(scope="module")
def model(small_folders):
    return load(str(small_folders[0] / "llama"))


@pytest.fixture(scope="module")
def run(model):
    return run_prompt(model, PROMPT, Settings())


@pytest.fixture
def atlas(small_page):
    return resources.catalogue()


def test_why_nothing_is_measured_names_no_folder_of_the_server(atlas, monkeypatch):
    folder = configuration().models.absolute()
    analysis = explain.analysis(atlas, ASKED)

    def damaged(*_arguments):
        raise AtlasError(f"The weights in {folder}/llama are damaged.")

    monkeypatch.setattr(resources.workshop().shop, "known", damaged)
    said = f"The weights in {folder.name}/llama are damaged."
    assert effects.unmeasured(atlas, ASKED, analysis) == said
    assert effects.why_not_all(atlas, ASKED) == said


def column(app, key, title):
    data = component(app, key)
    (place,) = [place for place, one in enumerate(data["columns"]) if one["title"] == title]
    return data["columns"][place], [row["cells"][place] for row in data["rows"]]


def labels(app, key):
    return [row["cells"][0]["text"] for row in component(app, key)["rows"]]


def job_of(atlas, asked, analysis):
    job = effects.unmeasured(atlas, asked, analysis)
    assert isinstance(job, effects.Job)
    return job


def effects_of(neurons) -> list[float]:
    """All of them were measured."""
    found = [one.effect for one in neurons if one.effect is not None]
    assert len(found) == len(neurons)
    return found


def falls(numbers):
    return all(one >= other for one, other in pairwise(numbers))


def test_the_page_shows_scores_first_and_a_column_for_what_comes(small_page, atlas):
    app = small_page("prompt", p=PROMPT)
    listed = explain.analysis(atlas, ASKED).ffn_value_neurons
    assert labels(app, "neurons_ffn") == [one.neuron.label for one in listed]
    heading, cells = column(app, "neurons_ffn", "measured (nats)")
    assert {cell["text"] for cell in cells} == {"…"}
    assert heading["both"]
    assert "sorted" not in heading
    assert column(app, "neurons_ffn", "score (nats)")[0]["sorted"] == "descending"
    assert isinstance(effects.unmeasured(atlas, ASKED, explain.analysis(atlas, ASKED)), effects.Job)
    assert any("to the answer is being measured" in one.value for one in app.markdown)


@pytest.mark.parametrize("show", [Show.RAISED, Show.LOWERED])
def test_measured_lists_are_sorted_by_it_and_can_be_switched_back(small_page, atlas, run, show):
    whole = effects.measured(atlas, ASKED)
    scored = whole.ffn_value_neurons if show is Show.RAISED else whole.ffn_suppressing_neurons
    own = dict(zip((one.neuron.label for one in scored), Effects.of(run).neurons(scored), strict=True))

    app = small_page("prompt", p=PROMPT, show=str(show))
    order = labels(app, "neurons_ffn")
    assert sorted(order) == sorted(own)
    assert order != [one.neuron.label for one in scored]
    assert falls([own[label] * (1 if show is Show.RAISED else -1) for label in order])
    heading, cells = column(app, "neurons_ffn", "measured (nats)")
    assert heading["sorted"] == "descending"
    assert [cell["text"] for cell in cells] == [nats(own[label]) for label in order]

    (switch,) = component(app, "sort_switch")["items"]
    assert (switch["text"], "sort=score" in switch["href"]) == ("Sort by score", True)
    app = small_page("prompt", p=PROMPT, show=str(show), sort="score")
    assert labels(app, "neurons_ffn") == [one.neuron.label for one in scored]
    (switch,) = component(app, "sort_switch")["items"]
    assert (switch["text"], "sort=" in switch["href"]) == ("Sort by what was measured", False)
    app = small_page("prompt", p=PROMPT, show=str(show), sort="effect", reverse="1")
    assert labels(app, "neurons_ffn") == order[::-1]


def test_an_explicit_order_is_kept(small_page, atlas):
    before = labels(small_page("prompt", p=PROMPT, sort="activation"), "neurons_ffn")
    effects.measured(atlas, ASKED)
    assert labels(small_page("prompt", p=PROMPT, sort="activation"), "neurons_ffn") == before


def test_a_parts_own_list_is_measured(small_page, atlas, run):
    asked = PromptSelection(PROMPT, place=Place(layer=1, ffn=True))
    job = job_of(atlas, asked, effects.measured(atlas, ASKED))
    resources.workshop().result("effects", job.key, job.make)
    own = raising_within(run, Part(1, NeuronKind.FFN), NeuronKind.FFN, 300).neurons
    expected = sorted(Effects.of(run).neurons(own), reverse=True)
    app = small_page("prompt", p=PROMPT, layer="1", part="ffn")
    assert [cell["text"] for cell in column(app, "neurons_ffn", "measured (nats)")[1]] == list(map(nats, expected))
    assert effects.unmeasured(atlas, asked, effects.measured(atlas, ASKED)) is None


def test_begun_aside_it_ends_as_what_is_waited_for(small_page, atlas):
    asked = PromptSelection(PROMPT, place=Place(show=Show.LOWERED))
    analysis = explain.analysis(atlas, asked)
    job = job_of(atlas, asked, analysis)
    job.begin()
    whole = effects.measured(atlas, asked)
    assert job.ends_within(0)
    assert effects.with_effects(atlas, asked, analysis) is whole
    assert job.begin() is None


@pytest.mark.parametrize("distractor", [None, DISTRACTOR])
def test_what_raised_is_measured_first_and_only_once(small_page, atlas, distractor):
    asked = PromptSelection(PROMPT, distractor=distractor)
    analysis = explain.analysis(atlas, asked)
    job = job_of(atlas, asked, analysis)
    first = resources.workshop().result("effects", job.key, job.make)
    assert effects.with_effects(atlas, asked, analysis) is first
    assert effects.unmeasured(atlas, asked, first) is None
    lowered = replace(asked, place=Place(show=Show.LOWERED))
    assert job_of(atlas, lowered, first).key != job.key

    scored, whole = first.contrast or first, effects.measured(atlas, asked)
    names = LISTS if distractor is None else CONTRAST_LISTS
    every = whole.contrast or whole
    for name in names[:2]:
        assert all(effects_of(getattr(scored, name)))
        assert getattr(every, name) == getattr(scored, name)
    for name in names[2:]:
        assert {one.effect for one in getattr(scored, name)} == {None}
        assert effects_of(getattr(every, name))
    assert every.head_effects is scored.head_effects
    assert every.together is scored.together
    assert effects_of(whole.ffn_suppressing_neurons)
    assert effects.unmeasured(atlas, lowered, whole) is None


def test_in_a_contrast_effects_are_on_the_difference(small_page, atlas, model):
    asked = PromptSelection(PROMPT, distractor=DISTRACTOR)
    found = effects.measured(atlas, asked).contrast
    assert found is not None
    target, other = (
        Effects.of(run_prompt(model, PROMPT, Settings(target=one))).neurons(found.attention_opposing)
        for one in (None, DISTRACTOR)
    )
    expected = [one - two for one, two in zip(target, other, strict=True)]
    assert [one.effect for one in found.attention_opposing] == pytest.approx(expected, abs=1e-4)


def test_heads_and_layers_as_measured(small_page, atlas, run):
    effects.measured(atlas, ASKED)
    app = small_page("prompt", p=PROMPT, open="layers,map", effects="1")
    own, heads = Effects.of(run).sublayers(), Effects.of(run).heads()
    hint = f"layer 1: measured attention {nats(own.attention[1])}, measured FFN {nats(own.ffn[1])}"
    assert component(app, "layers")["groups"][1]["hint"] == hint
    assert component(app, "heads")["rows"][2]["cells"][1]["hint"] == f"L1.H2: measured {nats(heads[1, 2])} nats"
    plain = component(small_page("prompt", p=PROMPT, open="layers"), "layers")
    assert "measured" not in plain["groups"][1]["hint"]
    words = " ".join(one.value for one in small_page("prompt", p=PROMPT, head="L1.H2").markdown).replace("\\", "")
    way = "loses" if heads[1, 2] > 0 else "gains"
    assert f"without it the target’s log-probability {way} {abs(heads[1, 2]):.3f} nats" in words


def test_scored_against_measured_holds_every_neuron_of_the_lists(small_page, atlas):
    whole = effects.measured(atlas, ASKED)
    app = small_page("prompt", p=PROMPT, open="measured")
    (chart,) = [one for one in app.get("vega_lite_chart") if "measured effect" in one.proto.spec]
    assert "clicked" in chart.proto.spec
    listed = (*whole.ffn_value_neurons, *whole.attention_value_neurons)
    material = Material(whole, atlas, Origin(ASKED))
    html = FILES["html"].write(material).decode()
    assert f"The {len(listed)} neurons that raised" in html


# Where the two disagree


@pytest.mark.parametrize(
    ("score", "effect", "words"),
    [
        (0.5, None, ""),
        (0.5, 0.3, ""),
        (0.01, -0.01, "the opposite"),
        (0.5, -0.009, "next to nothing"),
        (-0.02, 0.3, "the opposite"),
        (0.05, 0.0166, "a third of it"),
        (0.049, 0.016, ""),
        (-0.8, -0.1, "an eighth of it"),
        (0.05, 0.0, "next to nothing"),
        (0.1, 0.36, "4 times as much"),
        (0.0, 0.2, "far more"),
        (0.01, 0.2, "far more"),
    ],
)
def test_a_row_says_how_they_differ(score, effect, words):
    assert disagreement(score, effect) == words


def test_what_is_said_stands_before_the_tokens(small_page, atlas):
    whole = effects.measured(atlas, ASKED)
    app = small_page("prompt", p=PROMPT, sort="score")
    data = component(app, "neurons_ffn")
    (place,) = [place for place, one in enumerate(data["columns"]) if one["role"] == "tokens"]
    expected = [disagreement(one.score, one.effect) for one in whole.ffn_value_neurons]
    shown = [row["cells"][place].get("remark", "").split(" · ") for row in data["rows"]]
    assert [words[0].removeprefix("measured: ") * ("measured: " in words[0]) for words in shown] == expected


# Methods


@pytest.mark.parametrize("method", [Method.REMOVED, Method.GRADIENT])
def test_a_method_is_in_the_address_and_its_words_are_right(small_page, atlas, model, method):
    app = small_page("prompt", p=PROMPT, method=str(method), open="layers,sure,settings")
    found = analyse(model, PROMPT, method=method, suppressing=True, ranges=StoredRanges(atlas))
    assert labels(app, "neurons_ffn") == [one.neuron.label for one in found.ffn_value_neurons]
    said = " ".join(one.value for one in app.caption).replace("\\", "")
    assert ("first order and proves nothing" in said) == (method is Method.GRADIENT)
    assert ("rules out the others" in said) == (method is Method.REMOVED)
    assert "taken out of the final hidden state" in said or method is Method.GRADIENT


def test_a_contrasts_shares_are_exact_whatever_the_method():
    assert "proves nothing" in how_found(Certificate(9, 9, "linear", 0.0), method=Method.GRADIENT)
    assert how_found(Certificate(9, 9, "linear", 0.0)) == "all 9 are known exactly"


# What was stored


@pytest.fixture
def without_model(monkeypatch):
    def switch():
        monkeypatch.setenv("ATLAS_MODE", "catalogue")
        configuration.cache_clear()
        st.cache_resource.clear()

    return switch


def test_stored_effects_are_shown_without_the_model(small_page, atlas, without_model):
    whole = effects.measured(atlas, ASKED)
    explain.save("measured", ASKED, whole, atlas)
    without_model()
    app = small_page("prompt", p=PROMPT)
    expected = sorted(effects_of(whole.ffn_value_neurons), reverse=True)
    assert [cell["text"] for cell in column(app, "neurons_ffn", "measured (nats)")[1]] == list(map(nats, expected))
    app = small_page("prompt", p=PROMPT, method="removed")
    assert "no model" in texts(app)  # another score is another question, and was not stored


def test_where_none_were_stored_the_page_says_so(small_page, atlas, without_model):
    explain.save("scored", ASKED, explain.analysis(atlas, ASKED), atlas)
    without_model()
    app = small_page("prompt", p=PROMPT)
    assert "Effects were not stored" in " ".join(one.value for one in app.caption)
    assert "measured (nats)" not in [one["title"] for one in component(app, "neurons_ffn")["columns"]]


def test_without_a_model_nothing_is_measured(small_page, atlas, without_model):
    without_model()
    with pytest.raises(AtlasError, match="no model"):
        effects.measured(resources.catalogue(), ASKED)


# Files


def test_files_hold_the_effect_beside_the_score(small_page, atlas):
    whole = effects.measured(atlas, PromptSelection(PROMPT, distractor=DISTRACTOR))
    material = Material(whole, atlas, Origin(ASKED))
    written = json.loads(FILES["json"].write(material))
    assert [one["effect"] for one in written["ffn_value_neurons"]] == [one.effect for one in whole.ffn_value_neurons]
    read, own = from_json(written).contrast, whole.contrast
    assert read is not None
    assert own is not None
    assert own.head_effects is not None
    assert read.head_effects == pytest.approx(own.head_effects)
    with zipfile.ZipFile(io.BytesIO(FILES["parquet"].write(material))) as archive:
        tables = {name: pd.read_parquet(io.BytesIO(archive.read(name))) for name in archive.namelist()}
    lists = [name for name in tables if "_neurons" in name and "query" not in name]
    assert len(lists) == 8
    assert all(tables[name]["effect"].notna().all() for name in [*lists, "heads.parquet", "contrast_layers.parquet"])
    html = FILES["html"].write(material).decode()
    assert html.count("measured (nats)") >= 5
    assert heads_frame(own)["effect"].tolist() == own.head_effects.flatten().tolist()


def test_the_strongest_of_the_lowering_part_are_the_most_negative(small_page, atlas, run):
    asked = PromptSelection(PROMPT, place=Place(layer=1, head=Head(1, 2), show=Show.LOWERED))
    job = job_of(atlas, asked, effects.measured(atlas, ASKED))
    resources.workshop().result("effects", job.key, job.make)
    part = Part(1, NeuronKind.ATTENTION, 2)
    own = lowering_within(run, part, NeuronKind.ATTENTION, 300, StoredRanges(atlas)).neurons
    app = small_page("prompt", p=PROMPT, head="L1.H2", show="lowered")
    shown = [cell["text"] for cell in column(app, "neurons_attention", "measured (nats)")[1]]
    assert shown == list(map(nats, sorted(Effects.of(run).neurons(own))))
