"""What the orchestrator takes from inside MLflow: attributes, tags, pages that are not documented.

tests/stores/test_mlflow_private.py asserts each; pyproject.toml bounds MLflow by minor version.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from mlflow.tracking import MlflowClient
from sqlalchemy import Engine

PARENT_RUN_TAG = "mlflow.parentRunId"
NOTE_TAG = "mlflow.note.content"
DATASET_CONTEXT_TAG = "mlflow.data.context"
# An experiment's page without the two that MLflow 3 opens for traces of language models, which are
# empty here.
TRAINING_KIND = {"mlflow.experimentKind": "custom_model_development"}
TRAINING_VIEW = "workflowType=machine_learning"


# Views of an experiment's runs that its page offers under a link: plain JSON in a tag.
VIEW_TAG, VIEW_PARAMETER = "mlflow.sharedViewState.", "viewStateShareKey"
TABLE_VIEW, CURVES_VIEW = "ablation-table", "curves-by-cell"


def shared_views(metric: str, rising: bool) -> dict[str, str]:
    """The tags of two views: runs as a table, the best first, and their curves by cell."""
    state = {
        "orderByKey": f"metrics.`{metric}`",
        "orderByAsc": rising,
        "selectedColumns": [
            "tags.`cell`",
            "tags.`seed`",
            f"metrics.`{metric}`",
            "metrics.`val/perplexity`",
            "tags.`params_active`",
        ],
        "runsExpanded": {},
    }
    by_cell = {
        "groupByKeys": [{"mode": "tag", "groupByData": "cell"}],
        "aggregateFunction": "average",
    }
    trials = {"searchFilter": "tags.cell LIKE '%'"}  # without the parent run, which has no curve
    views = {TABLE_VIEW: state, CURVES_VIEW: {**state, **trials, "groupBy": by_cell}}
    return {f"{VIEW_TAG}{name}": json.dumps(view) for name, view in views.items()}


def database_of(client: MlflowClient) -> Engine | None:
    """The database that a client writes to by itself; None behind a server."""
    return getattr(client._tracking_client.store, "engine", None)


# Columns of MLflow's tables that hold a location of artifacts, or begin with an experiment's.
LOCATIONS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
)
_DEFAULT_EXPERIMENT = 0  # made by MLflow itself, in the folder at hand


def experiment_locations(database: sqlite3.Connection) -> list[tuple[str, str | None]]:
    """Name and artifact location of each experiment; none where MLflow has made no tables yet."""
    if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'experiments'").fetchall():
        return []
    return database.execute("SELECT name, artifact_location FROM experiments").fetchall()


def move_location(database: sqlite3.Connection, old: str, new: str) -> None:
    """An experiment's location, and all that begins with it: no client of MLflow changes these."""
    for table, column in LOCATIONS:
        database.execute(
            f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
            f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
            (new, len(old) + 1, old, len(old) + 1, f"{old}/"),
        )


def move_default_experiment(database: sqlite3.Connection, artifacts: Path) -> None:
    """Its location, which is local and that of no run, lies under `artifacts`."""
    own = (artifacts / str(_DEFAULT_EXPERIMENT)).as_uri()
    database.execute(
        "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ? AND "
        "artifact_location != ? AND (artifact_location LIKE '/%' OR artifact_location LIKE "
        "'file:%') AND NOT EXISTS (SELECT 1 FROM runs WHERE experiment_id = ?)",
        (own, _DEFAULT_EXPERIMENT, own, _DEFAULT_EXPERIMENT),
    )


@cache
def known_schemas() -> frozenset[str]:
    """Versions of MLflow's tables, from its own migrations."""
    import mlflow.store
    from alembic.script import ScriptDirectory

    migrations = Path(mlflow.store.__file__).parent / "db_migrations"
    return frozenset(script.revision for script in ScriptDirectory(migrations).walk_revisions())


def system_monitors() -> list[Any]:
    """Those of `mlflow.enable_system_metrics_logging`, one for each kind of device found here."""
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    monitors = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    with suppress(ImportError, RuntimeError):  # no GPU, or nvidia-ml-py is not installed
        monitors.append(GPUMonitor())
    return monitors
