"""What can be known of the container without building it."""

import re
import shutil
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
DOCKERFILE = (CHECKOUT / "Dockerfile").read_text(encoding="utf-8")
IGNORED = [line for line in (CHECKOUT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]


def instructions() -> list[tuple[str, str]]:
    """Each with what it is given, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE, flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(line.partition(" ")[0], line.partition(" ")[2].strip()) for line in lines if line.strip()]


def given(name: str) -> list[str]:
    return [what for instruction, what in instructions() if instruction == name]


def last_stage() -> list[tuple[str, str]]:
    whole = instructions()
    return whole[max(place for place, (name, _) in enumerate(whole) if name == "FROM") :]


def in_context(path: str) -> bool:
    """Whether .dockerignore lets a path through: the last pattern that fits decides."""
    let = True
    for pattern in IGNORED:
        bare = pattern.removeprefix("!").removeprefix("**/")
        parts = [path, *map(str, Path(path).parents)] + (list(Path(path).parts) if "**/" in pattern else [])
        if any(fnmatch(part, bare) for part in parts if part != "."):
            let = pattern.startswith("!")
    return let


def test_the_base_is_one_named_version_of_the_python_we_test_with():
    (base,) = re.findall(r"^ARG PYTHON=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert re.fullmatch(r"python:3\.11[\w.-]*-slim[\w-]*", base)
    assert {what.split(" AS ")[0] for what in given("FROM")} == {"${PYTHON}"}
    assert "latest" not in DOCKERFILE


def test_the_last_stage_runs_as_nobody_in_particular():
    users = [what for name, what in last_stage() if name == "USER"]
    assert len(users) == 1
    assert int(users[0].split(":")[0]) > 1000
    names = [name for name, _ in last_stage()]
    assert names.index("USER") > max(place for place, name in enumerate(names) if name in ("RUN", "COPY"))
    assert all("apt-get" not in what and "pip install" not in what for name, what in last_stage() if name == "RUN")


def test_every_file_it_copies_exists_and_reaches_the_builder():
    sources = [word for what in given("COPY") if "--from=" not in what for word in what.split()[:-1]]
    assert {"app", "db", "indexer", "requirements.txt", ".streamlit/config.toml"} <= set(sources)
    for source in sources:
        assert (CHECKOUT / source).exists(), source
        assert in_context(source), source


def test_every_file_of_the_code_reaches_the_builder():
    there = [path for room in ("app", "db", "indexer") for path in (CHECKOUT / room).rglob("*") if path.is_file()]
    made = {"__pycache__", ".DS_Store"}
    left_out = [
        path for path in there if not made & set(path.parts) and not in_context(str(path.relative_to(CHECKOUT)))
    ]
    assert left_out == []


KEPT_OUT = """
.git/config .env .streamlit/secrets.toml catalogue/x/CURRENT models/x workspace/atlas.sqlite tests/conftest.py
.venv/bin/python app/__pycache__/main.cpython-311.pyc
"""


@pytest.mark.parametrize("path", KEPT_OUT.split())
def test_secrets_and_products_stay_out(path):
    assert not in_context(path)


def test_it_is_watched_by_the_health_check_of_the_server_it_starts():
    (check,) = given("HEALTHCHECK")
    assert "/health'" in check
    (port,) = given("EXPOSE")
    assert f":{port}/health" in check
    command = given("CMD")[-1]
    assert f'"--server.port", "{port}"' in command
    script = re.search(r'"run", "([^"]+)"', command)
    assert script
    assert (CHECKOUT / script[1]).is_file()


def test_what_it_keeps_lies_in_volumes():
    (volumes,) = given("VOLUME")
    made = next(what for name, what in last_stage() if name == "RUN")
    for folder in re.findall(r'"([^"]+)"', volumes):
        assert folder in made
    assert {Path(folder).name for folder in re.findall(r'"([^"]+)"', volumes)} == {"catalogue", "models", "workspace"}


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not on PATH")
def test_hadolint_finds_nothing():
    done = subprocess.run(["hadolint", "Dockerfile"], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.stdout == ""
    assert done.returncode == 0
