"""Points that somebody asked for in Optuna's own way: trials that wait without our attributes.

Optuna Dashboard and `Study.enqueue_trial` write such a trial with the values that it is to have.
The driver takes it into the launch, or tells it FAIL with the reason; none waits for ever unread.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from orchestrator.stores.optuna_private import ASKED_FOR, known_tables, trial_id_of
from orchestrator.stores.optuna_sql import ids_in
from orchestrator.stores.trial_record import CELL, ERROR


@dataclass(frozen=True, kw_only=True)
class Enqueued:
    """A trial that waits to be taken in. `values`: some or all of the point, by path."""

    trial_id: int
    number: int
    values: Mapping[str, Any]


def enqueued(storage: BaseStorage, study_id: int, own: Container[int]) -> list[Enqueued]:
    """Those of a study, oldest first; `own` are the ids of trials that the launch made itself."""
    engine = known_tables(storage)
    if engine is not None:
        ids = [i for i in ids_in(engine, study_id, TrialState.WAITING) if i not in own]
        trials = [storage.get_trial(i) for i in ids]
    else:
        trials = storage.get_all_trials(study_id, deepcopy=False, states=(TrialState.WAITING,))
    return [
        Enqueued(
            trial_id=trial_id_of(trial),
            number=trial.number,
            values={**trial.system_attrs.get(ASKED_FOR, {}), **trial.params},
        )
        for trial in sorted(trials, key=lambda t: t.number)
        if trial_id_of(trial) not in own and CELL not in trial.user_attrs
    ]


def take_in(
    storage: BaseStorage,
    study_id: int,
    trial_id: int,
    *,
    params: Mapping[str, Any],
    distributions: Mapping[str, BaseDistribution],
    attributes: Mapping[str, Any],
) -> bool:
    """Gives such a trial what a trial of the launch has. False where Optuna does not let it have
    its parameters (an axis has got more choices since the launch began): another trial must stand
    for it.

    The cell comes last: a driver killed in between finds the trial as one to be taken in.
    """
    # Optuna's cache writes to no trial that it has not read.
    storage.get_all_trials(study_id, deepcopy=False, states=(TrialState.WAITING,))
    given = storage.get_trial(trial_id).params
    try:
        for path, distribution in distributions.items():
            if path not in given:
                internal = distribution.to_internal_repr(params[path])
                storage.set_trial_param(trial_id, path, internal, distribution)
    except ValueError:
        return False
    for key, value in sorted(attributes.items(), key=lambda item: item[0] == CELL):
        storage.set_trial_user_attr(trial_id, key, value)
    return True


def refuse(storage: BaseStorage, trial_id: int, reason: str) -> None:
    storage.set_trial_user_attr(trial_id, ERROR, reason)
    storage.set_trial_state_values(trial_id, TrialState.FAIL)
