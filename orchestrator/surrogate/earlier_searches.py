"""What earlier searches of the same axes say of a point, as far as they agree with this one.

An earlier search is a Gaussian process of its own, over its own trials, in units of their spread:
its losses are of another size, text or seed, so that nothing of it but the order may carry over.
How far it does is Kendall's tau between what it foretells of this search's points and what they
came to. Before there are any the weight is `WEIGHT`, which counts as much as `WORTH` points do:
what misleads is overcome after a handful, and what agrees is trusted more with each.

With such a weight, never below 0, the earlier searches are a mean of the process over this search
(arXiv 1802.02219 weighs processes by ranks likewise); none of their values enters it. All of
it fades, to a half after `_FADES` points: an earlier search that is right but for one axis keeps
its weight, and only the points of this one tell which (benchmarks/warm_start.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import stats

from orchestrator.surrogate.columns import Columns
from orchestrator.surrogate.expected_improvement import (
    Seen,
    Values,
    fitted_to,
    pulled_in,
    standardized,
)
from search_spaces.space import Space

Array = np.ndarray

WEIGHT, WORTH = 0.5, 5.0
_LEAST_SPREAD = 0.5  # of what it foretells: below it this search's points say little of its scale
_FADES = 10.0
_HINTS = 8  # points
_SHOWN = 40  # trials of an earlier search of full weight, to who takes trials alone


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """The trials of one launch, whose points are all points of `space`."""

    launch: str
    space: Space
    seen: tuple[Seen, ...]

    @cached_property
    def costs(self) -> Array:
        """Of its trials, in units of their spread; the lower the better."""
        return standardized(np.array([one.cost for one in self.seen]))

    def foretold(self, points: Sequence[Values]) -> Array:
        """What it says that points cost, in the same units."""
        columns, process = self._model
        return process.predict(columns.rows(points))[0]

    @cached_property
    def hints(self) -> list[Values]:
        """The points that it believes most of, best first."""
        points = list({tuple(sorted(one.values.items())): one.values for one in self.seen}.values())
        order = np.argsort(self.foretold(points), kind="stable")
        return [points[i] for i in order[:_HINTS]]

    @cached_property
    def _model(self) -> tuple[Columns, Any]:
        columns = Columns(self.space)
        return columns, fitted_to(columns, self.seen)


@dataclass(frozen=True, kw_only=True)
class Told:
    """What earlier searches say, beside `num_points` of this one. `weights` are theirs, one each;
    `weight` is that of all of them together."""

    earlier: tuple[Earlier, ...]
    weights: tuple[float, ...]
    weight: float
    num_points: int
    centre: float  # of what is foretold of this search's points
    spread: float

    @property
    def hints(self) -> list[Values]:
        """The points of those that have a weight of which all together believe most."""
        pairs = zip(self.earlier, self.weights, strict=True)
        points = [hint for one, weight in pairs if weight for hint in one.hints]
        order = np.argsort(self.foretold(points), kind="stable")
        return [points[i] for i in order[:_HINTS]]

    def foretold(self, points: Sequence[Values]) -> Array:
        """By all of them, each by its weight, in units of an earlier search's spread."""
        return _together(self.earlier, self.weights, points)

    @property
    def _fading(self) -> float:
        return _FADES / (_FADES + self.num_points)

    def trend(self, points: Sequence[Values]) -> Array:
        """The mean of the process over this search, in units of the spread of its costs."""
        if not self.weight:
            return np.zeros(len(points))
        return self.weight * self._fading * (self.foretold(points) - self.centre) / self.spread

    def shown(self, seen: Sequence[Seen]) -> list[Seen]:
        """Trials of the earlier searches, the more the more they weigh, for a sampler that knows
        trials alone: evenly of the good and the bad, each at the cost that it stands for here."""
        points, costs = _by_point(seen)
        found = []
        for one, weight in zip(self.earlier, self.weights, strict=True):
            count = min(len(one.seen), round(weight * self._fading * _SHOWN))
            centre, unit, shift = 0.0, 1.0, 0.0
            if len(points) > 1:
                foretold = one.foretold(points)
                centre, shift = float(foretold.mean()), float(costs.mean())
                unit = float(costs.std()) / max(float(foretold.std()), _LEAST_SPREAD)
            order = np.argsort(one.costs, kind="stable")
            for i in order[np.linspace(0, len(order) - 1, count).round().astype(int)]:
                cost = shift + unit * (float(one.costs[i]) - centre)
                found.append(Seen(values=one.seen[i].values, cost=cost))
        return found


def told_by(earlier: Sequence[Earlier], seen: Sequence[Seen]) -> Told | None:
    """None without an earlier search. Deterministic, as all that hangs on it."""
    if not earlier:
        return None
    points, costs = _by_point(seen)
    weights = tuple(weight_of(one.foretold(points), costs) for one in earlier)
    foretold = _together(earlier, weights, points)
    return Told(
        earlier=tuple(earlier),
        weights=weights,
        weight=weight_of(foretold, costs) if any(weights) else 0.0,
        num_points=len(points),
        centre=float(foretold.mean()) if len(points) else 0.0,
        spread=max(float(foretold.std()), _LEAST_SPREAD) if len(points) > 1 else 1.0,
    )


def weight_of(foretold: Array, costs: Array) -> float:
    """Kendall's tau of the two, drawn towards `WEIGHT` as by `WORTH` points, and never below 0."""
    num = len(costs)
    tau = 0.0
    if num > 1:
        found = float(stats.kendalltau(foretold, costs).statistic)
        tau = found if np.isfinite(found) else 0.0  # all alike: no order to agree with
    else:
        num = 0
    return max(0.0, (WORTH * WEIGHT + num * tau) / (WORTH + num))


def _by_point(seen: Sequence[Seen]) -> tuple[list[Values], Array]:
    """Each point once, with the mean of its costs; a divergence is the worst of all."""
    costs = pulled_in(np.array([one.cost for one in seen]))
    of: dict[Any, tuple[Values, list[float]]] = {}
    for one, cost in zip(seen, costs, strict=True):
        key = tuple(sorted(one.values.items()))
        of.setdefault(key, (one.values, []))[1].append(float(cost))
    return [values for values, _ in of.values()], np.array([np.mean(c) for _, c in of.values()])


def _together(
    earlier: Sequence[Earlier], weights: Sequence[float], points: Sequence[Values]
) -> Array:
    total = sum(weights)
    if not points or not total:
        return np.zeros(len(points))
    parts = [w / total * one.foretold(points) for one, w in zip(earlier, weights, strict=True) if w]
    return np.sum(parts, axis=0)
