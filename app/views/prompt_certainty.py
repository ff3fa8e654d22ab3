"""How sure on the prompt page: how each list was found, and how long that took."""

from typing import TYPE_CHECKING

import streamlit as st

from app.reading import Reading
from app.wording import literal
from db.neuron import NeuronKind

if TYPE_CHECKING:
    from app.attribution.value_neurons import Certificate

_NAMES = {NeuronKind.FFN: "FFN neurons", NeuronKind.ATTENTION: "attention neurons × positions"}
_BOUNDS = {
    "concavity": "by the concavity of the log-probability",
    "catalogue": "by a lower bound from the catalogue's stored extreme logits",
    "norms": "by a lower bound from norms alone",
    "linear": "since shares are linear",
}


def certainty(reading: Reading) -> None:
    """In words."""
    analysis = reading.analysis
    st.subheader("How sure", anchor=False)
    if analysis.contrast is not None:
        _line("Shares", "a difference of logits is linear: every neuron's share was computed, exactly")
    for words, certificates in (
        ("Raised", analysis.certificates),
        ("Lowered", analysis.suppressing_certificates),
    ):
        if certificates and analysis.contrast is None:
            parts = [_part(_NAMES[kind], certificates[kind]) for kind in _NAMES]
            _line(words, "; ".join(parts))
    seconds = analysis.seconds
    if seconds.total:
        _line("Time", f"{seconds.total:.2f} s, of which {seconds.forward:.2f} s for the model's forward pass")


def _part(name: str, one: "Certificate") -> str:
    proof = f"proven to be the exact list {_BOUNDS.get(one.bound, '')}" if one.proven else "not proven to be complete"
    return f"{one.scored:,} of {one.total:,} {name} scored exactly, {proof}"


def _line(lead: str, text: str) -> None:
    st.caption(f"**{lead}.** {literal(text)}.")
