"""Results as data frames: the figures of the charts, the tables and the exports. Column names stand here alone."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from app.attribution.prompt import PromptToken
from app.attribution.results import (
    Analysis,
    Contrast,
    Flow,
    HeadPattern,
    HeadPositions,
    KeySide,
    LogitLens,
    Query,
    QueryNeuron,
    ValueNeuron,
    value_layer_counts,
)
from db.catalogue.export import experts_only
from db.neuron import NeuronKind
from db.token_text import display
from db.workspace.records import ROLES

if TYPE_CHECKING:
    from app.attribution.activated import ActivatedNeuron


def activated_frame(tokens: Sequence[PromptToken], found: "Sequence[ActivatedNeuron]") -> pd.DataFrame:
    """Neurons that a passage of some tokens activates, in the order given.

    Columns: neuron, kind, layer, head, index, sign, z, position, token (display form), activation (signed), mean, std,
    usual, name, raises.
    """
    rows = [
        (
            one.neuron.label,
            str(one.neuron.kind),
            one.neuron.layer,
            one.neuron.head,
            one.neuron.index,
            str(one.sign),
            one.z,
            one.position,
            tokens[one.position].display,
            one.activation,
            one.mean,
            one.std,
            None if one.usual is None else str(one.usual),
            one.name,
            " ".join(token.display for token in one.raises),
        )
        for one in found
    ]
    columns = ["neuron", "kind", "layer", "head", "index", "sign", "z", "position", "token", "activation"]
    return pd.DataFrame(rows, columns=[*columns, "mean", "std", "usual", "name", "raises"]).astype({"head": "Int64"})


def predictions_frame(analysis: Analysis) -> pd.DataFrame:
    """Columns: token_id, token (display form), probability."""
    rows = [(one.token.id, one.token.display, one.probability) for one in analysis.predictions]
    return pd.DataFrame(rows, columns=["token_id", "token", "probability"])


def layers_frame(analysis: Analysis | Contrast) -> pd.DataFrame:
    """Columns: layer, part ("attention" or "ffn"), score (nats); of a contrast, shares of the difference of logits; and
    effect (nats) where it was measured.
    """
    parts = {"attention": analysis.layers.attention, "ffn": analysis.layers.ffn}
    rows = [(layer, part, score) for part, scores in parts.items() for layer, score in enumerate(scores.tolist())]
    frame, effects = pd.DataFrame(rows, columns=["layer", "part", "score"]), analysis.layer_effects
    return frame if effects is None else frame.assign(effect=np.concatenate([effects.attention, effects.ffn]))


def heads_frame(analysis: Analysis | Contrast) -> pd.DataFrame:
    """Columns: layer, head, score (nats); of a contrast, shares of the difference of logits; and effect (nats) where it
    was measured.
    """
    rows = [
        (layer, head, score) for layer, heads in enumerate(analysis.heads.tolist()) for head, score in enumerate(heads)
    ]
    frame, effects = pd.DataFrame(rows, columns=["layer", "head", "score"]), analysis.head_effects
    return frame if effects is None else frame.assign(effect=effects.flatten())


def value_neurons_frame(analysis: Analysis, kind: NeuronKind) -> pd.DataFrame:
    """The neurons that raised the target most; see `neurons_frame`."""
    found = analysis.ffn_value_neurons if kind is NeuronKind.FFN else analysis.attention_value_neurons
    return neurons_frame(analysis, found)


def neurons_frame(analysis: Analysis, found: tuple[ValueNeuron, ...]) -> pd.DataFrame:
    """Columns: neuron, layer, head, expert (only where any is an expert's), position, source (that position's token),
    score (nats), activation (signed); and, where they are known, effect (nats) and rank (of the target among the tokens
    that the neuron raised).

    head, position and source are absent for FFN neurons.
    """
    rows = [
        (
            one.neuron.label,
            one.neuron.layer,
            one.neuron.head,
            one.neuron.expert,
            one.position,
            None if one.position is None else analysis.tokens[one.position].display,
            one.score,
            one.activation,
            one.effect,
            one.rank,
        )
        for one in found
    ]
    columns = ["neuron", "layer", "head", "expert", "position", "source", "score", "activation", "effect", "rank"]
    kinds = {"head": "Int64", "expert": "Int64", "position": "Int64", "effect": "Float64", "rank": "Int64"}
    frame = pd.DataFrame(rows, columns=columns).astype(kinds)
    return experts_only(frame.drop(columns=[name for name in ("effect", "rank") if frame[name].isna().all()]))


def layer_counts_frame(analysis: Analysis) -> pd.DataFrame:
    """How many of the top value neurons stand in each layer. Columns: layer, kind ("ffn" or "attention"), neurons."""
    rows = [
        (layer, kind, count)
        for kind, counts in value_layer_counts(analysis).items()
        for layer, count in enumerate(counts)
        if count
    ]
    return pd.DataFrame(rows, columns=["layer", "kind", "neurons"])


def query_neurons_frame(found: tuple[QueryNeuron, ...]) -> pd.DataFrame:
    """Columns: neuron, layer, expert (only where any is an expert's), score (nats)."""
    rows = [(one.neuron.label, one.neuron.layer, one.neuron.expert, one.score) for one in found]
    columns = ["neuron", "layer", "expert", "score"]
    return experts_only(pd.DataFrame(rows, columns=columns).astype({"expert": "Int64"}))


def query_layers_frame(query: Query) -> pd.DataFrame:
    """Columns: readers ("attention", "ffn", "ffn up"), part ("embedding", "attention", "ffn"), layer, score (nats). No
    further than the last layer that was read from.
    """
    named = {"attention": query.attention_layers}
    named |= dict(zip(("ffn", "ffn up"), query.ffn_layers, strict=False))
    rows: list[tuple[str, str, int | None, float]] = []
    for readers, shares in named.items():
        rows.append((readers, "embedding", None, shares.embedding))
        for part, scores in (("attention", shares.attention), ("ffn", shares.ffn)):
            before = 1 + max(np.flatnonzero(scores), default=-1)
            rows += [(readers, part, layer, score) for layer, score in enumerate(scores[:before].tolist())]
    return pd.DataFrame(rows, columns=["readers", "part", "layer", "score"]).astype({"layer": "Int64"})


def flow_frame(found: Flow) -> pd.DataFrame:
    """Strongest first. Columns: layer, head, position, token (display form), score (nats), attention_weight."""
    rows = [
        (one.layer, one.head, one.position, one.token.display, one.score, one.attention_weight) for one in found.moves
    ]
    return pd.DataFrame(rows, columns=["layer", "head", "position", "token", "score", "attention_weight"])


def positions_frame(found: HeadPositions) -> pd.DataFrame:
    """Columns: position, token, score (nats), attention_weight, input_tokens, key_tokens, value_tokens (display
    forms).
    """
    lists = ("input_tokens", "key_tokens", "value_tokens")
    rows = found.positions
    return pd.DataFrame(
        {
            "position": [row.position for row in rows],
            "token": [row.token.display for row in rows],
            "score": [row.score for row in rows],
            "attention_weight": [row.attention_weight for row in rows],
        }
        | {name: [[token.display for token in getattr(row, name)] for row in rows] for name in lists}
    )


def pattern_frame(found: HeadPattern) -> pd.DataFrame:
    """A head's attention pattern. Columns: query, key (positions), query_token, key_token, weight; key <= query."""
    rows = [
        (query, key, found.tokens[query].display, found.tokens[key].display, weight)
        for query, row in enumerate(found.pattern.tolist())
        for key, weight in enumerate(row[: query + 1])
    ]
    return pd.DataFrame(rows, columns=["query", "key", "query_token", "key_token", "weight"])


def lens_frame(lens: LogitLens) -> pd.DataFrame:
    """The logit lens. Columns: layer (the last is the output), position, token, top, top_probability,
    target_probability.
    """
    rows = [
        (layer, place, lens.tokens[place].display, token.display, top, target)
        for layer, (tokens, tops, targets) in enumerate(
            zip(lens.top, lens.top_probability.tolist(), lens.target_probability.tolist(), strict=True)
        )
        for place, (token, top, target) in enumerate(zip(tokens, tops, targets, strict=True))
    ]
    return pd.DataFrame(rows, columns=["layer", "position", "token", "top", "top_probability", "target_probability"])


def keys_frame(sides: tuple[KeySide, ...]) -> pd.DataFrame:
    """Columns: key (see `KeySide.name`), end ("highest" or "lowest"), rank, token_id, token (display form), reading,
    z.
    """
    rows = [
        (side.name, end, rank, one.token.id, one.token.display, one.reading, one.z)
        for side in sides
        for end, found in (("highest", side.highest), ("lowest", side.lowest))
        for rank, one in enumerate(found, 1)
    ]
    return pd.DataFrame(rows, columns=["key", "end", "rank", "token_id", "token", "reading", "z"])


# Which neurons matter over many prompts: how often each stands in a prompt's top k, and with what score.

COLUMNS = ["role", "neuron", "prompts", "share", "mean_score", "mean_activation", "mean_effect", "measured"]
AT_MEAN = "mean_effect_of_mean"


def aggregate(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Neurons over prompts, by role; those in most prompts first, then by mean score.

    Args:
        rows: JSON objects of single prompts (`results.to_json`); those with an error are passed over.

    Returns:
        Columns: role, neuron, prompts (in how many prompts' list), share (of all prompts analysed), mean_score (nats,
            over those prompts), mean_activation (signed, over those prompts; absent for query neurons). Where
            effects were measured also mean_effect (nats) and measured (in how many of those prompts); where neurons
            were replaced by their means too, mean_effect_of_mean (nats).
    """
    analysed = 0
    found: list[tuple[int, str, str, float, float | None, float | None, float | None]] = []
    for row in rows:
        if row.get("error"):
            continue
        for role, name in ROLES.items():
            for one in row.get(name) or ():
                figures = (one.get(figure) for figure in ("activation", "effect", "effect_of_mean"))
                found.append((analysed, role, one["neuron"], one["score"], *figures))
        analysed += 1
    every = pd.DataFrame(found, columns=["prompt", "role", "neuron", "score", "activation", "effect", "effect_of_mean"])
    every = every.astype({"effect": float, "effect_of_mean": float})
    columns = COLUMNS if every["effect"].notna().any() else COLUMNS[:-2]
    columns = columns + [AT_MEAN] * bool(every["effect_of_mean"].notna().any())
    if every.empty:
        return pd.DataFrame(columns=columns)
    every["size"] = every["score"].abs()
    strongest = every.sort_values("size", ascending=False).drop_duplicates(["prompt", "role", "neuron"])
    grouped = strongest.groupby(["role", "neuron"], sort=False)
    result = grouped.agg(
        prompts=("prompt", "size"),
        mean_score=("score", "mean"),
        mean_activation=("activation", "mean"),
        mean_effect=("effect", "mean"),
        measured=("effect", "count"),
        **{AT_MEAN: ("effect_of_mean", "mean")},
        size=("size", "mean"),
    ).reset_index()
    result["share"] = result["prompts"] / analysed
    order = {role: place for place, role in enumerate(ROLES)}
    result["place"] = result["role"].map(order)
    result = result.sort_values(["place", "prompts", "size", "neuron"], ascending=[True, False, False, True])
    return result[columns].reset_index(drop=True)


@dataclass(frozen=True, slots=True)
class Said:
    """What the model says after one prompt.

    Attributes:
        prompt: as it was given.
        top: the most probable next token, in display form; None where a file does not say.
        top_probability: its probability.
        target: the explained token, in display form; None where a file does not say.
        target_id: its id.
        target_probability: its probability.
    """

    prompt: str
    top: str | None
    top_probability: float | None
    target: str | None
    target_id: int | None
    target_probability: float | None


def said_of(row: dict[str, Any]) -> Said:
    """What the row of one prompt says."""
    first, target = (row.get("predictions") or [{}])[0], row.get("target") or {}
    displays = {one["id"]: one["display"] for one in row.get("displays") or ()}

    def shown(one: dict[str, Any]) -> str | None:
        text = one.get("text")
        return None if text is None else displays.get(one["id"], display(text.encode("utf-8", "replace")))

    probability = first.get("probability")
    return Said(row["prompt"], shown(first), probability, shown(target), target.get("id"), target.get("probability"))


def said_frame(said: Iterable[Said]) -> pd.DataFrame:
    """One row a prompt. Columns: prompt, says (the most probable token, in display form), probability, target (that was
    explained), target_id, target_probability.
    """
    rows = [
        (one.prompt, one.top, one.top_probability, one.target, one.target_id, one.target_probability) for one in said
    ]
    columns = ["prompt", "says", "probability", "target", "target_id", "target_probability"]
    return pd.DataFrame(rows, columns=columns).astype({"target_id": "Int64"})
