from collections.abc import Iterator
from pathlib import Path

import pytest

from db.catalogue.store import Catalogue
from tests.catalogues import ToyCatalogue, make_catalogue


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> ToyCatalogue:
    """One build that no test changes."""
    return make_catalogue(tmp_path_factory.mktemp("catalogue"))


@pytest.fixture(scope="session")
def catalogue(toy: ToyCatalogue) -> Iterator[Catalogue]:
    with Catalogue.open(toy.path) as opened:
        yield opened


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with characters that a URL or an SQL string would trip over."""
    folder = tmp_path / "it's a folder; 100% &x=1#é"
    folder.mkdir()
    return folder
