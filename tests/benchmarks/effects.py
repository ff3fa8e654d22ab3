"""Measured effects: how quick they are against one hooked run for each, and which score foretells them best: ``python
-m tests.benchmarks.effects``.
"""

import argparse
import statistics
import time
from collections import Counter
from dataclasses import replace
from itertools import islice

import torch
from torch import Tensor

from app.attribution import Settings, load, run_prompt
from app.attribution.ablation import Effects
from app.attribution.analysis import catalogue_for
from app.attribution.prompt import Method
from app.attribution.run import PromptRun, Ranges, StoredRanges
from db.neuron import NeuronKind
from indexer.language_model import LanguageModel
from tests.benchmarks.answers import kept
from tests.benchmarks.attribution import BATCH_PROMPTS

TOP = 300
SAMPLE = 24
"""Neurons that are zeroed the plain way, to know what all would take."""
LONG = "Once upon a time there was an old king who lived in a castle on a hill above the sea, and every morning he"


def plain_effect(run: PromptRun, number: int) -> float:
    """One whole pass with a hook that zeroes an FFN neuron at the last position."""
    layer, index = divmod(number, run.ffn.per_layer)
    names = run.model.architecture
    module = run.model.module.get_submodule(f"{names.layers}.{layer}.{names.ffn_output}")

    def zero(_module: torch.nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        changed = args[0].clone()
        changed[0, -1, index] = 0
        return (changed,)

    handle = module.register_forward_pre_hook(zero)
    try:
        with torch.inference_mode():
            logits = run.model.module(run.stream.token_ids[None], use_cache=False, logits_to_keep=1).logits[0, -1]
    finally:
        handle.remove()
    return float(run.log_probabilities[run.target_id] - logits.log_softmax(-1)[run.target_id])


def seconds_of_lists(model: LanguageModel, prompt: str, runs: int) -> None:
    """The 600 neurons that the lists of a prompt hold."""
    run = run_prompt(model, prompt, Settings())
    listed = [one for kind in NeuronKind for one in run.raising(kind, TOP)[0]]
    passes, found = [], []
    for _ in range(runs):
        started = time.perf_counter()
        model.forward(list(run.token_ids))
        passes.append(time.perf_counter() - started)
        started = time.perf_counter()
        Effects.of(run).neurons(listed)
        found.append(time.perf_counter() - started)
    once, took = statistics.median(passes), statistics.median(found)
    print(f"{len(run.token_ids):4} tokens: {len(listed)} neurons in {took:.2f} s, {took / once:.1f} forward passes")


def every_neuron(run: PromptRun) -> Tensor:
    """All FFN neurons, and what a sample of them takes the plain way."""
    count = run.ffn.activations.numel()
    started = time.perf_counter()
    effects = Effects.of(run).entries(NeuronKind.FFN, torch.arange(count))
    took = time.perf_counter() - started
    sample = torch.linspace(0, count - 1, SAMPLE).long()
    started = time.perf_counter()
    plain = torch.tensor([plain_effect(run, number) for number in sample.tolist()])
    alone = (time.perf_counter() - started) / SAMPLE
    off = (effects[sample] - plain).abs().max().item()
    print(
        f"“{run.prompt}”: all {count:,} FFN neurons in {took:.0f} s, {alone * count / took:.0f} times faster than one "
        f"hooked run each; off by {off:.1e} nats at most"
    )
    return effects


def rank_correlation(one: Tensor, other: Tensor) -> float:
    """Spearman's, of two rows of numbers."""
    ranks = torch.stack([row.argsort().argsort().double() for row in (one, other)])
    return float(torch.corrcoef(ranks)[0, 1])


def scored_by(run: PromptRun, method: Method) -> PromptRun:
    """The run with another method's scores."""
    return replace(run, settings=replace(run.settings, method=method))


def scores_of(run: PromptRun, numbers: Tensor) -> Tensor:
    """Scores of FFN neurons by number, nats."""
    with torch.inference_mode():
        return torch.cat(
            [
                run.scores(run.ffn.contributions(some), [NeuronKind.FFN], [run.ffn.layer(some)])
                for some in numbers.split(4096)
            ]
        )


def candidates(run: PromptRun, ranges: Ranges | None) -> dict[Method, tuple[list[int], list[int]]]:
    """The first neurons at both ends of each method's list, by number."""
    found = {}
    for method in Method:
        scored = scored_by(run, method)
        ends = (scored.raising(NeuronKind.FFN, TOP, None, ranges)[0], scored.lowering(NeuronKind.FFN, TOP, ranges)[0])
        best, worst = ([run.ffn.numbers(one.neuron)[0] for one in end] for end in ends)
        found[method] = (best, worst)
    return found


def foretold_first(run: PromptRun, chosen: dict[Method, tuple[list[int], list[int]]]) -> dict[str, float]:
    """How well each score foretells the effects of the first neurons of its own list, and how often their sign."""
    found, effects = {}, Effects.of(run)
    for method, (best, _) in chosen.items():
        numbers = torch.tensor(best)
        measured = effects.entries(NeuronKind.FFN, numbers)
        found[f"{method}: its first {TOP}"] = rank_correlation(scores_of(scored_by(run, method), numbers), measured)
        found[f"{method}: share of these that helped"] = float((measured > 0).double().mean())
    return found


def foretold_all(
    run: PromptRun, effects: Tensor, chosen: dict[Method, tuple[list[int], list[int]]]
) -> dict[str, float]:
    """How well each score foretells the effects of all FFN neurons, and how many of the largest the candidates hold."""
    every = torch.arange(len(effects))
    found = {
        f"{method}: all FFN neurons": rank_correlation(scores_of(scored_by(run, method), every), effects)
        for method in Method
    }
    largest = set(effects.abs().topk(10).indices.tolist())
    for method, ends in chosen.items():
        found[f"ten largest effects among the {TOP} at both ends by {method}"] = (
            len({*ends[0], *ends[1]} & largest) / 10
        )
    union = {number for ends in chosen.values() for end in ends for number in end}
    found["ten largest effects among the union of these"] = len(union & largest) / 10
    return found


def summary(rows: list[dict[str, float]]) -> None:
    """Mean and 95 % interval of each figure."""
    for name in rows[0] if rows else ():
        values = [row[name] for row in rows]
        spread = f" ± {1.96 * statistics.stdev(values) / len(values) ** 0.5:.3f}" if len(values) > 1 else ""
        print(f"{name:70} {statistics.mean(values):6.3f}{spread}", flush=True)


def compared_with_exact(model: LanguageModel, prompts: int, exhaustive: int) -> None:
    """Scores against measured effects on prompts of six answer types: the first of each list on all `prompts`, all FFN
    neurons on the first `exhaustive`.
    """
    catalogue = catalogue_for(None, model)
    ranges = None if catalogue is None else StoredRanges(catalogue)
    first, whole, kinds = [], [], Counter[str]()
    for number, (kind, run) in enumerate(islice(kept(model, Settings()), prompts)):
        chosen = candidates(run, ranges)
        first.append(foretold_first(run, chosen))
        if number < exhaustive:
            whole.append(foretold_all(run, every_neuron(run), chosen))
        kinds[kind] += 1
    print(f"{len(first)} prompts: {dict(kinds)}")
    summary(first)
    print(f"all FFN neurons measured on {len(whole)} of them:")
    summary(whole)


def main() -> None:
    """Measure, compare and print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--model", default="demo")
    arguments.add_argument("--prompts", type=int, default=6, help="prompts whose listed neurons are measured")
    arguments.add_argument("--exhaustive", type=int, default=1, help="of these, prompts whose FFN neurons all are")
    options = arguments.parse_args()
    model = load(options.model)
    print(f"{model.name}, {torch.get_num_threads()} threads")
    for prompt in (BATCH_PROMPTS[0], LONG):
        seconds_of_lists(model, prompt, 3)
    compared_with_exact(model, options.prompts, options.exhaustive)


if __name__ == "__main__":
    main()
