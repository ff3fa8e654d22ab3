"""Imports run one way: the contracts of pyproject.toml hold, and few imports are put off by hand."""

import ast
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from tests.conftest import CHECKOUT

ROOMS = ("app", "db", "indexer")
OPTIONAL = {"ray"}
"""Packages that only those have who need them."""
MOST_INSIDE_FUNCTIONS = 6
"""May shrink, never grow: an import is put off by `db.lazy.lazy_import`, and only where starting up needs that."""


def test_the_contracts_are_kept():
    """They list the rooms of `app` as layers, every room named, so no two of them import each other."""
    code = "from importlinter.cli import lint_imports_command as check; check()"
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def inside_functions(path: Path) -> int:
    """How many import statements stand inside functions."""
    functions = (
        node
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    lines = {
        node.lineno
        for function in functions
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    return len(lines)


def test_few_imports_stand_inside_functions():
    found = {
        str(path.relative_to(CHECKOUT)): count
        for room in ROOMS
        for path in sorted((CHECKOUT / room).rglob("*.py"))
        if (count := inside_functions(path))
    }
    assert sum(found.values()) <= MOST_INSIDE_FUNCTIONS, found


def lazily_imported(path: Path) -> set[str]:
    """The modules that a file imports when they are first used."""
    return {
        node.args[0].value
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "lazy_import"
        and isinstance(node.args[0], ast.Constant)
        and isinstance(node.args[0].value, str)
    }


def test_every_module_that_is_imported_lazily_is_there():
    """Type checkers read the import beside it, so a module that was renamed would be missed only at run time."""
    named = {name for room in ROOMS for path in (CHECKOUT / room).rglob("*.py") for name in lazily_imported(path)}
    assert {"app.attribution.analysis", *OPTIONAL} <= named
    assert [name for name in sorted(named - OPTIONAL) if find_spec(name) is None] == []
