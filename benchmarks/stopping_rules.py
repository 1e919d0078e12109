"""What a rule of early stopping costs and saves: searches replayed on recorded learning curves.

Each search draws points of the table of search_table.py (benchmarks/data/search_curves.json), at
random, by TPE or by whom `auto` chooses (gp), and trains them one after the other under each rule.
Told of each rule, over all searches: how often the best point that was drawn is stopped, what the
best that came to its end costs beside it (nats), device time (steps times the table's median
seconds a step), and what the curves that came to their end say of Kendall's tau between a rung and
the end, beside the tau of all points that were drawn, which the table knows.

    python benchmarks/stopping_rules.py [--searches 400] [--trials 40] [--sampler random]
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics

from common import Row, print_result, row, tell
from search_saves import ASHA, TABLE, Table, suggestions

from orchestrator.report.rungs import Rung, rungs
from orchestrator.stores.trial_record import TrialRecord
from orchestrator.study.early_stopping import EarlyStopping

RATE = "optim.learning_rate"
RULES: dict[str, EarlyStopping | None] = {
    "none": None,
    "asha": ASHA,
    "asha, factor 4": dataclasses.replace(ASHA, reduction_factor=4),
    "guarded 0.2": dataclasses.replace(ASHA, guarded=0.2),
    "band 2": dataclasses.replace(ASHA, band={RATE: 2.0}),
    "band 1": dataclasses.replace(ASHA, band={RATE: 1.0}),
    "band 2, guarded 0.2": dataclasses.replace(ASHA, band={RATE: 2.0}, guarded=0.2),
    "band 2, factor 4": dataclasses.replace(ASHA, reduction_factor=4, band={RATE: 2.0}),
}


@dataclasses.dataclass(frozen=True)
class Search:
    stopped_best: bool
    regret: float
    seconds: float
    told: list[Rung]  # by the curves that came to their end, of guarded points where there are any
    truth: list[Rung]  # by all points that were drawn


def searched(
    table: Table, rule: EarlyStopping | None, *, trials: int, sampler: str, seed: int
) -> Search:
    launch, name = table.launch_by(sampler, seed), f"search-{seed}"
    judge = rule.judge() if rule else None
    records: list[TrialRecord] = []
    spent = 0
    for number, (point, distributions) in enumerate(
        suggestions(table, launch, records, sampler, seed)
    ):
        if number == trials:
            break
        params, made = table.points[point].overrides, 0
        guarded = rule is not None and rule.guards(name, point)
        for step, loss in zip(table.steps[:-1], table.losses[point], strict=False):
            made += 1
            if judge and judge.stops(number, step, table.steps[-1], loss, params) and not guarded:
                break
        else:
            made = len(table.steps)
        spent += table.steps[made - 1]
        records.append(table.record_of(table.points[point], number, made, distributions))
    final = {r.number: table.losses[r.cell_hash][-1] for r in records}
    best = min(final, key=final.__getitem__)
    ended = [r for r in records if r.state == "complete"]
    sample = [r for r in ended if rule and rule.guards(name, r.cell_hash)]
    every = [table.record_of(table.points[r.cell_hash], r.number, len(table.steps), None)
             for r in records]  # fmt: skip
    lengths = [table.steps[-1]]
    return Search(
        stopped_best=records[best].state != "complete",
        regret=min(final[r.number] for r in ended) - final[best],
        seconds=spent * table.step_s,
        told=rungs(rule or ASHA, lengths, sample or ended, by_point=bool(sample)),
        truth=rungs(rule or ASHA, lengths, every),
    )


def agreement(searches: list[Search]) -> str:
    """Of the first rung: the tau told less that of all points, how often its interval has it."""
    pairs = [
        (s.told[0], s.truth[0].tau)
        for s in searches
        if s.told[0].tau is not None and s.truth[0].tau is not None
    ]
    if not pairs:
        return "too few curves for tau"
    error = [told.tau - truth for told, truth in pairs]
    held = [told.low <= truth <= told.high for told, truth in pairs if told.low is not None]
    covered = f", its interval holds it in {statistics.fmean(held):.0%}" if held else ""
    return (
        f"tau at the first rung off by {statistics.fmean(error):+.3f} "
        f"(sd {statistics.pstdev(error):.3f}, {len(pairs)} searches with enough curves){covered}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--searches", type=int, default=400)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--sampler", choices=("random", "tpe", "auto"), default="random")
    options = parser.parse_args()
    table = Table(TABLE)
    rows: list[Row] = []
    whole = 0.0
    for name, rule in RULES.items():
        found = [
            searched(table, rule, trials=options.trials, sampler=options.sampler, seed=seed)
            for seed in range(options.searches)
        ]
        seconds = statistics.fmean(s.seconds for s in found)
        whole = whole or seconds
        stopped = statistics.fmean(s.stopped_best for s in found)
        tell(
            f"{name}: the best point is stopped in {stopped:.1%} of searches, regret "
            f"{statistics.fmean(s.regret for s in found):.4f} nats, device time "
            f"{seconds / whole:.1%}; {agreement(found)}"
        )
        case = f"{name}, {options.sampler}, {options.trials} points, {options.searches} searches"
        rows.append(row(case, baseline="none", ours=seconds, theirs=whole, unit="s"))
        case = f"share of searches whose best point is stopped, {case}"
        rows.append(row(case, baseline="limit", ours=stopped, theirs=1.0, unit="share"))
    print_result("stopping_rules", rows, packages=("optuna",))


if __name__ == "__main__":
    main()
