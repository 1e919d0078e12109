"""How probable it is that a point satisfies the constraints of a search: a Gaussian process of each
(Gardner et al. 2014).

An excess over a bound may go over decades (no dead expert, or a hundred): it is compressed on both
sides of its bound (bilog, arXiv 2002.08526), where the sign keeps its meaning. Counts lie on their
bound where they satisfy it, so that the process asks whether a point is on the side of those that
do: it is set against the middle between the last that satisfies and the first that violates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from orchestrator.surrogate.gaussian_process import GaussianProcess, fitted

Array = np.ndarray


@dataclass(frozen=True, kw_only=True)
class Bound:
    """A process of one constraint's excess; at most `limit` satisfies it."""

    process: GaussianProcess
    limit: float

    def log_probability(self, rows: Array) -> Array:
        mean, sd = self.process.predict(rows)
        return special.log_ndtr((self.limit - mean) / sd)


def bound_of(rows: Array, excess: Array, groups: Array) -> Bound | None:
    """From excesses (N,) at rows (N, D); None where they are all the same, which tells nothing."""
    sizes = np.abs(excess[excess != 0])
    scaled = excess / np.median(sizes) if len(sizes) else excess
    told = np.sign(scaled) * np.log1p(np.abs(scaled))
    sd = told.std()
    if sd == 0:
        return None
    kept, broken = told[excess <= 0], told[excess > 0]
    limit = (kept.max() + broken.min()) / 2 if len(kept) and len(broken) else 0.0
    standard = (told - told.mean()) / sd
    return Bound(process=fitted(rows, standard, groups), limit=float(limit - told.mean()) / sd)


def log_feasibility(bounds: Sequence[Bound], rows: Array) -> Array:
    """(M,): of all constraints together, each by itself."""
    return sum((bound.log_probability(rows) for bound in bounds), np.zeros(len(rows)))
