"""A real MLflow server over HTTP: nothing is shown, and metrics outlive its absence."""

from __future__ import annotations

import pytest
from mlflow.tracking import MlflowClient

from moe.metrics import VAL_LOSS
from orchestrator.stores.outbox import deliver_outboxes
from orchestrator.stores.run_requests import StoreUnavailable


def entry(step, loss):
    return {"step": step, "tokens": step * 128, "timestamp_ms": 1000 + step, VAL_LOSS: loss}


@pytest.mark.slow
def test_metrics_outlive_a_server_that_is_away_and_nothing_is_shown(
    mlflow_server, home, hold, grid_study, capfd, said, monkeypatch
):
    server = mlflow_server
    monkeypatch.setattr("orchestrator.stores.mlflow_runs.CLOSE_TIMEOUT_S", 3.0)
    with hold(grid_study, seeds=(0,), options={"mlflow_uri": server.uri}) as session:
        ledger = session.ledger
        numbers = []
        for _ in range(2):
            numbers.append(ledger.next().record.number)
            ledger.started(numbers[-1])
            ledger.progressed(numbers[-1], entry(4, 2.5))
        ledger.completed(numbers[0], entry(8, 2.25), tokens=1)
        server.stop()
        ledger.progressed(numbers[1], entry(6, 2.0))
        ledger.completed(numbers[1], entry(8, 1.75), tokens=1)
        with pytest.raises(StoreUnavailable):
            ledger.next()
    assert session.undelivered
    assert session.exit_code == 1
    assert [session.ledger.trials[n].state for n in numbers] == ["complete", "complete"]

    server.start()
    delivered, left = deliver_outboxes(
        MlflowClient(home.mlflow_uri), home.mlflow_uri, home, say=said.append
    )
    assert (delivered, left) == (0, 0)
    assert any("another store" in line for line in said)
    client = MlflowClient(server.uri)
    delivered, left = deliver_outboxes(client, server.uri, home, say=said.append)
    assert delivered > 0
    assert left == 0
    for number, value in zip(numbers, (2.25, 1.75), strict=True):
        run = client.get_run(session.ledger.trials[number].run_id)
        assert run.info.status == "FINISHED"
        assert run.data.metrics[VAL_LOSS] == value
    history = client.get_metric_history(session.ledger.trials[numbers[1]].run_id, VAL_LOSS)
    assert [(m.step, m.timestamp) for m in history] == [(4, 1004), (6, 1006), (8, 1008)]
    out, err = capfd.readouterr()
    assert out == "", "a script's stdout holds its JSON and nothing else"
    assert "secretpw" not in out + err + " ".join(said)
