"""Plain SQL against Optuna's own objects: the same trials, whichever way they went in."""

from __future__ import annotations

import math

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import get_storage
from optuna.trial import TrialState, create_trial

from orchestrator.stores.optuna_private import relational
from orchestrator.stores.optuna_sql import insert_waiting, read_trials

DISTRIBUTIONS = {
    "router": CategoricalDistribution(("learned", "frozen")),
    "k": IntDistribution(1, 8),
    "lr": FloatDistribution(1e-4, 1e-1, log=True),
}
PARAMS = {"router": "frozen", "k": 3, "lr": 0.003}


@pytest.fixture
def storage(tmp_path):
    return get_storage(f"sqlite:///{tmp_path}/optuna.db")


def waiting(storage, study):
    trial = create_trial(
        state=TrialState.WAITING,
        params=PARAMS,
        distributions=DISTRIBUTIONS,
        user_attrs={"cell": "a", "nested": {"x": [1, None]}},
    )
    insert_waiting(relational(storage), study._study_id, trial)
    return trial


def test_rows_read_as_optuna_reads_them(storage):
    optuna.create_study(storage=storage, study_name="other").add_trial(create_trial(value=1.0))
    study = optuna.create_study(storage=storage, study_name="own")
    curve = {1: 2.0, 2: math.inf, 3: -math.inf, 4: math.nan}
    for state, value in ((TrialState.COMPLETE, 1.5), (TrialState.COMPLETE, math.inf)):
        study.add_trial(create_trial(state=state, value=value, intermediate_values=curve))
    study.add_trial(create_trial(state=TrialState.FAIL, params=PARAMS, distributions=DISTRIBUTIONS))
    study.enqueue_trial({"k": 1})
    running = waiting(storage, study)
    storage.set_trial_state_values(running._trial_id, TrialState.RUNNING)
    ended = waiting(storage, study)
    storage.set_trial_state_values(ended._trial_id, TrialState.RUNNING)
    storage.set_trial_state_values(ended._trial_id, TrialState.PRUNED)
    rows = read_trials(relational(storage), study._study_id)
    own = get_storage(storage._backend.url).get_all_trials(study._study_id)
    for row, trial in zip(rows, own, strict=True):
        row.system_attrs = trial.system_attrs
        assert repr(row) == repr(trial)  # (nan is not equal to itself)


def test_an_inserted_trial_lives_like_any_other(storage):
    study = optuna.create_study(storage=storage, study_name="own")
    study.add_trial(create_trial(value=1.0))
    trial = waiting(storage, study)
    fresh = get_storage(storage._backend.url)
    found = fresh.get_trial(trial._trial_id)
    assert (found.number, found.state, found.params) == (1, TrialState.WAITING, PARAMS)
    assert found.distributions == DISTRIBUTIONS
    assert found.user_attrs == {"cell": "a", "nested": {"x": [1, None]}}
    storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
    storage.set_trial_intermediate_value(trial._trial_id, 1, 0.5)
    storage.set_trial_state_values(trial._trial_id, TrialState.COMPLETE, [0.5])
    assert study.best_trial.number == 1
