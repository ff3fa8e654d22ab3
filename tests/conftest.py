"""What tests of several rooms share: the demo model, its catalogue, and a browser.

These three are made by `make index` and by the operating system, not by a test. On a developer's machine a test that
lacks one of them is skipped; where ``CI`` is set it fails, so that a check that passes has checked everything.
"""

import os
import shutil
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def _lacking(what: str) -> None:
    """Skip, or fail in CI: ``what`` says what is missing and how to get it."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} In CI this must not be missing.", pytrace=False)
    pytest.skip(what)


@pytest.fixture(scope="session")
def demo_model_dir() -> Path:
    """The checkout's demo model as a safetensors folder."""
    folder = CHECKOUT / "models" / "SmolLM2-135M-Instruct"
    if not (folder / "atlas-source.json").is_file():
        _lacking(f"The demo model is not in {folder}; `make index` fetches it.")
    return folder


@pytest.fixture(scope="session")
def demo_catalogue_dir(demo_model_dir: Path) -> Path:
    """The checkout's ``catalogue/``, with a published build of the demo model in it."""
    folder = CHECKOUT / "catalogue"
    if not (folder / demo_model_dir.name / "CURRENT").is_file():
        _lacking(f"No build of {demo_model_dir.name} is published in {folder}; `make index` makes one.")
    return folder


@pytest.fixture(scope="session")
def chromium_executable() -> str:
    """The machine's own Chromium; Playwright's browsers are never downloaded."""
    named = os.environ.get("CHROMIUM")
    found = shutil.which(named) if named else next(filter(None, map(shutil.which, BROWSERS)), None)
    if not found:
        _lacking(
            f"CHROMIUM={named} is not an executable."
            if named
            else f"None of {', '.join(BROWSERS)} is on PATH; install one or set CHROMIUM."
        )
    return str(found)
