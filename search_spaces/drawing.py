"""Points with some values given, near another, or of a corner of the unit cube: drawn through the
space itself, so that exactly the axes exist that exist there."""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Mapping
from typing import Any

from search_spaces.domains import is_ordered_list
from search_spaces.space import RandomTrial, Space

_STEPS = (0.02, 0.1, 0.3)  # of a range


def with_values(space: Space, fixed: Mapping[str, Any], rng: random.Random) -> dict[str, Any]:
    """A random point, feasible or not, with the `fixed` values where their axes exist."""
    return space.suggest(_Given(rng, fixed))


def near(
    space: Space, point: Mapping[str, Any], rng: random.Random, fixed: Collection[str] = ()
) -> dict[str, Any]:
    """A point that differs from another in one to three axes, and in what hangs on them; feasible
    or not. The `fixed` axes stay."""
    movable = [path for path in point if path not in fixed]
    if not movable:
        return space.suggest(_Given(rng, point))
    moved = rng.sample(movable, min(len(movable), rng.choice((1, 1, 2, 3))))
    return space.suggest(_Near(rng, point, moved))


def at(space: Space, shares: Mapping[str, float], fixed: Mapping[str, Any]) -> dict[str, Any]:
    """The point that lies at a share (0 to 1, without 1) of every axis' domain."""
    return space.suggest(_Shares(fixed, shares))


class _Given(RandomTrial):
    def __init__(self, rng: random.Random, values: Mapping[str, Any]) -> None:
        super().__init__(rng)
        self._values = values

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        return self._values[name] if name in self._values else self._any(name, choices)

    def _any(self, name: str, choices: Any) -> Any:
        return super().suggest_categorical(name, choices)

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        if name in self._values:
            return self._values[name]
        return super().suggest_int(name, low, high, step=step, log=log)

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float:
        if name in self._values:
            return self._values[name]
        return super().suggest_float(name, low, high, log=log)


class _Near(_Given):
    """Keeps the values of a point but for `moved` ones, which take a step."""

    def __init__(
        self, rng: random.Random, point: Mapping[str, Any], moved: Collection[str]
    ) -> None:
        super().__init__(rng, {path: v for path, v in point.items() if path not in moved})
        self._point = point

    def _any(self, name: str, choices: Any) -> Any:
        if name not in self._point or len(choices) == 1:
            return super()._any(name, choices)
        index = choices.index(self._point[name])
        if is_ordered_list(choices) and self._rng.random() < 0.7:
            beside = [i for i in (index - 1, index + 1) if 0 <= i < len(choices)]
            return choices[self._rng.choice(beside)]
        return self._rng.choice([c for i, c in enumerate(choices) if i != index])

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        if name in self._values or name not in self._point or low == high:
            return super().suggest_int(name, low, high, step=step, log=log)
        was = self._point[name]
        moved = self._moved(was, low, high, log)
        stepped = low + step * round((moved - low) / step)
        if stepped == was:
            stepped += step * self._rng.choice((-1, 1))
        return stepped if low <= stepped <= high else was

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float:
        if name in self._values or name not in self._point or low == high:
            return super().suggest_float(name, low, high, log=log)
        return self._moved(self._point[name], low, high, log)

    def _moved(self, was: float, low: float, high: float, log: bool) -> float:
        sd = self._rng.choice(_STEPS)
        if log:
            value = math.exp(math.log(was) + self._rng.gauss(0, sd * math.log(high / low)))
        else:
            value = was + self._rng.gauss(0, sd * (high - low))
        return min(high, max(low, value))


class _Shares(_Given):
    """Takes a share for what the generator would have drawn."""

    def __init__(self, values: Mapping[str, Any], shares: Mapping[str, float]) -> None:
        super().__init__(random.Random(0), values)
        self._shares = shares

    def _any(self, name: str, choices: Any) -> Any:
        return choices[int(self._shares[name] * len(choices))]

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        if name in self._values:
            return self._values[name]
        if log:
            return min(high, int(self.suggest_float(name, low, high + 1, log=True)))
        return low + step * int(self._shares[name] * ((high - low) // step + 1))

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float:
        if name in self._values:
            return self._values[name]
        share = self._shares[name]
        return low * (high / low) ** share if log else low + share * (high - low)
