"""The README tells the truth: its commands exist, its links lead somewhere."""

import argparse
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
CODE_BLOCKS = re.findall(r"^```[^\n]*\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
PROSE = re.sub(r"^```.*?^```", "", README, flags=re.DOTALL | re.MULTILINE)
ROOMS = ("app", "db", "indexer")


def code_lines() -> list[str]:
    """Every line of every code block, with continued lines joined."""
    return [line.strip() for block in CODE_BLOCKS for line in block.replace("\\\n", " ").splitlines()]


def module_commands() -> list[str]:
    """The command lines that call one of our rooms, each cut before a pipe, a redirection or a further command."""
    called = re.compile(rf"python3?\s+-m\s+((?:{'|'.join(ROOMS)})\b[\w.]*.*)")
    return [match[1] for line in code_lines() if (match := called.search(line))]


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][\w-]*):(?!=)", (CHECKOUT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def named_targets() -> set[str]:
    in_prose = re.findall(r"`make ([a-z][\w-]*)", PROSE)
    in_code = [match[1] for line in code_lines() if (match := re.match(r"(?:\$ )?make ([a-z][\w-]*)", line))]
    return {*in_prose, *in_code}


def anchors() -> set[str]:
    """The anchors that headings get, as code forges make them."""
    headings = re.findall(r"^#+ (.+)$", PROSE, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_it_begins_with_the_command_that_does_everything():
    assert "run" in named_targets()


def test_every_make_target_it_names_exists():
    assert named_targets() - make_targets() == set()


class Parsed(BaseException):
    """Raised once the arguments are accepted; no Exception, so that no handler of a command line catches it."""


@pytest.mark.parametrize("command", module_commands() or ["none"])
def test_every_module_command_is_accepted_by_its_own_parser(command, monkeypatch):
    if command == "none":
        pytest.skip("The README calls no module of ours.")
    lexer = shlex.shlex(command, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    module, *words = lexer
    end = next((n for n, word in enumerate(words) if set(word) <= set("|&;<>")), len(words))

    def parse_only(self, args=None, namespace=None):
        _, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {unknown}")
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    monkeypatch.setattr(sys, "argv", [module, *words[:end]])
    if (CHECKOUT.joinpath(*module.split(".")) / "__main__.py").exists():
        monkeypatch.delitem(sys.modules, f"{module}.__main__", raising=False)  # an imported one would warn
    with pytest.raises(Parsed):
        runpy.run_module(module, run_name="__main__", alter_sys=True)


def links() -> list[str]:
    markdown = re.findall(r"\]\(<?([^)>\s]+)", PROSE)
    html = re.findall(r"""(?:src|href|srcset)=["']([^"']+)["']""", PROSE)
    return sorted({link for link in markdown + html if not re.match(r"[a-z]+:", link)})


@pytest.mark.parametrize("link", links() or ["none"])
def test_every_relative_link_and_image_exists(link):
    if link == "none":
        pytest.skip("The README links to nothing of ours.")
    path, _, anchor = link.partition("#")
    if path:
        assert (CHECKOUT / path).exists()
    else:
        assert anchor in anchors()
