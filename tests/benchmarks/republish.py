"""A published build once more under another id, by the steps of publishing itself: what a rebuild of the same model is
to a running server.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import duckdb

from db.catalogue.builds import build_path, exclusive, set_current
from db.catalogue.check import check_build
from db.catalogue.store import Catalogue
from db.files import sync


def publish_copy(build: Path, build_id: str) -> Path:
    """Make a copy of a build current; returns its file.

    Raises:
        AtlasError: another process publishes, or the copy is not whole.
    """
    directory = build.parent
    target, temporary = build_path(directory, build_id), directory / ".publishing.duckdb"
    with exclusive(directory):
        shutil.copyfile(build, temporary)
        with duckdb.connect(str(temporary)) as connection:
            connection.execute("UPDATE build SET build_id = ?", [build_id])
            connection.execute("CHECKPOINT")
        with Catalogue.open(build) as atlas:
            stamp = replace(atlas.info, build_id=build_id)
        check_build(temporary, stamp)
        sync(temporary)
        temporary.rename(target)
        set_current(directory, target)
    return target
