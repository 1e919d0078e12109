"""The home that commit 016369d left, unpacked where it was not made; see README.md beside this."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from moe import code_digest
from tests.fixtures.old_archives import unpack

HERE = Path(__file__).parent
MADE_AT = "/tmp/old-lab"


@pytest.fixture
def old_lab(tmp_path, monkeypatch):
    """The folder that holds `home/`, the study files and the text; the working folder of the test.

    MLflow's artifacts are made to lie in it: whether a home may be moved is asked elsewhere.
    """
    unpack(HERE / "home-016369d.tar.xz", tmp_path)
    with sqlite3.connect(tmp_path / "home" / "mlflow.db") as mlflow:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            mlflow.execute(
                f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (MADE_AT, str(tmp_path))
            )
    mlflow.close()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def old_tokens(tmp_path_factory):
    """The prepared tokens of that home."""
    folder = tmp_path_factory.mktemp("old")
    unpack(HERE / "home-016369d.tar.xz", folder, under="home/tokens/")
    return next((folder / "home" / "tokens").iterdir())


@pytest.fixture
def alike(monkeypatch):
    """Today's code is taken to train as that commit did: whether it does, test_trains_as_before
    asks. So these tests hold for code that was written anew since."""
    old = code_digest.ALIKE[0]
    monkeypatch.setattr(code_digest, "ALIKE", ((*old, code_digest.moe_digest()),))
    code_digest._first_alike.cache_clear()
    yield
    monkeypatch.undo()
    code_digest._first_alike.cache_clear()
