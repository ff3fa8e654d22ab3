"""Headers that tell a browser what a page of ours may do; added to every answer that does not set them itself."""

import base64
import hashlib
import re
from functools import lru_cache

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_STRICT = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""Of the API: data, and one page without scripts."""

_HOST = re.compile(r"[A-Za-z0-9.-]{1,253}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:[0-9]{1,5})?")

_ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    # A permalink holds the prompt: other sites learn nothing of it.
    "Referrer-Policy": "same-origin",
    "X-Frame-Options": "SAMEORIGIN",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class SecurityHeaders:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, api: str, index: str) -> None:
        """``api``: the path of the API; ``index``: the page that is served."""
        self._app = app
        self._api = api
        self._index = index

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the answer of an HTTP request pass, with the headers."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        data = path == self._api or path.startswith(f"{self._api}/")
        policy = _STRICT if data else page_policy(self._index, Headers(scope=scope).get("host", ""))

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in {**_ALWAYS, "Content-Security-Policy": policy}.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers)


@lru_cache(maxsize=64)
def page_policy(index: str, host: str = "") -> str:
    """The content security policy of the dashboard: everything from here, no script but those of the page itself.

    Args:
        index: the HTML whose inline scripts are allowed, by their hashes.
        host: what the browser calls this server; some browsers do not count a WebSocket to it as ``'self'``.
    """
    sockets = f" ws://{host} wss://{host}" if _HOST.fullmatch(host) else ""
    inline = re.findall(r"<script>(.*?)</script>", index, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in inline]
    scripts = " ".join(f"'sha256-{one}'" for one in hashes)
    return "; ".join(
        (
            "default-src 'self'",
            # Vega compiles the expressions of a chart; components bring their scripts as blobs.
            f"script-src 'self' {scripts} 'unsafe-eval' blob:",
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data: blob:",
            "font-src 'self' data:",
            "media-src 'self' data: blob:",
            "worker-src 'self' blob:",
            f"connect-src 'self' data: blob:{sockets}",
            "object-src 'none'",
            "base-uri 'self'",
            "form-action 'self'",
            "frame-ancestors 'self'",
        )
    )
