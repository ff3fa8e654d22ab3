"""Which terms of the final norm and of the keys count. Knows no torch, so that stored results can be read without."""

from enum import StrEnum


class Conventions(StrEnum):
    """EXACT agrees with the model's own probabilities; NOTEBOOK drops β, as the paper's GPT-2 notebook does."""

    EXACT = "exact"
    NOTEBOOK = "notebook"
