"""The READMEs tell the truth: their commands exist, their links lead somewhere."""

import argparse
import ast
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.readmes import CHECKOUT, README, READMES, ROOMS, Readme

SET = {"MODEL": "model", "SLURM_ARRAY_TASK_ID": "8", "SLURM_ARRAY_TASK_COUNT": "8", "JOB_COMPLETION_INDEX": "7"}
"""What a job's environment holds."""


def module_commands() -> list[str]:
    """The command lines that call one of our modules, each cut before a pipe, a redirection or a further command."""
    called = re.compile(rf"python3?\s+-m\s+((?:{'|'.join(ROOMS)}|tests)\b[\w.]*[^\"]*(?:\"[^\"]*\"[^\"]*)*)")
    found = [match[1] for readme in READMES for line in readme.code_lines if (match := called.search(line))]
    return list(dict.fromkeys(found))


def named_in_messages() -> list[str]:
    """The same of the commands that a message of the code names whole, without “…”; what it fills in is a name."""
    named = re.compile(rf"`python -m ((?:{'|'.join(ROOMS)})\b[^`…]*)`")
    texts = []
    for path in (path for room in ROOMS for path in (CHECKOUT / room).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        documentation = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in set(ast.walk(tree)) - documentation:
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            texts.append("".join(str(one.value) if isinstance(one, ast.Constant) else "NAME" for one in parts))
    return sorted({command for text in texts for command in named.findall(text)})


def as_set(word: str) -> str:
    """A word with the variables of a job, as a shell reads it."""
    return subprocess.run(["sh", "-c", f'printf %s "{word}"'], env=SET, capture_output=True, text=True).stdout


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][\w-]*):(?!=)", (CHECKOUT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def named_targets(readme: Readme) -> set[str]:
    in_prose = re.findall(r"`make ([a-z][\w-]*)", readme.prose)
    in_code = [match[1] for line in readme.code_lines if (match := re.match(r"(?:\$ )?make ([a-z][\w-]*)", line))]
    return {*in_prose, *in_code}


def test_the_first_begins_with_the_command_that_does_everything():
    assert "run" in named_targets(README)


@pytest.mark.parametrize("readme", READMES, ids=lambda readme: readme.name)
def test_every_make_target_it_names_exists(readme):
    assert named_targets(readme) - make_targets() == set()


class Parsed(BaseException):
    """Raised once the arguments are accepted; no Exception, so that no handler of a command line catches it."""


@pytest.mark.parametrize("command", [*module_commands(), *named_in_messages()])
def test_every_module_command_is_accepted_by_its_own_parser(command, monkeypatch):
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
    monkeypatch.setattr(sys, "argv", [module, *(as_set(word) if "$" in word else word for word in words[:end])])
    if (CHECKOUT.joinpath(*module.split(".")) / "__main__.py").exists():
        monkeypatch.delitem(sys.modules, f"{module}.__main__", raising=False)  # an imported one would warn
    with pytest.raises(Parsed):
        runpy.run_module(module, run_name="__main__", alter_sys=True)


@pytest.mark.parametrize(
    ("readme", "link"),
    [pytest.param(readme, link, id=f"{readme.name} {link}") for readme in READMES for link in readme.links],
)
def test_every_relative_link_and_image_exists(readme, link):
    path, _, anchor = link.partition("#")
    target = (readme.path.parent / path).resolve() if path else readme.path
    assert target.exists()
    assert target.is_relative_to(CHECKOUT)
    if anchor:
        assert anchor in Readme(Path(target)).anchors
