"""A search as a sampler sees it: its space, what was seen of it, what is open; for samplers of
Optuna, a study in memory that holds all of this.

Such a study knows the order of numbers that a space lists: their axis is a range of ranks there,
and a choice of values in the record and its pages. TPE and Optuna's process take them for equally
unlike each other otherwise, which costs more than the choice between the two (docs/log.md).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from moe.metrics import VAL_LOSS, describe
from orchestrator.stores.choices import optuna_distributions
from orchestrator.stores.optuna_private import (
    CONSTRAINT_VALUES,
    generations_of,
    reseeded_copy,
    study_id_of,
)
from orchestrator.stores.trial_record import TrialRecord
from orchestrator.stores.violations import excesses, means_by_point, point_of
from orchestrator.study.constraints import Constraint
from orchestrator.study.objectives import directions_of
from orchestrator.surrogate.earlier_searches import Earlier, Told, told_by
from orchestrator.surrogate.expected_improvement import Seen
from orchestrator.surrogate.scalarisation import Outcome
from search_spaces.domains import Choice, is_ordered, is_ordered_list
from search_spaces.space import Space

Values = Mapping[str, Any]

_SHADOW_STATE = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "running": TrialState.RUNNING,
    "waiting": TrialState.RUNNING,
    "failed": TrialState.PRUNED,
}


@dataclass(frozen=True, kw_only=True)
class Search:
    """`fixed` are values that the next point is to have where their axes exist, `prior` those that
    the study believes in; `feasible` all feasible points, of a space that was enumerated; `is_open`
    says whether a point is feasible and new. `constraints` are bounds on what points come to.
    `objectives` are those of a study that has several. `earlier` are searches of other launches
    that tell what is worth a try."""

    space: Space
    records: Sequence[TrialRecord]
    metric: str = VAL_LOSS
    objectives: Sequence[str] = ()
    fixed: Values = field(default_factory=dict)
    prior: Values = field(default_factory=dict)
    constraints: Sequence[Constraint] = ()
    feasible: Sequence[Values] | None = None
    earlier: Sequence[Earlier] = ()
    is_open: Callable[[Values], bool]

    @cached_property
    def seen(self) -> list[Seen]:
        """Points of trials that ended; what a complete one has over its bounds."""
        return [
            Seen(values=record.params, cost=cost, excess=self._excess(record) or None)
            for record, cost in self.judged
        ]

    def _excess(self, record: TrialRecord) -> tuple[float, ...]:
        is_told = record.state == "complete" and self.constraints
        return tuple(excesses(record.metrics, self.constraints)) if is_told else ()

    @cached_property
    def judged(self) -> list[tuple[TrialRecord, float]]:
        """Trials that ended, with their cost. One that was stopped early counts as what it would
        have come to had it fallen, from its last evaluation on, as the median of the others; but
        for one that was promoted, and has come to its end since."""
        cost = describe(self.metric).cost
        complete = [r for r in self.records if r.state == "complete" and self._is_here(r)]
        found = [(record, cost(record.value)) for record in complete]
        done = {record.config_hash for record in complete}
        for record in self.records:
            if not self._is_here(record):
                continue
            if record.diverged:
                found.append((record, float("inf")))
            elif record.state == "pruned" and record.curve and record.config_hash not in done:
                at = max(record.curve)
                rest = [cost(r.value) - cost(r.curve[at]) for r in complete if at in r.curve]
                fall = statistics.median(rest) if rest else 0.0
                found.append((record, cost(record.curve[at]) + fall))
        return found

    @cached_property
    def outcomes(self) -> list[Outcome]:
        """Trials that ended, by the cost of every objective."""
        found = []
        for record in filter(self._is_here, self.records):
            if record.state == "complete":
                told = zip(self.objectives, record.values, strict=True)
                costs = [describe(name).cost(value) for name, value in told]
            elif record.diverged:
                costs = [math.inf] * len(self.objectives)
            else:
                continue
            found.append(Outcome(values=record.params, costs=tuple(costs)))
        return found

    @cached_property
    def told(self) -> Told | None:
        """What the earlier searches say, weighed by what this one has seen."""
        return told_by(self.earlier, self.seen)

    @cached_property
    def shown_of_earlier(self) -> list[Seen]:
        """Their trials as a sampler of Optuna is shown them."""
        return self.told.shown(self.seen) if self.told is not None else []

    def has_seen(self, count: int) -> bool:
        """Whether so many trials ended, of which something is known."""
        ended = (
            record
            for record in self.records
            if (record.state == "complete" or record.diverged)
            or (record.state == "pruned" and record.curve)
            if self._is_here(record)
        )
        return len(list(islice(ended, count))) == count

    @cached_property
    def pending(self) -> list[Values]:
        """Points of trials that run or wait."""
        begun = [r for r in self.records if r.state in ("running", "waiting") and self._is_here(r)]
        return list({tuple(sorted(r.params.items())): r.params for r in begun}.values())

    def _is_here(self, record: TrialRecord) -> bool:
        """Whether its point is still one of the space, feasible or not."""
        return self.space.has(record.params)

    # As a study of Optuna ------------------------------------------------------------------------

    def as_optuna_study(self, sampler: BaseSampler, *, reseeded: int | None = None) -> optuna.Study:
        """In memory, with the history, for a sampler to draw beside; or a copy of it that has a
        seed of its own."""
        if reseeded is not None:
            sampler = reseeded_copy(sampler, reseeded)
        return study_of(
            self.records,
            sampler,
            metric=self.metric,
            objectives=self.objectives,
            space=self.space,
            constraints=self.constraints,
            earlier=self.shown_of_earlier,
        )

    def draws(self, study: optuna.Study) -> Iterator[dict[str, Any]]:
        """Points of a study's sampler. One that was not taken is told as pruned without a value,
        which Optuna's samplers take for worse than all others: they learn to leave such points."""
        now = _distributions_of(self.space)
        fixed = {path: _rank_of(now.get(path), value) for path, value in self.fixed.items()}
        # One that has drawn all that there is stops its study, which is nobody's loop here.
        ended: list[bool] = []
        study.stop = lambda: ended.append(True)
        while not ended:
            if fixed:
                study.enqueue_trial(fixed)
            trial = study.ask()
            yield self.space.suggest(_ByRank(trial))
            study.tell(trial, state=TrialState.PRUNED)


def study_of(
    history: Iterable[TrialRecord],
    sampler: BaseSampler,
    *,
    metric: str = VAL_LOSS,
    objectives: Sequence[str] = (),
    space: Space | None = None,
    constraints: Sequence[Constraint] = (),
    earlier: Sequence[Seen] = (),
) -> optuna.Study:
    """A study in memory that holds a history, after what is shown of `earlier` launches: values of
    the metric, or of several objectives.

    Trials are shown under the choices that `space` has now: an axis may have got more since. Each
    has its point's excess over the `constraints`, by the mean over the seeds that are shown.
    """
    now = _distributions_of(space) if space else {}
    history = list(history)
    storage = InMemoryStorage()
    directions = directions_of(objectives or [metric])
    study = optuna.create_study(storage=storage, sampler=sampler, directions=directions)
    for one in earlier:
        shadow = _as_told(one, now, describe(metric).cost(one.cost))
        storage.create_new_trial(study_id_of(study), template_trial=shadow)
    generations = generations_of(sampler, [record.state == "complete" for record in history])
    means = means_by_point(history, constraints)
    for record, told in zip(history, generations, strict=True):
        if constraints and record.state == "complete":
            told = {**told, CONSTRAINT_VALUES: excesses(means[point_of(record)], constraints)}
        shadow = _as_shadow(record, now, told)
        storage.create_new_trial(study_id_of(study), template_trial=shadow)
    return study


def _distributions_of(space: Space) -> dict[str, BaseDistribution]:
    made = optuna_distributions(space)
    for path, domain in space.axes.items():
        if isinstance(domain, Choice) and is_ordered(domain):
            made[path] = _Ranks(domain.values)
    return made


class _Ranks(IntDistribution):
    """Of the numbers that a space lists."""

    def __init__(self, values: tuple[Any, ...]) -> None:
        super().__init__(0, len(values) - 1)
        self.values = values


class _ByRank:
    """A trial that a space asks for one of several numbers, and that is asked for a rank."""

    def __init__(self, trial: Trial) -> None:
        self._trial = trial
        self.suggest_int = trial.suggest_int
        self.suggest_float = trial.suggest_float

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        if not is_ordered_list(choices):
            return self._trial.suggest_categorical(name, choices)
        return choices[self._trial.suggest_int(name, 0, len(choices) - 1)]


def _shown(distribution: BaseDistribution) -> BaseDistribution:
    """As Optuna compares it with what it made itself."""
    if isinstance(distribution, _Ranks):
        return IntDistribution(distribution.low, distribution.high)
    return distribution


def _rank_of(distribution: BaseDistribution | None, value: Any) -> Any:
    return distribution.values.index(value) if isinstance(distribution, _Ranks) else value


class _Shadow(FrozenTrial):
    """Optuna copies a trial deeply as it is added, at each suggestion anew; these are only read."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _Shadow:
        return self


def _as_shadow(
    record: TrialRecord, now: Mapping[str, BaseDistribution], told: Mapping[str, Any]
) -> _Shadow:
    """A trial as the sampler may see it: waiting ones count as running, for the constant liar.

    TPE leaves failed trials out and takes a pruned one without values for worse than all others, so
    this is how it is told of a divergence.
    """
    params, distributions = {}, {}
    for path, own in record.distributions.items():
        value, current = record.params[path], now.get(path)
        if isinstance(current, _Ranks):
            if value not in current.values:
                continue  # the axis has lost it: there is no rank to tell
            params[path] = current.values.index(value)
            distributions[path] = _shown(current)
        else:
            params[path] = value
            distributions[path] = _grown(own, current, value)
    return _Shadow(
        number=record.number,
        trial_id=record.number,
        state=_SHADOW_STATE[record.state],
        value=None,
        values=(record.values or [record.value]) if record.state == "complete" else None,
        datetime_start=None,
        datetime_complete=None,
        params=params,
        distributions=distributions,
        user_attrs={},
        system_attrs=dict(told),
        intermediate_values={} if record.diverged else dict(record.curve),
    )


def _as_told(one: Seen, now: Mapping[str, BaseDistribution], value: float) -> _Shadow:
    """A trial of an earlier launch: complete, with the value that it stands for here."""
    return _Shadow(
        number=-1,
        trial_id=-1,
        state=TrialState.COMPLETE,
        value=value,
        datetime_start=None,
        datetime_complete=None,
        params={path: _rank_of(now[path], value) for path, value in one.values.items()},
        distributions={path: _shown(now[path]) for path in one.values},
        user_attrs={},
        system_attrs={CONSTRAINT_VALUES: list(one.excess)} if one.excess else {},
        intermediate_values={},
    )


def _grown(own: BaseDistribution, now: BaseDistribution | None, value: Any) -> BaseDistribution:
    both = isinstance(own, CategoricalDistribution) and isinstance(now, CategoricalDistribution)
    return now if both and value in now.choices else own
