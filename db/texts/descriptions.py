"""Descriptions of neurons that a language model wrote, one JSON object a line, beside a model's builds.

They were asked for with `python -m indexer describe`, and say by whom they are and how well they predict activations.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated

from db.errors import AtlasError
from db.files import State, state_of

DESCRIPTIONS = "descriptions.jsonl"


@dataclass(frozen=True, slots=True)
class Description:
    """What a model said of one neuron."""

    neuron: str
    """Its label."""
    checkpoint: str
    texts_id: str
    """The texts it was shown."""
    text: Annotated[str, "What a language model said of it, if one was asked."]
    score: Annotated[
        float | None, "Rank correlation of what the description predicts with held-out activations; null: not known."
    ]
    by: Annotated[str, "The name of that model."]


def descriptions(folder: Path, checkpoint: str) -> Mapping[str, Description]:
    """Those of a checkpoint's neurons, by label: of several of one neuron the last."""
    path = folder / DESCRIPTIONS
    return _read(path, checkpoint, state_of(path))


@lru_cache(maxsize=16)
def _read(path: Path, checkpoint: str, state: State | None) -> Mapping[str, Description]:
    """As it stood when the file was in this state; a line that a kill left unfinished says nothing."""
    found = {}
    try:
        lines = [] if state is None else path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        try:
            one = Description(**json.loads(line))
        except (ValueError, TypeError):
            continue
        if one.checkpoint == checkpoint:
            found[one.neuron] = one
    return found


def add_description(folder: Path, found: Description) -> None:
    """Write one more, at once.

    Raises:
        AtlasError: it cannot be written.
    """
    path = folder / DESCRIPTIONS
    try:
        with path.open("a+b") as file:
            file.seek(0, 2)
            if file.tell():
                file.seek(-1, 2)
            torn = file.read(1) not in (b"", b"\n")
            file.write(b"\n" * torn + json.dumps(asdict(found)).encode() + b"\n")
    except OSError as error:
        raise AtlasError(f"{path} cannot be written ({error.strerror or error}).") from error
