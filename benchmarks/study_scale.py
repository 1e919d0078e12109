"""A study of 10,000 trials: what its driver costs, with simulated trials on real stores.

The trainer and the clock are injected: a trial is `--reports` evaluations spread over `--trial-s`
simulated seconds, and nothing is trained. Ledger, sampler, Optuna's SQLite storage and MLflow's are
the project's own; Ray is left out. Seconds of suggestions and reports are wall clock, waits for the
disk included. A suggestion is the point drawn and Optuna's trial with its note; handing it out
takes MLflow's run besides. MLflow's outbox works beside reports, and has delivered before a
suggestion is timed: simulated time passes so fast that it would never be idle, while in a run of
this size it mostly is (`outbox busy` is its share of the simulated time). Reading is told in CPU
time of its thread.

A grid of as many cells has a limit on its tokens and one on its device time; what is told is the
CPU time of the queue's choice of the next trial, on records in memory.

Most of the record is written as rows, with the values that the ledger would have written, so that
a run takes minutes; `--through-the-ledger` makes every trial live, with its MLflow run.

    python benchmarks/study_scale.py [--trials 10000] [--concurrent 1000] [--through-the-ledger]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import resource
import statistics
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any

from common import Row, limit, medians, print_result, row, tell
from simulated_driver import Driven, Simulation
from simulated_study import fill, loss_of, make_grid_launch, make_launch

from orchestrator.base.home import Home
from orchestrator.driver.options import Options
from orchestrator.driver.session import opened
from orchestrator.report.records import read_launch
from orchestrator.report.table_text import render
from orchestrator.stores.trial_record import TrialRecord, count_states
from orchestrator.study.launch import Launch, Point
from orchestrator.study.samplers import Sampler
from orchestrator.trials.sampling import propose
from orchestrator.trials.search_history import BoundedHistory
from orchestrator.trials.seed_groups import SeedGroups
from orchestrator.trials.spending import Limits, Spending
from orchestrator.trials.trained_again import TrainedAgain
from orchestrator.trials.trial_queue import TrialQueue
from orchestrator.trials.trial_table import TrialTable
from studies.search import STUDY

SUGGESTION_GOAL_S = REPORT_GOAL_S = 0.02
CHOICE_GOAL_S = 0.002
READ_GOAL_S = 3.0
MEMORY_GOAL_BYTES = 1_500_000_000
BUSY_GOAL = 0.95
GROWTH_GOAL = 1.25  # from a tenth of the trials to all of them, beyond what timing tells apart
SMALL_SHARE = 10
NOISE, NEAR = 0.05, 1.03


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--grid", type=int, default=10_000, help="cells of the grid with limits")
    parser.add_argument("--live", type=int, default=3_000, help="trials driven at full size")
    parser.add_argument("--concurrent", type=int, default=1_000)
    parser.add_argument("--trial-s", type=float, default=600.0, help="simulated seconds a trial")
    parser.add_argument("--reports", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--quality-seeds", type=int, default=5)
    parser.add_argument("--quality-trials", type=int, default=400)
    parser.add_argument("--through-the-ledger", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        rows = study_rows(Path(name), options)
    with tempfile.TemporaryDirectory() as name:
        rows += grid_rows(Path(name), options)
    if options.quality_seeds:
        rows += quality_rows(options)
    print_result("study_scale", rows, packages=("optuna", "mlflow", "SQLAlchemy", "torch", "numpy"))


def study_rows(folder: Path, options: argparse.Namespace) -> list[Row]:
    launch = make_launch(folder, options.trials)
    home = Home(folder / "home")
    small = options.trials // SMALL_SHARE
    probe = min(200, small // 2)
    if options.through_the_ledger:
        at_small, at_full = drive_all(launch, home, small, options)
    else:
        at_small = drive(launch, home, filled=small - probe, live=probe, options=options)
        at_full = drive(
            launch,
            home,
            filled=options.trials - small - options.live,
            live=options.live,
            options=options,
        )
    how = f"T={options.trials} trials"
    rows = [
        limit(
            f"suggestion with {how}", ours=at_full.suggestion, at_most=SUGGESTION_GOAL_S, unit="s"
        ),
        limit(f"report with {how}", ours=at_full.report, at_most=REPORT_GOAL_S, unit="s"),
    ]
    for kind in ("suggestion", "report"):
        rows.append(
            row(
                f"{kind} with {how}",
                baseline=f"{small}_trials",
                ours=getattr(at_full, kind),
                theirs=getattr(at_small, kind),
                unit="s",
                goal=GROWTH_GOAL,
            )
        )
    rows.append(
        row(
            f"trial handed out with {how}",
            baseline=f"{small}_trials",
            ours=at_full.hand_out,
            theirs=at_small.hand_out,
            unit="s",
        )
    )
    idle = limit(
        f"slot-seconds idle of {options.concurrent} slots, trials of {options.trial_s:g} s",
        ours=at_full.idle_s,
        at_most=(1 - BUSY_GOAL) * at_full.slot_s,
        unit="s",
    )
    outbox = limit(
        f"outbox busy, of a second of {options.concurrent} slots",
        ours=at_full.outbox,
        at_most=1.0,
        unit="s",
    )
    memory_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return [
        *rows,
        idle,
        outbox,
        limit(
            f"driver's peak RSS with {how}",
            ours=memory_bytes,
            at_most=MEMORY_GOAL_BYTES,
            unit="bytes",
        ),
        *reading_rows(home, how, options.repeats),
    ]


def grid_rows(folder: Path, options: argparse.Namespace) -> list[Row]:
    """CPU seconds of the queue's choice under limits, with `--concurrent` trials begun."""
    small, full = options.grid // SMALL_SHARE, options.grid
    seconds = {cells: chosen_s(make_grid_launch(folder, cells), options) for cells in (small, full)}
    case = f"trial chosen under limits, a grid of {full} cells"
    return [
        limit(case, ours=seconds[full], at_most=CHOICE_GOAL_S, unit="s"),
        row(
            case,
            baseline=f"{small}_cells",
            ours=seconds[full],
            theirs=seconds[small],
            unit="s",
            goal=GROWTH_GOAL,
        ),
    ]


class NothingDrawn:
    """A grid's memory of draws: none are made."""

    failed_draws = 0

    def note_failed_draws(self, draws: int) -> None:
        raise AssertionError(f"a grid draws no points; {draws} were noted")


def chosen_s(launch: Launch, options: argparse.Namespace) -> float:
    tell(f"a grid of {len(launch.cells)} cells with limits")
    trials = TrialTable(launch)
    spending = Spending(Limits(tokens=10**15, device_s=1e12), trials, workers=1)

    groups = SeedGroups(launch, trials)

    def add(point: Point, distributions: Any, note: str) -> TrialRecord:
        record = waiting(point, len(trials))
        trials.put(record)
        groups.add(record)
        return record

    queue = TrialQueue(
        launch,
        trials,
        add,
        groups=groups,
        draws=NothingDrawn(),
        reusable={},
        spending=spending,
        again=TrainedAgain(),
    )
    begun: deque[int] = deque()
    taken = []
    for _ in range(len(launch.cells) // 2):
        if len(begun) >= min(options.concurrent, len(launch.cells) // 4):
            ended = dataclasses.replace(trials[begun.popleft()], state="complete", value=1.0)
            trials.put(ended)
            spending.ended(ended.number)
        before = time.thread_time()
        number = queue.next()
        queue.hand_out(number)
        taken.append(time.thread_time() - before)
        trials.begin(number, queue.point_of(trials[number]).tokens)
        spending.heard(number)
        trials.put(dataclasses.replace(trials[number], state="running"))
        begun.append(number)
    return statistics.median(taken[-len(taken) // 2 :])


def waiting(point: Point, number: int) -> TrialRecord:
    return TrialRecord(
        number=number,
        trial_id=number,
        state="waiting",
        cell=point.cell,
        seed=point.seed,
        config_hash=point.config_hash,
        cell_hash=point.cell_hash,
        run_id=None,
        value=None,
        tokens=0,
        params=point.overrides,
        error=None,
        attempt=0,
        attributes={},
    )


def reading_rows(home: Home, how: str, repeats: int) -> list[Row]:
    def status() -> None:
        read = read_launch(STUDY.name, home=home)
        trials = [record.as_json() for record in read.trials]
        json.dumps({"states": count_states(read.trials), "trials": trials})

    def table() -> None:
        render(read_launch(STUDY.name, home=home).table(STUDY), "markdown")

    tell("reading")
    seconds = medians({"status": status, "table": table}, repeats=repeats)
    return [
        limit(f"{name} with {how}, after imports", ours=s, at_most=READ_GOAL_S, unit="s")
        for name, s in seconds.items()
    ]


def drive(
    launch: Launch, home: Home, *, filled: int, live: int, options: argparse.Namespace
) -> Driven:
    """`filled` trials written as rows, then `live` ones driven."""
    tell(f"{filled} trials as rows, {live} live")
    if not home.root.exists():
        with opened(launch, Options(home=home), say=tell, start_cluster=False) as session:
            Simulation(session, options).run(1, 1)
    fill(launch, home, filled)
    with opened(launch, Options(home=home), say=tell, start_cluster=False) as session:
        return Simulation(session, options).run(live, min(options.concurrent, live))


def drive_all(
    launch: Launch, home: Home, small: int, options: argparse.Namespace
) -> tuple[Driven, Driven]:
    with opened(launch, Options(home=home), say=tell, start_cluster=False) as session:
        simulation = Simulation(session, options)
        whole = simulation.run(options.trials, options.concurrent)
        took = simulation.took
        window = small // 2
        first, last = slice(small - window, small), slice(-window, None)
        at = [
            Driven(
                **{
                    kind: statistics.median(took[kind][part])
                    for kind in ("suggestion", "report", "hand_out")
                },
                outbox=whole.outbox,
                slot_s=whole.slot_s,
                idle_s=whole.idle_s,
            )
            for part in (first, last)
        ]
    return at[0], at[1]


def quality_rows(options: argparse.Namespace) -> list[Row]:
    """Simulated seconds, one trial after the other, until the best loss is near the best that any
    of the searches found: TPE with a bounded history against one with the whole. Losses are noisy,
    or the smooth landscape's best would be found before the bound is reached."""
    found: dict[str, list[list[float]]] = {"bounded": [], "whole": []}
    with tempfile.TemporaryDirectory() as name:
        launch = make_launch(Path(name), options.quality_trials)
        for seed in range(options.quality_seeds):
            tell(f"search quality, seed {seed}")
            # The sampler's generator is seeded by the launch's name.
            seeded = dataclasses.replace(launch, corpus_specs=(f"files:seed-{seed}",))
            for kind, bound in (
                ("bounded", Sampler.history_limit),
                ("whole", 4 * options.quality_trials),
            ):
                found[kind].append(search(seeded, options.quality_trials, bound))
    best = min(min(losses) for runs in found.values() for losses in runs)
    until = {
        kind: [
            options.trial_s * next((i for i, v in enumerate(run, 1) if v <= NEAR * best), len(run))
            for run in runs
        ]
        for kind, runs in found.items()
    }
    near = f"until within {NEAR - 1:.0%} of the best"
    case = f"history of {Sampler.history_limit}, {near}, noise {NOISE}, S={options.quality_seeds}"
    return [
        row(
            f"{case} seeds of {options.quality_trials} trials",
            baseline="whole_history",
            ours=statistics.mean(until["bounded"]),
            theirs=statistics.mean(until["whole"]),
            unit="s",
        )
    ]


def search(launch: Launch, trials: int, bound: int) -> list[float]:
    history, losses = BoundedHistory(bound), []
    known: set[str] = set()
    for number in range(trials):
        point, distributions = propose(
            launch,
            history.records(),
            index=number,
            is_new=lambda candidate: candidate.cell_hash not in known,
        )
        known.add(point.cell_hash)
        noise = random.Random(point.cell_hash).gauss(0, NOISE)
        losses.append(loss_of(point, 1.0) + noise)
        history.note(
            dataclasses.replace(
                waiting(point, number),
                state="complete",
                value=losses[-1],
                distributions=distributions,
            )
        )
    return losses


if __name__ == "__main__":
    main()
