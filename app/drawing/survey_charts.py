"""The charts of the overview and of a token: data frame -> Altair chart, by the rules of :mod:`app.drawing.charts`."""

import altair as alt
import pandas as pd

from app.drawing.palette import KIND_NAMES, KINDS, SIGNS

_NAMES = {"ffn": "FFN", "attention": "Attention"}


def _layer_axis(layers: int) -> alt.X:
    axis = alt.Axis(labelAngle=0, labelOverlap="parity", title="layer", ticks=False)
    return alt.X("layer:O", axis=axis, scale=alt.Scale(domain=list(range(layers))))


def _title(text: str, subtitle: str = "") -> alt.TitleParams:
    below = [subtitle] if subtitle else alt.Undefined
    return alt.TitleParams(text, subtitle=below, anchor="start", fontSize=14, offset=10, subtitleFontSize=11)


def bands(frame: pd.DataFrame, figure: str, kind: str, words: str, unit: str) -> alt.LayerChart | alt.FacetChart:
    """How a figure is spread over the neurons of each layer: its middle, its middle half, and all but the extremes.

    Columns: layer, kind, neurons, then <figure>_5, _25, _50, _75 and _95.
    """
    own = frame[frame["kind"] == kind]
    colour = KINDS[kind]
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
        found: alt.Chart = (
            alt.Chart(own).mark_area(color=colour, opacity=strength).encode(x=x, y=y, y2=f"{fields[high]}:Q")
        )
        return found

    line = (
        alt.Chart(own)
        .mark_line(color=colour, strokeWidth=2.5, point=alt.OverlayMarkDef(color=colour, size=28))
        .encode(x=x, y=f"{fields[50]}:Q", tooltip=tooltip)
    )
    title = _title(f"{_NAMES[kind]}: {words}", "line: median; bands: 25–75 % and 5–95 % of them")
    return alt.layer(area(5, 95, 0.18), area(25, 75, 0.34), line, title=title).properties(height=300)


def neurons_by_layer(frame: pd.DataFrame, layers: int) -> alt.Chart:
    """How many neurons each layer has. Columns: layer, kind, neurons."""
    chart: alt.Chart = (
        alt.Chart(frame.assign(name=frame["kind"].map(KIND_NAMES)), title=_title("Neurons by layer and kind"))
        .mark_bar()
        .encode(
            x=_layer_axis(layers),
            y=alt.Y("neurons:Q", title="neurons"),
            color=alt.Color(
                "kind:N",
                scale=alt.Scale(domain=list(KINDS), range=list(KINDS.values())),
                legend=alt.Legend(
                    title=None,
                    orient="top",
                    labelExpr="datum.label == 'ffn' ? 'FFN' : datum.label",
                    symbolType="square",
                ),
            ),
            tooltip=[
                alt.Tooltip("layer:O"),
                alt.Tooltip("name:N", title="kind"),
                alt.Tooltip("neurons:Q", format=","),
            ],
        )
        .properties(height=300)
    )
    return chart


def token_by_layer(frame: pd.DataFrame, layers: int) -> alt.Chart:
    """How many neurons of each layer promote a token, upwards, and suppress it, downwards.

    Columns: layer, kind, sign, neurons.
    """
    by_end = frame.groupby(["layer", "sign"], as_index=False)["neurons"].sum()
    by_end["height"] = by_end["neurons"].where(by_end["sign"] == "promotes", -by_end["neurons"])
    chart: alt.Chart = (
        alt.Chart(by_end, title=_title("Neurons that have it at an end, by layer"))
        .mark_bar()
        .encode(
            x=_layer_axis(layers),
            y=alt.Y("height:Q", title="neurons", axis=alt.Axis(labelExpr="abs(datum.value)", tickMinStep=1)),
            color=alt.Color(
                "sign:N",
                scale=alt.Scale(domain=list(SIGNS), range=list(SIGNS.values())),
                legend=alt.Legend(title=None, orient="top", symbolType="square"),
            ),
            tooltip=[alt.Tooltip("layer:O"), alt.Tooltip("sign:N", title="end"), alt.Tooltip("neurons:Q")],
        )
        .properties(height=320)
    )
    return chart
