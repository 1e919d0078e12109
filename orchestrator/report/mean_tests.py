"""The ways in which a claim's sample of seeds is tested, each under one interface.

A sample is a number a seed, in the order in which the seeds were asked for. `FixedT` and `Wilcoxon`
look once; `AnytimeT` and `SignBets` hold at every look. The two on the right of each pair are told
nothing by how far off a seed is: they check the others where a seed has collapsed.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
from scipy import special, stats

from orchestrator.report import anytime
from orchestrator.report.power import fixed_power, sequential_power
from orchestrator.report.statistics import mean_interval, region_p_values
from orchestrator.study.design import Design, Sequential

BothP = tuple[float, float]  # p for "the claim holds", p for "its contrary holds"
# Chances to decide for it and against it, at n seeds and a level.
Power = Callable[[int, float], BothP]


class SidedTest(ABC):
    """A test of where the middle of a sample of at least two seeds lies."""

    @abstractmethod
    def two_sided(self, sample: np.ndarray, null: float) -> BothP:
        """p for "it is above `null`" and for "below": one test, counted for the side it shows."""

    @abstractmethod
    def one_sided(self, sample: np.ndarray, null: float) -> BothP:
        """The same, each by a test of its own."""

    def region(self, sample: np.ndarray, low: float, high: float) -> BothP:
        """p for "inside (low, high)" and for "outside". Inside: two one-sided tests (TOST;
        Schuirmann 1987) where both bounds are finite, the two-sided test where one is. Outside:
        two-sided."""
        finite = [bound for bound in (low, high) if math.isfinite(bound)]
        test = self.one_sided if len(finite) == 2 else self.two_sided
        inside = max(test(sample, bound)[bound == high] for bound in finite)
        outside = min(self.two_sided(sample, bound)[bound == low] for bound in finite)
        return inside, outside


class TTest(SidedTest):
    """A test of the mean, with an interval and a power."""

    @abstractmethod
    def interval(self, sample: np.ndarray, alpha: float, *, one_sided: bool) -> BothP:
        """The bounds that belong to the two-sided test at `alpha`, or to a one-sided one each."""

    @abstractmethod
    def power(self, mean: float, sd: float, low: float, high: float) -> Power:
        """Of `region`, were a seed's value normal with this mean and deviation."""


class FixedT(TTest):
    def two_sided(self, sample: np.ndarray, null: float) -> BothP:
        return self.region(sample, null, math.inf)

    def one_sided(self, sample: np.ndarray, null: float) -> BothP:
        above, below = self.two_sided(sample, null)
        return (above / 2, 1 - above / 2) if above < below else (1 - below / 2, below / 2)

    def region(self, sample: np.ndarray, low: float, high: float) -> BothP:
        found = mean_interval(sample)
        inside, outside = region_p_values(found.mean, found.sd, found.n, low=low, high=high)
        return float(inside), float(outside)

    def interval(self, sample: np.ndarray, alpha: float, *, one_sided: bool) -> BothP:
        found = mean_interval(sample, confidence=1 - (2 if one_sided else 1) * alpha)
        return found.low, found.high

    def power(self, mean: float, sd: float, low: float, high: float) -> Power:
        return lambda n, level: fixed_power(mean, sd, n, low=low, high=high, level=level)


class AnytimeT(TTest):
    def __init__(self, design: Sequential) -> None:
        self._prior_scale, self._max_seeds = design.prior_scale, design.max_seeds

    def two_sided(self, sample: np.ndarray, null: float) -> BothP:
        return _last(anytime.two_sided_p(sample, null, self._prior_scale))

    def one_sided(self, sample: np.ndarray, null: float) -> BothP:
        return _last(anytime.one_sided_p(sample, null, self._prior_scale))

    def region(self, sample: np.ndarray, low: float, high: float) -> BothP:
        return _last(anytime.region_p(sample, low, high, self._prior_scale))

    def interval(self, sample: np.ndarray, alpha: float, *, one_sided: bool) -> BothP:
        return _last(
            anytime.confidence_sequence(sample, alpha, self._prior_scale, one_sided=one_sided)
        )

    def power(self, mean: float, sd: float, low: float, high: float) -> Power:
        """Simulated; beyond the design's seeds it stays what it is at the last of them."""
        known: dict[float, tuple[np.ndarray, np.ndarray]] = {}

        def at(n: int, level: float) -> BothP:
            if level not in known:
                known[level] = sequential_power(
                    mean,
                    sd,
                    self._max_seeds,
                    low=low,
                    high=high,
                    level=level,
                    prior_scale=self._prior_scale,
                )
            inside, outside = known[level]
            look = min(n, self._max_seeds) - 2
            return float(inside[look]), float(outside[look])

        return at


class Wilcoxon(SidedTest):
    """The signed-rank test (Wilcoxon 1945), exact for small samples: a seed's rank, not its
    value."""

    def two_sided(self, sample: np.ndarray, null: float) -> BothP:
        above, below = self.one_sided(sample, null)
        return min(1.0, 2 * above), min(1.0, 2 * below)

    def one_sided(self, sample: np.ndarray, null: float) -> BothP:
        distances = np.asarray(sample) - null
        if not distances.any():
            return 1.0, 1.0
        above, below = (
            float(stats.wilcoxon(distances, alternative=side).pvalue)
            for side in ("greater", "less")
        )
        return above, below


class SignBets(SidedTest):
    """Bets on the side of each seed, its chance under a uniform prior: an e-process of the median.

    Against "a seed lies above `null` with a chance of at most a half" the likelihood ratio of k of
    n above is 2^n B(k + 1, n - k + 1); with the prior on chances above a half it grows with k, and
    so holds for all chances of at most a half.
    """

    def two_sided(self, sample: np.ndarray, null: float) -> BothP:
        n, above = self._counts(sample, null)
        log_e = n * math.log(2) + special.betaln(above + 1, n - above + 1)
        return (
            _p(np.where(above > n - above, log_e, 0.0)),
            _p(np.where(above < n - above, log_e, 0.0)),
        )

    def one_sided(self, sample: np.ndarray, null: float) -> BothP:
        n, above = self._counts(sample, null)
        log_e = (n + 1) * math.log(2) + special.betaln(above + 1, n - above + 1)
        share = special.betainc(above + 1, n - above + 1, 0.5)  # of the posterior, below a half
        with np.errstate(divide="ignore"):
            return _p(log_e + np.log1p(-share)), _p(log_e + np.log(share))

    @staticmethod
    def _counts(sample: np.ndarray, null: float) -> tuple[np.ndarray, np.ndarray]:
        apart = np.asarray(sample)[np.asarray(sample) != null]
        return np.arange(apart.size + 1), np.concatenate([[0], np.cumsum(apart > null)])


def tests_of(design: Design) -> tuple[TTest, SidedTest]:
    """The test of a design, and the one that it is checked by where seeds have collapsed."""
    if isinstance(design, Sequential):
        return AnytimeT(design), SignBets()
    return FixedT(), Wilcoxon()


def _p(log_e: np.ndarray) -> float:
    return math.exp(-max(float(log_e.max(initial=0.0)), 0.0))


def _last(both: tuple[np.ndarray, np.ndarray]) -> BothP:
    return float(both[0][..., -1]), float(both[1][..., -1])
