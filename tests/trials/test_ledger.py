"""The ledger on a real Optuna storage and a real MLflow store: one truth in both, read back with
their own clients."""

from __future__ import annotations

import optuna
import pytest
from mlflow.tracking import MlflowClient
from optuna.trial import TrialState

from moe.metrics import VAL_LOSS
from orchestrator.base.errors import LaunchHeld
from orchestrator.stores.trial_record import RUN_ID

STATUS = {
    TrialState.COMPLETE: "FINISHED",
    TrialState.PRUNED: "KILLED",
    TrialState.FAIL: "FAILED",
    TrialState.WAITING: "SCHEDULED",
}


def entry(step, loss):
    return {"step": step, "tokens": step * 128, "timestamp_ms": 1000 + step, VAL_LOSS: loss}


def stores(home, name):
    """{number: (Optuna trial, MLflow run)} of the trials that have a run."""
    study = optuna.load_study(study_name=name, storage=home.optuna_storage)
    client = MlflowClient(home.mlflow_uri)
    return {
        trial.number: (trial, client.get_run(trial.user_attrs[RUN_ID]))
        for trial in study.trials
        if RUN_ID in trial.user_attrs
    }


def run_one(ledger, losses, end="completed"):
    assignment = ledger.next()
    number = assignment.record.number
    ledger.started(number)
    for step, loss in losses:
        ledger.progressed(number, entry(step, loss))
    if end == "completed":
        ledger.completed(number, entry(*losses[-1]), tokens=1024)
    elif end == "pruned":
        ledger.stopped(number, tokens=512)
    else:
        ledger.failed(number, end)
    return number


def test_every_state_is_the_same_in_both_stores(home, hold, grid_study):
    with hold(grid_study) as session:
        name = session.launch.name
        complete = run_one(session.ledger, [(2, 3.0), (4, 2.5)])
        pruned = run_one(session.ledger, [(2, 4.0)], "pruned")
        failed = run_one(session.ledger, [(2, 4.0)], "DivergenceError: loss is nan at step 3")
        interrupted = session.ledger.next().record.number
        session.ledger.started(interrupted)
    found = stores(home, name)
    for trial, run in found.values():
        assert run.info.status == STATUS[trial.state]
        assert run.data.tags["config_hash"] == trial.user_attrs["config_hash"]
        assert run.data.tags["optuna.trial_number"] == str(trial.number)
    assert found[complete][0].value == found[complete][1].data.metrics[VAL_LOSS] == 2.5
    assert found[pruned][0].state == TrialState.PRUNED
    assert found[pruned][0].intermediate_values == {2: 4.0}
    assert found[failed][0].user_attrs["error"] == found[failed][1].data.tags["error"]
    assert "nan at step 3" in found[failed][0].user_attrs["error"]
    assert found[interrupted][0].state == TrialState.WAITING


def test_a_value_that_is_not_finite_fails_the_trial(home, hold, grid_study):
    with hold(grid_study) as session:
        number = session.ledger.next().record.number
        session.ledger.started(number)
        session.ledger.completed(number, entry(4, float("nan")), tokens=1024)
        name = session.launch.name
    trial, run = stores(home, name)[number]
    assert (trial.state, run.info.status) == (TrialState.FAIL, "FAILED")
    assert "not a finite number" in trial.user_attrs["error"]


def test_trials_are_seed_major_and_run_once(hold, grid_study):
    with hold(grid_study) as session:
        order = []
        while assignment := session.ledger.next():
            order.append((assignment.point.seed, assignment.point.cell))
            number = assignment.record.number
            session.ledger.started(number)
            session.ledger.completed(number, entry(4, 2.0), tokens=1)
        cells = ["dense", "learned", "frozen"]
        assert order == [(seed, cell) for seed in (0, 1) for cell in cells]
    with hold(grid_study) as session:
        assert session.ledger.next() is None
        assert len(session.records) == 6


def test_more_seeds_add_trials_to_the_same_launch(hold, grid_study):
    with hold(grid_study, seeds=(0,)) as session:
        assert len(session.records) == 3
        name = session.launch.name
    with hold(grid_study, seeds=(0, 1, 2)) as session:
        assert session.launch.name == name
        assert len(session.records) == 9


def test_replayed_steps_are_not_written_twice(home, hold, grid_study):
    with hold(grid_study) as session:
        name = session.launch.name
        number = session.ledger.next().record.number
        session.ledger.started(number)
        session.ledger.progressed(number, entry(2, 3.0))
    with hold(grid_study) as session:
        assert session.ledger.next().record.number == number
        session.ledger.started(number)
        session.ledger.progressed(number, {**entry(2, 3.0), "timestamp_ms": 99999})
        session.ledger.progressed(number, entry(4, 2.5))
        session.ledger.completed(number, entry(4, 2.5), tokens=1)
        run_id = session.ledger.trials[number].run_id
    history = MlflowClient(home.mlflow_uri).get_metric_history(run_id, VAL_LOSS)
    assert [(m.step, m.value) for m in history] == [(2, 3.0), (4, 2.5)]
    assert stores(home, name)[number][0].intermediate_values == {2: 3.0, 4: 2.5}


def test_a_failed_trial_is_repeated_only_when_asked(hold, grid_study):
    with hold(grid_study, seeds=(0,)) as session:
        run_one(session.ledger, [(2, 4.0)], "it broke")
        before = len(session.records)
    with hold(grid_study, seeds=(0,)) as session:
        assert len(session.records) == before
    with hold(grid_study, seeds=(0,), options={"retry_failed": True}) as session:
        assert len(session.records) == before + 1
        assert session.exit_code == 1


def test_a_shared_cell_is_paid_once_in_a_home(home, hold, grid_study):
    import dataclasses

    other = dataclasses.replace(grid_study, name="other")
    with hold(grid_study) as session:
        number = run_one(session.ledger, [(2, 3.0), (4, 2.5)])
        source = session.ledger.trials[number]
    with hold(other) as session:
        assignment = session.ledger.next()
        assert assignment.record.cell != source.cell
        reused = [r for r in session.records if r.state == "complete"]
        name = session.launch.name
    assert [(r.cell, r.value, r.tokens) for r in reused] == [(source.cell, 2.5, 0)]
    trial, run = stores(home, name)[reused[0].number]
    assert run.data.tags["reused_from"] == source.run_id
    assert run.data.metrics[VAL_LOSS] == trial.value == 2.5
    assert trial.intermediate_values == {2: 3.0, 4: 2.5}


def test_sampled_points_are_new_feasible_and_the_same_after_a_restart(
    tmp_path, hold, sampled_study
):
    with hold(sampled_study, trials=16) as session:
        drawn = []
        for step in range(12):
            number = session.ledger.next().record.number
            session.ledger.started(number)
            session.ledger.completed(number, entry(8, 3 - 0.1 * step), tokens=1)
            drawn.append(session.ledger.trials[number])
    hashes = [record.config_hash for record in drawn]
    assert len(set(hashes)) == len(hashes)
    with hold(sampled_study, trials=16) as session:
        for _ in range(4):
            number = session.ledger.next().record.number
            session.ledger.started(number)
            session.ledger.completed(number, entry(8, 3.0), tokens=1)
        assert session.ledger.next() is None
        assert len({r.config_hash for r in session.records}) == 16 == len(session.records)


def test_an_exhausted_space_ends_the_study_and_says_so(hold, sampled_study, said):
    with hold(sampled_study, trials=40) as session:
        while assignment := session.ledger.next():
            session.ledger.started(assignment.record.number)
            session.ledger.completed(assignment.record.number, entry(8, 3.0), tokens=1)
        assert len(session.records) == 16
    assert any("exhausted" in line for line in said)


def test_a_second_driver_is_refused_and_told_who_holds_the_launch(hold, grid_study):
    import os

    refused = pytest.raises(LaunchHeld, match=f"process {os.getpid()}")
    with hold(grid_study), refused, hold(grid_study):
        pytest.fail("two drivers held one launch")


def test_seeds_of_a_sampled_point_share_their_parameters(hold, sampled_study):
    with hold(sampled_study, trials=3, seeds=(0, 1)) as session:
        while assignment := session.ledger.next():
            session.ledger.started(assignment.record.number)
            session.ledger.completed(assignment.record.number, entry(8, 3.0), tokens=1)
        cells = {}
        for record in session.records:
            cells.setdefault(record.cell_hash, []).append(record)
        assert len(cells) == 3
        for records in cells.values():
            assert sorted(r.seed for r in records) == [0, 1]
            assert records[0].params == records[1].params
