"""Whether what is good in one launch is good in another: Kendall's tau over the points that both
have."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from orchestrator.report.statistics import RankCorrelation, kendall_tau
from orchestrator.report.tau_over_points import interval_over_points
from orchestrator.stores.trial_record import TrialRecord

LEAST = 3  # points in common, below which nothing is told


def rank_agreement(
    ours: Iterable[TrialRecord], theirs: Iterable[TrialRecord]
) -> RankCorrelation | None:
    """Over points that are complete in both launches, each at the mean of its seeds; None where
    they are fewer than LEAST. Losses of different size are no matter: only order counts."""
    a, b = _means(ours), _means(theirs)
    if len(a.keys() & b.keys()) < LEAST:
        return None
    found = kendall_tau(a, b)
    if found.tau is None:
        return None
    low, high = interval_over_points(round(found.tau, 6), found.n)
    return replace(found, ci_low=low, ci_high=high)


def agreement_text(found: RankCorrelation) -> str:
    return (
        f"Kendall's tau {found.tau:.2f} [{found.ci_low:.2f}, {found.ci_high:.2f}] over the "
        f"{found.n} points that both ran"
    )


def _means(records: Iterable[TrialRecord]) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for record in records:
        if record.state == "complete" and not record.is_older:
            values.setdefault(_point(record.params), []).append(record.value)
    return {point: statistics.fmean(of) for point, of in values.items()}


def _point(params: Mapping[str, Any]) -> str:
    return repr(sorted(params.items()))
