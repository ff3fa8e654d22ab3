"""The logit lens: what the residual stream would predict after each layer, at each position."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from app.attribution.prompt import PromptToken, token_of
from app.attribution.run import PromptRun

ROWS_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class LogitLens:
    """Each layer's input read as if it were the last, the final norm taken at its own scale.

    Attributes:
        top: [L+1][T]; the most probable token; row l enters layer l, row L is the model's own output.
        top_probability: [L+1, T]; its probability.
        target_probability: [L+1, T]; the target's.
    """

    top: tuple[tuple[PromptToken, ...], ...]
    top_probability: Float[Tensor, "L1 T"]
    target_probability: Float[Tensor, "L1 T"]


def logit_lens(run: PromptRun) -> LogitLens:
    """Read every layer's input at every position up to the analysed one."""
    unembedding = run.model.unembedding
    layers, tokens, _ = run.stream.layer_input.shape
    best, best_probability, of_target = [], [], []
    for rows in run.stream.layer_input.flatten(0, 1).split(ROWS_AT_ONCE):
        probabilities = unembedding.logits(rows, unembedding.scale(rows)).softmax(dim=-1)
        highest = probabilities.max(dim=-1)
        best.append(highest.indices)
        best_probability.append(highest.values)
        of_target.append(probabilities[:, run.target_id])
    named = [[token_of(run.model, one) for one in row] for row in torch.cat(best).view(layers, tokens).tolist()]
    return LogitLens(
        top=tuple(tuple(row) for row in named),
        top_probability=torch.cat(best_probability).view(layers, tokens),
        target_probability=torch.cat(of_target).view(layers, tokens),
    )
