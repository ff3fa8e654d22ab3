"""The tables of a search: hits of tokens, and ends of neurons that cover a concept. Every heading sorts."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from app import navigation
from app.asking import finding
from app.asking.ranking import Page, order_of, orders
from app.drawing.components import Cell, Column, TableRow, chip, neuron_table
from app.drawing.wording import signed
from app.state.selection import By, NeuronSelection, Order, SearchSelection
from db.answers import ConceptNeuron, Hit, NeuronTokens
from db.catalogue import Catalogue

HERE = "search"
_STRONGEST = Column("strongest tokens of that end", "tokens")
_Z = "(logit − mean) / standard deviation of the neuron’s logits over the vocabulary"


def hits_table(page: Page[Hit], selection: SearchSelection, atlas: Catalogue) -> None:
    """Hits, a row each."""
    strongest = atlas.strongest_tokens([hit.neuron for hit in page.rows], 6)
    by_logit = order_of(selection, By.TOKEN) is Order.LOGIT
    values = [hit.logit if by_logit else hit.z for hit in page.rows]
    most = max(map(abs, values), default=1.0) or 1.0
    sort = _sorter(selection, By.TOKEN)
    measure = ("logit", "of the value vector alone", Order.LOGIT) if by_logit else ("z-score", _Z, Order.Z)
    columns = (
        sort("neuron", "name", "", Order.NEURON),
        sort("token", "token", "▲ among the neuron’s highest logits, ▼ among its lowest", Order.SIGN),
        sort("rank", "number", "1 is the neuron’s most extreme token of that end", Order.RANK),
        sort(measure[0], "bar", measure[1], measure[2]),
        _STRONGEST,
    )
    rows = [
        TableRow(
            navigation.href("neuron", NeuronSelection(hit.neuron.label)),
            (
                Cell(hit.neuron.label, dot=hit.neuron.kind.value),
                Cell(tone=hit.sign.value, chips=(chip(hit.token.display, tone=hit.sign.value),)),
                Cell(f"{hit.rank}"),
                Cell(signed(value), share=value / most),
                _end(strongest[hit.neuron], hit),
            ),
        )
        for hit, value in zip(page.rows, values, strict=True)
    ]
    neuron_table(columns, rows, key="hits", here=HERE, label="found neurons")


def ends_table(page: Page[ConceptNeuron], selection: SearchSelection, atlas: Catalogue, score: tuple[str, str]) -> None:
    """Ends of neurons, a row each; score: what it is called, and its meaning."""
    strongest = atlas.strongest_tokens([row.neuron for row in page.rows], 8)
    most = max((row.score for row in page.rows), default=1.0) or 1.0
    sort = _sorter(selection, By.CONCEPT)
    columns = (
        sort("neuron", "name", "", Order.NEURON),
        sort(score[0], "bar", score[1], Order.SCORE),
        sort("matched", "list", "the concept’s tokens among the stored ones of that end", Order.MATCHED),
        Column("strongest", "list", "its first tokens at that end"),
    )
    rows = [
        TableRow(
            navigation.href("neuron", NeuronSelection(row.neuron.label)),
            (
                Cell(row.neuron.label, dot=row.neuron.kind.value),
                Cell(f"{row.score:.2f}", share=row.score / most),
                _matched(row),
                _end(strongest[row.neuron], row),
            ),
        )
        for row in page.rows
    ]
    neuron_table(columns, rows, key="hits", here=HERE, label="found neurons")


def _matched(row: ConceptNeuron) -> Cell:
    shown = [
        chip(
            one.token.display,
            tone="avoided" if one.weight < 0 else row.sign.value,
            hint=f"rank {one.rank}" + (f", z {signed(one.z)}" if one.z else ""),
        )
        for one in row.matched[:8]
    ]
    return Cell(f"{len(row.matched)}", tone=row.sign.value, chips=tuple(shown))


def _end(strongest: NeuronTokens, row: Hit | ConceptNeuron) -> Cell:
    tokens = finding.end_of(strongest, row.sign)
    return Cell(chips=tuple(chip(token.display, tone=row.sign.value) for token in tokens))


def _sorter(selection: SearchSelection, by: By) -> Callable[[str, str, str, Order], Column]:
    """Makes columns that sort: a click sorts by one, a second click turns it round."""
    possible, current = orders(by, exact=selection.exact), order_of(selection, by)

    def column(name: str, role: str, hint: str, order: Order) -> Column:
        if order not in possible:
            return Column(name, role, hint)
        here = order is current
        chosen = replace(
            selection,
            order=None if order is possible[0] else order,
            reverse=here and not selection.reverse,
            page=1,
        )
        falling = order not in (Order.NEURON, Order.RANK, Order.SIGN)
        state: Literal["ascending", "descending"] = "descending" if falling != selection.reverse else "ascending"
        return Column(name, role, hint, navigation.href(HERE, chosen), state if here else "")

    return column
