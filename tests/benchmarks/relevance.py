"""How much of what a concept search finds belongs to the concept: ``python -m tests.benchmarks.relevance``.

For each concept, typed as a user may type it, the five best neurons are taken, and of each the first twenty tokens of
the end that the search found. A token counts if it is, without spaces and case, in the concept's word list
(tests/benchmarks/word_lists.py), which the search never sees. Plain token search looks the same words up as tokens and
ranks by z. “Possible” is what the five neurons with the most listed tokens reach, which only the lists can find.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

from sqlalchemy import func, select

from db.catalogue.builds import find_catalogue
from db.catalogue.schema import token_neuron
from db.catalogue.statements import among
from db.catalogue.store import Catalogue
from db.neuron import Neuron, Sign
from tests.benchmarks.word_lists import FURTHER, PHRASES, TOPICS, UNSEEN, Topic

NEURONS, DEPTH = 5, 20
End = tuple[Neuron, Sign]


def five(ends: Iterable[End]) -> list[End]:
    """The first ends of five different neurons."""
    found: dict[Neuron, End] = {}
    for end in ends:
        found.setdefault(end[0], end)
        if len(found) == NEURONS:
            break
    return list(found.values())


def hits(catalogue: Catalogue, ends: list[End], words: frozenset[str]) -> int:
    """How many of the ends' first twenty tokens are among the words."""
    found = catalogue.strongest_tokens([neuron for neuron, _ in ends], depth=DEPTH)
    tokens = [getattr(found[neuron], sign) for neuron, sign in ends]
    return sum(token.text.strip().lower() in words for end in tokens for token in end)


def by_concept(catalogue: Catalogue, typed: str, widen: int) -> list[End]:
    """The five best neurons of a concept search."""
    neurons = catalogue.concept_neurons(catalogue.concept(typed, widen=widen), limit=4 * NEURONS)
    return five((found.neuron, found.sign) for found in neurons)


def by_token(catalogue: Catalogue, typed: str) -> list[End]:
    """The five best neurons of a token search for the same words."""
    ids = [token.token_id for word in typed.split() for token in catalogue.resolve(word).matched]
    return five((hit.neuron, hit.sign) for hit in catalogue.search_token(ids, limit=10 * NEURONS))


def possible(catalogue: Catalogue, words: frozenset[str]) -> list[End]:
    """The five neurons with most of the words among their first twenty tokens."""
    tokens = catalogue.tokens(range(catalogue.info.vocabulary)).values()
    ids = [token.token_id for token in tokens if token.text.strip().lower() in words]
    pairs, count = token_neuron, func.count()
    rows = catalogue.rows(
        select(pairs.c.neuron_id, pairs.c.sign, count)
        .where(among(pairs.c.token_id, ids), pairs.c.rank <= DEPTH)
        .group_by(pairs.c.neuron_id, pairs.c.sign)
        .order_by(count.desc(), pairs.c.neuron_id)
        .limit(10 * NEURONS)
    )
    return five(
        (catalogue.layout.neuron(neuron_id), Sign.PROMOTES if sign > 0 else Sign.SUPPRESSES)
        for neuron_id, sign, _ in rows
    )


def table(catalogue: Catalogue, topics: Iterable[Topic], widen: int) -> str:
    """A Markdown table; a row for every typed text, in percent of the hundred tokens looked at."""
    lines = ["| concept | typed | token search | concept search | possible |", "| --- | --- | ---: | ---: | ---: |"]
    sums: dict[int, list[list[int]]] = {}
    for topic in topics:
        best = hits(catalogue, possible(catalogue, topic.words), topic.words)
        for place, typed in enumerate(topic.typed):
            plain = hits(catalogue, by_token(catalogue, typed), topic.words)
            concept = hits(catalogue, by_concept(catalogue, typed, widen), topic.words)
            sums.setdefault(place, []).append([plain, concept, best])
            lines.append(f"| {topic.name} | {typed} | {plain} % | {concept} % | {best} % |")
    for place, rows in sums.items():
        what = ("mean" if len(sums) == 1 else "mean of the first forms") if place == 0 else "mean of the second forms"
        means = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
        lines.append(f"| **{what}** | | " + " | ".join(f"**{mean:.0f} %**" for mean in means) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--catalogue", type=Path, default=Path("catalogue"))
    arguments.add_argument("--model")
    arguments.add_argument("--widen", type=int, default=40)
    options = arguments.parse_args()
    with Catalogue.open(find_catalogue(options.catalogue, options.model)) as catalogue:
        if not catalogue.has_neighbours:
            print("This build holds no neighbours: concepts are not widened.\n")
        print(f"Everyday concepts:\n\n{table(catalogue, TOPICS, options.widen)}\n")
        print("Further concepts, not used for choosing the settings (but seen while they were chosen):\n")
        print(f"{table(catalogue, UNSEEN, options.widen)}\n")
        print(f"Phrases:\n\n{table(catalogue, PHRASES, options.widen)}\n")
        print(f"Words that are mostly several tokens:\n\n{table(catalogue, FURTHER, options.widen)}")


if __name__ == "__main__":
    main()
