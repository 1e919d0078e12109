"""One contract, three storages: what a OptunaTrials promises holds on SQLite, a journal file and a
real PostgreSQL server."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta

import optuna
import pytest
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState
from optuna_dashboard._note import get_note_from_system_attrs

from moe.metrics import VAL_LOSS
from orchestrator.base.errors import BadInput, LaunchHeld
from orchestrator.driver.tune_loop import run
from orchestrator.stores.optuna_launches import launches_in
from orchestrator.stores.optuna_storage import local_store_file, open_storage, require_usable
from orchestrator.stores.optuna_trials import OptunaTrials
from orchestrator.stores.trial_record import CELL, ERROR, METRICS, RUN_ID, count_states
from orchestrator.study.resolve import resolve
from orchestrator.trials.grid import distributions_of, grid_distributions

NOW = datetime(2026, 11, 25, tzinfo=UTC)
ODD = 'o\'clock "quoted"; DROP TABLE studies;-- 100% {brace} \\n ü ☃ \t[/red]'


@pytest.fixture
def launch(grid_study, corpus):
    return resolve(grid_study, corpus_spec=corpus)


@pytest.fixture
def store(storage_url, launch):
    return OptunaTrials.open(open_storage(storage_url, create=True), launch, now=NOW)


def add(store, launch, index=0, note=""):
    points = launch.points()
    distributions = grid_distributions(points)
    return store.add_waiting(
        points[index], distributions=distributions_of(points[index], distributions), note=note
    )


def seen_by_a_reader(url, name):
    """The launch's records through a handle of their own, as `status` reads them."""
    storage = open_storage(url, create=False)
    info = next(info for info in launches_in(storage) if info.name == name)
    return {record.number: record for record in OptunaTrials(storage, info).records()}


def test_a_trial_keeps_all_it_was_told_through_every_state(storage_url, store, launch):
    made = add(store, launch, 1)
    store.set_attributes(made.trial_id, {RUN_ID: "abc", "note": ODD, "nothing": None})
    states = []
    for state in (TrialState.RUNNING, TrialState.WAITING, TrialState.RUNNING):
        store.set_state(made.trial_id, state)
        states.append(seen_by_a_reader(storage_url, launch.name)[0].state)
    assert states == ["running", "waiting", "running"]
    third = 1 / 3
    for step, value in ((2, 1e300), (4, math.inf), (6, third)):
        store.report(made.trial_id, step, value)
    store.set_attributes(made.trial_id, {METRICS: {VAL_LOSS: third}})
    store.set_state(made.trial_id, TrialState.COMPLETE, third)
    record = seen_by_a_reader(storage_url, launch.name)[0]
    assert (record.state, record.value, record.run_id) == ("complete", third, "abc")
    assert record.curve == {2: 1e300, 4: math.inf, 6: third}
    assert record.metrics == {VAL_LOSS: third}
    assert (record.cell, record.seed, record.config_hash) == ("learned", 0, made.config_hash)
    assert record.params == made.params
    assert record.params["moe.router"] == "learned"
    assert record.attributes["note"] == ODD
    assert record.attributes["nothing"] is None
    assert record.started <= record.ended


@pytest.mark.parametrize(
    ("state", "value", "name"),
    [(TrialState.PRUNED, 2.5, "pruned"), (TrialState.FAIL, None, "failed")],
)
def test_an_ended_trial_is_what_it_ended_as(storage_url, store, launch, state, value, name):
    made = add(store, launch)
    store.set_state(made.trial_id, TrialState.RUNNING)
    store.set_attributes(made.trial_id, {ERROR: ODD})
    store.set_state(made.trial_id, state, value)
    with pytest.raises(UpdateFinishedTrialError):
        store.set_state(made.trial_id, TrialState.COMPLETE, 1.0)
    with pytest.raises(UpdateFinishedTrialError):
        store.set_attributes(made.trial_id, {ERROR: "another"})
    record = seen_by_a_reader(storage_url, launch.name)[0]
    assert (record.state, record.value) == (name, None)
    assert record.error == (ODD if name == "failed" else None)


def test_a_launch_is_opened_again_with_its_trials_and_its_owner(storage_url, store, launch):
    add(store, launch, 0)
    add(store, launch, 1)
    later = NOW + timedelta(hours=1)
    again = OptunaTrials.open(open_storage(storage_url, create=True), launch, now=later)
    assert again.info.study_id == store.info.study_id
    assert again.info.attributes["owner"] == store.info.attributes["owner"]
    assert again.info.attributes["started_at"] == later.isoformat()
    assert [record.number for record in again.records()] == [0, 1]
    assert add(again, launch, 2).number == 2


def test_launches_are_apart_in_the_order_of_their_start_and_others_are_left_alone(
    storage_url, store, launch
):
    storage = open_storage(storage_url, create=True)
    optuna.create_study(storage=storage, study_name="another program's").ask()
    changed = dataclasses.replace(launch, overrides={"train.num_steps": 9})
    set_back = NOW - timedelta(hours=1)
    second = OptunaTrials.open(storage, changed, now=set_back)
    add(second, launch)
    assert [info.name for info in launches_in(storage)] == [launch.name, changed.name]
    assert store.records() == []
    assert [record.number for record in second.records()] == [0]


def test_names_are_text_and_never_sql_or_paths(storage_url, launch):
    odd = dataclasses.replace(launch, overrides={"data.tokenizer": ODD})
    many = {f"optim.{name}": ODD for name in ("beta1", "beta2", "grad_clip", "weight_decay")}
    long = dataclasses.replace(launch, overrides=many)
    storage = open_storage(storage_url, create=True)
    for named in (odd, long):
        store = OptunaTrials.open(storage, named, now=NOW)
        made = add(store, launch, note=ODD * 200)
        notes = storage.get_study_system_attrs(store.info.study_id)
        assert get_note_from_system_attrs(notes, made.trial_id)["body"] == ODD * 200
        assert list(seen_by_a_reader(storage_url, named.name)) == [0]
    names = {info.name: info.attributes["overrides"] for info in launches_in(storage)}
    assert names == {odd.name: odd.overrides, long.name: long.overrides}


def test_other_choices_are_added_to_the_known_ones(store, launch):
    own = add(store, launch, 1).distributions["moe.router"].choices
    other = {"moe.router": optuna.distributions.CategoricalDistribution((*own, "later"))}
    store.add_waiting(launch.points()[1], distributions=other)
    later = [record.distributions["moe.router"].choices for record in store.records()]
    assert later == [own, (*own, "later")]


def test_an_axis_of_another_kind_is_refused_and_leaves_no_trial(store, launch):
    add(store, launch, 1)
    other = {"moe.router": optuna.distributions.FloatDistribution(0, 1)}
    with pytest.raises(BadInput, match="an axis stays of one kind"):
        store.add_waiting(launch.points()[1], distributions=other)
    assert [record.number for record in store.records()] == [0]


def test_a_reader_creates_nothing(storage_url, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    for _ in range(2):
        with pytest.raises(BadInput, match="there is no record of a search yet"):
            open_storage(storage_url, create=False)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_reader_beside_the_writer_always_sees_whole_trials(storage_url, store, launch):
    stop, failures, seen = threading.Event(), [], []

    def read():
        storage = open_storage(storage_url, create=False)
        reader = OptunaTrials(storage, store.info)
        while not stop.is_set():
            try:
                records = reader.records()
                assert [record.number for record in records] == list(range(len(records)))
                assert all((r.value is not None) == (r.state == "complete") for r in records)
                assert all(CELL in r.attributes and r.params for r in records)
                seen.append(len(records))
            except Exception as error:
                failures.append(error)
                return

    reader = threading.Thread(target=read)
    reader.start()
    for index in range(12):
        made = add(store, launch, index % 2)
        store.set_state(made.trial_id, TrialState.RUNNING)
        store.report(made.trial_id, 2, 3.0)
        store.set_state(made.trial_id, TrialState.COMPLETE, 2.0)
    deadline = time.monotonic() + 30
    while reader.is_alive() and (not seen or seen[-1] < 12) and time.monotonic() < deadline:
        time.sleep(0.01)
    stop.set()
    reader.join(timeout=30)
    assert not failures
    assert seen[-1] == 12


WRITER = """
import sys
from orchestrator.stores.optuna_storage import open_storage

storage = open_storage(sys.argv[1], create=True)
step = 0
while True:
    step += 1
    storage.set_trial_intermediate_value(int(sys.argv[2]), step, float(step))
    storage.set_trial_user_attr(int(sys.argv[2]), "text", f"{step} " + "x" * 20_000)
    print(step, flush=True)
"""


def test_what_a_killed_writer_was_told_is_kept_stands(storage_url, store, launch):
    made = add(store, launch)
    store.set_state(made.trial_id, TrialState.RUNNING)
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, storage_url, str(made.trial_id)],
        stdout=subprocess.PIPE,
        text=True,
    )
    for line in writer.stdout:
        if int(line) >= 20:
            break
    os.kill(writer.pid, signal.SIGKILL)
    acknowledged = int((writer.communicate()[0] or line).split()[-1])
    again = OptunaTrials.open(open_storage(storage_url, create=True), launch, now=NOW)
    record = again.records()[0]
    assert record.state == "running"
    assert set(range(1, acknowledged + 1)) <= set(record.curve)
    again.set_state(record.trial_id, TrialState.WAITING)
    assert add(again, launch, 1).number == 1
    assert seen_by_a_reader(storage_url, launch.name)[0].state == "waiting"


def test_a_driver_killed_while_it_made_the_tables_is_gone_on_from(tmp_path):
    url = f"sqlite:///{tmp_path / 'half.db'}"
    with contextlib.closing(sqlite3.connect(tmp_path / "half.db")) as half, half:
        half.execute("CREATE TABLE trial_heartbeats (trial_heartbeat_id INTEGER PRIMARY KEY)")
    require_usable(url)
    with pytest.raises(BadInput, match="no record of a search yet"):
        open_storage(url, create=False)
    assert open_storage(url, create=True).get_all_studies() == []


def test_a_journal_cut_in_the_middle_of_a_line_goes_on(tmp_path, launch):
    url = f"journal:{tmp_path / 'log'}"
    store = OptunaTrials.open(open_storage(url, create=True), launch, now=NOW)
    add(store, launch)
    file = local_store_file(url)
    with file.open("ab") as stream:
        stream.write(b'{"op_code":8,"worker_id":"half')
    assert list(seen_by_a_reader(url, launch.name)) == [0]
    again = OptunaTrials.open(open_storage(url, create=True), launch, now=NOW)
    add(again, launch, 1)
    assert list(seen_by_a_reader(url, launch.name)) == [0, 1]


def test_a_driver_on_any_storage_is_alone_and_its_successor_reconciles(
    storage_url, hold, grid_study
):
    options = {"optuna_storage": storage_url}
    refused = pytest.raises(LaunchHeld, match=f"process {os.getpid()}")
    with hold(grid_study, options=options) as session:
        number = session.ledger.next().record.number
        session.ledger.started(number)
        with refused, hold(grid_study, options=options):
            pytest.fail("two drivers held one launch")
        session.ledger.release_running = lambda: None  # as a killed driver leaves it
    with hold(grid_study, options=options) as session:
        assert session.ledger.trials[number].state == "waiting"
        assert any("interrupted" in line for line in session.said)


@pytest.mark.usefixtures("ray_cluster")
def test_a_whole_launch_and_the_same_command_again(storage_url, home, hold, grid_study):
    if storage_url.startswith("sqlite"):
        pytest.skip("all of test_tune_loop.py is on SQLite")
    options = {"optuna_storage": storage_url}
    with hold(grid_study, seeds=(0,), options=options) as session:
        run(session)
    assert count_states(session.records)["complete"] == 3
    assert not (home.root / "optuna.db").exists()
    with hold(grid_study, seeds=(0,), options=options) as again:
        assert again.ledger.next() is None
    told = seen_by_a_reader(storage_url, session.launch.name)
    assert {r.run_id: r.value for r in told.values()} == {
        r.run_id: r.value for r in session.records
    }
