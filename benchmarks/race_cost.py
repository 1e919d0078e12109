"""What a race and its confirmation cost beside the search that they end, and what they buy.

Each search draws points of a surrogate over our own spaces (search_problems.py), trains each with
one seed's noise, and ends in two ways: the point of the best single value, or `recommend`'s race of
the points that a Gaussian process believes in, on so many further trainings as `--cost` allows.
Told are regrets (0 the best point, 1 the median of random ones), by how much each reported value
lies below the point's true cost, in sds of a seed, and in how many searches the confirming interval
holds the winner's true cost. `longer` spends the race's trainings on further points instead.

    python benchmarks/race_cost.py [--searches 200] [--points 40] [--cost 1.3] [--sampler tpe]
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import statistics

import numpy as np
from common import Row, limit, print_result, row, tell
from search_problems import SEED_SD, Problem, surrogate
from search_quality import interval, searched

from orchestrator.report.race import Budget, Race, budget_of, race_of
from orchestrator.stores.trial_record import TrialRecord
from orchestrator.study.samplers import as_sampler
from orchestrator.surrogate.columns import Columns
from orchestrator.surrogate.expected_improvement import Seen, fitted_to
from studies.scales import SMOKE
from studies.search import space as space_of_search

LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class End:
    """What one search of each kind came to."""

    single: float
    longer: float
    raced: float
    single_looks_better: float
    raced_looks_better: float
    holds_truth: bool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--searches", type=int, default=200)
    parser.add_argument("--points", type=int, default=40)
    parser.add_argument("--cost", type=float, default=1.3)
    parser.add_argument("--sampler", default="tpe")
    options = parser.parse_args()
    problem = surrogate("MoE, studies/search.py", space_of_search(SMOKE))
    extra = round((options.cost - 1) * options.points)
    ends = [
        ended(problem, options.sampler, options.points, extra, seed)
        for seed in range(options.searches)
    ]
    for name in ("single", "longer", "raced", "single_looks_better", "raced_looks_better"):
        values = [getattr(end, name) for end in ends]
        error = statistics.stdev(values) / len(values) ** 0.5
        tell(f"{name}: {statistics.fmean(values):.4f} (se {error:.4f})")
    for other in ("single", "longer"):
        less = [end.raced - getattr(end, other) for end in ends]
        low, high = interval(less)
        tell(f"regret, raced less {other}: {statistics.fmean(less):+.4f} [{low:+.4f}, {high:+.4f}]")
    held = sum(end.holds_truth for end in ends)
    tell(f"the confirming interval holds the winner's true cost in {held} of {len(ends)}")
    case = f"{options.points} points and {extra} trainings raced, {len(ends)} searches"
    rows: list[Row] = [
        row(
            f"regret, {case}",
            baseline=name,
            ours=statistics.fmean(end.raced for end in ends),
            theirs=statistics.fmean(getattr(end, name) for end in ends),
            unit="regret",
            goal=1.0 if name == "single" else None,
        )
        for name in ("single", "longer")
    ]
    allowed = _misses(len(ends))
    rows.append(
        limit(f"intervals that miss, {case}", ours=len(ends) - held, at_most=allowed, unit="of all")
    )
    print_result("race_cost", rows, packages=("optuna", "numpy", "scipy"))


def _misses(searches: int) -> int:
    """As many as 95% intervals miss in all but 2.5% of such samples."""
    from scipy.stats import binom

    return int(binom.ppf(0.975, searches, 1 - LEVEL))


def ended(problem: Problem, sampler: str, points: int, extra: int, seed: int) -> End:
    run = searched(problem, as_sampler(sampler), trials=points + extra, seed=seed)
    records = [
        dataclasses.replace(r, cell_hash=str(r.number), seed=0, is_older=False)
        for r in run.records[:points]
    ]
    race, of = raced(problem, records, budget_of(records, trainings=extra), seed)
    assert race.winner is not None
    winner = of[race.winner.point]
    best = min(records, key=lambda record: record.value)
    sure, truth = race.confirmed(), problem.cost(winner.params)
    assert sure is not None
    return End(
        single=run.regrets[points - 1],
        longer=run.regrets[-1],
        raced=problem.regret(winner.params),
        single_looks_better=(problem.cost(best.params) - best.value) / SEED_SD,
        raced_looks_better=(truth - sure.mean) / SEED_SD,
        holds_truth=sure.low is not None and sure.low <= truth <= sure.high,
    )


def raced(
    problem: Problem, records: list[TrialRecord], budget: Budget, seed: int
) -> tuple[Race, dict[str, TrialRecord]]:
    """The race, trained until it asks for nothing; and its points by name."""
    of = {record.cell_hash: record for record in records}
    columns = Columns(problem.space)
    seen = [Seen(values=r.params, cost=r.value) for r in records]
    believed = fitted_to(columns, seen).predict(columns.rows([r.params for r in records]))[0]
    ranked = [records[i].cell_hash for i in np.argsort(believed, kind="stable")]
    rng, trained = random.Random(f"race {seed}"), list(records)
    while (race := race_of(ranked, trained, budget, cost=float)).wanted:
        for point, at in race.wanted:
            value = problem.observed(of[point].params, rng)
            trained.append(dataclasses.replace(of[point], seed=at, value=value))
    return race, of


if __name__ == "__main__":
    main()
