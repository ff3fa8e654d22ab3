"""Answers one step further, written beside an analysis and read again: the same, without torch."""

import json
import subprocess
import sys

import pytest
from pandas.testing import assert_frame_equal

from app.attribution import Settings, details_form, explain, run_prompt
from app.attribution.analysis import contrast
from app.attribution.details import lens_frame, own_query, pattern_frame, positions_frame
from app.attribution.frames import to_json
from app.attribution.heads import contrast_flow, flow, through_head
from db.errors import AtlasError
from db.neuron import Neuron
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
    return details_form.from_json(name, json.loads(json.dumps(details_form.to_json(name, value))), analysis)


def test_frames_come_back_as_they_were(run, analysis):
    for name, frame in (
        ("positions", positions_frame(run, 1, 2)),
        ("pattern", pattern_frame(run, 1, 2)),
        ("lens", lens_frame(run)),
    ):
        assert_frame_equal(read(name, frame, analysis), frame)


def test_the_others_come_back_as_they_were(run, analysis):
    answers = [
        ("flow", flow(run)),
        ("flow", contrast_flow(run, contrast(run, 7, 0))),
        ("neuron", run.value_neurons(FFN)),
        ("neuron", run.value_neurons(ATTENTION)),
        ("own", own_query(run, FFN)),
        ("own", own_query(run, ATTENTION, 1)),
        ("through", through_head(run.model, Neuron.ffn(0, 5), 2, 1)),
    ]
    assert {name for name, _ in answers} | {"positions", "pattern", "lens"} == set(details_form.NAMES)
    for name, value in answers:
        assert_identical(read(name, value, analysis), value, name)


@pytest.mark.parametrize("given", [None, [], {}, {"moves": [[0, 0, 99, 1.0, 1.0]]}, [{"neuron": "?"}], "text", 3])
@pytest.mark.parametrize("name", details_form.NAMES)
def test_what_is_damaged_is_refused(analysis, name, given):
    with pytest.raises(AtlasError, match="damaged") as refused:
        details_form.from_json(name, given, analysis)
    assert "\n" not in str(refused.value)


def test_labels_tell_questions_apart():
    asked = [None, (1, 2), FFN, (ATTENTION, 1), (ATTENTION, None), (FFN, (2, 1)), (FFN, (1, 2))]
    assert len({details_form.label_of(one) for one in asked}) == len(asked)


def test_reading_needs_no_torch(run, analysis):
    given = {"analysis": to_json(analysis), "flow": details_form.to_json("flow", flow(run))}
    program = (
        "import json, sys\n"
        "from app.attribution import details_form\n"
        "from app.attribution.results import from_json\n"
        "given = json.load(sys.stdin)\n"
        "details_form.from_json('flow', given['flow'], from_json(given['analysis']))\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], input=json.dumps(given), text=True, check=True)
