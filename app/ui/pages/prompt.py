"""Prompt: which layers, heads and neurons raised the target token. What the model says and the neurons come first; then
sections, whose state is in the address: the flow, which is open, and what fewer people look for.

This file has the box with the tokens and what comes next, and what can be done with the whole explanation; the parts
below it are :mod:`app.ui.pages.prompt_where` and :mod:`app.ui.pages.prompt_neurons`.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import streamlit as st

from app.answers import effects, explain, stored
from app.answers.reading import Reading, certainty_lines, in_words, reading_of
from app.attribution import drilldowns
from app.attribution.frames import lens_frame
from app.attribution.prompt import Method, PromptToken
from app.attribution.results import Analysis, Prediction
from app.charts import prompt_charts
from app.gallery import PROMPTS
from app.report import FILES, FileForm, Material, Origin, file_name
from app.serving import access, resources
from app.serving.settings import Mode, configuration, public
from app.serving.worker import Report
from app.state.selections import (
    MAX_PROMPT,
    CompareSelection,
    GallerySelection,
    Map,
    PromptSelection,
    Rule,
    SavedSelection,
    Section,
    SteerSelection,
    question_key,
)
from app.ui import navigation
from app.ui.common import (
    choice,
    choose_token,
    footer,
    open_catalogue,
    save_box,
    section,
    sync,
    title,
    where_you_are,
    without_model,
)
from app.ui.components import chip, chips, download, link, prompt_box
from app.ui.components.charts import show
from app.ui.navigation import fail, warn
from app.ui.pages.prompt_neurons import further, neurons
from app.ui.pages.prompt_where import chart_table, every_neuron, flow, layers, looked_into, maps
from app.words import literal, nats, percent
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.neuron import NeuronKind, Strongest
from db.workspace import Saved

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

_KEYS = "Enter explains it, Shift+Enter begins a new line."
_METHODS = {"added": "added", "removed": "removed", "gradient": "gradient × activation"}
_STRONGEST = (Strongest(NeuronKind.FFN, 10),)


def draw() -> None:
    """The page."""
    title(
        "Explain a prompt",
        "Which layers, heads and neurons raised the log-probability of the next token. In nats: +0.69 doubles it.",
    )
    atlas = open_catalogue()
    selection, notices = PromptSelection.read(navigation.params(), resources.limits(atlas))
    warn(notices)
    analysis = _prompt_box(selection, atlas)
    if analysis is not None:
        navigation.name_tab("", explain.suggested_title(selection, analysis))
        _explained(analysis, selection, atlas)
    section(
        "How many neurons, and how they are scored",
        Section.SETTINGS,
        selection,
        partial(_settings, selection),
    )
    footer(atlas)


# The upper part, beside each other: the box with its tokens, and as one types what comes next.


@st.fragment
def _prompt_box(selection: PromptSelection, atlas: Catalogue) -> Analysis | None:
    """Returns the analysis of the explained text, None where there is none (yet)."""
    if not access.has_model():
        return _stored_only(selection, atlas)
    left, right = st.columns([3, 2], gap="medium")
    with left, st.container(gap="xsmall"):
        typed = prompt_box(
            selection.prompt, longest=MAX_PROMPT, placeholder="The capital of France is", key="prompt_box"
        )
        if typed.sent is not None:
            navigation.show(_with_text(typed.sent, selection))
            st.rerun()
        status = st.empty()
        status.caption(f"{'A moment …' if typed.text else 'Type the beginning of a text.'} {_KEYS}")
        analysis = _analysis(selection, atlas, status) if selection.prompt else None
        if typed.text:
            _shown(_with_text(typed.text, selection), selection, analysis, status, atlas, right)
        else:
            status.caption(f"Type the beginning of a text, or start from one of these. {_KEYS}")
            _prompts_to_try(atlas)
    return analysis


def _stored_only(selection: PromptSelection, atlas: Catalogue) -> Analysis | None:
    """The same on a server without a model: a stored analysis, or which there are."""
    found = stored.answer(atlas, selection) if selection.prompt else None
    if found is None:
        without_model()
        _prompts_to_try(atlas)
        return None
    left, right = st.columns([3, 2], gap="medium")
    with left:
        _tokens(found.analysis.tokens, found.analysis.position, selection, atlas)
    with right, st.container(gap="xsmall"):
        st.header("What comes next", anchor=False)
        _next_tokens(found.analysis.predictions, selection, found.analysis, atlas)
    return found.analysis


def _prompts_to_try(atlas: Catalogue) -> None:
    asked = stored.answers_to(atlas, map(PromptSelection, PROMPTS))
    chips((link(one.prompt, one) for one in asked), key="prompts", label="prompts to try")


def _answered(atlas: Catalogue, asked: PromptSelection) -> str:
    """The address of a question, where this server answers it."""
    return navigation.href(asked) if access.has_model() or stored.answers_to(atlas, [asked]) else ""


def _with_text(text: str, selection: PromptSelection) -> PromptSelection:
    """The text, asked like the explained one. Another text forgets the target and the position of the old one."""
    if text == selection.prompt:
        return selection
    place = replace(selection.place.at_start(), show=selection.place.show)
    return replace(selection.question, prompt=text, target=None, position=None, distractor=None, place=place)


def _analysis(selection: PromptSelection, atlas: Catalogue, status: "DeltaGenerator") -> Analysis | None:
    try:
        return explain.analysis(atlas, selection, _telling(status))
    except AtlasError as error:
        status.caption(_KEYS)
        fail(error)
        return None


def _telling(status: "DeltaGenerator") -> Report:
    """What is being done, in the line that is there anyway: nothing moves."""

    def tell(stage: str) -> None:
        status.caption(f":material/hourglass_top: {literal(stage)}")

    return tell


def _shown(
    asked: PromptSelection,
    selection: PromptSelection,
    analysis: Analysis | None,
    status: "DeltaGenerator",
    atlas: Catalogue,
    beside: "DeltaGenerator",
) -> None:
    """Tokens of the text in the box, and `beside` them the next tokens."""
    explained = analysis if asked == selection else None
    if explained is not None:
        found: Analysis | explain.Preview = explained
        position = explained.position
        words = "The framed one is where the next token is explained; click another to move there."
    elif asked == selection:
        return
    else:
        try:
            found = explain.preview(atlas, asked, _telling(status))
        except AtlasError as error:
            status.caption(_KEYS)
            st.info(literal(public(str(error))))
            return
        position = len(found.tokens) - 1
        words = f"Not explained yet: {_KEYS}"
    count = len(found.tokens)
    status.caption(f"{count} token{'' if count == 1 else 's'}. {words}")
    _tokens(found.tokens, position, asked, atlas)
    for notice in found.notices:
        st.caption(f":material/info: {literal(notice)}")
    _token_fields(asked, atlas)
    if analysis is None:
        st.info("Press Enter, or click a token or a prediction, to see the layers, heads and neurons behind it.")
    with beside, st.container(gap="xsmall"):
        st.header("What comes next", anchor=False)
        _next_tokens(found.predictions, asked, explained, atlas)


def _tokens(found: Sequence[PromptToken], position: int, asked: PromptSelection, atlas: Catalogue) -> None:
    """The prompt's tokens; a click moves the explained position."""
    last = len(found) - 1
    moved = replace(asked, target=None, distractor=None, place=asked.place.at_start())
    items = [
        chip(
            token.display,
            _answered(atlas, replace(moved, position=None if place == last else place)),
            hint=f"position {place}, token {token.id}",
            current=place == position,
        )
        for place, token in enumerate(found)
    ]
    chips(items, key="tokens", label="tokens of the prompt")


def _next_tokens(
    predictions: Sequence[Prediction], asked: PromptSelection, explained: Analysis | None, atlas: Catalogue
) -> None:
    """The most probable next tokens; a click explains one."""
    if explained is None:
        st.caption("The most probable next tokens. Click one to explain it.")
    else:
        target = explained.target
        st.caption(
            literal(f"Explained: “{target.token.display}”, {percent(target.probability)}, ")
            + f"log-probability {literal(nats(target.log_probability))} nats."
            + " Click another to explain that." * access.has_model()
        )
    chart = prompt_charts.predictions(
        predictions,
        None if explained is None else explained.target.token.id,
        lambda token: _answered(atlas, _with_token(asked, "target", token)),
        subject="" if explained is None else f"{prompt_charts.subject(asked.prompt)}, {explained.model}",
    )
    show(chart, downloads=explained is not None)
    if explained is not None:
        chart_table(chart, asked)


def _token_fields(asked: PromptSelection, atlas: Catalogue) -> None:
    """Any other target, and any token to hold the target against."""
    left, right = st.columns(2, gap="small", wrap=False)
    with left:
        choose_token("Another target", "target", asked, atlas, "prompt_target", partial(_with_token, asked, "target"))
    with right:
        other = partial(_with_token, asked, "distractor")
        choose_token("Why not", "distractor", asked, atlas, "prompt_distractor", other)


def _with_token(selection: PromptSelection, name: str, token: int | None) -> PromptSelection:
    """The selection with another target or distractor; it no longer looks at the old one's neurons."""
    changed: dict[str, Any] = {name: token}
    return replace(selection, place=replace(selection.place, own=None, read=None, through=None), **changed)


def _held_against(reading: Reading, selection: PromptSelection) -> None:
    """Which token the target is held against, and what the difference adds up from."""
    contrast = reading.analysis.contrast
    if contrast is None:
        return
    with st.container(border=True):
        target, other = reading.analysis.target, contrast.distractor
        st.markdown(
            f"**{literal(f'Why “{target.token.display}” and not “{other.token.display}”')}** "
            + literal(
                f"({percent(other.probability)}): {nats(contrast.logit_difference)} nats = {reading.sum_in_words()}."
            )
        )
        st.caption("Layers, heads, source positions and value neurons now show their share of this difference.")
        off = chip(
            other.token.display,
            _with_token(selection, "distractor", None),
            hint="click to explain the target alone",
            removes=True,
        )
        chips([off], key="against", label="held against")


def _settings(selection: PromptSelection) -> None:
    """How the prompt is analysed."""
    sync("prompt_top", selection.top)
    sync("prompt_bos", not selection.bare)
    sync("prompt_chat", selection.chat)

    def changed() -> None:
        state = st.session_state
        top, rule = int(state["prompt_top"] or selection.top), Rule(state["prompt_rule"] or selection.rule)
        chat = bool(state["prompt_chat"])
        method = Method(state["prompt_method"] or selection.method)
        bare = not (chat or state["prompt_bos"])
        moved = replace(selection, top=top, rule=rule, bare=bare, chat=chat, method=method)
        if (moved.bare, moved.chat) != (selection.bare, selection.chat):  # each position is another token's now
            moved = replace(moved, position=None, place=selection.place.at_start())
        navigation.show(moved)

    st.number_input("Neurons of each kind", 1, configuration().max_top, key="prompt_top", on_change=changed)
    choice("Scored by", _METHODS, str(selection.method), key="prompt_method", changed=changed)
    st.caption(
        "added asks what a contribution does to the logits where it is added to the stream: the method’s published "
        "score, there called log-probability increase or Imp. removed asks what the answer would lose if it were taken "
        "out of the final hidden state. Both find lists that are proven complete. gradient × activation, published as "
        "attribution patching, is a first-order estimate through all later layers: every neuron has one, and it proves "
        "nothing. What was measured stands beside each."
    )
    rules = {str(rule): str(rule) for rule in Rule}
    choice("Conventions", rules, str(selection.rule), key="prompt_rule", changed=changed)
    st.caption(
        "exact agrees with the model’s own probabilities; notebook drops constants of the final norm, as the method’s "
        "published notebooks do. For models without biases the two are the same."
    )
    st.toggle(
        "Ask it as a user’s message, in the model’s chat template",
        key="prompt_chat",
        on_change=changed,
        help="For chat models. The template’s own tokens are shown too, and explained is how the answer begins.",
    )
    before = "Put before the text what the tokenizer puts there, such as <s>"
    st.toggle(before, key="prompt_bos", on_change=changed, disabled=selection.chat)


# Below it: where the explanation is from, what can be done with all of it, and its parts.


def _explained(analysis: Analysis, selection: PromptSelection, atlas: Catalogue) -> None:
    analysis = effects.with_effects(atlas, selection, analysis)
    reading = reading_of(analysis)
    _tools(analysis, selection, atlas)
    _held_against(reading, selection)
    if selection.place.layer is not None:
        where_you_are(analysis, selection)
        looked_into(reading, selection, atlas)
    missing = effects.unmeasured(atlas, selection, analysis)
    coming = isinstance(missing, effects.Job)
    with st.container(key="in_words_coming" if coming else "in_words"):
        st.markdown(literal(" ".join(in_words(analysis, coming=coming))))
    neurons(reading, selection, atlas, missing)
    _tables_switch(selection)
    section(
        "Where: what heads moved, and from where", Section.FLOW, selection, partial(flow, reading, selection, atlas)
    )
    section("Where: layers", Section.LAYERS, selection, partial(layers, reading, selection))
    section("Where: heads and logit lens", Section.MAP, selection, partial(maps, reading, selection, atlas))
    further(reading, selection, atlas)
    section("All FFN neurons, measured", Section.EVERY, selection, partial(every_neuron, reading, selection, atlas))
    section("How sure", Section.SURE, selection, partial(_how_sure, reading))


def _tools(analysis: Analysis, selection: PromptSelection, atlas: Catalogue) -> None:
    """What can be done with all of it."""
    asked = CompareSelection.of(selection)
    items = [
        link("Compare with another prompt …", asked),
        link("… or without its 10 strongest neurons", replace(asked, zero=_STRONGEST)),
        link("Steer", SteerSelection.of(selection)),
    ]
    with st.container(horizontal=True, vertical_alignment="center", key="tools"):
        _report(analysis, selection, atlas)
        _save(analysis, selection, atlas)
        if access.has_model():
            chips(items, key="compare", label="compare this prompt", width="content")
        _origin(selection, atlas)
    _older(selection, atlas)


def _how_sure(reading: Reading) -> None:
    for lead, text in certainty_lines(reading):
        st.caption(f"**{lead}.** {literal(text)}.")


_NOT_NOTED = (
    "Older versions did not note the weights: the unembedding is the same, but if the model was trained on since, "
    "analyse it anew."
)


def _origin(selection: PromptSelection, atlas: Catalogue) -> None:
    """Where a stored explanation is from, in a row of things; nothing where the model has just made it."""
    found = stored.answer(atlas, selection)
    if found is None:
        return
    day = found.created_at[:10]
    if found.saved_id is None:
        words, back = (f"From the gallery, made on {day}", link("Gallery", GallerySelection()))
    else:
        words = f"Saved on {day} as “{found.title}”"
        back = link("Saved", SavedSelection(found.title[:100]))
    st.caption(f":material/bookmark: {literal(words)}.", width="content")
    chips([back], key="stored_from", label="where it is kept", width="content")
    if configuration().mode is not Mode.CATALOGUE:
        st.button(
            "Analyse anew",
            type="tertiary",
            key="stored_anew_button",
            on_click=stored.make_anew,
            args=(selection,),
            help="Ask the model instead of showing the stored result",
        )


def _older(selection: PromptSelection, atlas: Catalogue) -> None:
    found = stored.answer(atlas, selection)
    if found is not None and found.build_id != atlas.info.build_id:
        same = "The model is the same." if found.checkpoint else _NOT_NOTED
        warn(
            [
                f"This result is from an older catalogue, {found.build_id}; the tokens of its neurons are shown from "
                f"{atlas.info.build_id}. {same}"
            ]
        )


def _tables_switch(selection: PromptSelection) -> None:
    """Tables beside the charts, on or off; the address remembers it."""
    sync("prompt_tables", selection.place.tables)

    def changed() -> None:
        tables = bool(st.session_state["prompt_tables"])
        navigation.show(replace(selection, place=replace(selection.place, tables=tables)))

    st.toggle("Tables beside the charts", key="prompt_tables", on_change=changed, width="content")


def _report(analysis: Analysis, selection: PromptSelection, atlas: Catalogue) -> None:
    """The analysis as files, each made when it is asked for, and the shell command that makes the same."""
    lens = None
    if selection.place.map is Map.LENS:
        with suppress(AtlasError):  # the map itself says why
            lens = explain.detail(atlas, selection, "lens")
    origin = Origin(selection, st.context.url or "", atlas.info.model)
    more = {} if lens is None else {drilldowns.NAMED["lens"].key: drilldowns.to_json(lens)}
    material = Material(analysis, atlas, origin, None if lens is None else lens_frame(lens), more=more)

    def written(form: FileForm) -> bytes:
        moves = None
        with suppress(AtlasError):  # a stored analysis on a server without the model has none
            moves = explain.detail(atlas, selection, "flow")
        found = analysis
        with suppress(AtlasError):  # nor does it measure anything
            found = effects.measured(atlas, selection)
        return form.write(replace(material, analysis=found, flow=moves))

    with st.popover("Report", icon=":material/description:", help="This analysis as a file"):
        st.caption(
            "This explanation as one page that opens offline, to read, print and share: what comes next, layers, "
            "heads, what they moved, neurons, and what switched them on. It includes the logit lens where that is "
            "shown. And the same as data."
        )
        for name, form in FILES.items():
            label, file = f"{form.name}: {form.hint}", file_name(form, analysis.prompt)
            download(label, partial(written, form), file, key=f"report_{name}", type="tertiary")
        command = origin.command()
        if command is not None:
            st.caption("The report from the shell:")
            st.code(command, language="bash", wrap_lines=True)
        st.caption("The figures over HTTP, as JSON:")
        st.code(origin.over_http(), language=None, wrap_lines=True)


def _save(analysis: Analysis, selection: PromptSelection, atlas: Catalogue) -> None:
    """The control that saves the explanation, measured effects included."""

    def save(title: str) -> Saved:
        found = analysis
        with suppress(AtlasError):  # on a server that measures nothing
            found = effects.measured(atlas, selection)
        return explain.save(title, selection, found, atlas)

    title, what = explain.suggested_title(selection, analysis), "Save this explanation with its place and figures"
    kept = "The address, the whole result and what is open on this page are kept. Find them under Saved."
    save_box(question_key(selection), title, save, what, kept)


if __name__ == "__main__":
    draw()
