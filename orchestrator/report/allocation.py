"""Which cell a sequential study's next seed goes to: that of the claim whose verdict is nearest.

A pure function of the launch's trials and of what its home has trained, asked when no trial runs or
waits. So a driver that was killed anywhere is followed by one that goes on with the same seeds in
the same cells.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from orchestrator.report.verdicts import Verdict
from orchestrator.stores.trial_record import TrialRecord
from orchestrator.study.claims import All, Claim, LargerEffect, Ordered, Specialises
from orchestrator.study.design import Sequential

FUTILE = 0.1  # chance of a verdict by the last seed below which a claim is given up
_SEEDS_TO_TELL = 5  # before which mean and spread are too little known to give up


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where a claim stands. `open` ones get seeds; `why` says what ended the others."""

    claim: str
    verdict: str
    n: int
    is_open: bool
    why: str
    device_s: float


@dataclass(frozen=True, kw_only=True)
class Allotment:
    """Cells that are to be trained at one more seed, and the claim that asks for it."""

    claim: str
    cells: tuple[str, ...]
    seed: int


def standings(
    claims: Sequence[Claim],
    verdicts: Sequence[Verdict],
    records: Sequence[TrialRecord],
    design: Sequential,
) -> list[Standing]:
    """Of each claim, with the device time of its cells' trials (in equal shares, where claims share
    a cell)."""
    sharing: dict[str, int] = {}
    for claim in claims:
        for cell in claim.cells:
            sharing[cell] = sharing.get(cell, 0) + 1
    found = []
    for claim, verdict in zip(claims, verdicts, strict=True):
        why = _why_closed(claim, verdict, records, design)
        own = (r for r in records if r.cell in claim.cells)
        found.append(
            Standing(
                claim=claim.id,
                verdict=verdict.verdict,
                n=verdict.n,
                is_open=not why,
                why=why,
                device_s=sum(r.device_s / sharing[r.cell] for r in own),
            )
        )
    return found


def next_allotment(
    claims: Sequence[Claim],
    verdicts: Sequence[Verdict],
    records: Sequence[TrialRecord],
    design: Sequential,
    *,
    is_trained: Callable[[str, int], bool] = lambda cell, seed: False,
) -> Allotment | None:
    """The next seed of the open claim that is decided for the least device time from here, going by
    its mean and spread; None where no claim is open.

    `is_trained`: whether the home has a cell at a seed from another launch, so that it costs
    nothing here.
    """
    cost_of = _costs(records)
    first = min((record.seed for record in records), default=0)
    nearest: tuple[float, Allotment] | None = None
    for claim, verdict in zip(claims, verdicts, strict=True):
        if _why_closed(claim, verdict, records, design):
            continue
        cells = _open_cells(claim, verdict)
        seed, missing = _next_seed(cells, records)
        needed = max(1, (verdict.seeds_for_80 or design.max_seeds) - verdict.n)
        begun = _seeds_of(cells, records)
        cost = 0.0
        for cell in cells:
            left = set(range(first, first + design.max_seeds)) - begun[cell]
            free = sum(is_trained(cell, s) for s in left)
            cost += max(0, needed - (cell not in missing) - free) * cost_of(cell)
        if nearest is None or cost < nearest[0]:
            nearest = cost, Allotment(claim=claim.id, cells=missing, seed=seed)
    return nearest[1] if nearest else None


def _why_closed(
    claim: Claim, verdict: Verdict, records: Sequence[TrialRecord], design: Sequential
) -> str:
    """Why a claim gets no more seeds; empty where it is open."""
    if verdict.verdict != "undecided":
        return verdict.verdict
    if isinstance(claim, Specialises) or verdict.estimate is None:
        return f"seeds do not decide it: {verdict.reason}"
    cells = _open_cells(claim, verdict)
    if not cells:
        return f"seeds do not decide it: {verdict.reason}"
    if min(len(seeds) for seeds in _seeds_of(cells, records).values()) >= design.max_seeds:
        return f"undecided at the design's {design.max_seeds} seeds"
    chance = verdict.power_at_end
    if verdict.n >= _SEEDS_TO_TELL and chance is not None and chance < FUTILE:
        return (
            f"futile: at this mean and spread {chance:.0%} of studies decide it by "
            f"{design.max_seeds} seeds"
        )
    return ""


def _open_cells(claim: Claim, verdict: Verdict) -> tuple[str, ...]:
    """Cells of those parts of a claim that are undecided and that seeds can decide."""
    return tuple(dict.fromkeys(_cells(claim, verdict)))


def _cells(claim: Claim, verdict: Verdict) -> Iterator[str]:
    if verdict.verdict != "undecided" or isinstance(claim, Specialises):
        return
    if isinstance(claim, LargerEffect):
        deciding = _deciding(verdict.parts)
        for other, part in zip(claim.than, verdict.parts, strict=True):
            if part.id in deciding and part.estimate is not None:
                yield from (*claim.effect.cells, *other.cells)
    elif isinstance(claim, All | Ordered):
        deciding = _deciding(verdict.parts)
        parts = claim.parts if isinstance(claim, All) else claim.steps
        for part, of_part in zip(parts, verdict.parts, strict=True):
            if part.id in deciding:
                yield from _cells(part, of_part)
    elif verdict.estimate is not None:
        yield from claim.cells


def _deciding(parts: Sequence[Verdict]) -> set[str]:
    """Of a compound's undecided parts the one that is likeliest to be refuted, if any leans there:
    as long as it does the others cannot have the compound supported, and it alone refutes it. Else
    all of them."""
    against = [part for part in parts if part.leans == "refuted"]
    if against:
        return {max(against, key=lambda part: part.power_at_end or 0.0).id}
    return {part.id for part in parts if part.verdict == "undecided"}


def _seeds_of(cells: Sequence[str], records: Sequence[TrialRecord]) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {cell: set() for cell in cells}
    for record in records:
        if record.cell in found:
            found[record.cell].add(record.seed)
    return found


def _next_seed(cells: Sequence[str], records: Sequence[TrialRecord]) -> tuple[int, tuple[str, ...]]:
    """The first seed, in the order of asking, that some of the cells have and others lack; else
    one that other cells have; else the least new one from the study's least on. And the cells that
    lack it."""
    begun = _seeds_of(cells, records)
    asked = list(dict.fromkeys(r.seed for r in sorted(records, key=lambda r: r.number)))
    lacking = {s: tuple(c for c in cells if s not in begun[c]) for s in asked}
    for seed, missing in lacking.items():
        if 0 < len(missing) < len(cells):
            return seed, missing
    for seed, missing in lacking.items():
        if missing:
            return seed, missing
    new = next(seed for seed in itertools.count(min(asked, default=0)) if seed not in lacking)
    return new, tuple(cells)


def _costs(records: Sequence[TrialRecord]):
    """Device seconds of a cell's trial, by its mean; of one without, by that of all."""
    spent: dict[str, list[float]] = {}
    for record in records:
        if record.state == "complete" and record.device_s:
            spent.setdefault(record.cell, []).append(record.device_s)
    means = {cell: statistics.fmean(values) for cell, values in spent.items()}
    default = statistics.fmean(means.values()) if means else 1.0
    return lambda cell: means.get(cell, default)
