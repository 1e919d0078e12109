"""A launch's experiment in MLflow, and the parent run of its trials."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from moe.metrics import describe
from orchestrator.base.errors import BadInput
from orchestrator.stores.experiment_names import experiment_name, find_experiment
from orchestrator.stores.mlflow_client import search_runs
from orchestrator.stores.mlflow_private import NOTE_TAG, TRAINING_KIND, shared_views

PARENT = "moe_study.parent"
OWNER = "moe_study.owner"
TAG_LIMIT = 5000
STOPPED_BY = "stopped_by"


class Asked(Protocol):
    """What of a study's file MLflow's pages say."""

    @property
    def name(self) -> str: ...
    @property
    def question(self) -> str: ...
    @property
    def baseline(self) -> str: ...
    @property
    def held_fixed(self) -> str: ...
    @property
    def metric(self) -> str: ...


class NamedLaunch(Protocol):
    """A launch as the tracking side needs it: of this home, or of a file."""

    @property
    def name(self) -> str: ...
    @property
    def study(self) -> Asked: ...
    @property
    def scale(self) -> str: ...
    @property
    def corpus_text(self) -> str: ...
    @property
    def corpus_digest(self) -> str | None: ...


def require_not_deleted(client: MlflowClient, launch: NamedLaunch) -> None:
    """Raises BadInput where the launch's experiment was deleted."""
    experiment = find_experiment(client, launch.name)
    if experiment is not None and experiment.lifecycle_stage == "deleted":
        raise BadInput(
            f"the experiment {experiment.name!r} was deleted in MLflow, and its name is still "
            "taken. Restore it there, or use another store."
        )


def open_experiment(client: MlflowClient, launch: NamedLaunch, artifacts: Path) -> str:
    """Its id; made where there is none. Beside a database artifacts lie in that folder."""
    experiment = find_experiment(client, launch.name)
    metric = launch.study.metric
    tags = {**TRAINING_KIND, **shared_views(metric, describe(metric).better != "higher")}
    if experiment is None:
        # A server has artifacts of its own.
        local = not client.tracking_uri.startswith(("http://", "https://"))
        return client.create_experiment(
            experiment_name(launch.name),
            artifact_location=artifacts.as_uri() if local else None,
            tags={
                "launch": launch.name,
                "study": launch.study.name,
                "scale": launch.scale,
                "corpus": launch.corpus_text[:TAG_LIMIT],
                "corpus_digest": str(launch.corpus_digest),
                NOTE_TAG: _description(launch),
                **tags,
            },
        )
    if not tags.items() <= experiment.tags.items():
        for key, value in tags.items():
            client.set_experiment_tag(experiment.experiment_id, key, value)
    return experiment.experiment_id


def open_parent(client: MlflowClient, experiment_id: str, launch: NamedLaunch, owner: str) -> Run:
    """The parent run of one search, as it is; made where there is none."""
    return find_parent(client, experiment_id, owner) or client.create_run(
        experiment_id,
        run_name=launch.study.name,
        tags={
            PARENT: "true",
            OWNER: owner,
            "study": launch.study.name,
            NOTE_TAG: _description(launch),
        },
    )


def begin_parent(client: MlflowClient, run: Run) -> None:
    if STOPPED_BY in run.data.tags:
        client.delete_tag(run.info.run_id, STOPPED_BY)
    client.update_run(run.info.run_id, status="RUNNING")


def find_parent(client: MlflowClient, experiment_id: str, owner: str) -> Run | None:
    query = f"tags.`{PARENT}` = 'true' AND tags.`{OWNER}` = '{owner}'"
    return next(iter(search_runs(client, experiment_id, query)), None)


def _description(launch: NamedLaunch) -> str:
    return (
        f"{launch.study.question}\n\nBaseline: {launch.study.baseline}. "
        f"Held fixed: {launch.study.held_fixed}"
    )
