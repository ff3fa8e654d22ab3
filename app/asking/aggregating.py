"""What the page of many prompts asks of the model: each prompt's analysis, and their lists put together. All of it is
remembered.
"""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from app.asking.batches import Asked
from app.serving import resources
from app.serving.configuration import configuration
from app.serving.limits import require_allowed, require_batch
from app.serving.refusals import Reason, RefusedError
from app.serving.work import Report
from db.catalogue import Catalogue
from db.errors import AtlasError


@dataclass(frozen=True)
class Aggregate:
    """Neurons over many prompts (`aggregate.aggregate`), and the prompts that could not be analysed, with why."""

    frame: pd.DataFrame
    failed: tuple[tuple[str, str], ...]


def row(atlas: Catalogue, asked: Asked) -> dict[str, Any]:
    """One of many prompts, as the object that the shell would write; see `forms.to_json`."""
    require_allowed(asked.prompt)

    def make(report: Report) -> dict[str, Any]:
        from app.attribution import Settings, analyse
        from app.attribution.forms import to_json

        model = resources.ready(atlas, report)
        try:
            limits = configuration()
            settings = Settings(
                target=asked.target, suppressing=True, max_tokens=limits.max_tokens, memory_mb=limits.memory_mb
            )
            ranges = resources.ranges_of(atlas.info.build_id, atlas)
            return to_json(analyse(model, asked.prompt, settings, ranges=ranges, report=report))
        except RefusedError:
            raise
        except AtlasError as error:
            return {"prompt": asked.prompt, "error": str(error)}

    try:
        return resources.workshop().result("row", (atlas.info.build_id, asked), make)
    except RefusedError as error:
        if error.reason is not Reason.TIME:
            raise
        return {"prompt": asked.prompt, "error": str(error)}  # the others go on, and it may be asked for again


def known_aggregate(atlas: Catalogue, asked: tuple[Asked, ...]) -> Aggregate | None:
    """The aggregate, where it was made before."""
    known: Aggregate | None = resources.workshop().known("aggregate", (atlas.info.build_id, asked))
    return known


def aggregate(atlas: Catalogue, asked: tuple[Asked, ...]) -> Aggregate:
    """The lists of many prompts, put together; each prompt's `row` is asked for first."""
    require_batch(len(asked))
    rows = [row(atlas, one) for one in asked]

    def make(_report: Report) -> Aggregate:
        from app.attribution.aggregate import aggregate

        failed = tuple((one["prompt"], one["error"]) for one in rows if "error" in one)
        return Aggregate(aggregate(rows), failed)

    return resources.workshop().result("aggregate", (atlas.info.build_id, asked), make)
