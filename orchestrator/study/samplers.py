"""Who draws the points of a sampled study.

To add a sampler: a frozen dataclass below `Sampler`, and a line in `SAMPLERS`. A sampler of Optuna
itself needs none: `Study(sampler=optuna.samplers.GPSampler())`.

Optuna is imported only where a sampler is made: a study file is read by commands that draw nothing.
"""

from __future__ import annotations

import copy
import difflib
import random
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from search_spaces.drawing import at, with_values
from search_spaces.space import Space

if TYPE_CHECKING:
    import optuna
    from optuna.samplers import BaseSampler

    from orchestrator.surrogate.earlier_searches import Told
    from orchestrator.surrogate.expected_improvement import Seen
    from orchestrator.surrogate.scalarisation import Outcome

Values = Mapping[str, Any]

_SOBOL_BITS, _SOBOL_TRIES = 30, 2000
_GP_AXES = 40  # its priors are for tens of columns


class Search(Protocol):
    """What a sampler is asked about (orchestrator.trials.search_state)."""

    space: Space
    fixed: Values
    prior: Values
    feasible: Sequence[Values] | None
    is_open: Callable[[Values], bool]
    objectives: Sequence[str]

    @property
    def seen(self) -> list[Seen]: ...
    @property
    def outcomes(self) -> list[Outcome]: ...
    @property
    def pending(self) -> list[Values]: ...
    @property
    def told(self) -> Told | None: ...
    @property
    def shown_of_earlier(self) -> list[Seen]: ...
    def has_seen(self, count: int) -> bool: ...
    def as_optuna_study(
        self, sampler: BaseSampler, *, reseeded: int | None = None
    ) -> optuna.Study: ...
    def draws(self, study: optuna.Study) -> Iterator[dict[str, Any]]: ...


class Sampler(ABC):
    """What a study file states. `trials.sampling` asks it for each point of a launch."""

    # Judged trials, and as many that run or wait, that it is shown: this bounds its cost.
    history_limit: ClassVar[int] = 100
    takes_prior: ClassVar[bool] = False  # whether a study's `prior` moves what it draws
    takes_objectives: ClassVar[bool] = False  # whether it can improve several at once
    takes_earlier: ClassVar[bool] = False  # whether earlier launches do

    @abstractmethod
    def suggestions(self, search: Search, *, seed: int, index: int) -> Iterator[Values]:
        """Points for the launch's number `index`, the one to try first before all others.

        The first that is open is taken. `seed` is the point's own: everything hangs on it and on
        the history, so that a restarted driver draws what the dead one would have.
        """

    def __str__(self) -> str:
        return next(name for name, kind in SAMPLERS.items() if kind is type(self))


class OptunaSampler(Sampler):
    """One that Optuna has."""

    takes_objectives: ClassVar[bool] = True

    @abstractmethod
    def optuna_sampler(self, *, seed: int, index: int) -> BaseSampler:
        """It draws in a study that holds the history alone, made for this point."""

    def suggestions(self, search: Search, *, seed: int, index: int) -> Iterator[Values]:
        sampler = self.optuna_sampler(seed=seed, index=index)
        yield from search.draws(search.as_optuna_study(sampler))


@dataclass(frozen=True, kw_only=True)
class Tpe(OptunaSampler):
    """Tree-structured Parzen estimators (arXiv 2304.11127), after `startup` random points; told of
    earlier searches, every other of these is drawn by what they say.

    All axes that exist together are drawn together (`multivariate`), and each set of axes that
    exist under one condition (`group`).
    """

    startup: int = 10
    takes_earlier: ClassVar[bool] = True

    def optuna_sampler(self, *, seed: int, index: int) -> BaseSampler:
        from optuna.exceptions import ExperimentalWarning
        from optuna.samplers import TPESampler

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # of `group`, since Optuna 2.8
            return TPESampler(
                seed=seed,
                multivariate=True,
                group=True,
                constant_liar=True,
                n_startup_trials=self.startup,
            )

    def suggestions(self, search: Search, *, seed: int, index: int) -> Iterator[Values]:
        is_told = bool(search.shown_of_earlier) and index % 2 == 0
        if not is_told and not search.has_seen(self.startup):
            return Random().suggestions(search, seed=seed, index=index)
        return super().suggestions(search, seed=seed, index=index)


@dataclass(frozen=True, kw_only=True)
class Random(Sampler):
    """Every point by itself, whatever is known of others: the baseline of any search."""

    takes_objectives: ClassVar[bool] = True

    def suggestions(self, search: Search, *, seed: int, index: int) -> Iterator[Values]:
        rng = random.Random(seed)
        while search.feasible is None:
            yield with_values(search.space, search.fixed, rng)
        yield from rng.sample(search.feasible, len(search.feasible))


@dataclass(frozen=True, kw_only=True)
class Gp(Sampler):
    """Expected improvement under a Gaussian process, after `startup` points far from each other; of
    several objectives, of their sum by weights that each point draws for itself.

    Ordered numbers are ordered, axes that only some points have are known as such, points under way
    are part of the model, and only feasible points are looked at.
    """

    startup: int = 8
    history_limit: ClassVar[int] = 200  # its cost grows with the cube
    takes_prior: ClassVar[bool] = True
    takes_objectives: ClassVar[bool] = True
    takes_earlier: ClassVar[bool] = True

    def suggestions(self, search: Search, *, seed: int, index: int) -> Iterator[Values]:
        from orchestrator.surrogate.expected_improvement import next_points  # brings scipy
        from orchestrator.surrogate.scalarisation import scalarised

        rng = random.Random(seed)
        seen = scalarised(search.outcomes, rng) if search.objectives else search.seen
        return next_points(
            search.space,
            seen,
            search.pending,
            is_open=search.is_open,
            fixed=search.fixed,
            feasible=search.feasible,
            startup=self.startup,
            rng=rng,
            prior=search.prior,
            told=search.told,
        )


@dataclass(frozen=True, kw_only=True)
class Qmc(Sampler):
    """Scrambled Sobol points, which fill a space evenly: the grid of those who have no budget for
    one. Where points are refused it goes on to the next."""

    seed: int = 0
    takes_objectives: ClassVar[bool] = True

    def suggestions(self, search: Search, *, seed: int, index: int) -> Iterator[Values]:
        from scipy.stats.qmc import Sobol

        paths = list(search.space.axes)
        sequence = Sobol(len(paths), seed=self.seed, bits=_SOBOL_BITS)
        if index:  # as many were taken at least
            sequence.fast_forward(index)
        for _ in range(_SOBOL_TRIES + index):
            shares = sequence.random(1)[0].tolist()
            values = at(search.space, dict(zip(paths, shares, strict=True)), search.fixed)
            if search.is_open(values):
                yield values


@dataclass(frozen=True, kw_only=True)
class Nsga2(OptunaSampler):
    """A genetic algorithm (Deb et al. 2002), made for several objectives, by generations of
    `population` trials."""

    population: int = 20

    def optuna_sampler(self, *, seed: int, index: int) -> BaseSampler:
        from optuna.samplers import NSGAIISampler

        return NSGAIISampler(seed=seed, population_size=self.population)


@dataclass(frozen=True)
class OfOptuna(OptunaSampler):
    """A sampler object of Optuna's; a copy of it, with the point's own seed, draws each point."""

    sampler: Any

    @property
    def takes_objectives(self) -> bool:
        """Asked of it, in a study of two: Optuna's samplers raise where they take one."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)  # it tells of every study made
        study = optuna.create_study(
            directions=["minimize"] * 2, sampler=copy.deepcopy(self.sampler)
        )
        try:
            study.ask({"x": optuna.distributions.IntDistribution(0, 1)})  # any can draw this
        except ValueError:
            return False
        return True

    def optuna_sampler(self, *, seed: int, index: int) -> BaseSampler:
        return self.sampler

    def suggestions(self, search: Search, *, seed: int, index: int) -> Iterator[Values]:
        yield from search.draws(search.as_optuna_study(self.sampler, reseeded=seed))

    def __str__(self) -> str:
        return type(self.sampler).__name__


@dataclass(frozen=True, kw_only=True)
class Auto(Sampler):
    """`gp` where it can afford it, `tpe` beyond: chosen by the launch's size (`chosen_for`)."""

    takes_objectives: ClassVar[bool] = True

    def chosen_for(self, space: Space, points: int, seeds: int) -> Sampler:
        return Tpe() if self._why_not(space, points, seeds) else Gp()

    def line(self, space: Space, points: int, seeds: int) -> str:
        """What was chosen, and why, for people."""
        if why := self._why_not(space, points, seeds):
            return f"points are drawn by tpe, since {why}; --sampler chooses another"
        return (
            f"points are drawn by gp, a Gaussian process: {points * seeds} trials over "
            f"{len(space.axes)} axes are few enough for it; --sampler chooses another"
        )

    @staticmethod
    def _why_not(space: Space, points: int, seeds: int) -> str:
        if points * seeds > Gp.history_limit:
            return f"{points * seeds} trials are more than {Gp.history_limit}"
        if len(space.axes) > _GP_AXES:
            return f"{len(space.axes)} axes are more than {_GP_AXES}"
        return ""

    def suggestions(self, search: Search, *, seed: int, index: int) -> Iterator[Values]:
        raise AssertionError("a launch asks whom `chosen_for` chose")


SAMPLERS: dict[str, type[Sampler]] = {
    "auto": Auto,
    "gp": Gp,
    "tpe": Tpe,
    "random": Random,
    "qmc": Qmc,
    "nsga2": Nsga2,
}

# Of Optuna's, those that keep what they know in the study that they draw in, not in its trials.
_STATEFUL = {
    "QMCSampler": 'Write sampler="qmc".',
    "GridSampler": "Write a grid study, with cells.",
    "CmaEsSampler": 'Write sampler="gp", which takes choices and conditions too.',
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
        for one in _samplers_in(value):
            names = [kind.__name__ for kind in type(one).__mro__]  # a subclass keeps it alike
            stateful = next((name for name in names if name in _STATEFUL), None)
            if stateful is not None:
                within = "" if one is value else f" within {type(value).__name__}"
                raise ValueError(
                    "each point is drawn by a fresh sampler beside the trials of the record, which "
                    f"is what survives a killed driver; received {names[0]}{within}, which keeps "
                    f"its state elsewhere and would begin anew each time. {_STATEFUL[stateful]}"
                )
        return OfOptuna(value)
    raise ValueError(
        f"a sampler is one of {', '.join(SAMPLERS)}, or a sampler object of Optuna's; received "
        f"{value!r}. Choose one of these."
    )


def _samplers_in(sampler: BaseSampler) -> Iterator[BaseSampler]:
    """A sampler of Optuna's, and those that it draws by."""
    from optuna.samplers import BaseSampler

    yield sampler
    for one in vars(sampler).values():
        if isinstance(one, BaseSampler):
            yield from _samplers_in(one)
