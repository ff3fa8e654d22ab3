"""Who may write: by the settings, and by what an identity provider says of a visitor."""

import asyncio
from base64 import urlsafe_b64encode

import httpx
import pytest
import streamlit as st
from starlette.responses import Response
from streamlit.testing.v1 import AppTest

from app.serving import access
from app.serving.settings import configuration
from tests.pages import texts

SIGNED_IN = {"is_logged_in": True, "name": "Ada", "email": "ada@uni.example", "email_verified": True}


class Secrets(dict[str, object]):
    """As much of Streamlit's secrets as is asked for."""

    def load_if_toml_exists(self) -> bool:
        return bool(self)


@pytest.fixture
def visitor(monkeypatch: pytest.MonkeyPatch):
    """``visitor(sign_in=True, is_logged_in=True, ...)``: whoever looks at the page."""

    def be(*, sign_in: bool = True, **claims: object) -> None:
        monkeypatch.setattr(st, "secrets", Secrets(auth={"client_id": "atlas"}) if sign_in else Secrets())
        monkeypatch.setattr(st, "user", claims)

    return be


def test_on_a_server_of_ones_own_everybody_may_write(visitor):
    visitor(sign_in=False)
    assert access.person() is None
    assert access.may_write()


@pytest.mark.parametrize(("variable", "value"), [("ATLAS_READ_ONLY", "true")])
def test_nobody_writes_on_a_read_only_server(visitor, monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    for sign_in in (True, False):
        visitor(sign_in=sign_in, **SIGNED_IN)
        assert access.why_not_write() == "This server is read-only: nothing can be saved here."


@pytest.mark.parametrize(("variable", "value"), [("ATLAS_MODE", "demo"), ("ATLAS_EMAIL_DOMAINS", "uni.example")])
def test_without_sign_in_nobody_writes_where_only_some_may(visitor, monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    visitor(sign_in=False, **SIGNED_IN)  # claims without a provider are worth nothing
    assert not access.may_write()
    assert "no sign-in" in str(access.why_not_write())


@pytest.mark.parametrize("claims", [{}, {"is_logged_in": False}, {"is_logged_in": "true", "email": "a@uni.example"}])
def test_anonymous_visitors_read_but_do_not_write(visitor, claims):
    visitor(**claims)
    assert access.person() is None
    assert str(access.why_not_write()).startswith("Sign in")


def test_without_a_list_of_domains_whoever_signed_in_may_write(visitor):
    visitor(**SIGNED_IN)
    assert access.person() == access.Person("Ada", "ada@uni.example")
    assert access.may_write()


@pytest.mark.parametrize(
    ("claims", "allowed"),
    [
        ({}, True),
        ({"email": "ADA@Uni.Example "}, True),
        ({"email_verified": "true"}, True),
        ({"email_verified": False}, False),
        ({"email_verified": "false"}, False),
        ({"email_verified": None}, False),
        ({"email": None}, False),
        ({"email": "uni.example"}, False),
        ({"email": "ada@other.example"}, False),
        ({"email": "ada@sub.uni.example"}, False),
        ({"email": "ada@evil-uni.example"}, False),
        ({"email": "ada@uni.example@other.example"}, False),
    ],
)
def test_with_a_list_of_domains_only_verified_addresses_of_these_may_write(visitor, monkeypatch, claims, allowed):
    monkeypatch.setenv("ATLAS_EMAIL_DOMAINS", "third.example, UNI.example")
    visitor(**SIGNED_IN | claims)
    assert access.may_write() is allowed
    assert (access.why_not_write() is None) is allowed


def test_an_address_that_nobody_vouches_for_is_not_told(visitor):
    visitor(**SIGNED_IN | {"email_verified": False})
    assert access.person() == access.Person("Ada", "")


def test_identity_providers_are_offered_by_their_names(monkeypatch):
    def offered(**section: object) -> tuple[str | None, ...]:
        monkeypatch.setattr(st, "secrets", Secrets(auth=section))
        return access.providers()

    assert offered(client_id="atlas", cookie_secret="x") == (None,)
    assert offered(cookie_secret="x", google={"client_id": "a"}, other={"client_id": "b"}) == ("google", "other")
    monkeypatch.setattr(st, "secrets", Secrets())
    assert access.providers() == ()


def test_there_is_an_account_page_only_where_one_can_sign_in(monkeypatch, toy_page):
    assert "account" not in pages(toy_page("start"))
    monkeypatch.setattr(access, "sign_in_offered", lambda: True)
    monkeypatch.setattr(access, "person", lambda: None)
    assert pages(toy_page("start"))["account"] == "Sign in"
    monkeypatch.setattr(access, "person", lambda: access.Person("Ada", "ada@uni.example"))
    assert pages(toy_page("start"))["account"] == "Account"


def test_the_account_page_signs_in(monkeypatch, toy_page):
    asked: list[str | None] = []
    monkeypatch.setattr(access, "sign_in_offered", lambda: True)
    monkeypatch.setattr(access, "person", lambda: None)
    monkeypatch.setattr(access, "providers", lambda: (None, "uni"))
    monkeypatch.setattr(st, "login", asked.append)
    app = toy_page("account")
    assert [button.label for button in app.button] == ["Sign in", "Sign in with uni"]
    app.button[1].click().run()
    assert asked == ["uni"]


def test_whoever_may_not_save_without_an_account_can_sign_in_there_and_then(monkeypatch, toy_page):
    monkeypatch.setattr(access, "sign_in_offered", lambda: True)
    monkeypatch.setattr(access, "person", lambda: None)
    monkeypatch.setattr(access, "providers", lambda: (None,))
    asked: list[str | None] = []
    monkeypatch.setattr(st, "login", asked.append)
    for page, query in (("search", {"q": " Paris"}), ("saved", {})):
        app = toy_page(page, **query)
        assert any("Sign in to save something" in one.value for one in (*app.info, *app.caption))
        next(button for button in app.button if button.label == "Sign in").click().run()
    assert asked == [None, None]
    monkeypatch.setenv("ATLAS_READ_ONLY", "true")
    configuration.cache_clear()
    app = toy_page("saved")
    assert any("nothing can be saved here" in one.value for one in app.caption)
    assert "Sign in" not in [button.label for button in app.button]
    app = toy_page("account")
    assert any("nothing can be saved here" in one.value for one in app.markdown)
    assert [button.label for button in app.button] == ["Sign in"]


CAME_FROM = "/atlas/prompt?p=Caf%C3%A9+is%2C+%22"


def signing_in(path: str, status: int = 302, **headers: str) -> httpx.Response:
    """The answer of a server at /atlas, whose other parts answer so, and redirect to its first page."""

    async def ask() -> httpx.Response:
        streamlit = Response("Authentication error", status, {"Location": "/atlas/", "Set-Cookie": "theirs=1"})
        app = access.ComesBack(streamlit, root="/atlas", pages=("", "prompt"))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="https://atlas.example") as client:
            return await client.get(f"/atlas{path}", headers=headers)

    return asyncio.run(ask())


def test_signing_in_leads_back_to_the_page_it_was_asked_on():
    begun = signing_in("/auth/login?provider=x", Referer=f"https://atlas.example{CAME_FROM}")
    assert begun.headers["location"] == "/atlas/"  # where Streamlit sends the browser is not changed
    theirs, ours = begun.headers.get_list("set-cookie")
    assert theirs == "theirs=1"
    kept, *attributes = ours.split("; ")
    assert attributes == ["Path=/atlas", "Max-Age=900", "HttpOnly", "SameSite=Lax"]
    ended = signing_in("/oauth2callback?code=x", Cookie=kept)
    assert ended.headers["location"] == CAME_FROM
    assert "Max-Age=0" in ended.headers.get_list("set-cookie")[1]
    assert signing_in("/prompt", Cookie=kept).headers["location"] == "/atlas/"


@pytest.mark.parametrize(
    "came_from",
    [
        "",
        "https://evil.example/atlas/prompt?p=x",
        "https://atlas.example/elsewhere",
        "https://atlas.example/prompt",
        "https://atlas.example//evil.example/atlas/prompt",
        "https://[atlas.example/atlas/prompt",
        f"https://atlas.example/atlas/prompt?p={'x' * 2800}",  # no browser keeps so long a cookie
    ],
)
def test_signing_in_keeps_no_address_but_a_page_of_ours(came_from):
    cookie = signing_in("/auth/login", Referer=came_from).headers.get_list("set-cookie")[1]
    assert cookie.startswith("atlas_came_from=; ")
    assert "Max-Age=0" in cookie


@pytest.mark.parametrize(
    ("kept", "location"),
    [
        ("/atlas/", "/atlas/"),
        ("/atlas/prompt", "/atlas/prompt"),
        ("//evil.example/atlas/prompt", "/atlas/prompt"),
        ("https://evil.example/atlas/prompt?p=x#y", "/atlas/prompt?p=x"),
        ("https://evil.example", "/atlas/"),
        ("/atlas/prompt?p=é", "/atlas/"),
        ("/atlas/prompt?p=x\r\nSet-Cookie: y=1", "/atlas/"),
        ("/atlas/elsewhere", "/atlas/"),
        ("javascript:alert(1)", "/atlas/"),
    ],
)
def test_a_cookie_leads_nowhere_but_to_a_page_of_ours(kept, location):
    cookie = f"atlas_came_from={urlsafe_b64encode(kept.encode()).decode()}"
    assert signing_in("/oauth2callback", Cookie=cookie).headers["location"] == location
    for spoilt in ("atlas_came_from=%%%", "atlas_came_from=YQ", "atlas_came_from=_w==", ""):
        assert signing_in("/oauth2callback", Cookie=spoilt).headers["location"] == "/atlas/"


def test_an_identity_provider_that_does_not_answer_is_said():
    answer = signing_in("/auth/login", 400, Referer=f"https://atlas.example{CAME_FROM}")
    assert answer.status_code == 503
    assert "cannot reach its identity provider" in answer.text
    assert "Authentication error" not in answer.text
    assert signing_in("/prompt", 400).text == "Authentication error"


def test_the_account_page_says_what_one_may_and_signs_out(monkeypatch, toy_page):
    left = []
    monkeypatch.setenv("ATLAS_EMAIL_DOMAINS", "uni.example")
    monkeypatch.setattr(access, "sign_in_offered", lambda: True)
    monkeypatch.setattr(access, "person", lambda: access.Person("*Ada* <b>", "ada@other.example"))
    monkeypatch.setattr(st, "logout", lambda: left.append(1))
    app = toy_page("account")
    assert "only addresses of uni.example may save" in texts(app)
    assert "*Ada* <b>" in app.markdown[0].value.replace("\\", "")
    assert r"\*Ada\*" in app.markdown[0].value
    app.button[0].click().run()
    assert left == [1]


def pages(app: AppTest) -> dict[str, str]:
    """The titles in the navigation by address."""
    return {page["url_pathname"]: page["page_name"] for page in app._registered_pages.values()}


LOCAL = {"Host": "localhost:8501"}


@pytest.mark.parametrize(
    ("address", "headers", "local"),
    [
        (None, LOCAL, True),
        (None, {"Host": "127.0.0.1"}, True),
        (None, {"Host": "[::1]:8501"}, True),
        ("127.0.0.1", LOCAL, True),
        ("::ffff:127.0.0.1", LOCAL, True),
        ("::1", LOCAL, True),
        ("192.168.0.7", LOCAL, False),
        ("::ffff:192.168.0.7", LOCAL, False),
        ("localhost", LOCAL, False),
        (None, {"Host": "atlas.example.org"}, False),
        (None, {"Host": "localhost.example.org:8501"}, False),
        (None, {}, False),
        *((None, LOCAL | {name: "10.0.0.1"}, False) for name in ("X-Forwarded-For", "Forwarded", "X-Real-IP")),
    ],
)
def test_only_a_browser_on_this_machine_is_local(address, headers, local):
    assert access.is_local(address, headers) is local


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ATLAS_ADD_MODELS", "false"),
        ("ATLAS_READ_ONLY", "true"),
        ("ATLAS_MODE", "catalogue"),
        ("ATLAS_MODE", "demo"),
        ("ATLAS_EMAIL_DOMAINS", "uni.example"),
        ("", "sign-in"),
    ],
)
def test_models_are_added_only_where_nobody_else_is_let_in(visitor, monkeypatch, variable, value):
    monkeypatch.setattr(access, "is_local", lambda *_: True)
    visitor(sign_in=False)
    assert access.why_not_add() is None
    visitor(sign_in=not variable, **SIGNED_IN)
    if variable:
        monkeypatch.setenv(variable, value)
        configuration.cache_clear()
    assert "No models are added" in str(access.why_not_add())


def test_from_another_machine_no_model_is_added(visitor, monkeypatch):
    visitor(sign_in=False)
    monkeypatch.setattr(access, "is_local", lambda *_: False)
    assert "on the machine that the server runs on" in str(access.why_not_add())
