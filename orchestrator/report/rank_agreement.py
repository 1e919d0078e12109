"""Whether what is good in one launch is good in another: Kendall's tau over the points that both
have, with an interval that holds for the few points that a rung of a ladder has.

The interval is of all values of tau under which the one seen is not among the outer 2.5% on either
side, for points of two normal variables: looked up by simulation, since with five points a
bootstrap mostly draws ties, and a normal approximation leaves the range. From `_MANY` points on
Fisher's z does (Fieller, Hartley and Pearson 1957).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from orchestrator.report.statistics import RankCorrelation, kendall_tau
from orchestrator.stores.trial_record import TrialRecord

LEAST = 3  # points in common, below which nothing is told
_MANY = 40
_DRAWS = 4000
_TRUE = np.linspace(-1, 1, 81)
_SAME = 1e-5  # taus of so few points lie further apart, or are the same but for rounding


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
    low, high = interval(round(found.tau, 6), found.n)
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


@lru_cache
def interval(tau: float, n: int) -> tuple[float, float]:
    """95%, of Kendall's tau over n points without ties."""
    if n > _MANY:
        z, half = math.atanh(min(max(tau, -1 + 1e-9), 1 - 1e-9)), 1.96 * math.sqrt(0.437 / (n - 4))
        return math.tanh(z - half), math.tanh(z + half)
    fitting = [true for true, taus in _simulated(n) if _is_usual(tau, taus)]
    return (min(fitting), max(fitting)) if fitting else (tau, tau)


def _is_usual(tau: float, taus: np.ndarray) -> bool:
    return min((taus >= tau - _SAME).mean(), (taus <= tau + _SAME).mean()) > 0.025


def _simulated(n: int) -> Iterator[tuple[float, np.ndarray]]:
    """By true tau, those of samples of n points; the same draws for all."""
    rng = np.random.default_rng(0)
    x_DN, e_DN = rng.standard_normal((2, _DRAWS, n))
    first, second = np.triu_indices(n, 1)
    x_DP = np.sign(x_DN[:, first] - x_DN[:, second])
    for true in _TRUE:
        rho = math.sin(math.pi / 2 * true)
        y_DN = rho * x_DN + math.sqrt(max(0.0, 1 - rho * rho)) * e_DN
        yield float(true), (x_DP * np.sign(y_DN[:, first] - y_DN[:, second])).mean(axis=1)
