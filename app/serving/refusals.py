"""What a server will not do, as an error of its own kind: nothing is broken, and asking otherwise or later helps."""

from enum import StrEnum

from db.errors import AtlasError


class Reason(StrEnum):
    """Why something was refused, for the log."""

    MODE = "mode"
    """This server has no model, or explains its own prompts only."""
    LIMIT = "limit"
    """More was asked than the settings allow."""
    BUSY = "busy"
    """Too much is waiting already."""
    TIME = "time"
    """It took longer than the settings allow."""


class RefusedError(AtlasError):
    """One sentence for a person, and the reason."""

    def __init__(self, reason: Reason, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason
