"""Whole launches on real Ray Tune, Optuna and MLflow, on one local cluster of four CPUs."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time
from pathlib import Path

import optuna
import pytest
from mlflow.tracking import MlflowClient

from moe.data.token_store import TokenStore
from moe.metrics import VAL_LOSS
from moe.train.training_run import train
from orchestrator.base.errors import BadInput
from orchestrator.cluster.connection import Resources
from orchestrator.driver.promoting import promote
from orchestrator.driver.tune_loop import run
from orchestrator.report.records import read_launch
from orchestrator.report.tables import table_of
from orchestrator.stores.trial_record import MLFLOW_STATUS_OF, STATE_OF, count_states
from orchestrator.study import EarlyStopping
from search_spaces.cells import Cell

pytestmark = pytest.mark.usefixtures("ray_cluster")


def stores_agree(home, session):
    """Every trial has the same state, value and config hash in Optuna and in MLflow."""
    study = optuna.load_study(study_name=session.launch.name, storage=home.optuna_storage)
    client = MlflowClient(home.mlflow_uri)
    for trial in study.trials:
        run_ = client.get_run(trial.user_attrs["mlflow.run_id"])
        assert run_.info.status == MLFLOW_STATUS_OF[STATE_OF[trial.state]]
        assert run_.data.tags["config_hash"] == trial.user_attrs["config_hash"]
        if trial.state == optuna.trial.TrialState.COMPLETE:
            assert run_.data.metrics[VAL_LOSS] == trial.value
        history = client.get_metric_history(run_.info.run_id, VAL_LOSS)
        assert {m.step: m.value for m in history} == trial.intermediate_values
    runs = client.search_runs([session.tracking.experiment_id])
    assert len(runs) == len(study.trials) + 1
    assert not [r for r in runs if r.info.status == "RUNNING"]


def assert_logs_name(session):
    """Ray names an actor by what its log begins with; each evaluation names its trial."""
    import ray

    logs = Path(ray._private.worker._global_node.get_logs_dir_path())
    lines = "".join(path.read_text() for path in logs.glob("worker-*.out")).splitlines()
    study = session.launch.study.name
    assert f":actor_name:{study}" in lines
    for record in session.records:
        start = (
            f"{study}, {record.cell}, seed {record.seed}: step 8 of 8, val/loss {record.value:.4f}"
        )
        assert start in lines


def wait_for_free_cluster(timeout_s=20):
    import ray

    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"]:
            break
        time.sleep(0.2)
    return ray.available_resources().get("CPU"), ray.cluster_resources()["CPU"]


def test_a_grid_runs_once_and_every_state_is_true(home, hold, grid_study):
    with hold(grid_study) as session:
        run(session)
    assert count_states(session.records)["complete"] == 6
    assert session.exit_code == 0
    stores_agree(home, session)
    assert_logs_name(session)
    first = {r.config_hash: (r.value, r.run_id) for r in session.records}
    with hold(grid_study) as again:
        run(again)
    assert {r.config_hash: (r.value, r.run_id) for r in again.records} == first
    rows = table_of("tiny-grid", again.launch.name, again.records).rows
    assert [(row.cell, row.n) for row in rows] == [("dense", 2), ("learned", 2), ("frozen", 2)]
    assert all(row.ci_low < row.mean < row.ci_high for row in rows)


def test_a_trial_that_fails_says_why_and_the_others_go_on(home, hold, grid_study):
    cells = [*grid_study.cells, Cell(name="hopeless", overrides={"train.max_loss": 1e-3})]
    with hold(dataclasses.replace(grid_study, cells=cells), seeds=(0,)) as session:
        run(session)
    assert count_states(session.records)["failed"] == 1
    assert count_states(session.records)["complete"] == 3
    assert session.exit_code == 1
    failed = next(r for r in session.records if r.state == "failed")
    assert "DivergenceError" in failed.error
    tags = MlflowClient(home.mlflow_uri).get_run(failed.run_id).data.tags
    assert tags["error"] == failed.error
    stores_agree(home, session)


def test_early_stopping_prunes_truthfully(home, hold, sampled_study):
    between = EarlyStopping(first_rung=3 / 8, reduction_factor=2)  # steps 3 and 6, evaluated by 2
    study = dataclasses.replace(sampled_study, early_stopping=between)
    with hold(study, options={"concurrency": 2}) as session:
        run(session)
    assert all(3 in record.curve for record in session.records)
    states = count_states(session.records)
    assert states["pruned"] >= 1
    assert states["complete"] >= 1
    assert states["pruned"] + states["complete"] == 6
    assert len({r.config_hash for r in session.records}) == 6
    for record in session.records:
        if record.state == "pruned":
            assert record.value is None
            assert max(record.curve) < 8
    stores_agree(home, session)
    a_promoted_point_goes_on_from_its_checkpoint(home, hold, study, session.records)


def a_promoted_point_goes_on_from_its_checkpoint(home, hold, study, records):
    stopped = next(r for r in records if r.state == "pruned")
    (told,) = promote(read_launch(study.name, home=home), [stopped.cell], home, None)
    assert (told.seeds, told.step, told.anew) == ((0,), max(stopped.curve), None)
    with hold(study, options={"concurrency": 2}) as session:
        run(session)
    (new,) = session.records[len(records) :]
    assert (new.state, new.config_hash) == ("complete", stopped.config_hash)
    assert max(new.curve) == 8
    client = MlflowClient(home.mlflow_uri)
    before, after = (
        {(m.step, m.value, m.timestamp) for m in client.get_metric_history(r.run_id, VAL_LOSS)}
        for r in (stopped, new)
    )
    assert before < after, "what was measured before the end is not measured again"
    stores_agree(home, session)
    with pytest.raises(BadInput, match=f"{stopped.cell} is complete, pruned"):
        promote(read_launch(study.name, home=home), [stopped.cell], home, None)
    with hold(study) as again:
        run(again)
    assert len(again.records) == len(session.records)


def test_two_worker_trials_stopped_early_leave_the_cluster_free(home, hold, sampled_study):
    import ray

    options = {"resources": Resources(workers=2)}
    # Of two trials at once, which reports first is chance. The best two come first, so that a harsh
    # rule stops the others whatever their order: each better than those before, none was (seen).
    harsh = EarlyStopping(first_rung=0.25, reduction_factor=4)
    best = [{"moe.num_experts": 2, "moe.top_k": k, "moe.router": "frozen"} for k in (1, 2)]
    study = dataclasses.replace(sampled_study, early_stopping=harsh, first=best)
    with hold(study, trials=8, options=options) as session:
        run(session)
    states = count_states(session.records)
    assert states["pruned"] >= 2, "the study is to stop several trials early"
    assert states["pruned"] + states["complete"] == 8
    stores_agree(home, session)
    free, total = wait_for_free_cluster()
    assert free == total
    groups = ray.util.placement_group_table().values()
    assert {group["state"] for group in groups} <= {"REMOVED"}


def test_two_workers_give_the_loss_of_one(home, hold, grid_study, tmp_path):
    cells = [c for c in grid_study.cells if c.name == "learned"]
    study = dataclasses.replace(grid_study, cells=cells, seeds=(0,))
    with hold(study, options={"resources": Resources(workers=2)}) as session:
        run(session)
        point = session.launch.points()[0]
        tokens = session.tokens.of(point)
    alone = train(
        point.config,
        TokenStore.open(tokens),
        report=lambda metrics, checkpoint: None,
        out=tmp_path / "alone",
    )
    assert [r.state for r in session.records] == ["complete"]
    assert session.records[0].value == pytest.approx(alone.metrics[VAL_LOSS], rel=1e-5)
    tags = MlflowClient(home.mlflow_uri).get_run(session.records[0].run_id).data.tags
    assert tags["workers"] == "2"


def test_a_killed_trial_process_goes_on_from_its_checkpoint(
    home, hold, grid_study, trial_processes
):
    overrides = {"train.num_steps": 400, "train.eval_every": 20}
    killed = []

    def kill_the_worker(record, metrics):
        if metrics is not None and not killed and metrics["step"] >= 100:
            for process in trial_processes():
                process.kill()
                killed.append(record.number)

    cells = [c for c in grid_study.cells if c.name == "learned"]
    study = dataclasses.replace(grid_study, cells=cells, seeds=(0,))
    with hold(study, overrides=overrides, listener=kill_the_worker) as session:
        run(session)
    assert killed, "no worker was found to kill"
    assert [(r.state, r.attempt) for r in session.records] == [("complete", 2)]
    stores_agree(home, session)


def test_a_lost_process_that_tune_reports_twice_is_one_failure(
    home, hold, grid_study, trial_processes, monkeypatch
):
    """Of two calls that fail with one process, Tune recovers at the first, ends at the second."""
    from ray.tune.execution.tune_controller import TuneController

    told = TuneController._trial_task_failure

    def twice(controller, trial, exception):
        told(controller, trial, exception)
        told(controller, trial, exception)

    monkeypatch.setattr(TuneController, "_trial_task_failure", twice)
    overrides = {"train.num_steps": 400, "train.eval_every": 20}
    killed = []

    def kill_once_each(record, metrics):
        if metrics is not None and record.number not in killed and metrics["step"] >= 100:
            for process in trial_processes():
                process.kill()
            killed.append(record.number)

    options = {"concurrency": 1, "max_failures": 1}
    cells = [c for c in grid_study.cells if c.name == "learned"]
    study = dataclasses.replace(grid_study, cells=cells, seeds=(0,))
    with hold(study, overrides=overrides, options=options, listener=kill_once_each) as session:
        run(session)
    assert killed == [0]
    assert [(r.state, r.attempt) for r in session.records] == [("complete", 2)]
    stores_agree(home, session)


def test_an_interrupt_leaves_what_the_same_command_continues(home, hold, grid_study):
    overrides = {"train.num_steps": 400, "train.eval_every": 20}
    seen = threading.Event()

    def interrupt(record, metrics):
        if metrics is not None and metrics["step"] >= 60 and not seen.is_set():
            seen.set()
            os.kill(os.getpid(), signal.SIGINT)

    with hold(grid_study, seeds=(0,), overrides=overrides, listener=interrupt) as session:
        run(session)
    assert session.exit_code == 130
    assert count_states(session.records)["running"] == 0
    assert count_states(session.records)["waiting"] == 3
    client = MlflowClient(home.mlflow_uri)
    started = [r for r in session.records if r.run_id]
    assert {client.get_run(r.run_id).info.status for r in started} == {"SCHEDULED"}
    assert wait_for_free_cluster()[0] == 4
    with hold(grid_study, seeds=(0,), overrides=overrides) as session:
        run(session)
    assert count_states(session.records)["complete"] == 3
    stores_agree(home, session)
