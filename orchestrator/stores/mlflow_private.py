"""What the orchestrator takes from inside MLflow: attributes, tags, pages that are not documented.

tests/stores/test_mlflow_private.py asserts each; pyproject.toml bounds MLflow by minor version.
"""

from __future__ import annotations

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


def database_of(client: MlflowClient) -> Engine | None:
    """The database that a client writes to by itself; None behind a server."""
    return getattr(client._tracking_client.store, "engine", None)


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
