"""One search of a problem whose answers are known (search_problems.py), by the project's own path:
`Search`, `Sampler.suggestions`, a point once, the noise of one seed each.
"""

from __future__ import annotations

import dataclasses
import math
import random
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

from search_problems import Problem

from orchestrator.stores.choices import optuna_distributions
from orchestrator.stores.trial_record import TrialRecord
from orchestrator.study.samplers import Sampler, Search, Values
from orchestrator.surrogate.earlier_searches import Earlier
from orchestrator.trials.sampling import DRAWS_OF_SAMPLER
from orchestrator.trials.search_state import Search as Searched


def record_of(number: int, values: Values, value: float, problem: Problem) -> TrialRecord:
    fields = dict.fromkeys(field.name for field in dataclasses.fields(TrialRecord))
    known = optuna_distributions(problem.space)
    own = {
        "number": number,
        "trial_id": number,
        "cell_hash": repr(_key(values)),
        "seed": 0,
        "state": "complete",
        "value": value,
        "params": values,
        "distributions": {path: known[path] for path in values},
        "attributes": {},
        "curve": {},
    }
    return TrialRecord(**{**fields, **own})


@dataclasses.dataclass
class Run:
    """One search: its trials, regret of the recommended point after each, and what it took."""

    records: list[TrialRecord]
    regrets: list[float]
    fallbacks: int
    suggestion_s: float


class Points:
    """What a sampler draws of a problem, each point once; at random (`fallbacks`) where it finds no
    open one. `spent_s` is the CPU time of all draws."""

    def __init__(self, problem: Problem, sampler: Sampler, seed: int) -> None:
        self._problem, self._sampler, self._seed = problem, sampler, seed
        self.rng = random.Random(f"{problem.name} {seed}")
        self._known: set[Any] = set()
        self.fallbacks, self.spent_s = 0, 0.0

    def next(self, search: Callable[[Callable[[Values], bool]], Search], index: int) -> Values:
        """`search`: what is known so far, by what says whether a point is open."""
        begin = time.thread_time()
        seed = hash((self._seed, index)) % 2**32
        draws = self._sampler.suggestions(search(self._is_open), seed=seed, index=index)
        values = next(filter(self._is_open, islice(draws, DRAWS_OF_SAMPLER)), None)
        while values is None or not self._is_open(values):
            drawn = self._problem.space.draw(self.rng)
            if self._is_open(drawn):
                values = drawn
                self.fallbacks += 1
        self.spent_s += time.thread_time() - begin
        self._known.add(_key(values))
        return values

    def _is_open(self, values: Values) -> bool:
        return _key(values) not in self._known and self._problem.is_feasible(values)


def _key(values: Values) -> Any:
    return tuple(sorted(values.items()))


def searched(
    problem: Problem,
    sampler: Sampler,
    *,
    trials: int,
    seed: int,
    at_once: int = 1,
    earlier: Sequence[Earlier] = (),
    prior: Values | None = None,
) -> Run:
    """`at_once` points are under way as soon as there are as many; they come back in order.
    `earlier` launches and `prior` values are told as a study tells them."""
    points = Points(problem, sampler, seed)
    records: list[TrialRecord] = []
    waiting: deque[TrialRecord] = deque()
    regrets, best = [], math.inf
    recommended: Values = {}

    def search(is_open: Callable[[Values], bool]) -> Search:
        return Searched(
            space=problem.space,
            records=records,
            is_open=is_open,
            earlier=earlier,
            prior=prior or {},
        )

    for index in range(trials + at_once - 1):
        if index < trials:
            values = points.next(search, index)
            value = problem.observed(values, points.rng)
            done = record_of(index, values, value, problem)
            records.append(dataclasses.replace(done, state="running", value=None))
            waiting.append(done)
        if index >= at_once - 1:
            back = waiting.popleft()
            records[back.number] = back
            if back.value < best:
                best, recommended = back.value, back.params
            regrets.append(problem.regret(recommended))
    return Run(records, regrets, points.fallbacks, points.spent_s / trials)


def interval(differences: list[float]) -> tuple[float, float]:
    """95% of means over 2,000 bootstraps of the seeds."""
    rng = random.Random(0)
    means = sorted(
        statistics.fmean(rng.choices(differences, k=len(differences))) for _ in range(2000)
    )
    return means[49], means[1949]
