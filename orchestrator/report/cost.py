"""What a launch cost: tokens, FLOPs and device time that its trials paid for, by cell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from orchestrator.stores.trial_record import FLOPS_PER_TOKEN, TrialRecord

TOTAL = "total"


@dataclass(frozen=True, kw_only=True)
class CostRow:
    """`device_s` is the sum over the `timed` trials that recorded it, None where none did."""

    cell: str
    trials: int
    tokens: int
    flops: int
    device_s: float | None
    timed: int


def cost_rows(records: Sequence[TrialRecord]) -> list[CostRow]:
    """A row a cell, in the order asked for, then the total; reused results cost nothing here.

    What was pruned, failed or interrupted was paid for as well, and is counted.
    """
    groups: dict[str, list[TrialRecord]] = {}
    for record in sorted(records, key=lambda r: r.number):
        groups.setdefault(record.cell, []).append(record)
    rows = [_row(cell, group) for cell, group in groups.items()]
    return [*rows, _row(TOTAL, records)]


def _row(cell: str, records: Iterable[TrialRecord]) -> CostRow:
    paid = [r for r in records if not r.is_reused and (r.tokens or r.device_s)]
    times = [r.device_s for r in paid if r.device_s]
    return CostRow(
        cell=cell,
        trials=len(paid),
        tokens=sum(r.tokens for r in paid),
        flops=sum(r.tokens * r.attributes[FLOPS_PER_TOKEN] for r in paid),
        device_s=sum(times) if times else None,
        timed=len(times),
    )
