"""Neuron Atlas, the dashboard: ``python -m streamlit run app/server.py``. Page set-up and navigation, nothing else."""

from dataclasses import replace
from pathlib import Path
from urllib.parse import urlencode

import streamlit as st

from app.serving import access, logs
from app.serving.settings import configuration
from app.ui.navigation import NAME, arrive, guarded, here, name_tab, params
from app.ui.pages import ACCOUNT, ADD, PAGES

# A named icon would be fetched from another site.
_ICON = Path(__file__).parent / "ui" / "components" / "frontend" / "icon.svg"
_STYLE = (
    ".stMainBlockContainer { padding: 4.5rem clamp(1rem, 3vw, 3rem) 3rem; max-width: 96rem }"
    "h1 { font-size: clamp(1.8rem, 4vw, 2.4rem) !important }"
    # The row that hands a chart out lies on the line of the chart's axis, at its end, and takes no room of its own.
    '.stHorizontalBlock[class*="st-key-picture_"] { margin-top: -1.5rem; height: 1.5rem; gap: 0; pointer-events: none }'
    '[class*="st-key-picture_"] button { min-height: 1.5rem; padding: 0 0.4rem; pointer-events: auto }'
    # On a phone a search's conditions, and what can be done with an explanation, lie in one line, to be pushed
    # sideways: what was found is to be seen.
    "@media (max-width: 640px) { .st-key-search_filters, .st-key-tools { flex-wrap: nowrap; overflow-x: auto; "
    "padding-bottom: 0.3rem; "
    "mask-image: linear-gradient(to left, transparent, black 2.5rem) } "
    ".st-key-search_filters > *, .st-key-tools > * { flex: none; width: auto } .st-key-tools { padding-left: 2px } "
    ".st-key-concept_box { max-height: 13rem; overflow-y: auto; padding-bottom: 2rem; "
    "mask-image: linear-gradient(to top, transparent, black 2rem) } }"
    # Several fields with steps side by side would have buttons of the same names; the arrow keys step too.
    '[class*="st-key-steer_"] button[data-testid^="stNumberInputStep"] { display: none }'
    '[data-testid="stHeading"] h2 { padding: 0.4rem 0 }'
    # A panel that is scrolled to stops below the bar at the top.
    ".stElementContainer { scroll-margin-top: 5.5rem }"
    # Streamlit's captions (60 % of the text's strength) and its primary button on the dark page miss a contrast of 4.5.
    '[data-testid="stCaptionContainer"], [data-testid="stCaptionContainer"] p { color: inherit; opacity: 1 }'
    '[data-testid="stCaptionContainer"] { opacity: 0.78 }'
    '[data-testid^="stBaseButton-primary"] { background: #1d6a86; border-color: #1d6a86; color: #fff }'
    # Streamlit's links to the pages do not show that the keyboard is at them.
    "a[data-testid][href]:focus-visible { outline: 2px solid; outline-offset: -2px }"
    # What only tells buttons of one look apart (`app.ui.components.button_label`) is read out and not seen.
    "button .stMarkdownColoredText { position: absolute; width: 1px; height: 1px; overflow: hidden; "
    "clip-path: inset(50%); white-space: nowrap }"
    # Vega's own colour of subtitles is black, on either page; Streamlit's of axes is too light on the light one.
    '[data-testid="stVegaLiteChart"] svg text { fill: currentColor }'
    # What is about to be drawn anew still has the links of the view before, which lack what was chosen since.
    '[data-stale="true"] [data-testid^="stBidiComponent"] { pointer-events: none }'
    # What is said of a prompt gets longer once its effects are measured: room for that, so that the lists stay put.
    ".st-key-in_words_coming p::after { visibility: hidden; content: 'Together the 10 strongest FFN neurons hold "
    "+0.123 (random +0.012 ± 0.123) and the 10 strongest attention neurons hold +0.123 (random +0.012 ± 0.123).' }"
    "@media (max-width: 760px) { .st-key-measured > :last-child { flex-basis: 100% } }"
    "@media (max-width: 560px) { .st-key-measured [data-testid=stCaptionContainer] { min-height: calc(3.2em + 1rem) } }"
    # Data frames' own export writes tokens such as =1+1 as formulas; app/ui/common.py has one that does not.
    '[data-testid="stElementToolbarButton"]:has(button[aria-label^="Download as CSV"]) { display: none }'
)


def main() -> None:
    """Draw the page that the address names."""
    st.set_page_config(page_title=NAME, page_icon=_ICON, layout="wide")
    shown = [*PAGES.values()]
    if access.sign_in_offered():
        title = "Sign in" if access.person() is None else ACCOUNT.title
        shown.append(replace(ACCOUNT, title=title))
    pages = [
        st.Page(
            one.file,
            title=one.title,
            icon=one.icon,
            url_path=one.path,
            default=not one.path,
            visibility="hidden" if one.name == ADD else "visible",  # the choice of the model leads there
        )
        for one in shown
    ]
    page = st.navigation(pages, position="top")
    arrive(page.url_path or "start")
    name_tab(page.title)
    # Streamlit leaves much of a wide page empty; the tables need the room.
    st.html(f"<style>{_STYLE}</style>")
    with logs.page_view(here(), session=access.short_name(), **_typed()), guarded():
        page.run()


def _typed() -> dict[str, str]:
    """What the log says of people, where it is to say that."""
    if not configuration().log_prompts:
        return {}
    visitor = access.person()
    return {"address": urlencode(params()), "email": "" if visitor is None else visitor.email}


main()
