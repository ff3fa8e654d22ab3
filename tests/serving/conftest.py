import shutil
from pathlib import Path

import pytest

from tests.texts import give_texts


@pytest.fixture(scope="session")
def toy_root(toy_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy catalogue with texts."""
    root = tmp_path_factory.mktemp("served") / "catalogue"
    shutil.copytree(toy_root, root)
    give_texts(root / "toy" / "build-one.duckdb")
    return root
