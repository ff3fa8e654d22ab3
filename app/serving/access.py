"""Who is signed in and where they came from, whether they may write, the session behind a page, and what this server
explains.
"""

import hashlib
import re
import secrets
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from urllib.parse import urlsplit

import streamlit as st
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from streamlit import runtime
from streamlit.runtime.scriptrunner import StopException, get_script_run_ctx

from app.gallery import CHOICES, EXAMPLES, PROMPTS, READY, TRIALS, WALKTHROUGH_PROMPT
from app.serving.settings import Mode, configuration
from app.serving.worker import Asker, Reason, RefusedError

# Signing in. Everybody may read.


@dataclass(frozen=True, slots=True)
class Person:
    """Who is signed in, by what the identity provider says of them.

    Attributes:
        name: what to call them.
        email: their address, lower case; empty where the provider does not say that it was verified.
    """

    name: str
    email: str


def sign_in_offered() -> bool:
    """Whether this server has an identity provider."""
    return bool(st.secrets.load_if_toml_exists() and st.secrets.get("auth"))


def person() -> Person | None:
    """Who is signed in; None for an anonymous visitor."""
    if not sign_in_offered() or st.user.get("is_logged_in") is not True:
        return None
    address = str(st.user.get("email") or "").strip().lower()
    verified = str(st.user.get("email_verified")).lower() == "true"  # some providers send it as text
    name = str(st.user.get("name") or address or "you")
    return Person(name, address if verified and "@" in address else "")


def providers() -> tuple[str | None, ...]:
    """The names under which the identity providers are set up; None for the one that has none."""
    section = st.secrets.get("auth", {}) if sign_in_offered() else {}
    named = tuple(name for name, value in section.items() if isinstance(value, Mapping) and "client_id" in value)
    return named if "client_id" not in section else (None, *named)


def may_write() -> bool:
    """Whether whoever looks at this page may save, change or delete anything."""
    return why_not_write() is None


def why_not_write() -> str | None:
    """One sentence that says why this visitor may not write, and what would help; None where they may."""
    settings = configuration()
    if settings.read_only:
        return "This server is read-only: nothing can be saved here."
    if not sign_in_offered():
        if settings.email_domains or settings.mode is Mode.DEMO:
            return "Nothing can be saved here, because this server has no sign-in."
        return None
    visitor = person()
    if visitor is None:
        return "Sign in to save something; reading needs no account."
    if not settings.email_domains:
        return None
    if not visitor.email:
        return "Your identity provider does not say that your e-mail address is verified, so you may read but not save."
    if visitor.email.rpartition("@")[2] not in settings.email_domains:
        allowed = ", ".join(settings.email_domains)
        return f"You are signed in, but only addresses of {allowed} may save here. You may read everything."
    return None


def sign_in_helps() -> bool:
    """Whether signing in is all that this visitor lacks to write."""
    return not configuration().read_only and sign_in_offered() and person() is None


_CAME_FROM = "atlas_came_from"
_LONGEST_ADDRESS = 2_800  # bytes: a cookie of more than 4,096 in all is dropped
_MOST_SECONDS = 900


class ComesBack:
    """ASGI middleware: whoever signs in comes back to the page where they asked to.

    Streamlit would show its first page. An address holds a page's whole state, and a cookie keeps it meanwhile.
    """

    def __init__(self, app: ASGIApp, root: str, pages: Iterable[str]) -> None:
        """``root``: the path that the server stands under, without a slash at its end; ``pages``: below it."""
        self._app = app
        self._root = root
        self._pages = {f"{root}/{page}" for page in pages}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the answer pass; keep the address where signing in begins, and go there where it ends."""
        path = scope["path"] if scope["type"] == "http" else None
        if path == f"{self._root}/auth/login":
            send = _in_words(scope, receive, self._keeping(Headers(scope=scope), send))
        elif path == f"{self._root}/oauth2callback":
            send = self._going_back(HTTPConnection(scope).cookies.get(_CAME_FROM, ""), send)
        await self._app(scope, receive, send)

    def _keeping(self, headers: Headers, send: Send) -> Send:
        address = self._page(headers.get("referer", ""), of=headers.get("host"))
        kept = urlsafe_b64encode(address.encode()).decode() if len(address) <= _LONGEST_ADDRESS else ""
        return _with_headers(send, {"Set-Cookie": self._cookie(kept)})

    def _going_back(self, kept: str, send: Send) -> Send:
        try:
            address = self._page(urlsafe_b64decode(kept).decode())
        except ValueError:
            address = ""
        return _with_headers(send, {"Set-Cookie": self._cookie("")}, address) if address else send

    def _page(self, address: str, of: str | None = None) -> str:
        """The path and the query of an address where they are a page's, `of` this host if one is named; else nothing: a
        browser may send anything.
        """
        try:
            found = urlsplit(address)
        except ValueError:
            return ""
        own = found.path in self._pages and of in (None, found.netloc) and address.isascii() and address.isprintable()
        return found._replace(scheme="", netloc="", fragment="").geturl() if own else ""

    def _cookie(self, value: str) -> str:
        """An empty one is deleted."""
        lasting = _MOST_SECONDS if value else 0
        return f"{_CAME_FROM}={value}; Path={self._root or '/'}; Max-Age={lasting}; HttpOnly; SameSite=Lax"


def _in_words(scope: Scope, receive: Receive, send: Send) -> Send:
    """Send what goes wrong where signing in begins as a sentence that helps: Streamlit's is “Authentication error”."""
    failed = False

    async def sending(message: Message) -> None:
        nonlocal failed
        if message["type"] == "http.response.start" and message["status"] >= 400:
            failed = True
            await PlainTextResponse(_NO_PROVIDER, 503)(scope, receive, send)
        if not failed:
            await send(message)

    return sending


_NO_PROVIDER = (
    "This server cannot reach its identity provider, so nobody can sign in at the moment. Go back and try again later; "
    "reading needs no account. Whoever runs this server finds the cause in its log."
)


def _with_headers(send: Send, headers: Mapping[str, str], location: str = "") -> Send:
    """Send more headers with an answer; where it leads elsewhere, and a location is given, to that."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = MutableHeaders(scope=message)
            for name, value in headers.items():
                own.append(name, value)
            if location and "location" in own:
                own["location"] = location
        await send(message)

    return sending


# Adding models: whoever does reads the server's files and uses its disk.

_LOCAL = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?")
_FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Via")


def adds_models() -> bool:
    """Whether this server takes new models from anybody: one that others are let into takes none."""
    settings = configuration()
    shared = settings.mode is not Mode.FULL or settings.read_only or settings.email_domains or sign_in_offered()
    return settings.add_models and not shared


def why_not_add() -> str | None:
    """One sentence that says why this visitor may not add a model, and what would help; None where they may."""
    shell = "In the server’s own shell it is: python -m indexer build MODEL"
    if not adds_models():
        return f"No models are added on the pages of this server. {shell}"
    if not is_local(st.context.ip_address, st.context.headers):
        return (
            "Models can be added only from a browser on the machine that the server runs on, because adding one reads "
            f"that machine’s files. {shell}"
        )
    return None


def is_local(address: str | None, headers: Mapping[str, str]) -> bool:
    """Whether a connection is from a browser on this machine, and by no proxy.

    Args:
        address: where it is from; None is this machine.
        headers: of its first request. They name as host what the browser was told to connect to.
    """
    direct = not any(name in headers for name in _FORWARDED)
    return direct and _is_loopback(address) and _LOCAL.fullmatch(str(headers.get("Host", ""))) is not None


def _is_loopback(address: str | None) -> bool:
    if address is None:
        return True
    try:
        found = ip_address(address)
    except ValueError:
        return False
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped  # how a server that listens on all addresses sees 127.0.0.1
    return found.is_loopback


def require_may_add() -> None:
    """Called before a model is estimated or built.

    Raises:
        RefusedError: this visitor may not add one.
    """
    refusal = why_not_add()
    if refusal is not None:
        raise RefusedError(Reason.MODE, refusal)


# The session that a page is drawn for.

_LOOK_SECONDS = 1.0
_SALT = secrets.token_bytes(16)


def asker() -> Asker:
    """This session as the workshop sees it: it has gone once its page is drawn anew or nobody is connected any more.

    Outside a session, as in a test of the library, nobody ever leaves.
    """
    context = get_script_run_ctx(suppress_warning=True)
    if context is None:
        return Asker()
    session, last = context.session_id, time.monotonic()

    def look() -> None:
        nonlocal last
        context.yield_check()
        if time.monotonic() - last < _LOOK_SECONDS:
            return
        last = time.monotonic()
        # A closed page keeps its session for a while, for it may connect again; then it is drawn anew.
        if runtime.exists() and not runtime.get_instance().is_active_session(session):
            raise StopException

    return Asker(session, look)


def short_name() -> str:
    """Tells sessions apart in the log, without giving the session away. Empty outside a session."""
    context = get_script_run_ctx(suppress_warning=True)
    return "" if context is None else hashlib.sha256(_SALT + context.session_id.encode()).hexdigest()[:8]


# What this server explains.

_COMPARED = (side.prompt for _, one in EXAMPLES for side in (one.question.first, one.question.second))
_READY = (prompt for ready in READY.values() for prompt, _ in ready)
_GALLERY = (one.selection.prompt for one in CHOICES)
CURATED = frozenset((WALKTHROUGH_PROMPT, *PROMPTS, *TRIALS, *_GALLERY, *_READY, *_COMPARED))
"""The prompts that a demonstration explains."""


def has_model() -> bool:
    """Whether this server has a model to ask."""
    return configuration().mode is not Mode.CATALOGUE


def takes_any_prompt() -> bool:
    """Whether this server explains whatever is typed."""
    return configuration().mode is Mode.FULL


def require_model() -> None:
    """Called by whatever needs the model.

    Raises:
        RefusedError: this server has none.
    """
    if not has_model():
        raise RefusedError(
            Reason.MODE,
            "This server has no model, so it explains no new prompts. Search its catalogue, open a saved analysis or "
            "one of the gallery, or run Neuron Atlas on a machine of your own.",
        )


def require_allowed(prompt: str, top: int = 0) -> None:
    """Called before the model gets a prompt; its length in tokens is checked once it has been read.

    Args:
        prompt: the text.
        top: how many neurons of each kind are asked for.

    Raises:
        RefusedError: this server has no model, or does not explain this prompt, or not with so many neurons.
    """
    require_model()
    settings = configuration()
    if settings.mode is Mode.DEMO and prompt not in CURATED:
        raise RefusedError(
            Reason.MODE,
            "This server is a demonstration and explains only the prompts that its pages offer; run Neuron Atlas on a "
            "machine of your own to explain yours.",
        )
    if top > settings.max_top:
        raise RefusedError(
            Reason.LIMIT,
            f"This server finds at most {settings.max_top:,} neurons of each kind, and {top:,} were asked for: ask for "
            "fewer.",
        )


def require_batch(count: int) -> None:
    """Called before the model gets many prompts.

    Raises:
        RefusedError: they are too many.
    """
    most = configuration().max_prompts
    if count > most:
        raise RefusedError(
            Reason.LIMIT, f"This server explains at most {most:,} prompts at a time, and {count:,} were given."
        )
