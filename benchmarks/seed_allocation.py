"""What deciding all claims of a study costs: seeds where they are needed, against seeds everywhere.

Simulated launches of `paper_table1`: a cell's value is the logarithm of what the paper has, a share
that all cells of a seed have in common, and its own deviation; a trial costs what its FLOPs do.
Ours is `run --until-decided`'s own allocation. Theirs is every cell at as many seeds as the last
claim needed. Launches in which some claim stays undecided are told apart: there theirs is the
design's last seed. With `--turned` global routing is as good as layer-wise at K = 2, and better at
K = 1, by one and a half of `--sd`: one part of C9 can be refuted, slowly, and none be supported.

    python benchmarks/seed_allocation.py [--launches 20] [--sd 0.01] [--turned]
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics

import numpy as np
from common import print_result, row, tell

from moe.accounting import account
from orchestrator.report.allocation import next_allotment
from orchestrator.report.evidence import Sampling
from orchestrator.report.verdicts import judge
from orchestrator.stores.trial_record import DEVICE_S, METRICS, TrialRecord
from orchestrator.study import Sequential
from studies.paper_table1 import GLOBAL_K1, GLOBAL_K2, SEQUENCE_K1, SEQUENCE_K2, STUDY

DESIGN = Sequential(max_seeds=20)
FIRST_SEEDS, SHARED_SD = 3, 0.01


def record(number: int, cell: str, seed: int, value: float, cost: float) -> TrialRecord:
    return TrialRecord(
        number=number,
        trial_id=number,
        state="complete",
        cell=cell,
        seed=seed,
        config_hash=f"{cell}/{seed}",
        cell_hash=cell,
        run_id=None,
        value=value,
        tokens=1,
        params={},
        error=None,
        attempt=0,
        attributes={DEVICE_S: cost, METRICS: {"val/loss": value}},
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Launch:
    """Costs in FLOPs; `seeds` of the claim that needed most."""

    spent: float
    everywhere: float
    least: float
    seeds: int
    undecided: int


def launch(rng: np.random.Generator, sd: float, is_turned: bool) -> Launch:
    base = STUDY.scales["cpu"]
    cells = {cell.name: cell.config(base) for cell in STUDY.cells_over(base)}
    cost = {
        name: account(config).flops_per_token * float(config.train.num_tokens)
        for name, config in cells.items()
    }
    means = {name: np.log(STUDY.published[name]["multiwiki"]) for name in cells}
    if is_turned:
        means[GLOBAL_K1.name] = means[SEQUENCE_K1.name] - 1.5 * sd
        means[GLOBAL_K2.name] = means[SEQUENCE_K2.name]
    shared: dict[int, float] = {}
    records: list[TrialRecord] = []

    def train(cell: str, seed: int) -> None:
        common = shared.setdefault(seed, rng.normal(0, SHARED_SD))
        value = means[cell] + common + rng.normal(0, sd)
        records.append(record(len(records), cell, seed, float(value), cost[cell]))

    for seed in range(FIRST_SEEDS):
        for cell in cells:
            train(cell, seed)
    while True:
        values: dict[str, dict[int, dict[str, float]]] = {}
        for one in records:
            values.setdefault(one.cell, {})[one.seed] = {"val/loss": one.value}
        order = tuple(dict.fromkeys(one.seed for one in records))
        verdicts = judge(STUDY.claims, values, design=DESIGN, sampling=Sampling(order=order))
        asked = next_allotment(STUDY.claims, verdicts, records, DESIGN)
        if asked is None:
            break
        for cell in asked.cells:
            train(cell, asked.seed)
    undecided = sum(verdict.verdict == "undecided" for verdict in verdicts)
    needed = dict.fromkeys(cells, FIRST_SEEDS)
    for claim, verdict in zip(STUDY.claims, verdicts, strict=True):
        for cell in claim.cells:
            needed[cell] = max(needed[cell], verdict.n)
    most = DESIGN.max_seeds if undecided else max(verdict.n for verdict in verdicts)
    return Launch(
        spent=sum(one.attributes[DEVICE_S] for one in records),
        everywhere=most * sum(cost.values()),
        least=sum(cost[cell] * num for cell, num in needed.items()),
        seeds=most,
        undecided=undecided,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--launches", type=int, default=20)
    parser.add_argument("--sd", type=float, default=0.01, help="of a trial, in nats")
    parser.add_argument("--turned", action="store_true")
    options = parser.parse_args()
    name = "paper_table1, C9 turned" if options.turned else "paper_table1"
    found = []
    for number in range(options.launches):
        found.append(launch(np.random.default_rng(number), options.sd, options.turned))
        tell(f"launch {number}: {found[-1]}")
    rows = []
    for kind, of_kind in (
        ("all decided", [one for one in found if not one.undecided]),
        ("some claim undecided", [one for one in found if one.undecided]),
    ):
        if not of_kind:
            continue
        most = statistics.median(one.seeds for one in of_kind)
        rows.append(
            row(
                f"{name}, {kind}, {len(of_kind)} launches, {most:g} seeds, sd {options.sd:g}",
                baseline="seeds_everywhere",
                ours=statistics.fmean(one.spent for one in of_kind),
                theirs=statistics.fmean(one.everywhere for one in of_kind),
                unit="FLOPs",
                goal=0.5 if kind == "all decided" else None,
            )
        )
        rows.append(
            row(
                f"{name}, {kind}, {len(of_kind)} launches",
                baseline="knowing_beforehand",
                ours=statistics.fmean(one.spent for one in of_kind),
                theirs=statistics.fmean(one.least for one in of_kind),
                unit="FLOPs",
            )
        )
    print_result("seed_allocation", rows, packages=("numpy", "scipy"))


if __name__ == "__main__":
    main()
