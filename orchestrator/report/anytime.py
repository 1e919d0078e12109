"""The t test and interval that stay valid however often the seeds are looked at.

Seeds x_1, x_2, ... are normal with an unknown mean and an unknown spread sigma. Against "the mean
is m" stands "(mean - m) / sigma is drawn from N(0, prior_scale^2)"; sigma has the right-Haar prior,
1 / sigma, on both sides. The ratio of the two marginal likelihoods is a test martingale of what the
scale of the data does not change (Lai 1976; Wang and Ramdas, arXiv 2310.03722, theorem 4.7 with c =
1 / prior_scale), so by Ville's inequality it exceeds 1 / alpha at some n, of all n, with a
probability of at most alpha. With k = 1 + n prior_scale^2 and t^2 = (mean - m)^2 / (biased
variance),

    e_n = k^(-1/2) ((1 + t^2) / (1 + t^2 / k))^(n / 2).

One-sided, with the positive half of the prior, it is 2 e_n P(T <= z) for a Student T of n degrees
of freedom, the posterior probability that the effect is positive (derived in `log_e`). It grows
with the mean at a fixed spread, so data whose mean lies below m make no e value larger than data
shifted up to m would: it holds for "the mean is at most m" as well.

A p-value is 1 / max e over the looks so far. The confidence sequence holds the m that no look
rejected. Samples lie along the last axis, in the order in which the seeds were asked for, which no
value may have changed; what is said after each look, from two seeds on, lies along it as well.
"""

from __future__ import annotations

import numpy as np
from scipy import special

Array = np.ndarray
_BISECTIONS = 60


def running_moments(x: Array) -> tuple[Array, Array, Array]:
    """n, mean and standard deviation (ddof 1) of the first n values, for n from 2 on.

    x (..., N); the mean and the deviation are (..., N - 1), n is (N - 1,).
    """
    x = np.asarray(x, dtype=np.float64)
    n = np.arange(1, x.shape[-1] + 1)
    first = x[..., :1]  # subtracted, so that a small spread about a large mean is not lost
    mean = np.cumsum(x - first, axis=-1) / n
    squares = np.cumsum((x - first) ** 2, axis=-1)
    centred = np.maximum(squares - n * mean**2, 0)[..., 1:]
    # Equal values are to have no spread, whatever their last bits say.
    size = np.maximum.accumulate(np.abs(x - first), axis=-1)[..., 1:]
    variance = np.where(size == 0, 0.0, centred / np.maximum(n[1:] - 1, 1))
    return n[1:], (mean + first)[..., 1:], np.sqrt(variance)


def log_e(
    distance: Array | float,
    sd: Array | float,
    n: Array | int,
    prior_scale: float,
    *,
    one_sided: bool = False,
) -> Array:
    """Logarithm of e against "the mean is m"; `one_sided`: against "it is at most m".

    `distance` is mean - m, `sd` has ddof 1, n is at least 2. All broadcast.

    The posterior of (effect, 1 / sigma^2) behind the one-sided kind: the effect given sigma is
    normal about sum(x - m) / (sigma (n + c^2)) with variance 1 / (n + c^2), and B / sigma^2 is
    chi-square of n degrees of freedom, B = sum((x - m)^2) - sum(x - m)^2 / (n + c^2); so the effect
    is positive with the probability that a Student T of n degrees lies below z.
    """
    distance, n = np.asarray(distance, dtype=np.float64), np.asarray(n)
    k = 1 + n * prior_scale**2
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        t = distance / (np.asarray(sd) * np.sqrt((n - 1) / n))
        t = np.where(np.isnan(t), 0.0, t)  # no spread, and no distance
        squared = t * t
        growth = np.log1p(squared) - np.log1p(squared / k)
        z = t * np.sqrt(n * (k - 1) / k) / np.sqrt(1 + squared / k)
    # The limits of a sample without spread: the most that n values can say.
    growth = np.where(np.isinf(squared), np.log(k), growth)
    both = -0.5 * np.log(k) + n / 2 * growth
    if not one_sided:
        return both
    z = np.where(np.isinf(squared), np.sign(t) * n * prior_scale, z)
    with np.errstate(divide="ignore"):
        return both + np.log(2) + np.log(special.stdtr(n, z))


def two_sided_p(x: Array, null: float, prior_scale: float) -> tuple[Array, Array]:
    """p for "the mean is above `null`" and for "it is below", from one two-sided test."""
    n, mean, sd = running_moments(x)
    both = log_e(mean - null, sd, n, prior_scale)
    return _p(np.where(mean > null, both, 0.0)), _p(np.where(mean < null, both, 0.0))


def above_p(x: Array, null: float, prior_scale: float) -> Array:
    """p for "the mean is above `null`", from a one-sided test."""
    n, mean, sd = running_moments(x)
    return _p(log_e(mean - null, sd, n, prior_scale, one_sided=True))


def one_sided_p(x: Array, null: float, prior_scale: float) -> tuple[Array, Array]:
    """p for "the mean is above `null`" and for "it is below", each from a test of its own."""
    return above_p(x, null, prior_scale), above_p(-np.asarray(x), -null, prior_scale)


def region_p(x: Array, low: float, high: float, prior_scale: float) -> tuple[Array, Array]:
    """p for "the mean lies in (low, high)" and for "it lies outside", as `region_p_values` of a
    fixed number of seeds: one bound is tested on both sides, two bounds by one-sided tests each."""
    x = np.asarray(x)
    above_low, below_low = _sides(x, low, prior_scale)
    above_high, below_high = _sides(x, high, prior_scale)
    outside = np.minimum(below_low, above_high)
    if np.isinf(low) or np.isinf(high):
        return np.maximum(above_low, below_high), outside
    inside = np.maximum(above_p(x, low, prior_scale), above_p(-x, -high, prior_scale))
    return inside, outside


def _sides(x: Array, bound: float, prior_scale: float) -> tuple[Array, Array]:
    if np.isfinite(bound):
        return two_sided_p(x, bound, prior_scale)
    inner, outer = np.zeros(x.shape[-1] - 1), np.ones(x.shape[-1] - 1)  # all lies on its one side
    return (inner, outer) if bound < 0 else (outer, inner)


def radius(n: Array | int, alpha: float, prior_scale: float) -> Array:
    """Distance from the mean at which e reaches 1 / alpha, in standard deviations (ddof 1).

    Infinite while n seeds cannot reach it, whatever they say.
    """
    n = np.asarray(n, dtype=np.float64)
    k = 1 + n * prior_scale**2
    ratio = k ** (1 / n) * alpha ** (-2 / n)
    with np.errstate(divide="ignore", invalid="ignore"):
        squared = np.where(ratio < k, (ratio - 1) / (1 - ratio / k), np.inf)
    return np.sqrt(squared * (n - 1) / n)


def one_sided_radius(n: Array | int, alpha: float, prior_scale: float) -> Array:
    """As `radius`, for the one-sided e value. It lies between the radii at 2 alpha and at alpha."""
    n = np.asarray(n, dtype=np.float64)
    least, most = radius(n, 2 * alpha, prior_scale), radius(n, alpha, prior_scale)
    low, high = np.where(np.isinf(least), 0.0, least), np.where(np.isinf(most), 1e12, most)
    for _ in range(_BISECTIONS):
        middle = np.where(np.isinf(most), np.sqrt(np.maximum(low, 1e-6) * high), (low + high) / 2)
        reached = log_e(middle, 1.0, n, prior_scale, one_sided=True) >= -np.log(alpha)
        low, high = np.where(reached, low, middle), np.where(reached, middle, high)
    reachable = log_e(np.inf, 1.0, n, prior_scale, one_sided=True) > -np.log(alpha)
    return np.where(reachable, high, np.inf)


def confidence_sequence(
    x: Array, alpha: float, prior_scale: float, *, one_sided: bool = False
) -> tuple[Array, Array]:
    """The interval after each look: what every look so far left. (That look's own, should they
    leave nothing, which happens with a probability of less than alpha.)

    It holds the mean at all looks at once with a probability of at least 1 - alpha; of
    `one_sided` bounds each does by itself, which is the interval that shows two one-sided tests.
    """
    n, mean, sd = running_moments(x)
    reach = (one_sided_radius if one_sided else radius)(n, alpha, prior_scale)
    with np.errstate(invalid="ignore"):
        half = np.where(np.isinf(reach), np.inf, reach * sd)
    lows, highs = mean - half, mean + half
    low = np.maximum.accumulate(lows, axis=-1)
    high = np.minimum.accumulate(highs, axis=-1)
    return np.where(low > high, lows, low), np.where(low > high, highs, high)


def _p(log_e_values: Array) -> Array:
    return np.exp(-np.maximum(np.maximum.accumulate(log_e_values, axis=-1), 0.0))
