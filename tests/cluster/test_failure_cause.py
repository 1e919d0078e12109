"""Why a trial's process was lost: told apart, and named in both stores."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import pytest
import ray
from mlflow.tracking import MlflowClient

from orchestrator.cluster import failure_cause
from orchestrator.driver.tune_loop import run


def test_a_trial_that_keeps_losing_its_process_fails_and_the_others_go_on(
    home, hold, grid_study, ray_cluster, trial_processes
):
    overrides = {"train.num_steps": 400, "train.eval_every": 20}
    options = {"max_failures": 1, "concurrency": 1}

    def kill_the_frozen(record, metrics):
        if metrics is not None and record.cell == "frozen":
            for process in trial_processes():
                process.kill()

    cells = [c for c in grid_study.cells if c.name in ("frozen", "dense")]
    study = dataclasses.replace(grid_study, baseline="dense", cells=cells, seeds=(0,))
    with hold(study, overrides=overrides, options=options, listener=kill_the_frozen) as session:
        run(session)
    records = {record.cell: record for record in session.records}
    failed = records["frozen"]
    assert (records["dense"].state, failed.state, failed.attempt) == ("complete", "failed", 2)
    assert session.exit_code == 1
    assert failed.error.startswith("the trial's process was lost: The actor is dead because")
    assert "memory" not in failed.error, "memory is named where it is known to be the reason"
    mlflow_run = MlflowClient(home.mlflow_uri).get_run(failed.run_id)
    assert mlflow_run.info.status == "FAILED"
    assert mlflow_run.data.tags["error"] == failed.error


@pytest.mark.slow
def test_ray_kills_a_trial_for_want_of_memory_and_the_reason_says_so(home, corpus, study_file):
    """On a machine that, for Ray, is full as soon as anything runs."""
    study = study_file("greedy", num_steps=2000, eval_every=1000, routers=["dense"], seeds=[0])
    full = {"RAY_memory_usage_threshold": "0.001", "RAY_memory_monitor_refresh_ms": "100"}
    code = "from orchestrator.cli import main; main()"
    asked = ("--home", home.root, "--corpus", corpus, "--cpus", "1", "--max-failures", "0")
    done = subprocess.run(
        [sys.executable, "-c", code, "run", study, *asked, "--json"],
        env={k: v for k, v in os.environ.items() if k != "RAY_AUTH_MODE"} | full,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    (trial,) = json.loads(done.stdout)["trials"]
    assert trial["state"] == "failed"
    assert trial["error"].startswith("out of memory: "), trial["error"]


def test_want_of_memory_is_named_as_such(ray_cluster, monkeypatch):
    error = ray.exceptions.OutOfMemoryError("Task was killed due to the node running low on memory")
    assert failure_cause.reason(error, None).startswith("out of memory: ")

    node = {"id": ray.get_runtime_context().get_node_id(), "oom_kills": failure_cause.oom_kills()}
    died = ray.exceptions.ActorDiedError()
    assert failure_cause.reason(died, node).startswith("the trial's process was lost: ")
    if node["oom_kills"] is None:
        pytest.skip("this kernel does not count what it kills for memory")
    before = {**node, "oom_kills": node["oom_kills"] - 1}
    assert failure_cause.reason(died, before).startswith("out of memory: ")
    gone = {**before, "id": node["id"][::-1]}
    monkeypatch.setattr(failure_cause, "_ASK_NODE_S", 1.0)
    assert failure_cause.reason(died, gone).startswith("the trial's process was lost: ")


def test_an_error_of_the_training_is_its_last_line(ray_cluster):
    @ray.remote(num_cpus=0)
    def train():
        raise KeyError("out of memory? no: a missing key")

    with pytest.raises(ray.exceptions.RayTaskError) as raised:
        ray.get(train.remote())
    assert (
        failure_cause.reason(raised.value, None) == "KeyError: 'out of memory? no: a missing key'"
    )
    assert failure_cause.reason(None, None) == "the trial's process was lost"


def test_a_machine_without_the_count_says_nothing(tmp_path):
    assert failure_cause.oom_kills(tmp_path / "none") is None
    (tmp_path / "vmstat").write_text("pgfault 12\noom_kill 3\n")
    assert failure_cause.oom_kills(tmp_path / "vmstat") == 3
