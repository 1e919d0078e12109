"""What a launch cost: tokens, FLOPs and device time that its trials paid for, by cell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from orchestrator.stores.trial_record import FLOPS_PER_TOKEN, TrialRecord

TOTAL = "total"


@dataclass(frozen=True, kw_only=True)
class CostRow:
    """`device_s` is the sum over the `timed` trials that recorded it, None where none did.
    `saved_tokens` and `saved_flops` are what the `reused` trials would have cost again; None where
    a record of before 2026-11-25 does not say how long they were."""

    cell: str
    trials: int
    tokens: int
    flops: int
    device_s: float | None
    timed: int
    reused: int = 0
    saved_tokens: int | None = 0
    saved_flops: int | None = 0


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
    records = list(records)
    reused = [r for r in records if r.is_reused]
    known = all(r.num_steps and r.batch_tokens for r in reused)
    whole = [r.num_steps * r.batch_tokens if known else 0 for r in reused]
    flops = sum(t * r.attributes[FLOPS_PER_TOKEN] for t, r in zip(whole, reused, strict=True))
    paid = [r for r in records if not r.is_reused and (r.tokens or r.device_s)]
    times = [r.device_s for r in paid if r.device_s]
    return CostRow(
        cell=cell,
        trials=len(paid),
        tokens=sum(r.tokens for r in paid),
        flops=sum(r.tokens * r.attributes[FLOPS_PER_TOKEN] for r in paid),
        device_s=sum(times) if times else None,
        timed=len(times),
        reused=len(reused),
        saved_tokens=sum(whole) if known else None,
        saved_flops=flops if known else None,
    )
