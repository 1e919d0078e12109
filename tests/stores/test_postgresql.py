"""What only a server has: addresses, users, and a lock that dies with its driver."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import traceback

import pytest
from sqlalchemy import inspect

from orchestrator.base.errors import BadInput, LaunchHeld, StudyError, Unreachable
from orchestrator.base.home import Home
from orchestrator.driver.options import Options
from orchestrator.driver.session import opened
from orchestrator.stores import postgresql
from orchestrator.stores.driver_lock import driver_locks
from orchestrator.stores.mlflow_client import connect
from orchestrator.stores.optuna_storage import open_storage, require_usable
from orchestrator.stores.postgresql import AdvisoryLock
from orchestrator.study.resolve import resolve


@pytest.fixture
def database(postgres):
    return postgres.new_database()


@pytest.fixture
def url(postgres, database):
    return postgres.url(database)


def tables(url):
    with postgresql.connected(url, option="--optuna-storage") as connection:
        return inspect(connection).get_table_names()


def test_every_form_of_the_address_is_understood(postgres, database, url):
    for form in (
        url,
        url.replace("postgresql:", "postgresql+psycopg:"),
        postgres.socket_url(database),
    ):
        assert open_storage(form, create=True).get_all_studies() == []


def test_what_is_wrong_is_said_without_credentials_and_nothing_is_made(postgres, database, url):
    postgres.sql(database, "CREATE ROLE reader LOGIN PASSWORD 'an0ther-secret'")
    foreign = postgres.new_database()
    postgres.sql(foreign, "CREATE TABLE alembic_version (version_num text)")
    wrong = {
        postgres.url(database, "moe:wr0ng-pw"): (Unreachable, "password authentication failed"),
        postgres.url(database, "nobody:wr0ng-pw"): (Unreachable, "Check user, password"),
        postgres.url("absent"): (Unreachable, "absent.*does not exist"),
        postgres.url(foreign): (BadInput, "another program's tables"),
        f"{url}?host=/nowhere": (Unreachable, "nothing answers at the socket in /nowhere"),
        url.replace(str(postgres.port), "port"): (BadInput, "with a port from 1 to 65535"),
        url.replace("postgresql:", "postgres:"): (BadInput, "is sqlite:///FILE, journal:FILE or"),
        url.replace("postgresql:", "postgresql+psycopg2:"): (BadInput, "Use one of these"),
    }
    for address, (kind, expected) in wrong.items():
        for look in (require_usable, lambda at: open_storage(at, create=True)):
            with pytest.raises(kind, match=expected) as raised:
                look(address)
            shown = "".join(traceback.format_exception(raised.value))
            for secret in ("s3cret-pw", "wr0ng-pw", "an0ther-secret", "moe:", "nobody"):
                assert secret not in shown
    assert tables(url) == []
    assert tables(postgres.url(foreign)) == ["alembic_version"]
    reader = postgres.url(database, "reader:an0ther-secret")
    with pytest.raises(BadInput, match="may not create any there"):
        open_storage(reader, create=True)


def test_optuna_and_mlflow_each_have_their_database(postgres, url):
    open_storage(url, create=True)
    with pytest.raises(BadInput, match=r"MLflow needs a database of its own.*\*\*\*@") as raised:
        connect(url)
    assert "s3cret-pw" not in str(raised.value)


def test_without_the_driver_package_the_extra_is_named(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "psycopg" else found(name)
    )
    for look in (require_usable, connect):
        with pytest.raises(BadInput, match=r"pip install 'moe-study\[postgresql\]'") as raised:
            look("postgresql://moe:s3cret-pw@127.0.0.1:1/x")
        assert "s3cret" not in str(raised.value)


def make_tables(url, barrier):
    barrier.wait()
    open_storage(url, create=True)


def test_drivers_that_first_touch_an_empty_database_at_once_do_not_race(url):
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(3)
    makers = [context.Process(target=make_tables, args=(url, barrier)) for _ in range(3)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join(timeout=120)
    assert [maker.exitcode for maker in makers] == [0, 0, 0]
    assert "trials" in tables(url)


def test_one_launch_has_one_driver_and_another_launch_goes_on_beside_it(
    url, tmp_path, mlflow_template, grid_study, corpus, hold
):
    """From two homes, as from two machines."""
    elsewhere = Home(tmp_path / "elsewhere")
    elsewhere.root.mkdir()
    shutil.copy(mlflow_template, elsewhere.root / "mlflow.db")

    def drive(**asked):
        launch = resolve(grid_study, corpus_spec=corpus, **asked)
        options = Options(home=elsewhere, optuna_storage=url)
        return opened(launch, options, say=lambda line: None, start_cluster=False)

    with hold(grid_study, options={"optuna_storage": url}) as first:
        with pytest.raises(LaunchHeld, match=f"process {os.getpid()} on .*, since 2") as raised:
            drive().__enter__()
        assert raised.value.exit_code == 3
        assert first.launch.name in str(raised.value)
        with drive(overrides={"train.num_steps": 9}) as second:
            number = second.ledger.next().record.number
            second.ledger.started(number)
            assert first.ledger.next().record.number == number == 0
            assert second.info.study_id != first.info.study_id


HOLDER = """
import sys, time
from orchestrator.stores.postgresql import AdvisoryLock

with AdvisoryLock(sys.argv[1], "a launch", option="--optuna-storage"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_the_lock_of_a_killed_driver_is_gone(url):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, url], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"

    def lock():
        return AdvisoryLock(url, "a launch", option="--optuna-storage")

    with pytest.raises(LaunchHeld, match=f"process {holder.pid} on"), lock():
        pytest.fail("two held it")
    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate()
    for _ in range(100):  # the server hears of it by its socket
        try:
            with lock():
                return
        except LaunchHeld:
            pass
    pytest.fail("the lock outlived its driver")


def test_a_holder_of_another_role_is_told_apart(postgres, database, url):
    postgres.sql(database, "CREATE ROLE guest LOGIN PASSWORD 'guest-pw'")
    guest = postgres.url(database, "guest:guest-pw")
    with AdvisoryLock(url, "a launch", option="--optuna-storage"):
        refused = AdvisoryLock(guest, "a launch", option="--optuna-storage")
        with pytest.raises(LaunchHeld, match="a session of another role"):
            refused.__enter__()


def test_a_server_that_goes_away_under_a_driver_ends_it_with_one_message(
    postgres, url, hold, grid_study
):
    numbers = []

    def drive():
        with hold(grid_study, options={"optuna_storage": url}) as session:
            numbers.append(session.ledger.next().record.number)
            session.ledger.started(numbers[0])
            postgres.stop()
            postgres.start()
            session.ledger.failed(numbers[0], "it could not be written")

    with pytest.raises(StudyError, match="the same command continues") as raised:
        drive()
    assert raised.value.exit_code == 1
    assert "s3cret-pw" not in str(raised.value)
    with hold(grid_study, options={"optuna_storage": url}) as session:
        assert session.ledger.trials[numbers[0]].state == "waiting"


def test_a_local_storage_needs_no_server_lock(tmp_path):
    locks = driver_locks(Home(tmp_path), f"sqlite:///{tmp_path}/x.db", "a launch")
    assert not any(isinstance(lock, AdvisoryLock) for lock in locks)
