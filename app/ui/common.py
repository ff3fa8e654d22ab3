"""What the pages share: their beginning and end, tables and charts with downloads, and what is drawn once opened."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import parse_qsl, urlencode

import pandas as pd
import streamlit as st

from app.answers import explain, stored
from app.attribution.prompt import Named
from app.serving import access, resources
from app.serving.settings import configuration
from app.state.address import (
    BUILD,
    MODEL,
    Selection,
    address,
    shared_by,
    stamp,
    stamp_of_saved,
    weights_of,
)
from app.state.selections import (
    MAX_PROMPT,
    GallerySelection,
    Place,
    PromptSelection,
    SavedSelection,
    SearchSelection,
    Section,
)
from app.ui import navigation
from app.ui.components import Chip, Option, button_label, chips, copy_link, download, link, mount, token_field
from app.ui.navigation import fail, warn
from app.ui.pages import ADD, PAGES
from app.words import TERMS, literal, percent
from db.catalogue.export import as_bytes, as_json
from db.catalogue.store import Catalogue
from db.errors import AtlasError, NotFoundError
from db.lazy import lazy_import
from db.neuron import Neuron
from db.records import Build
from db.token_text import display, shorten
from db.workspace import Saved
from db.workspace.records import MAX_TITLE

if TYPE_CHECKING:
    from app.attribution.results import Analysis
    from app.report import views
else:
    views = lazy_import("app.report.views")

T = TypeVar("T")
_FORMS = {"csv": "CSV", "json": "JSON", "parquet": "Parquet"}
"""Of whole tables as files: what they are called, by ending."""


@st.fragment
def folded(label: str, draw: Callable[[], object], *, key: str, expanded: bool = False) -> None:
    """An expander. Opening it draws what is in it, and nothing else of the page anew: most visitors never open one, and
    tables and charts are the heaviest parts of a page, for the server and for the browser.

    Args:
        label: its heading.
        draw: draws what is in it.
        key: unique on the page.
        expanded: whether it is open before anybody used it; where that changes, it follows.
    """
    with st.expander(label, expanded, key=f"folded_{key}_{expanded}", on_change="rerun") as part:
        if part.open:
            draw()


def section(label: str, which: Section, selection: PromptSelection, draw: Callable[[], object]) -> None:
    """A part of the prompt page, drawn where it is open; the address says whether it is."""
    key, shown = f"section_{which}", selection.place.shows(which)
    sync(key, shown)

    def changed() -> None:
        navigation.show(replace(selection, place=selection.place.turned(which, bool(st.session_state[key]))))

    with st.expander(label, key=key, on_change=changed):
        if shown:
            draw()


def data_table(frame: pd.DataFrame, name: str) -> None:
    """Draw a data frame with a CSV export of ours below; `name` is the file's and unique on the page.

    The table's own export would hand tokens such as ``=1+1`` to spreadsheets as formulas, so the style sheet of
    :mod:`app.main` hides it.
    """
    st.dataframe(frame, hide_index=True, key=f"table_{name}")
    download(
        button_label("CSV", f"of {name.replace('_', ' ')}"),
        lambda: as_bytes(frame, "csv"),
        f"{name.replace('_', '-')}.csv",
        key=f"table_{name}_csv",
        type="tertiary",
        help="Download this table; text that a spreadsheet would compute has an apostrophe before it",
    )


def whole_files(
    name: str, whole: Callable[[], pd.DataFrame], key: str, what: str = "", *, record: object | None = None
) -> None:
    """A button for each kind of file, made when it is pressed.

    key: unique on the page.
    what: the files are of, where the page has several.
    record: whose own JSON form stands in place of the table's.
    """
    with st.container(horizontal=True):
        for form, words in _FORMS.items():
            label, make = f"{what} as {words}" if what else words, partial(_written, whole, form, record)
            download(label, make, f"{name}.{form}", key=f"{key}_{form}")


def _written(whole: Callable[[], pd.DataFrame], form: str, record: object | None) -> bytes:
    if form == "json" and record is not None:
        return json.dumps(as_json(record), allow_nan=False).encode()
    return as_bytes(whole(), form)


def formulas() -> None:
    """Say what happens to text that a spreadsheet would compute."""
    st.caption("In CSV, text that a spreadsheet would read as a formula has an apostrophe before it.")


def about() -> None:
    """“What am I looking at?”: a few lines on the page, and its terms in plain words."""
    shown = PAGES[navigation.here()]
    with st.popover("What am I looking at?", icon=":material/help:", type="tertiary"):
        listed = "\n".join(f"- **{literal(name)}**: {literal(TERMS[name])}" for name in shown.terms)
        st.markdown("\n\n".join((*map(literal, shown.about), listed)))


# What every page begins and ends with.


def open_catalogue() -> Catalogue:
    """The catalogue named in the address, or the default one with a notice; where a link names its build, that one."""
    warn(navigation.repeated())
    chosen = navigation.chosen_model()
    try:
        atlas = resources.catalogue(chosen)
    except AtlasError as error:
        if chosen is None:
            raise
        atlas, named = resources.catalogue(), navigation.chosen_build()
        navigation.hold_build(False)
        if named is not None and named.weights not in ("", weights_of(atlas.info.checkpoint)):
            current = navigation.to_current(atlas.info.model)
            chips([link(f"Show it with {atlas.info.model}", current)], key="build", label="the current build")
            raise AtlasError(f"{error} This link was made with {named.words} of {chosen}.") from error
        warn([f"{error} {atlas.info.model} is shown instead."])
        return atlas
    return _build_seen(atlas)


def _build_seen(current: Catalogue) -> Catalogue:
    """The build that the address names, where it is still there: a link is to show the figures that were seen."""
    named = navigation.chosen_build()
    found: Catalogue | None = current
    reason = "which is no longer here"
    if named is not None:
        try:
            found = resources.catalogue_of_build(current, named.beginning)
        except AtlasError:
            found, reason = None, "which cannot be read any more"
    navigation.hold_build(found not in (None, current))
    now = f"{current.info.build_id[:8]} of {current.info.created_at[:10]}"
    own = weights_of(current.info.checkpoint)
    if named is not None and found is None and named.weights not in ("", own):
        chips([link("Show the current one", navigation.to_current())], key="build", label="the current build")
        raise AtlasError(
            f"This link was made with {named.words} of {current.info.model}, {reason}. The current one, {now}, is of "
            f"other weights ({own or 'unknown'}…, not {named.weights}…): what it says of them is another model’s."
        )
    if named is not None and found is None:
        warn([f"This link was made with {named.words}, {reason}. The current one is shown, {now}: figures may differ."])
    elif named is not None and found is not current:
        warn([f"This link was made with {named.words}, and that one is shown. The current one is {now}."])
        chips([link("Show the current one", navigation.to_current())], key="build", label="the current build")
    return found or current


def title(text: str, lead: str) -> None:
    """A page's heading, and beside it its `controls`."""
    with st.container(gap="xsmall"):
        with st.container(horizontal=True, vertical_alignment="center", key="title"):
            st.title(literal(text), anchor=False, width="content")
            controls()
        st.caption(lead)


def controls() -> None:
    """What stands beside a heading: “Copy link”, which adds the model and the build that is seen to the address; and of
    a page that has them, its `about` and the choice of the model.
    """
    seen: Catalogue | None = None
    with suppress(AtlasError):  # the page says what is wrong
        try:
            seen = resources.catalogue(navigation.chosen_model())
        except AtlasError:
            seen = resources.catalogue()  # which is shown instead
        named = navigation.chosen_build()
        seen = (named and resources.catalogue_of_build(seen, named.beginning)) or seen
    if seen is not None:
        copy_link({MODEL: seen.info.model, BUILD: stamp(seen.info)}, key="copy_link")
    if navigation.here() in PAGES:
        about()
        _choosing(seen)


@st.fragment
def _choosing(seen: Catalogue | None) -> None:
    """The model that is seen, and once opened the others, each with the state of this page as far as it means the same
    there; what they are is read only then.
    """
    names, adds = resources.catalogue_names(), access.why_not_add() is None
    if len(names) < 2 and not adds:
        return
    shown = "No model" if seen is None else shorten(seen.info.model, 30)
    opened = st.popover(
        literal(shown),
        icon=":material/deployed_code:",
        type="tertiary",
        help="The model that is shown, and the others that have a catalogue",
        key=f"choosing_{shown}",
        on_change="rerun",
    )
    with opened:
        if not opened.open:
            return
        with suppress(NotFoundError):  # there is none yet
            items = [_of_model(one, seen) for one in resources.every_build() if one.current]
            chips(items, key="models", label="models")
        if adds:
            chips([link("Add a model", address(ADD, {}))], key="add_model", label="more models")


def _of_model(one: Build, seen: Catalogue | None) -> Chip:
    page = navigation.here()
    kind, kept, note = PAGES[page].selection, dict[str, str](), "unreadable"
    if one.stamp is not None:
        note = f"{one.stamp.layers} layers, {one.stamp.neurons:,} neurons"
        if seen is not None and kind is not None:
            kept = kind.read(navigation.params(), resources.limits(seen))[0].params(shared_by(seen.info, one.stamp))
    if access.has_model() and not resources.weights_lie_here(one):
        note += ", no weights here"
    current = seen is not None and one.model == seen.info.model
    return link(one.model, address(page, kept | {MODEL: one.model}), current, note=note)


def sync(key: str, value: object) -> None:
    """Give a widget the address's value; not where it has it already, so that half-typed text is left alone."""
    if st.session_state.get(key) != value:
        st.session_state[key] = value


def choice(
    label: str,
    names: Mapping[str, str],
    chosen: str,
    *,
    key: str,
    changed: Callable[[], None],
    hidden: bool = False,
) -> None:
    """A row of buttons of which one is chosen; `names` gives the words for each value. See `switch` for `hidden`."""
    sync(key, str(chosen))  # of an Enum Streamlit would compare the classes
    st.segmented_control(
        label,
        [str(one) for one in names],
        key=key,
        format_func=names.__getitem__,
        on_change=changed,
        required=True,
        label_visibility="collapsed" if hidden else "visible",
    )


def switch(label: str, names: Mapping[str, str], chosen: str, *, key: str, to: Callable[[str], Selection]) -> None:
    """A `choice` that alone leads to another state of the page; its label is for screen readers only."""

    def changed() -> None:
        navigation.show(to(st.session_state[key]))

    choice(label, names, chosen, key=key, changed=changed, hidden=True)


def filled(name: str, selection: Selection, values: Mapping[str, object], submit: Callable[[], None]) -> partial[None]:
    """Fill a form's fields with what the address says, unless what was typed could not be used: then that stays.

    Args:
        name: of the form; begins the keys of its fields.
        selection: the state of the page.
        values: of the fields, by the rest of their keys.
        submit: reads them; an error that it raises is what could not be used.

    Returns:
        What the form's button calls.
    """
    refused, state = f"{name}_refused", st.session_state
    if state.get(refused) != selection:
        for field, value in values.items():
            sync(f"{name}_{field}", value)

    def submitted() -> None:
        state[refused] = selection
        submit()
        state[refused] = None

    return partial(on_click, submitted, name)


def require_short(prompt: str, which: str = "The prompt") -> None:
    """Refuse a prompt that is longer than any that is read."""
    if len(prompt) > MAX_PROMPT:
        raise AtlasError(f"{which} has {len(prompt):,} characters; at most {MAX_PROMPT:,} are read. Shorten it.")


def on_click(act: Callable[[], str | None], key: str = "click") -> None:
    """Do what a control asks for, before the page is drawn again; `act` may return what was done, as a sentence."""
    try:
        st.session_state[f"{key}_done"] = act()
    except AtlasError as error:
        st.session_state[f"{key}_failed"] = str(error)


def say_what_was_done(*, key: str = "click", icon: str = ":material/check:") -> None:
    """What the last use of the control did, or why it could not."""
    done, failed = (st.session_state.pop(f"{key}_{how}", None) for how in ("done", "failed"))
    if done:
        st.toast(literal(done), icon=icon)
    if failed:
        fail(AtlasError(failed))


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """A line that says what is being done, once that takes a moment; gone when it is done."""
    slot = st.empty()

    def show(stage: str) -> None:
        slot.markdown(f":material/hourglass_top: {literal(stage)}")

    try:
        yield show
    finally:
        slot.empty()


def attempt(make: Callable[[Callable[[str], None]], T]) -> T | None:
    """What `make` returns, with its progress shown meanwhile; None where it fails, after saying why."""
    try:
        with progress() as watch:
            return make(watch)
    except AtlasError as error:
        fail(error)
        return None


def keep(selection: Selection, suggested: str, about: str, atlas: Catalogue) -> None:
    """The control that saves the view of a page; where that is not allowed, it says why. Nothing without a workspace.

    Args:
        selection: its whole state.
        suggested: a title to start from.
        about: what is seen, in a line; like the title in display form.
        atlas: the catalogue that it is seen in.
    """
    page = selection.page_name
    if page in ("compare", "search", "neuron"):  # which have no report of their own
        download(
            "Report",
            partial(views.alone, suggested, selection, atlas, st.context.url or ""),
            f"atlas-{page}.html",
            key="keep_report",
            icon=":material/description:",
            type="tertiary",
            help="This view as one page that opens offline",
        )

    def save(title: str) -> Saved:
        return stored.save_view(selection, title, shorten(about, _LONGEST_ABOUT), atlas)

    kept = "The address is kept, and with it all that is asked and open on this page. Find it under Saved."
    save_box(f"{page}_{urlencode(selection.params())}", suggested, save, "Save this view, to find it under Saved", kept)


_LONGEST_ABOUT = 300


def save_box(key: str, suggested: str, save: Callable[[str], Saved], what: str, kept: str) -> None:
    """The control that saves what is shown; where that is not allowed, it says why. Nothing without a workspace.

    Args:
        key: tells what is shown from what else this page can show.
        suggested: a title to start from.
        save: given the title.
        what: it does, in a few words.
        kept: what is kept then, in a sentence.
    """
    if not stored.offered():
        return
    with st.popover("Save", icon=":material/bookmark_add:", help=what):
        refusal = access.why_not_write()
        if refusal is not None:
            st.info(literal(refusal))
            if access.sign_in_helps():
                sign_in()
            return
        field = f"save_title_{key}"
        st.text_input("Title", value=shorten(suggested, MAX_TITLE), key=field, max_chars=MAX_TITLE)

        def act() -> str:
            return f"Saved as “{save(st.session_state[field] or '').title}”."

        st.button("Save it", type="primary", on_click=on_click, args=(act, "save"), key="save_button")
        st.caption(kept)
    say_what_was_done(key="save", icon=":material/bookmark_added:")


def sign_in() -> None:
    """Buttons to sign in with; whoever does comes back to this page."""
    for provider in access.providers():
        name = f" with {provider}" if provider else ""
        st.button(literal(f"Sign in{name}"), type="primary", on_click=st.login, args=(provider,), key=f"sign_in{name}")


def choose_token(
    label: str, name: str, asked: PromptSelection, atlas: Catalogue, key: str, chosen: Callable[[int], Selection]
) -> None:
    """A field for a token of a prompt, a “target” or a “distractor” by its name: with it, `chosen` is shown."""
    say_what_was_done(key=key, icon=":material/info:")
    options = partial(_options, asked, atlas)
    origin = navigation.href(asked.question)
    given = token_field(label, placeholder="a token, as ␣London", options=options, origin=origin, key=key)
    if given is None:
        return
    try:
        found = Named(given) if isinstance(given, int) else explain.named(atlas, asked, name, given)
    except AtlasError as error:
        warn([str(error)])
        return
    st.session_state[f"{key}_done"] = found.said
    navigation.show(chosen(found.id))
    st.rerun()


_OPTION = 20


def _options(asked: PromptSelection, atlas: Catalogue, text: str) -> list[Option]:
    """Tokens that begin so; without a model there are none to choose from, and Enter says why."""
    with suppress(AtlasError):
        return [
            Option(shorten(one.token.display, _OPTION), one.token.id, percent(one.probability), f"token {one.token.id}")
            for one in explain.detail(atlas, asked, "beginning", text)
        ]
    return []


def without_model() -> None:
    """What stands in place of what only a model could do: why it is not there, and what is."""
    try:
        access.require_model()
    except AtlasError as error:
        fail(error)
    items = [
        link("Open one from the gallery", GallerySelection()),
        link("Open what was saved", SavedSelection()),
        link("Search the neurons", SearchSelection()),
    ]
    chips(items, key="without_model", label="what there is without a model")


def footer(atlas: Catalogue) -> None:
    """Which model and which build, and what else there is to read."""
    info = atlas.info
    st.divider()
    parts = (
        f"Model {info.model} ({info.family}, {info.layers} layers, d {info.d_model:,})",
        f"{info.ffn_neurons:,} FFN and {info.attention_neurons:,} attention neurons",
        f"{info.tokens:,} tokens" + (f" and {info.padding:,} rows of no token" if info.padding else ""),
        *([f"dequantised from {info.dequantised}"] if info.dequantised else []),
        f"catalogue {info.build_id}, built {info.created_at[:10]}",
    )
    st.caption(literal("  ·  ".join(parts)))
    # Relative, since the server may stand under a path.
    further = [("HTTP API", "api/"), ("The paper, arXiv 2312.12141", "https://arxiv.org/abs/2312.12141")]
    if configuration().source_url:
        further.append(("Source", configuration().source_url))
    st.markdown("  ·  ".join(f"[{words}]({to})" for words, to in further))


def in_display_form(text: str) -> str:
    """A text with everything visible that would otherwise not be."""
    return display(text.encode("utf-8", "replace"))


def saved_href(one: Saved, atlas: Catalogue) -> str:
    """The address of a saved view, read and checked again as any address is. One of other weights names its build."""
    params = dict(parse_qsl(one.address, keep_blank_values=True))
    page = PAGES.get(one.page)
    if page is None or page.selection is None:  # a page of another version
        return ""
    if one.model != atlas.info.model or stored.fits(one, atlas) is False:
        return address(one.page, params | {MODEL: one.model, BUILD: stamp_of_saved(one.build_id, one.checkpoint)})
    return navigation.href(page.selection.read(params, resources.limits(atlas))[0])


def search_link(token_id: int) -> str:
    """The address of the search for one token."""
    return navigation.href(SearchSelection(tokens=(token_id,)))


# Where one is on the prompt page, from the prediction down to a neuron: each step leads back to itself.

_TARGET = 20


def where_you_are(analysis: "Analysis", selection: PromptSelection, neuron: Neuron | None = None) -> None:
    """Draw the steps taken, from the whole to the part; a neuron is one whose page is open, and the last."""
    place = selection.place
    whole = replace(place.within(None), own=None, read=None, through=None)
    token = analysis.tokens[analysis.position]
    named = f"“{shorten(analysis.target.token.display, _TARGET)}” after {analysis.position} “{token.display}”"
    reached: list[tuple[str, Place]] = [(named, whole)]
    if place.layer is not None:
        reached.append((f"layer {place.layer}", whole.within(place.layer)))
    if place.ffn:
        reached.append(("its FFN", whole.within(place.layer, ffn=True)))
    if place.head is not None:
        reached.append((f"head {place.head.label}", whole.within(place.layer, head=place.head)))
    if place.head is not None and place.source is not None:
        source = analysis.tokens[place.source].display if place.source < len(analysis.tokens) else "?"
        reached.append((f"from {place.source} “{source}”", replace(place, own=None, read=None, through=None)))
    if place.own is not None:
        reached.append((f"why {place.own.label}", replace(place, read=None, through=None)))
    if place.read is not None:
        reached.append((f"{place.read.label} through a head", place))
    steps = [{"text": words, "href": navigation.href(replace(selection, place=at))} for words, at in reached]
    steps += [] if neuron is None else [{"text": f"neuron {neuron.label}", "href": ""}]
    mount("trail", {"label": "where you are", "steps": steps}, "trail")
