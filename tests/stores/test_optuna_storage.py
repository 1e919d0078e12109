"""What a reader is told of a storage that is not there, not yet whole, or no storage."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from orchestrator.base.errors import BadInput
from orchestrator.base.home import Home
from orchestrator.report.pace import pace_of
from orchestrator.stores.optuna_storage import NoRecordYet, open_storage, storage_if_any


@pytest.mark.parametrize("made", ["nothing", "an empty file", "a database without tables"])
def test_no_record_yet_is_an_answer_to_readers_that_can_do_without(tmp_path, made):
    file = Path(Home(tmp_path).optuna_storage.removeprefix("sqlite:///"))
    if made == "an empty file":
        file.touch()
    elif made == "a database without tables":
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("VACUUM")
    assert storage_if_any(f"sqlite:///{file}") is None
    with pytest.raises(NoRecordYet, match="Run a study first"):
        open_storage(f"sqlite:///{file}", create=False)
    assert pace_of(Home(tmp_path).optuna_storage, scale="smoke") is None


def test_a_record_that_cannot_be_used_is_not_taken_for_none(tmp_path):
    file = Path(Home(tmp_path).optuna_storage.removeprefix("sqlite:///"))
    file.write_text("not a database " * 100)
    with pytest.raises(BadInput, match="can be used") as raised:
        storage_if_any(f"sqlite:///{file}")
    assert not isinstance(raised.value, NoRecordYet)
