"""Brings the two stores to one truth before a driver starts: what disagrees is mended, or named.

Only the driver that holds the launch calls this, so whatever is RUNNING belonged to a dead one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from optuna.trial import TrialState

from moe.metrics import STEP, TIMESTAMP_MS
from orchestrator.stores.mlflow_runs import MlflowRuns, RunInfo
from orchestrator.stores.optuna_trials import OptunaTrials
from orchestrator.stores.trial_record import (
    CONFIG_HASH,
    FINISHED_STATES,
    MLFLOW_STATUS_OF,
    ORIGIN_TRIAL,
    RUN_ID,
    TrialRecord,
)
from orchestrator.study.objectives import FIGURES


def reconcile(search: OptunaTrials, tracking: MlflowRuns, *, metric: str) -> list[str]:
    """What was mended or could not be, one line each."""
    said: list[str] = []
    interrupted = 0
    for record in search.records():
        if record.state == "running":
            search.set_state(record.trial_id, TrialState.WAITING)
            interrupted += 1
    if interrupted:
        said.append(f"{interrupted} interrupted trials will go on from their checkpoints")
    records = {record.number: record for record in search.records()}
    known = {record.run_id for record in records.values() if record.run_id}
    runs: dict[str, RunInfo] = {}
    for run in tracking.runs():
        if run.run_id in known:
            runs[run.run_id] = run
        elif ORIGIN_TRIAL in run.tags:
            tracking.discard(run.run_id)
            said.append(f"removed a run of trial {run.trial_number} whose import was not finished")
        elif _never_started(run, records):
            # The driver was killed after it made the run and before the trial knew of it.
            tracking.discard(run.run_id)
            said.append(f"removed a run of trial {run.trial_number} that never started")
        else:
            said.append(
                f"MLflow run {run.run_id} says it is trial {run.trial_number}, and the record of "
                "the search does not know it; it is left alone and counted nowhere"
            )
    for record in records.values():
        if record.run_id and record.run_id not in runs and record.state == "waiting":
            search.set_attributes_of_waiting(record.trial_id, {RUN_ID: None})
            said.append(f"the MLflow run of trial {record.number} is gone; it gets a new one")
        elif record.run_id:
            told = _measured(record, metric, search.info.objectives)
            said += _agree(record, runs.get(record.run_id), tracking, told)
    return said


def _never_started(run: RunInfo, records: dict[int, TrialRecord]) -> bool:
    record = records.get(run.trial_number)
    same = record is not None and record.config_hash == run.tags.get(CONFIG_HASH)
    # KILLED: an earlier driver was itself killed while it removed the run.
    return same and run.status in ("RUNNING", "SCHEDULED", "KILLED") and not run.metrics


def _measured(
    record: TrialRecord, metric: str, objectives: Sequence[str]
) -> dict[str, float | None]:
    """What a complete trial came to in Optuna and MLflow alike: figures of its config are no
    metrics."""
    values = zip(objectives, record.values, strict=False)
    return {metric: record.value} | {name: v for name, v in values if name not in FIGURES}


def _agree(
    record: TrialRecord,
    run: RunInfo | None,
    tracking: MlflowRuns,
    measured: Mapping[str, float | None],
) -> list[str]:
    name = f"trial {record.number} ({record.cell}, seed {record.seed})"
    if run is None:
        return [f"the MLflow run {record.run_id} of {name} is gone; its result stands in Optuna"]
    said = []
    if record.state == "complete":
        logged = {name: run.metrics.get(name) for name in measured}
        if None in logged.values():
            last = max(record.curve, default=0)
            ended_ms = int(record.ended.timestamp() * 1000)
            tracking.log(run.run_id, [{**record.metrics, STEP: last, TIMESTAMP_MS: ended_ms}])
            said.append(f"wrote the final metrics of {name} to MLflow again")
        else:
            said += [
                f"{name} has {metric} {value} in Optuna and {logged[metric]} in MLflow; "
                "neither was changed"
                for metric, value in measured.items()
                if logged[metric] != value
            ]
    expected = MLFLOW_STATUS_OF[record.state]
    if run.status != expected:
        if record.state in FINISHED_STATES:
            tracking.end(run.run_id, expected)
        else:
            tracking.set_status(run.run_id, expected)
        said.append(f"MLflow had {name} as {run.status}; it is {expected}")
    return said
