"""The README's example of the library does what it says."""

import re
from typing import Any

import pytest

from tests.readmes import CHECKOUT, README


@pytest.mark.slow
def test_the_example_gives_the_neuron_that_it_names(demo_model_dir, monkeypatch):
    monkeypatch.chdir(CHECKOUT)
    blocks = re.findall(r"^```python\n(.*?)^```", README.text, re.DOTALL | re.MULTILINE)
    assert blocks
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    (label,) = re.findall(r"ffn_value_neurons\[0\]  # (L\d+\.F\d+),", blocks[0])
    assert names["analysis"].ffn_value_neurons[0].neuron.label == label
