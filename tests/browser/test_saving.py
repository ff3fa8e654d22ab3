"""Keeping an explanation and coming back to it, and the gallery, in a real browser."""

import re
import socket
import uuid
from pathlib import Path

import pytest
from oidc_provider_mock import User, run_server_in_thread
from playwright.sync_api import Page, expect

from tests.browser.conftest import serving
from tests.browser.watching import both_sizes, fits, in_address, settled, still

pytestmark = pytest.mark.browser


@both_sizes
def test_a_view_of_the_gallery_is_one_click_away(page: Page, served_app: str, viewport: str) -> None:
    page.goto(f"{served_app}/gallery")
    settled(page)
    assert fits(page)
    page.get_by_label("open Why Paris and not London").get_by_role("link").click()
    expect(page.get_by_text("From the gallery")).to_be_visible()
    settled(page)
    found = in_address(page)
    assert found["p"] == "The capital of France is"
    assert "not" in found
    assert fits(page)


@both_sizes
def test_an_explanation_is_saved_found_opened_and_deleted(page: Page, served_app: str, viewport: str) -> None:
    name = f"kept {uuid.uuid4().hex[:8]} <b>$x$ WWWWWWWWWWWWWWWWWWWW"  # wider than a phone
    page.goto(f"{served_app}/prompt?p=Thank+you+very&own=L24.F652")
    settled(page)
    still(page)  # the panel that the address opens is scrolled into view, gently
    page.get_by_role("button", name="Save", exact=False).first.click()
    title = page.get_by_role("textbox", name="Title")
    expect(title).to_have_value(re.compile("Thank you very → much"))
    title.fill(name)
    page.get_by_role("button", name="Save it").click()
    expect(page.get_by_text(f"as “{name}”.").first).to_be_visible()
    settled(page)
    page.goto(f"{served_app}/saved?q={name[:13].replace(' ', '+')}")
    settled(page)
    assert fits(page)
    opened = page.get_by_role("link", name=name)
    expect(opened).to_be_visible()
    opened.click()
    expect(page.get_by_text("Why L24.F652", exact=False).first).to_be_visible()
    settled(page)
    assert in_address(page) == {"p": "Thank you very", "own": "L24.F652"}
    page.go_back()
    settled(page)
    page.get_by_role("button", name="Change").first.click()
    delete = page.get_by_role("button", name="Delete", exact=False)
    expect(delete).to_be_disabled()
    page.get_by_text("Delete it for good").click()
    expect(delete).to_be_enabled()
    delete.click()
    expect(page.get_by_role("link", name=name)).to_have_count(0)


def test_a_visitor_signs_in_where_they_are_saves_and_signs_out(
    page: Page, demo_catalogue_dir: Path, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]  # the provider is told where to send people back to before the server is there
    visitor = User(sub="ada", claims={"name": "Ada", "email": "ada@uni.example", "email_verified": True})
    with run_server_in_thread(user_claims=[visitor]) as provider:
        settings = {
            "STREAMLIT_SERVER_PORT": str(port),
            "ATLAS_CATALOGUE": str(demo_catalogue_dir),
            "ATLAS_WORKSPACE": f"sqlite:///{tmp_path / 'atlas.sqlite'}",
            "ATLAS_EMAIL_DOMAINS": "uni.example",
            "ATLAS_AUTH_REDIRECT_URI": f"http://127.0.0.1:{port}/oauth2callback",
            "ATLAS_AUTH_COOKIE_SECRET": "a long random text of the test's own",
            "ATLAS_AUTH_CLIENT_ID": "atlas",
            "ATLAS_AUTH_CLIENT_SECRET": "a secret",
            "ATLAS_AUTH_METADATA_URL": f"http://localhost:{provider.server_port}/.well-known/openid-configuration",
        }
        with serving("sign-in", **settings) as app:
            page.goto(f"{app}/search?q=+Paris&layers=20-29")
            settled(page)
            page.get_by_role("button", name="Save", exact=False).first.click()
            page.get_by_text("Sign in to save something").wait_for()
            page.get_by_test_id("stPopoverBody").get_by_role("button", name="Sign in").click()
            page.get_by_role("button", name="ada", exact=True).click()
            page.wait_for_url(f"{app}/search?**")
            settled(page)
            assert in_address(page) == {"q": " Paris", "layers": "20-29"}
            page.get_by_role("button", name="Save", exact=False).first.click()
            page.get_by_role("button", name="Save it").click()
            expect(page.get_by_text("Saved as").first).to_be_visible()
            page.goto(f"{app}/account")
            expect(page.get_by_text("You are signed in as Ada")).to_be_visible()
            page.get_by_role("button", name="Sign out").click()
            page.get_by_role("button", name="End session").click()
            page.wait_for_url(f"{app}/")
            page.goto(f"{app}/saved")
            settled(page)
            expect(page.get_by_role("link", name="Paris", exact=False).first).to_be_visible()
            expect(page.get_by_role("button", name="Change")).to_have_count(0)
