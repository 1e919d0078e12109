"""A trial that diverges fails, with its step, in both stores, and the sampler is told."""

from __future__ import annotations

import dataclasses
import re

import optuna
import pytest
from mlflow.tracking import MlflowClient
from optuna.trial import TrialState

from orchestrator.driver.tune_loop import run
from orchestrator.stores.trial_record import DIVERGED_AT
from orchestrator.trials.sampling import propose
from search_spaces.cells import Cell
from search_spaces.domains import Choice, Float
from search_spaces.space import Space

RATE = "optim.learning_rate"


def test_a_rate_that_explodes_and_a_bound_that_is_passed_fail_with_their_step(
    home, hold, grid_study, ray_cluster
):
    cells = [
        Cell(name="dense", overrides={"moe.num_experts": 0}),
        Cell(name="exploding", overrides={RATE: 1e30}),
        Cell(name="bounded", overrides={"train.max_loss": 1e-3}),
    ]
    study = dataclasses.replace(grid_study, baseline="dense", cells=cells, seeds=(0,))
    with hold(study) as session:
        run(session)
    records = {record.cell: record for record in session.records}
    assert records["dense"].state == "complete"
    optuna_study = optuna.load_study(study_name=session.launch.name, storage=home.optuna_storage)
    client = MlflowClient(home.mlflow_uri)
    for cell, why in (("exploding", r"is (nan|inf)"), ("bounded", r"above train\.max_loss")):
        record = records[cell]
        trial, mlflow_run = optuna_study.trials[record.number], client.get_run(record.run_id)
        assert (trial.state, mlflow_run.info.status) == (TrialState.FAIL, "FAILED")
        step = trial.user_attrs[DIVERGED_AT]
        assert mlflow_run.data.tags[DIVERGED_AT] == str(step)
        for text in (trial.user_attrs["error"], mlflow_run.data.tags["error"]):
            assert re.search(rf"diverged at step {step}: .*{why}", text)


@pytest.fixture
def rate_study(sampled_study):
    """A learning rate of which the upper half, on a log scale, diverges."""
    space = Space(axes={RATE: Float(low=1e-4, high=1.0, log=True), "moe.top_k": Choice((1, 2))})
    return dataclasses.replace(sampled_study, space=space, trials=60, early_stopping=None)


def _fill(ledger, *, told):
    """Runs trials as the rate decides; untold, a diverged trial is one that failed for no reason of
    its own."""
    while assignment := ledger.next():
        number, rate = assignment.record.number, assignment.point.config.optim.learning_rate
        ledger.started(number)
        if rate > 1e-2:
            ledger.failed(number, "training diverged", diverged_at=3 if told else None)
        else:
            entry = {"step": 8, "tokens": 1024, "timestamp_ms": 1, "val/loss": 3.0 - 20 * rate}
            ledger.completed(number, entry, tokens=1024)


def _share_that_diverges(launch, trials, count=40):
    draws = [propose(launch, trials, index=i, is_new=lambda _: True)[0] for i in range(count)]
    return sum(point.config.optim.learning_rate > 1e-2 for point in draws) / count


def test_the_sampler_is_told_of_a_divergence_and_does_not_go_there_again(hold, rate_study):
    """The best finite losses lie just below the rate from which on everything diverges."""
    shares = {}
    for told in (False, True):
        study = dataclasses.replace(rate_study, name=f"rates-{told}")
        with hold(study, trials=30) as session:
            _fill(session.ledger, told=told)
            hashes = [record.config_hash for record in session.records]
            assert len(set(hashes)) == len(hashes) == 30, "no failed point is suggested again"
            shares[told] = _share_that_diverges(
                session.launch, session.ledger.trials.shown_to_sampler
            )
    assert shares[True] < shares[False]


def test_a_study_of_which_all_has_diverged_still_gets_suggestions(hold, rate_study):
    with hold(rate_study, trials=14) as session:
        ledger = session.ledger
        while assignment := ledger.next():
            ledger.started(assignment.record.number)
            ledger.failed(assignment.record.number, "training diverged", diverged_at=1)
        assert {record.state for record in session.records} == {"failed"}
    with hold(rate_study, trials=16) as session:
        assert session.ledger.next() is not None
