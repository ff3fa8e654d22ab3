"""Data frame -> Altair chart. Nothing here knows Streamlit, and nothing is computed beyond what the marks need.

Tokens are labels of ranks or indices, never positions of their own: two places that show the same token stay apart.
"""

import altair as alt
import pandas as pd

from app.palette import DIVERGING, KIND_NAMES, KINDS, MARK, NEUTRAL, SIGNS
from db.neuron import Sign
from db.token_text import shorten

_LAYER = alt.Axis(labelAngle=0, labelOverlap="parity", title="layer", ticks=False)
_KIND_LABEL = "datum.label == 'ffn' ? 'FFN' : datum.label"
_TOKEN_WIDTH = 130
_TOKEN_ROW = 20
_FIGURE_SPACE = "\u2007"


def layer_bars(frame: pd.DataFrame) -> alt.Chart:
    """Score of each layer's attention and FFN, side by side. Columns: layer, part, score (nats)."""
    chart: alt.Chart = (
        alt.Chart(frame.assign(name=frame["part"].map(KIND_NAMES)), title=_title("Layers: attention beside FFN"))
        .mark_bar()
        .encode(
            x=alt.X("layer:O", axis=_LAYER),
            xOffset=alt.XOffset("part:N", sort=list(KINDS)),
            y=alt.Y("score:Q", title="score (nats)"),
            color=_kind_colour("part"),
            tooltip=[
                alt.Tooltip("layer:O"),
                alt.Tooltip("name:N", title="part"),
                alt.Tooltip("score:Q", title="score (nats)", format="+.3f"),
            ],
        )
        .properties(height=400)
    )
    return chart


def head_map(frame: pd.DataFrame) -> alt.Chart:
    """Score of every head, around zero; the colour grows with its logarithm, or one strong head would hide all others.

    Columns: layer, head, score (nats).
    """
    most = max(float(frame["score"].abs().max()), 1e-6) if len(frame) else 1.0
    heads = int(frame["head"].nunique())
    chart: alt.Chart = (
        alt.Chart(frame, title=_title("Attention heads"))
        .mark_rect()
        .encode(
            x=alt.X("layer:O", axis=_LAYER),
            y=alt.Y("head:O", title="head", axis=alt.Axis(labelOverlap="parity", ticks=False)),
            color=alt.Color(
                "score:Q",
                scale=alt.Scale(
                    type="symlog", constant=most / 8, domain=[-most, 0, most], range=list(DIVERGING), interpolate="rgb"
                ),
                legend=alt.Legend(
                    title="score (nats), logarithmic colour: lowers | raises",
                    titleLimit=320,
                    orient="top",
                    format="+.2f",
                    values=[-most, 0, most],
                    gradientLength=220,
                    gradientThickness=10,
                ),
            ),
            tooltip=[
                alt.Tooltip("layer:O"),
                alt.Tooltip("head:O"),
                alt.Tooltip("score:Q", title="score (nats)", format="+.3f"),
            ],
        )
        .properties(height=170 + max(160, min(24 * heads, 640)))
    )
    return chart


def layer_distribution(frame: pd.DataFrame, layers: int) -> alt.Chart:
    """How many neurons of each layer were found, by kind. Columns: layer, kind, neurons."""
    chart: alt.Chart = (
        alt.Chart(frame.assign(name=frame["kind"].map(KIND_NAMES)), title=_title("Found neurons by layer"))
        .mark_bar()
        .encode(
            x=alt.X("layer:O", axis=_LAYER, scale=alt.Scale(domain=list(range(layers)))),
            y=alt.Y("sum(neurons):Q", title="neurons", axis=alt.Axis(tickMinStep=1, format="d")),
            color=_kind_colour("kind"),
            tooltip=[
                alt.Tooltip("layer:O"),
                alt.Tooltip("name:N", title="kind"),
                alt.Tooltip("sum(neurons):Q", title="neurons"),
            ],
        )
        .properties(height=400)
    )
    return chart


def token_bars(card: pd.DataFrame, sign: Sign, first: int, *, faint: bool = False) -> alt.Chart:
    """Logits of the first tokens of one end. Columns: sign, rank, token (display form), token_id, logit, z."""
    rows = card[(card["sign"] == str(sign)) & (card["rank"] <= first)]
    labelled = rows.assign(
        label=[
            f"{shorten(token, 14)} {str(rank).rjust(2, _FIGURE_SPACE)}"
            for token, rank in zip(rows["token"], rows["rank"], strict=True)
        ]
    )
    chart: alt.Chart = (
        alt.Chart(labelled, title=_title(f"Logits of the first {len(rows)} tokens it {sign}"))
        .mark_bar(color=SIGNS[sign], opacity=0.4 if faint else 1, height=alt.RelativeBandSize(0.72))
        .encode(
            y=alt.Y(
                "label:N",
                sort=alt.SortField("rank"),
                axis=alt.Axis(
                    title=None,
                    labelFont="monospace",
                    labelLimit=_TOKEN_WIDTH,
                    minExtent=_TOKEN_WIDTH,
                    labelOverlap=False,
                    ticks=False,
                ),
            ),
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
    return chart


def standing(layer: pd.DataFrame, column: str, value: float, title: str, unit: str) -> alt.LayerChart | alt.FacetChart:
    """Where one neuron lies among its layer: a histogram of ``column`` with a rule at ``value``."""
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
    return alt.layer(bars, rule, title=_title(title)).properties(height=230)


def _title(text: str) -> alt.TitleParams:
    return alt.TitleParams(text, anchor="start", fontSize=14, dy=0, offset=14)


def _kind_colour(field: str) -> alt.Color:
    return alt.Color(
        f"{field}:N",
        scale=alt.Scale(domain=list(KINDS), range=list(KINDS.values())),
        legend=alt.Legend(title=None, orient="top", labelExpr=_KIND_LABEL, symbolType="square"),
    )
