"""What a browser gets beside the data: the files of Streamlit's frontend, the page that names them, security headers.

A first view asks for about 140 files. Their names hold a hash of their content, so a file is read once and answered
from memory from then on. Other machines get it compressed, which is done once as well; on the same machine, unpacking
would only add to the work. Starlette's own static files and compression cost several times the processor time for each
file, because they go to the disk through a thread and compress anew for every request.
"""

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path

from anyio import to_thread
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

FOR_EVER = "public, immutable, max-age=31536000"
_SMALL = 1000
"""Bytes that are not worth compressing."""
_LARGE = 60_000
"""Bytes that are not worth keeping: the few files that are larger are read again, which the system does from memory."""
_TYPES = {".js": "text/javascript", ".css": "text/css", ".woff2": "font/woff2", ".html": "text/html"}


@dataclass(frozen=True, slots=True)
class Asset:
    """What one path answers: a file, or the bytes themselves."""

    source: Path | bytes
    ending: str
    caching: str = FOR_EVER

    @property
    def is_text(self) -> bool:
        """Whether compressing it helps."""
        return self.ending != ".woff2"

    def response(self, packed: bool) -> Response:
        """The whole answer, compressed where that is wanted and worth it."""
        content = self.source if isinstance(self.source, bytes) else self.source.read_bytes()
        headers = {"Cache-Control": self.caching} | ({"Vary": "Accept-Encoding"} if self.is_text else {})
        if packed and len(content) > _SMALL:
            content = gzip.compress(content, 6, mtime=0)
            headers["Content-Encoding"] = "gzip"
        return Response(content, headers=headers, media_type=_TYPES[self.ending])


def of_folder(folder: Path, prefix: str) -> dict[str, Asset]:
    """Every file of a known kind, by its path. Listed once: what a request says is never looked up on the disk."""
    found = (path for path in folder.rglob("*") if path.suffix in _TYPES and path.is_file())
    return {f"{prefix}{path.relative_to(folder).as_posix()}": Asset(path, path.suffix) for path in found}


class Assets:
    """ASGI middleware: answers what it has, and lets everything else pass."""

    def __init__(self, app: ASGIApp, assets: Mapping[str, Asset]) -> None:
        """``assets``: what is answered, by the whole path."""
        self._app = app
        self._assets = assets
        self._kept: dict[tuple[str, bool], Response] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or let the request pass."""
        asset = self._assets.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "GET" else None
        if asset is None:
            await self._app(scope, receive, send)
            return
        packed = asset.is_text and _wants_packed(scope)
        response = self._kept.get((scope["path"], packed))
        if response is None:
            response = await to_thread.run_sync(asset.response, packed)
            if packed or len(response.body) < _LARGE:
                self._kept[scope["path"], packed] = response
        await response(scope, receive, send)


def _wants_packed(scope: Scope) -> bool:
    """Whether the request comes from another machine, and its sender can unpack. Behind a proxy on this machine, the
    sender is whom the proxy names.
    """
    client = scope.get("client")
    try:
        here = client is not None and ip_address(client[0]).is_loopback
    except ValueError:
        here = False
    return not here and "gzip" in Headers(scope=scope).get("accept-encoding", "")


# Preloading: the page names what it will need of the frontend, which otherwise asks for one piece after another.

_IMPORTED = re.compile(r'(?:from|import)\s*"\./([\w.$-]+\.js)"')
_BEFORE = '<link rel="stylesheet"'
"""The script goes in front of it: behind it, it would wait for the style sheet."""
_EVERYWHERE = ("BidiComponent", "Html")


@dataclass(frozen=True, slots=True)
class Needs:
    """The pieces that a page draws with: always, and where its address holds one of the parameters."""

    always: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()


NOTHING = Needs()


def with_preloads(index: str, scripts: Path, needs: Mapping[str, Needs], further: Iterable[str] = ()) -> str:
    """Streamlit's page with a script that names what the page at this address will need.

    Args:
        index: the page.
        scripts: the folder of Streamlit's scripts.
        needs: what each page draws with, by its path.
        further: addresses of other scripts that every page needs, relative to the page's folder.
    """
    pieces = {path.name.rsplit(".", 2)[0]: path.name for path in scripts.glob("*.js")}  # by what precedes the hash
    named = set(re.findall(r"static/js/([\w.$-]+\.js)", index))
    whole = {
        page: [_closure(group, pieces, scripts) - named for group in (_EVERYWHERE + one.always, one.asked)]
        for page, one in needs.items()
    }
    files = sorted({name for groups in whole.values() for group in groups for name in group})
    number = {name: place for place, name in enumerate(files)}
    pages = {
        page: [*(sorted(number[name] for name in group) for group in groups), needs[page].parameters]
        for page, groups in whole.items()
    }
    told = json.dumps([files, pages, list(further)], separators=(",", ":")).replace("<", "\\u003c")
    script = f"<script>({_SCRIPT})(...{told})</script>"
    return index.replace(_BEFORE, f"{script}\n    {_BEFORE}", 1)


_SCRIPT = """(files, pages, further) => {
      const root = new URL("./", document.baseURI);
      window.__streamlit = { BACKEND_BASE_URL: root.href };
      const asked = new URLSearchParams(location.search);
      const [always, then, names] = pages[location.pathname.split("/").pop()] ?? [[], [], []];
      const wanted = names.some((name) => asked.get(name)) ? [...always, ...then] : always;
      for (const name of [...further, ...wanted.map((number) => `static/js/${files[number]}`)]) {
        const link = document.createElement("link");
        document.head.append(Object.assign(link, { rel: "modulepreload", crossOrigin: "", href: new URL(name, root) }));
      }
    }"""


def _closure(names: Iterable[str], pieces: Mapping[str, str], scripts: Path) -> set[str]:
    """The files of these pieces, and of all that they import."""
    found: set[str] = set()
    ahead = [pieces[name] for name in names if name in pieces]
    while ahead:
        name = ahead.pop()
        if name not in found and (scripts / name).is_file():
            found.add(name)
            ahead += _IMPORTED.findall((scripts / name).read_text(encoding="utf-8"))
    return found


# Security headers, added to every answer that does not set them itself.

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
    """ASGI middleware: tells a browser what a page of ours may do."""

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
