"""Which neurons matter over many prompts: how often each stands in a prompt's top k, and with what score.

An attention neuron may stand in one prompt's list several times, once a source position; the strongest counts. A neuron
outside a prompt's top k has an unknown (small) score there; `mean_score` is over the prompts in whose list it stands,
and `share` says how many those are, so that neither hides the other.
"""

from collections.abc import Iterable
from typing import Any

import pandas as pd

ROLES = {
    "FFN value": "ffn_value_neurons",
    "attention value": "attention_value_neurons",
    "FFN query": "query_ffn_neurons",
    "FFN suppressing": "ffn_suppressing_neurons",
    "attention suppressing": "attention_suppressing_neurons",
}
COLUMNS = ["role", "neuron", "prompts", "share", "mean_score", "mean_activation"]


def aggregate(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Neurons over prompts, by role; those in most prompts first, then by mean score.

    Args:
        rows: JSON objects of single prompts (`forms.to_json`); those with an error are passed over.

    Returns:
        Columns: role, neuron, prompts (in how many prompts' list), share (of all prompts analysed), mean_score (nats,
            over those prompts), mean_activation (signed, over those prompts; absent for query neurons).
    """
    analysed = 0
    found: list[tuple[int, str, str, float, float | None]] = []
    for row in rows:
        if row.get("error"):
            continue
        for role, name in ROLES.items():
            for one in row.get(name) or ():
                found.append((analysed, role, one["neuron"], one["score"], one.get("activation")))
        analysed += 1
    every = pd.DataFrame(found, columns=["prompt", "role", "neuron", "score", "activation"])
    if every.empty:
        return pd.DataFrame(columns=COLUMNS)
    every["size"] = every["score"].abs()
    strongest = every.sort_values("size", ascending=False).drop_duplicates(["prompt", "role", "neuron"])
    grouped = strongest.groupby(["role", "neuron"], sort=False)
    result = grouped.agg(
        prompts=("prompt", "size"),
        mean_score=("score", "mean"),
        mean_activation=("activation", "mean"),
        size=("size", "mean"),
    ).reset_index()
    result["share"] = result["prompts"] / analysed
    order = {role: place for place, role in enumerate(ROLES)}
    result["place"] = result["role"].map(order)
    result = result.sort_values(["place", "prompts", "size", "neuron"], ascending=[True, False, False, True])
    return result[COLUMNS].reset_index(drop=True)
