"""The model without parts of it, or with more or less of them: a head, a neuron or a whole sub-layer.

Zeroed or scaled is a part at every position: a neuron's activation, all of a head's, or everything that a sub-layer
adds to the residual stream, its output bias included; a neuron can also be clamped to an activation. A part's effect is
measured at the analysed position only: what the target's log-probability loses when the part's contribution is taken
out there and the later layers are run again. Hooks do all this on the live model, under its lock, and are always
removed; no weight is changed.

Legend: L = layers, H = heads, N = parts measured, d = d_model, n = FFN neurons of a layer.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from app.attribution.measured import Means
from app.attribution.prompt import position_of
from app.attribution.results import SublayerScores, ValueNeuron
from app.attribution.run import PromptRun
from app.attribution.score import array, log_sum_exp, rows_for
from app.attribution.search import AttentionEntries, FfnEntries
from db.errors import AtlasError
from db.neuron import Intervention, Neuron, NeuronKind, Part, Strongest, Wanted, check_exists
from indexer.architecture import Dimensions
from indexer.forward import CleanKeys, Hooks, JoiningRows, adding, fitting, from_single_tokens, hooked
from indexer.language_model import LanguageModel
from indexer.weights import Weights

SubLayer = tuple[int, NeuronKind | None]


@dataclass(frozen=True, eq=False)
class Changes:
    """Interventions as what is done to the modules.

    Factors of one neuron multiply; a value stands whatever its factors.

    Attributes:
        factors: by sub-layer, [n] or [a], in the order of the value vectors: of the neurons' activations.
        values: by sub-layer, likewise: what activations are set to; NaN where they are not.
        biases: factor of the output bias of sub-layers that are changed as a whole.
    """

    factors: dict[SubLayer, Float[Tensor, " neurons"]] = field(default_factory=dict)
    values: dict[SubLayer, Float[Tensor, " neurons"]] = field(default_factory=dict)
    biases: dict[SubLayer, float] = field(default_factory=dict)

    @classmethod
    def of(cls, size: Dimensions, interventions: Sequence[Intervention]) -> "Changes":
        """What is done to a model of this size; the strongest neurons must be known by name (`resolved`).

        Raises:
            AtlasError: it has no such part.
        """
        found = cls()
        for one in interventions:
            part = one.part
            assert isinstance(part, Part)
            check_exists(part, size)
            place, here = (part.layer, part.kind), _neurons(size, part)
            count = size.ffn_neurons(part.layer) if part.kind is NeuronKind.FFN else size.attention_width
            if one.clamped:
                found.values.setdefault(place, torch.full((count,), torch.nan))[here] = one.amount
                continue
            found.factors.setdefault(place, torch.ones(count))[here] *= one.amount
            if part.whole:
                found.biases[place] = found.biases.get(place, 1.0) * one.amount
        return found

    def zeroed(self, place: SubLayer) -> Bool[Tensor, " neurons"]:
        """Which neurons of a sub-layer with factors are left out."""
        return self.factors[place] == 0


def _neurons(size: Dimensions, part: Part) -> slice:
    """Which neurons of its sub-layer a part is made of."""
    if part.whole:
        return slice(None)
    if part.neuron is not None:
        return slice(row := part.neuron.row(size), row + 1)
    if part.expert is not None and size.experts is not None:
        return slice(first := size.experts.first(part.expert), first + size.experts.width)
    return slice(first := (part.head or 0) * size.head_dim, first + size.head_dim)


@contextmanager
def changed(model: LanguageModel, changes: Changes) -> Iterator[None]:
    """While inside, the model runs with the changes, for this thread alone: the model's lock is held.

    Raises:
        AtlasError: activations are set to values that this family does not have as such.
    """
    if changes.values:
        _require_free_activations(model, "An activation cannot be set here; multiply it")
    with model.lock, hooked() as add:
        for place in {**changes.factors, **changes.values}:
            bias = torch.tensor(changes.biases.get(place, 1.0))
            _change(model, place, (changes.factors.get(place), changes.values.get(place), bias), add)
        yield


@contextmanager
def zeroed(model: LanguageModel, parts: Sequence[Part]) -> Iterator[Changes]:
    """`changed`, without the parts.

    Raises:
        AtlasError: the model has no such part.
    """
    changes = Changes.of(model.dimensions, [Intervention(part) for part in parts])
    with changed(model, changes):
        yield changes


def why_fixed(model: LanguageModel) -> str:
    """Why activations cannot be replaced; empty where they can."""
    if not model.architecture.has_post_norms:
        return ""
    return (
        f"In models of the family “{model.family}” a norm stands behind attention and FFN, and what it divides by "
        "depends on the activation."
    )


def how_measured(model: LanguageModel) -> tuple[str, ...]:
    """What a reader of effects must know of the model: why those of one neuron may differ from each other."""
    if not model.architecture.has_post_norms:
        return ()
    return (
        "Behind attention and FFN stands a norm here. Effects of single neurons and heads in the lists leave what it "
        "divides by as it was. Those of parts that are named, or taken out together or everywhere, do not, and differ.",
    )


def _require_free_activations(model: LanguageModel, advice: str) -> None:
    if why := why_fixed(model):
        raise AtlasError(f"{advice}. {why}")


def _written(model: LanguageModel, sub_layer: SubLayer) -> nn.Module:
    """The sub-layer's last module, behind a norm of its output."""
    row = model.architecture
    part = row.ffn_writes if sub_layer[1] is NeuronKind.FFN else row.attention_writes
    return model.module.get_submodule(f"{row.layers}.{sub_layer[0]}.{part}")


def _inputs(model: LanguageModel, sub_layer: SubLayer) -> list[tuple[str, slice]]:
    """The modules that are given its neurons' activations, by their names, and which neurons' each is given."""
    (layer, kind), row = sub_layer, model.architecture
    attention = [(row.attention_output, slice(None))]
    parts = row.ffn_inputs(model.dimensions, layer) if kind is NeuronKind.FFN else attention
    return [(f"{row.layers}.{layer}.{part}", neurons) for part, neurons in parts]


def _change(model: LanguageModel, place: SubLayer, to: tuple[Tensor | None, Tensor | None, Tensor], add: Hooks) -> None:
    """Multiply a sub-layer's activations, set them, and multiply its output bias."""
    layer, row, mixture = place[0], model.architecture, model.architecture.mixture
    (factor, value, bias), gate, device = to, list[Tensor](), next(model.module.parameters()).device
    gated = mixture.shared_gate if mixture is not None and model.dimensions.has_experts(layer) else None
    if gated and value is not None:  # an activation of the shared expert is what its gate leaves of it
        block = model.module.get_submodule(f"{row.layers}.{layer}")
        of_gate = block.get_submodule(gated)

        def keep(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            gate[:] = [of_gate(args[0].flatten(0, -2)).sigmoid()]

        add.ahead(block.get_submodule(row.ffn), keep)
    for name, here in _inputs(model, place):
        module = model.module.get_submodule(name)
        some = [None if held is None else held[..., here].to(device) for held in (factor, value)]
        own = gate if here.start == 0 and not isinstance(module, nn.Identity) else []
        add.ahead(module, _multiplying(some[0], some[1], own))
        if mixture is not None and name.endswith(f".{mixture.active}"):
            module = model.module.get_submodule(name.removesuffix(mixture.active) + mixture.biases)
        add.after(module, _with_bias(bias.to(device)))


def _multiplying(factor: Tensor | None, value: Tensor | None, gate: Sequence[Tensor] = ()) -> Callable[..., Any]:
    """A hook before a module; `gate` holds, once it runs, what its input is multiplied by later."""

    def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        activation = args[0] if factor is None else args[0] * fitting(factor, args[0])
        if value is not None:
            set_to = fitting(value, activation)
            set_to = set_to / gate[0] if gate else set_to
            activation = torch.where(set_to.isnan(), activation, set_to)
        return activation, *args[1:]

    return hook


def _with_bias(factor: Float[Tensor, "..."]) -> Callable[..., Tensor]:
    """A hook that multiplies a module's bias; a module that does nothing is given biases alone."""

    def hook(module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        bias = output if isinstance(module, nn.Identity) else getattr(module, "bias", None)
        return output if bias is None else output + fitting(factor - 1, output) * bias.float()

    return hook


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
        changes: the same, as what is done to the modules.
    """

    parts: tuple[Part, ...] = ()
    changes: Changes = field(default_factory=Changes)

    def output_gradients(self) -> tuple[Float[Tensor, "L d"], Float[Tensor, "L d"]]:
        with changed(self.model, self.changes):
            return super().output_gradients()

    @cached_property
    def attention(self) -> AttentionEntries:
        size = self.model.dimensions
        kept = torch.ones(size.layers, size.attention_width, device=self.stream.value.device)
        for layer, kind in self.changes.factors:
            if kind is NeuronKind.ATTENTION:
                kept[layer] = (~self.changes.zeroed((layer, kind))).to(kept)
        return _ZeroedEntries(self.model.weights, self.stream, kept)


def without(run: PromptRun, parts: Sequence[Part]) -> PromptRun:
    """The same prompt, position and target on the model without the parts; without any, the run itself.

    Raises:
        AtlasError: the model has no such part.
    """
    if not parts:
        return run
    model = run.model
    with zeroed(model, parts) as changes:
        stream = model.forward(run.stream.token_ids.tolist())
    seen = replace(model, weights=_zeroed_weights(model, changes))
    kept = {one.name: getattr(run, one.name) for one in fields(PromptRun)}
    return ZeroedRun(**kept | {"model": seen, "stream": stream}, parts=tuple(parts), changes=changes)


def _zeroed_weights(model: LanguageModel, changes: Changes) -> Weights:
    """The weights with the value vectors of the zeroed neurons zero, and with the biases of whole sub-layers zero."""
    masks: dict[str, Tensor] = {}
    mixture, experts = model.architecture.mixture, model.dimensions.experts
    for place in changes.factors:
        for name, here in _inputs(model, place):
            mask = changes.zeroed(place)[here]
            if mixture is not None and experts is not None and name.endswith(f".{mixture.active}"):
                name = f"{name.removesuffix(mixture.active)}{mixture.module}.down_proj"
                wide = mask.view(experts.count, 1, experts.width)
                masks[name], bias = wide.transpose(1, 2) if mixture.transposed else wide, f"{name}_bias"
            else:
                masks[f"{name}.weight"] = mask[:, None] if model.architecture.conv1d else mask
                bias = f"{name}.bias"
            if place in changes.biases:
                masks[bias] = torch.ones(model.dimensions.d_model, dtype=torch.bool)

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


def resolved(run: PromptRun, interventions: Sequence[Intervention]) -> tuple[Intervention, ...]:
    """The same with the strongest neurons by name."""
    return tuple(replace(one, part=part) for one in interventions for part in resolve(run, [one.part]))


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
    source positions count together, since they are zeroed together, unless the part names one.
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


def _contribution(run: PromptRun, part: Part, means: Means | None = None) -> Float[Tensor, " d"]:
    """All that a part adds; with means, how far that is from what it adds where it is active as on average."""
    stream, weights, layer = run.stream, run.model.weights, part.layer
    check_exists(part, run.model.dimensions)
    if means is not None and part.position is not None:
        raise AtlasError("What was taken from one source position has no mean. Name the head or neuron without @.")
    if part.whole and means is None:  # else the bias, which is the same in every prompt, stays
        outputs = stream.ffn_output if part.kind is NeuronKind.FFN else stream.attention_output
        return outputs[layer, stream.position]
    here = _neurons(run.model.dimensions, part)
    if part.kind is NeuronKind.FFN:
        rows = torch.arange(run.model.dimensions.ffn_neurons(layer))[here]
        active = stream.ffn_activation[layer, stream.position, rows]
        return (active if means is None else active - means.ffn[layer, rows]) @ weights.ffn_values(layer, rows)
    active = stream.attention_activation(layer)  # [H, T, D]
    if part.position is None:
        active = active.sum(dim=1)
    else:
        active = active[:, position_of(part.position, active.shape[1], "source position")]
    active = active.flatten() if means is None else active.flatten() - means.attention[layer]
    return active[here] @ weights.attention_values(layer)[here]


# Effects. A score says what a contribution does to the logits directly; a measured effect includes whatever later
# layers make of it (README, Method). Positions before the analysed one cannot change, so their keys and values are
# those of the clean run, and only one token is run again, from the part's layer on: a batch of parts is a batch of
# tokens, each of which enters the model where its part stood.

TOLERANCE = 1e-3
"""Nats by which the unchanged token may end elsewhere than in the clean run; float32 rounds by some 1e-5."""


@dataclass(frozen=True, eq=False)
class Effects:
    """Measures parts of one run. Make one with `Effects.of`; all effects are at the analysed position, in nats.

    Attributes:
        run: the prompt.
        earlier: keys and values of the positions before.
        report: told before each batch how many of a kind were measured; what it raises ends the measuring.
        minus: a distractor w′: then effects are on log p(w) - log p(w′) instead of log p(w).
        means: what parts are replaced by; None replaces them by nothing.
    """

    run: PromptRun
    earlier: CleanKeys
    report: Callable[[str], None] = lambda _stage: None
    minus: int | None = None
    means: Means | None = None

    @classmethod
    def of(
        cls, run: PromptRun, report: Callable[[str], None] = lambda _stage: None, *, means: Means | None = None
    ) -> "Effects":
        """Run the earlier positions once.

        Raises:
            AtlasError: there are means, and this family has no activations that could be replaced by them.
        """
        if means is not None:
            _require_free_activations(run.model, "Means cannot replace activations here; take parts out without them")
        earlier, ids = CleanKeys(), run.stream.token_ids[:-1]
        with _as_run(run) as module, torch.inference_mode():
            if len(ids):
                device = next(module.parameters()).device
                module(ids[None].to(device), past_key_values=earlier, use_cache=True, logits_to_keep=1)
        earlier.filled = True
        return cls(run, earlier, report, means=means)

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
        done = 0
        for some in order.tensor_split(-(-len(order) // rows)) if len(order) else ():
            self.report(f"Measuring without each: {done:,} of {len(order):,} parts of {kind} …")
            done += len(some)
            yield some, self._batch(kind, layers[some], contributions(some))

    def _batch(
        self, kind: NeuronKind, layers: Int[Tensor, " m"], contributions: Float[Tensor, "m d"]
    ) -> Float[Tensor, " m"]:
        """Effects of parts in the order of their layers. Row 0 of every batch is the unchanged token."""
        run, stream = self.run, self.run.stream
        here, names = stream.position, run.model.architecture
        rows = JoiningRows(kind, stream.layer_input[:, here], layers, contributions)
        with _as_run(run) as module, hooked() as add, torch.inference_mode():
            for layer in sorted(set(layers.tolist())):
                if kind is NeuronKind.ATTENTION:
                    block = module.get_submodule(f"{names.layers}.{layer}")
                    add.ahead(block, rows.joining(layer, layer), with_kwargs=True)
                    multiplier = run.model.dimensions.residual_multiplier
                    add.after(block.get_submodule(names.attention_writes), rows.taking_out(layer, multiplier))
                else:
                    last = layer + 1 == run.model.dimensions.layers
                    after = names.final_norm if last else f"{names.layers}.{layer + 1}"
                    add.ahead(module.get_submodule(after), rows.joining(layer, layer + 1), with_kwargs=True)
            token = stream.token_ids[None, here:].to(contributions.device)
            return self._lost(module, token.expand(1 + len(layers), 1) if names.whole_batch else token)

    def _lost(self, module: nn.Module, tokens: Int[Tensor, "rows 1"]) -> Float[Tensor, " m"]:
        """What the answer lost in every row but the first, which must be as in the clean run; nats."""
        run, clean = self.run, self.run.log_probabilities
        with from_single_tokens(module):
            every = module(tokens, past_key_values=self.earlier, use_cache=True, logits_to_keep=1).logits[:, -1].float()
        if self.minus is None:
            answer, expected = every[:, run.target_id] - log_sum_exp(every), clean[run.target_id]
        else:
            answer = every[:, run.target_id] - every[:, self.minus]
            expected = clean[run.target_id] - clean[self.minus]
        if not abs(answer[0] - expected) <= TOLERANCE:
            raise AtlasError(
                f"Effects cannot be measured on {run.model.name}: run again from its keys and values, the unchanged "
                f"prompt gives the target {float(answer[0]):.4f} nats, not {float(expected):.4f}."
            )
        found: Tensor = answer[0] - answer[1:]
        return found

    def entries(self, kind: NeuronKind, numbers: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        """Effects of neurons (attention: at one source position) by their numbers in `PromptRun.entries`, nats.

        Raises:
            AtlasError: attention neurons are to be replaced by means, which they have not at one source position.
        """
        entries, found = self.run.entries(kind), torch.empty(len(numbers))
        if self.means is not None:
            if kind is NeuronKind.ATTENTION:
                raise AtlasError(
                    "An attention neuron has no mean at one source position: those of different prompts have nothing "
                    "in common. Replace its head, or the neuron at all positions (L29.H1.N46)."
                )
            entries = FfnEntries(self.run.model.weights, self.run.ffn.activations - self.means.ffn)
        batches = self.measure(kind, entries.layer(numbers), lambda some: entries.contributions(numbers[some]))
        for some, effects in batches:
            found[some] = effects.cpu()
        return found

    def neurons(self, neurons: Sequence[ValueNeuron]) -> list[float]:
        """Effect of each neuron at the analysed position, of an attention neuron what it took from its source; nats."""
        found = [0.0] * len(neurons)
        for kind in NeuronKind:
            places, numbers = self._numbers(kind, neurons)
            if places:
                for place, effect in zip(places, self.entries(kind, numbers).tolist(), strict=True):
                    found[place] = effect
        return found

    def _numbers(self, kind: NeuronKind, neurons: Sequence[ValueNeuron]) -> tuple[list[int], Int[Tensor, " n"]]:
        """Which of the neurons are of the kind, and these ones' numbers in `PromptRun.entries`."""
        places = [place for place, one in enumerate(neurons) if one.neuron.kind is kind]
        every = [self.run.entries(kind).numbers(neurons[place].neuron) for place in places]
        numbers = [one[neurons[place].position or 0] for one, place in zip(every, places, strict=True)]
        return places, torch.tensor(numbers, dtype=torch.long)

    def listed(self, neurons: Sequence[ValueNeuron]) -> tuple[list[float], Float[np.ndarray, "L H"], SublayerScores]:
        """`neurons`, `heads` and `sublayers` in one: passes of few rows take nearly as long as one of many."""
        stream, effects, sublayers = self.run.stream, [0.0] * len(neurons), dict[str, Any]()
        every, by_head = torch.arange(len(stream.ffn_output)), self.run.head_contributions
        ffn = NeuronKind.FFN, stream.ffn_output, by_head[:, :0]
        for kind, output, heads in (ffn, (NeuronKind.ATTENTION, stream.attention_output, by_head)):
            places, numbers = self._numbers(kind, neurons)
            entries = self.run.entries(kind)
            parts = output[:, stream.position], heads.flatten(0, 1), entries.contributions(numbers)
            layers = torch.cat([every, every.repeat_interleave(heads.shape[1]), entries.layer(numbers)])
            contributions = torch.cat(parts)
            found = contributions.new_empty(len(contributions))
            for some, lost in self.measure(kind, layers, contributions.__getitem__):
                found[some] = lost
            whole, of_heads, own = found.split([len(one) for one in parts])
            sublayers[kind.value] = array(whole)
            for place, effect in zip(places, own.tolist(), strict=True):
                effects[place] = effect
        return effects, array(of_heads.view(by_head.shape[:2])), SublayerScores(**sublayers)

    def parts(self, parts: Sequence[Part]) -> list[float]:
        """Effect of all that each part adds at the analysed position, of an attention neuron from every source position
        together, nats; the measured counterpart of `part_scores`.
        """
        found = [0.0] * len(parts)
        for kind in NeuronKind:
            places = [place for place, part in enumerate(parts) if part.kind is kind]
            if places:
                contributions = torch.stack([_contribution(self.run, parts[place], self.means) for place in places])
                layers = torch.tensor([parts[place].layer for place in places])
                for some, effects in self.measure(kind, layers, contributions.__getitem__):
                    for number, effect in zip(some.tolist(), effects.tolist(), strict=True):
                        found[places[number]] = effect
        return found

    def heads(self) -> Float[np.ndarray, "L H"]:
        """Effect of every head at the analysed position, nats."""
        size = self.run.model.dimensions
        parts = [Part(layer, NeuronKind.ATTENTION, head) for layer, head in np.ndindex(size.layers, size.heads)]
        return np.array(self.parts(parts)).reshape(size.layers, size.heads)

    def sublayers(self) -> SublayerScores:
        """Effect of every sub-layer's whole output at the analysed position, nats."""
        kinds, layers = (NeuronKind.ATTENTION, NeuronKind.FFN), range(self.run.model.dimensions.layers)
        return SublayerScores(*(np.array(self.parts([Part(layer, kind) for layer in layers])) for kind in kinds))

    def together(self, sets: Sequence[Sequence[Part]]) -> list[float]:
        """Effect of each set of parts, all of a set at once; nats. One token for each set, through all layers.

        A neuron, head or sub-layer is zeroed (or replaced by its mean) as the model stands without the others. What an
        attention neuron or a head took from one source position is taken out as it was in the clean run.

        Raises:
            AtlasError: the model has no such part, or it has no mean.
        """
        stream, size = self.run.stream, self.run.model.dimensions
        rows = rows_for(self.run.settings.memory_mb, size.vocabulary)
        found: list[float] = []
        for start in range(0, len(sets), rows):
            some = sets[start : start + rows]
            with _as_run(self.run) as module, hooked() as add, torch.inference_mode():
                for place, (factors, values, biases, taken) in self._taking_out(some).items():
                    _change(self.run.model, place, (factors, values, biases), add)
                    add.after(_written(self.run.model, place), adding(-taken))
                tokens = stream.token_ids[stream.position :].expand(1 + len(some), 1)
                found += self._lost(module, tokens.to(stream.value.device)).tolist()
        return found

    def _taking_out(
        self, sets: Sequence[Sequence[Part]]
    ) -> dict[SubLayer, tuple[Tensor, Tensor | None, Tensor, Tensor]]:
        """By sub-layer, what row n + 1 of its output matrix's input is multiplied by and what it is set to, what its
        bias is multiplied by, and what is taken from the sub-layer's output, so that it is without what set n holds.
        """
        size, means = self.run.model.dimensions, self.means
        whats = [Changes.of(size, [Intervention(one) for one in parts if one.position is None]) for parts in sets]
        found: dict[SubLayer, tuple[Tensor, Tensor | None, Tensor, Tensor]] = {}
        for place in {(one.layer, one.kind): None for parts in sets for one in parts}:
            layer, kind = place
            left = self.run.changes.biases.get(place, 1.0) if isinstance(self.run, ZeroedRun) else 1.0
            ones = torch.ones(size.ffn_neurons(layer) if kind is NeuronKind.FFN else size.attention_width)
            factors = torch.stack([ones, *(what.factors.get(place, ones) for what in whats)])[:, None]
            factors = factors.to(self.run.stream.value.device)
            biases, taken = torch.ones_like(factors[..., :1]), factors.new_zeros(len(factors), 1, size.d_model)
            for row, (parts, what) in enumerate(zip(sets, whats, strict=True), 1):
                if means is None:  # a bias is the same in every prompt, so of a mean it is part
                    biases[row] = 1 + (what.biases.get(place, 1.0) - 1) * left
                for part in parts:
                    if part.position is not None and (part.layer, part.kind) == place:
                        taken[row] += _contribution(self.run, part, means) / size.residual_multiplier
            values = None
            if means is not None:
                mean = means.ffn if kind is NeuronKind.FFN else means.attention
                values = torch.where(factors == 0, mean[layer, : len(ones)], torch.nan)
            found[place] = factors, values, biases, taken
        return found


@contextmanager
def _as_run(run: PromptRun) -> Iterator[nn.Module]:
    """The run's model, locked, with the same parts zeroed as in the run."""
    with run.model.lock, changed(run.model, run.changes) if isinstance(run, ZeroedRun) else nullcontext():
        yield run.model.module
