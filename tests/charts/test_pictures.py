"""Charts as files: well-formed, literal, in the page's colours, and to be had beside every chart of every page."""

import ast
import io
import json
import struct
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import altair as alt
import pandas as pd
import pytest
import streamlit as st
from PIL import Image
from streamlit.testing.v1 import AppTest

from app import charts
from app.charts import (
    Cell,
    Chart,
    ColouredText,
    Columns,
    Flow,
    Grid,
    Group,
    Move,
    Predictions,
    pictures,
    shade,
)
from app.charts.pictures import inline_svgs, png, printed, set_in_lines, svg, visible
from app.state.selections import Section
from db.errors import AtlasError
from tests.pages import unfolded

CHECKOUT = Path(__file__).resolve().parents[2]
SVG = "{http://www.w3.org/2000/svg}"
NASTY = (
    "</text><script>window.canary=1</script>",
    "a\x00b",
    "\u202eevil",
    "$x$ **b** :red[c]",
    "]]>&amp;<!--",
    "\"\\'",
)
DRAWN = ("predictions", "layers", "flow", "heads", "heads_of_layer", "lens", "coloured_text")
CHARTS = frozenset({"columns", "grid", "coloured", "flow"})
"""Views of our component that are charts."""


def heads(scores: list[list[float]]) -> Grid:
    """Scores by layers and heads."""
    rows = tuple((str(head), tuple(Cell(row[head]) for row in scores)) for head in range(len(scores[0])))
    return Grid(**said("heads"), axes=("head", "layer"), columns=tuple(map(str, range(len(scores)))), rows=rows)


def said(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "title": "A title <b>",
        "label": name,
        "subject": "of a prompt & more",
        "frame": pd.DataFrame({"score": [1.0]}),
    }


def texts(drawing: bytes | str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(drawing).iter(f"{SVG}text")]


def coloured(tokens: tuple[str, ...]) -> ColouredText:
    pieces = tuple(Cell(1.0 + place, text=token) for place, token in enumerate(tokens))
    return ColouredText(**said("coloured_text"), pieces=pieces)


@cache
def every_chart() -> dict[str, Chart]:
    both = (("attention", "attention"), ("FFN", "ffn"))
    lens_rows = (
        ("output", (Cell(0.2, text=NASTY[2]), Cell(1.0, text=NASTY[3]))),
        ("0", (Cell(0.0, text=NASTY[0]), Cell(0.01, text=NASTY[1]))),
    )
    return {
        "predictions": Predictions(
            **said("predictions"),
            bars=tuple(
                Cell(probability, text=token, current=place == 1)
                for place, (token, probability) in enumerate(zip(NASTY, (0.5, 0.25, 0.01), strict=False))
            ),
        ),
        "layers": Columns(
            **said("layers"), axis="layer", series=both, groups=(Group("0", (0.1, -0.2)), Group("1", (3.0, 0.0)))
        ),
        "flow": Flow(
            **said("flow"), tokens=NASTY[:3], moves=(Move(0, 0, 1.0), Move(1, 2, -0.5)), ffn=(Cell(0.0), Cell(1.0))
        ),
        "heads": heads([[0.1, -2.0], [0.0, 4.0]]),
        "heads_of_layer": Columns(
            **said("heads_of_layer"), axis="head", series=both[:1], groups=(Group("0", (0.1,)), Group("1", (-2.0,)))
        ),
        "lens": Grid(
            **said("lens"),
            axes=("into layer", "position"),
            columns=tuple(f"{place} {token}" for place, token in enumerate(NASTY[:2])),
            rows=lens_rows,
            sides=None,
        ),
        "coloured_text": coloured(NASTY),
    }


@pytest.mark.parametrize("name", DRAWN)
def test_an_svg_is_well_formed_and_holds_its_texts_as_text(name):
    drawing = svg(*printed(every_chart()[name]))
    root = ElementTree.fromstring(drawing)
    assert root.tag == f"{SVG}svg"
    assert "A title <b>" in texts(drawing)
    assert "of a prompt & more" in texts(drawing)
    assert not list(root.iter(f"{SVG}script")) + list(root.iter(f"{SVG}image"))
    fetched = [value for element in root.iter() for key, value in element.attrib.items() if key.endswith("href")]
    assert fetched == []
    assert b"rgba(" not in drawing


@pytest.mark.parametrize(
    "name", ["flow", *(pytest.param(one, marks=pytest.mark.slow) for one in DRAWN if one != "flow")]
)
def test_a_png_is_of_twice_the_size_and_white(name):
    data = png(printed(every_chart()[name])[0], 600)
    width, height = struct.unpack(">II", data[16:24])
    assert width == 1200
    assert 300 < height < 2400
    image = Image.open(io.BytesIO(data)).convert("RGB")
    assert image.getpixel((1, 1)) == image.getpixel((width - 2, height - 2)) == (255, 255, 255)
    assert len(image.getcolors(1 << 20) or []) > 10


def test_hostile_tokens_stand_in_the_picture_literally():
    shown = " ".join(texts(svg(*printed(every_chart()["coloured_text"]))))
    assert "</text><script>window.canary=1</script>" in shown
    assert "a⟨U+0000⟩b" in shown
    assert "⟨U+202E⟩evil" in shown
    assert "$x$ **b** :red[c]" in shown


@pytest.mark.parametrize(
    "character", ["\x00", "\x1b", "\x7f", "\u200b", "\u202e", "\u2028", "\ud800", "\ufffe", "\ue000"]
)
def test_what_nobody_sees_becomes_visible(character):
    assert visible(f"a{character}b") == f"a⟨U+{ord(character):04X}⟩b"


def test_a_map_has_the_colours_of_the_page():
    scores = [-4.0, -1.0, -0.05, 0.0, 0.3, 2.0, 4.0]
    drawing = svg(*printed(heads([[score] for score in scores])))
    cells = [
        element.get("fill", "")
        for element in ElementTree.fromstring(drawing).iter(f"{SVG}path")
        if element.get("stroke-width") == "0.5"
    ]
    assert len(cells) == len(scores)
    for score, cell in zip(scores, cells, strict=True):
        strength = 0.66 * abs(shade(score, 4.0))  # as app/ui/components/frontend/atlas.css mixes it
        colour = charts.PROMOTES if score > 0 else charts.SUPPRESSES
        mixed = [255 + (int(colour[at : at + 2], 16) - 255) * strength for at in (1, 3, 5)]
        found = [int(part) for part in cell.removeprefix("rgb(").removesuffix(")").split(",")]
        assert found == pytest.approx(mixed, abs=3), (score, cell)


def test_a_picture_within_a_page_has_its_ink_and_no_ground():
    (drawing,) = inline_svgs([(printed(every_chart()["heads"])[0], 600)])
    assert 'fill="currentColor"' in drawing
    assert 'fill="white"' not in drawing


def test_coloured_text_fills_lines_without_overlap():
    rows = set_in_lines([f"␣word{number}" for number in range(60)])
    assert rows["line"].nunique() > 1
    assert rows["end"].max() <= 90
    for _, line in rows.groupby("line"):
        assert (line["start"].iloc[1:].to_numpy() >= line["end"].iloc[:-1].to_numpy()).all()


def test_charts_of_nothing_are_still_pictures():
    assert b"A title" in svg(*printed(coloured(())))
    assert b"A title" in svg(*printed(heads([[0.0]])))


def test_a_converter_that_fails_ends_in_a_sentence_and_not_in_the_servers_end():
    broken = alt.Chart({"values": [{"a": 1}]}).mark_bar().encode(x=alt.X("a:Q", axis=alt.Axis(labelExpr="](")))
    with pytest.raises(AtlasError, match="could not be made into a picture"):
        svg(broken)


Files = dict[str, Callable[[], bytes]]


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> Files:
    """What the controls of the page that is run next offer, by key."""
    offered: Files = {}
    real = st.download_button

    def watched(label, data, *, key, **more):
        if key.startswith("picture_"):
            offered[key] = data
        return real(label, data, key=key, **more)

    monkeypatch.setattr(st, "download_button", watched)
    return offered


def charts_of(app: AppTest) -> int:
    """Charts on a page: Altair's, and our component's."""
    views = [json.loads(element.proto.json)["view"] for element in app.get("bidi_component") if element.proto.json]
    return len(app.get("vega_lite_chart")) + sum(view in CHARTS for view in views)


def make_together(offered: Files) -> None:
    """Let one process make what is offered, where each would start one of its own; afterwards it is on the shelf."""
    jobs: list[pictures._Job] = []

    def noted(asked: Sequence[pictures._Job]) -> list[str]:
        jobs.extend(asked)
        return [""] * len(asked)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "_made", noted)
        for make in offered.values():
            make()
    pictures._made(jobs)


def check(app: AppTest, offered: Files, most_beside: int = 0) -> None:
    """Each chart has its control, and what that hands out is what it says. Controls may stand at other drawings too."""
    names = {key.rpartition("_")[0] for key in offered}
    assert charts_of(app) > 0
    assert charts_of(app) <= len(names) <= charts_of(app) + most_beside
    make_together(offered)
    for name in names:
        assert ElementTree.fromstring(offered[f"{name}_svg"]()).tag == f"{SVG}svg"
        assert offered[f"{name}_png"]().startswith(b"\x89PNG")
        assert offered[f"{name}_csv"]().count(b"\r\n") >= 2


PROMPT = "The river runs to"


@pytest.mark.parametrize(
    "place",
    [{}, {"head": "L1.H2"}, {"map": "lens"}, {"show": "query", "own": "L1.H1.N2@1"}, {"show": "lowered", "not": "70"}],
)
@pytest.mark.slow
def test_every_chart_of_the_prompt_page_can_be_had(small_page, files, place):
    every = ",".join(Section)
    # The predictions are bars of another view.
    check(small_page("prompt", p=PROMPT, open=every, **place), files, most_beside=1)


@pytest.mark.parametrize("label", ["L1.F2", "L1.H1.N2"])
@pytest.mark.slow
def test_every_chart_of_a_neuron_can_be_had(small_page, files, label):
    check(small_page("neuron", n=label, **{"try": PROMPT}), files)


@pytest.mark.parametrize(
    ("page", "params"),
    [
        ("search", {"q": "Python"}),
        ("search", {"q": "Python code", "by": "concept"}),
        ("token", {"t": "3"}),
        ("overview", {}),
        ("neuron", {"n": "L1.F2"}),
    ],
)
@pytest.mark.slow
def test_every_chart_of_the_catalogue_pages_can_be_had(toy_page, files, page, params):
    check(unfolded(toy_page(page, **params)), files)


@pytest.mark.slow
def test_every_chart_of_a_comparison_can_be_had(small_page, files):
    check(small_page("compare", p=PROMPT, p2="The road runs to"), files)


@pytest.mark.slow
def test_every_chart_of_many_prompts_can_be_had(small_page, files):
    check(small_page("many", ps=f"{PROMPT}\nOne two"), files)


def test_pages_draw_charts_by_show_alone():
    """It is what hands out each chart as files."""
    for path in (CHECKOUT / "app" / "ui" / "pages").rglob("*.py"):
        calls = [node.func for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
        called = {call.attr for call in calls if isinstance(call, ast.Attribute)}
        called |= {call.id for call in calls if isinstance(call, ast.Name)}
        assert not called & {"altair_chart", "mount"}, path
