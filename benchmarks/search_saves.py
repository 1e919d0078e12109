"""What TPE and ASHA save: searches replayed on a recorded table of full learning curves.

`benchmarks/data/search_curves.json` holds the curve of every recorded point of the space in
search_table.py, with how it was made. A search pays for each step that a trial makes, one trial
after the other, and is done when a trial that ran to its end is within 1% of the table's best final
loss. Suggestions and rungs are the project's own (`sampling.propose`, the stopping rule, with the
settings of studies/search.py). Seconds are simulated: steps times the table's median seconds a
step; means over seeds. `random` draws points of the table without repeats and trains each to its
end.

    python benchmarks/search_saves.py [--seeds 20]
    python benchmarks/search_saves.py --record HOME        # after a run of search_table.py there
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import search_table
from common import Row, machine, print_result, row, tell

from moe.metrics import DEVICE_S
from orchestrator.base.home import Home
from orchestrator.report.records import read_launch
from orchestrator.report.rungs import rung_line, rungs
from orchestrator.stores.trial_record import TrialRecord
from orchestrator.study.launch import Launch, Point
from orchestrator.study.resolve import resolve
from orchestrator.study.study import Study
from orchestrator.trials.sampling import propose
from studies.search import STUDY as SEARCH

TABLE = Path(__file__).resolve().parent / "data" / "search_curves.json"
CLOSE = 1.01
GOAL = 1.0


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
            sampler="tpe",
            early_stopping=SEARCH.early_stopping,
        )
        self.launch: Launch = resolve(study)
        self.losses: dict[str, list[float]] = {}
        self.points: dict[str, Point] = {}
        for entry in table["points"]:
            point = self.launch.sampled_point(entry["params"], 0)
            self.points[point.cell_hash] = point
            self.losses[point.cell_hash] = entry["losses"]
        self.good = CLOSE * min(losses[-1] for losses in self.losses.values())

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


def seconds_until_good(table: Table, *, tpe: bool, asha: bool, seed: int) -> float:
    launch = dataclasses.replace(table.launch, corpus_specs=(f"seed-{seed}",))  # seeds the sampler
    judge = launch.study.early_stopping.judge()
    records: list[TrialRecord] = []
    suggest = _suggestions(table, launch, records, tpe, seed)
    spent = 0
    for number, (cell_hash, distributions) in enumerate(suggest):
        made = 0
        for step, loss in zip(table.steps, table.losses[cell_hash], strict=True):
            made += 1
            last = made == len(table.steps)  # is not judged, as in a run
            if asha and not last and judge.stops(number, step, table.steps[-1], loss):
                break
        spent += table.steps[made - 1]
        point = table.points[cell_hash]
        records.append(table.record_of(point, number, made, distributions))
        if records[-1].value is not None and records[-1].value <= table.good:
            break
    return spent * table.step_s


def _suggestions(
    table: Table, launch: Launch, records: list[TrialRecord], tpe: bool, seed: int
) -> Iterator[tuple[str, Any]]:
    """Points of the table, none twice; TPE sees what `records` holds by then."""
    left = set(table.points)
    order = sorted(left)
    random.Random(seed).shuffle(order)
    hash_of = {readable(point): cell_hash for cell_hash, point in table.points.items()}
    is_left: Callable[[Point], bool] = lambda p: hash_of.get(readable(p)) in left  # noqa: E731
    for index, drawn in enumerate(order):
        chosen, distributions = drawn, None
        if tpe:
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
    options = parser.parse_args()
    if options.record:
        record(options.record)
    table = Table(options.table)
    kinds = {
        "asha+tpe": {"tpe": True, "asha": True},
        "tpe": {"tpe": True, "asha": False},
        "asha": {"tpe": False, "asha": True},
        "random": {"tpe": False, "asha": False},
    }
    mean_s = {}
    for name, how in kinds.items():
        tell(name)
        found = [seconds_until_good(table, seed=seed, **how) for seed in range(options.seeds)]
        mean_s[name] = statistics.mean(found)
    curves = [
        table.record_of(point, number, len(table.steps), None)
        for number, point in enumerate(table.points.values())
    ]
    stopping = SEARCH.early_stopping
    lengths = [table.steps[-1]]
    tell(rung_line(rungs(stopping, lengths, curves), lengths))
    case = f"until within 1% of the best of {len(table.points)} points, {options.seeds} seeds"
    rows: list[Row] = [
        row(
            f"{name} {case}",
            baseline="random",
            ours=mean_s[name],
            theirs=mean_s["random"],
            unit="s",
            goal=GOAL if name == "asha+tpe" else None,
        )
        for name in kinds
        if name != "random"
    ]
    print_result("search_saves", rows, packages=("optuna",))


if __name__ == "__main__":
    main()
