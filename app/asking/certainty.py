"""How sure an analysis is, in words: how each list was found, and how long that took. Pure."""

from typing import TYPE_CHECKING

from app.asking.reading import Reading
from db.neuron import NeuronKind

if TYPE_CHECKING:
    from app.attribution.results import Certificate

_NAMES = {NeuronKind.FFN: "FFN neurons", NeuronKind.ATTENTION: "attention neurons × positions"}
_BOUNDS = {
    "concavity": "by the concavity of the log-probability",
    "catalogue": "by a lower bound from the catalogue's stored extreme logits",
    "norms": "by a lower bound from norms alone",
    "linear": "since shares are linear",
}


def certainty_lines(reading: Reading) -> list[tuple[str, str]]:
    """What is said of each list: a lead word, and the rest of the sentence without its full stop."""
    analysis, lines = reading.analysis, []
    if analysis.contrast is not None:
        lines.append(("Shares", "a difference of logits is linear: every neuron's share was computed, exactly"))
    for words, certificates in (("Raised", analysis.certificates), ("Lowered", analysis.suppressing_certificates)):
        if certificates and analysis.contrast is None:
            lines.append((words, "; ".join(_part(_NAMES[kind], certificates[kind]) for kind in _NAMES)))
    seconds = analysis.seconds
    if seconds.total:
        lines.append(("Time", f"{seconds.total:.2f} s, of which {seconds.forward:.2f} s for the model's forward pass"))
    return lines


def _part(name: str, one: "Certificate") -> str:
    proof = f"proven to be the exact list {_BOUNDS.get(one.bound, '')}" if one.proven else "not proven to be complete"
    return f"{one.scored:,} of {one.total:,} {name} scored exactly, {proof}"
