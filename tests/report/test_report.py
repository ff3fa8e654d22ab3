"""The report says what the library says, holds nothing that could run or be fetched, and comes from the shell too."""

import io
import json
import re
import shlex
import subprocess
import sys
import zipfile
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pandas as pd
import pytest

from app.answers import explain, stored, two_runs
from app.answers.reading import moves_sentence, reading_of
from app.attribution import analyse, load, run_prompt
from app.attribution.__main__ import main as attribution
from app.attribution.drilldowns import to_json as to_flow_json
from app.attribution.frames import heads_frame, layers_frame, lens_frame, neurons_frame, value_neurons_frame
from app.attribution.heads import logit_lens, moves
from app.attribution.prompt import PromptToken, Settings
from app.attribution.results import Certificate, Flow, Move, to_json
from app.attribution.run import StoredRanges
from app.report import FILES, Material, Origin, file_name, tables, views
from app.report.__main__ import main, parser
from app.state.address import Limits
from app.state.selections import (
    By,
    CompareSelection,
    ManySelection,
    Map,
    NeuronSelection,
    Place,
    PromptSelection,
    Rule,
    SearchSelection,
    SteerSelection,
)
from app.words import nats, percent, signed
from db.catalogue.builds import find_catalogue
from db.catalogue.store import Catalogue
from db.neuron import Neuron, NeuronKind, parse_interventions, parse_list
from db.workspace import Workspace

CHECKOUT = Path(__file__).resolve().parents[2]
PROMPT = "The river runs to"
DISTRACTOR = 70
NASTY = "</p><script>window.canary=1</script><img src=x onerror=canary()>\x00\u202e{{ 7*7 }} $x$"
MADE = datetime(2026, 1, 31, 10, 20, tzinfo=UTC)
VOID = frozenset({"meta", "br", "img", "link"})


class Seen(HTMLParser):
    """What a page holds: its elements, its texts, and its tables as rows of cell texts, by caption."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.tables: list[list[list[str]]] = []
        self.opened: list[str] = []
        self.text = ""
        self.feed(page.decode())
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.opened.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag):
        assert self.opened.pop() == tag

    def handle_data(self, data):
        if "style" in self.opened:
            return
        self.text += data
        if {"td", "th"} & set(self.opened):
            self.tables[-1][-1][-1] += data

    def cells(self, *, first: str) -> list[list[list[str]]]:
        """The bodies of the tables whose first heading is this."""
        found = [[[cell.strip() for cell in row] for row in table] for table in self.tables]
        return [table[1:] for table in found if table[0][0] == first]


@pytest.fixture(scope="module")
def model(small_folders):
    return load(str(small_folders[0] / "llama"))


@pytest.fixture(scope="module")
def atlas(small_folders):
    with Catalogue.open(find_catalogue(small_folders[1])) as catalogue:
        yield catalogue


@pytest.fixture(scope="module")
def analysis(model, atlas):
    return analyse(model, PROMPT, suppressing=True, top=20, ranges=StoredRanges(atlas))


@pytest.fixture(scope="module")
def against(model, atlas):
    return analyse(model, PROMPT, suppressing=True, top=20, distractor=DISTRACTOR, ranges=StoredRanges(atlas))


@pytest.fixture(scope="module")
def lens(model):
    return lens_frame(logit_lens(run_prompt(model, PROMPT, Settings())))


def origin(**changes) -> Origin:
    return Origin(PromptSelection(PROMPT, top=20), model="llama", made=MADE, **changes)


def page(analysis, atlas, **more) -> bytes:
    return FILES["html"].write(Material(analysis, atlas, more.pop("origin", origin()), **more))


def said(found) -> list[list[str]]:
    """The rows of the report's table of moves."""
    return [
        [
            f"L{one.layer}.H{one.head}",
            f"{one.position} {one.token.display}",
            nats(one.score),
            percent(one.attention_weight),
        ]
        for one in found.moves
    ]


@pytest.mark.parametrize("distractor", [None, DISTRACTOR])
def test_moves_are_the_librarys_in_a_picture_and_a_table(model, atlas, analysis, against, distractor):
    found = moves(run_prompt(model, PROMPT, Settings(distractor=distractor)))
    shown = analysis if distractor is None else against
    seen = Seen(page(shown, atlas, flow=found))
    assert seen.cells(first="head")[1] == said(found)
    assert len(said(found)) == len(found.moves) == 40
    assert "Where: what heads moved, and from where" in seen.text
    assert any(moves_sentence(found, reading_of(shown)).startswith(alt[:-1]) for alt in labels(seen))
    assert tables(Material(shown, atlas, origin(), flow=found))["moves"]["score"].tolist() == [
        one.score for one in found.moves
    ]
    without = Seen(page(shown, atlas))
    assert "what heads moved" not in without.text
    assert len(without.tables) == len(seen.tables) - 1


def labels(seen: Seen) -> list[str]:
    return [values["aria-label"] for tag, values in seen.elements if tag == "svg"]


def test_moves_that_a_json_holds_are_in_its_report(small_folders, model, analysis, atlas, tmp_path):
    found = moves(run_prompt(model, PROMPT, Settings()))
    stored, out = tmp_path / "analysis.json", tmp_path / "report.html"
    stored.write_bytes(FILES["json"].write(Material(analysis, atlas, origin(), flow=found)))
    assert json.loads(stored.read_bytes())["flow"] == to_flow_json(found)
    assert main(["--analysis", str(stored), "--out", str(out), "--catalogue", str(small_folders[1])]) == 0
    assert Seen(out.read_bytes()).cells(first="head")[1] == said(found)


def test_figures_are_the_librarys(analysis, atlas, lens):
    seen = Seen(page(analysis, atlas, lens=lens))
    (predicted,) = seen.cells(first="token")
    assert [row[1] for row in predicted] == [percent(one.probability) for one in analysis.predictions]
    assert predicted[0][0].split() == [analysis.predictions[0].token.display, "explained"]
    (layers,) = seen.cells(first="layer")
    scores = layers_frame(analysis).pivot(index="layer", columns="part", values="score")
    assert layers == [[str(at), nats(row["attention"]), nats(row["ffn"])] for at, row in scores.iterrows()]
    (heads,) = seen.cells(first="head")
    best = heads_frame(analysis).sort_values("score", key=abs, ascending=False).head(len(heads))
    assert heads == [
        [f"L{layer}.H{head}", nats(score)]
        for layer, head, score in zip(best["layer"], best["head"], best["score"], strict=True)
    ]
    for name in ("ffn", "attention"):
        assert f"{analysis.certificates[NeuronKind(name)].scored:,} of" in seen.text
    assert "rules out the others" in seen.text
    assert {value["aria-label"] for tag, value in seen.elements if tag == "svg"} >= {
        "The most probable token at every layer and position"
    }


def test_neurons_have_the_tokens_of_the_end_that_their_sign_makes_active(analysis, atlas):
    seen = Seen(page(analysis, atlas, rows=15))
    tables_seen = seen.cells(first="neuron")
    frames = [
        value_neurons_frame(analysis, NeuronKind.FFN),
        value_neurons_frame(analysis, NeuronKind.ATTENTION),
        neurons_frame(analysis, analysis.ffn_suppressing_neurons),
        neurons_frame(analysis, analysis.attention_suppressing_neurons),
    ]
    assert len(tables_seen) == len(frames) + 1  # and the query neurons
    for rows, frame in zip(tables_seen, frames, strict=False):
        expected = frame.head(15)
        assert [row[0] for row in rows] == expected["neuron"].tolist()
        assert [row[-4] for row in rows] == [nats(score) for score in expected["score"]]
        assert [row[-3] for row in rows] == [signed(value) for value in expected["activation"]]
    first = analysis.ffn_value_neurons[0]
    ends = atlas.strongest_tokens([first.neuron], 6)[first.neuron]
    raised = ends.promotes if first.activation > 0 else ends.suppresses
    assert tables_seen[0][0][-2].split() == [token.display for token in raised]
    assert "The first 15 of 20" in seen.text
    query = analysis.query.ffn_neurons
    assert [row[:2] for row in tables_seen[-1]] == [[one.neuron.label, nats(one.score)] for one in query[:15]]


def test_a_contrast_is_told_and_shown(against, atlas):
    seen = Seen(page(against, atlas))
    contrast = against.contrast
    assert f"and not “{contrast.distractor.token.display}”" in seen.text
    assert f"{nats(contrast.logit_difference)} nats = {signed(contrast.embedding)} embedding" in seen.text
    assert [row[0] for row in seen.cells(first="neuron")[2]] == [one.neuron.label for one in contrast.ffn_opposing]
    assert [row[2] for row in seen.cells(first="layer")[0]] == [nats(score) for score in contrast.layers.ffn.tolist()]


def test_it_names_what_it_was_made_from(analysis, atlas):
    asked = replace(origin(base="https://atlas.example/prompt").question, place=Place(map=Map.LENS))
    made = Origin(asked, "https://atlas.example/prompt", "llama", MADE)
    text = Seen(page(analysis, atlas, origin=made)).text
    for said in (analysis.model, atlas.info.build_id, "2026-01-31 10:20 UTC", "exact: figures agree", PROMPT):
        assert said in text
    link = made.address(atlas.info)
    assert link.startswith("https://atlas.example/prompt?p=")
    params = dict(parse_qsl(urlsplit(link).query))
    read, notices = PromptSelection.read(params, Limits(atlas.info.vocabulary, atlas.info.layers, atlas.info.heads))
    assert (read, notices) == (asked, [])


@pytest.mark.parametrize("base", ["", "javascript:alert(1)//", "data:text/html,x", "file:///etc/"])
def test_only_a_web_address_becomes_a_link(analysis, atlas, base):
    seen = Seen(page(analysis, atlas, origin=origin(base=base)))
    assert all(value["href"].startswith("#") for tag, value in seen.elements if tag == "a")


@pytest.fixture(scope="module")
def hostile(against):
    """The analysis with a name, a prompt and tokens that try to get out of the page."""
    token = PromptToken(against.target.token.id, NASTY, NASTY)
    return replace(
        against,
        model="<script>canary()</script>",
        prompt=NASTY,
        tokens=tuple(replace(one, text=NASTY, display=NASTY) for one in against.tokens),
        target=replace(against.target, token=token),
        predictions=tuple(replace(one, token=replace(one.token, display=NASTY)) for one in against.predictions),
        contrast=replace(against.contrast, distractor=replace(against.contrast.distractor, token=token)),
    )


def test_nothing_hostile_becomes_an_element(hostile, atlas, lens):
    nasty_lens = lens.assign(token=NASTY, top=NASTY)
    token = hostile.tokens[0]
    nasty = Flow((Move(0, 1, 0, token, 0.5, 0.25),), Certificate(1, 1))
    assert token.display == NASTY
    data = page(
        hostile, atlas, lens=nasty_lens, flow=nasty, origin=Origin(PromptSelection(NASTY), "https://a.example/")
    )
    seen = Seen(data)
    assert {tag for tag, _ in seen.elements} & {"script", "img", "iframe", "object", "link", "base", "form"} == set()
    assert not [name for _, values in seen.elements for name in values if name.startswith("on")]
    assert "</p><script>window.canary=1</script>" in seen.text
    assert "{{ 7*7 }} $x$" in seen.text
    assert "\x00" not in seen.text
    assert "a shell cannot be given" in seen.text


def test_nothing_is_fetched_and_nothing_may_run(model, analysis, atlas, lens):
    flow = moves(run_prompt(model, PROMPT, Settings()))
    data = page(analysis, atlas, lens=lens, flow=flow, origin=origin(base="https://atlas.example/prompt")).decode()
    seen = Seen(data.encode())
    policies = [v["content"] for tag, v in seen.elements if tag == "meta" and "http-equiv" in v]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]
    sources = [v for _, values in seen.elements for name, v in values.items() if name in ("src", "srcset", "data")]
    assert sources == []
    links = [values["href"] for tag, values in seen.elements if "href" in values]
    assert [link for link in links if not link.startswith("#")] == [
        origin(base="https://atlas.example/").address(atlas.info)
    ]
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", data))
    assert "@import" not in data
    ids = [values["id"] for _, values in seen.elements if "id" in values]
    assert len(ids) == len(set(ids))
    assert {target.removeprefix("#") for target in re.findall(r"url\(([^)]*)\)", data)} <= set(ids)
    assert {link.removeprefix("#") for link in links if link.startswith("#")} <= set(ids)


def test_it_can_be_read_without_seeing(analysis, atlas):
    seen = Seen(page(analysis, atlas))
    headings = [int(tag[1]) for tag, _ in seen.elements if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == 1
    assert headings.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(headings))
    assert all(values.get("scope") for tag, values in seen.elements if tag == "th")
    assert [tag for tag, _ in seen.elements].count("caption") == len(seen.tables)
    drawings = [values for tag, values in seen.elements if tag == "svg"]
    assert len(drawings) >= 4
    assert all(values["role"] == "img" and len(values["aria-label"]) > 20 for values in drawings)


def test_data_files_hold_the_whole_analysis(against, atlas, lens):
    material = Material(against, atlas, origin(), lens)
    assert json.loads(FILES["json"].write(material)) == to_json(against)
    frames = tables(material)
    assert {"layers", "contrast_heads", "query_layers", "logit_lens", "attention_suppressing_neurons"} <= set(frames)
    with zipfile.ZipFile(io.BytesIO(FILES["parquet"].write(material))) as archive:
        assert archive.testzip() is None
        assert {name.removesuffix(".parquet") for name in archive.namelist()} == set(frames)
        read = pd.read_parquet(io.BytesIO(archive.read("contrast_ffn_neurons.parquet")))
        pd.testing.assert_frame_equal(read, frames["contrast_ffn_neurons"], check_dtype=False)
    with zipfile.ZipFile(io.BytesIO(FILES["csv"].write(material))) as archive:
        read = pd.read_csv(io.BytesIO(archive.read("heads.csv")))
        assert read["score"].tolist() == pytest.approx(frames["heads"]["score"].tolist())


def test_the_same_analysis_is_the_same_file(analysis, atlas):
    material = Material(analysis, atlas, origin())
    for form in FILES.values():
        assert form.write(material) == form.write(material)


def test_a_files_name_is_plain():
    assert file_name(FILES["html"], "../../etc/passwd\x00 “x”") == "atlas-etc-passwd-x.html"
    assert file_name(FILES["csv"], "日本") == "atlas-csv.zip"
    assert len(file_name(FILES["json"], "a " * 5000)) < 80


@pytest.mark.parametrize(
    "asked",
    [
        PromptSelection("The capital of 'France' is\n $HOME `x`"),
        PromptSelection("-v --out x", 5, 0, top=7, rule=Rule.NOTEBOOK, distractor=9, place=Place(map=Map.LENS)),
    ],
)
def test_the_shell_command_asks_the_same(asked):
    words = shlex.split(Origin(asked, model="llama").command())
    assert words[:3] == ["python", "-m", "app.report"]
    options = parser().parse_args(words[3:])
    assert (options.prompt, options.target_id, options.position, options.top) == (
        asked.prompt,
        asked.target,
        asked.position,
        asked.top,
    )
    assert (options.distractor_id, options.conventions, options.lens, options.model) == (
        asked.distractor,
        str(asked.rule),
        asked.place.map is Map.LENS,
        "llama",
    )


@pytest.mark.parametrize("prompt", ["a\x00b", "a\u202eb", "a\x1b[2J"])
def test_no_command_for_what_a_shell_cannot_be_given(prompt):
    assert Origin(PromptSelection(prompt)).command() is None


def shell(small_folders, *words: str) -> int:
    return main([*words, "--catalogue", str(small_folders[1]), "--model", str(small_folders[0] / "llama")])


def test_the_shell_writes_the_report(small_folders, analysis, atlas, tmp_path, capsys):
    out = tmp_path / "report.html"
    assert shell(small_folders, PROMPT, "--top", "20", "--measure", "0", "--out", str(out)) == 0
    assert capsys.readouterr().out == f"{out}: {out.stat().st_size:,} bytes\n"
    written, here = Seen(out.read_bytes()), Seen(page(analysis, atlas))
    assert written.cells(first="neuron") == here.cells(first="neuron")
    assert len(written.cells(first="head")[1]) == 40
    assert str(tmp_path) not in written.text
    assert str(small_folders[0]) not in written.text


def test_the_shells_report_measures_unless_told_otherwise(small_folders, tmp_path):
    out = tmp_path / "report.json"
    assert shell(small_folders, PROMPT, "--top", "5", "--method", "removed", "--out", str(out)) == 0
    written = json.loads(out.read_text())
    assert written["method"] == "removed"
    assert all(one["effect"] is not None for one in written["attention_suppressing_neurons"])
    assert shell(small_folders, PROMPT, "--top", "5", "--measure", "0", "--out", str(out)) == 0
    assert "head_effects" not in json.loads(out.read_text())


def test_a_stored_analysis_needs_no_model(small_folders, analysis, atlas, tmp_path):
    stored, out = tmp_path / "analysis.json", tmp_path / "report.html"
    stored.write_bytes(FILES["json"].write(Material(analysis, atlas, origin())))
    code = (
        "import sys; from app.report.__main__ import main; status = main(sys.argv[1:]); "
        "sys.exit(status or ('torch' in sys.modules) or ('streamlit' in sys.modules))"
    )
    words = ["--analysis", str(stored), "--out", str(out), "--catalogue", str(small_folders[1])]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=CHECKOUT, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert Seen(out.read_bytes()).cells(first="neuron") == Seen(page(analysis, atlas)).cells(first="neuron")


def without_times(path: Path) -> dict[str, object]:
    return {
        name: value for name, value in json.loads(path.read_text()).items() if name not in ("seconds", "certificates")
    }


def test_without_a_catalogue_it_has_all_but_the_tokens(small_folders, analysis, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ATLAS_CATALOGUE", str(tmp_path / "none"))
    stored, out = tmp_path / "analysis.json", tmp_path / "report.html"
    words = ["--model", str(small_folders[0] / "llama"), "--top", "20"]
    assert main([PROMPT, *words, "--out", str(stored)]) == 0
    assert "No catalogue of this model" in capsys.readouterr().err
    assert main(["--analysis", str(stored), "--out", str(out)]) == 0
    assert "No catalogue of this model" in capsys.readouterr().err
    seen = Seen(out.read_bytes())
    assert "none, so that the tokens of neurons are not shown" in seen.text
    assert not {"tokens it raised here", "promotes"} & {cell for table in seen.tables for cell in table[0]}
    labels = [row[0] for table in seen.cells(first="neuron") for row in table]
    assert labels[:20] == [one.neuron.label for one in analysis.ffn_value_neurons]
    assert len(seen.cells(first="neuron")) == 5


def test_json_holds_the_lens_and_what_else_an_analysis_was_written_with(small_folders, tmp_path, capsys):
    model = ["--model", str(small_folders[0] / "llama"), "--catalogue", str(small_folders[1])]
    assert attribution([PROMPT, *model, "--top", "5", "--lens", "--head", "L1.H2", "--flow", "3", "--json"]) == 0
    written = json.loads(capsys.readouterr().out)
    report, stored, again = (tmp_path / name for name in ("r.json", "stored.json", "again.json"))
    assert shell(small_folders, PROMPT, "--top", "5", "--lens", "--out", str(report)) == 0
    assert json.loads(report.read_text())["logit_lens"] == written["logit_lens"]
    stored.write_text("\ufeff" + json.dumps(written), encoding="utf-8")
    for more in ([], ["--lens"]):
        assert shell(small_folders, "--analysis", str(stored), *more, "--out", str(again)) == 0
        assert without_times(again) == {name: written[name] for name in without_times(again)}
        assert {"logit_lens", "head_details", "flow"} <= without_times(again).keys()
        assert shell(small_folders, "--analysis", str(stored), *more, "--out", str(tmp_path / "r.html")) == 0
        assert "Where: logit lens" in Seen((tmp_path / "r.html").read_bytes()).text
    kept = {name: value for name, value in written.items() if name != "logit_lens"}
    stored.write_text(json.dumps(kept | {"details": {"lens": {"": written["logit_lens"]}}}))
    assert shell(small_folders, "--analysis", str(stored), "--out", str(tmp_path / "r.html")) == 0
    assert "Where: logit lens" in Seen((tmp_path / "r.html").read_bytes()).text
    stored.write_text(json.dumps(kept))
    assert shell(small_folders, "--analysis", str(stored), "--lens", "--out", str(again)) == 2
    assert "--lens needs the prompt itself" in capsys.readouterr().err
    stored.write_text(json.dumps(kept | {"flow": float("nan")}))
    assert shell(small_folders, "--analysis", str(stored), "--out", str(again)) == 2
    assert "it holds NaN" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("", "--out", "r.html"), "The prompt is empty"),
        ((PROMPT, "--out", "r.docx"), "End it in .html, .json or .zip"),
        ((PROMPT, "--out", "nowhere/r.html"), "There is no folder"),
        ((PROMPT, "--out", "r.html", "--target-id", "99999"), "There is no token 99999"),
        (("--analysis", "nothing.json", "--out", "r.html"), "is no analysis that can be read"),
        (("--analysis", "nothing.json", "--target", "a", "--out", "r.html"), "--target does not go with --analysis"),
        (("--analysis", "nothing.json", "--top", "7", "--out", "r.html"), "--top does not go with --analysis"),
    ],
)
def test_what_cannot_be_done_is_one_line(small_folders, tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    assert shell(small_folders, *words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert said in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_prompt_page_hands_out_the_same(small_page, monkeypatch, atlas, model):
    import streamlit as st

    offered = {}
    real = st.download_button

    def watched(label, data, *, key, **more):
        if key.startswith("report_"):
            offered[key] = (data, more["file_name"])
        return real(label, data, key=key, **more)

    monkeypatch.setattr(st, "download_button", watched)
    small_page("prompt", p=PROMPT, k="20", map="lens")
    assert set(offered) == {f"report_{name}" for name in FILES}
    make, name = offered["report_html"]
    assert name == "atlas-the-river-runs-to.html"
    seen = Seen(make())
    assert seen.cells(first="neuron")[0][0][0].startswith("L")
    assert "Where: logit lens" in seen.text
    assert seen.cells(first="head")[1] == said(moves(run_prompt(model, PROMPT, Settings())))
    assert json.loads(offered["report_json"][0]())["prompt"] == PROMPT


def test_what_the_tokenizer_made_of_the_text_is_told(model, atlas):
    found = analyse(model, PROMPT, top=2)
    assert found.notices
    for notice in found.notices:
        assert notice in " ".join(Seen(page(found, atlas)).text.split())


# Views of other pages, and a collection of every kind


class Dreams(NeuronSelection):
    """Of a page that is not known."""

    page_name = "dreams"


@pytest.fixture
def kept(small_page, tmp_path, atlas, analysis):
    """A collection of every kind, in a workspace."""
    with Workspace.open(f"sqlite:///{tmp_path / 'atlas.sqlite'}") as workspace:
        drawer = workspace.new_collection("Rivers <b>& seas")
        entry = explain.draft("An explanation", PromptSelection(PROMPT), analysis, atlas)
        views_kept = [workspace.save(entry)]
        for one in (
            CompareSelection(PROMPT, zero=parse_list("L1.ffn")),
            SearchSelection("the", by=By.TOKEN),
            SearchSelection("river, sea", by=By.CONCEPT),
            NeuronSelection("L1.F3"),
            NeuronSelection("L99.F3"),
            ManySelection("The sea\nThe hill", other="A road"),
            SteerSelection(PROMPT, interventions=parse_interventions("L1.F3=2")),
            Dreams("L1.F3"),
        ):
            views_kept.append(stored.save_view(one, f"A {one.page_name} {NASTY[:40]}", "about", atlas))
        for each in views_kept:
            workspace.collect_analysis(drawer.id, each.id)
        workspace.collect_neuron(drawer.id, "llama", Neuron.ffn(2, 5))
        yield workspace, workspace.collections()[0]


def test_a_collections_report_has_all_its_kinds(kept, atlas):
    workspace, drawer = kept
    told = views.of_collection(workspace, drawer, atlas)
    pages = ["prompt", "compare", "search", "search", "neuron", "neuron", "many", "steer", "dreams", "neuron"]
    assert [one.page for one in told] == pages
    assert all(one.sentences for one in told)
    assert [bool(one.charts) for one in told] == [one in (0, 1, 2, 3, 4, 9) for one in range(10)]
    seen = Seen(views.html(drawer.name, told, atlas, "http://localhost/x/"))
    elements = [name for name, _ in seen.elements]
    assert elements.count("svg") == 2 * 2 + 2 * 1 + 2 * 2
    assert not {"script", "img", "b", "link"} & set(elements)
    assert "Rivers <b>& seas" in seen.text
    assert "Against: A road" in seen.text
    ids = [attributes["id"] for _, attributes in seen.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for kind in views.KINDS.values():
        assert kind in seen.text
    links = [attributes["href"] for name, attributes in seen.elements if name == "a" and "http" in attributes["href"]]
    assert [urlsplit(one).path for one in links] == [f"/x/{page}" for page in pages if page != "dreams"]


def test_a_comparison_and_a_neuron_are_told_with_the_librarys_figures(kept, model, atlas):
    asked = CompareSelection(PROMPT, zero=parse_list("L1.ffn"))
    found = two_runs.comparison(atlas, asked)
    seen = Seen(views.alone("x", asked, atlas, ""))
    assert two_runs.sentence(found, asked.zero) in seen.text
    rows = seen.cells(first="neuron")[0]
    expected = [[one.neuron.label, nats(one.score)] for one in found.neurons[NeuronKind.FFN][:30]]
    assert [row[:2] for row in rows] == expected
    tokens = seen.cells(first="token")[0]
    assert [row[1:3] for row in tokens] == [[percent(one.first), percent(one.second)] for one in found.predictions]
    card = atlas.neuron(Neuron.ffn(1, 3))
    promoted, suppressed = Seen(views.alone("x", NeuronSelection("L1.F3"), atlas, "")).cells(first="rank")
    for rows, entries in ((promoted, card.top), (suppressed, card.bottom)):
        assert [row[2:] for row in rows] == [[signed(one.logit), signed(one.z)] for one in entries[:30]]
