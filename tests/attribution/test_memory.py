"""How much memory each view takes at 512 tokens, at its peak and held by its result, as torch reports every allocation.

The model's vocabulary is large beside all else. A distribution over it for every layer and position would take 98 MB,
for every position of one layer 25 MB.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM, LlamaConfig

from app.attribution import Settings, analyse, run_prompt
from app.attribution.analysis import contrast
from app.attribution.compare import compare_prompts
from app.attribution.drilldowns import NAMES, answer
from app.attribution.heads import head_pattern
from app.attribution.measured import Sweep
from app.attribution.run import PromptRun
from db.neuron import Head, Neuron, NeuronAt, Part
from indexer.checkpoint import Checkpoint
from indexer.language_model import load_model
from tests import models

TOKENS, VOCABULARY = 512, 12_000
PEAK_MB = 16
"""Four copies of 64 rows of logits are 12.3 MB; the forward pass alone takes 11."""
PATTERN_MB = TOKENS * TOKENS * 4 / 1e6
"""One head's attention, the largest thing that any result holds."""
GRAPH_MB = models.LAYERS * models.HEADS * PATTERN_MB
"""What the pass back keeps of the attention, for scores by gradient."""
SETTINGS = Settings(top=3, target=270, distractor=41, max_tokens=TOKENS, memory_mb=10)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> PromptRun:
    folder = tmp_path_factory.mktemp("large")
    sizes: dict[str, Any] = models._SHARED | {"vocab_size": VOCABULARY, "max_position_embeddings": TOKENS}
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(LlamaConfig(**sizes), dtype=torch.float32).save_pretrained(folder)
    models.byte_level_tokenizer(bos=True).save_pretrained(folder)
    model = load_model(Checkpoint("large", folder))
    ids = model.tokenizer(" the sea" * TOKENS)["input_ids"]
    found = run_prompt(model, model.tokenizer.decode(ids[1:TOKENS]), SETTINGS)
    assert len(found.token_ids) == TOKENS
    return found


def measured(ask: Callable[[], Any]) -> tuple[Any, float, float]:
    """The answer; MB that were allocated at the most; MB that still are while the answer is held."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded, torch.inference_mode():
        found = ask()
    recorder: Any = recorded.profiler
    changes = [event for event in recorder.kineto_results.events() if event.name() == "[memory]"]
    assert changes
    live, most = 0, 0
    for change in sorted(changes, key=lambda event: event.start_ns()):
        live += change.nbytes()
        most = max(most, live)
    return found, most / 1e6, live / 1e6


def test_the_measure_sees_what_is_held_and_what_was():
    found, most, live = measured(lambda: (torch.zeros(3_000_000) + 1)[:1])
    assert len(found) == 1
    assert most == pytest.approx(24, abs=0.1)
    assert live == pytest.approx(12, abs=0.1)


ABOUT: dict[str, list[Any]] = {
    "through": [(Neuron.parse("L0.F3"), Head(1, 2))],
    "positions": [Head(1, 2)],
    "pattern": [Head(1, 2)],
    "lens": [None],
    "flow": [40],
    "within": [Part.parse("L1"), Part.parse("L1.H2"), Part.parse("L1.H2@4")],
    "own": [NeuronAt.parse("L2.H1.N3@4"), NeuronAt.parse("L2.F3")],
    "neuron": [Neuron.parse("L2.H1.N3")],
    "active": [Neuron.parse("L2.H1.N3")],
    "keys": [Neuron.parse("L2.F3"), Neuron.parse("L2.H1.N3")],
    "effects": [3],
}


@pytest.mark.parametrize("name", NAMES)
def test_a_drill_down_holds_no_more_than_it_shows(run, name):
    warm = "within" if name == "effects" else name
    answer(run, warm, ABOUT[warm][0])  # what a run keeps for all that is asked of it, its heads' distributions
    for what in ABOUT[name]:
        _, most, held = measured(partial(answer, run, name, what))
        assert most <= PEAK_MB + (GRAPH_MB if name == "effects" else 0), what
        assert held <= (1.1 * PATTERN_MB if name == "pattern" else 0.1), what


def test_measuring_all_ffn_neurons_holds_no_more(run):
    """What `effects` of all adds to the candidates, which are looked for above."""

    def strongest():
        sweep = Sweep.of(run, None)
        sweep.finish()
        return sweep.strongest(3)

    found, most, held = measured(strongest)
    assert set(found) == {"ffn_helping", "ffn_hindering"}
    assert most <= PEAK_MB
    assert held <= 0.1


def test_a_kept_pattern_is_one_head_s(run, monkeypatch):
    assert run.stream.patterns is None  # the prompt is too long for all heads' to be kept
    monkeypatch.setattr("indexer.forward.PATTERN_BYTES", 2**30)
    kept = run_prompt(run.model, run.prompt, SETTINGS)
    assert kept.stream.patterns is not None
    assert head_pattern(kept, 1, 2).untyped_storage().nbytes() == TOKENS * TOKENS * 4


WHOLE: dict[str, Callable[[PromptRun], Any]] = {
    "analysis": lambda run: analyse(run.model, run.prompt, SETTINGS),
    "why not": lambda run: contrast(run, 41, 5),
    "comparison without parts": lambda run: compare_prompts(
        run.model, (run.prompt, SETTINGS), (run.prompt, SETTINGS), 3, zero=[Part.parse("L1.H2"), Part.parse("L2.ffn")]
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WHOLE)
def test_an_analysis_holds_no_distribution_for_each_position(run, name):
    _, most, held = measured(lambda: WHOLE[name](run))
    assert most <= PEAK_MB
    assert held <= 0.1
