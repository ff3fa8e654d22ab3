"""Results -> specification: the charts of an explained prompt and of a comparison, for the pages and for the report.

An `address` makes the link for what a mark stands for; without one (in the report) marks lead nowhere.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from app.answers.reading import Reading, disagreement
from app.attribution import frames, results
from app.attribution.prompt import Method
from app.charts import (
    KIND_NAMES,
    KINDS,
    Cell,
    ColouredText,
    Columns,
    Flow,
    Grid,
    Group,
    Move,
    Plot,
    Predictions,
)
from app.charts.catalogue_charts import against_measured, query_layers
from app.state.selections import ComparePlace, Place
from app.words import nats, percent, signed
from db.lazy import lazy_import
from db.neuron import Head, Neuron
from db.token_text import display, shorten

if TYPE_CHECKING:
    from app.attribution import compare
    from app.attribution.compare import Comparison
else:
    compare = lazy_import("app.attribution.compare")  # it needs torch

WHOLE = Place()
"""Looking at no part of the model."""
LENS_POSITIONS = 40
"""More do not fit into a picture; the last are shown."""
EFFECT = "effect"
_BEFORE = {"score": "", EFFECT: "measured ", "delta_score": "Δ "}
"""Before a figure in words, by its column."""
_SCORED = {
    Method.ADDED: "increase",
    Method.REMOVED: "loss by removal",
    Method.GRADIENT: "gradient × activation",
}
_READERS = {
    "attention": "What the top attention value neurons read",
    "ffn": "What the top FFN value neurons read",
    "ffn up": "What the top FFN value neurons read by their up row",
}
_BOTH_KINDS = tuple((KIND_NAMES[part], part) for part in KINDS)


def nowhere(_place: object) -> str:
    """No link."""
    return ""


def predictions(
    found: Sequence[results.Prediction],
    target: int | None,
    address: Callable[[int], str] = nowhere,
    *,
    name: str = "predictions",
    label: str = "most probable next tokens",
    subject: str = "",
) -> Predictions:
    """The most probable next tokens. target: id of the explained one; address: of the page that explains a token."""
    rows = [(one.token.id, one.token.display, one.probability) for one in found]
    return Predictions(
        name=name,
        title="Next tokens",
        label=label,
        subject=subject,
        frame=pd.DataFrame(rows, columns=["token_id", "token", "probability"]),
        bars=tuple(
            Cell(probability, f"token {number}", token, address(number), number == target)
            for number, token, probability in rows
        ),
    )


def layers(reading: Reading, place: Place = WHOLE, address: Callable[[Place], str] = nowhere) -> Columns:
    """Attention beside FFN in every layer; a click looks into the layer, or out of it again. Scores, or where the place
    says so and they are known, measured effects.
    """
    frame = frames.layers_frame(reading.source)
    column = figure(frame, place)
    return Columns(
        **_of(reading, "layers", "Layers", column),
        frame=frame,
        axis="layer",
        series=_BOTH_KINDS,
        groups=_layer_groups(frame, column, place.layer, lambda layer: address(_at_layer(place, layer))),
    )


def figure(frame: pd.DataFrame, place: Place) -> str:
    """The column that a chart of layers or heads shows: "score", or "effect"."""
    return EFFECT if place.effects and EFFECT in frame else "score"


def _layer_groups(
    frame: pd.DataFrame, column: str, current: int | None, link: Callable[[int], str]
) -> tuple[Group, ...]:
    """A group for each layer. Columns: layer, part, and `column`."""
    delta = _BEFORE[column]
    scores = frame.pivot(index="layer", columns="part", values=column).sort_index()
    return tuple(
        Group(
            str(layer),
            tuple(float(row[part]) for part in KINDS),
            f"layer {layer}: " + ", ".join(f"{delta}{KIND_NAMES[part]} {nats(row[part])}" for part in KINDS),
            link(layer),
            layer == current,
        )
        for layer, row in enumerate(scores.to_dict("records"))
    )


def flow(
    reading: Reading, found: results.Flow, place: Place = WHOLE, address: Callable[[Place], str] = nowhere
) -> Flow:
    """What heads moved to the explained position, and from where; beside it the FFN of each layer."""
    analysis = reading.analysis
    layers = frames.layers_frame(reading.source)
    return Flow(
        **_of(reading, "flow", f"The {len(found.moves)} strongest moves of heads"),
        label="flow of the prompt",
        sides=reading.sides,
        frame=frames.flow_frame(found),
        tokens=tuple(token.display for token in analysis.tokens[: analysis.position + 1]),
        moves=flow_moves(found.moves, place, address),
        ffn=flow_ffn(layers[layers["part"] == "ffn"]["score"].tolist(), place, address),
    )


def flow_moves(
    moves: Sequence[results.Move], place: Place, address: Callable[[Place], str] = nowhere
) -> tuple[Move, ...]:
    """Each move with its link."""
    return tuple(
        Move(one.layer, one.position, one.score, _move_words(one), address(to_move(place, one)), chosen(place, one))
        for one in moves
    )


def flow_ffn(scores: Sequence[float], place: Place, address: Callable[[Place], str] = nowhere) -> tuple[Cell, ...]:
    """What the FFN of each layer did at the explained position, with its link."""
    current = place.layer if place.ffn else None
    return tuple(
        Cell(
            score,
            f"FFN of layer {layer}: {nats(score)} nats",
            href=address(place.within(None) if layer == current else place.within(layer, ffn=True)),
            current=layer == current,
        )
        for layer, score in enumerate(scores)
    )


def to_move(place: Place, move: results.Move) -> Place:
    """Where a click on a move leads: to the head at that source, or away from it where it is chosen already."""
    if chosen(place, move):
        return place.within(None)
    return place.within(move.layer, head=Head(move.layer, move.head), source=move.position)


def chosen(place: Place, move: results.Move) -> bool:
    """Whether the move is of the chosen head, at the chosen source if there is one."""
    return place.head == (move.layer, move.head) and place.source in (None, move.position)


def _move_words(move: results.Move) -> str:
    source = f"position {move.position} “{move.token.display}”"
    return (
        f"{Head(move.layer, move.head).label} from {source}: {nats(move.score)} nats, attention "
        f"{percent(move.attention_weight)}"
    )


def heads(reading: Reading, place: Place = WHOLE, address: Callable[[Place], str] = nowhere) -> Grid:
    """Heads by layers; a click looks into the head, or out of it again. Scores or effects, as of `layers`."""
    frame = frames.heads_frame(reading.source)
    column = figure(frame, place)
    return Grid(
        **_of(reading, "heads", "Attention heads", column),
        sides=("in its way", "helped it") if column == EFFECT else reading.sides,
        note="logarithmic colour",
        frame=frame,
        axes=("head", "layer"),
        columns=_layer_names(frame),
        rows=_head_rows(frame, column, place.head, lambda head: address(_at_head(place, head))),
    )


def _head_rows(
    frame: pd.DataFrame, column: str, current: Head | None, link: Callable[[Head], str]
) -> tuple[tuple[str, tuple[Cell, ...]], ...]:
    """Heads downwards, layers across. Columns: layer, head, and `column`."""
    delta = _BEFORE[column]
    rows: dict[int, list[Cell]] = {}
    for layer, head, score in frame[["layer", "head", column]].itertuples(index=False):
        one = Head(int(layer), int(head))
        hint = f"{one.label}: {delta}{nats(score)} nats"
        rows.setdefault(one.head, []).append(Cell(score, hint, href=link(one), current=one == current))
    return tuple((str(head), tuple(cells)) for head, cells in rows.items())


def _layer_names(frame: pd.DataFrame) -> tuple[str, ...]:
    return tuple(str(layer) for layer in sorted(set(frame["layer"])))


def _at_layer(place: Place, layer: int) -> Place:
    """Looking into the layer, or out of it where it is chosen already."""
    return place.within(None if layer == place.layer else layer)


def _at_head(place: Place, head: Head) -> Place:
    """Looking at the head, or away from it where it is chosen already."""
    return place.within(head[0], head=None if head == place.head else head)


def heads_of_layer(
    reading: Reading, layer: int, place: Place = WHOLE, address: Callable[[Place], str] = nowhere
) -> Columns:
    """The heads of one layer."""
    frame = frames.heads_frame(reading.source)
    frame, column = frame[frame["layer"] == layer], figure(frame, place)
    return Columns(
        **_of(reading, "layer_heads", f"Heads of layer {layer}", column),
        frame=frame,
        axis="head",
        series=((column, "attention"),),
        groups=tuple(
            Group(
                str(head),
                (score,),
                f"{one.label}: {_BEFORE[column]}{nats(score)} nats",
                address(_at_head(place, one)),
                place.head == one,
            )
            for head, score in zip(frame["head"].tolist(), frame[column].tolist(), strict=True)
            for one in [Head(layer, head)]
        ),
    )


def lens(frame: pd.DataFrame, prompt: str) -> Grid:
    """The logit lens, the output on top. Columns of the frame: as of `frames.lens_frame`."""
    last = int(frame["position"].max()) if len(frame) else 0
    shown = frame[frame["position"] > last - LENS_POSITIONS]
    output = int(frame["layer"].max()) if len(frame) else 0
    bottom = shown[shown["layer"] == output]
    return Grid(
        name="lens",
        title="Logit lens: the most probable token",
        label="logit lens",
        subject=subject(prompt),
        unit="probability of the target",
        sides=None,
        note="the text is the most probable token",
        frame=frame,
        axes=("into layer", "position and its token"),
        columns=tuple(f"{place} {token}" for place, token in zip(bottom["position"], bottom["token"], strict=True)),
        rows=tuple(
            ("output" if layer == output else str(layer), tuple(_lens_cell(row) for row in rows.to_dict("records")))
            for layer, rows in reversed(list(shown.groupby("layer")))
        ),
    )


def _lens_cell(row: dict[Any, Any]) -> Cell:
    hint = (
        f"position {row['position']} “{row['token']}”: {row['top']} {percent(row['top_probability'])}, target "
        f"{percent(row['target_probability'])}"
    )
    return Cell(row["target_probability"], hint, shorten(row["top"], 12))


def query_charts(frame: pd.DataFrame) -> list[Plot]:
    """Which sub-layers wrote what the value neurons read: a chart for each kind of reader."""
    names = list(dict.fromkeys(frame["readers"]))
    gated = "ffn up" in names
    return [
        query_layers(
            frame[frame["readers"] == name],
            _READERS[name] + (", by their gate" if gated and name == "ffn" else ""),
            name=f"query_layers_{name.replace(' ', '_')}",
        )
        for name in names
    ]


def activations(frame: pd.DataFrame, column: str, words: str, neuron: Neuron) -> ColouredText:
    """A neuron's values along a text. Columns: position, token, `column`, and of an attention neuron's arriving values
    attention_weight. words: what the values are.
    """
    weights = frame["attention_weight"] if column == "arriving" else [None] * len(frame)
    rows = zip(frame["position"], frame["token"], frame[column], weights, strict=True)
    return ColouredText(
        name=f"trial_{column}",
        title=f"{neuron.label}: {words}",
        label=f"the text, coloured by {column}",
        unit=words,
        frame=frame,
        pieces=tuple(
            Cell(
                value,
                f"position {position}: {signed(value, 3)}"
                + ("" if weight is None else f", attention {percent(weight)}"),
                token,
            )
            for position, token, value, weight in rows
        ),
    )


def subject(prompt: str) -> str:
    """A prompt in a chart's second line.

    >>> subject("The capital")
    '“The capital”'
    """
    return f"“{shorten(display(prompt.encode('utf-8', 'replace')).replace('␣', ' '), 70)}”"


def _of(reading: Reading, name: str, title: str, column: str = "score") -> dict[str, Any]:
    """What a chart of a reading says of itself; column: of a frame of layers or heads."""
    analysis, contrast = reading.analysis, reading.analysis.contrast
    prompt, what = subject(analysis.prompt), f"log p(“{shorten(analysis.target.token.display, 20)}”)"
    if contrast is not None:
        what += f" − log p(“{shorten(contrast.distractor.token.display, 20)}”)"
    if column == EFFECT:
        what = f"measured: loss of {what} without it"
    else:
        what = f"{_SCORED[analysis.method] if contrast is None else 'share'} of {what}"
    unit = "measured effect (nats)" if column == EFFECT else reading.unit
    return {"name": name, "title": title, "subject": f"{what} after {prompt}, {analysis.model}", "unit": unit}


# What was scored against what was measured.


def scatter(
    reading: Reading, found: Sequence[results.ValueNeuron], words: str, address: Callable[[Neuron], str] = nowhere
) -> Plot:
    """Each neuron's score across, its measured effect upwards, and the line on which the two are the same; a click
    opens the neuron.

    Args:
        reading: the analysis.
        found: of its neurons; those that were not measured are left out.
        words: what they are called, such as “raised “ Paris” most”.
        address: of a neuron's page.
    """
    known = tuple(one for one in found if one.effect is not None)
    frame = frames.neurons_frame(reading.analysis, known)
    drawn = frame.assign(
        kind=[str(one.neuron.kind) for one in known],
        remark=[disagreement(one.score, one.effect) or "no great difference" for one in known],
        href=[address(one.neuron) for one in known],
    )
    return against_measured(
        drawn, frame, f"Scored against measured: {words}", reading.unit, _of(reading, "", "", EFFECT)["subject"]
    )


# The charts of a comparison

_CHANGE = "Δ score (nats)"


def changed_layers(
    found: "Comparison", prompts: tuple[str, str], place: ComparePlace, address: Callable[[ComparePlace], str]
) -> Columns:
    """What changed in each layer."""
    frame = compare.layers_frame(found)
    return Columns(
        name="changed_layers",
        title="Changed layers",
        subject=_subjects(prompts),
        unit=_CHANGE,
        frame=frame,
        axis="layer",
        series=_BOTH_KINDS,
        groups=_layer_groups(frame, "delta_score", place.layer, lambda layer: address(_compared_layer(place, layer))),
    )


def both_layers(
    found: "Comparison",
    part: str,
    prompts: tuple[str, str],
    place: ComparePlace,
    address: Callable[[ComparePlace], str],
) -> Columns:
    """Attention or FFN of each layer in both runs."""
    frame = compare.layers_frame(found)
    frame, name = frame[frame["part"] == part], KIND_NAMES[part]
    pairs = zip(frame["layer"].tolist(), frame["score_1"].tolist(), frame["score_2"].tolist(), strict=True)
    return Columns(
        name=f"both_{part}",
        title=f"{name[0].upper()}{name[1:]} in both runs",
        label=f"{name} layers of both",
        subject=_subjects(prompts),
        frame=frame,
        axis="layer",
        series=(("first run", "neutral"), ("second run", part)),
        groups=tuple(
            Group(
                str(layer),
                (one, two),
                f"layer {layer}, {name}: {nats(one)} → {nats(two)} nats",
                address(_compared_layer(place, layer)),
                layer == place.layer,
            )
            for layer, one, two in pairs
        ),
    )


def changed_heads(
    found: "Comparison", prompts: tuple[str, str], place: ComparePlace, address: Callable[[ComparePlace], str]
) -> Grid:
    """What changed in each head."""
    frame = compare.heads_frame(found)

    def link(head: Head) -> str:
        return address(replace(place, layer=head[0], head=None if head == place.head else head))

    return Grid(
        name="changed_heads",
        title="Changed heads",
        subject=_subjects(prompts),
        unit=_CHANGE,
        sides=("second lower", "second higher"),
        note="logarithmic colour",
        frame=frame,
        axes=("head", "layer"),
        columns=_layer_names(frame),
        rows=_head_rows(frame, "delta_score", place.head, link),
    )


def _compared_layer(place: ComparePlace, layer: int) -> ComparePlace:
    """Looking into the layer of a comparison, or out of it where it is chosen already."""
    return replace(place, layer=None if layer == place.layer else layer, head=None)


def _subjects(prompts: tuple[str, str]) -> str:
    first, second = prompts
    return subject(first) if first == second else f"{subject(first)} → {subject(second)}"
