"""How long the driver's loop stands still for a point: drawn in the loop, and drawn beside it.

The search is the Gaussian process' own at its bound, 200 trials of 17 conditional axes, most of
what it ever costs. The loop asks for a point as Tune's does, every tenth of a second, with the
project's patience; told is the longest time between two of its rounds. Wall clock: a loop that
waits for a thread waits for the interpreter's lock as well.

    python benchmarks/loop_waits.py [--points 7] [--trials 200]
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from itertools import islice

from common import limit, print_result, row, tell
from search_problems import surrogate, wide_space
from simulated_search import record_of

from orchestrator.driver.tune_adapters import DRAW_PATIENCE_S
from orchestrator.study.samplers import Gp, Values
from orchestrator.trials.drawn_beside import Drawing
from orchestrator.trials.search_state import Search
from studies.scales import SMOKE

SUGGESTION_S = 2.0
ROUND_S = 0.1  # what Tune's loop waits for an event


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=7)
    parser.add_argument("--trials", type=int, default=200)
    options = parser.parse_args()
    problem = surrogate("wide", wide_space(SMOKE))
    rng = random.Random(0)
    records = [
        record_of(number, values, problem.observed(values, rng), problem)
        for number, values in enumerate(problem.random_points(options.trials))
    ]

    def draw(index: int) -> Values:
        search = Search(space=problem.space, records=records, is_open=problem.is_feasible)
        return next(islice(Gp().suggestions(search, seed=index, index=index), 1))

    draw(0)  # imports
    inside: list[float] = []
    beside: list[float] = []
    drawing: Drawing[Values] = Drawing()
    for index in range(options.points):
        inside.append(_longest_round(lambda index=index: draw(index)))
        beside.append(
            _longest_round(
                lambda index=index: drawing.drawn(
                    index, lambda: draw(index), patience_s=DRAW_PATIENCE_S
                )
            )
        )
        tell(f"point {index}: {inside[-1]:.2f} s in the loop, {beside[-1]:.2f} s beside it")
    case = f"gp, {options.trials} trials of 17 axes"
    rows = [
        limit(f"a point, {case}", ours=statistics.median(inside), at_most=SUGGESTION_S, unit="s"),
        row(
            f"longest round of the loop, {case}",
            baseline="drawn in the loop",
            ours=statistics.median(beside),
            theirs=statistics.median(inside),
            unit="s",
        ),
    ]
    print_result("loop_waits", rows, packages=("numpy", "scipy"))


def _longest_round(ask: Callable[[], Values | None]) -> float:
    """Seconds of the longest of the loop's rounds until there is a point, its wait left out."""
    longest = 0.0
    while True:
        begin = time.perf_counter()
        found = ask()
        longest = max(longest, time.perf_counter() - begin)
        if found is not None:
            return longest
        time.sleep(ROUND_S)


if __name__ == "__main__":
    main()
