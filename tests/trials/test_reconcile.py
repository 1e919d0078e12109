"""Stores that a kill left in two minds are brought to one, or the disagreement is named."""

from __future__ import annotations

import optuna
from mlflow.tracking import MlflowClient
from optuna.trial import TrialState

from moe.metrics import VAL_LOSS


def entry(step, loss):
    return {"step": step, "tokens": step * 128, "timestamp_ms": 1000 + step, VAL_LOSS: loss}


def finish_one(session):
    number = session.ledger.next().record.number
    session.ledger.started(number)
    session.ledger.progressed(number, entry(4, 2.5))
    session.ledger.completed(number, entry(4, 2.5), tokens=1)
    return session.ledger.trials[number]


def test_a_trial_left_running_in_both_stores_waits_again(home, hold, grid_study):
    with hold(grid_study) as session:
        number = session.ledger.next().record.number
        record = session.ledger.started(number)
        session.ledger.release_running = lambda: None  # as a killed driver leaves it
    client = MlflowClient(home.mlflow_uri)
    assert client.get_run(record.run_id).info.status == "RUNNING"
    with hold(grid_study) as session:
        assert session.ledger.trials[number].state == "waiting"
        assert any("interrupted" in line for line in session.said)
    assert client.get_run(record.run_id).info.status == "SCHEDULED"


def test_a_run_that_missed_its_end_gets_it(home, hold, grid_study, said):
    with hold(grid_study) as session:
        record = finish_one(session)
    client = MlflowClient(home.mlflow_uri)
    client.update_run(record.run_id, status="RUNNING")
    with hold(grid_study):
        pass
    assert client.get_run(record.run_id).info.status == "FINISHED"
    assert any("as RUNNING; it is FINISHED" in line for line in said)


def test_final_metrics_that_never_arrived_are_written_again(home, hold, grid_study, said):
    with hold(grid_study) as session:
        number = session.ledger.next().record.number
        session.ledger.started(number)
        session.ledger.progressed(number, entry(4, 2.5))
        session.tracking.log = lambda run_id, entries: None
        session.ledger.completed(number, {**entry(4, 2.5), "val/perplexity": 12.2}, tokens=1)
        record = session.ledger.trials[number]
    client = MlflowClient(home.mlflow_uri)
    # As if the spool had been lost with its disk: the run knows nothing of its metrics.
    import sqlite3

    with sqlite3.connect(home.root / "mlflow.db") as database:
        database.execute("DELETE FROM latest_metrics")
        database.execute("DELETE FROM metrics")
    with hold(grid_study):
        pass
    assert client.get_run(record.run_id).data.metrics[VAL_LOSS] == 2.5
    assert any("again" in line for line in said)


def test_a_value_that_differs_is_named_and_not_changed(home, hold, grid_study, said):
    with hold(grid_study) as session:
        record = finish_one(session)
    client = MlflowClient(home.mlflow_uri)
    client.log_metric(record.run_id, VAL_LOSS, 9.0, timestamp=10**13, step=99)
    with hold(grid_study) as session:
        assert session.ledger.trials[record.number].value == 2.5
    assert any("2.5 in Optuna and 9.0 in MLflow" in line for line in said)


def test_a_run_made_just_before_the_kill_is_removed(home, hold, grid_study, said):
    with hold(grid_study) as session:
        assignment = session.ledger.next()
        twin = session.tracking.create_run(
            assignment.point, number=assignment.record.number + 1, note="", tags={}
        )
        point = [p for p in session.launch.points()][1]
        lost = session.tracking.create_run(point, number=1, note="", tags={})
    client = MlflowClient(home.mlflow_uri)
    with hold(grid_study):
        pass
    assert client.get_run(lost).info.lifecycle_stage == "deleted"
    assert client.get_run(twin).info.lifecycle_stage == "active"
    assert any("does not know it" in line for line in said)


def test_other_studies_in_the_same_storage_are_left_alone(home, hold, grid_study):
    other = optuna.create_study(storage=home.optuna_storage, study_name="optuna")
    other.ask()
    with hold(grid_study):
        pass
    states = [
        t.state for t in optuna.load_study(study_name="optuna", storage=home.optuna_storage).trials
    ]
    assert states == [TrialState.RUNNING]
