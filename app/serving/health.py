"""Whether this server can answer, for a load balancer or a container's health check: ``/health``."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from sqlalchemy import ColumnClause, literal_column, select
from starlette.requests import Request
from starlette.responses import JSONResponse

from app.serving.problems import Pool, one_line
from app.serving.resources import catalogue, placement
from app.serving.settings import configuration
from db.catalogue import schema
from db.errors import AtlasError
from db.workspace import Workspace

PATIENCE = 5.0
"""Seconds after which a part that does not answer counts as broken."""
Part = dict[str, Any]
_ONE: ColumnClause[int] = literal_column("1")
"""A bound number would make DuckDB import pandas, which the first check should not wait for."""
_POOL = Pool(threads=2, waiting=16)  # of its own, so that many questions do not make the server look ill
_LOG = logging.getLogger(__name__)


def health(workspace: Callable[[], Workspace | None]) -> Callable[[Request], Awaitable[JSONResponse]]:
    """The health check. It answers 200 where the catalogue can be read, else 503; each part says what is wrong with it.

    Without its workspace the server still answers everything but what people saved: that is status “impaired”, and 200.

    Args:
        workspace: opens it; None where nothing was saved yet.
    """

    async def check(_request: Request) -> JSONResponse:
        found, kept = await asyncio.gather(
            _state("catalogue", _catalogue), _state("workspace", lambda: _workspace(workspace))
        )
        well, whole = found["status"] == "ok", kept["status"] in ("ok", "off")
        return JSONResponse(
            {
                "status": "broken" if not well else "ok" if whole else "impaired",
                "parts": {"catalogue": found, "workspace": kept},
            },
            200 if well else 503,
            {"Cache-Control": "no-store"},
        )

    return check


async def _state(name: str, look: Callable[[], Part]) -> Part:
    try:
        return await asyncio.wait_for(_POOL.run(look), PATIENCE)
    except TimeoutError:
        return {"status": "broken", "problem": f"The {name} has not answered for {PATIENCE:.0f} seconds."}
    except AtlasError as error:
        return {"status": "broken", "problem": one_line(error)}


def _catalogue() -> Part:
    """Opens the current build and reads of two tables.

    Raises:
        AtlasError: it cannot be read.
    """
    atlas = catalogue()
    # Read anew each time: what is remembered of a build says nothing about its file.
    (build,) = atlas.rows(select(schema.build.c.build_id))
    atlas.rows(select(schema.neuron.c.neuron_id).limit(_ONE))
    place = placement(atlas)
    return {
        "status": "ok",
        "model": atlas.info.model,
        "build_id": build[0],
        "mode": str(configuration().mode),
        "model_loaded": place is not None,
        "device": place and str(place.device),
        "dtype": place and place.numbers,
    }


def _workspace(open_workspace: Callable[[], Workspace | None]) -> Part:
    """Asks the workspace for nothing; one that nobody has written to yet is well.

    Raises:
        AtlasError: it cannot be used.
    """
    if configuration().workspace_url is None:
        return {"status": "off"}
    try:
        workspace = open_workspace()
        if workspace is not None:
            with workspace.database.transaction() as connection:
                connection.execute(select(_ONE))
    except AtlasError as error:
        _LOG.error("health: %s", str(error))  # an exception would be left out; this one repeats nothing typed
        # Its message names a file or a host of ours.
        raise AtlasError("The workspace cannot be used; the server’s log says why.") from error
    return {"status": "ok"}
