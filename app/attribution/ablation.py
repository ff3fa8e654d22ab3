"""The model with parts of it zeroed: what a prompt does without a head, a neuron or a whole sub-layer.

A part is zeroed at every position: a neuron's activation, all of a head's, or everything that a sub-layer adds to the
residual stream, its output bias included. Hooks do it on the live model, under its lock, and are always removed; no
weight is changed.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from app.attribution.run import PromptRun
from app.attribution.search import AttentionEntries
from db.neuron import Neuron, NeuronKind, Part, Strongest, Wanted, check_exists
from indexer.families import Dimensions
from indexer.language_model import LanguageModel
from indexer.weights import Weights

SubLayer = tuple[int, NeuronKind | None]


@dataclass(frozen=True, eq=False)
class Zeroing:
    """Parts as what is done to the modules.

    Attributes:
        masks: by sub-layer, [n] or [a]; true at the neurons that are zeroed, in the order of the value vectors.
        whole: sub-layers of which nothing is left, the output bias included.
    """

    masks: dict[SubLayer, Bool[Tensor, " neurons"]]
    whole: frozenset[SubLayer]

    @classmethod
    def of(cls, size: Dimensions, parts: Sequence[Part]) -> "Zeroing":
        """The parts of a model of this size.

        Raises:
            AtlasError: it has no such part.
        """
        masks: dict[SubLayer, Tensor] = {}
        for part in parts:
            check_exists(part, size)
            count = size.ffn_width if part.kind is NeuronKind.FFN else size.attention_width
            mask = masks.setdefault((part.layer, part.kind), torch.zeros(count, dtype=torch.bool))
            mask[_neurons(size, part)] = True
        whole = ((part.layer, part.kind) for part in parts if part.head is None and part.index is None)
        return cls(masks, frozenset(whole))


def _neurons(size: Dimensions, part: Part) -> slice:
    """Which neurons of its sub-layer a part is made of."""
    if part.kind is NeuronKind.FFN or part.head is None:
        return slice(None) if part.index is None else slice(part.index, part.index + 1)
    first = part.head * size.head_dim
    return (
        slice(first, first + size.head_dim) if part.index is None else slice(first + part.index, first + part.index + 1)
    )


@contextmanager
def zeroed(model: LanguageModel, parts: Sequence[Part]) -> Iterator[Zeroing]:
    """While inside, the model runs without the parts, for this thread alone: the model's lock is held.

    Raises:
        AtlasError: the model has no such part.
    """
    what = Zeroing.of(model.dimensions, parts)
    handles: list[Any] = []
    with model.lock:
        try:
            for sub_layer, mask in what.masks.items():
                module = model.module.get_submodule(f"{model.architecture.layers}.{_output(model, sub_layer)}")
                handles.append(
                    module.register_forward_pre_hook(_silence(mask.to(next(model.module.parameters()).device)))
                )
                if sub_layer in what.whole:
                    handles.append(module.register_forward_hook(_nothing))
            yield what
        finally:
            for handle in handles:
                handle.remove()


def _output(model: LanguageModel, sub_layer: SubLayer) -> str:
    layer, kind = sub_layer
    names = model.architecture
    return f"{layer}.{names.ffn_output if kind is NeuronKind.FFN else names.attention_output}"


def _silence(mask: Bool[Tensor, " neurons"]) -> Callable[..., Any]:
    def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return args[0].masked_fill(mask, 0.0), *args[1:]

    return hook


def _nothing(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
    return torch.zeros_like(output)


@dataclass(frozen=True, eq=False)
class _ZeroedEntries(AttentionEntries):
    """Attention entries, with an activation of 0 where a neuron is zeroed: what the stream keeps are values by
    key-value head, which zeroed and other heads may share.

    Attributes:
        kept: [L, a]; 0 at zeroed neurons, else 1.
    """

    kept: Float[Tensor, "L a"]

    def activation(self, entries: Int[Tensor, " m"]) -> Float[Tensor, " m"]:
        layer, head, _, index = torch.unravel_index(entries, self.shape)
        return super().activation(entries) * self.kept[layer, head * self.shape[3] + index]


@dataclass(frozen=True, eq=False)
class ZeroedRun(PromptRun):
    """A run without some parts. Made by `without`; its model is the same one, seen with their value vectors zero.

    Attributes:
        parts: what is zeroed.
        zeroing: the same, as masks.
    """

    parts: tuple[Part, ...] = ()
    zeroing: Zeroing = field(default_factory=lambda: Zeroing({}, frozenset()))

    def output_gradients(self) -> tuple[Float[Tensor, "L d"], Float[Tensor, "L d"]]:
        with zeroed(self.model, self.parts):
            return super().output_gradients()

    @cached_property
    def attention(self) -> AttentionEntries:
        size = self.model.dimensions
        kept = torch.ones(size.layers, size.attention_width, device=self.stream.value.device)
        for (layer, kind), mask in self.zeroing.masks.items():
            if kind is NeuronKind.ATTENTION:
                kept[layer] = (~mask).to(kept)
        return _ZeroedEntries(self.model.weights, self.stream, kept)


def without(run: PromptRun, parts: Sequence[Part]) -> PromptRun:
    """The same prompt, position and target on the model without the parts; without any, the run itself.

    Raises:
        AtlasError: the model has no such part.
    """
    if not parts:
        return run
    model = run.model
    with zeroed(model, parts) as zeroing:
        stream = model.forward(run.stream.token_ids.tolist())
    seen = replace(model, weights=_zeroed_weights(model, zeroing))
    kept = {one.name: getattr(run, one.name) for one in fields(PromptRun)}
    return ZeroedRun(**kept | {"model": seen, "stream": stream}, parts=tuple(parts), zeroing=zeroing)


def _zeroed_weights(model: LanguageModel, zeroing: Zeroing) -> Weights:
    """The weights with the value vectors of the zeroed neurons zero, and with the biases of whole sub-layers zero."""
    masks: dict[str, Tensor] = {}
    for sub_layer, mask in zeroing.masks.items():
        name = f"{model.architecture.layers}.{_output(model, sub_layer)}"
        masks[f"{name}.weight"] = mask[:, None] if model.architecture.conv1d else mask
        if sub_layer in zeroing.whole:
            masks[f"{name}.bias"] = torch.ones(model.dimensions.d_model, dtype=torch.bool)

    def read(name: str) -> Tensor | None:
        found, mask = model.weights.read(name), masks.get(name)
        return found if found is None or mask is None else found.masked_fill(mask.to(found.device), 0.0)

    return replace(model.weights, read=read)


def resolve(run: PromptRun, wanted: Sequence[Wanted]) -> tuple[Part, ...]:
    """The parts that are meant, on this run: the strongest neurons by name. Each once."""
    parts: list[Part] = []
    for one in wanted:
        parts += [Part.of(neuron) for neuron in _strongest(run, one)] if isinstance(one, Strongest) else [one]
    return tuple(dict.fromkeys(parts))


def _strongest(run: PromptRun, wanted: Strongest) -> list[Neuron]:
    entries = run.entries(wanted.kind).per_layer * run.model.dimensions.layers
    count = wanted.count
    while True:  # an attention neuron may be listed at several source positions
        found = list(dict.fromkeys(one.neuron for one in run.raising(wanted.kind, count)[0]))
        if len(found) >= wanted.count or count >= entries:
            return found[: wanted.count]
        count *= 2


def part_scores(run: PromptRun, parts: Sequence[Part]) -> list[float]:
    """Log-probability increase of each part on a run, nats: of all that it adds at the analysed position.

    That of a sub-layer and of a head is the layer's and the head's score; an attention neuron's contributions from all
    source positions count together here, since they are zeroed together.
    """
    scores = [0.0] * len(parts)
    for kind in NeuronKind:
        places = [place for place, part in enumerate(parts) if part.kind is kind]
        if places:
            contributions = torch.stack([_contribution(run, parts[place]) for place in places])
            layers = torch.tensor([parts[place].layer for place in places])
            for place, score in zip(places, run.scores(contributions, [kind], [layers]).tolist(), strict=True):
                scores[place] = score
    return scores


def _contribution(run: PromptRun, part: Part) -> Float[Tensor, " d"]:
    stream, weights, layer = run.stream, run.model.weights, part.layer
    check_exists(part, run.model.dimensions)
    if part.head is None and part.index is None:
        outputs = stream.ffn_output if part.kind is NeuronKind.FFN else stream.attention_output
        return outputs[layer, stream.position]
    here = _neurons(run.model.dimensions, part)
    if part.kind is NeuronKind.FFN:
        return stream.ffn_activation[layer, stream.position, here] @ weights.ffn_values(layer)[here]
    mixed = stream.attention_activation(layer).sum(dim=1).flatten()  # [H x D]
    return mixed[here] @ weights.attention_values(layer)[here]
