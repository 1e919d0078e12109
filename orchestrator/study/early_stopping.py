"""Rules that end a trial of a sampled study before its last step.

To add one: a frozen dataclass below `StoppingRule`, and a line in `RULES`. The driver's scheduler,
the launch's record and the report of rungs ask the rule, and know none by name.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from abc import ABC, abstractmethod
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np


class Judge(Protocol):
    """A rule at work on one launch. It remembers the trials that it was shown."""

    def stops(
        self, trial: int, step: int, num_steps: int, value: float, point: Mapping[str, Any]
    ) -> bool:
        """Whether a trial of `num_steps` ends after this evaluation; the lower value is the better.
        `point` has its values of what moves in the study, by path.

        An evaluation of a rung that this trial has passed already changes nothing: a trial that was
        interrupted replays its curve.
        """


class StoppingRule(ABC):
    """What a study file states; its fields are kept with the launch, and read back from there."""

    @abstractmethod
    def rungs(self, num_steps: int) -> list[int]:
        """The steps, ascending, from which on a trial of `num_steps` is judged, each once."""

    @abstractmethod
    def judge(self) -> Judge:
        """One that has seen no trial yet."""

    def guards(self, launch: str, point: str) -> bool:
        """Whether a point of a launch goes to its end whatever its values: by their names alone."""
        return False

    @property
    def axes(self) -> tuple[str, ...]:
        """Paths whose numbers it looks at."""
        return ()

    def as_attributes(self) -> dict[str, Any]:
        """Plain data, for the launch's record."""
        names = [name for name, rule in RULES.items() if rule is type(self)]
        assert names, f"{type(self).__name__} has no line in RULES"
        return {"rule": names[0], **dataclasses.asdict(self)}


@dataclass(frozen=True, kw_only=True)
class EarlyStopping(StoppingRule):
    """Asynchronous successive halving (ASHA, arXiv 1810.05934), decided at rungs.

    `first_rung` is the share of `train.num_steps` after which a trial may first be stopped; each
    further rung lies `reduction_factor` times as far. A trial goes on from a rung where its value
    is among the best 1/`reduction_factor` of those that came to that rung before it.

    `guarded` is the share of points that are trained to their end whatever their values, chosen by
    a hash of launch and point: a sample that nothing has thinned out, by which it can be told
    whether ranks at the rungs hold to the end. Others are still compared with them.

    `band` has paths of numbers, each with a factor: a trial is compared with those alone whose
    numbers lie within it. {"optim.learning_rate": 2.0}: early on the highest rate leads whatever
    the design, and would end all others.
    """

    first_rung: float = 0.25
    reduction_factor: int = 2
    guarded: float = 0.0
    band: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        is_share = type(self.first_rung) in (int, float) and 0 < self.first_rung < 1
        if not is_share or type(self.reduction_factor) is not int or self.reduction_factor < 2:
            raise ValueError(
                "EarlyStopping needs 0 < first_rung < 1 and a whole reduction_factor >= 2; "
                f"received {self.first_rung!r} and {self.reduction_factor!r}. "
                "The defaults are 0.25 and 2."
            )
        if type(self.guarded) not in (int, float) or not 0 <= self.guarded < 1:
            raise ValueError(
                "guarded is the share of points that are never stopped, at least 0 and below 1; "
                f"received {self.guarded!r}. 0.2 is usual; without early stopping none is stopped."
            )
        if not isinstance(self.band, Mapping) or not all(
            type(path) is str and type(by) in (int, float) and 1 <= by < math.inf
            for path, by in self.band.items()
        ):
            raise ValueError(
                "band gives a factor, at least 1, to each of its paths; received "
                f'{self.band!r}. Write band={{"optim.learning_rate": 2.0}}.'
            )

    def guards(self, launch: str, point: str) -> bool:
        drawn = hashlib.sha256(f"guarded\0{launch}\0{point}".encode()).digest()
        return int.from_bytes(drawn[:8], "big") < self.guarded * 2**64

    @property
    def axes(self) -> tuple[str, ...]:
        return tuple(self.band)

    def as_attributes(self) -> dict[str, Any]:
        """As before December 2026 where neither is asked for."""
        unused = {name for name in ("guarded", "band") if not getattr(self, name)}
        return {k: v for k, v in super().as_attributes().items() if k not in unused}

    def rungs(self, num_steps: int) -> list[int]:
        step = max(1, round(self.first_rung * num_steps))
        steps = []
        while step < num_steps:
            steps.append(step)
            step *= self.reduction_factor
        return steps

    def judge(self) -> Judge:
        return _Halving(self)


class _Halving:
    """Ray's AsyncHyperBandScheduler with one bracket decides the same; a test holds them equal.

    That one needs Tune's trials to be shown what an earlier driver saw, and one number of steps for
    all of them. Here the n-th rung of a trial is compared with the n-th of others.
    """

    def __init__(self, rule: EarlyStopping) -> None:
        self._rule = rule
        self._rungs: dict[int, _Rung] = {}  # by index

    def stops(
        self,
        trial: int,
        step: int,
        num_steps: int,
        value: float,
        point: Mapping[str, Any] = MappingProxyType({}),
    ) -> bool:
        reached = [i for i, rung in enumerate(self._rule.rungs(num_steps)) if step >= rung]
        # The furthest rung that this trial was not judged at yet: an evaluation may pass several.
        for index in reversed(reached):
            rung = self._rungs.setdefault(index, _Rung())
            if trial not in rung.trials:
                cutoff = self._cutoff(rung.rivals(point, self._rule.band))
                rung.add(trial, value, point)
                return cutoff is not None and value > cutoff
        return False

    def _cutoff(self, negated: Sequence[float]) -> float | None:
        if not negated:
            return None
        # As Ray computes it, over negated values: the same rounding decides a tie.
        share = 1 - 1 / self._rule.reduction_factor
        return -float(np.nanpercentile(np.asarray(negated), share * 100))


class _Rung:
    """Who came there, with which values: negated, as floats in a row, so that a cutoff among
    thousands is taken in half a millisecond (docs/log.md)."""

    def __init__(self) -> None:
        self.trials: set[int] = set()
        self._negated = array("d")
        self._points: list[Mapping[str, Any]] = []

    def add(self, trial: int, value: float, point: Mapping[str, Any]) -> None:
        self.trials.add(trial)
        self._negated.append(-value)
        self._points.append(point)

    def rivals(self, point: Mapping[str, Any], band: Mapping[str, float]) -> Sequence[float]:
        """Negated values of those within the band around a point."""
        if not band:
            return self._negated
        return [
            negated
            for negated, other in zip(self._negated, self._points, strict=True)
            if all(_within(point.get(path), other.get(path), by) for path, by in band.items())
        ]


def _within(a: float | None, b: float | None, factor: float) -> bool:
    """An axis that only one of two points has sets them apart."""
    if a == b:
        return True
    if not a or not b:
        return False
    return 0 < max(a / b, b / a) <= factor * (1 + 1e-9)


RULES: dict[str, type[StoppingRule]] = {
    "asha": EarlyStopping,
}


def rule_of(attributes: Mapping[str, Any]) -> StoppingRule:
    """The rule that `as_attributes` wrote. Fields that this version does not know are left out."""
    kind = RULES[attributes.get("rule", "asha")]  # launches of before 2026-11-25 name none
    known = {field.name for field in dataclasses.fields(kind)}
    given = {name: value for name, value in attributes.items() if name in known}
    try:
        return kind(**given)
    except ValueError:
        # Earlier versions took what is refused now (a factor of 2.5): its record is still read.
        rule = kind()
        for name, value in given.items():
            object.__setattr__(rule, name, value)
        return rule
