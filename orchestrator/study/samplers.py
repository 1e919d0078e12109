"""Who draws the points of a sampled study.

To add a sampler: a frozen dataclass below `Sampler`, and a line in `SAMPLERS`. A sampler of Optuna
itself needs none: `Study(sampler=optuna.samplers.GPSampler(seed=0))`.

Optuna is imported only where a sampler is made: a study file is read by commands that draw nothing.
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


class Sampler(ABC):
    """What a study file states. `trials.sampling` asks it for each point of a launch."""

    # Judged trials, and as many that run or wait, that it is shown: this bounds its cost.
    history_limit: ClassVar[int] = 100

    @abstractmethod
    def optuna_sampler(self, *, seed: int, index: int) -> BaseSampler:
        """For the launch's point number `index`: it draws in a study that holds the history alone.

        `seed` is the point's own, so that a restarted driver draws what the dead one would have.
        """

    def __str__(self) -> str:
        return next(name for name, kind in SAMPLERS.items() if kind is type(self))


@dataclass(frozen=True, kw_only=True)
class Tpe(Sampler):
    """Tree-structured Parzen estimators (arXiv 2304.11127), after `startup` random points."""

    startup: int = 10

    def optuna_sampler(self, *, seed: int, index: int) -> BaseSampler:
        from optuna.samplers import TPESampler

        return TPESampler(seed=seed, constant_liar=True, n_startup_trials=self.startup)


@dataclass(frozen=True, kw_only=True)
class Random(Sampler):
    """Every point by itself, whatever is known of others: the baseline of any search."""

    def optuna_sampler(self, *, seed: int, index: int) -> BaseSampler:
        from optuna.samplers import RandomSampler

        return RandomSampler(seed=seed)


@dataclass(frozen=True)
class OfOptuna(Sampler):
    """A sampler object of Optuna's, the same for all points: what it draws after a restart of the
    driver hangs on its own seed, not on the point's."""

    sampler: Any

    def optuna_sampler(self, *, seed: int, index: int) -> BaseSampler:
        return self.sampler

    def __str__(self) -> str:
        return type(self.sampler).__name__


SAMPLERS: dict[str, type[Sampler]] = {
    "tpe": Tpe,
    "random": Random,
}


def as_sampler(value: Any) -> Sampler:
    """A name of SAMPLERS, a Sampler, or a sampler object of Optuna's. Raises ValueError."""
    if isinstance(value, Sampler):
        return value
    if isinstance(value, str):
        if value in SAMPLERS:
            return SAMPLERS[value]()
        near = difflib.get_close_matches(value, SAMPLERS, n=1)
        hint = f"Did you mean {near[0]}?" if near else "Choose one of these."
        raise ValueError(f"a sampler is {', '.join(SAMPLERS)}; received {value!r}. {hint}")
    from optuna.samplers import BaseSampler

    if isinstance(value, BaseSampler):
        return OfOptuna(value)
    raise ValueError(
        f"a sampler is one of {', '.join(SAMPLERS)}, or a sampler object of Optuna's; received "
        f"{value!r}. Choose one of these."
    )
