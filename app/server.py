"""One process for the dashboard, the HTTP API and the health check: ``python -m streamlit run app/server.py``.

``/`` is the dashboard (:mod:`app.main`), ``/api/`` the API (:mod:`app.serving.api`), ``/health`` says whether it
all works (:mod:`app.serving.health`). Streamlit finds the name ``app`` here and serves it.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Event

import streamlit
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.routing import Mount, Route
from streamlit.starlette import App

from app.answers import http, stored
from app.serving import access, logs
from app.serving.api import api
from app.serving.frontend import Asset, Assets, SecurityHeaders, of_folder, with_preloads
from app.serving.health import health
from app.serving.settings import Mode, configuration_or_exit
from app.serving.startup import keep_little, preload, send_at_once, share_cores, warm_up
from app.ui.components import FOLDER, script, script_name
from app.ui.navigation import escaped
from app.ui.pages import ACCOUNT, PAGES

_ROOT = "".join(f"/{part}" for part in str(streamlit.get_option("server.baseUrlPath") or "").split("/") if part)
_API = f"{_ROOT}/api"
_FRONTEND = Path(streamlit.__file__).parent / "static"
_NEEDS = {page.path: page.needs for page in (*PAGES.values(), ACCOUNT)}
_INDEX = with_preloads(
    (_FRONTEND / "index.html").read_text("utf-8"), _FRONTEND / "static" / "js", _NEEDS, [f"{FOLDER}/{script_name()}"]
)


def _assets() -> dict[str, Asset]:
    """What is answered from memory: the frontend's files, and the page itself at every page's address."""
    page = Asset(_INDEX.encode(), ".html", "no-cache")
    return {
        **of_folder(_FRONTEND / "static", f"{_ROOT}/static/"),
        f"{_ROOT}/{FOLDER}/{script_name()}": Asset(script(), ".js"),
        **{f"{_ROOT}/{path}": page for path in _NEEDS},
    }


async def _to_api(request: Request) -> RedirectResponse:
    return RedirectResponse(f"{_API}/", 308)


@asynccontextmanager
async def _running(_app: App) -> AsyncIterator[dict[str, object]]:
    """What is done between opening the server's socket and answering."""
    send_at_once()
    warmed, stop = warm_up(page.module for page in PAGES.values()), Event()
    if access.has_model() and _SETTINGS.preload:
        preload(warmed, stop)
    yield {}
    stop.set()


share_cores()
_SETTINGS = configuration_or_exit()
if _SETTINGS.mode is Mode.CATALOGUE:  # the mode for small machines; where a model runs, its threads go first
    keep_little()
logs.set_up(_SETTINGS.log_format, whole=_SETTINGS.log_prompts)
logs.event("start", mode=str(_SETTINGS.mode), read_only=_SETTINGS.read_only, sign_in=bool(_SETTINGS.auth))
# It would log addresses, and an address holds what people type.
logging.getLogger("uvicorn.access").disabled = True
app = App(
    Path(__file__).with_name("main.py"),
    secrets={"auth": dict(_SETTINGS.auth)} if _SETTINGS.auth else None,
    routes=[
        Route(f"{_ROOT}/health", health(stored.workspace)),
        Route(_API, _to_api),
        Mount(_API, api(http.router())),
    ],
    middleware=[
        Middleware(SecurityHeaders, api=_API, index=_INDEX),
        Middleware(Assets, assets=_assets()),
        Middleware(access.ComesBack, root=_ROOT, pages=_NEEDS),
    ],
    lifespan=_running,
    on_script_error=escaped,
)
