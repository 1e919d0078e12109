"""What a launch looks like after the faults, read with the stores' own clients.

Nothing here goes through the code under test but the table, which is compared with the one of an
undisturbed launch.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import optuna
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from orchestrator.report.table_text import as_json
from orchestrator.report.tables import table_of
from orchestrator.stores.experiment_names import find_experiment
from orchestrator.stores.optuna_launches import launches_in
from orchestrator.stores.optuna_trials import OptunaTrials

_STATUS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}
_OPEN = ("RUNNING", "SCHEDULED", "WAITING")


@dataclass(kw_only=True)
class Findings:
    """Counts that are 0 when nothing was lost; `detail` says what was, a line each."""

    lost: int = 0
    doubled: int = 0
    stuck: int = 0
    disagreeing: int = 0
    points_twice: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    curves: dict[str, dict[int, float]] = field(default_factory=dict)
    detail: list[str] = field(default_factory=list)

    def note(self, kind: str, text: str) -> None:
        setattr(self, kind, getattr(self, kind) + 1)
        self.detail.append(f"{kind}: {text}")

    @property
    def counts(self) -> dict[str, int]:
        kinds = ("lost", "doubled", "stuck", "disagreeing", "points_twice")
        return {kind: getattr(self, kind) for kind in kinds}


def examine(storage_url: str, mlflow_uri: str, study_name: str, cells: list[str]) -> Findings:
    """`study_name` is the Optuna study of the launch, whose name its MLflow experiment has too."""
    found = Findings()
    trials = optuna.load_study(study_name=study_name, storage=storage_url).trials
    client = MlflowClient(mlflow_uri)
    experiment = find_experiment(client, study_name)
    runs = list(client.search_runs([experiment.experiment_id])) if experiment else []
    by_id = {run.info.run_id: run for run in runs}
    complete = Counter(t.user_attrs["cell"] for t in trials if t.state.name == "COMPLETE")
    for cell in cells:
        if complete[cell] == 0:
            found.note("lost", f"cell {cell} has no complete trial")
    for cell, count in Counter(t.user_attrs["cell"] for t in trials).items():
        if count > 1:
            found.note("doubled", f"cell {cell} has {count} trials")
    numbers = Counter(run.data.tags.get("optuna.trial_number", "parent") for run in runs)
    for number, count in numbers.items():
        if count > 1:
            found.note("doubled", f"{count} MLflow runs of trial {number}")
    for trial in trials:
        if trial.state.name in _OPEN:
            found.note("stuck", f"trial {trial.number} is {trial.state.name} in Optuna")
    for run in runs:
        if run.info.status in _OPEN:
            found.note("stuck", f"run {run.info.run_name} is {run.info.status} in MLflow")
    for trial in trials:
        run = by_id.get(trial.user_attrs.get("mlflow.run_id", ""))
        for reason in _disagreements(trial, run, client):
            found.note("disagreeing", f"trial {trial.number}: {reason}")
        for point in _written_twice(run, client) if run else []:
            found.note("points_twice", f"trial {trial.number}: {point}")
        found.curves[trial.user_attrs["cell"]] = trial.intermediate_values
    found.rows = _rows(storage_url, study_name)
    return found


def _disagreements(
    trial: optuna.trial.FrozenTrial, run: Run | None, client: MlflowClient
) -> list[str]:
    if run is None:
        return ["no MLflow run"]
    reasons = []
    if run.info.status != _STATUS.get(trial.state.name):
        reasons.append(f"{trial.state.name} in Optuna, {run.info.status} in MLflow")
    if run.data.metrics.get("val/loss") != trial.value:
        reasons.append(f"{trial.value} in Optuna, {run.data.metrics.get('val/loss')} in MLflow")
    if run.data.tags.get("config_hash") != trial.user_attrs["config_hash"]:
        reasons.append("the config hashes differ")
    if run.data.tags.get("optuna.trial_number") != str(trial.number):
        reasons.append("the run belongs to another trial")
    history = client.get_metric_history(run.info.run_id, "val/loss")
    if {m.step: m.value for m in history} != trial.intermediate_values:
        reasons.append("the curves differ")
    if not run.data.params:
        reasons.append("the run has no params")
    times = [m.timestamp for m in sorted(history, key=lambda m: m.step)]
    if times != sorted(times):
        reasons.append("timestamps go back")
    if (run.info.end_time or 0) < run.info.start_time:
        reasons.append("the run ends before it starts")
    return reasons


def _written_twice(run: Run, client: MlflowClient) -> list[str]:
    twice = []
    for key in run.data.metrics:
        steps = Counter(m.step for m in client.get_metric_history(run.info.run_id, key))
        twice += [f"{key} at step {step}, {n} times" for step, n in steps.items() if n > 1]
    return twice


def _rows(storage_url: str, study_name: str) -> list[dict[str, Any]]:
    """The table's rows without what names runs, states and commits."""
    storage = optuna.storages.get_storage(storage_url)
    info = next(i for i in launches_in(storage) if i.name == study_name)
    table = table_of(info.study, study_name, OptunaTrials(storage, info).records())
    rows = json.loads(json.dumps(as_json(table)["rows"]))
    return [
        {k: v for k, v in row.items() if k not in ("run_ids", "states", "commits")} for row in rows
    ]
