"""A Gaussian process over the rows of `columns`: Matern 5/2, a weight for each group of columns.

Weights, scale and noise are the most probable ones under priors that expect smooth functions in
which more columns matter less each (arXiv 2402.02229). With tens of points and twenty columns a
likelihood alone overfits. It is our own since it foretells at least as well as BoTorch's on five of
seven problems, in a tenth to a thousandth of the time (`benchmarks/surrogate_fits.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import linalg, optimize
from threadpoolctl import ThreadpoolController

Array = np.ndarray

_LENGTH_SD = 1.0  # of the logarithm of a length, about the prior's own
_NOISE_MEAN, _NOISE_SD = np.log(1e-2), 2.0  # of log(noise variance / variance of the values)
_SCALE_SD = 1.0
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
    scale: float
    noise: float

    @_on_one_thread
    def __post_init__(self) -> None:
        K = self._kernel(self.rows, self.rows)
        K[np.diag_indices_from(K)] += self.noise + _JITTER
        factor = linalg.cholesky(K, lower=True)
        object.__setattr__(self, "_factor", factor)
        object.__setattr__(self, "_alpha", linalg.cho_solve((factor, True), self.values))

    def _kernel(self, a: Array, b: Array) -> Array:
        root = np.sqrt(self.weights[self.groups])
        a, b = a * root, b * root
        squared = (a**2).sum(1)[:, None] + (b**2).sum(1)[None, :] - 2 * a @ b.T
        return self.scale * _matern(np.maximum(squared, 0.0))

    @_on_one_thread
    def predict(self, rows: Array) -> tuple[Array, Array]:
        """Mean and standard deviation (M,) of the function, without the noise of a value."""
        k = self._kernel(rows, self.rows)
        half = linalg.solve_triangular(self._factor, k.T, lower=True)
        variance = self.scale - (half**2).sum(0)
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
            noise=self.noise,
        )


@_on_one_thread
def fitted(rows: Array, values: Array, groups: Array) -> GaussianProcess:
    """The most probable process of values (N,) of mean 0 and variance 1 at rows (N, D)."""
    num_groups = int(groups.max()) + 1 if len(groups) else 0
    distances = _distances(rows, groups, num_groups)
    mean_log_weight = -2 * (np.log(0.5) + 0.5 * np.log(max(1, num_groups)))

    def loss(parameters: Array) -> tuple[float, Array]:
        return _negative_log_posterior(parameters, distances, values, mean_log_weight)

    best = None
    bounds = [(-10.0, 8.0)] * num_groups + [(-4.0, 4.0), (np.log(1e-6), np.log(2.0))]
    for noise in (_NOISE_MEAN, np.log(0.3)):
        start = np.concatenate([np.full(num_groups, mean_log_weight), [0.0, noise]])
        found = optimize.minimize(
            loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 50}
        )
        if best is None or found.fun < best.fun:
            best = found
    return GaussianProcess(
        rows=rows,
        values=values,
        groups=groups,
        weights=np.exp(best.x[:num_groups]),
        scale=float(np.exp(best.x[-2])),
        noise=float(np.exp(best.x[-1])),
    )


def _distances(rows: Array, groups: Array, num_groups: int) -> Array:
    """Squared distances (G, N, N), a group each."""
    squared = (rows.T[:, :, None] - rows.T[:, None, :]) ** 2
    found = np.zeros((num_groups, len(rows), len(rows)))
    np.add.at(found, groups, squared)
    return found


def _matern(squared: Array) -> Array:
    r = np.sqrt(5 * squared)
    return (1 + r + r * r / 3) * np.exp(-r)


def _negative_log_posterior(
    parameters: Array, distances: Array, values: Array, mean_log_weight: float
) -> tuple[float, Array]:
    weights, scale, noise = np.exp(parameters[:-2]), np.exp(parameters[-2]), np.exp(parameters[-1])
    num = len(values)
    r = np.sqrt(5 * np.tensordot(weights, distances, 1))
    decay = np.exp(-r)
    M = (1 + r + r * r / 3) * decay
    K = scale * M
    K[np.diag_indices(num)] += noise + _JITTER
    try:
        factor = linalg.cholesky(K, lower=True)
    except linalg.LinAlgError:
        return 1e25, np.zeros_like(parameters)
    inverse = linalg.cho_solve((factor, True), np.eye(num))
    alpha = inverse @ values
    # d loss / d K, halved: 1/2 (K^-1 - alpha alpha^T)
    slope = 0.5 * (inverse - np.outer(alpha, alpha))
    by_squared = -scale * 5 / 6 * (1 + r) * decay * slope  # d K / d squared distance
    gradient = np.empty_like(parameters)
    gradient[:-2] = weights * np.tensordot(distances, by_squared, 2)
    gradient[-2] = scale * (slope * M).sum()
    gradient[-1] = noise * np.trace(slope)
    loss = 0.5 * values @ alpha + np.log(np.diag(factor)).sum()
    means = np.concatenate(
        [np.full(len(weights), mean_log_weight), [0.0, _NOISE_MEAN]],
    )
    sds = np.concatenate([np.full(len(weights), 2 * _LENGTH_SD), [_SCALE_SD, _NOISE_SD]])
    off = (parameters - means) / sds
    return loss + 0.5 * (off**2).sum(), gradient + off / sds
