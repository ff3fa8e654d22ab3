"""Data frame -> Plot: the charts that Altair draws on screen as well. Nothing is computed beyond what the marks need.

Tokens are labels of ranks or indices, never positions of their own: two places that show the same token stay apart.
"""

import json

import altair as alt
import numpy as np
import pandas as pd

from app.charts import ATTENTION, KIND_NAMES, KINDS, MARK, NEUTRAL, PROMOTES, SIGNS, SUPPRESSES, WIDTH, Plot
from app.charts.pictures import AltairChart, visible
from app.words import isolated
from db.neuron import Sign
from db.token_text import shorten

_KIND_LABEL = "datum.label == 'ffn' ? 'FFN' : datum.label"
_TOKEN_WIDTH = 130
_TOKEN_ROW = 20
_EVERY_LABEL = 24
_NUMBERED = 16
_EMBEDDING = -1  # its place before layer 0
_FIGURE_SPACE = "\u2007"
_STANDING_WIDTH = 420
_ATTENDING, _SOURCE = "attending position (query)", "source position (key)"


def attention_pattern(frame: pd.DataFrame) -> Plot:
    """How much each position of a prompt (downwards) attends, by one head, to the source positions it takes from;
    positions are labelled by tokens. As in the flow, what is moved comes from the source.

    Columns: query, key, query_token, key_token, weight (0 to 1).
    """
    names = {
        **dict(zip(frame["key"].tolist(), frame["key_token"], strict=True)),
        **dict(zip(frame["query"].tolist(), frame["query_token"], strict=True)),
    }
    labels = json.dumps({str(place): f"{place} {shorten(visible(token), 10)}" for place, token in names.items()})
    places = sorted(names)
    axis = alt.Axis(
        labelExpr=f"({labels})[datum.value]",
        labelFont="monospace",
        labelOverlap=False if len(places) <= _EVERY_LABEL else "parity",
        ticks=False,
        labelLimit=110,
    )
    chart = (
        alt.Chart(frame, title=_title("Attention pattern"))
        .mark_rect()
        .encode(
            x=alt.X("key:O", title=_SOURCE, axis=axis, scale=alt.Scale(domain=places)),
            y=alt.Y("query:O", title=_ATTENDING, axis=axis, scale=alt.Scale(domain=places)),
            color=alt.Color(
                "weight:Q",
                scale=alt.Scale(domain=[0, 1], range=["#88888814", ATTENTION], interpolate="rgb"),
                legend=alt.Legend(title="attention weight", orient="top", gradientLength=160, gradientThickness=10),
            ),
            tooltip=[
                alt.Tooltip("query:O", title=_ATTENDING),
                alt.Tooltip("query_token:N", title="its token"),
                alt.Tooltip("key:O", title=_SOURCE),
                alt.Tooltip("key_token:N", title="its token"),
                alt.Tooltip("weight:Q", title="weight", format=".3f"),
            ],
        )
        .properties(height=200 + max(150, min(24 * len(places), 420)))
    )
    return _plot("attention_pattern", "Attention between positions", frame, chart)


def query_layers(frame: pd.DataFrame, title: str, *, name: str) -> Plot:
    """Shares of the embedding and of each sub-layer. Columns: part, layer (absent for the embedding), score (nats)."""
    rows = frame.assign(
        place=frame["layer"].fillna(_EMBEDDING).astype(int), name=frame["part"].map(KIND_NAMES).fillna(frame["part"])
    )
    every = 1 if rows["place"].max() < _NUMBERED else 4  # layers between two numbers
    unnumbered = f"datum.value % {every} || ({every} > 1 && !datum.value)"  # 0 would touch the embedding's label
    axis = alt.Axis(
        labelAngle=0,
        labelOverlap=False,
        title="layer; emb: the embedding",
        ticks=False,
        labelExpr=f"datum.value == {_EMBEDDING} ? 'emb' : {unnumbered} ? '' : datum.value",
    )
    chart = (
        alt.Chart(rows, title=_title(title))
        .mark_bar()
        .encode(
            x=alt.X("place:O", axis=axis),
            y=alt.Y("sum(score):Q", title="share (nats)"),
            color=_coloured("part", {"embedding": NEUTRAL, **KINDS}),
            tooltip=[
                alt.Tooltip("name:N", title="part"),
                alt.Tooltip("layer:O"),
                alt.Tooltip("sum(score):Q", title="share (nats)", format="+.3f"),
            ],
        )
        .properties(height=300)
    )
    return _plot(name, title, frame, chart)


def layer_distribution(
    frame: pd.DataFrame, layers: int, *, name: str, title: str = "Found neurons by layer", label: str = ""
) -> Plot:
    """How many neurons of each layer were found, by kind. Columns: layer, kind, neurons."""
    chart = (
        alt.Chart(frame.assign(name=frame["kind"].map(KIND_NAMES)), title=_title(title))
        .mark_bar()
        .encode(
            x=_layer_axis(layers),
            y=alt.Y("sum(neurons):Q", title="neurons", axis=alt.Axis(tickMinStep=1, format="d")),
            color=_coloured("kind", KINDS),
            tooltip=[
                alt.Tooltip("layer:O"),
                alt.Tooltip("name:N", title="kind"),
                alt.Tooltip("sum(neurons):Q", title="neurons"),
            ],
        )
        .properties(height=400)
    )
    return _plot(name, label or title, frame, chart)


def against_measured(drawn: pd.DataFrame, frame: pd.DataFrame, title: str, unit: str, subject: str) -> Plot:
    """Scores across, measured effects upwards, and where the two would be the same.

    Columns: neuron, kind, score and effect (nats), remark (how they differ), href (where a click leads), and of
    attention neurons position and source.
    """
    ends = [(drawn[name].min(), drawn[name].max()) for name in ("score", "effect")] if len(drawn) else [(0.0, 1.0)]
    low, high = max(min(0.0, one) for one, _ in ends), min(max(0.0, one) for _, one in ends)
    tooltip = [
        alt.Tooltip("neuron:N"),
        alt.Tooltip("position:N", title="from position"),
        alt.Tooltip("source:N", title="its token"),
        alt.Tooltip("score:Q", title=unit, format="+.3f"),
        alt.Tooltip("effect:Q", title="measured (nats)", format="+.3f"),
        alt.Tooltip("remark:N", title="measured"),
    ]
    points = (
        alt.Chart(drawn)
        .mark_point(filled=True, size=46, opacity=0.65)
        .encode(
            x=alt.X("score:Q", title=unit),
            y=alt.Y("effect:Q", title="measured effect (nats)"),
            color=_coloured("kind", KINDS),
            tooltip=tooltip,
        )
    )
    same = (
        alt.Chart(pd.DataFrame({"score": [low, high], "effect": [low, high]}))
        .mark_line(color=NEUTRAL, strokeDash=[5, 4], strokeWidth=1.5)
        .encode(x="score:Q", y="effect:Q")
    )
    below = f"{subject}; dashed: where both are the same"
    chart = alt.layer(points, same, title=_title(title, below)).properties(height=420)
    name = "scored_against_measured"
    return Plot(name=name, title=title, label=title, frame=frame, altair=chart, width=WIDTH, picked="href")


def token_bars(card: pd.DataFrame, sign: Sign, first: int, *, faint: bool = False) -> Plot:
    """Logits of the first tokens of one end. Columns: sign, rank, token (display form), token_id, logit, z."""
    own = card[card["sign"] == str(sign)]
    rows = own[own["rank"] <= first]
    labelled = rows.assign(
        label=[
            f"{isolated(shorten(token, 14))} {str(rank).rjust(2, _FIGURE_SPACE)}"
            for token, rank in zip(rows["token"], rows["rank"], strict=True)
        ]
    )
    axis = alt.Axis(
        title=None,
        labelFont="monospace",
        labelLimit=_TOKEN_WIDTH,
        minExtent=_TOKEN_WIDTH,
        labelOverlap=False,
        ticks=False,
    )
    chart = (
        alt.Chart(labelled, title=_title(f"Logits of the first {len(rows)} tokens it {sign}"))
        .mark_bar(color=SIGNS[sign], opacity=0.4 if faint else 1, height=alt.RelativeBandSize(0.72))
        .encode(
            y=alt.Y("label:N", sort=alt.SortField("rank"), axis=axis),
            x=alt.X("logit:Q", title="logit", scale=alt.Scale(reverse=sign is Sign.SUPPRESSES)),
            tooltip=[
                alt.Tooltip("token:N"),
                alt.Tooltip("token_id:N", title="token id"),
                alt.Tooltip("rank:Q"),
                alt.Tooltip("logit:Q", format="+.3f"),
                alt.Tooltip("z:Q", format="+.2f"),
            ],
        )
        .properties(height=110 + _TOKEN_ROW * len(rows))
    )
    return _plot(f"tokens_it_{sign}", f"Logits of the tokens it {sign}", own, chart)


def histogram(layer: pd.DataFrame, column: str, value: float, title: str, unit: str) -> Plot:
    """Where one neuron stands in its layer: a histogram of ``column`` with a rule at ``value``."""
    bars = (
        alt.Chart(layer[[column]])
        .mark_bar(color=NEUTRAL, opacity=0.55)
        .encode(
            x=alt.X(f"{column}:Q", bin=alt.Bin(maxbins=36), title=unit),
            y=alt.Y("count():Q", title="neurons", axis=alt.Axis(tickCount=3)),
            tooltip=[
                alt.Tooltip(f"{column}:Q", bin=alt.Bin(maxbins=36), title=unit),
                alt.Tooltip("count():Q", title="neurons of this layer"),
            ],
        )
    )
    rule = (
        alt.Chart(pd.DataFrame({"value": [value], "what": ["this neuron"]}))
        .mark_rule(strokeWidth=2.5)
        .encode(
            x="value:Q",
            color=alt.Color("what:N", scale=alt.Scale(range=[MARK]), legend=None),
            tooltip=[alt.Tooltip("value:Q", title=f"this neuron, {unit}", format=".3f")],
        )
    )
    chart = alt.layer(bars, rule, title=_title(title)).properties(height=230)
    return _plot(f"layer_{column}", f"Histogram of the layer: {title}", layer, chart, _STANDING_WIDTH)


_SMALL = 1024
"""An activation that is smaller than so large a part of the greatest is near zero."""


def activation_histogram(frame: pd.DataFrame, *, linear: bool) -> Plot:
    """On how many tokens a neuron's activation lies where: a bar for each octave, small ones together in the middle.

    Columns: low, high, tokens; from the lowest, bins without tokens left out.
    """
    near = frame[["low", "high"]].abs().min(axis=1) * (frame["low"] * frame["high"] >= 0)
    near = near.where(near >= near.max() / _SMALL, 0.0)
    least = near[near > 0].min()
    octave = np.round(np.log2(near.where(near > 0, least) / least)).fillna(0).astype(int) + 1
    place = np.where(near > 0, np.where(frame["low"] >= 0, octave, -octave), 0)
    rows = frame.groupby(place).agg({"low": "min", "high": "max", "tokens": "sum"}).rename_axis("place").reset_index()
    low, high, place = rows["low"], rows["high"], rows["place"].to_numpy()
    sides = {"positive": PROMOTES, "negative": SUPPRESSES, "near zero": NEUTRAL}
    rows = rows.assign(
        side=np.select([place > 0, place < 0], ["positive", "negative"], "near zero"),
        between=[f"{one:.3g} to {other:.3g}".replace("-", "−") for one, other in zip(low, high, strict=True)],
    )
    ends = np.where(low >= 0, low, high)
    labels = {str(at): f"{end:.2g}".replace("-", "−") for at, end in zip(place, ends, strict=True)} | {"0": "0"}
    axis = alt.Axis(
        title="activation; each bar reaches to twice its number",
        labelExpr=f"({json.dumps(labels)})[datum.value] || ''",
        labelAngle=0,
        labelOverlap="greedy",
        ticks=False,
    )
    domain = list(range(min(place.min(), 0), max(place.max(), 0) + 1))
    counts = alt.Scale() if linear else alt.Scale(type="log", domainMin=0.5)
    chart = (
        alt.Chart(rows, title=_title("How active it is, on how many tokens"))
        .mark_bar()
        .encode(
            x=alt.X("place:O", axis=axis, scale=alt.Scale(domain=domain)),
            y=alt.Y("tokens:Q", title="tokens", scale=counts, stack=None, axis=alt.Axis(format="~s", tickCount=4)),
            y2=alt.datum(0 if linear else 0.5),
            color=_coloured("side", sides),
            tooltip=[alt.Tooltip("between:N", title="activation"), alt.Tooltip("tokens:Q", format=",")],
        )
        .properties(height=260)
    )
    return _plot("activation_histogram", "Histogram of the neuron’s activations", frame, chart, _STANDING_WIDTH)


def bands(frame: pd.DataFrame, figure: str, kind: str, words: str, unit: str) -> Plot:
    """How a figure is spread over the neurons of each layer: its middle, its middle half, and all but the extremes.

    Columns: layer, kind, neurons, then <figure>_5, _25, _50, _75 and _95.
    """
    own, colour, name = frame[frame["kind"] == kind], KINDS[kind], KIND_NAMES[kind]
    fields = {percent: f"{figure}_{percent}" for percent in (5, 25, 50, 75, 95)}
    x = alt.X(
        "layer:Q", title="layer", axis=alt.Axis(tickMinStep=1, format="d", grid=False), scale=alt.Scale(nice=False)
    )
    tooltip = [
        alt.Tooltip("layer:Q"),
        alt.Tooltip("neurons:Q", format=","),
        *(
            alt.Tooltip(f"{field}:Q", title="median" if percent == 50 else f"{percent} % lie below", format=".3f")
            for percent, field in fields.items()
        ),
    ]

    def area(low: int, high: int, strength: float) -> alt.Chart:
        y = alt.Y(f"{fields[low]}:Q", title=unit, scale=alt.Scale(zero=False))
        band: alt.Chart = (
            alt.Chart(own).mark_area(color=colour, opacity=strength).encode(x=x, y=y, y2=f"{fields[high]}:Q")
        )
        return band

    line = (
        alt.Chart(own)
        .mark_line(color=colour, strokeWidth=2.5, point=alt.OverlayMarkDef(color=colour, size=28))
        .encode(x=x, y=f"{fields[50]}:Q", tooltip=tooltip)
    )
    title = _title(
        f"{name[0].upper()}{name[1:]}: {words}", "line: median; bands: 25–75 % and 5–95 % of them", offset=10
    )
    chart = alt.layer(area(5, 95, 0.18), area(25, 75, 0.34), line, title=title).properties(height=300)
    return _plot(f"{figure}_{kind}_by_layer", f"{name}, by layer: {words}", own, chart)


def neurons_by_layer(frame: pd.DataFrame, layers: int) -> Plot:
    """How many neurons each layer has. Columns: layer, kind, neurons."""
    title = "Neurons by layer and kind"
    chart = (
        alt.Chart(frame.assign(name=frame["kind"].map(KIND_NAMES)), title=_title(title, offset=10))
        .mark_bar()
        .encode(
            x=_layer_axis(layers),
            y=alt.Y("neurons:Q", title="neurons"),
            color=_coloured("kind", KINDS),
            tooltip=[
                alt.Tooltip("layer:O"),
                alt.Tooltip("name:N", title="kind"),
                alt.Tooltip("neurons:Q", format=","),
            ],
        )
        .properties(height=300)
    )
    return _plot("neurons_of_each_layer", title, frame, chart)


def token_by_layer(frame: pd.DataFrame, layers: int) -> Plot:
    """How many neurons of each layer promote a token, upwards, and suppress it, downwards.

    Columns: layer, kind, sign, neurons.
    """
    by_end = frame.groupby(["layer", "sign"], as_index=False)["neurons"].sum()
    by_end["height"] = by_end["neurons"].where(by_end["sign"] == "promotes", -by_end["neurons"])
    chart = (
        alt.Chart(by_end, title=_title("Neurons that have it at an end, by layer", offset=10))
        .mark_bar()
        .encode(
            x=_layer_axis(layers),
            y=alt.Y("height:Q", title="neurons", axis=alt.Axis(labelExpr="abs(datum.value)", tickMinStep=1)),
            color=_coloured("sign", SIGNS),
            tooltip=[alt.Tooltip("layer:O"), alt.Tooltip("sign:N", title="end"), alt.Tooltip("neurons:Q")],
        )
        .properties(height=320)
    )
    return _plot("token_by_layer", "Neurons that promote and suppress the token, by layer", frame, chart)


def _plot(name: str, label: str, frame: pd.DataFrame, chart: AltairChart, width: int = WIDTH) -> Plot:
    return Plot(name=name, title=label, label=label, frame=frame, altair=chart, width=width)


def _title(text: str, subtitle: str = "", *, offset: int = 14) -> alt.TitleParams:
    below = [subtitle] if subtitle else alt.Undefined
    return alt.TitleParams(text, subtitle=below, anchor="start", fontSize=14, offset=offset, subtitleFontSize=11)


def _layer_axis(layers: int) -> alt.X:
    axis = alt.Axis(labelAngle=0, labelOverlap="parity", title="layer", ticks=False)
    return alt.X("layer:O", axis=axis, scale=alt.Scale(domain=list(range(layers))))


def _coloured(field: str, colours: dict[str, str]) -> alt.Color:
    """A colour for each name in a field, with its legend."""
    return alt.Color(
        f"{field}:N",
        scale=alt.Scale(domain=list(colours), range=list(colours.values())),
        legend=alt.Legend(title=None, orient="top", labelExpr=_KIND_LABEL, symbolType="square"),
    )
