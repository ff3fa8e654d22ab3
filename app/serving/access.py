"""Who is signed in, and whether they may write. Reading is free to everybody.

Signing in is Streamlit's (OpenID Connect, ``st.login``): set up by the variables ``ATLAS_AUTH_…`` or by the section
``[auth]`` of ``.streamlit/secrets.toml``. Where neither is there, nobody can be told from anybody else: on a server of
one's own that means everybody may write.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import streamlit as st

from app.serving.configuration import Mode, configuration


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
