"""Costs on a scale on which the good end is told apart and the bad end still counts for what it is.

The trials of a search crowd about its best, and lie far from it elsewhere (a rate too high, a
router that does not learn). Up to the third quartile's distance from the best the scale is about
linear, beyond it logarithmic, so that a process over it is smooth at both ends; what it says is
told in the costs' own unit again (warped Gaussian processes, Snelson et al. 2003).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Array = np.ndarray

_LINEAR = 0.75  # the share of trials up to which the scale is about linear


@dataclass(frozen=True, kw_only=True)
class Warp:
    """`best` is the least cost, `unit` the distance from it at which the scale turns logarithmic;
    `mean` and `sd` are those of the costs on the scale."""

    best: float
    unit: float
    mean: float
    sd: float

    def __call__(self, costs: Array) -> Array:
        """Mean 0 and variance 1 over the costs that it was made of."""
        return (np.log1p((costs - self.best) / self.unit) - self.mean) / self.sd

    def above_best(self, values: Array) -> Array:
        """What each value of the scale costs more than the best; below it the scale is linear."""
        logs = values * self.sd + self.mean
        return self.unit * np.where(logs > 0, np.expm1(np.maximum(logs, 0)), logs)


def warp_of(costs: Array) -> Warp | None:
    """Of finite costs; None where all are the same."""
    best = float(costs.min())
    unit = float(np.quantile(costs, _LINEAR)) - best or float(costs.std())
    if unit == 0:
        return None
    logs = np.log1p((costs - best) / unit)
    return Warp(best=best, unit=unit, mean=float(logs.mean()), sd=float(logs.std()))
