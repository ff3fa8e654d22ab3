"""The one kind of error that is meant for a person to read."""


class AtlasError(Exception):
    """Something the user can act on: the message says what was given, what was expected and what to do.

    The shell prints it on one line and exits with status 2; the dashboard shows it as a notice. Neither shows a
    traceback. Anything that is not an AtlasError is a defect of ours.
    """


def first_line(error: BaseException) -> str:
    """What a library's error says, for a sentence."""
    first, *rest = str(error).strip().splitlines() or [type(error).__name__]
    return (f"{first} {rest[0].strip()}" if first.endswith(":") and rest else first)[:200]


class NotFoundError(AtlasError):
    """What was asked for does not exist: no such neuron, no such token."""
