"""What earlier launches are worth to a search, and what they cost it where they mislead.

The regret after few trials of a search that is told of an earlier one (40 random points) over the
same axes, against the same search without: surrogates over our own spaces (search_problems.py), and
of each an earlier problem of every kind below. 0 is the best point, 1 the median of random ones.

How earlier trials are weighed was chosen on seeds 0 to 19; the default are others.

    python benchmarks/warm_start.py [--seeds 20] [--first-seed 200] [--trials 20]
        [--samplers gp,tpe] [--only MoE]
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Callable, Mapping
from typing import Any

from common import Row, print_result, row, tell
from scipy.stats import kendalltau
from search_problems import SEED_SD, Problem, Values, surrogates
from simulated_search import interval, searched

from orchestrator.study.samplers import Sampler, as_sampler
from orchestrator.surrogate.columns import position
from orchestrator.surrogate.earlier_searches import Earlier
from orchestrator.surrogate.expected_improvement import Seen
from search_spaces.domains import Float

_RATE = "optim.learning_rate"
_EARLIER_TRIALS = 40
_HARM = 1.25  # of a cold start's regret, at most, where the earlier launch says nothing or lies


def another_scale(problem: Problem) -> Callable[[Values], float]:
    """Effects of three quarters the size, each choice moved a little, a best rate 1.4 times lower:
    what holds between scales, mostly."""
    moved = _effects(problem, "scale", 0.15)
    return lambda v: 0.75 * problem.cost(_with_rate(problem, v, 1.4)) + moved(v)


def unrelated(problem: Problem) -> Callable[[Values], float]:
    return _effects(problem, "unrelated", 0.6)


def half_wrong(problem: Problem) -> Callable[[Values], float]:
    """The best rate at the other end, all else the same."""
    domain = problem.space.axes[_RATE]
    assert isinstance(domain, Float)

    def cost(values: Values) -> float:
        mirrored = {**values, _RATE: domain.low * domain.high / values[_RATE]}
        return problem.cost(mirrored)

    return cost


def opposite(problem: Problem) -> Callable[[Values], float]:
    return lambda values: -problem.cost(values)


KINDS = (another_scale, unrelated, half_wrong, opposite)


def _with_rate(problem: Problem, values: Values, factor: float) -> dict[str, Any]:
    domain = problem.space.axes[_RATE]
    assert isinstance(domain, Float)
    return {**values, _RATE: min(domain.high, max(domain.low, values[_RATE] * factor))}


def _effects(problem: Problem, name: str, size: float) -> Callable[[Values], float]:
    """An additive function of the axes, drawn once: of a range a slope and a bend, of a choice a
    value each; `size` is in shares of the median's distance from the best."""
    scale = size * problem.scale[1]

    def effect(path: str, value: Any) -> float:
        domain = problem.space.axes[path]
        if isinstance(domain, Float):
            rng, at = random.Random(f"{name} {path}"), position(domain, value)
            return rng.gauss(0, 1) * (at - 0.5) * 2 + rng.gauss(0, 1) * (at - 0.5) ** 2 * 4
        return random.Random(f"{name} {path} {value}").gauss(0, 1)

    def cost(values: Values) -> float:
        effects = [effect(path, value) for path, value in values.items()]
        return scale * sum(effects) / len(effects) ** 0.5

    return cost


def earlier_problem(problem: Problem, kind: Callable) -> Problem:
    def noise(_: Values, rng: random.Random) -> float:
        return rng.gauss(0, SEED_SD)

    return Problem(
        f"{problem.name}, {kind.__name__}",
        problem.space,
        kind(problem),
        noise,
        is_feasible=problem.is_feasible,
        best=0.0,  # regret there is not asked for
    )


def earlier_search(problem: Problem, seed: int) -> Earlier:
    """Another launch over the same axes."""
    run = searched(problem, as_sampler("random"), trials=_EARLIER_TRIALS, seed=1000 + seed)
    seen = tuple(Seen(values=r.params, cost=r.value) for r in run.records)
    return Earlier(launch=problem.name, space=problem.space, seen=seen)


def agreement(problem: Problem, kind: Callable) -> float:
    """Kendall's tau of the two problems over random points."""
    points, other = problem.random_points(300), kind(problem)
    return float(kendalltau([problem.cost(v) for v in points], [other(v) for v in points])[0])


def regrets(
    problem: Problem, sampler: Sampler, trials: int, earlier: Mapping[int, tuple[Earlier, ...]]
) -> list[float]:
    """Of the recommended points, a search for each seed and what is told at it."""
    return [
        searched(problem, sampler, trials=trials, seed=seed, earlier=told).regrets[-1]
        for seed, told in earlier.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=200)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--samplers", default="gp,tpe")
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    rows: list[Row] = []
    for problem in surrogates():
        if options.only not in problem.name:
            continue
        seeds = range(options.first_seed, options.first_seed + options.seeds)
        others = {kind: earlier_problem(problem, kind) for kind in KINDS}
        told = {k: {s: (earlier_search(of, s),) for s in seeds} for k, of in others.items()}
        for name in options.samplers.split(","):
            sampler = as_sampler(name)
            cold = regrets(problem, sampler, options.trials, dict.fromkeys(seeds, ()))
            tell(f"{problem.name}, {name}, cold: {statistics.fmean(cold):.3f}")
            for kind in KINDS:
                warm = regrets(problem, sampler, options.trials, told[kind])
                low, high = interval([a - b for a, b in zip(warm, cold, strict=True)])
                tau = agreement(problem, kind)
                tell(
                    f"{problem.name}, {name}, {kind.__name__} (tau {tau:+.2f}): "
                    f"{statistics.fmean(warm):.3f}, less cold "
                    f"{statistics.fmean(warm) - statistics.fmean(cold):+.3f} "
                    f"[{low:+.3f}, {high:+.3f}]"
                )
                case = f"{name}, {problem.name}, {kind.__name__}, {options.trials} trials"
                rows.append(
                    row(
                        f"{case}, {options.seeds} seeds",
                        baseline="cold start",
                        ours=statistics.fmean(warm),
                        theirs=statistics.fmean(cold),
                        unit="regret",
                        goal=1.0 if kind is another_scale else _HARM,
                    )
                )
    print_result("warm_start", rows, packages=("optuna", "numpy", "scipy"))


if __name__ == "__main__":
    main()
