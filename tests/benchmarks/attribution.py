"""The analysis against exhaustive scoring of the same neurons in the same run: ``python -m
tests.benchmarks.attribution``.

Exhaustive scoring is written here plainly but fairly: batched products of torch and log-softmax, no Python loop over
neurons.
"""

import argparse
import resource
import statistics
import time

import torch
from torch import Tensor

from app.attribution import Analysis, analyse, load
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
    rows, constant = model.unembedding.folded, model.unembedding.constant()

    def log_probabilities(points: Tensor) -> Tensor:
        logits = (points / scale) @ rows.T
        return (logits if constant is None else logits + constant).log_softmax(-1)[:, target]

    before = log_probabilities(base[None])
    return torch.cat([log_probabilities(base + part) - before for part in contributions.split(256)])


LENGTHS = (5, 32, 128, 512)
BATCH_PROMPTS = (
    "The capital of France is",
    "The opposite of hot is",
    "Water is made of hydrogen and",
    "The largest planet in the solar system is",
    "Roses are red, violets are",
    "The Eiffel Tower is in the city of",
    "She plays the violin and the",
    "The author of Romeo and Juliet is William",
)


def complete(model: LanguageModel, prompt: str, top: int, max_tokens: int = 512) -> Analysis:
    """Layers, heads, the top k of both kinds, query neurons and layers; nothing from a catalogue."""
    return analyse(model, prompt, top=top, max_tokens=max_tokens)


def median_seconds(model: LanguageModel, prompt: str, top: int, runs: int) -> tuple[float, float]:
    """Median seconds of a complete analysis, and of its forward pass."""
    complete(model, prompt, top)
    found = [complete(model, prompt, top).seconds for _ in range(runs)]
    return statistics.median(one.total for one in found), statistics.median(one.forward for one in found)


def by_length(model: LanguageModel, top: int, runs: int) -> None:
    """Seconds and peak extra memory at growing prompt lengths, each in a process of its own."""
    text = " the quick brown fox jumps over a lazy dog while it rains in the old town" * 64
    every = model.tokenizer(text)["input_ids"]
    for length in LENGTHS:
        prompt = model.tokenizer.decode(every[:length])
        tokens = len(model.tokenizer(prompt)["input_ids"])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        total, forward = median_seconds(model, prompt, top, runs)
        extra = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        print(f"{tokens:5} tokens  {total:7.3f} s   {total / forward:4.1f} forward passes   peak +{extra:,.0f} MB")


def batch_rate(model: LanguageModel, top: int) -> None:
    """Complete analyses a second over short prompts, once the first has prepared what all share."""
    complete(model, BATCH_PROMPTS[0], top)
    started = time.perf_counter()
    for prompt in BATCH_PROMPTS:
        complete(model, prompt, top)
    rate = len(BATCH_PROMPTS) / (time.perf_counter() - started)
    print(f"batch         {rate:8.2f} complete analyses a second ({len(BATCH_PROMPTS)} prompts of 5 to 10 tokens)")


def against_exhaustive(model: LanguageModel, prompt: str, top: int, runs: int) -> None:
    """The complete analysis against exhaustive scoring of the value neurons alone, and the largest deviation."""
    ours, forward = median_seconds(model, prompt, top, runs)
    analysis = complete(model, prompt, top)
    started = time.perf_counter()
    with torch.inference_mode():
        ffn, attention = exhaustive(model, prompt, analysis.target.token.id)
    plain = time.perf_counter() - started
    print(f"analysis      {ours:8.3f} s  median of {runs}; {ours / forward:.1f} forward passes ({forward:.3f} s)")
    print(f"exhaustive    {plain:8.3f} s  {plain / ours:.0f} times as long")
    for name, every, found in (
        ("FFN", ffn, analysis.ffn_value_neurons),
        ("attention", attention, analysis.attention_value_neurons),
    ):
        best = every.topk(len(found)).values
        deviation = (best - torch.tensor([one.score for one in found])).abs().max().item()
        print(f"{name:10} largest deviation from the exhaustive top {len(found)}: {deviation:.1e} nats")


def main() -> None:
    """Measure, compare and print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--model", default="demo")
    arguments.add_argument("--prompt", default=PROMPT)
    arguments.add_argument("--top", type=int, default=300)
    arguments.add_argument("--runs", type=int, default=9)
    arguments.add_argument("--only", choices=["exhaustive", "length", "batch"])
    options = arguments.parse_args()
    model = load(options.model)
    print(f"{model.name}, “{options.prompt}”, top {options.top} of both kinds, {torch.get_num_threads()} threads")
    if options.only in (None, "exhaustive"):
        against_exhaustive(model, options.prompt, options.top, options.runs)
    if options.only in (None, "batch"):
        batch_rate(model, options.top)
    if options.only in (None, "length"):
        by_length(model, options.top, max(3, options.runs // 3))


if __name__ == "__main__":
    main()
