"""Power: how often a claim would be decided, were the difference and its spread as stated.

Of a fixed number of seeds it is exact: given the sample's standard deviation the mean is normal, so
the noncentral t, and both sides of an equivalence test (TOST), are one integral over the chi
distribution of that deviation. Of a sequential design it is simulated, with the test itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from scipy import special

from orchestrator.report import anytime

TARGET = 0.8
MAX_SEEDS = 1_000_000  # a claim that needs more than this will never be decided by seeds
_CHANCES = (np.arange(400) + 0.5) / 400
_FEW = 40
_PATHS = 2000
_VALUES = 4_000_000  # most that one simulation draws


def fixed_power(
    mean: float, sd: float, n: int, *, low: float, high: float, level: float
) -> tuple[float, float]:
    """Chances that t tests at n seeds find the mean inside (low, high), and outside.

    `mean` and `sd` are of one seed's (paired) difference. The tests are those of `region_p_values`.
    """
    if sd <= 0:
        inside = low < mean < high
        outside = mean < low or mean > high
        return float(inside), float(outside)
    bounds = math.isfinite(low) + math.isfinite(high)
    spread = sd / math.sqrt(n)
    error = spread * _relative_deviations(n - 1)

    def between(least: np.ndarray, most: np.ndarray) -> float:
        chance = special.ndtr((most - mean) / spread) - special.ndtr((least - mean) / spread)
        return float(np.mean(np.maximum(chance, 0.0)))

    one, two = (special.stdtrit(n - 1, 1 - level / sides) for sides in (1, 2))
    reach = (one if bounds == 2 else two) * error
    inside = between(low + reach, high - reach)
    return inside, 1 - between(low - two * error, high + two * error)


@lru_cache(maxsize=256)
def _relative_deviations(df: int) -> np.ndarray:
    """Equally likely values of sample over true standard deviation."""
    if df < _FEW:
        # chdtri is the inverse of the upper tail; the order of the nodes does not matter.
        return np.sqrt(special.chdtri(df, _CHANCES) / df)
    # Wilson and Hilferty (1931): the cube root of chi-square is close to normal.
    return (1 - 2 / (9 * df) + math.sqrt(2 / (9 * df)) * special.ndtri(_CHANCES)) ** 1.5


def sequential_power(
    mean: float,
    sd: float,
    max_seeds: int,
    *,
    low: float,
    high: float,
    level: float,
    prior_scale: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Chances to have found the mean inside, and outside, by n seeds: n from 2 to `max_seeds`.

    Simulated over 2,000 studies (fewer of more than 2,000 seeds), always the same ones.
    """
    paths = min(_PATHS, _VALUES // max_seeds)
    x = np.random.default_rng(0).standard_normal((paths, max_seeds)) * sd + mean
    inside, outside = anytime.region_p(x, low, high, prior_scale)
    return (inside <= level).mean(axis=0), (outside <= level).mean(axis=0)


def seeds_for(
    power_at: Callable[[int], float], *, target: float = TARGET, most: int = MAX_SEEDS
) -> int | None:
    """The smallest n of at least 2 with this power, which grows with n; None beyond `most`."""
    fails, holds = 1, min(2, most)
    while power_at(holds) < target:
        if holds == most:
            return None
        fails, holds = holds, min(2 * holds, most)
    while holds - fails > 1:
        middle = (fails + holds) // 2
        fails, holds = (fails, middle) if power_at(middle) >= target else (middle, holds)
    return holds
