"""One process for the dashboard, the HTTP API and the health check: ``python -m streamlit run app/server.py``.

``/`` is the dashboard (:mod:`app.main`), ``/api/`` the API (:mod:`app.api.application`), ``/health`` says whether it
all works (:mod:`app.serving.health`). Streamlit finds the name ``app`` here and serves it.
"""

import logging
from pathlib import Path

import streamlit
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.routing import Mount, Route
from streamlit.starlette import App

from app.api.application import api
from app.notices import escaped
from app.serving import logs
from app.serving.configuration import configuration_or_exit
from app.serving.headers import SecurityHeaders
from app.serving.health import health

_PREFIX = "/".join(("", *filter(None, str(streamlit.get_option("server.baseUrlPath") or "").split("/"))))
_API = f"{_PREFIX.rstrip('/')}/api"
_INDEX = Path(streamlit.__file__).parent / "static" / "index.html"


async def _to_api(request: Request) -> RedirectResponse:
    return RedirectResponse(f"{_API}/", 308)


_SETTINGS = configuration_or_exit()
logs.set_up(_SETTINGS.log_format, whole=_SETTINGS.log_prompts)
logs.event("start", mode=str(_SETTINGS.mode), read_only=_SETTINGS.read_only, sign_in=bool(_SETTINGS.auth))
# It would write down addresses, and an address holds what people type.
logging.getLogger("uvicorn.access").disabled = True
app = App(
    Path(__file__).with_name("main.py"),
    secrets={"auth": dict(_SETTINGS.auth)} if _SETTINGS.auth else None,
    routes=[
        Route(f"{_PREFIX.rstrip('/')}/health", health),
        Route(_API, _to_api),
        Mount(_API, api()),
    ],
    middleware=[Middleware(SecurityHeaders, api=_API, index=_INDEX)],
    on_script_error=escaped,
)
