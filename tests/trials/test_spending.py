"""A launch stops by its budget, says what waits, and goes on with a larger one."""

from __future__ import annotations

import dataclasses
import time

import pytest
from mlflow.tracking import MlflowClient

from moe.metrics import DEVICE_S, VAL_LOSS
from orchestrator.base.errors import BadInput
from orchestrator.driver.tune_loop import run
from orchestrator.stores.trial_record import count_states
from orchestrator.trials.spending import Limits, spent

TRIAL_TOKENS = 8 * 128  # of the tiny configuration


def entry(step, loss, device_s):
    return {
        "step": step, "tokens": step * 128, "timestamp_ms": 1000 + step,
        VAL_LOSS: loss, DEVICE_S: device_s,
    }  # fmt: skip


def finish(ledger, assignment, device_s=10.0):
    number = assignment.record.number
    ledger.started(number)
    ledger.progressed(number, entry(8, 2.0, device_s))
    ledger.completed(number, entry(8, 2.0, device_s), tokens=TRIAL_TOKENS)


def tokens(limit):
    return {"limits": Limits(tokens=limit)}


def test_no_trial_starts_that_the_tokens_do_not_hold(hold, grid_study, said, home):
    with hold(grid_study, options=tokens(3 * TRIAL_TOKENS - 1)) as session:
        first, second = session.ledger.next(), session.ledger.next()
        assert session.ledger.next() is None, "two are on their way, and a third does not fit"
        assert session.ledger.queue.may_have_more
        finish(session.ledger, first)
        finish(session.ledger, second)
        assert session.ledger.next() is None
        assert not session.ledger.queue.may_have_more
    assert session.exit_code == 0
    assert session.left_out.trials == [2, 3, 4, 5]
    assert "--max-tokens" in said[-1]
    client = MlflowClient(home.mlflow_uri)
    parent = session.tracking.parent_run_id
    assert "--max-tokens" in client.get_run(parent).data.tags["stopped_by"]
    assert client.get_run(parent).info.status == "FINISHED"

    with hold(grid_study, options=tokens(4 * TRIAL_TOKENS)) as session:
        finish(session.ledger, session.ledger.next())
        finish(session.ledger, session.ledger.next())
        assert session.ledger.next() is None, "what earlier drivers spent counts"
    with hold(grid_study) as session:
        while assignment := session.ledger.next():
            finish(session.ledger, assignment)
    assert session.left_out is None
    assert "stopped_by" not in client.get_run(parent).data.tags
    assert spent(session.records, session.launch)["tokens"] == 6 * TRIAL_TOKENS


def test_a_trial_that_ends_early_leaves_room(hold, grid_study):
    with hold(grid_study, options=tokens(2 * TRIAL_TOKENS)) as session:
        first = session.ledger.next().record.number
        second = session.ledger.next()
        assert session.ledger.next() is None
        session.ledger.started(first)
        session.ledger.progressed(first, entry(2, 4.0, 1.0))
        session.ledger.stopped(first, tokens=2 * 128)
        assert session.ledger.next() is None, "six steps' tokens are no trial"
        finish(session.ledger, second)
    assert spent(session.records, session.launch)["tokens"] == TRIAL_TOKENS + 2 * 128
    with hold(grid_study, options=tokens(3 * TRIAL_TOKENS)) as session:
        assert session.ledger.next() is not None


def test_an_interrupted_trial_needs_only_what_is_left_of_it(hold, grid_study):
    with hold(grid_study, options=tokens(TRIAL_TOKENS)) as session:
        number = session.ledger.next().record.number
        session.ledger.started(number)
        session.ledger.progressed(number, entry(6, 2.5, 30.0))
    record = session.ledger.trials[number]
    assert record.state == "waiting"
    assert record.device_s == pytest.approx(30.0, rel=0.1), "and what passed since its report"
    with hold(grid_study, options=tokens(TRIAL_TOKENS)) as session:
        assert session.ledger.next().record.number == number
        assert session.ledger.next() is None


def test_what_another_launch_has_trained_is_free(hold, grid_study):
    with hold(grid_study) as session:
        while assignment := session.ledger.next():
            finish(session.ledger, assignment)
    other = dataclasses.replace(grid_study, name="other")
    with hold(other, options=tokens(1)) as session:
        assert session.ledger.next() is None
    assert count_states(session.records)["complete"] == 6
    assert session.left_out is None
    assert spent(session.records, session.launch) == {"tokens": 0, "device_s": 0.0}


def test_device_hours_count_every_state_and_running_time(hold, grid_study):
    limits = {"limits": Limits(device_s=100.0)}
    with hold(grid_study, options=limits) as session:
        budget, ledger = session.ledger.spending, session.ledger
        clock = [0.0]
        budget._now = lambda: clock[0]
        finish(ledger, ledger.next(), device_s=20.0)
        failed = ledger.next().record.number
        ledger.started(failed)
        ledger.progressed(failed, entry(2, 4.0, 30.0))
        ledger.failed(failed, "it broke")
        running = ledger.next().record.number
        ledger.started(running)
        ledger.progressed(running, entry(2, 4.0, 40.0))
        assert budget.device_s_spent == 90.0
        assert ledger.next() is not None
        clock[0] += 10.0
        assert session.is_spent(), "time passes between reports too"
        assert ledger.next() is None
    assert "0.02778 device-hours are spent" in session.left_out.reason
    with hold(grid_study, options=limits) as session:
        assert session.ledger.spending.device_s_spent == 100.0, "read back from the record"


def test_a_trial_whose_process_is_gone_spends_nothing_until_it_is_started_again(hold, grid_study):
    with hold(grid_study, options={"limits": Limits(device_s=100.0)}) as session:
        budget, ledger = session.ledger.spending, session.ledger
        clock = [0.0]
        budget._now = lambda: clock[0]
        number = ledger.next().record.number
        ledger.started(number)
        ledger.progressed(number, entry(2, 4.0, 40.0))
        clock[0] += 10.0
        ledger.lost(number)
        clock[0] += 1000.0
        assert budget.device_s_spent == 50.0, "its node is waited for"
        ledger.restarted(number)
        clock[0] += 5.0
        assert budget.device_s_spent == 55.0
        ledger.lost(number)
        ledger.requeued(number)
        clock[0] += 1000.0
        assert budget.device_s_spent == 55.0
        assert ledger.next().record.number == number
        assert not session.is_spent()


@pytest.mark.parametrize("limits", [Limits(tokens=0), Limits(device_s=float("nan"))])
def test_a_budget_is_a_positive_number(hold, grid_study, limits):
    refused = pytest.raises(BadInput, match="above 0")
    with refused, hold(grid_study, options={"limits": limits}):
        pytest.fail("the launch was opened")


@pytest.mark.usefixtures("ray_cluster")
def test_running_trials_wait_at_their_checkpoints_once_the_device_time_is_spent(
    hold, grid_study, said
):
    overrides = {"train.num_steps": 300, "train.eval_every": 20}
    limits = {"limits": Limits(device_s=1800.0), "concurrency": 2}
    passed_s = [0.0]

    def let_time_pass(record, metrics):
        passed_s[0] += 3600.0 if metrics is not None else 0.0

    with hold(
        grid_study, seeds=(0,), overrides=overrides, options=limits, listener=let_time_pass
    ) as session:
        session.ledger.spending._now = lambda: time.monotonic() + passed_s[0]
        run(session)
    assert session.exit_code == 0
    states = count_states(session.records)
    assert states["waiting"] > 0
    assert states["running"] == states["failed"] == 0
    assert session.left_out.trials == [r.number for r in session.records if r.state == "waiting"]
    assert "--max-device-hours" in said[-1]
    before = {r.number: max(r.curve, default=0) for r in session.records}
    more = {"limits": Limits(device_s=1e9), "concurrency": 2}
    with hold(grid_study, seeds=(0,), overrides=overrides, options=more) as session:
        assert session.ledger.spending.device_s_spent > 0
        run(session)
    assert count_states(session.records)["complete"] == 3
    assert max(before.values()) > 0
    assert session.left_out is None
