"""All trials of a relational Optuna storage in five plain queries, a new one in three statements,
a trial's attributes in two.

Through Optuna's own objects 10,000 trials take nine seconds of one core to read, and a new one
thirty queries; each attribute is a transaction of four. Only for tables that
`optuna_private.known_tables` knows; tests/stores/test_optuna_sql.py holds both ways equal.
"""

from __future__ import annotations

import gc
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    distribution_to_json,
    json_to_distribution,
)
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, Engine, Row, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from orchestrator.stores.optuna_private import (
    StudyModel,
    StudySystemAttributeModel,
    TrialIntermediateValueModel,
    TrialModel,
    TrialParamModel,
    TrialUserAttributeModel,
    TrialValueModel,
    give_identity,
)


@contextmanager
def _without_collection() -> Iterator[None]:
    """Of 10,000 trials 300,000 rows are made at once, none of them garbage: looking through them
    again and again took half of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def read_trials(engine: Engine, study_id: int) -> list[FrozenTrial]:
    """Every trial in the order of its number, without system attributes (the dashboard's notes)."""
    with _without_collection(), engine.connect() as connection:
        trials = connection.execute(
            select(
                TrialModel.trial_id,
                TrialModel.number,
                TrialModel.state,
                TrialModel.__table__.columns["datetime_start"],
                TrialModel.__table__.columns["datetime_complete"],
            )
            .where(TrialModel.study_id == study_id)
            .order_by(TrialModel.number)
        ).all()
        params: dict[int, dict[str, Any]] = defaultdict(dict)
        distributions: dict[int, dict[str, BaseDistribution]] = defaultdict(dict)
        for trial_id, name, value, text in _of_study(
            connection, study_id, TrialParamModel, "param_name", "param_value", "distribution_json"
        ):
            distribution = distributions[trial_id][name] = _distribution(text)
            params[trial_id][name] = distribution.to_external_repr(value)
        attributes: dict[int, dict[str, Any]] = defaultdict(dict)
        rows = _of_study(connection, study_id, TrialUserAttributeModel, "key", "value_json")
        texts = ",".join(text for *_, text in rows)  # read at once: a tenth of one call a value
        for (trial_id, key, _), value in zip(rows, json.loads(f"[{texts}]"), strict=True):
            attributes[trial_id][key] = value
        values: dict[int, dict[int, float]] = defaultdict(dict)
        for trial_id, objective, value, kind in _of_study(
            connection, study_id, TrialValueModel, "objective", "value", "value_type"
        ):
            values[trial_id][objective] = TrialValueModel.stored_repr_to_value(value, kind)
        curves: dict[int, dict[int, float]] = defaultdict(dict)
        convert = TrialIntermediateValueModel.stored_repr_to_intermediate_value
        columns = ("step", "intermediate_value", "intermediate_value_type")
        for trial_id, step, value, kind in _of_study(
            connection, study_id, TrialIntermediateValueModel, *columns
        ):
            curves[trial_id][step] = convert(value, kind)
    return [
        FrozenTrial(
            number=number,
            state=state,
            value=None,
            values=[v for _, v in sorted(values[trial_id].items())] if trial_id in values else None,
            datetime_start=_local(started),
            datetime_complete=_local(ended),
            params=params.get(trial_id, {}),
            distributions=distributions.get(trial_id, {}),
            user_attrs=attributes.get(trial_id, {}),
            system_attrs={},
            intermediate_values=curves.get(trial_id, {}),
            trial_id=trial_id,
        )
        for trial_id, number, state, started, ended in trials
    ]


def ids_in(engine: Engine, study_id: int, state: TrialState) -> list[int]:
    """Ids of the trials of a study that are in a state, whoever made them."""
    with engine.connect() as connection:
        found = connection.execute(
            select(TrialModel.trial_id)
            .where(TrialModel.study_id == study_id, TrialModel.state == state)
            .order_by(TrialModel.trial_id)
        )
        return list(found.scalars())


def insert_waiting(
    engine: Engine,
    study_id: int,
    trial: FrozenTrial,
    of_study: Callable[[int], Mapping[str, Any]] = lambda trial_id: {},
) -> None:
    """Writes a new WAITING trial, and gives `trial` its number and id. `of_study` gives system
    attributes of the study that belong to it (the dashboard keeps notes there), by its id.

    The number is the count of earlier trials, made sure of as Optuna does it: others may enqueue
    trials at the same time.
    """
    with engine.begin() as connection:
        # Held to the end of the transaction; sqlite has no such lock, and one writer at a time.
        connection.execute(
            select(StudyModel.study_id).where(StudyModel.study_id == study_id).with_for_update()
        )
        row = {"study_id": study_id, "state": TrialState.WAITING}
        (trial_id,) = connection.execute(insert(TrialModel).values(row)).inserted_primary_key
        number = connection.execute(
            select(func.count())
            .select_from(TrialModel)
            .where(TrialModel.study_id == study_id, TrialModel.trial_id < trial_id)
        ).scalar_one()
        connection.execute(
            update(TrialModel).where(TrialModel.trial_id == trial_id).values(number=number)
        )
        params = [
            {
                "trial_id": trial_id,
                "param_name": name,
                "param_value": distribution.to_internal_repr(trial.params[name]),
                "distribution_json": distribution_to_json(distribution),
            }
            for name, distribution in trial.distributions.items()
        ]
        attributes = [
            {"trial_id": trial_id, "key": key, "value_json": json.dumps(value)}
            for key, value in trial.user_attrs.items()
        ]
        notes = [
            {"study_id": study_id, "key": key, "value_json": json.dumps(value)}
            for key, value in of_study(trial_id).items()
        ]
        for model, rows in (
            (TrialParamModel, params),
            (TrialUserAttributeModel, attributes),
            (StudySystemAttributeModel, notes),
        ):
            if rows:
                connection.execute(insert(model.__table__), rows)
    give_identity(trial, number=number, trial_id=trial_id)


# Insertions that may replace a row, as Optuna writes them for these kinds of database.
_UPSERTS = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


def set_user_attributes(engine: Engine, trial_id: int, attributes: Mapping[str, Any]) -> bool:
    """All of them or none, in one transaction; whether the kind of database is one of _UPSERTS.

    Raises Optuna's UpdateFinishedTrialError, and KeyError where there is no such trial.
    """
    upsert = _UPSERTS.get(engine.dialect.name)
    if upsert is None:
        return False
    table = TrialUserAttributeModel.__table__
    new = upsert(table)
    replacing = new.on_conflict_do_update(
        index_elements=[table.c.trial_id, table.c.key],
        set_={"value_json": new.excluded.value_json},
    )
    rows = [
        {"trial_id": trial_id, "key": key, "value_json": json.dumps(value)}
        for key, value in attributes.items()
    ]
    with engine.begin() as connection:
        state = connection.execute(
            select(TrialModel.state).where(TrialModel.trial_id == trial_id)
        ).scalar()
        if state is None:
            raise KeyError(f"no trial has the id {trial_id}")
        if state.is_finished():
            raise UpdateFinishedTrialError(f"trial {trial_id} is {state.name}")
        if rows:
            connection.execute(replacing, rows)
    return True


def _of_study(
    connection: Connection, study_id: int, model: Any, *columns: str
) -> Sequence[Row[Any]]:
    """Rows of a table that hangs on trials, in the order in which they were written."""
    (key,) = model.__table__.primary_key.columns
    return connection.execute(
        select(model.trial_id, *(getattr(model, name) for name in columns))
        .join(TrialModel, TrialModel.trial_id == model.trial_id)
        .where(TrialModel.study_id == study_id)
        .order_by(key)
    ).all()


def _local(moment: datetime | None) -> datetime | None:
    """Optuna keeps UTC and gives local time, both without a zone."""
    return moment and moment.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)


@lru_cache(maxsize=1024)
def _distribution(text: str) -> BaseDistribution:
    return json_to_distribution(text)
