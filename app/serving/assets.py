"""The files of the dashboard's frontend, from memory: a first view asks for a hundred of them.

Their names hold a hash of what is in them, so a small file is read once and answered from then on. Who asks over a
network gets them compressed, which is done once as well; on the same machine, unpacking would only add to the work.
"""

import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from anyio import to_thread
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

FOR_EVER = "public, immutable, max-age=31536000"
_SMALL = 1000
"""Bytes that are not worth compressing."""
_LARGE = 60_000
"""Bytes that are not worth holding: the few files that are larger are read again, which the system does from memory."""
_TYPES = {".js": "text/javascript", ".css": "text/css", ".woff2": "font/woff2", ".html": "text/html"}
_TEXT = frozenset({".js", ".css", ".html"})


@dataclass(frozen=True, slots=True)
class Asset:
    """What one path answers: a file, or what stands here."""

    source: Path | bytes
    ending: str
    caching: str = FOR_EVER

    def content(self) -> bytes:
        """What is in it."""
        return self.source if isinstance(self.source, bytes) else self.source.read_bytes()


def of_folder(folder: Path, prefix: str) -> dict[str, Asset]:
    """Every file of a known kind, by its path. Listed once: what a request says is never looked for on the disk."""
    found = (path for path in folder.rglob("*") if path.suffix in _TYPES and path.is_file())
    return {f"{prefix}{path.relative_to(folder).as_posix()}": Asset(path, path.suffix) for path in found}


class Assets:
    """ASGI middleware: answers what it has, and lets all else pass."""

    def __init__(self, app: ASGIApp, assets: Mapping[str, Asset]) -> None:
        """``assets``: what is answered, by the whole path."""
        self._app = app
        self._assets = assets
        self._held: dict[tuple[str, bool], bytes] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or let the request pass."""
        asset = self._assets.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "GET" else None
        if asset is None:
            await self._app(scope, receive, send)
            return
        packed = asset.ending in _TEXT and _wants_packed(scope)
        content = await self._content(scope["path"], asset, packed)
        headers = {"Cache-Control": asset.caching}
        if asset.ending in _TEXT:
            headers["Vary"] = "Accept-Encoding"
        if packed and content[:2] == _MAGIC:
            headers["Content-Encoding"] = "gzip"
        await Response(content, headers=headers, media_type=_TYPES[asset.ending])(scope, receive, send)

    async def _content(self, path: str, asset: Asset, packed: bool) -> bytes:
        key = path, packed
        content = self._held.get(key)
        if content is None:
            content = await to_thread.run_sync(_prepared, asset, packed)
            if packed or len(content) < _LARGE:
                self._held[key] = content
        return content


_MAGIC = b"\x1f\x8b"
"""How compressed bytes begin, and no text."""


def _prepared(asset: Asset, packed: bool) -> bytes:
    content = asset.content()
    return gzip.compress(content, 6, mtime=0) if packed and len(content) > _SMALL else content


def _wants_packed(scope: Scope) -> bool:
    """Whether the request comes from another machine, and its sender can unpack. Behind a proxy of this machine, it
    comes from whom the proxy names.
    """
    client = scope.get("client")
    try:
        here = client is not None and ip_address(client[0]).is_loopback
    except ValueError:
        here = False
    return not here and "gzip" in Headers(scope=scope).get("accept-encoding", "")
