"""All that the orchestrator takes from inside Optuna and its dashboard, and Optuna's rules with it.

No other file names a private part of them; tests/stores/test_optuna_private.py asserts each name
and what it means, and pyproject.toml bounds both by minor version.

- Storages are used through `BaseStorage`, of which Optuna says that it "is not supposed to be
  directly accessed by library users": `Study.tell` cannot put a trial back to WAITING.
- Its rule for them is kept: a WAITING trial changes nothing but its state, a finished one nothing.
- Tables are read, and new trials written, by plain SQL where the schema is one of SCHEMAS. With any
  other, Optuna's own objects do it: a new trial takes 20 to 24 ms of CPU time instead of 2 to 3,
  alone or among 10,000 (docs/log.md).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any
from weakref import WeakKeyDictionary

import optuna
from optuna.artifacts._upload import ARTIFACTS_ATTR_PREFIX
from optuna.samplers import BaseSampler
from optuna.samplers._ga import BaseGASampler
from optuna.samplers._lazy_random_state import LazyRandomState
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._cached_storage import _CachedStorage
from optuna.storages._rdb.models import (
    StudyModel,
    StudySystemAttributeModel,
    TrialIntermediateValueModel,
    TrialModel,
    TrialParamModel,
    TrialUserAttributeModel,
    TrialValueModel,
)
from optuna.storages.journal import JournalFileSymlinkLock
from optuna.storages.journal._file import get_lock_file
from optuna.trial import FrozenTrial
from sqlalchemy import Engine, inspect, text

__all__ = [
    "ARTIFACTS_ATTR_PREFIX",
    "StudyModel",
    "StudySystemAttributeModel",
    "TrialIntermediateValueModel",
    "TrialModel",
    "TrialParamModel",
    "TrialUserAttributeModel",
    "TrialValueModel",
]

SCHEMAS = ("v3.2.0.a",)  # alembic's version of the tables that Optuna 3.2 to 5.0 make
STUDIES_TABLE, VERSION_TABLE = "studies", "alembic_version"
OBJECTIVES_TABLE = "study_directions"  # MLflow has none of that name
ASKED_FOR = "fixed_params"  # system attribute of a trial: the values given to `enqueue_trial`
# System attribute of a trial: by how much it violates each constraint. Optuna 5 reads it as well as
# what its `Trial.set_constraint` writes; the dashboard reads this alone.
CONSTRAINT_VALUES = "constraints"
JOURNAL_LINE = b'{"op_code":'  # how each line of a journal begins
DASHBOARD_MODULE = "optuna_dashboard._cli"

_schemas: WeakKeyDictionary[BaseStorage, str | None] = WeakKeyDictionary()


def relational(storage: BaseStorage) -> Engine | None:
    """The database behind a storage; None for a journal."""
    backend = storage._backend if isinstance(storage, _CachedStorage) else storage
    return backend.engine if isinstance(backend, RDBStorage) else None


def known_tables(storage: BaseStorage) -> Engine | None:
    """The database, where its tables are those that this project knows."""
    engine = relational(storage)
    if engine is None:
        return None
    if storage not in _schemas:
        _schemas[storage] = schema_of(engine)
    return engine if _schemas[storage] in SCHEMAS else None


def schema_of(engine: Engine) -> str | None:
    if not inspect(engine).has_table(VERSION_TABLE):
        return None
    with engine.connect() as connection:
        return connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()


def study_id_of(study: optuna.Study | optuna.study.FrozenStudy) -> int:
    return study._study_id


def trial_id_of(trial: FrozenTrial) -> int:
    return trial._trial_id


def give_identity(trial: FrozenTrial, *, number: int, trial_id: int) -> None:
    """To a trial that was made here and is in a storage now."""
    trial.number, trial._trial_id = number, trial_id


def generations_of(sampler: BaseSampler, complete: Sequence[bool]) -> list[dict[str, Any]]:
    """System attributes that tell a genetic sampler which generation each trial of a history is of:
    its own are of the study that it drew them in. Empty ones for any other sampler."""
    if not isinstance(sampler, BaseGASampler) or not sampler.population_size:
        return [{} for _ in complete]
    key, found, count = sampler._get_generation_key(), [], 0
    for is_complete in complete:
        found.append({key: count // sampler.population_size} if is_complete else {})
        count += is_complete
    return found


def reseeded_copy(sampler: BaseSampler, seed: int) -> BaseSampler:
    """A sampler of the same settings whose generators, and those of the samplers and strategies
    within it, begin with `seed`: Optuna's own `reseed_rng` takes none."""
    copied, generators, seen = copy.deepcopy(sampler), [], set()
    inside: list[Any] = [copied]
    while inside:
        one = inside.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, LazyRandomState):
            generators.append(one)
        elif type(one).__module__.startswith("optuna.") or isinstance(one, BaseSampler):
            inside += getattr(one, "__dict__", {}).values()
    for i, generator in enumerate(generators):
        generator.rng.seed((seed + i) % 2**32)
    return copied


def locked(lock: JournalFileSymlinkLock) -> AbstractContextManager[None]:
    """Holds the lock of a journal, as Optuna's own writer does."""
    return get_lock_file(lock)


def note_attributes(trial_id: int, note: str) -> dict[str, Any]:
    """System attributes of the study that are a trial's note in the dashboard.

    As its `save_note` writes them, which reads the notes of all trials before each: quadratic.
    """
    from optuna_dashboard._note import note_ver_key, split_body  # slow to import

    return {note_ver_key(trial_id): 1, **split_body(note, trial_id)} if note else {}
