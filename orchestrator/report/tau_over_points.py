"""The 95% interval of Kendall's tau over a sample of points, of which there may be few.

It has all values of tau under which the one seen is not among the outer 2.5% on either side, for
points of two normal variables: looked up by simulation, since with five points a bootstrap mostly
draws ties, and Fisher's z (Fieller, Hartley and Pearson 1957) leaves the range there and falls
short where tau is near 1: among 12 points it holds 0.9 in 80% of samples. Beyond `_MANY` points it
does. tests/report/test_tau_over_points.py holds both to the truth.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np

_MANY = 60
_DRAWS = 2000
_HALVINGS = 9  # of [-1, 1]: to 0.004
_SAME = 1e-5  # taus of so few points lie further apart, or are the same but for rounding


@lru_cache
def interval_over_points(tau: float, n: int) -> tuple[float, float]:
    """Of a tau over `n` points without ties."""
    if n > _MANY:
        z, half = math.atanh(min(max(tau, -1 + 1e-9), 1 - 1e-9)), 1.96 * math.sqrt(0.437 / (n - 4))
        return math.tanh(z - half), math.tanh(z + half)
    taus_under = _simulation(n)
    low = _edge(lambda true: (taus_under(true) >= tau - _SAME).mean() > 0.025)
    high = -_edge(lambda true: (taus_under(-true) <= tau + _SAME).mean() > 0.025)
    return min(low, tau), max(high, tau)


def _edge(holds: Callable[[float], bool]) -> float:
    """Where from -1 to 1 a condition begins to hold; -1 where it does there."""
    if holds(-1.0):
        return -1.0
    low, high = -1.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return low


def _simulation(n: int) -> Callable[[float], np.ndarray]:
    """Taus of samples of n points under a true one; the same draws for all."""
    rng = np.random.default_rng(0)
    x_DN, e_DN = rng.standard_normal((2, _DRAWS, n), dtype=np.float32)
    first, second = np.triu_indices(n, 1)
    x_DP = x_DN[:, first] > x_DN[:, second]

    def taus_under(true: float) -> np.ndarray:
        rho = math.sin(math.pi / 2 * true)
        y_DN = rho * x_DN + math.sqrt(max(0.0, 1 - rho * rho)) * e_DN
        agree_DP = x_DP == (y_DN[:, first] > y_DN[:, second])
        return 2 * agree_DP.mean(axis=1) - 1

    return taus_under
