"""Which cells are worth their FLOPs, or their active parameters: those that no other cell beats at
the same cost or less.

Means over the most seeds are compared: one over fewer (a seed failed, or has yet to run) is on no
front, and none that violates a constraint.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from moe.metrics import describe
from orchestrator.base.home import Home
from orchestrator.report.figure_data import tokens_per_step
from orchestrator.report.judge import counted
from orchestrator.stores.trial_record import FLOPS_PER_TOKEN, PARAMS_ACTIVE, TrialRecord

Cost = Literal["flops", "active"]
NAMES: dict[Cost, str] = {"flops": "training FLOPs", "active": "active parameters"}


@dataclass(frozen=True, kw_only=True)
class ParetoPoint:
    """A cell's mean over `n` seeds, the training FLOPs of one of its trials, and the parameters
    that a token meets.

    The front is of its corpus, where a launch has several.
    """

    cell: str
    n: int
    value: float
    flops: float
    active: int
    on_front: bool
    corpus: str | None = None
    violates: bool = False

    def spends(self, cost: Cost) -> float:
        return getattr(self, cost)


def pareto_points(
    records: Sequence[TrialRecord], home: Home, *, metric: str, against: Cost = "flops"
) -> list[ParetoPoint]:
    """Cells with a complete trial, the cheapest first, in the metric's own better direction.

    FLOPs are of the training that a result stands for, also where it was paid for in another
    launch. A cell whose batch, FLOPs or parameters are not known is left out.
    """
    groups: dict[str, list[TrialRecord]] = {}
    for record in counted(records):
        groups.setdefault(record.cell_hash, []).append(record)
    points = [
        ParetoPoint(
            cell=group[-1].cell,
            n=len({r.seed for r in group}),
            value=sum(r.final for r in group) / len(group),
            flops=tokens * group[-1].attributes[FLOPS_PER_TOKEN],
            active=group[-1].attributes[PARAMS_ACTIVE],
            on_front=False,
            corpus=group[-1].corpus,
            violates=any(r.violates for r in group),
        )
        for group in groups.values()
        if {FLOPS_PER_TOKEN, PARAMS_ACTIVE} <= group[-1].attributes.keys()
        and (tokens := _trained_tokens(group, home)) is not None
    ]
    cost = describe(metric).cost
    points.sort(key=lambda point: (point.spends(against), cost(point.value)))
    most: dict[str | None, int] = {}
    for point in points:
        most[point.corpus] = max(point.n, most.get(point.corpus, 0))
    best: dict[str | None, float] = {}
    marked = []
    for point in points:
        whole = point.n == most[point.corpus] and not point.violates
        least = best.get(point.corpus, math.inf)
        marked.append(replace(point, on_front=whole and cost(point.value) < least))
        if whole:
            best[point.corpus] = min(least, cost(point.value))
    return marked


def _trained_tokens(group: Sequence[TrialRecord], home: Home) -> float | None:
    per_step = tokens_per_step(group, home)
    steps = max((max(r.curve) for r in group if r.curve), default=None)
    return None if per_step is None or steps is None else per_step * steps
