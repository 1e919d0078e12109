"""The contract of stores/optuna_private.py: each private name is there, and means what we take it
for; without the tables that we know, Optuna's own objects do the same work."""

from __future__ import annotations

import importlib.util
import json
import re
from datetime import UTC, datetime
from pathlib import Path

import optuna
import pytest
from optuna.storages import BaseStorage
from optuna.storages.journal import JournalFileSymlinkLock
from optuna.trial import TrialState, create_trial

import orchestrator
from orchestrator.base.errors import BadInput
from orchestrator.stores import optuna_private as private
from orchestrator.stores.optuna_storage import open_storage
from orchestrator.stores.optuna_trials import OptunaTrials
from orchestrator.study.resolve import resolve
from orchestrator.trials.grid import distributions_of, grid_distributions

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ROOT = Path(orchestrator.__file__).parent


@pytest.fixture
def storage(tmp_path):
    return open_storage(f"sqlite:///{tmp_path}/o.db", create=True)


def test_the_tables_are_those_that_this_project_knows(storage):
    engine = private.relational(storage)
    assert private.schema_of(engine) in private.SCHEMAS
    assert private.known_tables(storage) is engine
    names = set(private.inspect(engine).get_table_names())
    assert {private.STUDIES_TABLE, private.VERSION_TABLE, private.OBJECTIVES_TABLE} <= names
    models = {
        private.TrialModel: ("trial_id", "number", "study_id", "state", "datetime_start"),
        private.TrialParamModel: ("trial_id", "param_name", "param_value", "distribution_json"),
        private.TrialUserAttributeModel: ("trial_id", "key", "value_json"),
        private.TrialValueModel: ("trial_id", "value", "value_type"),
        private.TrialIntermediateValueModel: ("trial_id", "step", "intermediate_value_type"),
        private.StudySystemAttributeModel: ("study_id", "key", "value_json"),
    }
    for model, columns in models.items():
        assert set(columns) <= set(model.__table__.columns.keys())


@pytest.mark.parametrize("create", [True, False])
def test_tables_of_another_version_are_refused(storage, tmp_path, create):
    """Also in a process that has opened others."""
    with private.relational(storage).begin() as connection:
        connection.execute(private.text("UPDATE alembic_version SET version_num = 'v3.0.0.a'"))
    with pytest.raises(BadInput, match="storage upgrade"):
        open_storage(f"sqlite:///{tmp_path}/o.db", create=create)


def test_a_journal_is_no_database_and_its_lines_begin_alike(tmp_path):
    file = tmp_path / "log"
    storage = open_storage(f"journal:{file}", create=True)
    optuna.create_study(storage=storage)
    assert private.relational(storage) is private.known_tables(storage) is None
    assert all(line.startswith(private.JOURNAL_LINE) for line in file.read_bytes().splitlines())
    with private.locked(JournalFileSymlinkLock(str(file))):
        assert Path(f"{file}.lock").is_symlink()
    assert not Path(f"{file}.lock").is_symlink()


def test_identities_are_those_of_the_storage(storage):
    study = optuna.create_study(storage=storage)
    study.add_trial(create_trial(value=1.0))
    (trial,) = study.trials
    assert storage.get_trial(private.trial_id_of(trial)).number == 0
    assert storage.get_study_name_from_id(private.study_id_of(study)) == study.study_name
    private.give_identity(trial, number=3, trial_id=5)
    assert (trial.number, private.trial_id_of(trial)) == (3, 5)


def test_notes_and_artifacts_are_where_the_dashboard_looks(storage, tmp_path):
    from optuna_dashboard._note import get_note_from_system_attrs

    assert importlib.util.find_spec(private.DASHBOARD_MODULE)
    study = optuna.create_study(storage=storage)
    study.add_trial(create_trial(value=1.0))
    for key, value in private.note_attributes(1, "x" * 5000).items():
        storage.set_study_system_attr(private.study_id_of(study), key, value)
    attributes = storage.get_study_system_attrs(private.study_id_of(study))
    assert get_note_from_system_attrs(attributes, 1)["body"] == "x" * 5000
    (tmp_path / "file").write_text("text")
    store = optuna.artifacts.FileSystemArtifactStore(tmp_path)
    uploaded = optuna.artifacts.upload_artifact(
        artifact_store=store, file_path=str(tmp_path / "file"), study_or_trial=study
    )
    attributes = storage.get_study_system_attrs(private.study_id_of(study))
    assert json.loads(attributes[private.ARTIFACTS_ATTR_PREFIX + uploaded])["filename"] == "file"


def test_with_unknown_tables_optunas_own_objects_do_the_same(
    tmp_path, monkeypatch, grid_study, corpus
):
    launch = resolve(grid_study, corpus_spec=corpus)
    points = launch.points()
    distributions = grid_distributions(points)

    def made(name):
        storage = open_storage(f"sqlite:///{tmp_path}/{name}.db", create=True)
        store = OptunaTrials.open(storage, launch, now=NOW)
        for point in points:
            own = distributions_of(point, distributions)
            added = store.add_waiting(point, distributions=own, note=f"of {point.cell}")
            assert added == store.records()[-1]
        return store.records(), store.study_attributes()

    by_rows = made("rows")
    monkeypatch.setattr(private, "SCHEMAS", ("v9.0.0.a",))
    assert made("objects") == by_rows


def test_a_waiting_trial_changes_nothing_but_its_state(monkeypatch, hold, grid_study):
    """Optuna's own rule (storages/_base.py), through every way that a trial goes."""
    changed = []

    def watched(search, trial_id, attributes):
        state = search._storage.get_trial(trial_id).state
        changed.extend((state, key) for key in attributes)
        return own(search, trial_id, attributes)

    assert "WAITING state are not allowed to be modified" in BaseStorage.__doc__
    with hold(grid_study, seeds=(0,)) as session:
        ledger, own = session.ledger, OptunaTrials.set_attributes
        monkeypatch.setattr(OptunaTrials, "set_attributes", watched)
        first, second, third = (ledger.next().record.number for _ in range(3))
        ledger.annotate(first, {"checkpoint_place": "elsewhere"})
        ledger.started(first)
        ledger.requeued(first)
        ledger.next()
        ledger.started(first)
        ledger.started(second)
        ledger.stopped(second, tokens=1)
        ledger.failed(third, "it never began")
        run_id = ledger.trials[first].run_id
    assert {state for state, _ in changed} == {TrialState.RUNNING}
    with hold(grid_study, seeds=(0,)) as session:
        kept = session.ledger.trials[first].attributes
        assert (kept["checkpoint_place"], kept["mlflow.run_id"]) == ("elsewhere", run_id)
        session.tracking._client.delete_run(run_id)
    with hold(grid_study, seeds=(0,)) as session:
        assert session.ledger.trials[first].run_id is None
    assert {state for state, _ in changed} == {TrialState.RUNNING}


PRIVATE = re.compile(
    r"\b(?:optuna|optuna_dashboard|ray|mlflow)(?:\.\w+)*\._[a-zA-Z]"  # a private module or name
    r"|\._(?:study_id|trial_id|backend|tracking_client)\b"
    r"|\bstudy\._storage\b|\bcore\.generated\b|\binternal_kv\b"
)


def test_only_the_private_files_name_private_parts():
    """One file a library, each with a contract test."""
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in ROOT.rglob("*.py")
        if not path.name.endswith("_private.py")
        for line in path.read_text().splitlines()
        if PRIVATE.search(line)
    ]
    assert found == []


def test_the_values_of_an_enqueued_trial_stand_where_they_are_read(storage):
    study = optuna.create_study(storage=storage)
    study.enqueue_trial({"x": 1.5, "kind": "a"})
    (trial,) = study.get_trials()
    assert trial.state == TrialState.WAITING
    assert trial.system_attrs[private.ASKED_FOR] == {"x": 1.5, "kind": "a"}
    engine = private.relational(storage)
    assert private.inspect(engine).has_table(private.StudyModel.__tablename__)


def test_a_copy_of_a_sampler_draws_by_its_own_seed():
    """Whatever the sampler drew before, with every generator within it."""

    def drawn(sampler):
        study = optuna.create_study(sampler=sampler)
        return [study.ask().suggest_float("x", 0, 1) for _ in range(3)]

    kinds = ("RandomSampler", "TPESampler", "GPSampler", "NSGAIISampler")
    for kind in kinds:
        sampler = getattr(optuna.samplers, kind)(seed=1)
        first = drawn(private.reseeded_copy(sampler, 5))
        drawn(sampler)
        assert drawn(private.reseeded_copy(sampler, 5)) == first
        assert drawn(private.reseeded_copy(sampler, 6)) != first


def test_a_genetic_sampler_reads_the_generations_that_it_is_told():
    sampler = optuna.samplers.NSGAIISampler(seed=0, population_size=2)
    told = private.generations_of(sampler, [True, False, True, True])
    study = optuna.create_study(sampler=sampler)
    for attributes in told:
        study.add_trial(create_trial(value=1.0, system_attrs=attributes))
    own = [
        sampler.get_trial_generation(study, t) for t, a in zip(study.trials, told, strict=True) if a
    ]
    assert own == [0, 0, 1]
    assert told[1] == {}
    random = optuna.samplers.RandomSampler()
    assert private.generations_of(random, [True, True]) == [{}, {}]


def test_constraint_values_stand_where_optuna_and_its_dashboard_look_for_them(storage):
    """Optuna's own `set_constraint` writes a key for each, which the dashboard does not read."""
    study = optuna.create_study(storage=storage)
    trial = study.ask()
    trial_id = private.trial_id_of(study.get_trials()[0])
    storage.set_trial_system_attr(trial_id, private.CONSTRAINT_VALUES, [0.5, -1.0])
    study.tell(trial, 1.0)
    (found,) = study.trials
    assert list(found.constraints.values()) == [0.5, -1.0]
    with pytest.raises(ValueError, match="No feasible trials"):
        _ = study.best_trial
    serializer = importlib.import_module("optuna_dashboard._serializer")
    assert serializer.CONSTRAINTS_KEY == private.CONSTRAINT_VALUES
