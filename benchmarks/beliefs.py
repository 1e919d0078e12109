"""What a belief (`Study(prior=...)`) is worth to a search, and what a wrong one costs it.

A belief names the values of three axes, drawn for each seed: of the best of 1,000 random points
(true), of the worst (wrong), or of either by a coin for each axis (half). The regret of the best
value seen after few trials, less that of the same search without a belief: 0 is the best point, 1
the median of random ones.

    python benchmarks/beliefs.py [--seeds 20] [--first-seed 0] [--trials 8,14,22,30] [--only MoE]
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Callable

from common import Row, print_result, row, tell
from search_problems import Problem, Values, surrogate, wide_space
from simulated_search import interval, searched

from orchestrator.study.samplers import as_sampler
from studies.scales import SMOKE
from studies.search import space as space_of_search

_BELIEVED = 3  # axes
_HARM = 1.25  # of the regret without a belief, at most, once data could overcome a wrong one

Belief = Callable[[Problem, random.Random], Values]


def true(problem: Problem, rng: random.Random) -> Values:
    return _some_of(min(problem.random_points(1000), key=problem.cost), rng)


def wrong(problem: Problem, rng: random.Random) -> Values:
    return _some_of(max(problem.random_points(1000), key=problem.cost), rng)


def half(problem: Problem, rng: random.Random) -> Values:
    """Each axis as in one of the two, so that the belief is of no point."""
    points = problem.random_points(1000)
    best, worst = min(points, key=problem.cost), max(points, key=problem.cost)
    both = sorted(best.keys() & worst.keys())
    return {path: rng.choice((best, worst))[path] for path in rng.sample(both, _BELIEVED)}


def _some_of(values: Values, rng: random.Random) -> Values:
    return {path: values[path] for path in rng.sample(sorted(values), _BELIEVED)}


def regrets(problem: Problem, belief: Belief | None, trials: int, seed: int) -> list[float]:
    rng = random.Random(seed)
    prior = belief(problem, rng) if belief else {}
    return searched(problem, as_sampler("gp"), trials=trials, seed=seed, prior=prior).regrets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--trials", default="8,14,22,30")
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    after = [int(num) for num in options.trials.split(",")]
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    rows: list[Row] = []
    for problem in (
        surrogate("MoE, studies/search.py", space_of_search(SMOKE)),
        surrogate("MoE, 17 conditional axes", wide_space(SMOKE)),
    ):
        if options.only not in problem.name:
            continue
        without = [regrets(problem, None, max(after), seed) for seed in seeds]
        for belief in (true, half, wrong):
            told = [regrets(problem, belief, max(after), seed) for seed in seeds]
            for num in after:
                ours, theirs = ([one[num - 1] for one in each] for each in (told, without))
                low, high = interval([a - b for a, b in zip(ours, theirs, strict=True)])
                mean, cold = statistics.fmean(ours), statistics.fmean(theirs)
                case = f"{problem.name}, {belief.__name__}, {num} trials, {len(seeds)} seeds"
                tell(f"{case}: {mean:.3f}, without {cold:.3f}, {mean - cold:+.3f} "
                     f"[{low:+.3f}, {high:+.3f}]")  # fmt: skip
                is_last = num == max(after)
                goal = 1.0 if belief is true else _HARM if is_last else None
                rows.append(row(case, baseline="no belief", ours=mean, theirs=cold, unit="regret",
                                goal=goal))  # fmt: skip
    print_result("beliefs", rows, packages=("numpy", "scipy"))


if __name__ == "__main__":
    main()
