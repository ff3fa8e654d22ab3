"""An analysis written as JSON and read again is the same analysis, exactly; what is none is refused in one sentence."""

import copy
import json
import subprocess
import sys
from dataclasses import fields, is_dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.attribution import Conventions, Settings, analyse
from app.attribution.frames import layers_frame, neurons_frame, query_layers_frame
from app.attribution.results import from_json, to_json
from db.errors import AtlasError
from tests import models

QUESTIONS = st.builds(
    Settings,
    top=st.sampled_from([0, 1, 7]),
    query_top=st.sampled_from([0, 5]),
    target=st.one_of(st.none(), st.integers(0, models.TOKENS - 1)),
    distractor=st.one_of(st.none(), st.integers(0, models.TOKENS - 1)),
    position=st.one_of(st.none(), st.integers(-3, -1)),
    conventions=st.sampled_from(Conventions),
    suppressing=st.booleans(),
)


def assert_identical(one: object, other: object, where: str = "analysis") -> None:
    """Equal in every field, type and bit."""
    assert type(one) is type(other), where
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        assert one.dtype == other.dtype, where
        assert one.shape == other.shape, where
        assert one.tobytes() == other.tobytes(), where
    elif is_dataclass(one):
        for field in fields(one):
            assert_identical(getattr(one, field.name), getattr(other, field.name), f"{where}.{field.name}")
    elif isinstance(one, tuple) and isinstance(other, tuple):
        assert len(one) == len(other), where
        for place, pair in enumerate(zip(one, other, strict=True)):
            assert_identical(*pair, f"{where}[{place}]")
    elif isinstance(one, dict) and isinstance(other, dict):
        assert list(one) == list(other), where
        for key in one:
            assert_identical(one[key], other[key], f"{where}[{key}]")
    else:
        assert one == other, where


@settings(max_examples=40, deadline=None)
@given(family=st.sampled_from(["llama", "gpt2", "qwen2"]), question=QUESTIONS, prompt=st.sampled_from(models.SENTENCES))
def test_what_is_written_is_read_exactly(family, question, prompt):
    analysis = analyse(models.language_model(family), prompt, question)
    written = json.dumps(to_json(analysis), allow_nan=False)
    read = from_json(json.loads(written))
    assert_identical(analysis, read)
    assert json.dumps(to_json(read), allow_nan=False) == written


@pytest.fixture(scope="module")
def written():
    analysis = analyse(models.language_model("llama"), "the é", top=3, suppressing=True, distractor=5)
    return to_json(analysis)


def test_tokens_that_are_no_whole_text_keep_their_display_form(written):
    assert [token.display for token in from_json(written).tokens][-2:] == ["⟨C3⟩", "⟨A9⟩"]


def test_frames_of_what_was_read_are_those_of_what_was_written():
    analysis = analyse(models.language_model("gpt2"), models.PROMPT, top=5, distractor=4)
    read = from_json(to_json(analysis))
    assert analysis.contrast is not None
    assert read.contrast is not None
    assert analysis.query is not None
    assert read.query is not None
    for one, other in ((analysis, read), (analysis.contrast, read.contrast)):
        assert layers_frame(one).equals(layers_frame(other))
    frames = [neurons_frame(one, one.attention_value_neurons) for one in (analysis, read)]
    assert frames[0].equals(frames[1])
    assert query_layers_frame(analysis.query).equals(query_layers_frame(read.query))


DAMAGES = {
    "no object": lambda _: [1, 2],
    "another object": lambda _: {"layers": {}},
    "no ids": lambda data: {name: value for name, value in data.items() if name != "token_ids"},
    "no heads": lambda data: {name: value for name, value in data.items() if name != "heads"},
    "ragged heads": lambda data: data | {"heads": [[1.0], [1.0, 2.0]]},
    "a layer too few": lambda data: data | {"layers": {"attention": [1.0], "ffn": [1.0]}},
    "no number": lambda data: data | {"heads": [["x"] * models.HEADS] * models.LAYERS},
    "not a finite number": lambda data: data | {"heads": [[1e400] * models.HEADS] * models.LAYERS},
    "no neuron": lambda data: data | {"ffn_value_neurons": [{"neuron": "<b>", "score": 1.0, "activation": 1.0}]},
    "a source outside": lambda data: (
        data | {"attention_value_neurons": [{"neuron": "L0.H0.N0", "position": 99, "score": 1.0, "activation": 1.0}]}
    ),
    "a position outside": lambda data: data | {"position": 99},
    "other conventions": lambda data: data | {"conventions": "mine"},
    "tokens and ids apart": lambda data: data | {"token_ids": data["token_ids"][:-1]},
    "a prompt that is a number": lambda data: data | {"prompt": 3},
    "lists for objects": lambda data: data | {"target": [1, 2]},
    "a contrast of another shape": lambda data: data | {"contrast": data["contrast"] | {"heads": [[1.0]]}},
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_no_analysis_is_refused_in_one_sentence(written, name):
    before = copy.deepcopy(written)
    with pytest.raises(AtlasError) as refused:
        from_json(DAMAGES[name](written))
    assert "\n" not in str(refused.value)
    assert written == before


def test_reading_needs_no_torch(written):
    program = (
        "import json, sys\n"
        "from app.attribution.frames import layers_frame\n"
        "from app.attribution.results import from_json\n"
        "layers_frame(from_json(json.load(sys.stdin)))\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], input=json.dumps(written), text=True, check=True)
