"""The two tables of the prompt page: the value neurons that raised the target most, FFN beside attention."""

from typing import TYPE_CHECKING

import streamlit as st

from app import navigation
from app.components import Cell, Chip, Column, TableRow, chip, legend, neuron_table
from app.selection import NeuronSelection, PromptSelection
from app.wording import nats, signed
from db.answers import NeuronTokens
from db.catalogue import Catalogue
from db.neuron import NeuronKind

if TYPE_CHECKING:
    from app.attribution.results import Analysis, ValueNeuron

HERE = "prompt"
_TOKENS = "tokens it raised, then those it lowered"
_SCORE = Column("score (nats)", "bar", "log-probability increase of the target; around zero")
_ACTIVATION = Column("activation", "number", "what the value vector was multiplied by; negative swaps its two ends")
_FFN = (Column("neuron", "name"), _SCORE, _ACTIVATION, Column(_TOKENS, "tokens"))
_ATTENTION = (
    Column("neuron", "name"),
    Column("from", "source", "source position and its token"),
    _SCORE,
    _ACTIVATION,
    Column(_TOKENS, "tokens"),
)


def neuron_tables(analysis: "Analysis", selection: PromptSelection, atlas: Catalogue) -> None:
    """Both tables and what their colours mean."""
    st.subheader("Neurons that raised the target most", anchor=False)
    legend("ffn", "attention", "promotes", "suppresses")
    left, right = st.columns(2, gap="medium")
    with left:
        st.markdown(f"**FFN**, {len(analysis.ffn_value_neurons)} neurons")
        _table(analysis, analysis.ffn_value_neurons, NeuronKind.FFN, selection, atlas)
    with right:
        st.markdown(f"**Attention**, {len(analysis.attention_value_neurons)} neurons at their source positions")
        _table(analysis, analysis.attention_value_neurons, NeuronKind.ATTENTION, selection, atlas)
    st.caption("A row opens its neuron. Solid chips: raised on this prompt, by the sign rule; dashed: lowered.")
    _as_data(analysis)


def _table(
    analysis: "Analysis",
    found: "tuple[ValueNeuron, ...]",
    kind: NeuronKind,
    selection: PromptSelection,
    atlas: Catalogue,
) -> None:
    strongest = atlas.strongest_tokens([one.neuron for one in found], 5)
    most = max((abs(one.score) for one in found), default=1.0) or 1.0
    rows = [_row(one, analysis, strongest[one.neuron], most, selection) for one in found]
    columns = _FFN if kind is NeuronKind.FFN else _ATTENTION
    neuron_table(columns, rows, key=f"neurons_{kind}", here=HERE, label=f"{kind} neurons")


def _row(
    one: "ValueNeuron", analysis: "Analysis", strongest: NeuronTokens, most: float, selection: PromptSelection
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
            Cell(nats(one.score), share=one.score / most),
            Cell(signed(one.activation)),
            Cell(chips=raised_first(strongest, one.activation)),
        ),
    )


def raised_first(strongest: NeuronTokens, activation: float) -> tuple[Chip, ...]:
    """The end that the activation's sign makes active, then the other, faint."""
    promoted = [chip(token.display, tone="promotes", faint=activation <= 0) for token in strongest.promotes]
    suppressed = [chip(token.display, tone="suppresses", faint=activation > 0) for token in strongest.suppresses]
    return (*promoted, *suppressed[:2]) if activation > 0 else (*suppressed, *promoted[:2])


def _as_data(analysis: "Analysis") -> None:
    from app.attribution.forms import value_neurons_frame

    with st.expander("The same as data tables, with CSV export"):
        for kind in (NeuronKind.FFN, NeuronKind.ATTENTION):
            st.dataframe(value_neurons_frame(analysis, kind), hide_index=True, key=f"data_{kind}")
