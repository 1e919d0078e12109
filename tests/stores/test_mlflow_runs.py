"""A clock that jumps forward and back: no point is lost or doubled, no run ends before it began."""

from __future__ import annotations

import time

import optuna
import pytest
from mlflow.tracking import MlflowClient

from moe.data.token_store import TokenStore
from moe.metrics import VAL_LOSS
from moe.train.training_run import train
from orchestrator.stores.experiment_names import find_experiment
from orchestrator.stores.optuna_launches import launches_in

DAY_S = 86_400


@pytest.fixture
def jump(monkeypatch):
    """Moves the wall clock by some seconds; monotonic clocks go on."""
    now, now_ns, shift = time.time, time.time_ns, [0]
    monkeypatch.setattr("time.time", lambda: now() + shift[0])
    monkeypatch.setattr("time.time_ns", lambda: now_ns() + shift[0] * 10**9)

    def by(seconds):
        shift[0] += seconds

    return by


def _train(session, record, *, jump, jumps, until=None):
    """The trial as its worker runs it, each report told to the ledger; left after step `until`."""

    class Killed(Exception):
        pass

    def report(metrics, checkpoint):
        session.ledger.progressed(record.number, metrics)
        jump(jumps.get(metrics["step"], 0))
        if metrics["step"] == until:
            raise Killed

    point = next(p for p in session.launch.points() if p.config_hash == record.config_hash)
    out = session.options.home.run_folder(record.config_hash, "code")
    tokens = TokenStore.open(session.tokens.of(point))
    try:
        result = train(point.config, tokens, report=report, out=out, checkpoint_every=2)
    except Killed:
        return
    session.ledger.completed(record.number, result.metrics, tokens=1, late=result.late_metrics)


def test_a_jump_neither_loses_nor_doubles_points(home, hold, grid_study, jump):
    with hold(grid_study, seeds=(0,)) as session:
        record = session.ledger.next().record
        session.ledger.started(record.number)
        _train(session, record, jump=jump, jumps={2: DAY_S, 4: -3 * DAY_S}, until=4)
    with hold(grid_study, seeds=(0,)) as session:
        assert session.ledger.next().record.number == record.number
        session.ledger.started(record.number)
        _train(session, record, jump=jump, jumps={6: -DAY_S})
        name, run_id = session.launch.name, session.ledger.trials[record.number].run_id
    client = MlflowClient(home.mlflow_uri)
    history = client.get_metric_history(run_id, VAL_LOSS)
    assert [m.step for m in history] == [2, 4, 6, 8]
    times = [m.timestamp for m in history]
    assert times == sorted(times)
    trial = optuna.load_study(study_name=name, storage=home.optuna_storage).trials[record.number]
    assert {m.step: m.value for m in history} == trial.intermediate_values
    for run in client.search_runs([find_experiment(client, name).experiment_id]):
        if run.info.status == "FINISHED":
            assert run.info.end_time >= run.info.start_time
    durations = [m.value for m in client.get_metric_history(run_id, "cost/device_s")]
    assert durations == sorted(durations)


def test_the_launch_started_last_is_the_newest_also_after_a_jump_back(
    home, hold, grid_study, sampled_study, monkeypatch
):
    from datetime import UTC, datetime, timedelta

    from orchestrator.driver import session as session_module

    class Earlier(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(UTC) - timedelta(days=1)

    with hold(sampled_study):
        pass
    monkeypatch.setattr(session_module, "datetime", Earlier)
    with hold(grid_study) as session:
        name = session.launch.name
    launches = launches_in(optuna.storages.get_storage(home.optuna_storage))
    assert launches[-1].name == name
