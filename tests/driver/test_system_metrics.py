"""`--system-metrics`: what the node did while a trial trained, at each evaluation, in MLflow."""

from __future__ import annotations

import dataclasses

import pytest
from mlflow.tracking import MlflowClient

from moe.metrics import VAL_LOSS
from orchestrator.driver.tune_loop import run

CPU = "system/cpu_utilization_percentage"


@pytest.mark.usefixtures("ray_cluster")
def test_system_metrics_stand_at_every_evaluation(home, hold, grid_study):
    cells = [cell for cell in grid_study.cells if cell.name == "learned"]
    study = dataclasses.replace(grid_study, cells=cells, seeds=(0,))
    with hold(study, options={"system_metrics": True}) as session:
        run(session)
    (record,) = session.records
    client = MlflowClient(home.mlflow_uri)
    steps = [point.step for point in client.get_metric_history(record.run_id, CPU)]
    assert steps == [point.step for point in client.get_metric_history(record.run_id, VAL_LOSS)]
    seen = client.get_run(record.run_id).data.metrics
    assert 0 < seen["system/system_memory_usage_percentage"] < 100
    assert not [key for key in record.metrics if key.startswith("system/")]
