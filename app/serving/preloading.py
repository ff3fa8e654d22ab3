"""What a page will need of Streamlit's frontend, named in the page itself.

Streamlit's scripts come in pieces, and a browser learns which ones a page needs when it is told to draw them: after it
has begun, connected and asked. Named in advance, they are fetched meanwhile. That a piece is named that a page does not
need, or another Streamlit calls it otherwise, does no harm.

The page also says where its server is. Without that a browser asks below the page first, is told that there is nothing,
and waits a tenth of a second before it asks where the page is from.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

_IMPORTED = re.compile(r'(?:from|import)\s*"\./([\w.$-]+\.js)"')
_BEFORE = '<link rel="stylesheet"'
"""The script stands in front of it: one behind would wait for the style sheet."""

_EVERYWHERE = ("BidiComponent", "Html")
_CHART = ("ArrowVegaLiteChart", "embed", "vega-interpreter")
_FIELD = ("TextInput",)
_FILTERS = ("ButtonGroup", "Selectbox", "NumberInput", "Slider")
_CHARTED = (*_CHART, "DownloadButton")


@dataclass(frozen=True, slots=True)
class Needs:
    """The pieces that a page draws with: always, and where its address holds one of the parameters."""

    always: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()


NEEDS: Mapping[str, Needs] = {
    "": Needs(),
    "search": Needs((*_FIELD, *_FILTERS), (*_CHARTED, "Checkbox"), ("q", "t")),
    "token": Needs(_FIELD, _CHARTED, ("q", "t")),
    "neuron": Needs(_FIELD, (*_CHARTED, "TextArea", "ButtonGroup"), ("n",)),
    "prompt": Needs((), ("ButtonGroup", "Selectbox", "DownloadButton", "Checkbox"), ("p",)),
    "compare": Needs(("TextArea", *_FIELD, "Button"), ("DownloadButton",), ("p",)),
    "many": Needs(("TextArea", "Button", "ButtonGroup"), ("DownloadButton",), ("set", "p")),
    "saved": Needs(),
    "gallery": Needs(),
    "overview": Needs((*_CHARTED, "ButtonGroup", "Slider")),
}
"""By the page's path."""


def with_preloads(index: str, scripts: Path, further: Iterable[str] = ()) -> str:
    """Streamlit's page with a script that names what the page at this address will need.

    Args:
        index: the page.
        scripts: the folder of Streamlit's scripts.
        further: addresses of other scripts that every page needs, relative to the page's folder.
    """
    pieces = _pieces(scripts)
    named = set(re.findall(r"static/js/([\w.$-]+\.js)", index))
    whole = {
        page: [_closure(group, pieces, scripts) - named for group in (_EVERYWHERE + needs.always, needs.asked)]
        for page, needs in NEEDS.items()
    }
    files = sorted({name for groups in whole.values() for group in groups for name in group})
    place = {name: number for number, name in enumerate(files)}
    pages = {
        page: [sorted(place[name] for name in always), sorted(place[name] for name in asked), NEEDS[page].parameters]
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
