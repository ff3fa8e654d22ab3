"""The analysis against exhaustive scoring of the same neurons in the same run: ``python -m
tests.benchmarks.attribution``.

Exhaustive scoring is written here plainly but fairly: batched products and log-softmax, no Python loop over neurons.
"""

import argparse
import statistics
import time

import torch
from torch import Tensor

from app.attribution.analysis import analyse, load
from indexer.language_model import LanguageModel

PROMPT = "The capital of France is"


def exhaustive(model: LanguageModel, prompt: str, target: int) -> tuple[Tensor, Tensor]:
    """Every FFN neuron's and every attention entry's log-probability increase: [L*n] and [L*H*T*D]."""
    stream = model.forward(model.tokenizer(prompt)["input_ids"])
    unembedding, weights = model.unembedding, model.weights
    scale = float(unembedding.scale(stream.layer_input[-1, -1]))
    ffn, attention = [], []
    for layer in range(model.dimensions.layers):
        base = stream.layer_input[layer, -1]
        activation = stream.attention_activation(layer)  # [H, T, D]
        values = weights.attention_values(layer).unflatten(0, (activation.shape[0], activation.shape[2]))
        rows = (activation[..., None] * values[:, None]).flatten(0, 2)
        attention.append(_scores(rows, base, target, scale, model))
        base = base + stream.attention_output[layer, -1]
        rows = stream.ffn_activation[layer, -1][:, None] * weights.ffn_values(layer)
        ffn.append(_scores(rows, base, target, scale, model))
    return torch.cat(ffn), torch.cat(attention)


def _scores(contributions: Tensor, base: Tensor, target: int, scale: float, model: LanguageModel) -> Tensor:
    before = model.unembedding.logits(base, scale).log_softmax(-1)[target]
    parts = [
        model.unembedding.logits(base + part, scale).log_softmax(-1)[:, target] - before
        for part in contributions.split(256)
    ]
    return torch.cat(parts)


def main() -> None:
    """Measure, compare and print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--model", default="demo")
    arguments.add_argument("--prompt", default=PROMPT)
    arguments.add_argument("--top", type=int, default=300)
    arguments.add_argument("--runs", type=int, default=9)
    options = arguments.parse_args()
    model = load(options.model)
    analysis = analyse(model, options.prompt, top=options.top)
    analyses = [analyse(model, options.prompt, top=options.top).seconds for _ in range(options.runs)]
    ours, forward = (statistics.median(getattr(one, part) for one in analyses) for part in ("total", "forward"))
    started = time.perf_counter()
    with torch.inference_mode():
        ffn, attention = exhaustive(model, options.prompt, analysis.target.token.id)
    plain = time.perf_counter() - started

    print(f"{model.name}, “{options.prompt}”, top {options.top} of both kinds, {torch.get_num_threads()} threads")
    print(
        f"analysis      {ours:8.3f} s  median of {options.runs}; {ours / forward:.1f} forward passes ({forward:.3f} s)"
    )
    print(f"exhaustive    {plain:8.3f} s  {plain / ours:.0f} times as long")
    for name, every, found in (
        ("FFN", ffn, analysis.ffn_value_neurons),
        ("attention", attention, analysis.attention_value_neurons),
    ):
        best = every.topk(len(found)).values
        deviation = (best - torch.tensor([one.score for one in found])).abs().max().item()
        print(f"{name:10} largest deviation from the exhaustive top {len(found)}: {deviation:.1e} nats")


if __name__ == "__main__":
    main()
