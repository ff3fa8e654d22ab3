"""The sentences above the lists: each figure is one of the analysis, and a score is never called an effect."""

import re
from dataclasses import replace

import numpy as np
import pytest

from app.answers import reading
from app.attribution import analyse
from app.attribution.measured import in_words
from app.attribution.text import text_report
from tests import models

TARGET, OTHER = 270, 70
CAUSAL = ("did most", "write the answer", "measured, ", "hold ", "proven")


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request):
    return models.language_model(request.param)


def said(model, **settings):
    found = analyse(model, models.PROMPT, top=20, **settings)
    return found, in_words(found, "{:+.4f}".format, "{:.2%}".format)


def test_what_the_model_says_and_how_sure(model):
    found, (first, *_) = said(model)
    top, second = found.predictions[:2]
    assert first == (
        f"The model says “{top.token.display}” ({top.probability:.2%}), then “{second.token.display}” "
        f"({second.probability:.2%})."
    )
    third = found.predictions[2].token
    assert f"explained is “{third.display}”, no. 3 of its predictions" in said(model, target=third.id)[1][0]
    unlikely = min(range(models.TOKENS), key=lambda one: one in {each.token.id for each in found.predictions})
    other, (first, *_) = said(model, target=unlikely)
    assert f"explained is “{other.target.token.display}”, not among its first 10" in first
    assert f"({other.target.probability:.2%})." in first


def test_scores_are_called_scores_where_nothing_was_measured(model):
    found, sentences = said(model, target=TARGET)
    assert len(sentences) == 3
    assert not any(word in sentence for sentence in sentences for word in CAUSAL)
    layer, head = np.unravel_index(found.heads.argmax(), found.heads.shape)
    assert sentences[1].startswith(f"By score, head L{layer}.H{head} brought most, {found.heads.max():+.4f} nats")
    both = [*found.ffn_value_neurons, *found.attention_value_neurons]
    best = max(both, key=lambda one: one.score)
    assert sentences[2].startswith(f"By score, these neurons come first: {best.neuron.label}")
    assert f"({best.score:+.4f})" in sentences[2]
    assert sentences[2].endswith("what they do to the answer is not measured.")


def test_a_head_brought_most_from_where_its_neurons_were_active(model):
    found, sentences = said(model, target=TARGET)
    layer, head = np.unravel_index(found.heads.argmax(), found.heads.shape)
    sums = np.zeros(len(found.tokens))
    for one in found.attention_value_neurons:
        if (one.neuron.layer, one.neuron.head) == (layer, head):
            sums[one.position] += one.score
    place = int(sums.argmax())
    expected = f"most of it from “{found.tokens[place].display}” (position {place})" if sums.any() else "nats."
    assert expected in sentences[1]


def test_what_was_measured_is_said_with_its_control(model):
    found, sentences = said(model, target=TARGET, measure=20)
    assert len(sentences) == 4
    assert f"{found.head_effects.max():+.4f} nats" in sentences[1]
    assert sentences[1].startswith("As measured, head L")
    both = [*found.ffn_value_neurons, *found.attention_value_neurons]
    best = sorted(both, key=lambda one: -one.effect)[:3]
    for one in best:
        assert f"{one.neuron.label}" in sentences[2]
        assert f"({one.effect:+.4f})" in sentences[2]
    assert sentences[2].startswith(f"As measured, of {len(both)} listed neurons {best[0].neuron.label}")
    assert "did most to write the answer" in sentences[2]
    for one in found.together.values():
        assert (
            f"hold {one.effect:+.4f} (random {np.mean(one.controls):+.4f} ± {np.std(one.controls):.3f})" in sentences[3]
        )


def test_where_nothing_helped_nobody_wrote_the_answer(model):
    found, _ = said(model, target=TARGET, measure=5)
    harmful = {
        name: tuple(replace(one, effect=-0.1) for one in getattr(found, name))
        for name in ("ffn_value_neurons", "attention_value_neurons")
    }
    sentences = in_words(replace(found, **harmful, head_effects=-abs(found.head_effects), together={}))
    assert sentences[1:] == ("Of the 40 listed neurons that were measured none helped the answer.",)


def test_a_contrast_is_about_the_difference(model):
    found, sentences = said(model, target=TARGET, distractor=OTHER, measure=20)
    assert f"it is held against “{found.contrast.distractor.token.display}”" in sentences[0]
    assert f"{found.contrast.head_effects.max():+.4f} nats" in sentences[1]
    layer, head = np.unravel_index(found.contrast.head_effects.argmax(), found.heads.shape)
    place = int(found.contrast.positions[layer, head].argmax())
    if found.contrast.positions[layer, head, place] > 0:
        assert f"“{found.tokens[place].display}” (position {place})" in sentences[1]
    assert "write the answer" not in sentences[2]
    assert found.contrast.together
    assert sentences[3].endswith("nats of the difference.")


def test_pages_and_the_shell_say_the_same(model):
    found, _ = said(model, target=TARGET, measure=3)
    assert all(sentence in text_report(found, None) for sentence in in_words(found))
    pages, shell = (
        [re.sub(r"(< )?[−+-]?[\d.]+ ?%?", "", one) for one in by(found)] for by in (reading.in_words, in_words)
    )
    assert pages == shell


def test_a_list_without_neurons_has_no_sentence(model):
    found = analyse(model, models.PROMPT, top=0)
    assert len(in_words(found)) == 2
