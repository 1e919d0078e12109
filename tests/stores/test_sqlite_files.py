"""A driver's databases have a write-ahead log while it is at work, and are one file each after."""

from __future__ import annotations

import sqlite3
from contextlib import closing

FILES = ("optuna.db", "mlflow.db")


def modes(home):
    found = {}
    for name in FILES:
        with closing(sqlite3.connect(home.root / name)) as database:
            (found[name],) = database.execute("PRAGMA journal_mode").fetchone()
    return found


def logs(home):
    return {path.name for path in home.root.glob("*.db-*")}


def test_the_log_is_there_while_a_driver_works_and_folded_up_after(home, hold, grid_study):
    with hold(grid_study) as session:
        session.ledger.next()
        assert modes(home) == dict.fromkeys(FILES, "wal")
    assert modes(home) == dict.fromkeys(FILES, "delete")
    assert logs(home) == set()


def test_a_page_that_reads_keeps_the_log_and_the_next_driver_folds_it(home, hold, grid_study):
    with hold(grid_study) as session:
        reader = sqlite3.connect(home.root / "optuna.db")
        reader.execute("SELECT count(*) FROM trials").fetchone()
        session.ledger.next()
    assert modes(home)["optuna.db"] == "wal"
    with closing(reader):
        assert reader.execute("SELECT count(*) FROM trials").fetchone() == (6,)
    with hold(grid_study):
        pass
    assert modes(home) == dict.fromkeys(FILES, "delete")
    assert logs(home) == set()
