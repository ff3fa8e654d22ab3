"""What the commands print: in any encoding, and nothing that a terminal would obey."""

import io
import json
import sys
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.attribution.__main__ import main as attribution
from app.attribution.reproduce import main as reproduce
from app.gallery.__main__ import main as gallery
from app.report.__main__ import main as report
from app.serving import settings
from db import command_line
from db.__main__ import main as db
from db.errors import AtlasError
from db.workspace.__main__ import main as workspace
from indexer.__main__ import main as indexer
from tests.nasty import save_nasty

COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "attribution": attribution,
    "reproduce": reproduce,
    "gallery": gallery,
    "report": report,
    "db": db,
    "workspace": workspace,
    "indexer": indexer,
}
ENCODINGS = ("ascii", "latin-1", "cp1252", "utf-8", "utf-16")
ASKED = "\x1b]0;gone\x07a\x9b2J\u202eb\u2028\U0001f600"
"""What a terminal would obey, and what ascii and latin-1 lack."""


class Streams:
    """Standard output and standard error."""

    def __init__(self, encoding: str) -> None:
        self.encoding = encoding
        self.out, self.err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))

    def written(self, stream: io.TextIOWrapper) -> str:
        stream.flush()
        data = stream.buffer
        assert isinstance(data, io.BytesIO)
        return data.getvalue().decode(self.encoding)


@contextmanager
def streams(encoding: str) -> Iterator[Streams]:
    """Standard streams that refuse what their encoding lacks, as Python opens them."""
    found = Streams(encoding)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", found.out)
        patch.setattr(sys, "stderr", found.err)
        yield found


def obeyed(text: str) -> set[str]:
    """The control characters of a text, and those that turn its direction."""
    turning = {"R", "L", "AL", "EN", "ES", "ET", "AN", "CS", "NSM", "BN", "B", "S", "WS", "ON", ""}
    return {
        one
        for one in text
        if (unicodedata.category(one) == "Cc" and one not in "\n\t") or unicodedata.bidirectional(one) not in turning
    }


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(text=st.text())
def test_json_is_the_same_in_any_encoding_and_harmless(encoding: str, text: str) -> None:
    with streams(encoding) as found:
        assert command_line.run(lambda: json.dumps({"text": text}, ensure_ascii=False)) == 0
    out = found.written(found.out)
    assert json.loads(out) == {"text": text}
    assert not obeyed(out)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_errors_and_notes_are_harmless(encoding: str) -> None:
    def refuse() -> str:
        command_line.say(f"note {ASKED}")
        raise AtlasError(f"There is no {ASKED}.")

    with streams(encoding) as found:
        assert command_line.run(refuse) == 2
    err = found.written(found.err)
    assert not obeyed(err)
    assert err.count("\n") == 2
    assert err.startswith("note \\u001b]0;gone\\u0007a\\u009b2J")


def test_what_terminals_obey_is_what_is_escaped() -> None:
    every = "".join(map(chr, range(0x110000)))
    assert not obeyed(command_line.harmless(every))
    assert command_line.harmless("é 日本 \U0001f600 \u200d \t\n") == "é 日本 \U0001f600 \u200d \t\n"


def test_data_passes_unchanged_to_a_program_but_not_to_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    with streams("ascii") as found:
        assert command_line.run(lambda: ASKED.encode()) == 0
    data = found.out.buffer
    assert isinstance(data, io.BytesIO)
    assert data.getvalue() == ASKED.encode() + b"\n"
    with streams("ascii") as found:
        monkeypatch.setattr(found.out, "isatty", lambda: True)
        assert command_line.run(lambda: ASKED.encode()) == 0
    assert not obeyed(found.written(found.out))


def test_an_output_that_cannot_be_written_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch, open("/dev/full", "w") as full:  # noqa: PTH123
        patch.setattr(sys, "stdout", full)
        assert command_line.run(lambda: "answer") == 2
    assert capfd.readouterr().err == "error: Standard output cannot be written (No space left on device).\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_prints_in_ascii(name: str) -> None:
    with streams("ascii") as found, pytest.raises(SystemExit) as stopped:
        COMMANDS[name](["--help"])
    assert stopped.value.code == 0
    assert "usage" in found.written(found.out)


def test_what_the_parser_repeats_is_harmless() -> None:
    with streams("ascii") as found, pytest.raises(SystemExit):
        db(["neuron", "L0.F0", ASKED])
    assert "unrecognized arguments: \\u001b" in found.written(found.err)
    assert not obeyed(found.written(found.err))


def test_the_table_of_settings_prints_in_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    with streams("ascii") as found:
        assert command_line.run(settings._table) == 0
    assert "ATLAS_CATALOGUE" in found.written(found.out)


@pytest.fixture(scope="module")
def nasty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_nasty(tmp_path_factory.mktemp("nasty"))


PROMPT = "\x07\x1b[31m\u202enimda\u202ca\x00b\x85"
OF_A_PROMPT: tuple[list[str], ...] = ([], ["--zero", "ffn:2"], ["--lens", "--flow"], ["--against", f"{PROMPT}\x0b"])


@pytest.mark.parametrize("json_too", [[], ["--json"]], ids=["text", "json"])
def test_no_token_and_no_prompt_reaches_the_terminal_as_a_command(
    nasty: Path, json_too: list[str], tmp_path: Path
) -> None:
    model, catalogue = ["--model", str(nasty / "models" / "nasty")], ["--catalogue", str(nasty / "catalogue")]
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": one}) + "\n" for one in (PROMPT, PROMPT * 90)))
    batch = ["--prompts", str(prompts), "--out", str(tmp_path / "out.jsonl")]
    of_a_prompt = [[PROMPT, *more, "--target", "\x07"] for more in OF_A_PROMPT]
    asked: list[tuple[str, list[str]]] = [
        *(("attribution", [*words, "--top", "5", *model]) for words in (*of_a_prompt, ["--keys", "L0.F1"], batch)),
        *(("db", [*words]) for words in (["search", "\x07"], ["concept", "\x1b[31m \x9b"], ["token", "\x1b[31m"])),
        *(("db", [*words]) for words in (["neuron", "L0.F1"], ["similar", "L0.F1"], ["overview"], ["builds"])),
    ]
    for command, words in asked:
        with streams("utf-8") as found:
            assert COMMANDS[command]([*words, *json_too, *catalogue]) == 0, (words, found.written(found.err))
        out = found.written(found.out)
        assert not obeyed(out), words
        assert not obeyed(found.written(found.err)) - {"\r"}, words  # the progress bar's own
        if json_too:
            json.loads(out)
