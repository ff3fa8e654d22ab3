"""What is asked of measured effects: which neurons do most, what the strongest do together, and all FFN neurons, as a
job that can stop and go on. Opens without torch, as whatever reads results must.

Nothing here is a score or a proof: every figure is the model's own, run again without the parts
(:mod:`app.attribution.ablation`). All are nats of the target's log-probability, positive where the parts helped it.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from app.attribution.form import described
from app.attribution.prompt import Method
from app.attribution.results import Analysis, Together, ValueNeuron
from db.errors import AtlasError
from db.files import atomic_write
from db.lazy import lazy_import
from db.neuron import Neuron, NeuronKind, Part
from db.settings import cache_folder

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from app.attribution import ablation, score, search
    from app.attribution.ablation import Effects
    from app.attribution.run import PromptRun, Ranges
    from indexer import device
else:
    torch, device = lazy_import("torch"), lazy_import("indexer.device")
    ablation, score = lazy_import("app.attribution.ablation"), lazy_import("app.attribution.score")
    search = lazy_import("app.attribution.search")

ALL = "all"
"""Asks for every FFN neuron to be measured."""


@dataclass(frozen=True)
class Effective:
    """Neurons of one kind and sign by their effect, the largest first, of those that were measured.

    Attributes:
        neurons: each with its score too.
        measured: how many were.
        total: how many there are; where more than measured, others may do more.
        chosen: in words, which were measured; empty in what older versions wrote.
    """

    neurons: tuple[ValueNeuron, ...]
    measured: int
    total: int
    chosen: str = ""


@dataclass(frozen=True)
class Measured:
    """The neurons whose removal at the analysed position was measured to change the target's log-probability most.

    Attributes:
        tried: "candidates", the strongest by any score (see `Method`); or "all FFN neurons", and candidates of
            attention.
        found: by kind and sign: "ffn_helping", "attention_hindering", …
    """

    tried: str
    found: dict[str, Effective] = field(metadata=described(inline=True))


# What parts may be replaced by, instead of nothing.


@dataclass(frozen=True, eq=False)
class Means:
    """How active neurons are at the analysed position, on average over prompts. Make them with `Means.over`.

    Attributes:
        ffn: [L, n].
        attention: [L, a]; summed over source positions, since those of different prompts have nothing in common.
        prompts: how many.
    """

    ffn: "Float[Tensor, 'L n']"
    attention: "Float[Tensor, 'L a']"
    prompts: int

    @classmethod
    def over(cls, runs: "Iterable[PromptRun]") -> "Means":
        """The means of some runs of one model, each let go of before the next.

        Raises:
            AtlasError: there are none.
        """
        sums: "list[Tensor]" = []
        count = 0
        for run in runs:
            found = [run.ffn.activations, mixed(run)]
            sums = [one + other for one, other in zip(sums, found, strict=True)] if sums else found
            count += 1
        if not count:
            raise AtlasError("There are no prompts to take means over. Give a file with at least one.")
        return cls(sums[0] / count, sums[1] / count, count)


def mixed(run: "PromptRun") -> "Float[Tensor, 'L a']":
    """What attention's output matrices were given at the analysed position."""
    layers = range(run.model.dimensions.layers)
    return torch.stack([run.stream.attention_activation(layer).sum(dim=1).flatten() for layer in layers])


@dataclass(frozen=True)
class Ablated:
    """What the target loses without some parts, all of them at once; nats.

    Attributes:
        parts: which.
        position: zeroed at the analysed position only.
        everywhere: zeroed at every position; None for what was taken from one source position.
        mean: replaced at the analysed position by their mean over prompts; None where no means were at hand.
        prompts: how many the means were taken over.
    """

    parts: tuple[Part, ...]
    position: float
    everywhere: float | None = None
    mean: float | None = None
    prompts: int | None = None


def effect_everywhere(run: "PromptRun", parts: Sequence[Part]) -> float:
    """What the target's log-probability loses without the parts at every position, not at the analysed one alone; nats.
    One whole pass.

    Raises:
        AtlasError: the model has no such part.
    """
    less = ablation.without(run, (*getattr(run, "parts", ()), *parts))
    return float(run.log_probabilities[run.target_id] - less.log_probabilities[run.target_id])


def ablated(run: "PromptRun", parts: Sequence[Part], means: Means | None = None) -> Ablated:
    """The effect of some parts in every way that is known.

    Raises:
        AtlasError: the model has no such part, or a part that is to be replaced by its mean has none.
    """
    position = ablation.Effects.of(run).together([parts])[0]
    anywhere = all(part.position is None for part in parts)
    everywhere = effect_everywhere(run, parts) if anywhere else None
    if means is None:
        return Ablated(tuple(parts), position, everywhere)
    mean = ablation.Effects.of(run, means=means).together([parts])[0]
    return Ablated(tuple(parts), position, everywhere, mean, means.prompts)


def target_ranks(run: "PromptRun", neurons: Sequence[ValueNeuron]) -> list[int]:
    """The target's place among all tokens by how far each neuron's contribution raises their logits, from 1."""
    unembedding, found = run.model.unembedding, [0] * len(neurons)
    folded, padding = unembedding.folded, unembedding.padding
    rows = score.rows_for(run.settings.memory_mb, len(folded))
    for kind in NeuronKind:
        places = [place for place, one in enumerate(neurons) if one.neuron.kind is kind]
        for start in range(0, len(places), rows):
            some, entries = places[start : start + rows], run.entries(kind)
            numbers = [entries.numbers(neurons[place].neuron)[neurons[place].position or 0] for place in some]
            contributions = entries.contributions(torch.tensor(numbers))
            parts = list(score.in_cache(contributions, unembedding))
            own = next(here for here in parts if run.target_id < here.stop)
            # By the same product as the others: another rounds otherwise, and would rank the target behind itself.
            target = device.product(contributions, folded[own])[:, run.target_id - own.start, None]
            above = torch.zeros_like(target[:, 0], dtype=torch.long)
            for here in parts:
                higher = device.product(contributions, folded[here]) > target
                if padding is not None:
                    higher[:, padding[(padding >= here.start) & (padding < here.stop)] - here.start] = False
                above += higher.count_nonzero(dim=1)
            for place, tokens in zip(some, above.tolist(), strict=True):
                found[place] = 1 + tokens
    return found


# The strongest of a list, taken out together, beside random neurons.

TEN = 10
"""How many of a list are taken out together."""
DRAWS = 5
NEAREST = 20
"""A neuron is replaced in a draw by one of so many of its layer whose activations are nearest in size."""
_SEED = 0


def together(
    effects: "Effects", lists: Mapping[NeuronKind, Sequence[ValueNeuron]], draws: int = DRAWS
) -> dict[NeuronKind, Together]:
    """What the strongest neurons of each list do when all of its strongest are taken out at the analysed position, and
    what as many random neurons of the same layers and about the same activations do. The draws are the same every time.

    Args:
        effects: of the run.
        lists: by kind, each by score. The strongest are those of the largest effect where all (or enough) are measured.
        draws: how many.
    """
    chosen: dict[NeuronKind, tuple[Sequence[ValueNeuron], str]] = {}
    for kind, listed in lists.items():
        known = [one for one in listed if one.effect is not None]
        by_effect = len(known) >= min(TEN, len(listed))
        best = sorted(known, key=lambda one: -(one.effect or 0.0))[:TEN] if by_effect else listed[:TEN]
        chosen[kind] = best, "effect" if by_effect else "score"
    return _against_random(effects, chosen, draws)


def together_of(
    effects: "Effects", neurons: Mapping[NeuronKind, Sequence[Neuron]], draws: int = DRAWS
) -> dict[NeuronKind, Together]:
    """The same of neurons that were chosen elsewhere by their effects, those of attention with all that they took."""

    def active(one: Neuron) -> float:
        entries = effects.run.entries(one.kind)
        return float(entries.activation(torch.tensor(entries.numbers(one))).sum())

    chosen = {kind: [ValueNeuron(one, None, 0.0, active(one)) for one in some] for kind, some in neurons.items()}
    return _against_random(effects, {kind: (some, "effect") for kind, some in chosen.items()}, draws)


def _against_random(
    effects: "Effects", chosen: Mapping[NeuronKind, tuple[Sequence[ValueNeuron], str]], draws: int
) -> dict[NeuronKind, Together]:
    """Of each kind the neurons that were chosen, by what, and random ones; all measured in one pass."""
    found = {kind: Together((), by, 0.0, ()) for kind, (_, by) in chosen.items()}
    sets: dict[NeuronKind, list[list[Part]]] = {}
    for kind, (neurons, _by) in chosen.items():
        if neurons:
            parts = [replace(Part.of(one.neuron), position=one.position) for one in neurons]
            sets[kind] = [parts, *(_like(effects.run, neurons, draw) for draw in range(draws))]
    lost = iter(effects.together([one for some in sets.values() for one in some]))
    for kind, (own, *drawn) in sets.items():
        effect, controls = next(lost), tuple(next(lost) for _ in drawn)
        found[kind] = replace(found[kind], parts=tuple(own), effect=effect, controls=controls)
    return found


def _like(run: "PromptRun", chosen: Sequence[ValueNeuron], draw: int) -> list[Part]:
    """For each neuron another of its layer, drawn from those of the most similar |activation|; no one twice."""
    generator = torch.Generator().manual_seed(_SEED + draw)
    taken = {(one.neuron, one.position) for one in chosen}
    found: list[Part] = []
    for one in chosen:
        active, name_of = _of_layer(run, one)
        apart = (active.abs().cpu() - abs(one.activation)).abs()
        near = apart.topk(min(NEAREST + len(taken), len(apart)), largest=False).indices.tolist()
        free = [name for name in map(name_of, near) if name not in taken][:NEAREST]
        if not free:  # a layer of few neurons
            continue
        neuron, position = free[int(torch.randint(len(free), (1,), generator=generator))]
        taken.add((neuron, position))
        found.append(replace(Part.of(neuron), position=position))
    return found


def _of_layer(run: "PromptRun", one: ValueNeuron) -> "tuple[Tensor, Callable[[int], tuple[Neuron, int | None]]]":
    """How active all neurons of a neuron's layer and kind are, those of attention from one source position each or from
    all together, as it is; and which these are.
    """
    layer, kind = one.neuron.layer, one.neuron.kind
    if kind is NeuronKind.ATTENTION and one.position is None:
        active = run.stream.attention_activation(layer).sum(dim=1).flatten()
        return active, lambda row: (Neuron.in_row(layer, kind, row, run.model.dimensions), None)
    entries = run.entries(kind)
    live = entries.live(layer)
    numbers = layer * entries.per_layer + (torch.arange(entries.per_layer) if live is None else live)
    return entries.activation(numbers), lambda place: entries.name(int(numbers[place]))


# The neurons that do most.


def most_effective(
    run: "PromptRun", count: int | str, ranges: "Ranges | None" = None, folder: Path | None = None
) -> Measured:
    """The neurons of each kind and sign that were measured to do most, and what was measured to find them.

    Args:
        run: the prompt.
        count: how many candidates to take from each end of each score, and to list at most of each kind and sign; or
            `ALL`, for every FFN neuron, and as many attention candidates and rows as the settings' top.
        ranges: what a catalogue knows of the neurons' extreme logits.
        folder: where the measurements of all are kept; see `Sweep`.
    """
    effects = ablation.Effects.of(run)
    found: dict[str, Effective] = {}
    listed = run.settings.top if isinstance(count, str) else count
    with torch.inference_mode():
        for kind in NeuronKind:
            entries = run.entries(kind)
            size = run.model.dimensions
            total = size.all_ffn_neurons if kind is NeuronKind.FFN else entries.per_layer * size.layers
            if count == ALL and kind is NeuronKind.FFN:
                sweep = Sweep.of(run, folder)
                sweep.finish()
                found |= sweep.strongest(listed)
                continue
            numbers = _candidates(run, kind, listed, ranges)
            measured = effects.entries(kind, numbers)
            chosen = f"candidates: the first {listed} at either end by added, removed and gradient"
            for sign, name in ((1, "helping"), (-1, "hindering")):
                best = (sign * measured).topk(min(listed, len(numbers))).indices
                neurons = _named(run, kind, numbers[best], measured[best], sign)
                found[f"{kind}_{name}"] = Effective(neurons, len(numbers), total, chosen)
    return Measured("all FFN neurons" if count == ALL else "candidates", found)


def _candidates(run: "PromptRun", kind: NeuronKind, count: int, ranges: "Ranges | None") -> "Tensor":
    """Numbers of the neurons at either end of any score."""
    numbers: set[int] = set()
    for method in Method:
        scored = replace(run, settings=replace(run.settings, method=method))
        for one in (*scored.raising(kind, count, None, ranges)[0], *scored.lowering(kind, count, ranges)[0]):
            numbers.add(run.entries(kind).numbers(one.neuron)[one.position or 0])
    return torch.tensor(sorted(numbers), dtype=torch.long)


def _named(
    run: "PromptRun", kind: NeuronKind, numbers: "Tensor", effects: "Tensor", sign: int
) -> tuple[ValueNeuron, ...]:
    """Those whose effect has the sign, with their scores by the run's method."""
    entries = run.entries(kind)
    scores = run.scores(entries.contributions(numbers), [kind], [entries.layer(numbers)]).tolist()
    rows = zip(numbers.tolist(), scores, entries.activation(numbers).tolist(), effects.tolist(), strict=True)
    return tuple(
        search.routed(run.stream, ValueNeuron(*entries.name(number), score, activation, effect))
        for number, score, activation, effect in rows
        if sign * effect > 0
    )


# In words: two or three sentences made from the figures of an analysis.

_NAMED = 3


def in_words(
    analysis: Analysis,
    nats: Callable[[float], str] = "{:+.3f}".format,
    percent: Callable[[float], str] = "{:.1%}".format,
    *,
    coming: bool = False,
) -> tuple[str, ...]:
    """What the model says and how sure it is, which head brought what from where, which neurons did most, and what the
    ten strongest hold together. A score is never called more than a score.

    Args:
        analysis: with its contrast, where there is one; with or without measured effects.
        nats: how a score or an effect is written.
        percent: how a probability is.
        coming: what is not measured is being measured.
    """
    found = (
        _says(analysis, percent),
        _head_in_words(analysis, nats),
        _neurons_in_words(analysis, nats, coming),
        _together_in_words(analysis, nats),
    )
    return tuple(filter(None, found))


def _says(analysis: Analysis, percent: Callable[[float], str]) -> str:
    target, predictions = analysis.target, analysis.predictions
    first, shown = predictions[0], f"“{target.token.display}”"
    if target.token.id == first.token.id:
        after = f", then “{predictions[1].token.display}” ({percent(predictions[1].probability)})" * (
            len(predictions) > 1
        )
        said = f"The model says {shown} ({percent(target.probability)}){after}"
    else:
        place = next((place for place, one in enumerate(predictions, 1) if one.token.id == target.token.id), None)
        among = f"no. {place} of its predictions" if place else f"not among its first {len(predictions)} predictions"
        said = f"The model says “{first.token.display}” ({percent(first.probability)}); explained is {shown}, {among} "
        said += f"({percent(target.probability)})"
    contrast = analysis.contrast
    if contrast is not None:
        other = contrast.distractor
        said += f"; it is held against “{other.token.display}” ({percent(other.probability)})"
    return f"{said}."


def _head_in_words(analysis: Analysis, nats: Callable[[float], str]) -> str:
    """The strongest head, as measured where it was, and the source that most of its score is from."""
    source = analysis.contrast or analysis
    figures = source.heads if source.head_effects is None else source.head_effects
    if not figures.size or figures.max() <= 0:
        return ""
    layer, head = (int(one) for one in np.unravel_index(figures.argmax(), figures.shape))
    shares: dict[int, float] = {}
    if analysis.contrast is not None:
        shares = dict(enumerate(analysis.contrast.positions[layer, head].tolist()))
    else:
        for one in analysis.attention_value_neurons:
            if (one.neuron.layer, one.neuron.head) == (layer, head) and one.position is not None:
                shares[one.position] = shares.get(one.position, 0.0) + one.score
    place = max(shares, key=shares.__getitem__, default=None)
    brought = ""
    if place is not None and shares[place] > 0:
        brought = f", most of it from “{analysis.tokens[place].display}” (position {place})"
    label, score = f"L{layer}.H{head}", float(source.heads[layer, head])
    if source.head_effects is None:
        return f"By score, head {label} brought most, {nats(score)} nats{brought}."
    effect = float(figures.max())
    return f"As measured, head {label} did most, {nats(effect)} nats (by score {nats(score)}{brought})."


def _neurons_in_words(analysis: Analysis, nats: Callable[[float], str], coming: bool) -> str:
    contrast = analysis.contrast
    if contrast is None:
        listed = (*analysis.ffn_value_neurons, *analysis.attention_value_neurons)
    else:
        listed = (*contrast.ffn_neurons, *contrast.attention_neurons)
    measured = [one for one in listed if one.effect is not None]

    def named(one: ValueNeuron) -> str:
        label = one.neuron.label if one.position is None else f"{one.neuron.label} from position {one.position}"
        return f"{label} ({nats(one.score if one.effect is None else one.effect)})"

    if not measured:
        best = _and([named(one) for one in sorted(listed, key=lambda one: -one.score)[:_NAMED] if one.score > 0])
        end = f"what they do to the answer is {'being' if coming else 'not'} measured"
        return f"By score, these neurons come first: {best}, in nats; {end}." if best else ""
    helping = [one for one in sorted(measured, key=lambda one: -(one.effect or 0.0))[:_NAMED] if (one.effect or 0) > 0]
    if not helping:
        return f"Of the {len(measured)} listed neurons that were measured none helped the answer."
    did = "did most to write the answer" if contrast is None else "did most for it against the other"
    best = _and([named(one) for one in helping])
    return f"As measured, of {len(measured)} listed neurons {best} {did}."


def _together_in_words(analysis: Analysis, nats: Callable[[float], str]) -> str:
    found = (analysis.contrast or analysis).together
    said = []
    for kind, one in found.items():
        control = f"{nats(float(np.mean(one.controls)))} ± {float(np.std(one.controls)):.3f}" if one.controls else "–"
        strongest = "strongest" if one.by == "effect" else "highest-scored"
        said.append(f"the {len(one.parts)} {strongest} {kind.words} neurons hold {nats(one.effect)} (random {control})")
    if not said:
        return ""
    return f"Together {_and(said)} nats of {'the answer' if analysis.contrast is None else 'the difference'}."


def _and(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1]))) if words else ""


# All FFN neurons: a minute or more, so what is measured is kept, and whoever asks again goes on from there.

CHUNK = 512
"""Neurons measured between two looks at whether to go on; a second or two."""
_MOST_KEPT = 200
_VERSION = 1
"""Raise it where effects are measured otherwise: what was kept before is then not looked at."""


def kept_folder() -> Path:
    """Where commands and servers keep measurements: in the user's cache folder."""
    return cache_folder() / "measured"


@dataclass(eq=False)
class Sweep:
    """The effects of all FFN neurons of a run. Make one with `Sweep.of`.

    Attributes:
        run: the prompt.
        path: the file they are kept in, after every chunk; None keeps nothing.
        effects: in the order of `PromptRun.entries`; nats, NaN where not measured yet.
    """

    run: "PromptRun"
    path: Path | None
    effects: Float[np.ndarray, " N"]

    @classmethod
    def of(cls, run: "PromptRun", folder: Path | None = None) -> "Sweep":
        """With what was measured before of the same checkpoint, tokens, position and target."""
        size = run.model.dimensions
        parts = [part.label for part in getattr(run, "parts", ())]
        own, ids = run.model.checkpoint.identity, run.stream.token_ids.tolist()
        path = None if folder is None else _path(folder, own, ids, run.target_id, parts)
        width = size.ffn_width
        effects = np.full(size.layers * width, np.nan, np.float32)
        for layer in range(size.layers):
            if (live := run.ffn.live(layer)) is not None:  # what is not active has no effect
                effects[layer * width : (layer + 1) * width] = 0.0
                effects[layer * width + live.numpy()] = np.nan
        return cls(run, path, effects if path is None else _kept(path, effects))

    @property
    def done(self) -> int:
        """How many are measured."""
        return len(self.effects) - int(np.isnan(self.effects).sum())

    @cached_property
    def _measure(self) -> "Effects":
        return ablation.Effects.of(self.run)

    def steps(self) -> Iterator[int]:
        """Measure what is left, chunk by chunk; after each, how many are measured. Stopping loses nothing.

        Raises:
            AtlasError: what is measured cannot be kept; nothing is measured then.
        """
        if self.done < len(self.effects):
            self._keep()  # says at once where it cannot
        while self.done < len(self.effects):
            some = np.flatnonzero(np.isnan(self.effects))[:CHUNK]
            with torch.inference_mode():
                self.effects[some] = self._measure.entries(NeuronKind.FFN, torch.from_numpy(some)).numpy()
            self._keep()
            yield self.done

    def finish(self) -> Float[np.ndarray, " N"]:
        """Measure all that is left."""
        for _ in self.steps():
            pass
        return self.effects

    def strongest(self, count: int) -> dict[str, Effective]:
        """The neurons that do most, at most so many of each sign, once all are measured; as in `Measured.found`."""
        found: dict[str, Effective] = {}
        effects = torch.from_numpy(self.effects)
        total = self.run.model.dimensions.all_ffn_neurons
        chosen = f"exhaustive: all {total:,} were measured"
        for sign, name in ((1, "ffn_helping"), (-1, "ffn_hindering")):
            best = (sign * effects).topk(min(count, len(effects))).indices
            best = best[sign * effects[best] > 0]
            neurons = _named(self.run, NeuronKind.FFN, best, effects[best], sign)
            found[name] = Effective(neurons, total, total, chosen)
        return found

    def result(self, count: int = 100) -> Measured:
        """The same as it is stored."""
        return Measured("all FFN neurons", self.strongest(count))

    def _keep(self) -> None:
        """Write down what is known, with what others have written meanwhile."""
        if self.path is None:
            return
        self.effects = _kept(self.path, self.effects)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(self.path) as temporary, temporary.open("wb") as file:
                np.save(file, self.effects, allow_pickle=False)
        except (OSError, AtlasError) as error:
            raise AtlasError(
                f"Measurements cannot be kept in {self.path.parent}. Let XDG_CACHE_HOME name a folder that can be "
                "written to."
            ) from error
        with suppress(OSError):
            newest = sorted(self.path.parent.glob("*.npy"), key=lambda one: -one.stat().st_mtime)
            for one in newest[_MOST_KEPT:]:
                one.unlink(missing_ok=True)


def share_measured(analysis: Analysis, folder: Path) -> float:
    """How much of an analysis' FFN neurons is measured and kept, from 0 to 1."""
    ids = [token.id for token in analysis.tokens[: analysis.position + 1]]
    with suppress(OSError, ValueError, EOFError):
        path = _path(folder, analysis.checkpoint or "", ids, analysis.target.token.id, [])
        return 1 - float(np.isnan(np.load(path, allow_pickle=False)).mean())
    return 0.0


def _path(folder: Path, checkpoint: str, ids: list[int], target: int, parts: list[str]) -> Path:
    """The file of what effects depend on: weights, tokens up to the analysed one, target, and what is zeroed."""
    asked = json.dumps([_VERSION, checkpoint, ids, target, parts])
    return folder / f"{hashlib.sha256(asked.encode()).hexdigest()[:40]}.npy"


def _kept(path: Path, effects: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """The effects, filled up with those of a file; a damaged one counts as none."""
    with suppress(OSError, ValueError, EOFError):
        found = np.load(path, allow_pickle=False)
        if found.shape == effects.shape and found.dtype == effects.dtype:
            return np.where(np.isnan(effects), found, effects)
    return effects
