"""Steering: what the model says, and how it goes on, with parts of it zeroed, scaled or clamped at every position.

The hooks are those of :mod:`app.attribution.ablation`. A text is continued token by token with the keys and values of
what came before; the model's lock is held for one token at a time, so that others are served between two of them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import TopPLogitsWarper

from app.attribution.ablation import Changes, changed, resolved
from app.attribution.compare import PredictionChange, RankedTarget, prediction_changes, ranked_target
from app.attribution.prompt import PromptToken, Sampling, Settings, token_of
from app.attribution.run import PromptRun, run_prompt
from db.errors import AtlasError
from db.neuron import Intervention
from indexer.language_model import LanguageModel


@dataclass(frozen=True)
class Continuation:
    """What the model wrote after the prompt.

    Attributes:
        tokens: in order.
        text: they, read together.
        ended: the model ended the text itself, before the number of tokens was reached.
    """

    tokens: tuple[PromptToken, ...]
    text: str
    ended: bool


@dataclass(frozen=True)
class Steering:
    """A prompt without and with interventions: before and after. Probabilities are the model's own.

    Attributes:
        model, prompt, tokens, position: what was run, and after which token the next one is predicted.
        interventions: the strongest neurons by name.
        before, after: the target, by default the top prediction before.
        predictions: the most probable tokens of either run, the largest |Δ probability| first.
        notices: how the text was read, where that is not plain.
        sampling: how the text was continued; None where it was not.
        continuations: without the interventions, and with them where there are any.
    """

    model: str
    prompt: str
    tokens: tuple[PromptToken, ...]
    position: int
    interventions: tuple[Intervention, ...]
    before: RankedTarget
    after: RankedTarget
    predictions: tuple[PredictionChange, ...]
    notices: tuple[str, ...] = ()
    sampling: Sampling | None = None
    continuations: tuple[Continuation, ...] = ()

    @property
    def next_after(self) -> PromptToken:
        """The most probable next token under the interventions."""
        return max(self.predictions, key=lambda one: one.second).token

    @property
    def log_probability(self) -> float:
        """Δ log-probability of the target, after minus before, nats."""
        return self.after.log_probability - self.before.log_probability

    @property
    def also_written(self) -> dict[str, Any]:
        """What follows from the rest and is written with it."""
        return {"delta_log_probability": self.log_probability}


@dataclass(frozen=True, eq=False)
class Steered:
    """One prompt under interventions. Make one with `Steered.of`.

    Attributes:
        run: without them.
        interventions: the strongest neurons by name.
    """

    run: PromptRun
    interventions: tuple[Intervention, ...]

    @classmethod
    def of(
        cls, model: LanguageModel, prompt: str, settings: Settings, interventions: Sequence[Intervention]
    ) -> "Steered":
        """Run the prompt without them.

        Raises:
            AtlasError: the prompt or the target is unusable, or the model has no such part.
        """
        run = run_prompt(model, prompt, settings)
        return cls(run, resolved(run, interventions))

    @cached_property
    def changes(self) -> Changes:
        return Changes.of(self.run.model.dimensions, self.interventions)

    def result(self) -> Steering:
        """Before and after, not continued.

        Raises:
            AtlasError: the numbers become too large.
        """
        run = self.run
        with changed(run.model, self.changes):
            after = replace(run, stream=run.model.forward(run.stream.token_ids.tolist()))
        _require_finite(after.stream.logits)
        return Steering(
            model=run.model.name,
            prompt=run.prompt,
            tokens=run.tokens,
            position=run.stream.position,
            interventions=self.interventions,
            before=ranked_target(run),
            after=ranked_target(after),
            predictions=prediction_changes(run, after),
            notices=run.notices,
        )

    def continued(self, sampling: Sampling, *, steered: bool) -> Iterator[int]:
        """Token ids after the analysed position, as they come; see `generate`."""
        changes = self.changes if steered else Changes()
        return generate(self.run.model, self.run.stream.token_ids, sampling, changes)


def steer(
    model: LanguageModel,
    prompt: str,
    settings: Settings,
    interventions: Sequence[Intervention],
    sampling: Sampling | None = None,
) -> Steering:
    """Predictions before and after, and with `sampling` the text continued without and with the interventions.

    Raises:
        AtlasError: a prompt, target, part or length is unusable; the message says why.
    """
    one = Steered.of(model, prompt, settings, interventions)
    found = one.result()
    if sampling is None:
        return found
    sides = (False, True) if interventions else (False,)
    written = (continuation(model, list(one.continued(sampling, steered=side)), sampling) for side in sides)
    return replace(found, sampling=sampling, continuations=tuple(written))


def continuation(model: LanguageModel, token_ids: Sequence[int], sampling: Sampling) -> Continuation:
    """What was generated, as a result."""
    tokens = tuple(token_of(model, one) for one in token_ids)
    return Continuation(tokens, text_of(model, token_ids), len(token_ids) < sampling.tokens)


def text_of(model: LanguageModel, token_ids: Sequence[int]) -> str:
    """The tokens read together; bytes of a character that is not whole yet are marked as unknown."""
    return b"".join(map(model.tokens.bytes_of, token_ids)).decode("utf-8", "replace")


def generate(model: LanguageModel, token_ids: Int[Tensor, " T"], sampling: Sampling, changes: Changes) -> Iterator[int]:
    """Token ids that follow, one at a time, until there are enough or the model ends the text (its EOS is left out).

    Raises:
        AtlasError: the model has too few positions, or (later) the numbers become too large.
    """
    most = model.dimensions.max_positions - len(token_ids)
    if sampling.tokens > most:
        raise AtlasError(
            f"{model.name} takes {model.dimensions.max_positions:,} tokens, and the prompt has {len(token_ids):,}: "
            f"{f'ask for at most {most:,} more' if most else 'none can follow. Shorten it'}."
        )
    return _generated(model, token_ids, sampling, changes)


def _generated(
    model: LanguageModel, token_ids: Int[Tensor, " T"], sampling: Sampling, changes: Changes
) -> Iterator[int]:
    generator = torch.Generator().manual_seed(sampling.seed)
    entered, kept = token_ids[None].to(next(model.module.parameters()).device), None
    ends = _ends_of_text(model)
    for _ in range(sampling.tokens):
        with changed(model, changes), torch.inference_mode():
            answer = model.module(entered, past_key_values=kept, use_cache=True, logits_to_keep=1)
            kept, logits = answer.past_key_values, answer.logits[0, -1].float().cpu()
        _require_finite(logits)
        chosen = _chosen(logits, sampling, generator)
        if chosen in ends:
            return
        yield chosen
        entered = entered.new_tensor([[chosen]])


def _chosen(logits: Float[Tensor, " V"], sampling: Sampling, generator: torch.Generator) -> int:
    if not sampling.temperature:
        return int(logits.argmax())
    scores = TopPLogitsWarper(sampling.top_p)(None, logits[None] / sampling.temperature)
    return int(torch.multinomial(scores.softmax(-1), 1, generator=generator))


def _ends_of_text(model: LanguageModel) -> frozenset[int]:
    ends: int | list[int] | None = model.module.generation_config.eos_token_id  # type: ignore[union-attr, assignment]
    return frozenset([ends] if isinstance(ends, int) else ends or ())


def _require_finite(logits: Float[Tensor, " V"]) -> None:
    if not logits.isfinite().all():
        raise AtlasError("With these interventions the model’s numbers grow beyond all bounds. Take smaller ones.")
