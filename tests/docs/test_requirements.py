"""The pins are complete: what the code imports, and what that brings along, is named with one exact version."""

import ast
import re
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

INSTALLER = "pip"  # is there before anything is installed
CHECKOUT = Path(__file__).resolve().parents[2]
ROOMS = ("app", "db", "indexer")


def pins(path: Path) -> dict[str, Requirement]:
    """Canonical name -> requirement, of ``path`` and of what it includes with -r."""
    found: dict[str, Requirement] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        text = re.split(r"\s+#|^#", line)[0].strip()
        if text.startswith("-r "):
            found |= pins((path.parent / text[3:]).resolve())
        elif text:
            requirement = Requirement(text)
            found[canonicalize_name(requirement.name)] = requirement
    return found


def imported_modules() -> dict[str, Path]:
    """Top-level module -> one file of the rooms that imports it; neither the standard library's nor ours."""
    found: dict[str, Path] = {}
    for file in (file for room in ROOMS for file in (CHECKOUT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [str(node.module)]
            else:
                continue
            found |= {name.partition(".")[0]: file for name in names}
    return {name: file for name, file in found.items() if name not in sys.stdlib_module_names and name not in ROOMS}


BROUGHT_BY_CUDA = re.compile(r"(nvidia|cuda)-.*|triton")
"""What torch for CUDA requires in versions of its own choice; torch for a CPU has none of it."""


def lacking(path: Path) -> set[str]:
    """Distributions that a pinned one requires on this machine, without being pinned themselves."""
    pinned = pins(path)
    return {
        f"{needed.name} (for {name})"
        for name in pinned
        for needed in map(Requirement, metadata.requires(name) or [])
        if (needed.marker is None or needed.marker.evaluate({"extra": ""}))
        and not (name == "torch" and BROUGHT_BY_CUDA.fullmatch(needed.name))
        and canonicalize_name(needed.name) not in (*pinned, INSTALLER)
    }


OPTIONAL = {
    "indexer/requirements-ray.txt": "ray_is_installed",
    "indexer/requirements-quantised.txt": "compressed_tensors_is_installed",
}
EVERY = ("requirements.txt", "tests/requirements.txt", *OPTIONAL)


@pytest.mark.parametrize("path", EVERY)
def test_every_line_is_one_exact_version(path):
    loose = [str(pin) for pin in pins(CHECKOUT / path).values() if not re.fullmatch(r"==[\w.!]+", str(pin.specifier))]
    assert loose == []


@pytest.mark.parametrize("path", EVERY)
def test_what_a_pinned_package_brings_along_is_pinned(path, request):
    if path in OPTIONAL:
        request.getfixturevalue(OPTIONAL[path])
    assert lacking(CHECKOUT / path) == set()


def test_every_third_party_import_is_pinned():
    pinned = pins(CHECKOUT / "indexer" / "requirements-ray.txt")  # which include the others
    distributions = metadata.packages_distributions()
    unpinned = {
        f"{module} (in {file.relative_to(CHECKOUT)})"
        for module, file in imported_modules().items()
        if not any(canonicalize_name(name) in pinned for name in distributions.get(module, [module]))
    }
    assert unpinned == set()
