"""Means, paired differences, tests of a region, and correction for many tests (docs/metrics.md).

A sample is one number a seed; every test here needs only its n, mean and standard deviation. Tests
that hold at every look are in `anytime`, how often tests decide is in `power`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special, stats


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over seeds. `sd`, `low` and `high` are None at one seed: it says nothing of spread."""

    n: int
    mean: float
    sd: float | None
    low: float | None
    high: float | None
    confidence: float


@dataclass(frozen=True, kw_only=True)
class RankCorrelation:
    """Kendall's tau-b over n cells; None where it is undefined (n < 2, or all tied).

    Its interval, where there is one, is over `seeds` seeds (`tau_interval`).
    """

    tau: float | None
    p_value: float | None
    n: int
    ci_low: float | None = None
    ci_high: float | None = None
    seeds: int = 0


def _sample(values: Iterable[float]) -> np.ndarray:
    x = np.asarray(list(values), dtype=np.float64)
    if x.size == 0:
        raise ValueError("this needs at least 1 value; received 0. Run more seeds.")
    _require_finite(enumerate(x))
    return x


def _require_finite(items: Iterable[tuple[object, float]]) -> None:
    for where, value in items:
        if not math.isfinite(value):
            raise ValueError(
                f"statistics need finite numbers; received {value} at {where!r}. "
                "Leave out the trial that diverged."
            )


def _check_level(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name} lies between 0 and 1; received {value!r}. 0.05 or 0.95 is usual.")


def _sd(x: np.ndarray) -> float:
    # The mean of equal numbers can differ from them in its last bit, and leave a spread of 1e-17.
    return 0.0 if np.ptp(x) == 0 else float(np.std(x, ddof=1))


def mean_interval(values: Iterable[float], *, confidence: float = 0.95) -> Estimate:
    """Mean with its t interval. Raises ValueError on no values and on NaN or infinity."""
    _check_level("confidence", confidence)
    values = list(values)
    if len(values) == 1:  # of 10,000 points of a search nearly every one
        _require_finite(enumerate(values))
        mean = float(values[0])
        return Estimate(n=1, mean=mean, sd=None, low=None, high=None, confidence=confidence)
    x = _sample(values)
    n, mean = x.size, float(np.mean(x))
    sd = _sd(x)
    half = float(special.stdtrit(n - 1, (1 + confidence) / 2)) * sd / math.sqrt(n)
    return Estimate(n=n, mean=mean, sd=sd, low=mean - half, high=mean + half, confidence=confidence)


def paired_differences(a: Mapping[int, float], b: Mapping[int, float]) -> dict[int, float]:
    """a minus b at each seed that both have, by seed; the number of pairs is its length.

    Raises ValueError naming the seed of a NaN or infinite value among the pairs.
    """
    seeds = sorted(a.keys() & b.keys())
    for values in (a, b):
        _require_finite((f"seed {seed}", values[seed]) for seed in seeds)
    return {seed: float(a[seed]) - float(b[seed]) for seed in seeds}


def _t(distance: float | np.ndarray, sd: float | np.ndarray, n: int) -> np.ndarray:
    """The t statistic, with its limit where the sample has no spread: infinite, or 0 at 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.asarray(distance) * math.sqrt(n) / np.asarray(sd)
    return np.where(np.isnan(t), 0.0, t)


def two_sided_p(
    mean: float | np.ndarray, sd: float | np.ndarray, n: int, *, null: float = 0.0
) -> np.ndarray:
    """p of the t test that the mean is `null` (paired, when given the differences' mean and sd)."""
    return 2 * special.stdtr(n - 1, -np.abs(_t(np.asarray(mean) - null, sd, n)))


def region_p_values(
    mean: float | np.ndarray, sd: float | np.ndarray, n: int, *, low: float, high: float
) -> tuple[np.ndarray, np.ndarray]:
    """p-values for "the mean is inside (low, high)" and for "it is outside".

    Inside: with two finite bounds the two one-sided tests (TOST; Schuirmann 1987), with one the
    two-sided t test. Outside: two-sided. So (-inf, 0) is "a is below b", (-m, m) is equivalence.
    At most one of the two can be below 0.5.
    """
    above_low, below_high = _t(np.asarray(mean) - low, sd, n), _t(high - np.asarray(mean), sd, n)
    bounds = math.isfinite(low) + math.isfinite(high)
    worst = np.minimum(above_low, below_high)
    inside = (1 if bounds == 2 else 2) * special.stdtr(n - 1, -worst)
    outside = 2 * special.stdtr(n - 1, worst)
    return np.minimum(inside, 1.0), np.minimum(outside, 1.0)


def _check_p_values(p_values: Sequence[float]) -> np.ndarray:
    p = np.asarray(p_values, dtype=np.float64)
    for i, value in enumerate(p):
        if not 0 <= value <= 1:
            raise ValueError(f"a p-value lies in [0, 1]; received {value} at {i}. Use 1 for none.")
    return p


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p-values, in the order given: decided where at most alpha."""
    p = _check_p_values(p_values)
    order = np.argsort(p, kind="stable")
    factors = np.arange(p.size, 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * p[order]), 1.0)
    return adjusted.tolist()


def holm_levels(p_values: Sequence[float], *, alpha: float = 0.05) -> list[float]:
    """The level at which Holm tests each: alpha / (m - decided before it), in the order given.

    The first that fails its level stops the procedure; all after it share its level. A claim is
    decided exactly where its p is at most its level, so an interval at 1 - level shows the same.
    """
    _check_level("alpha", alpha)
    p = _check_p_values(p_values)
    levels, decided, going = np.empty_like(p), 0, True
    for i in np.argsort(p, kind="stable"):
        levels[i] = alpha / (p.size - decided)
        going = going and p[i] <= levels[i]
        decided += going
    return levels.tolist()


def kendall_tau(ours: Mapping[str, float], published: Mapping[str, float]) -> RankCorrelation:
    """Kendall's tau-b over the cells that both have, with its p-value against no association."""
    cells = sorted(ours.keys() & published.keys())
    for values in (ours, published):
        _require_finite((cell, values[cell]) for cell in cells)
    x, y = ([values[cell] for cell in cells] for values in (ours, published))
    if len(set(x)) < 2 or len(set(y)) < 2:
        return RankCorrelation(tau=None, p_value=None, n=len(cells))
    result = stats.kendalltau(x, y)
    return RankCorrelation(tau=float(result.statistic), p_value=float(result.pvalue), n=len(cells))


def tau_interval(
    values: Mapping[str, Mapping[int, float]], published: Mapping[str, float], *, draws: int = 2000
) -> tuple[float, float, int] | None:
    """The 95% percentile interval of Kendall's tau-b under resampling of seeds, and their number.

    A draw takes seeds with replacement, the same for all cells, since a seed's cells are paired.
    None under two seeds that all the cells have, or where no order is defined.
    """
    cells = sorted(values.keys() & published.keys())
    shared = sorted(set.intersection(*(set(values[cell]) for cell in cells))) if cells else []
    if len(shared) < 2:
        return None
    value_CS = np.array([[values[cell][seed] for seed in shared] for cell in cells])
    drawn = np.random.default_rng(0).integers(len(shared), size=(draws, len(shared)))
    mean_CD = value_CS[:, drawn].mean(axis=2)
    first, second = np.triu_indices(len(cells), 1)
    ours_PD = np.sign(mean_CD[first] - mean_CD[second])
    theirs = np.array([published[cell] for cell in cells])
    theirs_P = np.sign(theirs[first] - theirs[second])
    untied = np.sqrt((ours_PD != 0).sum(axis=0) * (theirs_P != 0).sum())
    if not untied.all():
        return None
    low, high = np.quantile((ours_PD * theirs_P[:, None]).sum(axis=0) / untied, (0.025, 0.975))
    return float(low), float(high), len(shared)
