"""How MLflow names a launch's experiment: by the launch's name, with bars for its slashes.

MLflow's pages head an experiment, and the way back to it from a run, with what follows the last
slash of its name: of `quickstart/smoke/docs.parquet@33219e9d` the study would be cut off.
"""

from __future__ import annotations

from mlflow.entities import Experiment
from mlflow.tracking import MlflowClient

_SLASH, _BAR = "/", " | "


def experiment_name(launch: str) -> str:
    return launch.replace(_SLASH, _BAR)


def launch_of(experiment: str) -> str:
    """The launch's name again, also from an experiment of before 2026-11-26, which has its own."""
    return experiment.replace(_BAR, _SLASH)


def find_experiment(client: MlflowClient, launch: str) -> Experiment | None:
    """A launch's experiment, a deleted one too; None where there is none. Raises MlflowException
    where the store is away."""
    for name in (experiment_name(launch), launch):
        if (found := client.get_experiment_by_name(name)) is not None:
            return found
    return None
