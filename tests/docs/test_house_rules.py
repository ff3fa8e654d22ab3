"""The house rules: few files, each of a size to be met whole, short functions, names that explain themselves."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.readmes import CHECKOUT, ROOMS

MOST_FILES = 160
"""Of Python. The aim is 125."""
MOST_LINES = 49_044
"""Of Python, JavaScript, CSS and HTML. The aim is 24,000."""
LONGEST_FILE = 600
LONGEST_FUNCTION = 70
SAY_NOTHING = {"asking", "finding", "finds", "plain", "standing", "beside", "worked", "alike"}


@cache
def sources() -> dict[Path, int]:
    """Every file of code outside the tests, and its lines."""
    kinds = {".py", ".js", ".css", ".html"}
    found = (path for room in ROOMS for path in sorted((CHECKOUT / room).rglob("*")) if path.suffix in kinds)
    return {path.relative_to(CHECKOUT): len(path.read_text(encoding="utf-8").splitlines()) for path in found}


def modules() -> list[Path]:
    return [path for path in sources() if path.suffix == ".py"]


def functions() -> Iterator[tuple[str, str, int]]:
    """File, name and lines of each."""
    for path in modules():
        for node in ast.walk(ast.parse((CHECKOUT / path).read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield str(path), node.name, (node.end_lineno or node.lineno) - node.lineno + 1


def says_nothing(name: str) -> bool:
    return bool(SAY_NOTHING & set(name.split("_")))


def test_there_are_few_files_and_lines():
    assert len(modules()) <= MOST_FILES
    assert sum(sources().values()) <= MOST_LINES


def test_a_file_is_met_whole():
    assert {str(path): lines for path, lines in sources().items() if lines > LONGEST_FILE} == {}


def test_a_function_fits_a_screen():
    assert [one for one in functions() if one[2] > LONGEST_FUNCTION] == []


def test_names_explain_themselves():
    assert [str(path) for path in sources() if any(map(says_nothing, path.with_suffix("").parts))] == []
    assert [one[:2] for one in functions() if says_nothing(one[1])] == []
