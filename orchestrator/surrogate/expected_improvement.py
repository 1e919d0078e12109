"""The points that a Gaussian process would try next, best first: by log expected improvement over
the best that it believes in, at candidates drawn at random and about the best points known.

Where a search has constraints, the improvement is over the best that is believed to satisfy them,
and weighed by the probability that a point does; as long as none does, by that alone.

Noise is part of the process: the best value is that of the smoothed function, so that one lucky
seed does not become what all others are measured against.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import special

from orchestrator.surrogate.columns import Columns, distance
from orchestrator.surrogate.feasibility import Bound, bound_of, log_feasibility
from orchestrator.surrogate.gaussian_process import GaussianProcess, fitted
from search_spaces.drawing import near, with_values
from search_spaces.space import Space

if TYPE_CHECKING:
    from orchestrator.surrogate.earlier_searches import Told

Array = np.ndarray
Values = Mapping[str, Any]

_RANDOM, _CENTRES, _NEAR, _CLIMBS, _CLIMBERS = 500, 8, 40, 3, 4
_SPREAD_OUT, _BELIEVED = 64, 16
PRIOR_WEIGHT = 4.0
_BELIEF_SD, _BELIEF_FLOOR = 0.2, 0.1  # in shares of a domain; of the bump's height


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A point and its cost; the lower the better, infinite where training diverged. `excess`: by
    how much it violates each constraint of the search; None where it did not come to its end."""

    values: Values
    cost: float
    excess: tuple[float, ...] | None = None


def next_points(
    space: Space,
    seen: Sequence[Seen],
    pending: Sequence[Values],
    *,
    is_open: Callable[[Values], bool],
    fixed: Values,
    feasible: Sequence[Values] | None,
    startup: int,
    rng: random.Random,
    prior: Values | None = None,
    told: Told | None = None,
) -> Iterator[Values]:
    """Open points (feasible and new), the one to try first before all others; it ends when
    candidates do.

    `fixed` are values that every point is to have, `feasible` all feasible points where they are
    known. Before `startup` points are seen, points far from all others. `prior` are values that
    are believed to be good, of some axes: half of the first points are drawn to have each, and
    later the improvement is weighed by the belief to the power of PRIOR_WEIGHT over the number of
    trials, so that data overcome it (arXiv 2204.11051). `told` is what earlier searches say: every
    other of the first points is one that they believe in, and later it is the mean of the process.
    """
    prior = prior or {}
    columns = Columns(space)
    if len({tuple(sorted(one.values.items())) for one in seen}) < startup:
        known = [*(one.values for one in seen), *pending]
        # One draw for all candidates: were it made for each, those far from the points before
        # would be tried first, which are those that lack what these have.
        wanted = _some_of(prior, rng)
        for values in (wanted, {}) if wanted else ({},):
            first = _first_points(space, known, values, is_open, fixed, feasible, rng, told)
            yield from _far_from(columns, first, known)
        return
    predict, bounds = _predictor(columns, seen, pending, told), bounds_of(columns, seen)
    tried = [one.values for one in seen]
    satisfies = log_feasibility(bounds, columns.rows(tried)) >= np.log(0.5)
    satisfying = predict(tried)[0][satisfies]

    def merit(points: Sequence[Values]) -> Array:
        found = log_feasibility(bounds, columns.rows(points))
        if len(satisfying):
            found = found + log_expected_improvement(*predict(points), satisfying.min())
        if told is not None:
            found = found + told.log_feasibility(points)
        return found + PRIOR_WEIGHT / len(seen) * _log_belief(space, prior, points)

    if feasible is not None:
        yield from filter(is_open, _ranked(feasible, merit))
        return
    is_apart = _apart(columns, [*tried, *pending], is_open)
    centres = _best_of(predict, tried, _CENTRES)
    if told is not None and told.weight:
        centres += [h for h in told.hints if fixed.items() <= h.items()]
    pool = [
        with_values(space, {**(_some_of(prior, rng) if i % 2 else {}), **fixed}, rng)
        for i in range(_RANDOM)
    ]
    pool += [near(space, c, rng, fixed) for c in centres for _ in range(_NEAR)]
    ranked = _ranked(pool, merit)
    best = list(itertools.islice(filter(is_apart, ranked), _CLIMBERS))
    for _ in range(_CLIMBS):
        around = [near(space, c, rng, fixed) for c in best for _ in range(_NEAR)]
        climbed = _ranked([*best, *around], merit)
        best = list(itertools.islice(filter(is_apart, climbed), _CLIMBERS))
    yield from best
    yield from filter(is_open, ranked)  # a space of few numbers may be full


def _apart(
    columns: Columns, known: Sequence[Values], is_open: Callable[[Values], bool]
) -> Callable[[Values], bool]:
    """Of open points those that are no twins of a known one. A search that has found its best would
    spend all that is left of it on these, and learn nothing of the rest (docs/log.md, 2026-11-27,
    evening)."""
    rows = columns.rows(known)
    # whether a point is open takes a config of it
    return lambda v: not columns.are_twins(rows, columns.rows([v])).any() and is_open(v)


def _first_points(
    space: Space,
    known: Sequence[Values],
    wanted: Values,
    is_open: Callable[[Values], bool],
    fixed: Values,
    feasible: Sequence[Values] | None,
    rng: random.Random,
    told: Told | None,
) -> list[Values]:
    """Open points with the `wanted` values where their axes exist: at random, and every other time
    those of them, and of points near the hints, that earlier searches believe in."""
    given = {**wanted, **fixed}
    if feasible is not None:
        having = [v for v in feasible if all(v.get(p, one) == one for p, one in given.items())]
        drawn = rng.sample(having, len(having))
    else:
        drawn = [with_values(space, given, rng) for _ in range(8 * _SPREAD_OUT)]
    if told is None or not told.weight or len(_unique(known)) % 2:
        return list(itertools.islice(filter(is_open, drawn), _SPREAD_OUT))
    hints = [with_values(space, {**hint, **given}, rng) for hint in told.hints]
    drawn += [near(space, hint, rng, given) for hint in hints for _ in range(_NEAR)]
    ranked = told.best_first(_unique([*drawn, *hints]))
    return list(itertools.islice(filter(is_open, ranked), _BELIEVED))


def _some_of(prior: Values, rng: random.Random) -> dict[str, Any]:
    return {path: value for path, value in prior.items() if rng.random() < 0.5}


def _log_belief(space: Space, prior: Values, points: Sequence[Values]) -> Array:
    """Of each point, over the axes that it has: a bump at the believed value over a floor."""
    told = np.zeros(len(points))
    for path, value in prior.items():
        away = np.array(
            [distance(space.axes[path], p[path], value) if path in p else 1.0 for p in points]
        )
        bump = np.exp(-0.5 * (away / _BELIEF_SD) ** 2)
        told += np.log(_BELIEF_FLOOR + (1 - _BELIEF_FLOOR) * bump)
    return told


def _predictor(
    columns: Columns, seen: Sequence[Seen], pending: Sequence[Values], told: Told | None
) -> Callable[[Sequence[Values]], tuple[Array, Array]]:
    """Mean and deviation of points, in units of the spread of what was seen; points under way are
    believed to end as foretold."""
    rows, waiting = columns.rows([one.values for one in seen]), columns.rows(pending)
    values = standardized(np.array([one.cost for one in seen]))
    if told is None or not told.weight:
        process = fitted(rows, values, columns.groups).with_pending(waiting)
        return lambda points: process.predict(columns.rows(points))
    left = values - told.trend([one.values for one in seen])
    unit = max(float(left.std()), 1e-6)
    rest = fitted(rows, (left - left.mean()) / unit, columns.groups).with_pending(waiting)

    def predict(points: Sequence[Values]) -> tuple[Array, Array]:
        mean, sd = rest.predict(columns.rows(points))
        return told.trend(points) + left.mean() + unit * mean, unit * sd

    return predict


def fitted_to(columns: Columns, seen: Sequence[Seen]) -> GaussianProcess:
    values = standardized(np.array([one.cost for one in seen]))
    return fitted(columns.rows([one.values for one in seen]), values, columns.groups)


def bounds_of(columns: Columns, seen: Sequence[Seen]) -> list[Bound]:
    """A process of each constraint, over the points that came to their end."""
    ended = [one for one in seen if one.excess]
    if not ended:
        return []
    rows, excess = columns.rows([one.values for one in ended]), np.array([e.excess for e in ended])
    found = (bound_of(rows, of_one, columns.groups) for of_one in excess.T)
    return [bound for bound in found if bound is not None]


def standardized(costs: Array) -> Array:
    """Mean 0, variance 1, of costs that were `pulled_in`."""
    pulled = pulled_in(costs)
    sd = pulled.std()
    return (pulled - pulled.mean()) / sd if sd > 0 else np.zeros(len(costs))


def pulled_in(costs: Array) -> Array:
    """What lies above the roof (a rate too high, a divergence) is drawn in to where it is still the
    worst, so that the good end is told apart."""
    finite = costs[np.isfinite(costs)]
    if not len(finite):
        return np.zeros(len(costs))
    low, roof = finite.min(), roof_of(costs)
    over = np.maximum(np.where(np.isfinite(costs), costs, finite.max() + roof - low) - roof, 0)
    return np.minimum(costs, roof) + (roof - low) * 0.25 * over / (over + roof - low + 1e-300)


def roof_of(costs: Array) -> float:
    """Where what is far from the best begins: at three times the median's distance from it."""
    finite = costs[np.isfinite(costs)]
    if not len(finite):
        return float("inf")
    low, middle = finite.min(), np.median(finite)
    return float(middle + 2 * max(middle - low, 1e-12))


def log_expected_improvement(mean: Array, sd: Array, target: float) -> Array:
    """log E[max(target - f, 0)], also where the expectation underflows (arXiv 2310.20708)."""
    z = (target - mean) / sd
    with np.errstate(divide="ignore", invalid="ignore"):
        density = np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)
        direct = np.log(np.maximum(density + z * special.ndtr(z), 1e-300))
        # Mills' ratio by erfcx: density - |z| (1 - cdf) without cancellation
        ratio = np.sqrt(np.pi / 2) * special.erfcx(np.maximum(-z, 0) / np.sqrt(2))
        tail = -0.5 * z * z - 0.5 * np.log(2 * np.pi) + np.log(np.maximum(1 + z * ratio, 1e-16))
    return np.where(z > -1, direct, tail) + np.log(sd)


def _ranked(points: Sequence[Values], merit: Callable[[Sequence[Values]], Array]) -> list[Values]:
    unique = list({tuple(point.items()): point for point in points}.values())
    if not unique:
        return []
    return [unique[i] for i in np.argsort(-merit(unique), kind="stable")]


def _unique(points: Sequence[Values]) -> list[Values]:
    return list({tuple(sorted(point.items())): point for point in points}.values())


def _best_of(
    predict: Callable[[Sequence[Values]], tuple[Array, Array]],
    points: Sequence[Values],
    count: int,
) -> list[Values]:
    unique = _unique(points)
    return [unique[i] for i in np.argsort(predict(unique)[0], kind="stable")[:count]]


def _far_from(
    columns: Columns, points: Sequence[Values], known: Sequence[Values]
) -> Iterator[Values]:
    if not points:
        return
    if not known:
        yield from points
        return
    rows, others = columns.rows(points), columns.rows(known)
    squared = ((rows[:, None, :] - others[None]) ** 2).sum(-1).min(1)
    for i in np.argsort(-squared, kind="stable"):
        yield points[i]
