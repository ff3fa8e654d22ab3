"""How many processes the tests are dealt out to, and what they begin with."""

from types import SimpleNamespace
from typing import Any

import pytest

from tests import conftest


@pytest.mark.parametrize(
    ("cores", "gigabytes", "args", "workers"),
    [
        (2, 24, ["tests"], 3),
        (2, 8, ["tests"], 2),
        (2, 4, ["tests"], 0),
        (1, 24, ["tests"], 0),
        (64, 256, ["tests"], conftest.MOST_WORKERS),
        (2, 24, ["tests/db/test_export.py::test_csv_holds_no_formula"], 0),
        (2, 24, ["tests/db/test_export.py", "tests/ui"], 3),
    ],
)
def test_workers_by_cores_memory_and_what_is_asked_for(monkeypatch, cores, gigabytes, args, workers):
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(total=gigabytes * 2**30))
    config: Any = SimpleNamespace(args=args)
    assert conftest.pytest_xdist_auto_num_workers(config) == workers


@pytest.mark.parametrize("name", conftest.SLOWEST_FILES)
def test_the_slowest_files_are_there(name):
    assert (conftest.CHECKOUT / "tests" / name).is_file()
