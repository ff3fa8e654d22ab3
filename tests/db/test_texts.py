"""Texts beside a build: what was published is what was counted; what is damaged or foreign is ignored with a reason."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import duckdb
import numpy as np
import pytest

import db.texts.publish
import db.texts.schema
from db.__main__ import main
from db.catalogue.builds import TEXTS, prune
from db.catalogue.export import as_json
from db.catalogue.publish import create_tables
from db.catalogue.reader import read_only_connection
from db.catalogue.store import Catalogue
from db.errors import AtlasError, NotFoundError
from db.neuron import Neuron, NeuronKind, Sign
from db.questions import Search, TextsOf
from db.texts.names import Label
from db.texts.publish import Gathered, name_again, publish_texts
from db.texts.records import AFTER, BEFORE, Name, NeuronTexts
from tests.catalogues import TOKENS, ToyCatalogue, make_catalogue
from tests.texts import LENGTHS, Made, give_texts, halves, make_texts, part

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def with_texts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ToyCatalogue, Made]:
    toy = make_catalogue(tmp_path_factory.mktemp("texts"))
    return toy, give_texts(toy.path)


@pytest.fixture(scope="module")
def atlas(with_texts: tuple[ToyCatalogue, Made]) -> Iterator[Catalogue]:
    with Catalogue.open(with_texts[0].path) as opened:
        yield opened


def of(atlas: Catalogue, neuron: Neuron, limit: int = 10) -> NeuronTexts:
    return TextsOf(label=neuron.label, limit=limit).answer(atlas)


@pytest.fixture(scope="module")
def made(with_texts: tuple[ToyCatalogue, Made]) -> Made:
    return with_texts[1]


def test_every_figure_is_what_was_counted(atlas: Catalogue, made: Made) -> None:
    starts = np.concatenate([[0], np.cumsum(LENGTHS)])
    for row, neuron_id in enumerate(made.neuron_ids):
        found, values = of(atlas, atlas.layout.neuron(int(neuron_id))), made.activations[row]
        active = np.abs(values) >= found.active_above
        assert (found.tokens_seen, found.highest, found.lowest) == (134, values.max(), values.min())
        assert (found.mean, found.std) == (values.mean(dtype=float), values.std(dtype=float))
        assert (found.rate, found.positive_share) == (active.mean(), (values > 0).mean())
        assert found.active_positive_share == (values[active] > 0).mean()
        promotes = (values[active] > 0).sum() >= (values[active] < 0).sum()
        assert found.usual is (Sign.PROMOTES if promotes else Sign.SUPPRESSES)
        assert [(one.low, one.high) for one in found.histogram] == sorted(
            (one.low, one.high) for one in found.histogram
        )
        for bin_ in found.histogram:
            assert bin_.count == ((bin_.low <= values) & (values < bin_.high)).sum() > 0
        assert sum(case.share for case in found.cases) == pytest.approx(1)
        assert [(case.gate, case.up) for case in found.cases] == [("+", "+"), ("+", "-"), ("-", "+"), ("-", "-")]
        assert max(abs(case.strongest or 0) for case in found.cases) == np.abs(values).max()
        for sign, excerpts in ((1, found.positive), (-1, found.negative)):
            best = sorted(((sign * values[a:b]).max(), -i) for i, (a, b) in enumerate(pairwise(starts)))
            best = [(sign * peak, -i) for peak, i in best[::-1] if peak > 0][:3]
            assert [(one.peak, one.window) for one in excerpts] == best
            for one in excerpts:
                window = made.windows[one.window]
                here = slice(max(0, one.position - BEFORE), one.position + 1 + AFTER)
                assert one.document == window.document
                assert one.first == here.start
                assert [token.token_id for token in one.tokens] == window.token_ids[here]
                exact = values[starts[one.window] : starts[one.window + 1]][here]
                np.testing.assert_allclose(one.activations, exact, rtol=0, atol=np.abs(exact).max() * 2**-11)
                assert one.activations[one.peak_at] == one.peak == values[starts[one.window] + one.position]


def test_the_json_is_exact(with_texts: tuple[ToyCatalogue, Made], atlas: Catalogue, capsys: Capture) -> None:
    assert main(["texts", "L1.F3", "--limit", "1", "--json", "--catalogue", str(with_texts[0].path)]) == 0
    told = json.loads(capsys.readouterr().out)
    found = of(atlas, Neuron.ffn(1, 3), 1)
    assert list(told) == [
        *("neuron", "tokens_seen", "rate", "mean", "std", "positive_share", "positive", "negative"),
        *("active_above", "active_positive_share", "usual", "highest", "lowest", "cases", "histogram"),
        *("name", "name_rule", "name_confidence", "description", "description_score", "described_by"),
    ]
    assert told == as_json(found)
    (excerpt,) = told["positive"]
    assert list(excerpt) == [
        *("peak", "document", "position", "tokens", "activations", "first", "window", "gate"),
    ]
    assert excerpt["tokens"] == [token.text for token in found.positive[0].tokens]
    assert list(told["cases"][0]) == ["gate", "up", "share", "mean", "strongest"]
    assert list(told["histogram"][0]) == ["low", "high", "count"]


def test_who_lists_neurons_says_which_end_is_usual(atlas: Catalogue, made: Made) -> None:
    usual = {one.label: of(atlas, one).usual for one in map(atlas.layout.neuron, map(int, made.neuron_ids))}
    assert set(usual.values()) == set(Sign)
    hits = Search(text=" Python").answer(atlas)
    ends = atlas.concept_neurons(atlas.concept("python"))
    for listed in (hits, ends, atlas.similar(Neuron.ffn(0, 0)), atlas.most_peaked()):
        assert {one.neuron.kind for one in listed} == set(NeuronKind)
        assert [one.usual for one in listed] == [usual.get(one.neuron.label) for one in listed]
    assert atlas.neuron(Neuron.ffn(2, 1)).usual == usual["L2.F1"]
    assert as_json(hits)[0]["usual"] in (None, "promotes", "suppresses")
    marks = atlas.marks([Neuron.ffn(0, 1), Neuron.attention(0, 0, 1)])
    assert list(marks) == [Neuron.ffn(0, 1)]
    with pytest.raises(NotFoundError, match=r"L0.H0.N1: attention neurons were left out"):
        of(atlas, Neuron.attention(0, 0, 1))
    with pytest.raises(NotFoundError, match="FFN neurons 0–6"):
        of(atlas, Neuron.ffn(0, 7))


def test_attention_and_never_active(tmp_path: Path) -> None:
    toy = make_catalogue(tmp_path)
    made = make_texts(toy.path, k=2, attention=True)
    dead, gathered = 5, made.gathered
    for name in ("mean", "std", "positive", "negative", "active_positive", "active_negative", "highest", "lowest"):
        getattr(gathered, name)[dead] = 0
    gathered.window[dead], gathered.octaves[dead] = -1, np.eye(9, dtype=int)[4] * 134
    publish_texts(toy.directory, made.stamp, halves(gathered), made.windows)
    with Catalogue.open(toy.path) as atlas:
        assert of(atlas, Neuron.attention(1, 0, 2)).positive[0].gate is None
        assert of(atlas, Neuron.attention(1, 0, 2)).cases == ()
        found = of(atlas, Neuron.ffn(0, dead))
        assert (found.usual, found.active_positive_share, found.rate, found.positive) == (None, None, 0, ())
        assert atlas.texts
        assert atlas.texts.marks([Neuron.ffn(0, dead)])[Neuron.ffn(0, dead)].usual is None
        statistics = atlas.texts.statistics(1, NeuronKind.ATTENTION)
        np.testing.assert_array_equal(statistics.mean, gathered.mean[20:26])
        np.testing.assert_array_equal(statistics.highest, gathered.highest[20:26])


def _text_of(one: object) -> str:
    return b"".join(TOKENS[token.token_id] for token in one.tokens).decode("utf-8", "replace").casefold()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("words", "must_hold"), [("PYTHON", ["python"]), ("drop table", ["drop", "table"]), ("日", ["日"])]
)
def test_excerpts_that_hold_words(atlas: Catalogue, made: Made, words: str, must_hold: list[str]) -> None:
    assert atlas.texts
    found = atlas.texts.search_excerpts(words, limit=1000)
    every = [
        (neuron.label, one.window, sign)
        for neuron in map(atlas.layout.neuron, map(int, made.neuron_ids))
        for sign in Sign
        for one in of(atlas, neuron).at(sign)
        if all(word in _text_of(one) for word in must_hold)
    ]
    # “python” must begin a word, and in these texts words run into each other.
    listed = [(one.neuron.label, one.excerpt.window, one.sign) for one in found]
    assert set(listed) <= set(every)
    assert len(listed) == len(set(listed)) > 5
    if words != "PYTHON":
        assert set(listed) == set(every)
    assert [abs(one.z) for one in found] == sorted((abs(one.z) for one in found), reverse=True)
    assert atlas.texts.search_excerpts(words, limit=3, offset=2) == found[2:5]


def test_excerpts_that_nobody_finds(atlas: Catalogue) -> None:
    assert atlas.texts
    assert atlas.texts.search_excerpts("ython") == ()
    assert atlas.texts.search_excerpts('"Pytho"') == ()
    assert atlas.texts.search_excerpts("100%") == ()
    for text, problem in (("  ", "from 1 to 16 words; 0"), ("a b c d e f g h i j k l m n o p q", "17"), ("", "empty")):
        with pytest.raises(AtlasError, match=problem):
            atlas.texts.search_excerpts(text)


def test_a_few_windows_of_many_are_found_without_decompressing_others(tmp_path: Path) -> None:
    loose = tmp_path / "texts.duckdb"
    with duckdb.connect(str(loose)) as connection:
        create_tables(connection, db.texts.schema.metadata)
        text = "'the same words again and again'"
        connection.execute(f"INSERT INTO text_window SELECT i, i, 0, {text}::BLOB, {text} FROM range(5000) r(i)")
        connection.execute("CHECKPOINT")
    db.texts.publish._close_gaps(loose)
    with read_only_connection(loose) as connection:
        query = "SELECT DISTINCT column_name, compression FROM pragma_storage_info('text_window')"
        found = set(connection.execute(f"{query} WHERE segment_type <> 'VALIDITY'").fetchall())
    assert ("token_ids", "Uncompressed") in found
    assert ("folded", "Uncompressed") not in found


def test_tokens_that_the_unembedding_lacks(tmp_path: Path) -> None:
    toy = make_catalogue(tmp_path)
    made = make_texts(toy.path, k=3)
    windows = [one._replace(token_ids=[99] * len(one.token_ids)) for one in made.windows]
    publish_texts(toy.directory, made.stamp, [made.gathered], windows)
    with Catalogue.open(toy.path) as atlas:
        assert {token.text for token in of(atlas, Neuron.ffn(0, 0)).positive[0].tokens} == {"⟨99⟩"}


def test_nasty_tokens_are_told_apart_on_the_terminal(with_texts: tuple[ToyCatalogue, Made], capsys: Capture) -> None:
    for command in (["texts", "L1.F3"], ["excerpts", "python"], ["named", "python"]):
        assert main([*command, "--catalogue", str(with_texts[0].path)]) == 0
        shown = capsys.readouterr().out
        assert not set("\u202e\u200b\u00ad\0\r\t") & set(shown)
        assert ("⟨U+202E⟩" in shown and "⟨E4⟩" in shown) == (command[0] != "named")


@pytest.mark.parametrize("form", ["csv", "json", "parquet"])
@pytest.mark.parametrize("what", [("texts", "L1.F3"), ("excerpts", "python"), ("named", "drop table")])
def test_exports(
    with_texts: tuple[ToyCatalogue, Made],
    tmp_path: Path,
    what: tuple[str, str],
    form: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import pandas as pd

    path = with_texts[0].path
    if what[0] == "named":  # no name of the toy's neurons is clear
        monkeypatch.setattr("db.texts.names.CLEAR", 0.05)
        path = make_catalogue(tmp_path).path
        give_texts(path)
    target = tmp_path / f"found.{form}"
    assert main(["export", *what, "--to", str(target), "--catalogue", str(path)]) == 0
    read: dict[str, Callable[[Path], pd.DataFrame]]
    read = {"csv": pd.read_csv, "json": pd.read_json, "parquet": pd.read_parquet}
    rows = read[form](target)
    assert len(rows) == 6 if what[0] == "texts" else len(rows) > 0
    if what[0] == "named":
        assert rows["name"].tolist() == ["'; DROP TABLE token; --"]
    if what[0] == "texts":
        assert rows["sign"].tolist() == ["promotes"] * 3 + ["suppresses"] * 3
        assert form == "csv" or len(rows["activations"][0]) <= 32


# Files that are not what they should be.


@pytest.fixture
def copy(with_texts: tuple[ToyCatalogue, Made], tmp_path: Path) -> Path:
    """A folder of its own with the build and its texts; returns the build."""
    folder = tmp_path / "toy"
    shutil.copytree(with_texts[0].directory, folder)
    return folder / with_texts[0].path.name


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-300_000])


def _foreign_database(path: Path) -> None:
    path.unlink()
    duckdb.connect(str(path)).execute("CREATE TABLE cats (name TEXT)").close()


def _changed(statement: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with duckdb.connect(str(path)) as connection:
            connection.execute(statement)

    return change


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (_cut, "(cut short|not a readable file of texts)"),
        (lambda path: path.write_bytes(b"not a database" * 1000), "not a readable file of texts"),
        (_foreign_database, "not a file of texts"),
        (_changed("UPDATE texts SET schema_version = 99"), "schema version 99, but this program reads version 2"),
        (_changed("ALTER TABLE excerpt DROP COLUMN gate"), "not a file of texts"),
        (
            _changed("UPDATE texts SET checkpoint = 'sha256 0123456789abcdef'"),
            "another checkpoint .sha256 0123456789ab",
        ),
        (lambda path: path.unlink(), "no file of texts here"),
        (lambda path: (path.parent / TEXTS).write_text("../evil.duckdb\n"), "no file of texts here"),
    ],
    ids=["cut", "no database", "foreign", "version", "column", "checkpoint", "missing", "pointer"],
)
def test_what_does_not_fit_is_ignored_with_a_reason(copy: Path, spoil: Callable[[Path], None], problem: str) -> None:
    spoil(copy.parent / "texts-made.duckdb")
    with Catalogue.open(copy) as atlas:
        assert atlas.texts is None
        assert atlas.search_token([1])[0].usual is None
        with pytest.raises(NotFoundError, match=rf"{problem}.*indexer texts"):
            of(atlas, Neuron.ffn(0, 0))


@pytest.mark.parametrize("change", ["neuron_text SET histogram", "neuron_excerpts SET activations"])
def test_what_was_packed_and_cannot_be_unpacked_is_damaged(copy: Path, change: str) -> None:
    _changed(f"UPDATE {change} = '\\xFF\\xFF\\xFF\\xFF'::BLOB")(copy.parent / "texts-made.duckdb")
    with Catalogue.open(copy) as atlas, pytest.raises(AtlasError, match=r"texts is damaged.*indexer texts"):
        of(atlas, Neuron.ffn(0, 0))


def test_damage_that_opening_does_not_see(copy: Path) -> None:
    path = copy.parent / "texts-made.duckdb"
    with duckdb.connect(str(path)) as connection:  # a block of its own for the figures
        connection.execute("UPDATE neuron_text SET active_positive = hash(neuron_id) % 100, name = repeat('x', 3000)")
    data = bytearray(path.read_bytes())
    for place in range(12_288 + 4_096, len(data), 16_384):
        data[place] ^= 0xFF
    path.write_bytes(data)
    with Catalogue.open(copy) as atlas:
        assert atlas.search_token([1])[0].usual is None
        assert "indexer texts" in atlas.texts_problem


def test_new_texts_show_in_an_open_build(tmp_path: Path) -> None:
    toy = make_catalogue(tmp_path)
    with Catalogue.open(toy.path) as atlas:
        assert (atlas.texts, atlas.texts_problem) == (None, "")
        with pytest.raises(NotFoundError, match=r"No texts were gathered for toy\. Gather them with"):
            of(atlas, Neuron.ffn(0, 0))
        give_texts(toy.path)
        first = of(atlas, Neuron.ffn(0, 0))
        made = give_texts(toy.path, seed=1, texts_id="two")
        assert of(atlas, Neuron.ffn(0, 0)) != first
        assert sorted(path.name for path in toy.directory.iterdir()) == [
            *("CURRENT", "TEXTS", "build-one.duckdb", "texts-made.duckdb", "texts-two.duckdb")
        ]
        assert prune(toy.directory) == [toy.directory / "texts-made.duckdb"]
        assert of(atlas, Neuron.ffn(0, 0), 1).positive[0].peak == made.gathered.peak[0, 0, 0]


def test_the_texts_gathered_last_are_kept_whatever_their_files_age(tmp_path: Path) -> None:
    toy = make_catalogue(tmp_path)
    for day, name in enumerate(("last", "first", "second", "current"), 1):
        gathered = {"last": 9, "current": 5}.get(name, day)
        give_texts(toy.path, texts_id=name, created_at=f"2024-01-{gathered:02d}T00:00:00Z")
        os.utime(toy.directory / f"texts-{name}.duckdb", (day, day))
    (toy.directory / "texts-broken.duckdb").write_bytes(b"no texts")
    gone = [path.name for path in prune(toy.directory, keep=2)]
    assert gone == ["texts-second.duckdb", "texts-first.duckdb", "texts-broken.duckdb"]


# Publishing.


def _with(made: Made, **changed: object) -> Gathered:
    return replace(made.gathered, **changed)  # type: ignore[arg-type]


def _at(array: np.ndarray, place: tuple[int, ...], value: float) -> np.ndarray:
    changed = array.copy()
    changed[place] = value
    return changed


BAD: dict[str, tuple[Callable[[Made], list[Gathered]], str]] = {
    "a layer lost": (lambda made: [part(made.gathered, slice(7, None))], "of 14 neurons, but the build has 21"),
    "a block twice": (lambda made: [made.gathered, made.gathered], "a neuron twice"),
    "nothing": (lambda made: [], "Nothing was gathered"),
    "mean": (lambda made: [_with(made, mean=_at(made.gathered.mean, (0,), np.nan))], "not finite"),
    "counts": (lambda made: [_with(made, positive=made.gathered.positive * 0)], "contradict"),
    "histogram": (lambda made: [_with(made, octaves=made.gathered.octaves + 1)], "count every token"),
    "edges": (lambda made: [_with(made, octave_edges=made.gathered.octave_edges[::-1].copy())], "edges"),
    "window": (lambda made: [_with(made, window=_at(made.gathered.window, (0, 0, 0), 77))], "window that is missing"),
    "a gap": (lambda made: [_with(made, window=_at(made.gathered.window, (0, 0, 0), -1))], "gaps"),
    "order": (lambda made: [_with(made, peak=_at(made.gathered.peak, (0, 0, 0), 1e-9))], "as its rank says"),
    "sign": (lambda made: [_with(made, peak=-made.gathered.peak)], "not of its sign"),
    "place": (lambda made: [_with(made, first=_at(made.gathered.first, (0, 0, 0), 99))], "lie in its window"),
    "length": (
        lambda made: [_with(made, activations=_at(made.gathered.activations, (0, 0, 0, 0), np.nan))],
        "lie in its window",
    ),
    "cases": (lambda made: [_with(made, case_count=np.full((21, 4), 999))], "more than the tokens"),
    "shape": (lambda made: [_with(made, mean=made.gathered.mean[:-1])], r"mean of shape \(20,\), not \(21,\)"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_contradicts_itself_is_not_published(copy: Path, name: str) -> None:
    spoil, problem = BAD[name]
    before = {path.name: path.read_bytes() for path in copy.parent.iterdir()}
    made = make_texts(copy, k=3, texts_id="two")
    with pytest.raises(AtlasError, match=problem):
        publish_texts(copy.parent, made.stamp, spoil(made), made.windows)
    assert {path.name: path.read_bytes() for path in copy.parent.iterdir()} == before


def test_stamps_that_do_not_fit(copy: Path) -> None:
    made = make_texts(copy, k=3)
    for changed, problem in (
        ({"schema_version": 3}, "schema version 3, not 2"),
        ({"checkpoint": "other"}, "build the model's catalogue again"),
        ({"texts_id": "../evil"}, "cannot be a texts's id"),
        ({"tokens_seen": 0}, "No token was seen"),
    ):
        with pytest.raises(AtlasError, match=problem):
            publish_texts(copy.parent, replace(made.stamp, **changed), [made.gathered], made.windows)


def test_names_are_made_anew(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Catalogue.open(copy) as atlas:
        before = of(atlas, Neuron.ffn(1, 3))
        monkeypatch.setattr(db.texts.publish, "named", lambda *given: [Label("new", "tokens", 0.5)] * len(given[2]))
        made = name_again(copy.parent)
        assert (copy.parent / TEXTS).read_text() == made.name + "\n"
        after = of(atlas, Neuron.ffn(1, 3))
    assert after.name == Name("new", "tokens", 0.5, after.usual)
    assert replace(after, name=before.name) == before


def test_a_file_has_no_gaps(with_texts: tuple[ToyCatalogue, Made]) -> None:
    with read_only_connection(with_texts[1].path) as connection:
        assert connection.execute("SELECT free_blocks FROM pragma_database_size()").fetchone() == (0,)


def test_texts_are_never_changed(copy: Path) -> None:
    path = copy.parent / "texts-made.duckdb"
    before = path.stat().st_mtime_ns
    give_texts(copy, created_at="2030-01-01T00:00:00Z")
    assert path.stat().st_mtime_ns == before
    with pytest.raises(AtlasError, match="exists with other content"):
        give_texts(copy, seed=1)
    assert path.stat().st_mtime_ns == before
