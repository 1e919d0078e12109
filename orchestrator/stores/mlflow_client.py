"""Opening an MLflow store: a server, or a database of this machine or another.

What cannot be used is refused with its reason before anything is made in it.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from pathlib import Path

from mlflow.entities import Run, ViewType
from mlflow.tracking import MlflowClient
from sqlalchemy import inspect

from orchestrator.base.errors import BadInput, Unreachable
from orchestrator.base.home import require_plain
from orchestrator.base.urls import redact, require_reachable
from orchestrator.stores import postgresql
from orchestrator.stores.mlflow_refusals import reason
from orchestrator.stores.optuna_private import OBJECTIVES_TABLE
from orchestrator.stores.optuna_storage import sqlite_tables

OPTION = "--mlflow-uri"
_PAGE = 1000


def require_usable(uri: str, *, must_exist: bool = False) -> None:
    """Raises as `connect` does, and makes no tables: what else is refused must leave nothing."""
    if postgresql.is_postgresql(uri):
        with postgresql.connected(uri, option=OPTION) as connection:
            _require_no_optuna(inspect(connection).get_table_names(), uri)
    elif uri.startswith("sqlite:///"):
        file = Path(uri.removeprefix("sqlite:///"))
        require_plain(str(file), f"the file of {OPTION}")
        if os.path.exists(file):
            try:
                _require_no_optuna(sqlite_tables(file), uri)
            except sqlite3.Error as error:
                raise _unusable(uri, str(error)) from None
        elif must_exist:
            raise _unusable(uri, "there is no such file")
    else:
        connect(uri)


def connect(uri: str) -> MlflowClient:
    """A client whose store answers, its schema made before any worker could race for it.

    Raises BadInput on an unknown kind of URI, Unreachable where nothing answers within seconds.
    """
    if uri.startswith(("http://", "https://")):
        default_port = 443 if uri.startswith("https") else 80
        require_reachable(uri, default_port=default_port, option=OPTION)
    elif postgresql.is_postgresql(uri):
        with postgresql.connected(uri, option=OPTION) as connection:
            _require_no_optuna(inspect(connection).get_table_names(), uri)
            postgresql.wait_for(connection, "mlflow tables")
            return _client(postgresql.usable(uri, option=OPTION))
    elif not uri.startswith("sqlite:///"):
        raise BadInput(
            "an MLflow URI is sqlite:///FILE, http(s)://HOST:PORT or postgresql://...; received "
            f"{redact(uri)}. (MLflow 3 no longer writes to a plain folder.)"
        )
    return _client(uri)


def _require_no_optuna(tables: list[str], uri: str) -> None:
    """Both keep the version of their tables in one of the same name."""
    if OBJECTIVES_TABLE in tables:
        raise BadInput(
            f"MLflow needs a database of its own; received {redact(uri)}, which holds Optuna's "
            f"tables. Name another with {OPTION}."
        )


def _client(uri: str) -> MlflowClient:
    try:
        client = MlflowClient(uri)
        client.search_experiments(max_results=1)
    except Exception as error:
        raise _unusable(uri, reason(error)) from None
    return client


def _unusable(uri: str, why: str) -> Unreachable:
    return Unreachable(
        f"the MLflow store {redact(uri)} cannot be used: {why}. Another is named with {OPTION}."
    )


def search_runs(client: MlflowClient, experiment_id: str, query: str) -> list[Run]:
    """All that answer, page by page; deleted runs do not."""
    runs: list[Run] = []
    token = None
    while True:
        page = client.search_runs(
            [experiment_id],
            query,
            run_view_type=ViewType.ACTIVE_ONLY,
            max_results=_PAGE,
            page_token=token,
        )
        runs += page
        if not (token := page.token):
            return runs


def quiet() -> None:
    """MLflow's own traffic and retries, set before its first use."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # Its lines on stdout would stand between a script and its JSON, credentials and all.
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    # Its own retry would send a request whose answer was lost again, and begin a run twice.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    # A busy server takes long; only what has a thread of its own waits for it while trials run.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
