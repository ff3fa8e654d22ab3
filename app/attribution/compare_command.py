"""Two runs compared, from the shell: ``python -m app.attribution "…" --against "…"`` or ``--zero L23.H4``."""

import argparse
import json
from dataclasses import replace
from pathlib import Path

from app.attribution.compare import Comparison, compare_prompts
from app.attribution.compare_forms import comparison_json, comparison_text, neurons_frame
from app.attribution.run import Ranges, check_question
from app.attribution.settings import Settings
from app.state.parts import parse_list
from db.catalogue import Catalogue
from db.errors import AtlasError
from db.export import write
from indexer.language_model import LanguageModel


def compared(
    options: argparse.Namespace,
    model: LanguageModel,
    settings: Settings,
    catalogue: Catalogue | None,
    ranges: Ranges | None,
) -> str:
    """What the command prints: the comparison, or where it was written to.

    Raises:
        AtlasError: a prompt, a position, a target or a part is unusable, or the file cannot be written.
    """
    prompt = options.prompt if options.against is None else options.against
    elsewhere = options.against is not None or options.against_position is not None
    position = options.against_position if elsewhere else settings.position
    other = replace(settings, target=options.against_target, position=position)
    for asked in ((options.prompt, settings), (prompt, other)):
        check_question(model, *asked)
    found = compare_prompts(
        model,
        (options.prompt, settings),
        (prompt, other),
        settings.top,
        zero=parse_list(options.zero or ""),
        ranges=ranges if settings.suppressing else None,
    )
    if options.out is not None:
        return _written(found, options.out)
    if options.json:
        return json.dumps(comparison_json(found), ensure_ascii=False, allow_nan=False)
    return comparison_text(found, catalogue)


def _written(found: Comparison, path: Path) -> str:
    """JSON holds all of it, CSV and Parquet the table of neurons."""
    if path.suffix.lower() != ".json":
        return write(neurons_frame(found), path, None)
    text = json.dumps(comparison_json(found), ensure_ascii=False, allow_nan=False)
    try:
        path.write_text(f"{text}\n", encoding="utf-8")
    except OSError as error:
        raise AtlasError(f"{path} could not be written ({error.strerror or error}).") from error
    return f"The comparison was written to {path}."
