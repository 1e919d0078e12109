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

Where this search has constraints, and its trials are measured by them, an earlier search says too
how probable it is that a point satisfies them, and weighs by whether its order of that agrees with
what the points of this search violate. What it believes to violate them is no hint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from scipy import stats

from orchestrator.surrogate.columns import Columns
from orchestrator.surrogate.expected_improvement import (
    Seen,
    Values,
    bounds_of,
    fitted_to,
    pulled_in,
    standardized,
)
from orchestrator.surrogate.feasibility import Bound, log_feasibility
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

    def log_feasibility(self, points: Sequence[Values]) -> Array:
        """How probable it is by its trials that points satisfy this search's constraints; 0, which
        is sure, where none of its trials tells."""
        return log_feasibility(self._bounds, self._model[0].rows(points))

    @property
    def has_bounds(self) -> bool:
        return bool(self._bounds)

    @cached_property
    def hints(self) -> list[Values]:
        """The points that it believes most of, best first."""
        points = list({tuple(sorted(one.values.items())): one.values for one in self.seen}.values())
        order = _best_first(self.foretold(points), self.log_feasibility(points))
        return [points[i] for i in order[:_HINTS]]

    @cached_property
    def _model(self) -> tuple[Columns, Any]:
        columns = Columns(self.space)
        return columns, fitted_to(columns, self.seen)

    @cached_property
    def _bounds(self) -> list[Bound]:
        return bounds_of(self._model[0], self.seen)


@dataclass(frozen=True, kw_only=True)
class Told:
    """What earlier searches say, beside `num_points` of this one. `weights` are theirs, one each;
    `weight` is that of all of them together; `bound_weights` and `bound_weight` are what they say
    of constraints worth."""

    earlier: tuple[Earlier, ...]
    weights: tuple[float, ...]
    weight: float
    bound_weights: tuple[float, ...]
    bound_weight: float
    num_points: int
    centre: float  # of what is foretold of this search's points
    spread: float

    @property
    def hints(self) -> list[Values]:
        """The points of those that have a weight of which all together believe most."""
        pairs = zip(self.earlier, self.weights, strict=True)
        points = [hint for one, weight in pairs if weight for hint in one.hints]
        return self.best_first(points)[:_HINTS]

    def best_first(self, points: Sequence[Values]) -> list[Values]:
        """Those that are believed to satisfy the constraints, by what is foretold of them; then the
        others, by how probably they do."""
        if not points:
            return []
        order = _best_first(self.foretold(points), self._log_feasibility(points))
        return [points[i] for i in order]

    def foretold(self, points: Sequence[Values]) -> Array:
        """By all of them, each by its weight, in units of an earlier search's spread."""
        told = [one.foretold(points) for one in self.earlier]
        return _together(told, self.weights, len(points))

    def log_feasibility(self, points: Sequence[Values]) -> Array:
        """To be added to what this search's own trials say of it: the less, the less it weighs."""
        if not self.bound_weight:
            return np.zeros(len(points))
        return self.bound_weight * self._fading * self._log_feasibility(points)

    def _log_feasibility(self, points: Sequence[Values]) -> Array:
        told = [one.log_feasibility(points) for one in self.earlier]
        return _together(told, self.bound_weights, len(points))

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
                found.append(replace(one.seen[i], cost=cost))
        return found


def told_by(earlier: Sequence[Earlier], seen: Sequence[Seen]) -> Told | None:
    """None without an earlier search. Deterministic, as all that hangs on it."""
    if not earlier:
        return None
    points, costs = _by_point(seen)
    by_each = [one.foretold(points) for one in earlier]
    weights = tuple(weight_of(told, costs) for told in by_each)
    foretold = _together(by_each, weights, len(points))
    bound_weights, bound_weight = _bound_weights(earlier, seen)
    return Told(
        earlier=tuple(earlier),
        weights=weights,
        weight=weight_of(foretold, costs) if any(weights) else 0.0,
        bound_weights=bound_weights,
        bound_weight=bound_weight,
        num_points=len(points),
        centre=float(foretold.mean()) if len(points) else 0.0,
        spread=max(float(foretold.std()), _LEAST_SPREAD) if len(points) > 1 else 1.0,
    )


def _bound_weights(
    earlier: Sequence[Earlier], seen: Sequence[Seen]
) -> tuple[tuple[float, ...], float]:
    """Of what each earlier search says of the constraints, and of all together."""
    points, violations = _violations(seen)
    by_each = [-one.log_feasibility(points) for one in earlier]
    weights = tuple(
        weight_of(told, violations) if one.has_bounds else 0.0
        for one, told in zip(earlier, by_each, strict=True)
    )
    together = _together(by_each, weights, len(points))
    return weights, weight_of(together, violations) if any(weights) else 0.0


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


def _violations(seen: Sequence[Seen]) -> tuple[list[Values], Array]:
    """Each point that came to its end once, with what it violates by the mean over its seeds: the
    sum over constraints, each in shares of its worst violation."""
    of: dict[Any, tuple[Values, list[tuple[float, ...]]]] = {}
    for one in seen:
        if one.excess:
            key = tuple(sorted(one.values.items()))
            of.setdefault(key, (one.values, []))[1].append(one.excess)
    if not of:
        return [], np.zeros(0)
    over = np.maximum(np.array([np.mean(excess, axis=0) for _, excess in of.values()]), 0)
    worst = over.max(0)
    return [values for values, _ in of.values()], (over / np.where(worst > 0, worst, 1)).sum(1)


def _best_first(foretold: Array, feasible: Array) -> Array:
    """Indices: at least as probably satisfying as not, the least cost first; then the others, the
    most probable first. `feasible` are log probabilities."""
    satisfies = feasible >= np.log(0.5)
    return np.lexsort((np.where(satisfies, foretold, -feasible), ~satisfies))


def _together(told: Sequence[Array], weights: Sequence[float], num_points: int) -> Array:
    """The mean of what each says, by weights."""
    total = sum(weights)
    if not num_points or not total:
        return np.zeros(num_points)
    parts = [weight / total * one for one, weight in zip(told, weights, strict=True) if weight]
    return np.sum(parts, axis=0)
