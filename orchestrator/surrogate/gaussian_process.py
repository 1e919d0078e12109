"""A Gaussian process over the rows of `columns`: the sum of one that sees all groups of columns at
once and of one for each group by itself (additive, arXiv 1112.4394), Matern 5/2, with a weight for
each group. What an axis does whatever the others are is so learnt from all points, not from near
ones alone (`docs/log.md`, 2026-11-27).

Weights, scales and noise are the most probable ones under priors that expect smooth functions in
which more columns matter less each (arXiv 2402.02229). With tens of points and twenty columns a
likelihood alone overfits. It is our own since it foretells at least as well as BoTorch's on five of
seven problems, in a tenth to a thousandth of the time (`benchmarks/surrogate_fits.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import linalg, optimize, sparse
from threadpoolctl import ThreadpoolController

Array = np.ndarray

_LENGTH_SD = 1.0  # of the logarithm of a length, about the prior's own
_NOISE_MEAN, _NOISE_SD = np.log(1e-2), 2.0  # of log(noise variance / variance of the values)
_SCALE_MEAN, _SCALE_SD = np.log(0.5), 1.0  # of the logarithm of either scale: half of the variance
_JITTER = 1e-8

# Trials keep the driver's cores busy. On two such, the threads of a product of 200 rows wait for
# each other: a point took 35 s with two threads and 0.7 s with one (docs/log.md). It is found once
# numpy and scipy have loaded theirs.
_on_one_thread = ThreadpoolController().wrap(limits=1, user_api="blas")


@dataclass(frozen=True, kw_only=True)
class GaussianProcess:
    """Fitted to values of mean 0 and variance about 1; `noise` is the variance of one of them."""

    rows: Array  # (N, D)
    values: Array  # (N,)
    groups: Array  # (D,)
    weights: Array  # (G,): inverse squared lengths
    scale: float  # variance of what depends on all groups at once
    scale_alone: float  # of the sum of what depends on one group each
    noise: float

    @_on_one_thread
    def __post_init__(self) -> None:
        K = self._kernel(self.rows, self.rows)
        K[np.diag_indices_from(K)] += self.noise + _JITTER
        factor = linalg.cholesky(K, lower=True)
        object.__setattr__(self, "_factor", factor)
        object.__setattr__(self, "_alpha", linalg.cho_solve((factor, True), self.values))

    def _kernel(self, a: Array, b: Array) -> Array:
        num_groups = len(self.weights)
        root = np.sqrt(self.weights[self.groups])
        a, b = a * root, b * root
        K, squared = np.zeros((len(a), len(b))), np.zeros((len(a), len(b)))
        for group in range(num_groups):
            of_group = self.groups == group
            between = _squared_distances(a[:, of_group], b[:, of_group])
            squared += between
            K += self.scale_alone / num_groups * _matern(num_groups * between)
        return K + self.scale * _matern(squared)

    @_on_one_thread
    def predict(self, rows: Array) -> tuple[Array, Array]:
        """Mean and standard deviation (M,) of the function, without the noise of a value."""
        k = self._kernel(rows, self.rows)
        half = linalg.solve_triangular(self._factor, k.T, lower=True)
        variance = self.scale + self.scale_alone - (half**2).sum(0)
        return k @ self._alpha, np.sqrt(np.maximum(variance, 1e-12))

    @_on_one_thread
    def joint(self, rows: Array) -> tuple[Array, Array]:
        """Mean (M,) and covariance (M, M) of the function."""
        k = self._kernel(rows, self.rows)
        half = linalg.solve_triangular(self._factor, k.T, lower=True)
        return k @ self._alpha, self._kernel(rows, rows) - half.T @ half

    def with_pending(self, rows: Array) -> GaussianProcess:
        """The same, believing that points under way end as it predicts: they change no mean, and
        leave nothing to learn there (Kriging believer)."""
        if not len(rows):
            return self
        mean, _ = self.predict(rows)
        return GaussianProcess(
            rows=np.vstack([self.rows, rows]),
            values=np.concatenate([self.values, mean]),
            groups=self.groups,
            weights=self.weights,
            scale=self.scale,
            scale_alone=self.scale_alone,
            noise=self.noise,
        )


@_on_one_thread
def fitted(rows: Array, values: Array, groups: Array) -> GaussianProcess:
    """The most probable process of values (N,) of mean 0 and variance 1 at rows (N, D)."""
    pairs = _Pairs.of(rows, groups)
    # A group alone has a length sqrt(G) times shorter than beside all others.
    mean_log_weight = -2 * (np.log(0.5) + 0.5 * np.log(max(1, pairs.num_groups)))
    means = [mean_log_weight] * pairs.num_groups + [_SCALE_MEAN, _SCALE_MEAN, _NOISE_MEAN]
    sds = [2 * _LENGTH_SD] * pairs.num_groups + [_SCALE_SD, _SCALE_SD, _NOISE_SD]
    prior = np.array(means), np.array(sds)

    best = None
    bounds = [(-10.0, 8.0)] * pairs.num_groups + [(-6.0, 4.0)] * 2 + [(np.log(1e-6), np.log(2.0))]
    for noise in (_NOISE_MEAN, np.log(0.3)):
        found = optimize.minimize(
            lambda parameters: _negative_log_posterior(parameters, pairs, values, prior),
            np.array([*means[:-1], noise]),
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            options={"maxiter": 50},
        )
        if best is None or found.fun < best.fun:
            best = found
    scale, scale_alone, noise = np.exp(best.x[-3:])
    return GaussianProcess(
        rows=rows,
        values=values,
        groups=groups,
        weights=np.exp(best.x[:-3]),
        scale=float(scale),
        scale_alone=float(scale_alone),
        noise=float(noise),
    )


@dataclass(frozen=True, kw_only=True)
class _Pairs:
    """Every two of N rows, P pairs, by the U squared distances that occur in each group: few, where
    an axis has few values, so that what depends on one group is computed for these alone."""

    at: tuple[Array, Array]  # (P,), (P,): which two rows
    occurs: sparse.csr_array  # (P, U): a one for each group
    squared: Array  # (U,)
    group: Array  # (U,)
    num_groups: int

    @staticmethod
    def of(rows: Array, groups: Array) -> _Pairs:
        num_groups = int(groups.max()) + 1 if len(groups) else 0
        at = np.triu_indices(len(rows), 1)
        found, columns, first = [], [], 0
        for group in range(num_groups):
            of_group = rows[:, groups == group]
            between = _squared_distances(of_group, of_group)[at].round(12)
            distances, which = np.unique(between, return_inverse=True)
            found.append(distances)
            columns.append(first + which)
            first += len(distances)
        num_pairs = len(at[0])
        ones = np.ones(num_pairs * num_groups)
        indices = np.stack(columns, axis=1).ravel() if columns else np.zeros(0, dtype=int)
        starts = np.arange(num_pairs + 1) * num_groups
        return _Pairs(
            at=at,
            occurs=sparse.csr_array((ones, indices, starts), shape=(num_pairs, first)),
            squared=np.concatenate(found) if found else np.zeros(0),
            group=np.repeat(np.arange(num_groups), [len(each) for each in found]),
            num_groups=num_groups,
        )


def _squared_distances(a: Array, b: Array) -> Array:
    return np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1)[None, :] - 2 * a @ b.T, 0.0)


def _matern(squared: Array) -> Array:
    r = np.sqrt(5 * squared)
    return (1 + r + r * r / 3) * np.exp(-r)


def _matern_slope(squared: Array) -> Array:
    r = np.sqrt(5 * squared)
    return -5 / 6 * (1 + r) * np.exp(-r)


def _negative_log_posterior(
    parameters: Array, pairs: _Pairs, values: Array, prior: tuple[Array, Array]
) -> tuple[float, Array]:
    """And its gradient. The parameters are logarithms: of weights, of both scales, of the noise."""
    scale, scale_alone, noise = np.exp(parameters[-3:])
    weighted = np.exp(parameters[:-3])[pairs.group] * pairs.squared
    together, alone = pairs.occurs @ weighted, pairs.num_groups * weighted
    M, A = _matern(together), pairs.occurs @ _matern(alone) / max(1, pairs.num_groups)
    num = len(values)
    K = np.zeros((num, num))
    K[pairs.at] = scale * M + scale_alone * A
    K += K.T
    K[np.diag_indices(num)] = scale + scale_alone + noise + _JITTER
    try:
        factor = linalg.cholesky(K, lower=True)
    except linalg.LinAlgError:
        return 1e25, np.zeros_like(parameters)
    inverse = linalg.cho_solve((factor, True), np.eye(num))
    alpha = inverse @ values
    # d loss / d K, halved: 1/2 (K^-1 - alpha alpha^T); a pair stands in K twice
    slope = 0.5 * (inverse - np.outer(alpha, alpha))
    of_pairs, of_diagonal = 2 * slope[pairs.at], np.trace(slope)
    by_weighted = pairs.occurs.T @ (of_pairs * scale * _matern_slope(together))
    by_weighted += pairs.occurs.T @ of_pairs * scale_alone * _matern_slope(alone)
    gradient = np.empty_like(parameters)
    gradient[:-3] = np.bincount(pairs.group, by_weighted * weighted, pairs.num_groups)
    gradient[-3] = scale * (of_pairs @ M + of_diagonal)
    gradient[-2] = scale_alone * (of_pairs @ A + of_diagonal)
    gradient[-1] = noise * of_diagonal
    loss = 0.5 * values @ alpha + np.log(np.diag(factor)).sum()
    means, sds = prior
    off = (parameters - means) / sds
    return loss + 0.5 * (off**2).sum(), gradient + off / sds
