"""Plain SQL against Optuna's own objects: the same trials, whichever way they went in."""

from __future__ import annotations

import math
from types import SimpleNamespace

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import get_storage
from optuna.trial import TrialState, create_trial

from orchestrator.stores.optuna_private import relational
from orchestrator.stores.optuna_sql import insert_waiting, read_trials, set_user_attributes

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


def test_attributes_are_written_together_as_optuna_writes_them_one_by_one(storage):
    study = optuna.create_study(storage=storage, study_name="own")
    ours, theirs = (waiting(storage, study)._trial_id for _ in range(2))
    engine, odd = relational(storage), {"text": 'a "b" \n', "deep": {"x": [1.5, None, math.inf]}}
    for attributes in ({"cell": "b", **odd}, {"text": "again", "new": 0}, {}):
        assert set_user_attributes(engine, ours, attributes)
        for key, value in attributes.items():
            storage.set_trial_user_attr(theirs, key, value)
    fresh = get_storage(storage._backend.url)
    found = [list(fresh.get_trial(i).user_attrs.items()) for i in (ours, theirs)]
    assert found[0] == found[1]
    assert dict(found[0])["text"] == "again"


def test_attributes_of_a_trial_that_has_ended_or_never_was_are_refused(storage):
    study = optuna.create_study(storage=storage, study_name="own")
    trial_id = waiting(storage, study)._trial_id
    for state in (TrialState.RUNNING, TrialState.PRUNED):
        storage.set_trial_state_values(trial_id, state)
    with pytest.raises(UpdateFinishedTrialError):
        set_user_attributes(relational(storage), trial_id, {"cell": "b"})
    with pytest.raises(KeyError):
        set_user_attributes(relational(storage), trial_id + 1, {"cell": "b"})
    assert get_storage(storage._backend.url).get_trial(trial_id).user_attrs["cell"] == "a"


def test_a_database_without_such_an_insertion_is_left_to_optuna():
    other = SimpleNamespace(dialect=SimpleNamespace(name="mysql"))
    assert not set_user_attributes(other, 1, {"cell": "b"})
