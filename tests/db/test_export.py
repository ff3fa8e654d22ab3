import csv
import io
import json
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.__main__ import main
from db.catalogue.export import safe_cell, to_csv
from db.catalogue.store import Catalogue
from tests.catalogues import ToyCatalogue, make_catalogue

Capture = pytest.CaptureFixture[str]
FORMULAS = (b"=1+1", b"+x", b"-x", b"@SUM", b"\t=1", b"\r=1", b"\n=1", b" =1", "＝1".encode(), b"'=1", b'"=1', b",=1")


@pytest.fixture(scope="module")
def spreadsheet(tmp_path_factory: pytest.TempPathFactory) -> ToyCatalogue:
    """A build whose vocabulary wants to be computed."""
    tokens = (*FORMULAS, *(f"t{number}".encode() for number in range(28)))
    return make_catalogue(tmp_path_factory.mktemp("spreadsheet"), tokens=tokens, depth=20)


def run(toy: ToyCatalogue, *arguments: str) -> int:
    return main([*arguments, "--catalogue", str(toy.directory.parent)])


def test_csv_holds_no_formula(spreadsheet: ToyCatalogue, tmp_path: Path, capsys: Capture) -> None:
    target = tmp_path / "out.csv"
    for label in ("L0.F0", "L1.H1.N2", "L2.F6"):
        assert run(spreadsheet, "export", "neuron", label, "--to", str(target)) == 0
        rows = list(csv.DictReader(io.StringIO(target.read_bytes().decode(), newline="")))
        assert len(rows) == 40
        with Catalogue.open(spreadsheet.path) as catalogue:
            for row in rows:
                text = catalogue.token(int(row["token_id"])).text
                assert row["text"] in (text, "'" + text)
                assert not row["text"].lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝"))
                assert not row["token"].startswith(("=", "+", "-", "@"))
    assert "40 rows written" in capsys.readouterr().out


@given(st.text(max_size=20))
def test_safe_cells(text: str) -> None:
    safe = safe_cell(text)
    assert safe in (text, "'" + text)
    assert not safe.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))


def test_numbers_stay_numbers() -> None:
    assert to_csv(pd.DataFrame({"z": [-1.5], "token": ["-1.5"]})) == "z,token\r\n-1.5,'-1.5\r\n"


def test_json_and_parquet_are_exact(spreadsheet: ToyCatalogue, tmp_path: Path, capsys: Capture) -> None:
    with Catalogue.open(spreadsheet.path) as catalogue:
        hits = catalogue.search_token([0], limit=1000)
    for form in ("json", "parquet"):
        target = tmp_path / f"out.{form}"
        assert run(spreadsheet, "export", "search", "=1+1", "--to", str(target)) == 0
        found = json.loads(target.read_text()) if form == "json" else pd.read_parquet(target).to_dict("records")
        assert [(row["neuron"], row["rank"], row["text"], row["z"]) for row in found] == [
            (hit.neuron.label, hit.rank, "=1+1", hit.z) for hit in hits
        ]
    capsys.readouterr()
    assert run(spreadsheet, "export", "search", "=1+1", "--format", "json", "--limit", "2", "--promotes") == 0
    assert len(json.loads(capsys.readouterr().out)) == 2


@pytest.mark.parametrize("what", [("concept", "t1 t2"), ("similar", "L0.F0"), ("token", "t1"), ("overview",)])
def test_everything_can_be_exported(spreadsheet: ToyCatalogue, capsys: Capture, what: tuple[str, ...]) -> None:
    assert run(spreadsheet, "export", *what) == 0
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) > 1
    assert len({len(row) for row in rows}) == 1


def test_a_build_is_one_file(spreadsheet: ToyCatalogue, tmp_path: Path, capsys: Capture) -> None:
    target = tmp_path / "copy.duckdb"
    assert run(spreadsheet, "export", "--build", str(target)) == 0
    assert target.read_bytes() == spreadsheet.path.read_bytes()
    assert main(["search", "t1", "--catalogue", str(target)]) == 0
    assert run(spreadsheet, "export", "--build", str(target)) == 2
    assert "already exists" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy.duckdb"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((), "Say what to export"),
        (("overview", "x"), "Say what to export"),
        (("search",), "Say what to export"),
        (("search", "t1", "--build", "x.duckdb"), "leave the query out"),
        (("search", "t1", "--to", "x.xlsx"), "no format to export to"),
        (("search", "t1", "--format", "parquet"), "Parquet is no text"),
        (("search", "t1", "--to", "/nonexistent/x.csv"), "cannot be written"),
        (("--build", "/nonexistent/x.duckdb"), "cannot be written"),
        (("search", "absent"), "not one token"),
        (("similar", "nonsense"), "not a neuron label"),
    ],
)
def test_refused(spreadsheet: ToyCatalogue, capsys: Capture, arguments: tuple[str, ...], problem: str) -> None:
    assert run(spreadsheet, "export", *arguments) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert problem in err
