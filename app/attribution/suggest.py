"""Tokens that begin as something typed does, the most probable here first: to choose a target from."""

from functools import lru_cache

import torch

from app.attribution.results import Prediction
from app.attribution.run import PromptRun
from db.token_text import plain
from indexer.language_model import LanguageModel

SHOWN = 8


def tokens_beginning(run: PromptRun, text: str, count: int = SHOWN) -> tuple[Prediction, ...]:
    """Tokens whose text begins with `text`, with or without a space before it, whatever the case.

    Args:
        run: the prompt; its probabilities at the analysed position order the tokens.
        text: what was typed.
        count: how many at most.
    """
    wanted = text.casefold()
    if not wanted:
        return ()
    found = [token_id for token_id, name in _names(run.model) if name.startswith((wanted, f" {wanted}"))]
    if not found:
        return ()
    ids = torch.tensor(found)
    best = ids[run.log_probabilities[ids].topk(min(count, len(found))).indices].tolist()
    named = [run.token_probability(token_id) for token_id in best]
    return tuple(Prediction(one.token, one.probability) for one in named)


@lru_cache(maxsize=2)
def _names(model: LanguageModel) -> tuple[tuple[int, str], ...]:
    """Ids and texts of the vocabulary, as they are compared; without control tokens and rows that no token uses."""
    tokens = model.tokens
    return tuple(
        (token_id, plain(tokens.bytes_of(token_id)).casefold())
        for token_id in range(model.dimensions.vocabulary)
        if not tokens.is_special(token_id)
    )
