import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from db import command_line
from db.__main__ import main, parser
from db.catalogue.store import Catalogue
from db.neuron import Neuron
from db.questions import Filters
from db.records import Generic, TokenMatches
from db.token_text import display
from tests.catalogues import TOKENS, ToyCatalogue, make_catalogue, tokenizer_json

Capture = pytest.CaptureFixture[str]
CHECKOUT = Path(__file__).parents[2]


def run(toy: ToyCatalogue, *arguments: str) -> int:
    return main([*arguments, "--catalogue", str(toy.directory.parent)])


def test_only_classes_are_asked_what_they_derive_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a range of layers, which is none, Python 3.12 says that it derives from nothing; 3.13 raises."""

    def strict(kind: object, base: type) -> bool:
        assert isinstance(kind, type)
        return issubclass(kind, base)

    monkeypatch.setattr(command_line, "issubclass", strict, raising=False)
    assert parser().parse_args(["search", "a", "--layers", "1-2"]).layers == (1, 2)


def test_search_json(toy: ToyCatalogue, catalogue: Catalogue, capsys: Capture) -> None:
    options = ("--promotes", "--kind", "ffn", "--layers", "1-2", "--by", "rank", "--limit", "5", "--offset", "1")
    assert run(toy, "search", " Python", *options, "--json") == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    ids = [token.token_id for token in catalogue.resolve(" Python").matched]
    filters = Filters(sign="promotes", kind="ffn", layers=(1, 2), order="rank")  # type: ignore[arg-type]
    hits = catalogue.search_token(ids, filters, limit=5, offset=1)
    assert err == ""
    assert [(entry["neuron"], entry["token"], entry["rank"]) for entry in found] == [
        (hit.neuron.label, hit.token.text, hit.rank) for hit in hits
    ]
    assert set(found[0]) == {"neuron", "sign", "token", "token_id", "rank", "logit", "z", "usual", "name"}


def test_neuron_json(toy: ToyCatalogue, catalogue: Catalogue, capsys: Capture) -> None:
    assert run(toy, "neuron", "l2.h1.n2", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    card = catalogue.neuron(Neuron.attention(2, 1, 2))
    assert list(found) == [
        "neuron",
        "kind",
        "layer",
        "mean",
        "std",
        "norm",
        "top",
        "bottom",
        "generic",
        "usual",
        "name",
    ]
    assert (found["neuron"], found["kind"], found["layer"]) == ("L2.H1.N2", "attention", 2)
    assert [entry["logit"] for entry in found["bottom"]] == [entry.logit for entry in card.bottom]
    assert list(found["top"][0]) == ["token_id", "token", "logit", "z"]


def test_a_generic_neuron_is_said_to_be_one(
    toy: ToyCatalogue, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Generic(prompts=50, neurons={"L2.F1": 41})
    monkeypatch.setattr("db.catalogue.store.generic_of", lambda *_: known)
    remark = "generic: in the lists on 41 of 50 prompts"
    for label, expected in (("L2.F1", remark), ("L2.F2", "")):
        assert run(toy, "neuron", label, "--json") == 0
        assert json.loads(capsys.readouterr().out)["generic"] == expected
        assert run(toy, "neuron", label) == 0
        assert (remark in capsys.readouterr().out) == bool(expected)


def test_tables(toy: ToyCatalogue, capsys: Capture) -> None:
    assert run(toy, "search", "python", "--suppresses", "--limit", "3") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("matched “python” (2), “␣python” (3), “PYTHON” (4)")
    assert lines[1].startswith("Neurons that suppress “python”, “␣python”, “PYTHON” or 2 other tokens, by z: 3 of ")
    assert len(lines) == 7
    assert run(toy, "neuron", "L0.F0") == 0
    assert "L0.F0: FFN neuron of layer 0" in capsys.readouterr().out
    assert run(toy, "builds") == 0
    assert "current" in capsys.readouterr().out
    assert run(toy, "builds", "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["build_id"] == "one"


def test_concept_json(toy: ToyCatalogue, catalogue: Catalogue, capsys: Capture) -> None:
    assert run(toy, "concept", "python, -code absent", "--limit", "3", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    concept = catalogue.concept("python, -code absent")
    neurons = catalogue.concept_neurons(concept, limit=3)
    assert list(found) == ["tokens", "unmatched", "suggestions", "passed_over", "neurons"]
    assert [(entry["token_id"], entry["token"]) for entry in found["tokens"]] == [
        (entry.token.token_id, entry.token.text) for entry in concept.tokens
    ]
    assert [entry["weight"] for entry in found["tokens"]] == pytest.approx([e.weight for e in concept.tokens], abs=1e-6)
    assert found["unmatched"] == ["absent"]
    assert [(entry["neuron"], entry["sign"], entry["score"]) for entry in found["neurons"]] == [
        (end.neuron.label, str(end.sign), end.score) for end in neurons
    ]
    assert found["neurons"][0]["matched"] == [entry.token.text for entry in neurons[0].matched]
    assert run(toy, "concept", "python", "--drop", "2", "--add", "9", "--widen", "0", "--json") == 0
    ids = [entry["token_id"] for entry in json.loads(capsys.readouterr().out)["tokens"]]
    assert ids == [3, 4, 0, 1, 9]


def test_similar_token_and_overview(toy: ToyCatalogue, catalogue: Catalogue, capsys: Capture) -> None:
    assert run(toy, "similar", "L0.F0", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    alike = catalogue.similar(Neuron.ffn(0, 0))
    assert [(entry["neuron"], entry["opposite"]) for entry in found] == [(o.neuron.label, o.opposite) for o in alike]
    assert run(toy, "token", " Paris", "--limit", "2", "--json") == 0
    page = json.loads(capsys.readouterr().out)
    assert (page["token_id"], page["token"]) == (7, " Paris")
    assert [near["token_id"] for near in page["neighbours"]] == [n.token.token_id for n in catalogue.neighbours(7)]
    assert len(page["promotes"]) == len(page["suppresses"]) == 2
    assert sum(row["neurons"] for row in page["layers"]) == catalogue.layer_counts([7])["neurons"].sum()
    assert run(toy, "overview", "--json") == 0
    whole = json.loads(capsys.readouterr().out)
    assert sum(row["neurons"] for row in whole["layers"]) == 39
    assert whole["peaked"][0]["neuron"] == catalogue.most_peaked()[0].neuron.label
    for command in (("similar", "L0.F0"), ("token", "Paris"), ("overview",), ("concept", "python -x absent")):
        assert run(toy, *command) == 0
        out = capsys.readouterr().out
        assert all(character.isprintable() or character == "\n" for character in out)


def test_the_setting_moves_the_catalogue(
    toy: ToyCatalogue, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ATLAS_CATALOGUE", str(toy.directory.parent))
    for command in (("neuron", "L0.F0"), ("builds",), ("export", "overview")):
        assert main(list(command)) == 0
    monkeypatch.delenv("ATLAS_CATALOGUE")
    assert main(["builds"]) == 2
    capsys.readouterr()


def test_no_hits(toy: ToyCatalogue, capsys: Capture) -> None:
    assert run(toy, "search", "Paris", "--min-z", "99", "--json") == 0
    assert json.loads(capsys.readouterr().out) == []
    assert run(toy, "search", "Paris", "--min-z", "99") == 0
    assert "0 of 0 hits" in capsys.readouterr().out


def test_a_token_that_the_model_has_no_row_for(tmp_path: Path, capsys: Capture) -> None:
    """As where a tokenizer was given new tokens and the model was not resized."""
    added = tokenizer_json([*TOKENS, b"[PAD]", b"gorilla"])
    toy = make_catalogue(tmp_path, tokenizer_json=added)
    pad = f"is token {len(TOKENS)} of the tokenizer, for which the model has no row"
    for command in ("search", "token"):
        assert run(toy, command, "[PAD]") == 2
        assert capsys.readouterr().err.startswith(f"error: “[PAD]” {pad}, so no neuron promotes or suppresses it.")
    assert run(toy, "search", "Paris gorilla") == 2
    assert f"holds token {len(TOKENS) + 1} of the tokenizer" in capsys.readouterr().err
    assert run(toy, "concept", "[PAD]") == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].startswith(f"“[PAD]” {pad}")
    assert "no token to search for" in out
    assert "neuron  sign" not in out
    assert run(toy, "concept", "Paris [PAD]") == 0
    out = capsys.readouterr().out
    assert f"“[PAD]” {pad}" in out
    assert "neuron  " in out
    assert run(toy, "export", "concept", "[PAD]") == 0
    assert f"“[PAD]” {pad}" in capsys.readouterr().err


def test_an_empty_answer_says_what_was_looked_through(toy: ToyCatalogue, capsys: Capture) -> None:
    for command in ("search", "concept"):
        assert run(toy, command, "Paris", "--min-z", "99") == 0
        assert "None with these conditions has one of them among the 5 tokens stored" in capsys.readouterr().out


def test_a_text_that_the_tokenizer_makes_nothing_of(catalogue: Catalogue) -> None:
    none = TokenMatches("x", (), ())
    assert "holds no tokenizer" in none.no_match()
    assert "makes nothing of it" in replace(none, rowless=()).no_match()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("search", "Python code"), "is not one token of this model; it splits into “Python”, “␣code”. Search for"),
        (("search", ""), "is empty"),
        (("search", "x", "--layers", "2-9"), "layers 0–2"),
        (("search", "x", "--layers", "2-1"), "no range"),
        (("search", "x", "--kind", "ffn", "--head", "1"), "no head"),
        (("neuron", "L0.F99"), "FFN neurons 0–6"),
        (("similar", "L0.F99"), "FFN neurons 0–6"),
        (("token", "absent"), "not one token"),
        (("concept", "-"), "no word"),
        (("concept", "x", "--add", "99"), "vocabulary"),
        (("overview", "--limit", str(2**62)), "count from 0"),
        (("search", "x", "--offset", str(10**30)), "count from 0"),
        (("neuron", "nonsense"), "not a neuron label"),
        (("search", "x", "--model", "absent"), "there are: toy"),
        (("builds", "--model", "absent"), "No catalogue"),
    ],
)
def test_errors_are_one_line(toy: ToyCatalogue, capsys: Capture, arguments: tuple[str, ...], problem: str) -> None:
    assert run(toy, *arguments, "--json") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert problem in err


def test_argparse_errors(toy: ToyCatalogue, capsys: Capture) -> None:
    for arguments, problem in (
        (("search",), "TEXT"),
        (("search", "x", "--layers", "a-b"), "no range of layers"),
        (("search", "x", "--promotes", "--suppresses"), "not allowed with"),
        (("search", "x", "--max-rank", "0"), "--max-rank: '0' is not a whole number at least 1"),
        (("concept", "x", "--widen", "-1"), "--widen: '-1' is not a whole number at least 0"),
        (("export", "search", "x", "--limit", "-1"), "--limit: '-1' is not a whole number at least 0"),
        ((), "COMMAND"),
    ):
        with pytest.raises(SystemExit) as stopped:
            run(toy, *arguments)
        assert stopped.value.code == 2
        assert problem in capsys.readouterr().err.splitlines()[-1]


def test_as_a_process(root: Path) -> None:
    make_catalogue(root)
    command = [sys.executable, "-m", "db", "--catalogue", str(root)]
    ascii_only = {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(CHECKOUT), "PATH": ""}
    done = subprocess.run([*command, "search", "日本"], capture_output=True, env=ascii_only, check=True, cwd=root)
    assert b"\\u65e5" in done.stdout
    absent = subprocess.run([*command, "search", "absent"], capture_output=True, text=True, check=False, cwd=CHECKOUT)
    assert (absent.returncode, absent.stdout) == (2, "")
    assert "Traceback" not in absent.stderr


def test_a_reader_that_goes_away(tmp_path: Path) -> None:
    make_catalogue(tmp_path)
    script = f'"{sys.executable}" -m db search x --limit 1000 --catalogue "{tmp_path}" | true'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, cwd=CHECKOUT)
    assert done.stderr == ""


def test_importing_is_light() -> None:
    script = (
        "import sys, db.__main__; print([m for m in ('pandas', 'numpy', 'torch', 'tokenizers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=CHECKOUT)
    assert done.stdout.strip() == "[]"


def test_nasty_tokens_all_print(toy: ToyCatalogue, catalogue: Catalogue, capsys: Capture) -> None:
    for token in catalogue.tokens(range(len(TOKENS))).values():
        if not token.text or display(token.text.encode()) != token.display:
            continue  # not valid UTF-8: cannot be typed
        assert run(toy, "search", token.text) == 0
        out = capsys.readouterr().out
        assert token.display in out
        assert all(character.isprintable() or character == "\n" for character in out)
