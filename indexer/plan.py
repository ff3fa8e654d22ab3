"""How a job computes: measured when it begins and kept beside its shards, since a job that goes on as another way would
mix last digits.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from db.builds import sync
from indexer.integers import integers_are_exact, integers_are_faster
from indexer.projection import bf16_is_faster

_FILE = "plan.json"


@dataclass(frozen=True, slots=True)
class Plan:
    """What a job decided.

    Attributes:
        screen: whether neurons' lists are screened in bf16.
        integers: whether tokens' neighbours are chosen in 8-bit integers.
    """

    screen: bool
    integers: bool


def planned(work: Path, screen: bool | None, d_model: int) -> Plan:
    """The plan of the shards in `work`, or a new one.

    Args:
        work: the job's folder.
        screen: None leaves all to an earlier plan, and then to measurements; otherwise whether to use coarse products,
            whatever is faster.
        d_model: the width of what is multiplied.
    """
    plan = work / _FILE
    if screen is None:
        try:
            kept = json.loads(plan.read_text(encoding="utf-8"))
            return Plan(bool(kept["screen"]), bool(kept["integers"]))
        except (OSError, ValueError, KeyError, TypeError):
            screen = not torch.cuda.is_available() and bf16_is_faster(d_model)
            integers = integers_are_faster(d_model)
    else:
        integers = screen and integers_are_exact(d_model)
    found = Plan(screen, integers)
    temporary = plan.with_suffix(".json.part")
    temporary.write_text(json.dumps(asdict(found)), encoding="utf-8")
    sync(temporary)
    temporary.replace(plan)
    return found
