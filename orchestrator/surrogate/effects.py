"""What mattered in a search: what leaving the recommended value of an axis costs, and which axes
answer together, as contrasts of a Gaussian process over all trials.

A contrast is a difference of the function at a few points, of which the process has the joint
distribution. How far these move as each eighth of the points is left out (a jackknife) is added: a
fit to tens of points is surer of itself than it may be. The noise of seeds is no part of an
interval. Axes that are tuned within each design (`nuisance`) are at each design's own best: in each
draw from the process the least over their values is taken, since the best rate of one design, given
to another, turns one comparison in five round.

Only points that can be run are compared: of one that the space refuses the process knows nothing
(no trial can lie there), and its answer could not be followed.

All trials count, on a scale of warped_costs.py: of a value that was tried far from the best alone,
a process without those trials would be sure that it costs nothing
(`benchmarks/effect_intervals.py`). One that diverged counts as the worst that did not.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from orchestrator.surrogate.columns import Columns
from orchestrator.surrogate.expected_improvement import Seen
from orchestrator.surrogate.gaussian_process import GaussianProcess, fitted
from orchestrator.surrogate.warped_costs import Warp, warp_of
from search_spaces.domains import Choice, Domain
from search_spaces.drawing import at
from search_spaces.space import Space

Array = np.ndarray
Values = Mapping[str, Any]

_DRAWS = 2000
_OF_A_RANGE = 5  # values that stand for a range of numbers
_OF_NUISANCE = 48  # combinations of the axes tuned within a design
_PER_COLUMN, _PER_COLUMN_OF_PAIRS = 6, 12  # points, below which nothing is told
_PARTS = 8  # of the jackknife
_LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What a point with `path` at `value` costs more than the reference, in the metric's unit.

    `other` is the second axis of an interaction, with `other_value`: by how much both changes
    together cost more than each by itself."""

    path: str
    value: Any
    cost: float
    low: float
    high: float
    other: str | None = None
    other_value: Any = None

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out that there is none."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, kw_only=True)
class Effects:
    """`main` and `pairs` about the reference, the largest first; `why_not` where points were too
    few for either."""

    main: tuple[Effect, ...] = ()
    pairs: tuple[Effect, ...] = ()
    why_not: str = ""


def effects_about(
    reference: Values,
    space: Space,
    seen: Sequence[Seen],
    *,
    nuisance: Collection[str] = (),
    is_feasible: Callable[[Values], bool] = lambda values: True,
) -> Effects:
    """Of each other value of each axis that the reference point has. Deterministic.

    `is_feasible` says whether a point can be run; changes and pairs that cannot are left out, and
    each design is at the best of the nuisance values with which it can.
    """
    columns = Columns(space)
    num = len(_points_of(seen))
    needed, needed_of_pairs = (
        _points_needed(space, each * len(columns.names), is_feasible)
        for each in (_PER_COLUMN, _PER_COLUMN_OF_PAIRS)
    )
    if num < needed:
        return Effects(
            why_not=f"effects of {len(columns.names)} axes and conditions need {needed} points at "
            f"least, and there are {num}"
        )
    warp = warp_of(_finite(seen))
    if warp is None:
        return Effects(why_not="all trials have the same value")
    model = _Model(reference, space, columns, seen, nuisance, warp, is_feasible)
    main = list(model.mains())
    enough = num >= needed_of_pairs
    pairs = list(model.pairs(main)) if enough else []
    return Effects(
        main=tuple(sorted(main, key=lambda one: -abs(one.cost))),
        pairs=tuple(sorted(pairs, key=lambda one: -abs(one.cost))),
        why_not=""
        if enough
        else f"interactions need {needed_of_pairs} points at least, and there are {num}",
    )


class _Model:
    """Draws of the function at designs, each at its own best nuisance values."""

    def __init__(
        self,
        reference: Values,
        space: Space,
        columns: Columns,
        seen: Sequence[Seen],
        nuisance: Collection[str],
        warp: Warp,
        is_feasible: Callable[[Values], bool],
    ) -> None:
        self._reference, self._space, self._columns = dict(reference), space, columns
        self._warp = warp
        self._process = self._fitted_to(seen)
        self._partly = [self._fitted_to(part) for part in _without_each_part(seen)]
        self._is_feasible = is_feasible
        self._tuned = [path for path in nuisance if path in reference]
        self._tunings = list(self._all_tunings())
        self._found: dict[tuple[tuple[str, Any], ...], list[dict[str, Any]]] = {}
        self._rng = np.random.default_rng(0)

    def _fitted_to(self, seen: Sequence[Seen]) -> GaussianProcess:
        rows = self._columns.rows([one.values for one in seen])
        return fitted(rows, self._warp(_finite(seen)), self._columns.groups)

    def changes(self) -> Iterator[tuple[str, Any]]:
        for path, domain in self._space.axes.items():
            if path not in self._reference or path in self._tuned:
                continue
            for value in _values_of(domain):
                if value != self._reference[path]:
                    yield path, value

    def mains(self) -> Iterator[Effect]:
        for path, value in self.changes():
            effect = self._effect([{}, {path: value}], [-1, 1], path=path, value=value)
            if effect is not None:
                yield effect

    def pairs(self, main: Sequence[Effect]) -> Iterator[Effect]:
        """Of the value of each axis that costs least beside the reference's own. Two that cannot be
        had together, since one takes the other's axis away, say nothing of each other."""
        nearest: dict[str, Effect] = {}
        for one in main:
            known = nearest.get(one.path)
            if known is None or one.cost < known.cost:
                nearest[one.path] = one
        for one, other in itertools.combinations(nearest.values(), 2):
            a, b = {one.path: one.value}, {other.path: other.value}
            effect = self._effect(
                [{}, a, b, {**a, **b}],
                [1, -1, -1, 1],
                path=one.path,
                value=one.value,
                other=other.path,
                other_value=other.value,
            )
            if effect is not None:
                yield effect

    def _effect(self, changes: Sequence[Values], signs: Sequence[int], **of: Any) -> Effect | None:
        """The contrast of some changes of the reference: draws of the process, moved as far as the
        jackknife moves it. None where a change cannot be run, whatever is tuned."""
        at_each = [self._at(change) for change in changes]
        if not all(at_each):
            return None
        rows = self._columns.rows([point for points in at_each for point in points])
        first = np.cumsum([0, *map(len, at_each[:-1])])
        mean, covariance = self._process.joint(rows)
        eigenvalues, vectors = np.linalg.eigh(covariance)
        root = vectors * np.sqrt(np.maximum(eigenvalues, 0))
        left_out = np.array([part.predict(rows)[0] for part in self._partly])
        moved = (left_out - left_out.mean(0)).T * np.sqrt((_PARTS - 1) / _PARTS)
        draws = (
            mean[:, None]
            + root @ self._rng.standard_normal((len(mean), _DRAWS))
            + moved @ self._rng.standard_normal((_PARTS, _DRAWS))
        )
        # Each change at the least over the tuned axes.
        costs = np.minimum.reduceat(self._warp.above_best(draws), first, axis=0)
        of_draws = np.array(signs) @ costs
        low, middle, high = np.quantile(of_draws, [(1 - _LEVEL) / 2, 0.5, (1 + _LEVEL) / 2])
        return Effect(cost=float(middle), low=float(low), high=float(high), **of)

    def _at(self, change: Values) -> list[dict[str, Any]]:
        """A change at each of the nuisance values with which it can be run; at the reference's own
        where it can with none of those that stand for their ranges."""
        key = tuple(change.items())
        if key not in self._found:
            able = (self._able(change, rates) for rates in self._tunings)
            found = [point for point in able if point is not None]
            own = None if found else self._able(change, {})
            self._found[key] = found if own is None else [own]
        return self._found[key]

    def _able(self, change: Values, rates: Values) -> dict[str, Any] | None:
        """None where it cannot be run, or lacks an axis that was to change."""
        point = self._changed({**change, **rates})
        is_there = change.keys() <= point.keys() and self._is_feasible(point)
        return point if is_there else None

    def _changed(self, change: Values) -> dict[str, Any]:
        """The reference with some values, and the axes that exist there; those that come into being
        stand in the middle of their domains."""
        given = {**self._reference, **change}
        return at(self._space, dict.fromkeys(self._space.axes, 0.5), given)

    def _all_tunings(self) -> Iterator[dict[str, Any]]:
        if not self._tuned:
            yield {}
            return
        each = max(2, round(_OF_NUISANCE ** (1 / len(self._tuned))))
        of = [_values_of(self._space.axes[path], each) for path in self._tuned]
        for values in itertools.product(*of):
            yield dict(zip(self._tuned, values, strict=True))


def _points_needed(space: Space, wanted: int, is_feasible: Callable[[Values], bool]) -> int:
    """`wanted` points, or as many as a small space has."""
    if not space.is_enumerable:
        return wanted
    return sum(1 for _ in itertools.islice(filter(is_feasible, space.points()), wanted))


def _points_of(seen: Sequence[Seen]) -> list[tuple[tuple[str, Any], ...]]:
    """Further seeds of a point tell nothing of other values."""
    return list({tuple(one.values.items()): None for one in seen})


def _finite(seen: Sequence[Seen]) -> Array:
    """The costs (N,); of what diverged the worst of the others."""
    costs = np.array([one.cost for one in seen])
    ended = np.isfinite(costs)
    return np.where(ended, costs, costs[ended].max()) if ended.any() else np.zeros(len(costs))


def _without_each_part(seen: Sequence[Seen]) -> Iterator[list[Seen]]:
    """The trials without an eighth of the points, each eighth once, all seeds of a point alike."""
    points = _points_of(seen)
    part_of = dict(zip(points, np.random.default_rng(0).permutation(len(points)), strict=True))
    for part in range(_PARTS):
        yield [one for one in seen if part_of[tuple(one.values.items())] % _PARTS != part]


def _values_of(domain: Domain, count: int = _OF_A_RANGE) -> list[Any]:
    """Of a choice all; of a range some, evenly, its ends among them."""
    if isinstance(domain, Choice):
        return list(domain.values)
    low, high = float(domain.low), float(domain.high)
    shares = np.linspace(0, 1, count)
    values = low * (high / low) ** shares if domain.log else low + shares * (high - low)
    if isinstance(domain.low, int) and hasattr(domain, "step"):
        step = domain.step
        return sorted({int(domain.low + step * round((v - low) / step)) for v in values})
    return [float(min(max(v, low), high)) for v in values]
