"""Which points of a launch violate its constraints: judged by the mean over a point's seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from orchestrator.stores.trial_record import TrialRecord
from orchestrator.study.constraints import Constraint


def excesses(metrics: Mapping[str, float], constraints: Sequence[Constraint]) -> list[float]:
    """By how much a trial's own final metrics violate each, as Optuna has it: 0 and less do not.
    What the run does not have is at the bound."""
    return [c.excess(metrics[c.metric]) if c.metric in metrics else 0.0 for c in constraints]


def means_of(records: Iterable[TrialRecord], constraints: Sequence[Constraint]) -> dict[str, float]:
    """Of trials of one point, the mean of each constrained metric over those that have it."""
    metrics = [record.metrics for record in records]
    found = {c.metric: [m[c.metric] for m in metrics if c.metric in m] for c in constraints}
    return {metric: fmean(values) for metric, values in found.items() if values}


def violated(means: Mapping[str, float], constraints: Sequence[Constraint]) -> str:
    """What a point violates, with its mean there; empty where it violates nothing."""
    return ", ".join(
        f"{c.metric} {means[c.metric]:.4g}, {c.bound}"
        for c in constraints
        if c.metric in means and c.excess(means[c.metric]) > 0
    )


def means_by_point(
    records: Iterable[TrialRecord], constraints: Sequence[Constraint]
) -> dict[tuple[str, str], dict[str, float]]:
    """By `point_of`, over its complete trials."""
    groups: dict[tuple[str, str], list[TrialRecord]] = {}
    if constraints:
        for record in records:
            if record.state == "complete":
                groups.setdefault(point_of(record), []).append(record)
    return {point: means_of(group, constraints) for point, group in groups.items()}


def point_of(record: TrialRecord) -> tuple[str, str]:
    """Seeds that are pooled: those of one configuration, trained by one code."""
    return record.cell_hash, record.code


def marked(records: Iterable[TrialRecord], constraints: Sequence[Constraint]) -> list[TrialRecord]:
    """The trials; a complete one of a point that violates a constraint says so."""
    records = list(records)
    if not constraints:
        return records
    means = means_by_point(records, constraints)
    said = {point: violated(of_point, constraints) for point, of_point in means.items()}
    return [
        replace(r, violates=said[point_of(r)] if r.state == "complete" else "") for r in records
    ]
