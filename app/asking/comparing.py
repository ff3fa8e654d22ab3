"""What the page that compares asks of the model, remembered like everything in :mod:`app.asking.explaining`."""

from typing import TYPE_CHECKING

from app.serving import resources
from app.serving.configuration import configuration
from app.serving.limits import require_allowed
from app.serving.work import Report
from app.state.compare_selection import CompareSelection
from app.state.prompt_selection import PromptSelection
from db.catalogue import Catalogue

if TYPE_CHECKING:
    from app.attribution import Settings
    from app.attribution.compare import Comparison


def comparison(atlas: Catalogue, asked: CompareSelection, watch: Report | None = None) -> "Comparison":
    """Both runs, compared.

    Raises:
        AtlasError: a prompt, position, target or part is unusable; the message says why.
    """
    question = asked.question
    for side in (question.first, question.second):
        require_allowed(side.prompt, question.top)

    def make(report: Report) -> "Comparison":
        model = resources.ready(atlas, report)
        report("Running both, and scoring what changed …")
        from app.attribution.compare import compare_prompts

        ranges = resources.ranges_of(atlas.info.build_id, atlas)
        first, second = ((side.prompt, _settings(side, question.top)) for side in (question.first, question.second))
        return compare_prompts(model, first, second, question.top, zero=question.zero, ranges=ranges)

    return resources.workshop().result("detail", (atlas.info.build_id, "compare", question), make, watch)


def _settings(side: PromptSelection, top: int) -> "Settings":
    from app.attribution import Conventions, Settings

    return Settings(
        top=top,
        target=side.target,
        position=side.position,
        conventions=Conventions(side.rule.value),
        suppressing=True,
        max_tokens=configuration().max_tokens,
        memory_mb=configuration().memory_mb,
    )
