"""Which trials that have ended are trained once more, as new trials of their configuration.

A promoted point is one that early stopping ended and that somebody wants to see to its end: its
trials go on from the checkpoints at which they were stopped, and no rule ends them again.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from orchestrator.base.errors import BadInput
from orchestrator.stores.trial_record import TrialRecord


@dataclass(frozen=True, kw_only=True)
class TrainedAgain:
    """`failed`: all that failed. `promoted`: points, by their cell hash."""

    failed: bool = False
    promoted: frozenset[str] = frozenset()

    def has(self, record: TrialRecord) -> bool:
        """Whether this trial does not stand for its configuration."""
        if record.state == "pruned":
            return record.cell_hash in self.promoted
        return self.failed and record.state == "failed"


def promotable(records: Iterable[TrialRecord], cells: Sequence[str]) -> list[list[TrialRecord]]:
    """For each cell the trials that early stopping ended.

    Raises BadInput where there is no such cell, or nothing of it to be promoted.
    """
    current: dict[str, list[TrialRecord]] = {}
    for record in records:
        if not record.is_older:
            current.setdefault(record.cell, []).append(record)
    found = []
    for cell in dict.fromkeys(cells):
        trials = current.get(cell)
        if trials is None:
            near = difflib.get_close_matches(cell, current, n=2)
            remedy = f"Did you mean {' or '.join(near)}?" if near else "`table` shows all of them."
            raise BadInput(
                f"a point is promoted by its name in the table; the launch has no {cell}. {remedy}"
            )
        pruned = [record for record in trials if record.state == "pruned"]
        if not pruned or any(record.state == "complete" for record in trials):
            states = ", ".join(sorted({record.state for record in trials}))
            raise BadInput(
                f"points are promoted that early stopping ended; {cell} is {states}. "
                "Name one of those that the table shows as stopped."
            )
        if any(record.diverged for record in trials):
            raise BadInput(
                f"a point is promoted to a mean over all of its seeds; of {cell} one diverged, and "
                "has no value. Name another."
            )
        found.append(pruned)
    return found
