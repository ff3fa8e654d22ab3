"""Answers one step further, written beside an analysis and read again: the same, without torch."""

import json
import subprocess
import sys
from typing import Any

import pytest
from pandas.testing import assert_frame_equal

from app.attribution import Settings, drilldowns, explain, run_prompt
from app.attribution.analysis import contrast, within
from app.attribution.frames import lens_frame, pattern_frame, positions_frame
from app.attribution.heads import contrast_flow, flow, through_head
from app.attribution.measured import most_effective
from app.attribution.query import activations, keys, own_query
from app.attribution.results import to_json
from db.errors import AtlasError
from db.neuron import Head, Neuron, NeuronAt, Part
from tests import models
from tests.attribution.test_parsing import assert_identical

FFN, ATTENTION = Neuron.ffn(1, 3), Neuron.attention(2, 1, 4)


@pytest.fixture(params=["llama", "gpt2"], scope="module")
def run(request):
    return run_prompt(models.language_model(request.param), models.PROMPT, Settings(top=5, distractor=7))


@pytest.fixture(scope="module")
def analysis(run):
    return explain(run)


def read(name, value, analysis):
    return drilldowns.from_json(name, json.loads(json.dumps(drilldowns.to_json(value))), analysis)


HEAD = Head(1, 2)


def test_heads_and_lens_come_back_as_they_were(run, analysis):
    for name, what, frame in (
        ("positions", HEAD, positions_frame),
        ("pattern", HEAD, pattern_frame),
        ("lens", None, lens_frame),
    ):
        value = drilldowns.answer(run, name, what)
        assert_identical(read(name, value, analysis), value, name)
        assert_frame_equal(frame(read(name, value, analysis)), frame(value))


def test_the_others_come_back_as_they_were(run, analysis):
    answers = [
        ("flow", flow(run)),
        ("flow", contrast_flow(run, contrast(run, 7, 0))),
        ("effects", most_effective(run, 3)),
        ("within", within(run, Part(1), 4, None)),
        ("within", within(run, Part.parse("L2.H1@3"), 4, None)),
        ("neuron", run.value_neurons(FFN)),
        ("neuron", run.value_neurons(ATTENTION)),
        ("own", own_query(run, FFN)),
        ("own", own_query(run, ATTENTION, 1)),
        ("through", through_head(run.model, Neuron.ffn(0, 5), 2, 1)),
        ("active", activations(run, ATTENTION)),
        ("keys", keys(run.model, FFN)),
    ]
    assert {name for name, _ in answers} | {"positions", "pattern", "lens"} == set(drilldowns.NAMES)
    for name, value in answers:
        assert_identical(read(name, value, analysis), value, name)


def earlier_forms(run):
    """Answers as version 1 kept them, written out by hand, and what they hold."""
    positions, pattern = drilldowns.answer(run, "positions", HEAD), drilldowns.answer(run, "pattern", HEAD)
    lens, through = drilldowns.answer(run, "lens", None), through_head(run.model, Neuron.ffn(0, 5), 2, 1)
    moves, own = flow(run), own_query(run, FFN)
    tables: dict[str, tuple[Any, Any]] = {
        "positions": (positions_frame, positions),
        "pattern": (pattern_frame, pattern),
        "lens": (lens_frame, lens),
    }
    for name, (frame, value) in tables.items():
        yield name, {column: values.tolist() for column, values in frame(value).items()}, value, frame
    rows = [[one.layer, one.head, one.position, one.score, one.attention_weight] for one in moves.moves]
    certificate = {
        "scored": moves.certificate.scored,
        "total": moves.certificate.total,
        "proven": True,
        "bound": "norms",
    }
    yield "flow", {"moves": rows, "certificate": certificate}, moves, lambda value: value.moves
    layers = {"ffn": own.layers.named(), "attention": own.layers.named()}
    layers |= {} if own.layers_up is None else {"ffn_up": own.layers_up.named()}
    kept = {
        "one": {"neuron": FFN.label, "score": own.one.score, "activation": own.one.activation},
        "query_ffn_neurons": [{"neuron": one.neuron.label, "score": one.score} for one in own.ffn_neurons],
        "query_layers": layers,
        "query_skipped": own.skipped,
        "query_readers": [0, 1],
    }
    yield "own", kept, own, lambda value: value
    ends = ("promotes", "suppresses", "directly_promotes", "directly_suppresses")
    tokens = {end: [[one.id, one.text, one.display] for one in getattr(through, end)] for end in ends}
    yield "through", {"neuron": "L0.F5", "layer": 2, "head": 1, **tokens}, through, lambda value: value


def test_what_earlier_versions_kept_is_read(run, analysis):
    for name, kept, value, seen in earlier_forms(run):
        label = HEAD.label if name in ("positions", "pattern") else ""
        found = drilldowns.from_json(name, json.loads(json.dumps(kept)), analysis, label)
        if name in ("positions", "pattern", "lens"):
            assert_frame_equal(seen(found), seen(value))
        else:
            assert_identical(seen(found), seen(value), name)


@pytest.mark.parametrize("given", [None, [], {}, {"moves": [[0, 0, 99, 1.0, 1.0]]}, [{"neuron": "?"}], "text", 3])
@pytest.mark.parametrize("name", drilldowns.NAMES)
def test_what_is_damaged_is_refused(analysis, name, given):
    with pytest.raises(AtlasError, match="damaged") as refused:
        drilldowns.from_json(name, given, analysis)
    assert "\n" not in str(refused.value)


def test_labels_tell_questions_apart():
    asked = [None, HEAD, FFN, NeuronAt(ATTENTION, 1), NeuronAt(ATTENTION), (FFN, Head(2, 1)), (FFN, HEAD)]
    assert len({drilldowns.label_of(one) for one in asked}) == len(asked)


def test_reading_needs_no_torch(run, analysis):
    given = {"analysis": to_json(analysis), "flow": drilldowns.to_json(flow(run))}
    program = (
        "import json, sys\n"
        "from app.attribution import drilldowns\n"
        "from app.attribution.results import from_json\n"
        "given = json.load(sys.stdin)\n"
        "drilldowns.from_json('flow', given['flow'], from_json(given['analysis']))\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], input=json.dumps(given), text=True, check=True)
