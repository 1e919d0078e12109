"""A study of 10,000 trials: what its driver costs, with simulated trials on real stores.

The trainer and the clock are injected: a trial is `--reports` evaluations spread over `--trial-s`
simulated seconds, and nothing is trained. Ledger, sampler, Optuna's SQLite storage and MLflow's are
the project's own; Ray is left out. Seconds of suggestions and reports are wall clock, waits for the
disk included. A suggestion is the point drawn and Optuna's trial with its note; handing it out
takes MLflow's run besides. MLflow's courier works beside reports, and has delivered before a
suggestion is timed: simulated time passes so fast that it would never be idle, while in a run of
this size it mostly is (`courier busy` is its share of the simulated time). Reading is told in CPU
time of its thread.

Most of the record is written as rows, with the values that the ledger would have written, so that
a run takes minutes; `--through-the-ledger` makes every trial live, with its MLflow run.

    python benchmarks/study_scale.py [--trials 10000] [--concurrent 1000] [--through-the-ledger]
"""

from __future__ import annotations

import argparse
import dataclasses
import heapq
import itertools
import json
import math
import random
import resource
import statistics
import tempfile
import time
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import optuna
from common import Row, limit, medians, print_result, row, tell
from optuna.storages._rdb.models import (
    TrialIntermediateValueModel,
    TrialModel,
    TrialParamModel,
    TrialUserAttributeModel,
    TrialValueModel,
)
from sqlalchemy import insert

from moe.metrics import STEP, TIMESTAMP_MS, TOKENS, TOKENS_PER_S, TRAIN_LOSS, VAL_LOSS
from orchestrator.home import Home
from orchestrator.launch import Launch, Point, resolve
from orchestrator.rdb import relational
from orchestrator.report.records import read_launch
from orchestrator.report.tables import render
from orchestrator.sampling import HISTORY_LIMIT, BoundedHistory, propose
from orchestrator.search import SearchStore
from orchestrator.session import Options, Session, opened
from orchestrator.storage import open_storage
from orchestrator.trial import METRICS, MOE_DIGEST, TrialRecord, count_states
from search_spaces.space import Infeasible
from studies.search import STUDY

SUGGESTION_GOAL_S = REPORT_GOAL_S = 0.02
READ_GOAL_S = 3.0
MEMORY_GOAL_BYTES = 1_500_000_000
BUSY_GOAL = 0.95
GROWTH_GOAL = 1.25  # from a tenth of the trials to all of them, beyond what timing tells apart
SMALL_SHARE = 10
NOISE, NEAR = 0.05, 1.03


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=10_000)
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
    courier = limit(
        f"courier busy, of a second of {options.concurrent} slots",
        ours=at_full.courier,
        at_most=1.0,
        unit="s",
    )
    memory_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return [
        *rows,
        idle,
        courier,
        limit(
            f"driver's peak RSS with {how}",
            ours=memory_bytes,
            at_most=MEMORY_GOAL_BYTES,
            unit="bytes",
        ),
        *reading_rows(home, how, options.repeats),
    ]


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


# The simulated study --------------------------------------------------------------------------


def make_launch(folder: Path, trials: int) -> Launch:
    for i in range(40):
        text = f"document {i}\n" + "the quick brown fox jumps over the lazy dog\n" * 400
        (folder / f"part-{i}.txt").write_text(text)
    return resolve(STUDY, corpus_spec=f"files:{folder}/part-*.txt", trials=trials)


def loss_of(point: Point, share: float) -> float:
    """A smooth landscape over the space of studies/search.py, and a curve that falls towards it.

    At the best point, 16 experts, Top-2, a learned token router, it ends at 2.
    """
    moe, rate = point.config.moe, point.config.optim.learning_rate
    loss = 2.0 + 0.08 * (4 - math.log2(moe.num_experts))
    loss += 0.03 * abs(moe.top_k - 2) + 0.02 * abs(moe.granularity - 2)
    loss += {"learned": 0.0, "frozen": 0.08, "random": 0.3}[moe.router]
    loss += {"token": 0.0, "sequence": 0.1}[moe.routing_unit]
    loss += 0.02 * (moe.gate == "switch")
    best_rate = 3e-3 * (1 + 0.2 * (moe.router == "frozen"))
    loss += 0.25 * math.log(rate / best_rate) ** 2
    return loss + 3.0 * math.exp(-4 * share)


def entry_of(point: Point, index: int, reports: int, now_s: float) -> dict[str, float]:
    share = (index + 1) / reports
    value = loss_of(point, share)
    return {
        STEP: round(share * point.config.train.num_steps),
        TOKENS: round(share * point.tokens),
        TIMESTAMP_MS: int(now_s * 1000),
        VAL_LOSS: value,
        TRAIN_LOSS: value,
        TOKENS_PER_S: 1e4,
        "router/load_entropy": 0.9,
        "router/confidence": 0.5,
    }


class Driven(SimpleNamespace):
    """Median seconds of a suggestion, a report and a trial handed out; the courier's CPU seconds a
    simulated one; idle and offered slot-seconds."""


class Simulation:
    """One driver and many slots on a simulated clock that runs on by what the driver really took.

    A slot waits for its driver at each report, as a Tune function does, and between two trials.
    """

    def __init__(self, session: Session, options: argparse.Namespace) -> None:
        self.ledger = session.ledger
        self.reports = options.reports
        self.step_s = options.trial_s / options.reports
        self.took: dict[str, list[float]] = defaultdict(list)
        self.free_s = 0.0  # when the driver is done with what came before
        self._run_s = 0.0
        self.delivering_s = 0.0
        self._courier = session.tracking._courier
        deliver = self._courier._deliver

        def timed_deliver(*args):
            before = time.thread_time()
            try:
                deliver(*args)
            finally:
                self.delivering_s += time.thread_time() - before

        self._courier._deliver = timed_deliver
        session.tracking.create_run = self._timed(session.tracking.create_run)

    def _timed(self, create_run):
        def timed(*args, **kwargs):
            before = time.perf_counter()
            try:
                return create_run(*args, **kwargs)
            finally:
                self._run_s += time.perf_counter() - before

        return timed

    def _let_deliver(self) -> None:
        while self._courier.spool.undelivered_bytes:
            time.sleep(0.001)

    def _act(self, kind: str, at_s: float, action):
        begin_s = max(at_s, self.free_s)
        before = time.perf_counter()
        result = action()
        spent_s = time.perf_counter() - before
        self.took[kind].append(spent_s)
        self.free_s = begin_s + spent_s
        return result

    def run(self, count: int, slots: int) -> Driven:
        events: list[tuple[float, int, int, int]] = []
        order, started, last_start_s = itertools.count(), 0, 0.0
        ends_s: list[float] = []  # of each stretch of training, of `step_s` each
        points: dict[int, Point] = {}

        def start(at_s: float) -> None:
            nonlocal started, last_start_s
            if started == count:
                return
            self._let_deliver()
            self._run_s = 0.0
            assignment = self._act("hand_out", at_s, self.ledger.next)
            if assignment is None:
                return
            self.took["suggestion"].append(self.took["hand_out"][-1] - self._run_s)
            number = assignment.record.number
            self._act("start", self.free_s, lambda: self.ledger.started(number))
            points[number] = assignment.point
            started, last_start_s = started + 1, self.free_s
            heapq.heappush(events, (self.free_s + self.step_s, next(order), number, 0))

        for _ in range(min(slots, count)):
            start(0.0)
        while events:
            at_s, _, number, index = heapq.heappop(events)
            ends_s.append(at_s)
            entry = entry_of(points[number], index, self.reports, at_s)
            self._act("report", at_s, lambda n=number, e=entry: self.ledger.progressed(n, e))
            if index + 1 < self.reports:
                heapq.heappush(events, (self.free_s + self.step_s, next(order), number, index + 1))
                continue
            tokens = entry[TOKENS]
            self._act(
                "end",
                self.free_s,
                lambda n=number, e=entry, t=tokens: self.ledger.completed(n, e, tokens=t),
            )
            del points[number]
            start(self.free_s)
        # Until nothing was left to start: what follows is the study's end, not the driver's doing.
        busy_s = sum(max(0.0, min(e, last_start_s) - (e - self.step_s)) for e in ends_s)
        slot_s = min(slots, count) * last_start_s
        return Driven(
            suggestion=statistics.median(self.took["suggestion"]),
            report=statistics.median(self.took["report"]),
            hand_out=statistics.median(self.took["hand_out"]),
            courier=self.delivering_s / self.free_s,
            slot_s=slot_s,
            idle_s=slot_s - busy_s,
        )


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
                courier=whole.courier,
                slot_s=whole.slot_s,
                idle_s=whole.idle_s,
            )
            for part in (first, last)
        ]
    return at[0], at[1]


def fill(launch: Launch, home: Home, count: int) -> None:
    """`count` complete trials at random points, as the ledger leaves them; without MLflow runs."""
    storage = open_storage(home.optuna_storage, create=False)
    info = SearchStore.launches(storage)[-1]
    store = SearchStore(storage, info)
    records = store.records()
    pattern = records[0].attributes
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=len(records)))
    known = {record.cell_hash for record in records}
    tables = defaultdict(list)
    (first_id, first) = records[-1].trial_id + 1, len(records)
    now = datetime.now(UTC).replace(tzinfo=None)
    while len(tables[TrialModel]) < count:
        trial = study.ask()
        try:
            point = launch.sampled_point(launch.space.suggest(trial), launch.seeds[0])
        except Infeasible:
            continue
        if point.cell_hash in known:
            continue
        known.add(point.cell_hash)
        add_rows(tables, point, trial, pattern, info.study_id, first_id, first, now)
    with relational(storage).begin() as connection:
        for model, rows in tables.items():
            connection.execute(insert(model.__table__), rows)


def add_rows(tables, point, trial, pattern, study_id, first_id, first, now) -> None:
    index = len(tables[TrialModel])
    trial_id, own = first_id + index, {"trial_id": first_id + index}
    tables[TrialModel].append(
        {
            **own,
            "number": first + index,
            "study_id": study_id,
            "state": optuna.trial.TrialState.COMPLETE,
            "datetime_start": now,
            "datetime_complete": now + timedelta(minutes=10),
        }
    )
    accounting = point.accounting
    attributes = {
        **pattern,
        "cell": point.cell,
        "config_hash": point.config_hash,
        "cell_hash": point.cell_hash,
        "params_total": accounting.params_total,
        "params_active": accounting.params_active,
        "flops_per_token": accounting.flops_per_token,
        "mlflow.run_id": None,
        METRICS: {VAL_LOSS: loss_of(point, 1.0)},
        MOE_DIGEST: pattern[MOE_DIGEST],
    }
    for key, value in attributes.items():
        tables[TrialUserAttributeModel].append({**own, "key": key, "value_json": json.dumps(value)})
    for name, distribution in trial.distributions.items():
        tables[TrialParamModel].append(
            {
                **own,
                "param_name": name,
                "param_value": distribution.to_internal_repr(trial.params[name]),
                "distribution_json": optuna.distributions.distribution_to_json(distribution),
            }
        )
    finite = {"value_type": TrialValueModel.TrialValueType.FINITE}
    tables[TrialValueModel].append({**own, "objective": 0, "value": loss_of(point, 1.0), **finite})
    kind = TrialIntermediateValueModel.TrialIntermediateValueType.FINITE
    for i in range(5):
        entry = entry_of(point, i, 5, 0.0)
        tables[TrialIntermediateValueModel].append(
            {
                "trial_id": trial_id,
                "step": entry[STEP],
                "intermediate_value": entry[VAL_LOSS],
                "intermediate_value_type": kind,
            }
        )


# What the bound on the sampler's history costs ------------------------------------------------


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
            seeded = dataclasses.replace(launch, corpus_spec=f"files:seed-{seed}")
            for kind, bound in (("bounded", HISTORY_LIMIT), ("whole", 4 * options.quality_trials)):
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
    case = f"history of {HISTORY_LIMIT}, {near}, noise {NOISE}, S={options.quality_seeds}"
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
            TrialRecord(
                number=number,
                trial_id=number,
                state="complete",
                cell=point.cell,
                seed=0,
                config_hash=point.config_hash,
                cell_hash=point.cell_hash,
                run_id=None,
                value=losses[-1],
                tokens=0,
                params=point.overrides,
                error=None,
                attempt=1,
                attributes={},
                distributions=distributions,
            )
        )
    return losses


if __name__ == "__main__":
    main()
