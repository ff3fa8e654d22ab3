"""A neuron on the prompt from which its page was opened: its score, its activation and the end that was active."""

import streamlit as st

from app import resources
from app.components import chip, chips
from app.notices import fail
from app.selection import PromptSelection
from app.wording import literal, nats, signed
from db.catalogue import Catalogue
from db.errors import AtlasError
from db.neuron import Neuron, NeuronKind, Sign

_SHOWN = 5


def running(atlas: Catalogue) -> str:
    """What the wait is for."""
    if resources.is_loaded(atlas.info):
        return "Running the prompt and scoring its neurons …"
    return f"Loading {atlas.info.model} (once), then scoring the prompt's neurons …"


def active_end(neuron: Neuron, origin: PromptSelection, atlas: Catalogue) -> Sign | None:
    """Draw the neuron's part in the prompt; returns the end whose tokens it raised, None where it had no part."""
    try:
        with st.spinner(literal(running(atlas))):
            analysis = resources.analysis(atlas, origin)
    except AtlasError as error:
        fail(error)
        return None
    ffn = neuron.kind is NeuronKind.FFN
    listed = analysis.ffn_value_neurons if ffn else analysis.attention_value_neurons
    found = [one for one in listed if one.neuron == neuron]
    with st.container(border=True):
        target = literal(f"“{analysis.target.token.display}”")
        st.markdown(f"**On the prompt**, explaining {target}")
        tokens = [
            chip(token.display, current=place == analysis.position) for place, token in enumerate(analysis.tokens)
        ]
        chips(tokens, key="origin", here="neuron", label="the prompt")
        if not found:
            st.markdown(f"This neuron is not among the {len(listed)} that raised the target most.")
            return None
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
            st.caption(f"and from {len(found) - _SHOWN} more positions")
    return Sign.PROMOTES if found[0].activation > 0 else Sign.SUPPRESSES
