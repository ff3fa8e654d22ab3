"""What was measured: log p(w) - log p(w | the model run with a part taken out at the analysed position), in nats.

A score says what a contribution does to the logits directly; a measured effect includes whatever later layers make of
it (README, Method, Measured). Positions before the analysed one cannot change, so their keys and values are those of
the clean run, and only one token is run again, from the part's layer on: a batch of parts is a batch of tokens, each of
which enters the model where its part stood. Hooks do it on the live model, under its lock, and are always removed.

Legend: L = layers, H = heads, N = parts measured, d = d_model, n = FFN neurons of a layer.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import DynamicCache

from app.attribution.ablation import ZeroedRun, without, zeroed
from app.attribution.prompt import Method
from app.attribution.results import Effective, Measured, SublayerScores, ValueNeuron
from app.attribution.run import PromptRun, Ranges
from app.attribution.score import array, rows_for
from db.errors import AtlasError
from db.neuron import NeuronKind, Part

TOLERANCE = 1e-3
"""Nats by which the unchanged token may end elsewhere than in the clean run; float32 rounds by some 1e-5."""


class CleanKeys(DynamicCache):  # type: ignore[misc]  # transformers has no types
    """Keys and values of the earlier positions: filled once, then joined with those of any number of single tokens."""

    filled = False

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """[B, KV, 1, D] of a batch of tokens -> [B, KV, T, D], and nothing is kept of them."""
        if not self.filled:
            found: tuple[Tensor, Tensor] = super().update(key_states, value_states, layer_idx, *args, **kwargs)
            return found
        if layer_idx >= len(self.layers):  # the prompt is one token long
            return key_states, value_states
        layer, batch = self.layers[layer_idx], key_states.shape[0]
        keys, values = (kept.expand(batch, -1, -1, -1) for kept in (layer.keys, layer.values))
        return torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)


@dataclass(frozen=True, eq=False)
class Effects:
    """Measures parts of one run. Make one with `Effects.of`; all effects are at the analysed position, in nats.

    Attributes:
        run: the prompt.
        earlier: keys and values of the positions before.
    """

    run: PromptRun
    earlier: CleanKeys

    @classmethod
    def of(cls, run: PromptRun) -> "Effects":
        """Run the earlier positions once."""
        earlier, ids = CleanKeys(), run.stream.token_ids[:-1]
        with _as_run(run) as module, torch.inference_mode():
            if len(ids):
                device = next(module.parameters()).device
                module(ids[None].to(device), past_key_values=earlier, use_cache=True, logits_to_keep=1)
        earlier.filled = True
        return cls(run, earlier)

    def measure(
        self, kind: NeuronKind, layers: Int[Tensor, " N"], contributions: Callable[[Tensor], Float[Tensor, "m d"]]
    ) -> Iterator[tuple[Int[Tensor, " m"], Float[Tensor, " m"]]]:
        """Batch by batch: numbers of parts, and their effects in nats; positive where the part helped the target.

        Args:
            kind: of the sub-layer whose output the parts are taken from.
            layers: of each part.
            contributions: what the parts of some numbers add to the residual stream.

        Raises:
            AtlasError: the clean token does not end as in the clean run, so no figure would mean anything.
        """
        order = layers.argsort(stable=True)
        size, tokens = self.run.model.dimensions, len(self.run.token_ids)
        # A row has its own copy of a layer's keys and values, once as they are and once for every head.
        attended = (size.kv_heads + size.heads) * size.head_dim * tokens // 2
        rows = rows_for(self.run.settings.memory_mb, max(size.vocabulary, attended))
        for some in order.split(rows):
            yield some, self._batch(kind, layers[some], contributions(some))

    def _batch(
        self, kind: NeuronKind, layers: Int[Tensor, " m"], contributions: Float[Tensor, "m d"]
    ) -> Float[Tensor, " m"]:
        """Effects of parts in the order of their layers. Row 0 of every batch is the unchanged token."""
        run, stream = self.run, self.run.stream
        here, rows = stream.position, _Rows(kind, stream.layer_input[:, stream.position], layers, contributions)
        names = run.model.architecture
        with _as_run(run) as module, _hooks() as add, torch.inference_mode():
            for layer in sorted(set(layers.tolist())):
                if kind is NeuronKind.ATTENTION:
                    block = module.get_submodule(f"{names.layers}.{layer}")
                    add(block.register_forward_pre_hook(rows.joining(layer, layer), with_kwargs=True))
                    add(block.get_submodule(names.attention_output).register_forward_hook(rows.taking_out(layer)))
                else:
                    last = layer + 1 == run.model.dimensions.layers
                    after = names.final_norm if last else f"{names.layers}.{layer + 1}"
                    hook = rows.joining(layer, layer + 1)
                    add(module.get_submodule(after).register_forward_pre_hook(hook, with_kwargs=True))
            token = stream.token_ids[None, here:].to(contributions.device)
            logits = module(token, past_key_values=self.earlier, use_cache=True, logits_to_keep=1).logits[:, -1]
            log_target = logits[:, run.target_id].float() - logits.float().logsumexp(dim=-1)
        clean = run.log_probabilities[run.target_id]
        if not abs(log_target[0] - clean) <= TOLERANCE:
            raise AtlasError(
                f"Effects cannot be measured on {run.model.name}: run again from its keys and values, the unchanged "
                f"prompt gives the target {float(log_target[0]):.4f} nats, not {float(clean):.4f}."
            )
        found: Tensor = log_target[0] - log_target[1:]
        return found

    def entries(self, kind: NeuronKind, numbers: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        """Effects of neurons (attention: at one source position) by their numbers in `PromptRun.entries`, nats."""
        entries, found = self.run.entries(kind), torch.empty(len(numbers))
        batches = self.measure(kind, entries.layer(numbers), lambda some: entries.contributions(numbers[some]))
        for some, effects in batches:
            found[some] = effects.cpu()
        return found

    def neurons(self, neurons: Sequence[ValueNeuron]) -> list[float]:
        """Effect of each neuron at the analysed position, of an attention neuron what it took from its source position;
        nats.
        """
        found = [0.0] * len(neurons)
        for kind in NeuronKind:
            places = [place for place, one in enumerate(neurons) if one.neuron.kind is kind]
            if places:
                every = [self.run.entries(kind).numbers(neurons[place].neuron) for place in places]
                numbers = [one[neurons[place].position or 0] for one, place in zip(every, places, strict=True)]
                for place, effect in zip(places, self.entries(kind, torch.tensor(numbers)).tolist(), strict=True):
                    found[place] = effect
        return found

    def heads(self) -> Float[np.ndarray, "L H"]:
        """Effect of every head at the analysed position, nats."""
        contributions = self.run.head_contributions
        layers, heads, _ = contributions.shape
        return array(self._all(NeuronKind.ATTENTION, contributions.flatten(0, 1), heads).view(layers, heads))

    def sublayers(self) -> SublayerScores:
        """Effect of every sub-layer's whole output at the analysed position, nats."""
        stream, here = self.run.stream, self.run.stream.position
        return SublayerScores(
            array(self._all(NeuronKind.ATTENTION, stream.attention_output[:, here], 1)),
            array(self._all(NeuronKind.FFN, stream.ffn_output[:, here], 1)),
        )

    def _all(self, kind: NeuronKind, contributions: Float[Tensor, "N d"], per_layer: int) -> Float[Tensor, " N"]:
        found = contributions.new_empty(len(contributions))
        layers = torch.arange(len(contributions), device=contributions.device) // per_layer
        for some, effects in self.measure(kind, layers, lambda some: contributions[some]):
            found[some] = effects
        return found


@dataclass(frozen=True, eq=False)
class _Rows:
    """A batch that grows from layer to layer: the rows of a layer's parts join where it has written.

    Attributes:
        kind: of the sub-layers.
        clean: [L+1, d]; the residual stream at the analysed position.
        layers: ascending.
        contributions: what is taken out.
    """

    kind: NeuronKind
    clean: Float[Tensor, "L1 d"]
    layers: Int[Tensor, " m"]
    contributions: Float[Tensor, "m d"]

    def joining(self, layer: int, entered: int) -> Callable[..., Any]:
        """A hook before a module: adds the rows of the layer's parts, as the stream stands at layer `entered`'s input:
        without what an FFN's part added, or still with what attention will be robbed of.
        """
        taken = self.contributions[self.layers == layer]
        joined = self.clean[entered].expand_as(taken)
        if self.kind is NeuronKind.FFN:
            joined = joined - taken

        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            hidden = args[0] if args else kwargs["hidden_states"]
            grown = torch.cat([hidden, joined[:, None]])
            return ((grown, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": grown})

        return hook

    def taking_out(self, layer: int) -> Callable[..., Tensor]:
        """A hook after attention's output matrix: subtracts the parts from the rows that joined last."""
        taken = self.contributions[self.layers == layer]

        def hook(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
            return torch.cat([output[: -len(taken)], output[-len(taken) :] - taken[:, None]])

        return hook


@contextmanager
def _as_run(run: PromptRun) -> Iterator[nn.Module]:
    """The run's model, locked, with the same parts zeroed as in the run."""
    with run.model.lock, zeroed(run.model, run.parts) if isinstance(run, ZeroedRun) else nullcontext():
        yield run.model.module


@contextmanager
def _hooks() -> Iterator[Callable[[Any], None]]:
    """Remembers handles of hooks, and removes them whatever happens inside."""
    handles: list[Any] = []
    try:
        yield handles.append
    finally:
        for handle in handles:
            handle.remove()


ALL = "all"
"""Asks for every FFN neuron to be measured."""


def most_effective(run: PromptRun, count: int | str, ranges: Ranges | None = None) -> Measured:
    """The neurons of each kind and sign that were measured to do most, and what was measured to find them.

    Args:
        run: the prompt.
        count: how many candidates to take from each end of each score, and to list at most of each kind and sign; or
            `ALL`, for every FFN neuron, and as many attention candidates and rows as the settings' top.
        ranges: what a catalogue knows of the neurons' extreme logits.
    """
    effects, found = Effects.of(run), {}
    listed = run.settings.top if isinstance(count, str) else count
    with torch.inference_mode():
        for kind in NeuronKind:
            entries = run.entries(kind)
            total = entries.per_layer * run.model.dimensions.layers
            every = count == ALL and kind is NeuronKind.FFN
            numbers = torch.arange(total) if every else _candidates(run, kind, listed, ranges)
            measured = effects.entries(kind, numbers)
            for sign, name in ((1, "helping"), (-1, "hindering")):
                best = (sign * measured).topk(min(listed, len(numbers))).indices
                neurons = _named(run, kind, numbers[best], measured[best], sign)
                found[f"{kind}_{name}"] = Effective(neurons, len(numbers), total)
    return Measured("all FFN neurons" if count == ALL else "candidates", found)


def _candidates(run: PromptRun, kind: NeuronKind, count: int, ranges: Ranges | None) -> Int[Tensor, " m"]:
    """Numbers of the neurons at either end of any score."""
    numbers: set[int] = set()
    for method in Method:
        scored = replace(run, settings=replace(run.settings, method=method))
        for one in (*scored.raising(kind, count, None, ranges)[0], *scored.lowering(kind, count, ranges)[0]):
            numbers.add(run.entries(kind).numbers(one.neuron)[one.position or 0])
    return torch.tensor(sorted(numbers), dtype=torch.long)


def _named(
    run: PromptRun, kind: NeuronKind, numbers: Int[Tensor, " m"], effects: Float[Tensor, " m"], sign: int
) -> tuple[ValueNeuron, ...]:
    """Those whose effect has the sign, with their scores by the run's method."""
    entries = run.entries(kind)
    scores = run.scores(entries.contributions(numbers), [kind], [entries.layer(numbers)]).tolist()
    rows = zip(numbers.tolist(), scores, entries.activation(numbers).tolist(), effects.tolist(), strict=True)
    return tuple(
        ValueNeuron(*entries.name(number), score, activation, effect)
        for number, score, activation, effect in rows
        if sign * effect > 0
    )


def effects_everywhere(run: PromptRun, parts: Sequence[Part]) -> list[float]:
    """Effect of each part zeroed at every position, its activations and of a sub-layer its bias too; one pass each."""
    before = float(run.log_probabilities[run.target_id])
    return [before - float(without(run, [part]).log_probabilities[run.target_id]) for part in parts]
