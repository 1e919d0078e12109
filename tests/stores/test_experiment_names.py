"""A launch's experiment in MLflow keeps its whole name on MLflow's pages."""

from __future__ import annotations

import pytest
from mlflow.tracking import MlflowClient

from orchestrator.stores.experiment_names import experiment_name, find_experiment, launch_of

LAUNCH = "tiny/smoke/files:corpus.jsonl@0123abcd/train.num_steps=8"


@pytest.fixture
def client(home):
    return MlflowClient(home.mlflow_uri)


def test_the_whole_name_stands_after_the_last_slash():
    name = experiment_name(LAUNCH)
    assert name.split("/")[-1] == name
    assert launch_of(name) == LAUNCH
    assert launch_of(LAUNCH) == LAUNCH


def test_an_experiment_is_found_by_either_name(client):
    assert find_experiment(client, LAUNCH) is None
    before = client.create_experiment(LAUNCH)
    assert find_experiment(client, LAUNCH).experiment_id == before
    now = client.create_experiment(experiment_name(LAUNCH))
    assert find_experiment(client, LAUNCH).experiment_id == now
