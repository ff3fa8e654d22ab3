"""Gemma 3 270M, real weights of a large vocabulary: identities, rows of the catalogue and proven lists, by plain means.

Layers 0, 5 and 17 stand for all: the first, one of the three without a sliding window, and the last.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from app.attribution.prompt import Settings
from app.attribution.run import PromptRun, run_prompt
from db.neuron import NeuronKind
from indexer import dequantised
from indexer.checkpoint import Checkpoint
from indexer.demo_model import MODELS
from indexer.language_model import LanguageModel, check_row, load_model
from indexer.projection import Projector
from indexer.work import unembedding_of
from tests import families

PROMPT = "The capital of France is"
LAYERS = (0, 5, 17)
HEAD_DIM, WINDOW, VOCABULARY = 256, 512, 262_144
DEPTH = 20


@pytest.fixture(scope="module")
def gemma(gemma_model_dir: Path) -> LanguageModel:
    return load_model(Checkpoint("gemma-3-270m", gemma_model_dir))


@pytest.fixture(scope="module")
def run(gemma: LanguageModel) -> PromptRun:
    return run_prompt(gemma, PROMPT, Settings(top=DEPTH))


def test_it_says_what_gemma_says(run, gemma_model_dir):
    assert dequantised.is_whole(gemma_model_dir, MODELS["gemma-3-270m"].sha256, verify=True)
    assert run.token_ids[0] == run.model.tokenizer.bos_token_id
    best = run.log_probabilities.exp().topk(3)
    found = [run.model.tokens.bytes_of(one) for one in best.indices.tolist()]
    assert found == [b" the", b" a", b" Paris"]
    assert best.values.tolist() == pytest.approx([0.19, 0.11, 0.08], abs=0.01)


def test_identities_hold_in_every_layer_beyond_the_window(gemma):
    assert gemma.family in families.REAL
    ids = gemma.tokenizer(" ".join([families.PROMPT] * 40))["input_ids"]
    assert len(ids) > WINDOW
    check_row(gemma, ids[: WINDOW + 40], tolerance=1e-4)


def test_rows_of_the_catalogue(gemma_model_dir):
    """The strongest tokens of some neurons, from the file's tensors alone: in float64, against every token."""
    checkpoint = Checkpoint("gemma-3-270m", gemma_model_dir)
    chosen = [3, 1000, 2047]
    with safe_open(gemma_model_dir / "model.safetensors", framework="pt") as file:

        def added(layer: int, part: str, norm: str) -> Tensor:
            matrix = file.get_tensor(f"model.layers.{layer}.{part}.weight").double()
            gamma = 1 + file.get_tensor(f"model.layers.{layer}.{norm}.weight").double()
            found: Tensor = matrix[:, [one % matrix.shape[1] for one in chosen]].T * gamma
            return found

        parts = (("mlp.down_proj", "post_feedforward_layernorm"), ("self_attn.o_proj", "post_attention_layernorm"))
        values = torch.cat([added(layer, *part) for layer in LAYERS for part in parts])
        final = 1 + file.get_tensor("model.norm.weight").double()
        embedding = file.get_slice("model.embed_tokens.weight")
        logits = torch.cat(
            [values * final @ embedding[start : start + 2**15].double().T for start in range(0, VOCABULARY, 2**15)],
            dim=1,
        )
    weights = checkpoint.weights()
    own = [each(layer) for layer in LAYERS for each in (weights.ffn_values, weights.attention_values)]
    rows = torch.cat([matrix[[one % len(matrix) for one in chosen]] for matrix in own])
    found = Projector(unembedding_of(checkpoint), DEPTH).project(rows)
    np.testing.assert_allclose(found.mean, logits.mean(dim=1), atol=1e-4)
    np.testing.assert_allclose(found.std, logits.std(dim=1, correction=0), rtol=1e-3)
    for tokens, stored, sign in (
        (found.top_tokens, found.top_logits, 1),
        (found.bottom_tokens, found.bottom_logits, -1),
    ):
        wanted = (sign * logits).topk(DEPTH, dim=1).values * sign
        np.testing.assert_allclose(stored, wanted, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(logits.gather(1, tokens.long()), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", list(NeuronKind))
def test_proven_lists_miss_none_of_three_layers(run, kind):
    """Of some hundred neurons drawn there, by the model's own norm and head: none that is not listed scores higher."""
    model, at = run.model, run.stream.position
    listed, certificate = run.raising(kind, DEPTH)
    assert certificate.scored < certificate.total / 10
    entries = run.entries(kind)
    generator = torch.Generator().manual_seed(0)
    drawn = [
        layer * entries.per_layer + torch.randperm(entries.per_layer, generator=generator)[:40] for layer in LAYERS
    ]
    numbers = [int(entries.numbers(one.neuron)[one.position or 0]) for one in listed]
    every = torch.cat([torch.tensor(numbers), *drawn])
    inputs = run.stream.layer_input[:, at]
    bases = inputs[:-1] + (run.stream.attention_output[:, at] if kind is NeuronKind.FFN else 0)

    def log_p(points: Tensor) -> Tensor:
        points = families.frozen(model, inputs[-1], points)
        parts = [families.own_logits(model, some).log_softmax(-1)[:, run.target_id] for some in points.split(32)]
        return torch.cat(parts)

    scores = log_p(bases[entries.layer(every)] + entries.contributions(every)) - log_p(bases)[entries.layer(every)]
    given = torch.tensor([one.score for one in listed]).double()
    torch.testing.assert_close(given, scores[: len(numbers)], atol=5e-5, rtol=1e-3)
    better = {number for number, score in zip(every.tolist(), scores.tolist(), strict=True) if score > given[-1] + 5e-5}
    assert better <= set(numbers)
