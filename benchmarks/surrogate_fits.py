"""The Gaussian process of our searches beside BoTorch's, on the same points: why it is our own.

Each model is fitted to points drawn at random on the problems of search_problems.py, each with the
noise of one seed, and foretells the cost of 200 others, without noise. Told are the error of the
mean (root of its mean square, in standard deviations of the costs), how well the others are ranked
(Kendall's tau), in how many of them the truth lies within the 95% interval, and the CPU time of a
fit, with one thread. Costs are drawn in at the roof for all alike, as a search does.

`single` is BoTorch's SingleTaskGP over our columns, `mixed` its MixedSingleTaskGP over ordered
positions and codes of unordered choices (with a column that says whether an axis exists).

    pip install botorch
    python benchmarks/surrogate_fits.py [--seeds 8] [--points 50] [--only protein,studies]
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from common import Row, print_result, row, tell
from scipy import stats
from search_problems import Problem, problems
from simulated_search import interval

from orchestrator.surrogate.columns import Columns, position
from orchestrator.surrogate.expected_improvement import standardized
from orchestrator.surrogate.gaussian_process import fitted
from search_spaces.domains import Choice, is_ordered
from search_spaces.space import Space

Array = np.ndarray
Values = dict[str, Any]
Foretell = Callable[[list[Values]], tuple[Array, Array]]
OTHERS = 200


def ours(space: Space, points: list[Values], costs: Array) -> Foretell:
    columns = Columns(space)
    process = fitted(columns.rows(points), costs, columns.groups)
    return lambda others: process.predict(columns.rows(others))


def single(space: Space, points: list[Values], costs: Array) -> Foretell:
    from botorch.models import SingleTaskGP

    columns = Columns(space)
    return of_botorch(lambda x, y: SingleTaskGP(x, y), columns.rows, points, costs)


def mixed(space: Space, points: list[Values], costs: Array) -> Foretell:
    from botorch.models import MixedSingleTaskGP

    unordered = [
        isinstance(domain, Choice) and not is_ordered(domain) for domain in space.axes.values()
    ]
    if not any(unordered):
        raise ValueError("no axis is without order")
    conditional = [p for p in space.axes if any(c.axis == p for c in space.all_conditions)]

    def coded(values: Values) -> list[float]:
        return [
            *(code(space, path, values.get(path)) for path in space.axes),
            *(float(path in values) for path in conditional),
        ]

    at = [i for i, is_unordered in enumerate(unordered) if is_unordered]
    rows: Callable[[Sequence[Values]], Array] = lambda of: np.array([coded(v) for v in of])  # noqa: E731
    return of_botorch(lambda x, y: MixedSingleTaskGP(x, y, cat_dims=at), rows, points, costs)


def code(space: Space, path: str, value: Any) -> float:
    """The number of an unordered choice, one more for a missing one; else where it stands."""
    domain = space.axes[path]
    if isinstance(domain, Choice) and not is_ordered(domain):
        return float(len(domain.values) if value is None else domain.values.index(value))
    return 0.5 if value is None else position(domain, value)


def of_botorch(make: Any, rows: Any, points: list[Values], costs: Array) -> Foretell:
    import torch
    from botorch.fit import fit_gpytorch_mll
    from gpytorch.mlls import ExactMarginalLogLikelihood

    torch.set_num_threads(1)
    model = make(torch.tensor(rows(points)), torch.tensor(costs)[:, None])
    fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))

    def foretell(others: list[Values]) -> tuple[Array, Array]:
        with torch.no_grad():
            found = model.posterior(torch.tensor(rows(others)))
        return found.mean.numpy().ravel(), found.variance.sqrt().numpy().ravel()

    return foretell


MODELS = {"ours": ours, "single": single, "mixed": mixed}


def told_of(problem: Problem, name: str, num: int, seed: int) -> dict[str, float] | None:
    rng = random.Random(seed)
    drawn = problem.random_points(4 * (num + OTHERS), seed=1000 + seed)
    unique = list({tuple(sorted(values.items())): values for values in drawn}.values())
    points, others = unique[:num], unique[num : num + OTHERS]
    costs = [problem.observed(v, rng) for v in points] + [problem.cost(v) for v in others]
    values = standardized(np.array(costs))
    begin = time.thread_time()
    try:
        foretell = MODELS[name](problem.space, points, values[:num])
    except ValueError as error:
        tell(f"{name} on {problem.name}: {error}")
        return None
    fit_s = time.thread_time() - begin
    mean, sd = foretell(others)
    off = mean - values[num:]
    return {
        "error": math.sqrt(float((off**2).mean())),
        "tau": float(stats.kendalltau(mean, values[num:]).statistic),
        "held": float((np.abs(off) <= 1.96 * sd).mean()),
        "fit_s": fit_s,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--points", type=int, default=50)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")  # of fits that take another start
    chosen = [
        problem
        for problem in problems()
        if any(part in problem.name for part in options.only.split(","))
    ]
    rows: list[Row] = []
    for problem, name in itertools.product(chosen, MODELS):
        found = [told_of(problem, name, options.points, seed) for seed in range(options.seeds)]
        of = [one for one in found if one is not None]
        if not of:
            continue
        means = {key: statistics.fmean(one[key] for one in of) for key in of[0]}
        if name == "ours":
            base = of
        less = ""
        if name != "ours":
            paired = [one["error"] - other["error"] for one, other in zip(base, of, strict=True)]
            low, high = interval(paired)
            less = f"; ours less, paired {statistics.fmean(paired):+.3f} [{low:+.3f}, {high:+.3f}]"
        tell(
            f"{problem.name}, {name}: error {means['error']:.3f}, tau {means['tau']:.3f}, "
            f"{means['held']:.0%} within, {means['fit_s']:.2f} s a fit{less}"
        )
        if name != "ours":
            case = f"{problem.name}, {options.points} points, {len(of)} seeds"
            for key, unit in (("error", "sd"), ("fit_s", "s")):
                ours_is = statistics.fmean(one[key] for one in base)
                rows.append(row(f"{key}, {case}", baseline=name, ours=ours_is, theirs=means[key],
                                unit=unit))  # fmt: skip
    print_result("surrogate_fits", rows, packages=("numpy", "scipy", "botorch"))


if __name__ == "__main__":
    main()
