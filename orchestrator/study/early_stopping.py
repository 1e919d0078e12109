"""Rules that end a trial of a sampled study before its last step.

To add one: a frozen dataclass below `StoppingRule`, and a line in `RULES`. The driver's scheduler,
the launch's record and the report of rungs ask the rule, and know none by name.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


class Judge(Protocol):
    """A rule at work on one launch. It remembers the trials that it was shown."""

    def stops(self, trial: int, step: int, num_steps: int, value: float) -> bool:
        """Whether a trial of `num_steps` ends after this evaluation; the lower value is the better.

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
    """

    first_rung: float = 0.25
    reduction_factor: int = 2

    def __post_init__(self) -> None:
        if not 0 < self.first_rung < 1 or self.reduction_factor < 2:
            raise ValueError(
                "EarlyStopping needs 0 < first_rung < 1 and reduction_factor >= 2; received "
                f"{self.first_rung} and {self.reduction_factor}. The defaults are 0.25 and 2."
            )

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
        self._seen: dict[int, dict[int, float]] = {}  # index of a rung -> trial -> value

    def stops(self, trial: int, step: int, num_steps: int, value: float) -> bool:
        reached = [i for i, rung in enumerate(self._rule.rungs(num_steps)) if step >= rung]
        # The furthest rung that this trial was not judged at yet: an evaluation may pass several.
        for index in reversed(reached):
            seen = self._seen.setdefault(index, {})
            if trial not in seen:
                cutoff = self._cutoff(seen)
                seen[trial] = value
                return cutoff is not None and value > cutoff
        return False

    def _cutoff(self, seen: Mapping[int, float]) -> float | None:
        if not seen:
            return None
        # As Ray computes it, over negated values: the same rounding decides a tie.
        negated = [-value for value in seen.values()]
        return -float(np.nanpercentile(negated, (1 - 1 / self._rule.reduction_factor) * 100))


RULES: dict[str, type[StoppingRule]] = {
    "asha": EarlyStopping,
}


def rule_of(attributes: Mapping[str, Any]) -> StoppingRule:
    """The rule that `as_attributes` wrote. Fields that this version does not know are left out."""
    kind = RULES[attributes.get("rule", "asha")]  # launches of before 2026-11-25 name none
    known = {field.name for field in dataclasses.fields(kind)}
    return kind(**{name: value for name, value in attributes.items() if name in known})
