"""The component's script: one file that a browser fetches once, whatever number of views a page has.

Handed to Streamlit as text, it would be sent anew with every view, forty times on a page.
"""

import json
from functools import cache
from hashlib import sha256
from pathlib import Path

from app.charts.style import ATTENTION, FFN, MARK, NEUTRAL, PROMOTES, SUPPRESSES

FOLDER = "drawn"
"""Where the server answers with it, below its own path."""
_HERE = Path(__file__).parent
_PARTS = ("flow", "fields", "atlas")
_COLOURS = (
    f":host {{ --promotes: {PROMOTES}; --suppresses: {SUPPRESSES}; --attention: {ATTENTION}; --ffn: {FFN}; "
    f"--neutral: {NEUTRAL}; --avoided: {MARK}; }}\n"
)


@cache
def script() -> bytes:
    """Style sheets and scripts as one script: the part with the entry point comes last."""
    css, js = (
        "\n".join((_HERE / f"{part}.{ending}").read_text("utf-8") for part in _PARTS) for ending in ("css", "js")
    )
    return f"const STYLE = {json.dumps(_COLOURS + css)};\n{js}".encode()


@cache
def script_name() -> str:
    """Its file name, which changes with what is in it."""
    return f"atlas.{sha256(script()).hexdigest()[:12]}.js"


@cache
def entry() -> str:
    """What Streamlit is handed: it finds the script where the page's own scripts are from."""
    return f"""const [root] = document.querySelector('script[src*="/static/js/"]').src.split("static/js/");
export default (await import(new URL("{FOLDER}/{script_name()}", root))).default;
"""
