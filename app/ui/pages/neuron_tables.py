"""Tables of neurons on a prompt: value neurons, and the query neurons behind them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import pandas as pd
import streamlit as st

from app.answers import explain, stored
from app.answers.reading import most
from app.serving import access, resources
from app.state.selections import CompareSelection, NeuronSelection, PromptSelection, SavedSelection, TokenSelection
from app.ui import navigation
from app.ui.common import data_table, folded, progress, saved_href
from app.ui.components import Cell, Chip, Column, TableRow, chip, chips, link, neuron_table
from app.ui.navigation import fail
from app.words import literal, nats, signed
from db.catalogue.store import Catalogue
from db.errors import AtlasError
from db.neuron import Neuron, NeuronAt, NeuronKind, Part
from db.records import NeuronTokens
from db.token_text import shorten
from db.workspace import Mention, NeuronNote, Workspace
from db.workspace.records import MAX_NOTE

if TYPE_CHECKING:
    from app.attribution.keys import KeySide, KeyToken
    from app.attribution.results import Analysis, QueryNeuron, ValueNeuron


HERE = "prompt"
_DEPTH = 5
_SCORE_HINT = "log-probability increase of the target; around zero"
_SHARE_HINT = "share of the difference of logits; around zero"
_ACTIVATION = Column("activation", "number", "what the value vector was multiplied by; negative swaps its two ends")
_QUERY = (
    Column("neuron", "name"),
    Column("score (nats)", "bar", "its share of what switched the value neurons on"),
    Column("promotes, then suppresses", "tokens"),
    Column("", "action"),
)


def value_table(
    found: "tuple[ValueNeuron, ...]",
    kind: NeuronKind,
    analysis: "Analysis",
    selection: PromptSelection,
    atlas: Catalogue,
    unit: str,
) -> None:
    """Value neurons, a row each: the row opens the neuron, its “why” shows the neuron's own query neurons."""
    strongest = atlas.strongest_tokens([one.neuron for one in found], _DEPTH)
    scale = most(found)
    rows = [_value_row(one, analysis, strongest[one.neuron], scale, selection) for one in found]
    columns = (
        Column("neuron", "name"),
        *((Column("from", "source", "source position and its token"),) if kind is NeuronKind.ATTENTION else ()),
        Column(unit, "bar", _SCORE_HINT if analysis.contrast is None else _SHARE_HINT),
        _ACTIVATION,
        Column("tokens it raised, then those it lowered", "tokens"),
        Column("", "action"),
    )
    neuron_table(columns, rows, key=f"neurons_{kind}", here=HERE, label=f"{kind} neurons")


def _value_row(
    one: "ValueNeuron", analysis: "Analysis", strongest: NeuronTokens, scale: float, selection: PromptSelection
) -> TableRow:
    source: tuple[Cell, ...] = ()
    if one.position is not None:
        token = analysis.tokens[one.position]
        source = (Cell(f"{one.position}", chips=(chip(token.display),)),)
    return TableRow(
        navigation.href("neuron", NeuronSelection(one.neuron.label, selection)),
        (
            Cell(one.neuron.label, dot=one.neuron.kind.value),
            *source,
            Cell(nats(one.score), share=one.score / scale),
            Cell(signed(one.activation)),
            Cell(chips=raised_first(strongest, one.activation)),
            Cell(chips=(_why(one, selection), _zero(one, selection))),
        ),
    )


def _why(one: "ValueNeuron", selection: PromptSelection) -> Chip:
    """To the neuron's own query neurons."""
    own = NeuronAt(one.neuron, one.position)
    href = navigation.href(HERE, replace(selection, place=replace(selection.place, own=own)))
    return Chip("why", "link", href=href, hint=f"what switched {one.neuron.label} on")


def _zero(one: "ValueNeuron", selection: PromptSelection) -> Chip:
    """To the comparison of the prompt with and without the neuron."""
    href = navigation.href("compare", CompareSelection.of(selection, (Part.of(one.neuron),)))
    return Chip("zero", "link", href=href, hint=f"what if {one.neuron.label} were zero")


def query_table(
    found: "Sequence[QueryNeuron]", key: str, label: str, selection: PromptSelection, atlas: Catalogue
) -> None:
    """Query neurons, a row each: the row opens the neuron, “through” reads it through a head."""
    strongest = atlas.strongest_tokens([one.neuron for one in found], _DEPTH)
    scale = max((abs(one.score) for one in found), default=1.0) or 1.0
    rows = []
    for one in found:
        ends = strongest[one.neuron]
        place = replace(selection.place, read=one.neuron, through=None)
        through = navigation.href(HERE, replace(selection, place=place))
        tokens = tuple(chip(token.display, tone="promotes") for token in ends.promotes)
        tokens += tuple(chip(token.display, tone="suppresses") for token in ends.suppresses[:3])
        rows.append(
            TableRow(
                navigation.href("neuron", NeuronSelection(one.neuron.label, selection)),
                (
                    Cell(one.neuron.label, dot="ffn"),
                    Cell(nats(one.score), share=one.score / scale),
                    Cell(chips=tokens),
                    Cell(chips=(link("through a head", through),)),
                ),
            )
        )
    neuron_table(_QUERY, rows, key=key, here=HERE, label=label)


def raised_first(strongest: NeuronTokens, activation: float) -> tuple[Chip, ...]:
    """The end that the activation's sign makes active, then the other, faint."""
    promoted = [chip(token.display, tone="promotes", faint=activation <= 0) for token in strongest.promotes]
    suppressed = [chip(token.display, tone="suppresses", faint=activation > 0) for token in strongest.suppresses]
    return (*promoted, *suppressed[:2]) if activation > 0 else (*suppressed, *promoted[:2])


# On the neuron's page: what people noted of it, its tags, and the saved explanations in whose lists it stands.

NEURON_NOTES_HERE = "neuron"
_MENTIONS = 20
_COLUMNS = (
    Column("saved explanation", "name", "a click opens it"),
    Column("list", "source", "in which of its lists the neuron stands"),
    Column("score (nats)", "bar", "there"),
    Column("activation", "number", "there"),
    Column("from", "number", "source position"),
)


def notes(neuron: Neuron, atlas: Catalogue) -> None:
    """Draw them; nothing where this server keeps nothing, or there is nothing to read and nobody may write."""
    if not stored.offered():
        return
    model, may_write = atlas.info.model, access.may_write()
    try:
        workspace = stored.workspace()
        note = None if workspace is None else workspace.note(model, neuron)
        found = () if workspace is None else workspace.mentions(model, neuron, limit=_MENTIONS)
        if note is None and not found and not may_write:
            return
        st.subheader("Notes", anchor=False)
        _note(note)
        if may_write:
            _editor(neuron, model, note)
        if workspace is not None and found:
            _mentions(neuron, found, workspace, atlas)
    except AtlasError as error:
        fail(error)


def _note(note: NeuronNote | None) -> None:
    if note is None:
        st.caption("Nothing was noted of this neuron yet.")
        return
    if note.text:
        for line in note.text.splitlines():
            st.markdown(literal(line) or "&nbsp;")
    if note.tags:
        items = [link(tag, navigation.href("saved", SavedSelection(tag=tag))) for tag in note.tags]
        chips(items, key="note_tags", here=NEURON_NOTES_HERE, label="tags")


def _editor(neuron: Neuron, model: str, note: NeuronNote | None) -> None:
    """A form; the note that it replaces is named, so that nobody's is overwritten unseen."""
    seen = "" if note is None else note.updated_at
    key = f"{model}_{neuron.label}_{seen}"

    def clicked() -> None:
        state = st.session_state
        try:
            tags = (state[f"tags_{key}"] or "").split(",")
            stored.workspace_to_write().write_note(model, neuron, state[f"note_{key}"] or "", tags, seen=seen)
        except AtlasError as error:
            state["note_failed"] = str(error)

    with st.expander("Note something" if note is None else "Change the note", icon=":material/edit_note:"):
        with st.form(f"note_form_{key}", border=False):
            text, tags = ("", "") if note is None else (note.text, ", ".join(note.tags))
            st.text_area("Note", value=text, key=f"note_{key}", max_chars=MAX_NOTE, placeholder="What it stands for …")
            st.text_input("Tags", value=tags, key=f"tags_{key}", max_chars=500, placeholder="geography, capitals")
            st.form_submit_button("Keep", type="primary", on_click=clicked)
        st.caption("Plain text; everybody who uses this server sees it. Tags are separated by commas.")
    failed = st.session_state.pop("note_failed", None)
    if failed:
        fail(AtlasError(failed))


def _mentions(neuron: Neuron, found: tuple[Mention, ...], workspace: Workspace, atlas: Catalogue) -> None:
    rows, analyses = workspace.count_mentions(atlas.info.model, neuron)
    st.markdown(f"**Active in {analyses:,} saved explanation{'' if analyses == 1 else 's'}**")
    most = max(abs(one.score) for one in found) or 1.0
    table = [
        TableRow(
            saved_href(one.saved, atlas),
            (
                Cell(shorten(one.saved.title, 60)),
                Cell(one.role),
                Cell(nats(one.score), share=one.score / most),
                Cell("" if one.activation is None else signed(one.activation)),
                Cell("" if one.position is None else str(one.position)),
            ),
        )
        for one in found
    ]
    neuron_table(_COLUMNS, table, key="mentions", here=NEURON_NOTES_HERE, label="saved explanations")
    if rows > len(found):
        st.caption(f"The {len(found)} of the largest scores, of {rows:,}.")


# The key side of a neuron: the tokens whose embeddings switch it on. Needs the model, so it is made when asked for.

NEURON_KEYS_HERE = "neuron"
_CHIPS = 16
_MEANING = {
    "key": ("The key", "it is switched on by", "it is left off by"),
    "gate": ("The gate", "it opens for", "it stays shut for"),
    "up": ("Beside the gate, the up row", "the activation is positive for", "the activation is negative for"),
    "value": ("What it takes from a source position", "positive from", "negative from"),
}
"""Of each key vector: what it is, and what its two ends do."""
_LEAD = {
    NeuronKind.FFN: "Each token’s input embedding, read with the neuron’s key vector as if nothing else stood in the "
    "residual stream.",
    NeuronKind.ATTENTION: "Each token’s input embedding, read with the neuron’s row of the value projection as if "
    "nothing else stood at the source position. How much arrives is for the attention weight to say.",
}
_GATED = " Of the two rows the gate decides how far the neuron opens, and the up row the sign of its activation."


def key_side(neuron: Neuron, selection: NeuronSelection, atlas: Catalogue) -> None:
    """Heading and, where it is asked for or the model is there anyway, both ends of every key vector."""
    st.subheader("What switches it on", anchor=False)
    if not (selection.keys or resources.is_loaded(atlas)):
        st.caption("Which tokens’ embeddings the neuron reads the most from, by its key vector. This asks the model.")
        asked = link("Show what switches it on", navigation.href(NEURON_KEYS_HERE, replace(selection, keys=True)))
        chips([asked], key="ask_keys", here=NEURON_KEYS_HERE, label="the key side")
        return
    try:
        with progress() as watch:
            sides = explain.key_sides(atlas, neuron, watch)
    except AtlasError as error:
        fail(error)
        return
    st.caption(_LEAD[neuron.kind] + (_GATED if len(sides) > 1 else ""))
    for column, side in zip(st.columns(len(sides), gap="large"), sides, strict=True):
        with column:
            _side(side)
    st.caption(
        literal(
            f"The small figures: key · normed embedding, before the activation function; exact over all "
            f"{atlas.info.vocabulary:,} tokens. In later layers much else stands in the residual stream, and these "
            "tokens describe the key rather than predict."
        )
    )
    folded("The same as a data table, with CSV export", lambda: data_table(_frame(sides), "key_side"), key="key_side")


def _side(side: "KeySide") -> None:
    what, highest, lowest = _MEANING[side.name]
    st.markdown(
        f"**{what}**"
        + literal(f": mean {signed(side.mean)}, standard deviation {side.std:.2f}; {_towards(side.cosine)}")
    )
    for name, words, found in (("highest", highest, side.highest), ("lowest", lowest, side.lowest)):
        st.caption(words.capitalize())
        items = [_chip(one, faint=name == "lowest" and side.name in ("key", "gate")) for one in found[:_CHIPS]]
        chips(items, key=f"key_{side.name}_{name}", here=NEURON_KEYS_HERE, label=f"{side.name}: {words}")


def _towards(cosine: float) -> str:
    """Whether the neuron writes what it reads."""
    if abs(cosine) < 0.1:
        return f"its value vector points elsewhere (cosine {signed(cosine)})"
    return f"its value vector points {'the same' if cosine > 0 else 'the opposite'} way (cosine {signed(cosine)})"


def _chip(one: "KeyToken", faint: bool) -> Chip:
    page = navigation.href("token", TokenSelection(one.token.id))
    return chip(one.token.display, page, hint=f"z {signed(one.z)}", note=signed(one.reading, 1), faint=faint)


def _frame(sides: "tuple[KeySide, ...]") -> pd.DataFrame:
    from app.attribution.keys import keys_frame

    return keys_frame(sides)
