"""A search space: typed domains, conditions under which an axis exists, and rules of feasibility.

A point is a dict of dotted path -> value that holds exactly the axes that exist there. Optuna
draws it define-by-run (`suggest`); it becomes a config, or is refused with the reason (`config`).
Nothing here imports Optuna: a trial is whatever has its three `suggest_*` methods.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from moe.config import ConfigError, TrialConfig
from search_spaces.axes import axis_info, did_you_mean
from search_spaces.conditions import NATURAL_CONDITIONS, Condition
from search_spaces.domains import Choice, Domain, Float, Int, Trial, check_domain, contains
from search_spaces.overlay import get, overlay

# Up to here all points of a finite space are looked at: 0.1 to 0.3 ms each.
ENUMERATION_LIMIT = 20_000


class Infeasible(ConfigError):
    """A point of a space that no run can have, or that a rule of the study excludes.

    `reason` is the rule without the values received, so that refusals can be counted by it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.reason = message.partition("; received")[0]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A study's own limit: configs for which `holds` is false are refused with `reason`."""

    holds: Callable[[TrialConfig], bool]
    reason: str


@dataclass(frozen=True, kw_only=True)
class Space:
    """What may vary: `axes` maps dotted paths to domains; the rest stays as in the base config.

    The study's `conditions` come on top of the natural ones: an axis without effect does not exist.

    Raises ConfigError if a path is unknown or may not vary, a domain does not fit its type, a
    condition names an axis that the space lacks, or conditions form a circle.
    """

    axes: Mapping[str, Domain]
    conditions: tuple[Condition, ...] = ()
    rules: tuple[Rule, ...] = ()
    all_conditions: tuple[Condition, ...] = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.axes:
            raise ConfigError("a space has at least one axis; received none. Give path: domain.")
        for condition in self.conditions:
            for path in (condition.axis, condition.on):
                if path not in self.axes:
                    raise ConfigError(
                        f"a condition speaks of axes of its space ({', '.join(self.axes)}); "
                        f"received {path!r}. Add that axis, or drop the condition."
                    )
        domains = {path: check_domain(path, domain) for path, domain in self.axes.items()}
        natural = (
            c
            for c in NATURAL_CONDITIONS
            if c.axis in domains and c.on in domains and not _always(c, domains[c.on])
        )
        conditions = (*natural, *self.conditions)
        object.__setattr__(self, "all_conditions", conditions)
        object.__setattr__(self, "axes", _parents_first(domains, conditions))
        object.__setattr__(self, "conditions", tuple(self.conditions))
        object.__setattr__(self, "rules", tuple(self.rules))

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """A point drawn by `trial`; a parameter's name is its path."""
        point: dict[str, Any] = {}
        for path, domain in self.axes.items():
            if not self._exists(path, point):
                continue
            match domain:
                case Choice(values):
                    point[path] = trial.suggest_categorical(path, values)
                case Int(low=low, high=high, step=step, log=log):
                    point[path] = trial.suggest_int(path, low, high, step=step, log=log)
                case Float(low=low, high=high, log=log):
                    point[path] = trial.suggest_float(path, low, high, log=log)
        return point

    def config(self, base: TrialConfig, point: Mapping[str, Any]) -> TrialConfig:
        """The config of a point over `base`.

        Raises Infeasible with the reason if no run can have it or a rule excludes it, and
        ConfigError if the point does not hold exactly the axes that exist there.
        """
        existing = [path for path in self.axes if self._exists(path, point)]
        if set(existing) != set(point):
            raise ConfigError(
                f"a point holds the axes that exist there ({', '.join(existing)}); "
                f"received {', '.join(point) or 'none'}. Add or remove the others."
            )
        try:
            config = overlay(base, point)
        except ConfigError as error:
            raise Infeasible(str(error)) from None
        for rule in self.rules:
            if not _is_met(rule, config, point):
                raise Infeasible(f"{rule.reason}; received {dict(point)!r}. The study excludes it.")
        return config

    def require_within(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Values in the types of their axes, for a point or a part of one.

        Raises ConfigError where a path is no axis of the space, or a value lies outside its domain.
        """
        typed = {}
        for path, value in values.items():
            if path not in self.axes:
                raise ConfigError(
                    f"a point gives values to axes of its space; received {path!r}. "
                    + did_you_mean(path, self.axes, f"The axes are {', '.join(self.axes)}.")
                )
            number = float(value) if axis_info(path).type is float and type(value) is int else value
            if not contains(self.axes[path], number):
                raise ConfigError(
                    f"the value of {path} lies in its domain, {self.axes[path]}; received "
                    f"{value!r}. Choose one inside, or widen the domain."
                )
            typed[path] = number
        return {path: typed[path] for path in self.axes if path in typed}

    def has(self, point: Mapping[str, Any]) -> bool:
        """Whether a point, feasible or not, holds exactly the axes that exist there, each with a
        value of its domain."""
        existing = {path for path in self.axes if self._exists(path, point)}
        return existing == set(point) and all(contains(self.axes[p], v) for p, v in point.items())

    def distributions(self) -> dict[str, dict[str, Any]]:
        """Every axis as plain data: its `kind` and the arguments of Optuna's distribution of it."""
        plain = {}
        for path, domain in self.axes.items():
            match domain:
                case Choice(values):
                    plain[path] = {"kind": "categorical", "choices": values}
                case Int() | Float():
                    kind = "int" if isinstance(domain, Int) else "float"
                    plain[path] = {"kind": kind, **dataclasses.asdict(domain)}
        return plain

    def check(self, base: TrialConfig, *, samples: int = 5000) -> None:
        """Raises ConfigError, with the reasons and their counts, if no feasible point is found.

        Also if an axis has no effect over this base (top_k over a dense one, num_experts fixed).
        Looks at every point of a space that can be enumerated, which proves that there is none;
        else at `samples` random ones, other ones in each call. Stops at the first feasible one.
        """
        for condition in NATURAL_CONDITIONS:
            if condition.axis not in self.axes or condition.on in self.axes:
                continue
            if not condition.allows(value := get(base, condition.on)):
                raise ConfigError(
                    f"{condition}; received a base config where it is {value!r}. "
                    f"Add {condition.on} to the space, or change the base."
                )
        finite = self.is_enumerable
        rng = random.Random()
        draws = self.points() if finite else (self.draw(rng) for _ in range(samples))
        reasons: Counter[str] = Counter()
        for point in draws:
            try:
                self.config(base, point)
            except Infeasible as refused:
                reasons[refused.reason] += 1
            else:
                return
        counted = "\n".join(f"  {count} x {reason}" for reason, count in reasons.most_common())
        if finite:
            raise ConfigError(
                f"a space needs a feasible point; received one where all {reasons.total()} points "
                f"are refused:\n{counted}\nWiden a domain, or change the base config or a rule."
            )
        raise ConfigError(
            f"a space needs a feasible point; none was found in {samples} random draws, which "
            f"proves nothing, and were refused:\n{counted}\nThe same command draws others. Better: "
            f"narrow the domains to where points are feasible; a space of at most "
            f"{ENUMERATION_LIMIT:,} points is looked through whole."
        )

    def draw(self, rng: random.Random) -> dict[str, Any]:
        """A random point, feasible or not."""
        return self.suggest(RandomTrial(rng))

    @cached_property
    def is_enumerable(self) -> bool:
        """Whether the space has at most ENUMERATION_LIMIT points, feasible or not."""
        size = self.size()
        if size is None:
            return False
        if size <= ENUMERATION_LIMIT:
            return True
        over = itertools.islice(self.points(), ENUMERATION_LIMIT, None)
        return next(over, None) is None

    def feasible_points(self, base: TrialConfig) -> list[dict[str, Any]] | None:
        """Every feasible point over `base`; None if the space is too large to be enumerated."""
        if not self.is_enumerable:
            return None
        found = []
        for point in self.points():
            with suppress(Infeasible):
                self.config(base, point)
                found.append(point)
        return found

    def size(self) -> int | None:
        """An upper bound on the number of points, conditions apart; None if one is continuous."""
        sizes = [_size(domain) for domain in self.axes.values()]
        return None if None in sizes else math.prod(sizes)

    def points(self) -> Iterator[dict[str, Any]]:
        """Every point once. Raises ConfigError if an axis is continuous."""
        if self.size() is None:
            raise ConfigError(
                f"only a space of choices and integers can be enumerated; received {self.axes!r}. "
                "Turn its Float domains into Choice."
            )
        yield from self._points_from({}, list(self.axes))

    def _points_from(self, point: dict[str, Any], rest: list[str]) -> Iterator[dict[str, Any]]:
        if not rest:
            yield point
        elif not self._exists(rest[0], point):
            yield from self._points_from(point, rest[1:])
        else:
            for value in _values(self.axes[rest[0]]):
                yield from self._points_from(point | {rest[0]: value}, rest[1:])

    def _exists(self, path: str, point: Mapping[str, Any]) -> bool:
        """An axis whose parent does not exist does not exist either."""
        return all(c.holds(point) for c in self.all_conditions if c.axis == path)


def _is_met(rule: Rule, config: TrialConfig, point: Mapping[str, Any]) -> bool:
    """Raises ConfigError where a function of the study does not answer."""
    try:
        return bool(rule.holds(config))
    except Exception as error:
        raise ConfigError(
            f"a rule of a space says true or false of every config; {rule.reason!r} raised "
            f"{type(error).__name__} at {dict(point)!r}: {error}. Mend it in the study file."
        ) from None


def _size(domain: Domain) -> int | None:
    match domain:
        case Choice(values):
            return len(values)
        case Int(low=low, high=high, step=step):
            return (high - low) // step + 1
    return None


def _values(domain: Choice | Int) -> Iterable[Any]:
    if isinstance(domain, Choice):
        return domain.values
    return range(domain.low, domain.high + 1, domain.step)


def _always(condition: Condition, domain: Domain) -> bool:
    return isinstance(domain, Choice) and all(map(condition.allows, domain.values))


def _parents_first(
    domains: Mapping[str, Domain], conditions: tuple[Condition, ...]
) -> dict[str, Domain]:
    """The axes in the order given, each moved behind those that its conditions speak of."""
    ordered: dict[str, Domain] = {}
    while len(ordered) < len(domains):
        ready = (
            path
            for path in domains
            if path not in ordered and all(c.on in ordered for c in conditions if c.axis == path)
        )
        path = next(ready, None)
        if path is None:
            circle = ", ".join(path for path in domains if path not in ordered)
            raise ConfigError(
                f"conditions must not form a circle; received one among {circle}. Drop one of them."
            )
        ordered[path] = domains[path]
    return ordered


class RandomTrial:
    """Draws a point at random: the part of an Optuna trial that a space asks."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        return self._rng.choice(choices)

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        if log:
            return min(high, int(self.suggest_float(name, low, high + 1, log=True)))
        return self._rng.randrange(low, high + 1, step)

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float:
        if log:
            return math.exp(self._rng.uniform(math.log(low), math.log(high)))
        return self._rng.uniform(low, high)
