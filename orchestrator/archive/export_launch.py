"""A launch of a home becomes what its file holds: both stores' records, and the home's few files.

Reads only; a driver may be at work. What has not come to its end is written down as waiting.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from optuna.trial import FrozenTrial, TrialState

from moe.train.run_folder import CONFIG_FILE
from orchestrator.archive.archived_launch import (
    ArchivedLaunch,
    ArchivedTrial,
    key_of,
)
from orchestrator.base.errors import BadInput, StudyError
from orchestrator.base.home import Home
from orchestrator.base.run_files import KEPT
from orchestrator.base.urls import redact
from orchestrator.report.judge import analysis_folder
from orchestrator.report.records import LaunchRecords
from orchestrator.stores.experiment_names import find_experiment
from orchestrator.stores.finished_run import FinishedRun
from orchestrator.stores.mlflow_client import search_runs
from orchestrator.stores.mlflow_runs import TRIAL_NUMBER
from orchestrator.stores.moved_home import artifact_folder
from orchestrator.stores.optuna_launches import OWNER
from orchestrator.stores.parent_run import OWNER as RUN_OWNER
from orchestrator.stores.trial_record import (
    ATTEMPT,
    CHECKPOINT_PLACE,
    COMMIT,
    DEVICE_S,
    DIVERGED_AT,
    ERROR,
    MACHINE,
    METRICS,
    MLFLOW_STATUS_OF,
    MOE_DIGEST,
    ORIGIN,
    REUSED_FROM,
    RUN_ID,
    RUN_LINK,
    TOKENS,
    TrialRecord,
)

_ARTIFACTS = (CONFIG_FILE, *(f"{folder}/{name}" for name, folder in KEPT.items()))
# What attempts leave in a trial; everything else was known before it started.
_OF_AN_ATTEMPT = {
    *(RUN_ID, RUN_LINK, METRICS, TOKENS, DEVICE_S, ERROR, ATTEMPT, REUSED_FROM, MOE_DIGEST),
    *(COMMIT, *MACHINE, ORIGIN, DIVERGED_AT, CHECKPOINT_PLACE),
}


def export_launch(launch: LaunchRecords, client: MlflowClient) -> ArchivedLaunch:
    """Raises BadInput where the MLflow store does not have the launch, StudyError where a trial
    that has ended is not yet whole there."""
    owner = launch.info.attributes[OWNER]
    runs = _runs(launch, client, owner)
    files: dict[str, bytes] = dict(_analysis_files(launch))
    trials = []
    for trial in launch.store.trials():  # once: a driver may be at work
        if not trial.state.is_finished():
            trials.append(_waiting(trial, owner))
            continue
        record = TrialRecord.of(trial)
        run = runs.get(record.run_id)
        if run is None or run.info.status != MLFLOW_STATUS_OF[record.state]:
            raise StudyError(
                f"an export holds what both stores have; trial {record.number} ({record.cell}) is "
                f"{record.state} in Optuna, and MLflow has "
                + ("no run of it" if run is None else f"its run as {run.info.status}")
                + ". Run `moe-study deliver`, or wait for the driver that is at work, and export "
                "again."
            )
        artifacts = {
            name: content
            for name in _ARTIFACTS
            if (content := _artifact(launch, client, record, name)) is not None
        }
        folder = launch.home.run_folder(record.config_hash, record.code_digest)
        kept = str(folder.relative_to(launch.home.root))
        for name, content in artifacts.items():
            files[f"{kept}/{Path(name).name}"] = content
        config = artifacts.get(CONFIG_FILE)
        trials.append(
            ArchivedTrial(
                key=key_of(trial, owner),
                trial=trial,
                run=_archived(run, client),
                config=None if config is None else config.decode(),
            )
        )
    return ArchivedLaunch(
        name=launch.info.name,
        directions=[one.name.lower() for one in launch.store.study.directions],
        attributes=launch.info.attributes,
        trials=trials,
        files=files,
    )


def _runs(launch: LaunchRecords, client: MlflowClient, owner: str) -> dict[str, Run]:
    try:
        experiment = find_experiment(client, launch.info.name)
        if experiment is None:
            raise BadInput(
                f"{redact(client.tracking_uri)} has no experiment of {launch.info.name}. Name the "
                "launch's --mlflow-uri."
            )
        query = f"tags.`{TRIAL_NUMBER}` LIKE '%' AND tags.`{RUN_OWNER}` = '{owner}'"
        found = search_runs(client, experiment.experiment_id, query)
    except MlflowException as error:
        raise StudyError(f"MLflow is away ({error.error_code}). Export again later.") from None
    return {run.info.run_id: run for run in found}


def _waiting(trial: FrozenTrial, owner: str) -> ArchivedTrial:
    """As it was planned: what an attempt without an end has left is no result."""
    planned = FrozenTrial(
        number=trial.number,
        state=TrialState.WAITING,
        value=None,
        datetime_start=None,
        datetime_complete=None,
        params=trial.params,
        distributions=trial.distributions,
        user_attrs={k: v for k, v in trial.user_attrs.items() if k not in _OF_AN_ATTEMPT},
        system_attrs={},
        intermediate_values={},
        trial_id=trial.number,
    )
    return ArchivedTrial(key=key_of(trial, owner), trial=planned, run=None, config=None)


def _archived(run: Run, client: MlflowClient) -> FinishedRun:
    """With every point of every curve, at the time of its first writing."""
    points = [
        (metric, point.value, point.timestamp, point.step)
        for metric in sorted(run.data.metrics)
        for point in client.get_metric_history(run.info.run_id, metric)
    ]
    return FinishedRun(
        name=run.info.run_name,
        status=run.info.status,
        start_ms=run.info.start_time,
        end_ms=run.info.end_time,
        tags=_own_tags(run.data.tags),
        params=run.data.params,
        datasets=[_dataset(found.dataset) for found in run.inputs.dataset_inputs],
        points=points,
    )


def _own_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Without what belongs to a store: its own names, and which search and trial a run is of."""
    of_store = {RUN_OWNER, TRIAL_NUMBER}
    return {k: v for k, v in tags.items() if k not in of_store and not k.startswith("mlflow.")}


def _dataset(dataset: Any) -> dict[str, Any]:
    keys = ("name", "digest", "source_type", "source", "schema", "profile")
    return {key: value for key in keys if (value := getattr(dataset, key)) is not None}


def _artifact(
    launch: LaunchRecords, client: MlflowClient, record: TrialRecord, name: str
) -> bytes | None:
    """From the home where it is there: a home that was moved names another place in MLflow."""
    home: Home = launch.home
    file = home.artifacts / artifact_folder(launch.info.name) / record.run_id / "artifacts" / name
    kept = home.run_folder(record.config_hash, record.code_digest) / Path(name).name
    for path in (file, kept):
        if path.is_file():
            return path.read_bytes()
    if client.tracking_uri == home.mlflow_uri:
        return None
    with TemporaryDirectory() as folder:
        try:
            return Path(client.download_artifacts(record.run_id, name, folder)).read_bytes()
        except (MlflowException, OSError):
            return None  # dense models have no routing


def _analysis_files(launch: LaunchRecords) -> dict[str, bytes]:
    """Rows and shares of `analyze`, a pair of files a probe; its drawings are made of them."""
    folder = analysis_folder(launch.home, launch.info.name)
    return {
        str(path.relative_to(launch.home.root)): path.read_bytes()
        for path in sorted(folder.glob("*"))
        if path.suffix in (".json", ".parquet")
    }
