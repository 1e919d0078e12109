"""Loss over size and granularity together: the law of arXiv 2402.07871, in FLOPs.

    L(C, G) = E + (A + B G^-gamma) C^-alpha,    E, A, B >= 0

There it is c + (g G^-gamma + a) N^-alpha + b D^-beta, over parameters and tokens; sizes here vary
in one number, the FLOPs C of a trial, as in `orchestrator.report.scaling`. For each alpha and gamma
of a grid E, A and B are linear, so that no starting point decides what is found.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import nnls

FORM = "L(C, G) = E + (A + B G^-gamma) C^-alpha, C in training FLOPs of a trial (arXiv 2402.07871)"
AXIS = "moe.granularity"
LEAST_GRAINS = 3
Point = tuple[float, float, float]  # FLOPs, granularity, mean loss
# What makes budgets equal again where experts are cut, and names the trial: no choice of its own.
_FOLLOWS = (AXIS, "moe.d_expert", "model.ffn_multiple", "train.seed")
_ALPHAS, _GAMMAS = np.linspace(0.01, 1.0, 34), np.linspace(0.05, 3.0, 30)
_EDGES = (2.5, 97.5)
_ROUNDS = 3  # each over a finer grid around the best of the one before


@dataclass(frozen=True, kw_only=True)
class GranularityLaw:
    """`cells` were fitted; A and B are in units of FLOPs^alpha. Bounds are None where a size has
    one seed."""

    cells: tuple[str, ...]
    e: float
    a: float
    b: float
    alpha: float
    gamma: float
    alpha_bounds: tuple[float, float] | None = None
    gamma_bounds: tuple[float, float] | None = None


def cells_that_differ_in_grain(told: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """Granularity by cell, of the largest group of cells that differ in nothing else; empty with
    fewer than three granularities. `told`: the configuration of each cell, defaults left out."""
    groups: dict[str, dict[str, int]] = {}
    for cell, config in told.items():
        rest = {path: value for path, value in config.items() if path not in _FOLLOWS}
        design = json.dumps(rest, sort_keys=True, default=str)
        groups.setdefault(design, {})[cell] = int(config.get(AXIS, 1))
    found = max(groups.values(), key=lambda of: len(set(of.values())), default={})
    return found if len(set(found.values())) >= LEAST_GRAINS else {}


def fit_grains(
    flops_P: np.ndarray, grain_P: np.ndarray, loss_P: np.ndarray
) -> tuple[float, float, float, float, float]:
    """E, A, B, alpha and gamma of least squared error over P points."""
    scale = float(np.exp(np.log(flops_P).mean()))  # else A and B have a hundred digits
    x_P = flops_P / scale
    alphas, gammas = _ALPHAS, _GAMMAS
    best: tuple[float, float, float, np.ndarray] = (np.inf, 0.0, 0.0, np.zeros(3))
    for _ in range(_ROUNDS):
        for alpha in alphas:
            falls_P = x_P**-alpha
            for gamma in gammas:
                terms_P3 = np.stack([np.ones_like(x_P), falls_P, falls_P * grain_P**-gamma], axis=1)
                weights, error = nnls(terms_P3, loss_P)
                if error < best[0]:
                    best = error, float(alpha), float(gamma), weights
        alphas, gammas = (_around(best[1], alphas), _around(best[2], gammas))
    _, alpha, gamma, (e, a, b) = best
    return float(e), float(a * scale**alpha), float(b * scale**alpha), alpha, gamma


def _around(value: float, grid: np.ndarray) -> np.ndarray:
    step = grid[1] - grid[0]
    return np.linspace(max(1e-4, value - step), value + step, 9)


def law_of(
    points: Sequence[Point], resampled: Sequence[Sequence[Point]], cells: Sequence[str]
) -> GranularityLaw:
    """`resampled`: the same sizes with the means of other draws of their seeds, for the bounds."""
    e, a, b, alpha, gamma = fit_grains(*_columns(points))
    drawn = np.array([fit_grains(*_columns(each))[3:] for each in resampled])
    ends = np.percentile(drawn, _EDGES, axis=0).T.tolist() if len(drawn) else [None, None]
    bounds = [None if each is None else (each[0], each[1]) for each in ends]
    return GranularityLaw(
        cells=tuple(cells),
        e=e,
        a=a,
        b=b,
        alpha=alpha,
        gamma=gamma,
        alpha_bounds=bounds[0],
        gamma_bounds=bounds[1],
    )


def _columns(points: Sequence[Point]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    flops_P, grain_P, loss_P = np.array(points, dtype=float).T
    return flops_P, grain_P, loss_P
