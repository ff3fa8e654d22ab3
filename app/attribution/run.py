"""One prompt, run once: what every question about it shares, and the questions that are asked one at a time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from app.attribution.fast import memory_needed, rounded_rows
from app.attribution.prompt import Method, PromptToken, Settings, check_question, position_of, read_token, token_of
from app.attribution.query import Readers, query_ffn_scores, query_layers, readers
from app.attribution.results import (
    Certificate,
    Prediction,
    QueryNeuron,
    QueryShares,
    SublayerScores,
    Target,
    ValueNeuron,
)
from app.attribution.score import (
    Bases,
    array,
    base_points,
    bend,
    head_contributions,
    layer_scores,
    log_softmax,
    logit_spans,
    rows_for,
)
from app.attribution.search import (
    AttentionEntries,
    Bounds,
    Entries,
    FfnEntries,
    Ranking,
    Search,
    certified_bottom,
    certified_top,
    routed,
    search_all,
    search_top,
    together,
)
from db.catalogue.builds import CURRENT, build_of, find_catalogue
from db.catalogue.reader import REBUILD
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.neuron import Neuron, NeuronKind, Part, check_exists
from db.records import short_identity
from db.token_text import readable
from indexer.forward import ResidualStream
from indexer.language_model import LanguageModel
from indexer.tokens import TokenBytes

PREDICTIONS = 10

Ranges = Callable[[NeuronKind, int], tuple[Float[Tensor, " neurons"], Float[Tensor, " neurons"]]]
"""(kind, layer) -> highest and lowest logit of each value vector, in neuron order: what a catalogue knows."""


@dataclass(frozen=True, eq=False)
class PromptRun:
    """One forward pass of one prompt, and the bases of its target. Make one with `run_prompt`.

    Attributes:
        model: the model.
        prompt: the text.
        settings: what is asked.
        token_ids: of the whole prompt; `stream` ends at the analysed position.
        stream: the forward pass.
        target_id: w.
        distractor_id: w′, or None.
        notices: how the text and the tokens that were named were read, where that is not plain.
        frozen_scale: another run's scale to use in place of one's own, for comparisons.
    """

    model: LanguageModel
    prompt: str
    settings: Settings
    token_ids: tuple[int, ...]
    stream: ResidualStream
    target_id: int
    distractor_id: int | None = None
    notices: tuple[str, ...] = ()
    frozen_scale: float | None = None

    @cached_property
    def tokens(self) -> tuple[PromptToken, ...]:
        return tuple(token_of(self.model, token_id) for token_id in self.token_ids)

    @cached_property
    def log_probabilities(self) -> Float[Tensor, " V"]:
        """The model's own, at the analysed position, in nats."""
        return log_softmax(self.stream.logits)

    def token_probability(self, token_id: int) -> Target:
        """A token with its probability of coming next."""
        found = self.log_probabilities[token_id]
        return Target(token_of(self.model, token_id), float(found.exp()), float(found))

    def predictions(self, count: int = PREDICTIONS) -> tuple[Prediction, ...]:
        """The most probable next tokens."""
        best = self.log_probabilities.topk(min(count, len(self.log_probabilities)))
        pairs = zip(best.indices.tolist(), best.values.exp().tolist(), strict=True)
        return tuple(Prediction(token_of(self.model, token_id), probability) for token_id, probability in pairs)

    @cached_property
    def scale(self) -> float:
        """The final norm's, frozen at the final hidden state."""
        if self.frozen_scale is not None:
            return self.frozen_scale
        return float(self.model.unembedding.scale(self.stream.layer_input[-1, self.stream.position]))

    @cached_property
    def _all_bases(self) -> Bases:
        """Layer inputs, layer inputs plus attention outputs, and the final hidden state, in one reading of the head."""
        unembedding, settings = self.model.unembedding, self.settings
        points = torch.cat([*base_points(self.stream), self.stream.layer_input[-1:, self.stream.position]])
        rounded = rounded_rows(unembedding, settings.memory_mb) if unembedding.soft_cap is None else None
        megabytes = settings.memory_mb - (0 if rounded is None else memory_needed(unembedding))
        rows = rows_for(megabytes, self.model.dimensions.vocabulary)
        return Bases.at(points, self.target_id, self.scale, unembedding, settings.conventions, rows, rounded)

    @cached_property
    def at_attention(self) -> Bases:
        """Layer inputs, one base a layer."""
        return self._all_bases.part(slice(None, self.model.dimensions.layers))

    @cached_property
    def at_ffn(self) -> Bases:
        """Layer inputs plus attention outputs, one base a layer."""
        return self._all_bases.part(slice(self.model.dimensions.layers, -1))

    def bases(self, kind: NeuronKind) -> Bases:
        return self.at_ffn if kind is NeuronKind.FFN else self.at_attention

    @cached_property
    def ffn(self) -> FfnEntries:
        return FfnEntries.of(self.stream, self.model.weights)

    @cached_property
    def attention(self) -> AttentionEntries:
        return AttentionEntries(self.model.weights, self.stream)

    def entries(self, kind: NeuronKind) -> Entries:
        return self.ffn if kind is NeuronKind.FFN else self.attention

    def scores(
        self, contributions: Float[Tensor, "N d"], kinds: Sequence[NeuronKind], layers: Sequence[Int[Tensor, " n"]]
    ) -> Float[Tensor, " N"]:
        """Scores of contributions to the residual stream by the run's method, nats.

        Args:
            contributions: one group after the other.
            kinds: of each group's sub-layer.
            layers: of each group's contributions.
        """
        count = self.model.dimensions.layers
        pairs = zip(kinds, layers, strict=True)
        points = torch.cat([layer + count * (kind is NeuronKind.FFN) for kind, layer in pairs])
        match self.settings.method:
            case Method.ADDED:
                return self._all_bases.importance(contributions, points)
            case Method.REMOVED:  # log p(w | h) - log p(w | h - c) is minus the increase by -c
                return -self._all_bases.importance(-contributions, torch.full_like(points, 2 * count))
            case Method.GRADIENT:
                return (contributions * self.gradients[points]).sum(dim=1)

    @cached_property
    def gradients(self) -> Float[Tensor, "points d"]:
        """What a contribution's product with is first order in its score: one for attention of each layer, then one for
        each FFN.
        """
        if self.settings.method is Method.GRADIENT:
            return torch.cat(self.output_gradients())
        found = self._all_bases.gradient
        return found[-1:].expand(len(found) - 1, -1) if self.settings.method is Method.REMOVED else found[:-1]

    def output_gradients(self) -> tuple[Float[Tensor, "L d"], Float[Tensor, "L d"]]:
        """Of log p(w), by attention's and by the FFN's output of each layer at the analysed position."""
        return self.model.output_gradients(self.stream.token_ids, self.target_id)

    def gradient(self, kind: NeuronKind, layer: int) -> Float[Tensor, " d"]:
        """g, of log p(w) by what the sub-layer writes, under the run's method."""
        return self.gradients[layer + self.model.dimensions.layers * (kind is NeuronKind.FFN)]

    def between(
        self, slope: Float[Tensor, " n"], width: Float[Tensor, " n"], bend: Float[Tensor, " n"] | float = 0.0
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """Lower and upper bounds of scores, from c · g, range² / 8 and `score.bend`, by concavity and Hoeffding's
        lemma.
        """
        method = self.settings.method
        return (
            slope - bend - width if method is Method.ADDED else slope - bend,
            slope + bend + width if method is Method.REMOVED else slope + bend,
        )

    def _bounds(self, kind: NeuronKind, upper: bool, ranges: Ranges | None) -> tuple[Callable[[int], Tensor], str]:
        """The upper or the lower one of a layer's entries, and what the certificate calls it."""
        entries, method, unembedding = self.entries(kind), self.settings.method, self.model.unembedding
        capped = unembedding.soft_cap is not None

        def slope(layer: int) -> Tensor:
            return entries.dot(layer, self.gradient(kind, layer))

        if method is Method.GRADIENT or not (capped or method is (Method.REMOVED if upper else Method.ADDED)):
            return slope, "linear" if method is Method.GRADIENT else "concavity"
        if isinstance(ranges, StoredRanges):
            require_same_model(self.model, ranges.catalogue)

        def bound(layer: int) -> Tensor:
            live = entries.live(layer)
            some = slice(None) if live is None else live
            ends = None
            if ranges is not None:
                highest, lowest = ranges(kind, layer)
                ends = highest[some], lowest[some]
            spans, reach = logit_spans(entries.values(layer, live), unembedding, ends)
            width = (entries.scaled(layer, spans.to(self.gradients)) / self.scale).square() / 8
            if not capped:
                return self.between(slope(layer), width)[upper]
            largest = entries.scaled(layer, reach.to(self.gradients)) / self.scale
            target = entries.dot(layer, unembedding.folded[self.target_id]) / self.scale
            return self.between(slope(layer), width, bend(target, largest, unembedding))[upper]

        return bound, "norms" if ranges is None else "catalogue"

    def layer_scores(self) -> SublayerScores:
        """Scores of every attention and FFN layer; those of contributions added to their base telescope."""
        if self.settings.method is Method.ADDED:
            final = self._all_bases.log_target[-1]
            return layer_scores(self.at_attention.log_target, self.at_ffn.log_target, final)
        stream = self.stream
        outputs = {NeuronKind.ATTENTION: stream.attention_output, NeuronKind.FFN: stream.ffn_output}
        every = torch.arange(self.model.dimensions.layers)
        return SublayerScores(
            *(array(self.scores(output[:, stream.position], [kind], [every])) for kind, output in outputs.items())
        )

    @property
    def contrast_direction(self) -> Float[Tensor, " d"]:
        """What a share of the difference of logits is the product with: (folded_w - folded_w′) / s.

        Raises:
            AtlasError: the run has no distractor.
        """
        if self.distractor_id is None:
            raise AtlasError("Shares need a distractor: a token that the target is held against.")
        folded = self.model.unembedding.folded
        return (folded[self.target_id] - folded[self.distractor_id]) / self.scale

    @cached_property
    def head_contributions(self) -> Float[Tensor, "L H d"]:
        return head_contributions(self.stream, self.model.weights)

    def head_scores(self) -> Float[Tensor, "L H"]:
        """Score of every head."""
        contributions = self.head_contributions
        layers, heads, _ = contributions.shape
        every = torch.arange(layers).repeat_interleave(heads)
        return self.scores(contributions.flatten(0, 1), [NeuronKind.ATTENTION], [every]).view(layers, heads)

    def raising(
        self, kind: NeuronKind, k: int, part: Part | None = None, ranges: Ranges | None = None
    ) -> tuple[tuple[ValueNeuron, ...], Certificate]:
        """The k value neurons of a kind that raise the target most, of the whole model or of a part.

        Args:
            kind: which neurons.
            k: how many.
            part: where; None is everywhere.
            ranges: what the catalogue knows, for the scores of a removal; None bounds those by norms.

        Raises:
            AtlasError: there is no such part, or it has no neurons of this kind.
        """
        span = self._span(kind, part)
        upper, bound = self._bounds(kind, True, ranges)
        ranking = certified_top(span.bounds(upper), span.exact, k, self.bases(kind).tolerance, bound)
        return span.active(ranking), ranking.certificate

    def heads_and_raising(
        self, k: dict[NeuronKind, int], ranges: Ranges | None = None
    ) -> tuple[Float[Tensor, "L H"], dict[NeuronKind, tuple[tuple[ValueNeuron, ...], Certificate]]]:
        """`head_scores`, and `raising` of each kind: whatever they want scored is scored together, which is quicker."""
        contributions = self.head_contributions
        layers, heads, _ = contributions.shape
        searches: dict[NeuronKind | None, Search] = {None: search_all(layers * heads)}
        for kind, count in k.items():
            upper, bound = self._bounds(kind, True, ranges)
            searches[kind] = search_top(self._span(kind).bounds(upper), count, self._all_bases.tolerance, bound)

        def exact(wanted: dict[NeuronKind | None, Tensor]) -> dict[NeuronKind | None, Tensor]:
            parts, kinds, places = [], [], []
            for kind, chosen in wanted.items():
                entries = None if kind is None else self.entries(kind)
                parts.append(contributions.flatten(0, 1)[chosen] if entries is None else entries.contributions(chosen))
                places.append(chosen // heads if entries is None else entries.layer(chosen))
                kinds.append(kind or NeuronKind.ATTENTION)
            scores = self.scores(torch.cat(parts), kinds, places)
            return dict(zip(wanted, scores.split([len(part) for part in parts]), strict=True))

        rankings = together(searches, exact)
        found = {kind: (self._span(kind).active(rankings[kind]), rankings[kind].certificate) for kind in k}
        return rankings[None].scores.view(layers, heads), found

    def lowering(
        self, kind: NeuronKind, k: int, ranges: Ranges | None, part: Part | None = None
    ) -> tuple[tuple[ValueNeuron, ...], Certificate]:
        """The k value neurons of a kind that lower the target most, of the whole model or of a part.

        Args:
            kind: which neurons.
            k: how many.
            ranges: what the catalogue knows; None bounds by norms, and scores most neurons.
            part: where; None is everywhere.

        Raises:
            AtlasError: there is no such part, it has no neurons of this kind, or the ranges are of another model.
        """
        span, tolerance = self._span(kind, part), self.bases(kind).tolerance
        lower, bound = self._bounds(kind, False, ranges)
        ranking = certified_bottom(span.bounds(lower, upper=False), span.exact, k, bound, tolerance)
        return span.active(ranking), ranking.certificate

    def linear(
        self, kind: NeuronKind, direction: Float[Tensor, " d"], k: int, part: Part | None = None
    ) -> tuple[tuple[ValueNeuron, ...], Certificate]:
        """The k neurons of a kind whose contribution goes furthest along `direction`; exact, since it is linear."""
        span, entries = self._span(kind, part), self.entries(kind)
        bounds = span.bounds(lambda layer: entries.dot(layer, direction))
        found, values = bounds.best(min(k, bounds.total), torch.empty(0, dtype=torch.long))
        kept, total = bounds.listed(values, k), bounds.total + bounds.zeros
        ranking = Ranking(found[:kept], values[:kept], Certificate(total, total, "linear", 0.0))
        return span.active(ranking), ranking.certificate

    def _span(self, kind: NeuronKind, part: Part | None = None) -> "_Span":
        """The entries of a part: they lie side by side in the numbering of :mod:`app.attribution.search`."""
        entries = self.entries(kind)
        if part is None:
            return _Span(entries, self, 0, entries.per_layer * self.model.dimensions.layers, None)
        check_exists(part, self.model.dimensions, self.model.name)
        if part.index is not None:
            raise AtlasError(f"{part.label} is one neuron, and has none within it. Name a layer, sub-layer or head.")
        if kind not in part.kinds:
            raise AtlasError(f"{part.label} has no {kind} neurons.")
        start, size, experts = 0, entries.per_layer, self.model.dimensions.experts
        if part.expert is not None and experts is not None:
            start, size = experts.first(part.expert), experts.width
        if part.head is not None:
            _, _, tokens, width = self.attention.shape
            start, size = part.head * tokens * width, tokens * width
            if part.position is not None:
                position_of(part.position, tokens, "source position")
                start, size = start + part.position * width, width
        return _Span(entries, self, part.layer * entries.per_layer + start, size, part.layer)

    def value_neuron(self, neuron: Neuron, position: int | None = None) -> ValueNeuron:
        """One chosen neuron on this prompt; an attention neuron without a position at the one of its highest score.

        Raises:
            AtlasError: there is no such neuron, or no such position.
        """
        active = self.value_neurons(neuron)
        if neuron.kind is NeuronKind.FFN or position is None:
            return max(active, key=lambda one: one.score)
        return active[position_of(position, len(active))]

    def value_neurons(self, neuron: Neuron) -> tuple[ValueNeuron, ...]:
        """One chosen neuron on this prompt: an FFN neuron once, an attention neuron once a source position, in order.

        Raises:
            AtlasError: there is no such neuron.
        """
        entries = torch.tensor(self.entries(neuron.kind).numbers(neuron))
        every = Certificate(len(entries), len(entries))
        span = self._span(neuron.kind)
        return span.named(Ranking(entries, span.exact(entries), every))

    def readers(self, neurons: tuple[ValueNeuron, ...], key: int = 0) -> Readers:
        """Value neurons of one kind as readers of the residual stream."""
        named = [(one.neuron, one.position, one.score) for one in neurons]
        return readers(self.stream, self.model.weights, named, self.settings.conventions, key)

    def query_neurons(self, read: Readers, k: int) -> tuple[QueryNeuron, ...]:
        """The k FFN neurons that did most to switch the readers on; fewer where fewer in the layers before them did
        anything to it.
        """
        scores, size = query_ffn_scores(self.stream, self.model.weights, read), self.model.dimensions
        possible = scores.flatten().nonzero().flatten()
        best = scores.flatten()[possible].topk(min(k, len(possible)))
        width = scores.shape[1]
        return tuple(
            QueryNeuron(Neuron.in_row(entry // width, NeuronKind.FFN, entry % width, size), score)
            for entry, score in zip(possible[best.indices].tolist(), best.values.tolist(), strict=True)
        )

    def query_layers(self, read: Readers) -> QueryShares:
        """The sub-layers that switched the readers on."""
        return query_layers(self.stream, read)


@dataclass(frozen=True, eq=False)
class _Span:
    """Entries of one kind that follow one another, as a search numbers them.

    Attributes:
        entries: of the kind.
        run: that they are scored on.
        first: number of the first entry among all of the kind.
        size: how many.
        layer: the layer that they are of; None for all layers.
    """

    entries: Entries
    run: PromptRun
    first: int
    size: int
    layer: int | None

    def bounds(self, of_layer: Callable[[int], Tensor], *, upper: bool = True) -> Bounds:
        """The bounds of these entries, given those of a layer's: the upper ones, or the lower ones."""
        size, width = self.run.model.dimensions, self.entries.per_layer
        here = slice(start := self.first % width, start + min(self.size, width))
        layers = range(size.layers)[slice(self.layer, None if self.layer is None else self.layer + 1)]
        return Bounds.among(self.entries, of_layer, layers, here, size, upper=upper)

    def exact(self, chosen: Int[Tensor, " m"]) -> Float[Tensor, " m"]:
        """Scores, on the CPU."""
        numbers = chosen + self.first
        entries = self.entries
        return self.run.scores(entries.contributions(numbers), [entries.kind], [entries.layer(numbers)]).cpu()

    def named(self, ranking: Ranking) -> tuple[ValueNeuron, ...]:
        """What was found, by name."""
        numbers = ranking.entries + self.first
        activations = self.entries.activation(numbers).tolist()
        triples = zip(numbers.tolist(), ranking.scores.tolist(), activations, strict=True)
        found = (ValueNeuron(*self.entries.name(number), score, active) for number, score, active in triples)
        return tuple(routed(self.run.stream, one) for one in found)

    def active(self, ranking: Ranking) -> tuple[ValueNeuron, ...]:
        """The same without what did nothing: a position outside a layer's window, a neuron that was silent or zeroed. A
        list that is longer than what was active would else be filled up with them.
        """
        return tuple(one for one in self.named(ranking) if one.activation)


def run_prompt(model: LanguageModel, prompt: str, settings: Settings) -> PromptRun:
    """Check and run; raises as `check_question` does."""
    question = check_question(model, prompt, settings)
    stream = model.forward(list(question.token_ids[: question.position + 1]))
    if not stream.logits.isfinite().all():
        raise AtlasError(
            f"On this prompt the logits of {model.name} are not finite numbers: its weights hold such, or are damaged. "
            "Save or fetch the model again."
        )
    target = int(stream.logits.argmax()) if question.target is None else question.target
    notices = (*question.notices, *model.placement.notices())
    return PromptRun(model, prompt, settings, question.token_ids, stream, target, question.distractor, notices)


# A model and its catalogue: joined only where they are of one checkpoint, else tokens and bounds would be another's.


def own_catalogue(root: Path, model: LanguageModel) -> Catalogue | None:
    """The catalogue of a model's checkpoint; None where there is none.

    Args:
        root: a folder of catalogues, one model's folder, or a build's file.
        model: may share its name with others.
    """
    path = build_of(root, model.name, model.checkpoint.has)
    if path is None:
        return None
    found = Catalogue.open(path)
    require_same_model(model, found)
    return found


def given_catalogue(root: Path, model: LanguageModel) -> Catalogue:
    """The same where the user named it.

    Raises:
        AtlasError: there is no catalogue of this checkpoint; the message names both.
    """
    found = own_catalogue(root, model)
    if found is None:
        alone = root.is_file() or (root / CURRENT).exists()  # a build, or one model's folder, not a folder of them
        found = Catalogue.open(find_catalogue(root, None if alone else model.name))
        require_same_model(model, found)
    return found


def require_same_model(model: LanguageModel, catalogue: Catalogue) -> None:
    """Refuse to join a catalogue with a model of another checkpoint, or with another tokenizer.

    Raises:
        AtlasError: they differ; the message names both.
    """
    stored, own = catalogue.info, model.checkpoint
    what = f"The catalogue of {stored.model} (build {stored.build_id})"
    if not stored.checkpoint.startswith(("sha256 ", "revision ")):
        raise AtlasError(f"{what} does not say which weights it was made from, as builds of today do. {REBUILD}")
    for which, same, theirs, ours in (
        ("other weights", own.has(stored.checkpoint), stored.checkpoint, own.identity),
        ("another unembedding", stored.unembedding_hash == model.unembedding.hash, "", ""),
        ("another tokenizer", stored.tokenizer_hash == own.tokenizer_hash, "", ""),
    ):
        if not same:
            both = f" ({short_identity(theirs)} and {short_identity(ours)})" if theirs else ""
            raise AtlasError(
                f"{what} was made from {which} than those of the model {model.name} in {own.folder}{both}. Its tokens "
                "would be wrong. Choose the matching catalogue with --catalogue, or build one: python -m indexer build "
                "MODEL."
            )


@dataclass(frozen=True, eq=False)
class StoredRanges:
    """The `Ranges` of a catalogue; each layer is read once. A run of another checkpoint refuses them."""

    catalogue: Catalogue
    _read: dict[tuple[NeuronKind, int], tuple[Tensor, Tensor]] = field(default_factory=dict)

    def __call__(self, kind: NeuronKind, layer: int) -> tuple[Tensor, Tensor]:
        """Highest and lowest logit of every value vector over all tokens, as the catalogue stores them."""
        if (kind, layer) not in self._read:
            highest, lowest = self.catalogue.extremes(layer, kind)
            self._read[kind, layer] = torch.from_numpy(highest), torch.from_numpy(lowest)
        return self._read[kind, layer]


# Tokens that begin as something typed does, the most probable here first: to choose a target from.

SHOWN = 8


def tokens_beginning(run: PromptRun, text: str, count: int = SHOWN) -> tuple[Prediction, ...]:
    """Tokens whose text begins with `text`, with or without a space before it, whatever the case.

    Args:
        run: the prompt; its probabilities at the analysed position order the tokens.
        text: what was typed.
        count: how many at most.
    """
    wanted = text.casefold()
    if not wanted:
        return ()
    try:
        first = [read_token(run.model, text).id]
    except AtlasError:
        first = []
    names = _names(run.model.tokens, run.model.dimensions.vocabulary)
    found = [token_id for token_id, name in names if name.startswith((wanted, f" {wanted}"))]
    ids = torch.tensor([one for one in found if one not in first], dtype=torch.long)
    best = ids[run.log_probabilities[ids].topk(min(count - len(first), len(ids))).indices.cpu()].tolist()
    named = [run.token_probability(token_id) for token_id in first + best]
    return tuple(Prediction(one.token, one.probability) for one in named)


@lru_cache(maxsize=2)
def _names(tokens: TokenBytes, vocabulary: int) -> tuple[tuple[int, str], ...]:
    """Ids and texts of the vocabulary, as they are compared; without control tokens and rows that no token uses. By the
    tokens and not by their model, which would stay in memory.
    """
    return tuple(
        (token_id, readable(tokens.bytes_of(token_id)).casefold())
        for token_id in range(vocabulary)
        if not tokens.is_special(token_id)
    )
