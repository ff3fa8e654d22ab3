"""A neuron on the prompt from which its page was opened: its score, its activation and the end that was active."""

import streamlit as st

from app.asking import explaining
from app.drawing.components import chip, chips
from app.drawing.wording import literal, nats, signed
from app.notices import fail
from app.state.selection import PromptSelection
from app.views.prompt_trail import where_you_are
from app.views.shared import progress
from db.catalogue import Catalogue
from db.errors import AtlasError
from db.neuron import Neuron, Sign

_SHOWN = 3


def active_end(neuron: Neuron, origin: PromptSelection, atlas: Catalogue) -> Sign | None:
    """Draw the neuron's part in the prompt; returns the end whose tokens it raised, None where that is not known."""
    try:
        with progress() as watch:
            analysis = explaining.analysis(atlas, origin, watch)
        active = explaining.on_prompt(atlas, origin, neuron)
    except AtlasError as error:
        fail(error)
        return None
    where_you_are(analysis, origin, key="trail", neuron=neuron)
    found = sorted(active, key=lambda one: abs(one.score), reverse=True)
    with st.container(border=True):
        target = literal(f"“{analysis.target.token.display}”")
        st.markdown(f"**On the prompt**, explaining {target}")
        tokens = [
            chip(token.display, current=place == analysis.position) for place, token in enumerate(analysis.tokens)
        ]
        chips(tokens, key="origin", here="neuron", label="the prompt")
        for one in found[:_SHOWN]:
            source = (
                ""
                if one.position is None
                else f" from position {one.position} “{analysis.tokens[one.position].display}”"
            )
            raised = "promoted" if one.activation > 0 else "suppressed"
            st.markdown(
                f"**{literal(nats(one.score))} nats**"
                + literal(f"{source}, activation {signed(one.activation)}: it raised its {raised} tokens.")
            )
        if len(found) > _SHOWN:
            st.caption(f"and less from {len(found) - _SHOWN} more positions")
    return Sign.PROMOTES if found[0].activation > 0 else Sign.SUPPRESSES
