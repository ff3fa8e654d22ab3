"""What the READMEs name is there: files, modules, functions, and every room in the tree of the first."""

import pkgutil
import re
from pathlib import Path

import pytest

from tests.readmes import CHECKOUT, README, READMES, ROOMS, Readme

LONGEST_README = 250
WITH_README = ("app/attribution", "app/serving", "app/ui", "db", "indexer", "tests/benchmarks")


def test_the_first_is_short():
    assert len(README.text.splitlines()) < LONGEST_README


@pytest.mark.parametrize("room", WITH_README)
def test_a_room_has_the_readme_that_the_first_links_to(room):
    assert (CHECKOUT / room / "README.md").is_file()
    assert any(link.partition("#")[0] == f"{room}/README.md" for link in README.links)


def _each(pattern: str) -> list:
    """What matches it, file by file."""
    return [
        pytest.param(readme, name, id=f"{readme.name} {name}")
        for readme in READMES
        for name in sorted(set(re.findall(pattern, readme.text)))
    ]


PATH = rf"(?<![\w./])(?:{'|'.join(ROOMS)}|tests)/[\w./-]*\w"
FILE = r"(?<=`)\w+\.(?:py|js|css|html)(?=`)"


@pytest.mark.parametrize(("readme", "name"), _each(f"{PATH}|{FILE}"))
def test_a_file_exists(readme, name):
    assert (CHECKOUT / name).exists() if "/" in name else any(readme.path.parent.rglob(name))


@pytest.mark.parametrize(("readme", "name"), _each(rf"`((?:{'|'.join(ROOMS)})(?:\.[A-Za-z_]\w*)+)[`(]"))
def test_a_module_or_function_exists(readme, name):
    pkgutil.resolve_name(name)


def tree(readme: Readme) -> dict[str, str]:
    """The paths of the annotated tree, each with its annotation; two spaces more are a folder deeper."""
    block = re.search(r"^```[^\n]*\n(\w+/ .*?)^```", readme.text, re.DOTALL | re.MULTILINE)
    assert block, "there is no tree"
    found: dict[str, str] = {}
    parents: list[str] = []
    for line in block[1].splitlines():
        match = re.fullmatch(r"( *)([\w./]+)  +(\S.*)", line)
        assert match, line
        del parents[len(match[1]) // 2 :]
        path = "".join([*parents, match[2]])
        found[path] = match[3]
        if path.endswith("/"):
            parents.append(match[2])
    return found


def test_the_tree_shows_what_is_there():
    for path in tree(README):
        there = CHECKOUT / path
        assert there.is_dir() if path.endswith("/") else there.is_file(), path


def test_every_room_is_in_the_tree():
    packages = {path.parent.relative_to(CHECKOUT) for room in ROOMS for path in (CHECKOUT / room).rglob("__init__.py")}
    inner = {Path("app/ui/components/frontend")}
    assert packages - inner <= {Path(path) for path in tree(README)}
