"""What samplers and ASHA save: searches replayed on a recorded table of full learning curves.

`benchmarks/data/search_curves.json` holds the curve of every recorded point of the space in
search_table.py, with how it was made. A search pays for each step that a trial makes, one trial
after the other, and is done when a trial that ran to its end is within 1% (and within 0.3%) of the
table's best final loss; one that stopped all such points has paid for the whole table. A training
is the steps of a trial that is not stopped. Suggestions and rungs are the project's own
(`sampling.propose`, the stopping rule, with the settings of studies/search.py; `auto` chooses gp).
Seconds are simulated: steps times the table's median seconds a step; means over seeds. `random`
draws points of the table without repeats and trains each to its end.

    python benchmarks/search_saves.py [--seeds 20] [--kinds asha,asha+auto]
    python benchmarks/search_saves.py --record HOME        # after a run of search_table.py there
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import search_table
from common import Row, limit, machine, print_result, row, tell

from moe.metrics import DEVICE_S
from orchestrator.base.home import Home
from orchestrator.report.records import read_launch
from orchestrator.report.rungs import rung_line, rungs
from orchestrator.stores.trial_record import TrialRecord
from orchestrator.study.early_stopping import StoppingRule
from orchestrator.study.launch import Launch, Point
from orchestrator.study.resolve import resolve
from orchestrator.study.samplers import as_sampler
from orchestrator.study.study import Study
from orchestrator.trials.sampling import propose
from studies.search import STUDY as SEARCH

TABLE = Path(__file__).resolve().parent / "data" / "search_curves.json"
CLOSE, CLOSER = 1.01, 1.003
GOAL, GOAL_TRAININGS = 1.0, 12
OURS = "asha+auto"

ASHA = SEARCH.early_stopping
KINDS: dict[str, tuple[str, StoppingRule | None]] = {
    "random": ("random", None),
    "asha": ("random", ASHA),
    "tpe": ("tpe", None),
    "asha+tpe": ("tpe", ASHA),
    "auto": ("auto", None),
    OURS: ("auto", ASHA),
    "guarded+auto": ("auto", dataclasses.replace(ASHA, guarded=0.2)),
    "band+auto": ("auto", dataclasses.replace(ASHA, band={"optim.learning_rate": 2.0})),
}


def record(home: Path) -> None:
    """Writes the complete trials of a launch of search_table.py."""
    launch = read_launch(search_table.STUDY.name, home=Home(home))
    complete = [r for r in launch.trials if r.state == "complete"]
    step_s = statistics.median(r.metrics[DEVICE_S] / max(r.curve) for r in complete)
    table = {
        "made": f"moe-study run benchmarks/search_table.py: {launch.info.name}, "
        f"{len(complete)} of {len(launch.trials)} points; {machine()}; "
        f"code {complete[0].code_digest}",
        "step_s": round(step_s, 5),
        "steps": sorted(complete[0].curve),
        "points": [
            {
                "params": {path: r.params[path] for path in search_table.SPACE.axes},
                "losses": [round(value, 5) for _, value in sorted(r.curve.items())],
            }
            for r in complete
        ],
    }
    points = ",\n".join(json.dumps(point) for point in table.pop("points"))
    head = json.dumps(table)[:-1]
    TABLE.write_text(f'{head}, "points": [\n{points}\n]}}\n')


class Table:
    def __init__(self, path: Path) -> None:
        table = json.loads(path.read_text())
        self.made, self.step_s, self.steps = table["made"], table["step_s"], table["steps"]
        study = Study(
            name="search-saves",
            question=SEARCH.question,
            baseline=SEARCH.baseline,
            held_fixed=SEARCH.held_fixed,
            scales={"smoke": search_table.BASE},
            space=search_table.SPACE,
            trials=len(table["points"]),
            early_stopping=SEARCH.early_stopping,
        )
        self.launch: Launch = resolve(study)
        self.losses: dict[str, list[float]] = {}
        self.points: dict[str, Point] = {}
        for entry in table["points"]:
            point = self.launch.sampled_point(entry["params"], 0)
            self.points[point.cell_hash] = point
            self.losses[point.cell_hash] = entry["losses"]

    def launch_by(self, sampler: str, seed: int) -> Launch:
        """A corpus of its own seeds the sampler."""
        study = dataclasses.replace(self.launch.study, sampler=as_sampler(sampler))
        return dataclasses.replace(self.launch, study=study, corpus_specs=(f"seed-{seed}",))

    def record_of(self, point: Point, number: int, steps: int, distributions: Any) -> TrialRecord:
        """A trial that was made to its end, or stopped after `steps` of its evaluations."""
        losses = self.losses[point.cell_hash][:steps]
        whole = steps == len(self.steps)
        return TrialRecord(
            number=number,
            trial_id=number,
            state="complete" if whole else "pruned",
            cell=point.cell,
            seed=0,
            config_hash=point.config_hash,
            cell_hash=point.cell_hash,
            run_id=None,
            value=losses[-1] if whole else None,
            tokens=0,
            params=point.overrides,
            error=None,
            attempt=1,
            attributes={},
            curve=dict(zip(self.steps, losses, strict=False)),
            distributions=distributions or {},
        )


@dataclasses.dataclass(frozen=True)
class Found:
    """What a search paid until it had a good point, and whether the best point that it drew was
    stopped on the way."""

    steps: int
    stopped_best: bool


def until_good(
    table: Table, rule: StoppingRule | None, *, sampler: str, good: float, seed: int
) -> Found:
    launch, name = table.launch_by(sampler, seed), f"search-{seed}"
    judge = rule.judge() if rule else None
    records: list[TrialRecord] = []
    spent = 0
    for number, (cell_hash, distributions) in enumerate(
        suggestions(table, launch, records, sampler, seed)
    ):
        point, made = table.points[cell_hash], 0
        guarded = rule is not None and rule.guards(name, cell_hash)
        for step, loss in zip(table.steps[:-1], table.losses[cell_hash], strict=False):
            made += 1
            stops = judge and judge.stops(number, step, table.steps[-1], loss, point.overrides)
            if stops and not guarded:
                break
        else:
            made = len(table.steps)  # the last evaluation is not judged, as in a run
        spent += table.steps[made - 1]
        records.append(table.record_of(point, number, made, distributions))
        if records[-1].value is not None and records[-1].value <= good:
            break
    best = min(records, key=lambda record: table.losses[record.cell_hash][-1])
    return Found(steps=spent, stopped_best=best.state != "complete")


def suggestions(
    table: Table, launch: Launch, records: list[TrialRecord], sampler: str, seed: int
) -> Iterator[tuple[str, Any]]:
    """Points of the table, none twice; `random` in an order of its own, others as a launch draws
    them, who see what `records` holds by then."""
    left = set(table.points)
    order = sorted(left)
    random.Random(seed).shuffle(order)
    hash_of = {readable(point): cell_hash for cell_hash, point in table.points.items()}
    is_left: Callable[[Point], bool] = lambda p: hash_of.get(readable(p)) in left  # noqa: E731
    for index, drawn in enumerate(order):
        chosen, distributions = drawn, None
        if sampler != "random":
            point, distributions = propose(launch, records, index=index, is_new=is_left)
            chosen = hash_of[readable(point)]
        left.discard(chosen)
        yield chosen, distributions


def readable(point: Point) -> tuple:
    return tuple(sorted(point.overrides.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", type=Path, metavar="HOME")
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--kinds", default=",".join(KINDS), help="beside random")
    options = parser.parse_args()
    kinds = {"random", *options.kinds.split(",")}
    if options.record:
        record(options.record)
    table = Table(options.table)
    rows: list[Row] = []
    for share in (CLOSE, CLOSER):
        rows += rows_until(table, share, [n for n in KINDS if n in kinds], options.seeds)
    curves = [
        table.record_of(point, number, len(table.steps), None)
        for number, point in enumerate(table.points.values())
    ]
    stopping, lengths = SEARCH.early_stopping, [table.steps[-1]]
    tell(rung_line(rungs(stopping, lengths, curves), lengths))
    print_result("search_saves", rows, packages=("optuna",))


def rows_until(table: Table, share: float, kinds: Sequence[str], seeds: int) -> list[Row]:
    """Of every kind until it is so close: beside random, and by the goals of the closest."""
    good = share * min(losses[-1] for losses in table.losses.values())
    num_good = sum(losses[-1] <= good for losses in table.losses.values())
    tell(f"within {share - 1:.1%} of the best lie {num_good} of {len(table.points)} points")
    case = f"until within {share - 1:.1%} of the best of {len(table.points)} points, {seeds} seeds"
    rows: list[Row] = []
    mean_of_random = 0.0
    for name in kinds:
        sampler, rule = KINDS[name]
        found = [
            until_good(table, rule, sampler=sampler, good=good, seed=seed) for seed in range(seeds)
        ]
        trainings = [one.steps / table.steps[-1] for one in found]
        mean, stopped = statistics.fmean(trainings), statistics.fmean(f.stopped_best for f in found)
        error = statistics.stdev(trainings) / math.sqrt(seeds) if seeds > 1 else 0.0
        tell(
            f"{name} {case}: {mean:.1f} trainings (se {error:.1f}), the best point drawn was "
            f"stopped in {stopped:.1%}"
        )
        seconds = mean * table.steps[-1] * table.step_s
        if name == "random":
            mean_of_random = seconds
            continue
        goal = GOAL if name == OURS and share == CLOSE else None
        kind = f"{name} {case}"
        rows.append(
            row(kind, baseline="random", ours=seconds, theirs=mean_of_random, unit="s", goal=goal)
        )
        if name == OURS and share == CLOSER:
            at_most = GOAL_TRAININGS * table.steps[-1] * table.step_s
            rows.append(limit(f"{GOAL_TRAININGS} trainings, {kind}", ours=seconds, at_most=at_most,
                              unit="s"))  # fmt: skip
    return rows


if __name__ == "__main__":
    main()
