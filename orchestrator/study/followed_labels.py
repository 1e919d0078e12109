"""Which labels of a corpus a study follows: no sequence of its launches mixes their values.

All cells of a study train on the same tokens, so that its table compares like with like: a column
that one cell's router follows is kept apart for all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from moe.config import ROUTER_KINDS, DataConfig, TrialConfig
from moe.data.corpus import Corpus
from orchestrator.study.claims import All, Claim, Specialises
from search_spaces.cells import Cell
from search_spaces.domains import Choice
from search_spaces.space import Space


def followed_labels(
    cells: Iterable[Cell], base: TrialConfig, space: Space | None, claims: Iterable[Claim]
) -> frozenset[str]:
    """Columns that a router of a cell or of a point of the space, or a claim of specialisation,
    follows; whether a corpus has them is another question."""
    configs = [cell.config(base) for cell in cells]
    found = {config.moe.label_column for config in configs if config.moe.follows_labels}
    if space is not None:
        routers = _values(space, "moe.router", base.moe.router)
        if any(ROUTER_KINDS[router].follows_labels for router in routers):
            found |= set(_values(space, "moe.label_column", base.moe.label_column))
    return frozenset(found | {label for claim in _parts(claims) for label in claim.labels})


def sequence_labels(data: DataConfig, followed: frozenset[str], corpus: Corpus) -> str:
    """The value of `data.sequence_labels`: what it asks for, and what is followed and there."""
    there = {label for label in followed if corpus.labels.has(label)}
    return "+".join(sorted({*data.sequence_label_columns, *there}))


def _values(space: Space, path: str, fixed: str) -> tuple[str, ...]:
    match space.axes.get(path):
        case Choice(values):
            return tuple(values)
    return (fixed,)


def _parts(claims: Iterable[Claim]) -> Iterator[Specialises]:
    for claim in claims:
        if isinstance(claim, All):
            yield from _parts(claim.parts)
        elif isinstance(claim, Specialises):
            yield claim
