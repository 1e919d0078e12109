"""Which of several points no other beats, and how much room they leave to improve: arithmetic over
rows of costs (N, M), of which less is better in every column."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Array = np.ndarray

_BEYOND = 0.1  # how far the reference point lies beyond what counts, so that an end of a front does


def non_dominated(costs: Array) -> Array:
    """(N,) whether no other row is as good in every column and better in one. Equal rows stand
    together."""
    kept: list[int] = []
    found = np.zeros(len(costs), dtype=bool)
    for i in np.lexsort(costs.T[::-1]):  # who comes later dominates no one before
        front = costs[kept]
        if not ((front <= costs[i]).all(1) & (front < costs[i]).any(1)).any():
            kept.append(int(i))
    found[kept] = True
    return found


def hypervolume(costs: Array, reference: Array) -> float:
    """Of the space that some row dominates, up to the reference point."""
    inside = costs[(costs < reference).all(1)]
    return _volume(inside[non_dominated(inside)], reference) if len(inside) else 0.0


def _volume(front: Array, reference: Array) -> float:
    """In slabs along the last column: within one, the rows that begin before it are a front of the
    others."""
    if front.shape[1] == 1:
        return float(reference[0] - front.min())
    front = front[np.argsort(front[:, -1], kind="stable")]
    ends = np.append(front[1:, -1], reference[-1])
    heights = ends - front[:, -1]
    return sum(
        float(height) * _volume(front[: i + 1, :-1], reference[:-1])
        for i, height in enumerate(heights)
        if height > 0
    )


def box_of(costs: Array, roofs: Sequence[float]) -> tuple[Array, Array]:
    """The best of each column, and the reference point: a tenth beyond the worst, or beyond the
    column's roof where that is nearer. Infinite costs do not count."""
    finite = [column[np.isfinite(column)] for column in costs.T]
    finite = [column if len(column) else np.zeros(1) for column in finite]
    best = np.array([column.min() for column in finite])
    worst = np.array([min(column.max(), roof) for column, roof in zip(finite, roofs, strict=True)])
    return best, worst + _BEYOND * (worst - best)
