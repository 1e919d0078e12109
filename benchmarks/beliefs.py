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

from common import Row, print_result, row, tell
from search_problems import Problem, Values, surrogates
from simulated_search import interval, searched

from orchestrator.study.samplers import as_sampler

_BELIEVED = 3  # axes
_HARM = 1.25  # of the regret without a belief, at most, once data could overcome a wrong one


def true(best: Values, worst: Values, rng: random.Random) -> Values:
    return _some_of(best, rng)


def wrong(best: Values, worst: Values, rng: random.Random) -> Values:
    return _some_of(worst, rng)


def half(best: Values, worst: Values, rng: random.Random) -> Values:
    """Each axis as in one of the two, so that the belief is of no point."""
    both = sorted(best.keys() & worst.keys())
    return {path: rng.choice((best, worst))[path] for path in rng.sample(both, _BELIEVED)}


def _some_of(values: Values, rng: random.Random) -> Values:
    return {path: values[path] for path in rng.sample(sorted(values), _BELIEVED)}


def regrets(problem: Problem, prior: Values, trials: int, seed: int) -> list[float]:
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
    for problem in surrogates():
        if options.only not in problem.name:
            continue
        points = sorted(problem.random_points(1000), key=problem.cost)
        without = [regrets(problem, {}, max(after), seed) for seed in seeds]
        for belief in (true, half, wrong):
            priors = {seed: belief(points[0], points[-1], random.Random(seed)) for seed in seeds}
            told = [regrets(problem, prior, max(after), seed) for seed, prior in priors.items()]
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
