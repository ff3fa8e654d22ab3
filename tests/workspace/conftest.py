import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.workspace.postgres import Server, programs, serving


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A PostgreSQL server; where the machine has none the test is skipped, and fails in CI."""
    found = programs()
    if found is None:
        what = "PostgreSQL's programs are not on this machine: `apt-get install postgresql`."
        if os.environ.get("CI"):
            pytest.fail(f"{what} In CI this must not be missing.", pytrace=False)
        pytest.skip(what)
    with serving(found) as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def workspace_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'atlas.sqlite'}"
    server: Server = request.getfixturevalue("postgres")
    return server.new_database(uuid.uuid4().hex)
