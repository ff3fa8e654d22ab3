"""What this server explains, by its settings: checked before anything is asked of the model."""

from app.asking.compare_examples import EXAMPLES
from app.asking.examples import PROMPTS, READY, WORKED_PROMPT
from app.serving.configuration import Mode, configuration
from app.serving.refusals import Reason, RefusedError

_COMPARED = (side.prompt for _, one in EXAMPLES for side in (one.question.first, one.question.second))
CURATED = frozenset((WORKED_PROMPT, *PROMPTS, *(prompt for ready in READY.values() for prompt, _ in ready), *_COMPARED))
"""The prompts that a demonstration explains."""


def require_model() -> None:
    """Asked by whatever needs the model.

    Raises:
        RefusedError: this server has none.
    """
    if configuration().mode is Mode.CATALOGUE:
        raise RefusedError(
            Reason.MODE,
            "This server has no model, so it explains no new prompts. Search its catalogue, open a saved analysis or "
            "one of the gallery, or run Neuron Atlas on a machine of your own.",
        )


def require_allowed(prompt: str, top: int = 0) -> None:
    """Asked before a prompt is put to the model; its length in tokens is checked when it has been read.

    Args:
        prompt: the text.
        top: how many neurons of each kind are asked for.

    Raises:
        RefusedError: this server has no model, or does not explain this prompt, or not with so many neurons.
    """
    require_model()
    settings = configuration()
    if settings.mode is Mode.DEMO and prompt not in CURATED:
        raise RefusedError(
            Reason.MODE,
            "This server is a demonstration and explains only the prompts that its pages offer; run Neuron Atlas on a "
            "machine of your own to explain yours.",
        )
    if top > settings.max_top:
        raise RefusedError(
            Reason.LIMIT,
            f"This server finds at most {settings.max_top:,} neurons of each kind, and {top:,} were asked for: ask for "
            "fewer.",
        )


def require_batch(count: int) -> None:
    """Asked before many prompts are put to the model.

    Raises:
        RefusedError: they are too many.
    """
    most = configuration().max_prompts
    if count > most:
        raise RefusedError(
            Reason.LIMIT, f"This server explains at most {most:,} prompts at a time, and {count:,} were given."
        )
