"""What to analyse."""

from dataclasses import dataclass

from indexer.conventions import Conventions

MAX_TOKENS = 256
TOP = 300
QUERY_TOP = 30
MEMORY_MB = 512
FFN_READERS = 100
"""FFN value neurons behind which the query layers are looked for (README, Method, Query neurons)."""


@dataclass(frozen=True)
class Settings:
    """What to analyse. The defaults are those of the shell and of the dashboard.

    Attributes:
        top: how many value neurons of each kind and sign, and query neurons; 0 leaves neurons out.
        query_top: how many attention value neurons feed the query step.
        target: the token to explain, as text or id; None is the top prediction.
        distractor: a token to hold it against, as text or id; None for no contrast.
        position: the token whose prediction is explained, counted from 0 or from the end; None is the last.
        conventions: see README's two conventions.
        suppressing: also find the neurons that lower the target most; without a catalogue this scores most neurons.
        max_tokens: longest prompt accepted, in tokens.
        memory_mb: memory that scoring may take beside the model and the forward pass; less makes it slower.
    """

    top: int = TOP
    query_top: int = QUERY_TOP
    target: str | int | None = None
    distractor: str | int | None = None
    position: int | None = None
    conventions: Conventions = Conventions.EXACT
    suppressing: bool = False
    max_tokens: int = MAX_TOKENS
    memory_mb: int = MEMORY_MB
