"""Drives one launch's ledger to its end, killed with SIGKILL after its n-th write.

    python killed_ledger.py FOLDER CORPUS MLFLOW_TEMPLATE EVERY

n is 1, 1 + EVERY, 1 + 2 EVERY and so on, until a driver ends before its death. Each n has a home of
its own. A driver is killed after n writes, the next one after some more (so that reconciling is cut
short as well), the third is left alone, and both stores are then read with their own clients.
Drivers are forks, so that everything is imported once. A write is a call that changes Optuna's
storage, MLflow's store or the spool; an entry of the spool is also cut in half.
Prints one JSON object: the deaths that were tried, and what was found wrong after each.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import optuna
from mlflow.tracking import MlflowClient
from optuna.storages._cached_storage import _CachedStorage

from moe.config import ModelConfig, MoEConfig, TrainConfig, TrialConfig
from moe.metrics import VAL_LOSS
from orchestrator.base.home import Home
from orchestrator.stores import mlflow_client
from orchestrator.stores.experiment_names import find_experiment
from orchestrator.stores.mlflow_client import connect
from orchestrator.stores.mlflow_runs import TRIAL_NUMBER, MlflowRuns
from orchestrator.stores.optuna_launches import OWNER
from orchestrator.stores.optuna_trials import OptunaTrials
from orchestrator.stores.outbox_files import OutboxFile
from orchestrator.stores.parent_run import PARENT
from orchestrator.stores.reuse import finished_elsewhere
from orchestrator.stores.trial_record import MLFLOW_STATUS_OF, RUN_ID, STATE_OF
from orchestrator.study import Study
from orchestrator.study.launch import Launch
from orchestrator.study.resolve import resolve
from orchestrator.trials.ledger import Ledger
from orchestrator.trials.reconcile import reconcile
from orchestrator.trials.trial_queue import More
from search_spaces.cells import Cell

STEPS = (2, 4)
OUTCOMES = {"learned": "complete", "frozen": "failed", "random": "pruned", "dense": "complete"}
TINY = TrialConfig(
    model=ModelConfig(num_layers=1, d_model=16, num_heads=2, d_ff=32, context_length=16),
    moe=MoEConfig(num_experts=4, top_k=2),
    train=TrainConfig(
        num_steps=4, batch_tokens=128, micro_batch_tokens=128, eval_every=2, eval_tokens=256
    ),
)


def study(name: str, *cells: str) -> Study:
    overrides = {cell: {"moe.router": cell} for cell in cells}
    if "dense" in overrides:
        overrides["dense"] = {"moe.num_experts": 0}
    return Study(
        name=name,
        question="Does a kill between two writes show?",
        baseline=cells[0],
        held_fixed="all",
        scales={"smoke": TINY},
        cells=[Cell(name=cell, overrides=values) for cell, values in overrides.items()],
        seeds=(0,),
    )


def entry(cell: str, step: int) -> dict[str, float]:
    """What a trial reports: the same in every attempt, as checkpoints and notes see to."""
    loss = 3.0 - 0.1 * step - 0.01 * list(OUTCOMES).index(cell)
    return {"step": step, "tokens": step * 128, "timestamp_ms": 1000 * step, VAL_LOSS: loss}


def begun(
    home: Home, launch: Launch, more_of: Callable[[OptunaTrials], More | None] = lambda _: None
) -> tuple[Ledger, OptunaTrials, MlflowRuns]:
    """The launch in a driver's hands, both stores brought to one truth."""
    storage = optuna.storages.get_storage(home.optuna_storage)
    search = OptunaTrials.open(storage, launch, now=datetime.now(UTC))
    owner = search.info.attributes[OWNER]
    uri = home.mlflow_uri
    tracking = MlflowRuns.open(connect(uri), launch, home, owner=owner, uri=uri)
    reconcile(search, tracking, metric=VAL_LOSS)
    ledger = Ledger(
        launch,
        search,
        tracking,
        records=search.records(),
        finished_elsewhere=finished_elsewhere(storage, launch.name),
        run_tags={},
        more=more_of(search),
    )
    return ledger, search, tracking


def drive(home: Home, launch: Launch) -> None:
    """What a driver does, Ray left out."""
    ledger, _, tracking = begun(home, launch)
    while assignment := ledger.next():
        play(ledger, assignment.record.number, assignment.point.cell)
    tracking.close("FINISHED")


def play(ledger: Ledger, number: int, cell: str) -> None:
    ledger.started(number)
    outcome = OUTCOMES[cell]
    steps = STEPS if outcome == "complete" else STEPS[:1]
    for step in steps:
        ledger.progressed(number, entry(cell, step))
    if outcome == "complete":
        ledger.completed(number, entry(cell, steps[-1]), tokens=512)
    elif outcome == "failed":
        ledger.failed(number, "training diverged at step 3: the loss is nan", tokens=256)
    else:
        ledger.stopped(number, tokens=256)


def die_after(writes: int) -> None:
    """Arranges the death of this process."""
    left = writes

    def count() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            result = function(*arguments, **named)
            count()
            return result

        return call

    def append(spool: OutboxFile, line: dict[str, Any]) -> None:
        if left == 1:
            with spool.path.open("ab") as file:
                file.write(json.dumps(line).encode()[:9])
        count()
        whole(spool, line)

    writing = ("create_run", "update_run", "log_batch", "log_inputs", "log_text", "log_artifact")
    for owner, names in (
        (_CachedStorage, [n for n in dir(_CachedStorage) if n.startswith(("set_", "create_"))]),
        (MlflowClient, [*writing, "create_experiment", "set_terminated", "delete_run"]),
        (OutboxFile, ["_write_offset", "append"]),
        (os, ["truncate"]),
    ):
        for name in names:
            setattr(owner, name, counted(getattr(owner, name)))
    whole, OutboxFile.append = OutboxFile.append, append


def wrong(home: Home, launch: Launch) -> list[str]:
    """What the stores' own clients see that an undisturbed launch would not show."""
    client = MlflowClient(home.mlflow_uri)
    experiment = find_experiment(client, launch.name).experiment_id
    runs = {run.info.run_id: run for run in client.search_runs([experiment])}
    trials = optuna.load_study(study_name=launch.name, storage=home.optuna_storage).trials
    found = []
    if sorted(trial.user_attrs["cell"] for trial in trials) != sorted(OUTCOMES):
        found.append(f"cells {[trial.user_attrs['cell'] for trial in trials]}")
    parents = [run for run in runs.values() if PARENT in run.data.tags]
    if [run.info.status for run in parents] != ["FINISHED"] or len(runs) != len(trials) + 1:
        found.append(f"{len(parents)} parents, {len(runs)} runs")
    for trial in trials:
        cell = trial.user_attrs["cell"]
        state, run = STATE_OF[trial.state], runs.get(trial.user_attrs.get(RUN_ID))
        if run is None or run.data.tags[TRIAL_NUMBER] != str(trial.number):
            found.append(f"{cell} has no run of its own")
            continue
        curve = {
            step: entry(cell, step)[VAL_LOSS]
            for step in (STEPS if OUTCOMES[cell] == "complete" else STEPS[:1])
        }
        points = [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, VAL_LOSS)]
        reused = "reused_from" in run.data.tags
        expected = list(curve.items())[-1:] if reused else list(curve.items())
        error = {run.data.tags.get("error", ""), trial.user_attrs.get("error") or ""}
        checks = {
            "state": state == OUTCOMES[cell],
            "status": run.info.status == MLFLOW_STATUS_OF[state],
            "curve": trial.intermediate_values == curve,
            "history": sorted(points) == expected,
            "value": state != "complete" or trial.value == curve[STEPS[-1]],
            "hash": run.data.tags["config_hash"] == trial.user_attrs["config_hash"],
            "error": len(error) == 1 and (error != {""}) == (state == "failed"),
            "reused": reused == (cell == "dense"),
            "params": run.data.params["train.num_steps"] == "4",
            "spool": not any(home.spool.glob("*.rejected.jsonl")),
        }
        found += [f"{cell}: {name}" for name, holds in checks.items() if not holds]
    return found


def fork(function: Callable[[], None]) -> int:
    """The wait status of a child that ran `function`."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            function()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1]


def main() -> None:
    folder, corpus, template, every = Path(sys.argv[1]), *sys.argv[2:4], int(sys.argv[4])
    mlflow_client.quiet()
    launch = resolve(study("kills", *OUTCOMES), corpus_spec=corpus)
    earlier = Home(folder / "earlier")
    earlier.create()
    shutil.copy(template, earlier.root / "mlflow.db")
    # In this process: the forks inherit what is imported and mapped, seconds for each otherwise.
    drive(earlier, resolve(study("earlier", "dense"), corpus_spec=corpus))

    def checked(home: Home) -> list[str]:
        return wrong(home, launch)

    print(json.dumps(deaths(folder, earlier, every, lambda home: drive(home, launch), checked)))


def deaths(
    folder: Path,
    begun: Home,
    every: int,
    drive: Callable[[Home], None],
    checked: Callable[[Home], list[str]],
) -> dict[str, Any]:
    """What is wrong after each death, of copies of a home that is begun."""

    def is_killed_after(home: Home, writes: int) -> bool:
        def dying() -> None:
            die_after(writes)
            drive(home)

        status = fork(dying)
        assert status in (0, signal.SIGKILL), f"a driver ended with status {status}"
        return status == signal.SIGKILL

    seen: dict[int, list[str]] = {}
    for writes in itertools.count(1, every):
        home = Home(folder / f"home-{writes}")
        shutil.copytree(begun.root, home.root)
        report = folder / "report.json"

        def finish(home: Home = home, report: Path = report) -> None:
            drive(home)
            report.write_text(json.dumps(checked(home)))

        killed = is_killed_after(home, writes)
        if killed:
            is_killed_after(home, 1 + writes % 23)
        assert fork(finish) == 0
        seen[writes] = json.loads(report.read_text())
        shutil.rmtree(home.root)
        if not killed:
            break
    return {"tried": list(seen), "wrong": {n: w for n, w in seen.items() if w}}


if __name__ == "__main__":
    main()
