"""What the shell is asked to compare, checked before torch is loaded."""

import argparse

from app.state.parts import parse_list
from db.errors import AtlasError

_ELSEWHERE = ("prompts", "distractor", "head", "lens", "query_of", "through", "flow", "within")
ENDINGS = (".json", ".csv", ".parquet")


def compares(options: argparse.Namespace) -> bool:
    """Whether any of the options that make a comparison is given."""
    given = (options.against, options.against_target, options.against_position, options.zero)
    return any(one is not None for one in given)


def check_comparison(options: argparse.Namespace) -> None:
    """Refuse what makes no comparison.

    Raises:
        AtlasError: an option that does not go with it, an empty prompt, a part that is none, or an unknown ending.
    """
    for name in _ELSEWHERE:
        if getattr(options, name, None):
            raise AtlasError(f"--{name.replace('_', '-')} does not go with a comparison. Leave one of them out.")
    if options.against is not None and not options.against.strip():
        raise AtlasError("The prompt to compare with is empty. Type one after --against, or leave it out.")
    if options.zero is not None and not parse_list(options.zero):
        raise AtlasError("No part is named after --zero. Parts are written L23.H4,L29.F864,L12.ffn or ffn:10.")
    if options.out is not None and options.out.suffix.lower() not in ENDINGS:
        raise AtlasError(
            f"A comparison is written to a file that ends in {', '.join(ENDINGS)}: not {options.out.name}."
        )
