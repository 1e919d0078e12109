"""Points of a space as rows of numbers, so that near points have near rows.

Numbers that a study lists (1, 2, 4, 8) are ordered, and stand evenly: their ranks say how far apart
they are, as a sampler of ranges would see them. Values without an order are equally far from each
other. An axis that does not exist at a point stands in the middle of its range there, and a column
of its own says that it is missing: what it does where it exists is learnt from those points alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from search_spaces.domains import Choice, Domain, is_ordered
from search_spaces.space import Space

Array = np.ndarray

TWIN = 0.05  # of a range; of a learning rate from 1e-3 to 1e-2 a factor of 1.12
_EQUAL = 1e-9  # of a range


class Columns:
    """`groups` (D,) names, for each column, the one of `names` whose weight it shares.

    A group is an axis, or `PATH exists` of an axis that some points lack.
    """

    def __init__(self, space: Space) -> None:
        self._axes = {p: d for p, d in space.axes.items() if not _is_single(d)}
        conditional = {condition.axis for condition in space.all_conditions}
        self._conditional = [path for path in self._axes if path in conditional]
        self.names = [*self._axes, *(f"{path} exists" for path in self._conditional)]
        widths = [_width(domain) for domain in self._axes.values()] + [1] * len(self._conditional)
        self.groups: Array = np.repeat(np.arange(len(widths)), widths)
        is_listed = [isinstance(domain, Choice) for domain in self._axes.values()]
        within = np.where([*is_listed, *(True for _ in self._conditional)], _EQUAL, TWIN + _EQUAL)
        self._within: Array = within[self.groups]

    def rows(self, points: Sequence[Mapping[str, Any]]) -> Array:
        """(N, D), all within 0 and 1."""
        if not points:
            return np.zeros((0, len(self.groups)))
        parts = [
            self._of_axis(domain, [point.get(path) for point in points])
            for path, domain in self._axes.items()
        ]
        parts += [
            np.array([[float(path in point)] for point in points]) for path in self._conditional
        ]
        return np.hstack(parts) if parts else np.zeros((len(points), 0))

    def are_twins(self, rows: Array, others: Array) -> Array:
        """Of rows (..., D): which differ from the others in ranges of numbers alone, and in none by
        more than TWIN."""
        return (np.abs(rows - others) <= self._within).all(-1)

    @staticmethod
    def _of_axis(domain: Domain, values: Iterable[Any]) -> Array:
        if isinstance(domain, Choice) and not is_ordered(domain):
            # Two different values lie at distance 1: their rows differ in two entries.
            at = {value: row / math.sqrt(2) for value, row in _one_hot(domain)}
            missing = np.full(len(domain.values), 1 / math.sqrt(2) / len(domain.values))
            return np.array([at.get(value, missing) for value in values])
        return np.array([[0.5 if v is None else position(domain, v)] for v in values])


def position(domain: Domain, value: Any) -> float:
    """Where a value stands in its domain, from 0 to 1; text stands in the order of its list."""
    if isinstance(domain, Choice):
        return domain.values.index(value) / max(1, len(domain.values) - 1)
    low, high = float(domain.low), float(domain.high)
    if domain.log:
        low, high, value = math.log(low), math.log(high), math.log(value)
    return (value - low) / (high - low)


def distance(domain: Domain, a: Any, b: Any) -> float:
    """Of two values, from 0 to 1: by position where there is an order, else 0 or 1."""
    if not is_ordered(domain):
        return float(a != b)
    return abs(position(domain, a) - position(domain, b))


def _one_hot(domain: Choice) -> Iterable[tuple[Any, Array]]:
    return zip(domain.values, np.eye(len(domain.values)), strict=True)


def _width(domain: Domain) -> int:
    return len(domain.values) if isinstance(domain, Choice) and not is_ordered(domain) else 1


def _is_single(domain: Domain) -> bool:
    return len(domain.values) == 1 if isinstance(domain, Choice) else domain.low == domain.high
