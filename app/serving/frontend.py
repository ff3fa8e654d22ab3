"""The files of the dashboard's frontend, from memory: a first view asks for a hundred of them.

Their names hold a hash of what is in them, so a small file is read once and answered from then on. Who asks over a
network gets them compressed, which is done once as well; on the same machine, unpacking would only add to the work.
"""

import gzip
import json
import re
from collections.abc import Iterable, Mapping
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


# What a page will need of Streamlit's frontend, named in the page itself.

_IMPORTED = re.compile(r'(?:from|import)\s*"\./([\w.$-]+\.js)"')
_BEFORE = '<link rel="stylesheet"'
"""The script stands in front of it: one behind would wait for the style sheet."""

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
    pieces = _pieces(scripts)
    named = set(re.findall(r"static/js/([\w.$-]+\.js)", index))
    whole = {
        page: [_closure(group, pieces, scripts) - named for group in (_EVERYWHERE + one.always, one.asked)]
        for page, one in needs.items()
    }
    files = sorted({name for groups in whole.values() for group in groups for name in group})
    place = {name: number for number, name in enumerate(files)}
    pages = {
        page: [sorted(place[name] for name in always), sorted(place[name] for name in asked), needs[page].parameters]
        for page, (always, asked) in whole.items()
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


def _pieces(scripts: Path) -> dict[str, str]:
    """Their file names by what stands before the hash."""
    return {path.name.rsplit(".", 2)[0]: path.name for path in scripts.glob("*.js")}


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
