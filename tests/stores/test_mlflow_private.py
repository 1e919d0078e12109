"""The contract of stores/mlflow_private.py."""

from __future__ import annotations

from pathlib import Path

import mlflow
from mlflow.utils import mlflow_tags
from sqlalchemy import inspect, text

from orchestrator.stores import mlflow_private as private
from orchestrator.stores.mlflow_client import connect


def test_tags_are_those_that_mlflows_pages_read():
    assert private.PARENT_RUN_TAG == mlflow_tags.MLFLOW_PARENT_RUN_ID
    assert private.NOTE_TAG == mlflow_tags.MLFLOW_RUN_NOTE
    assert private.DATASET_CONTEXT_TAG == mlflow_tags.MLFLOW_DATASET_CONTEXT


def test_mlflows_pages_know_the_kind_and_the_view():
    """They are written into its scripts, and nowhere in its Python."""
    scripts = (Path(mlflow.__file__).parent / "server/js/build/static/js").glob("*.js")
    wanted = {*private.TRAINING_KIND, *private.TRAINING_KIND.values()}
    wanted |= set(private.TRAINING_VIEW.split("="))
    for script in scripts:
        text = script.read_text(encoding="utf-8")
        wanted = {word for word in wanted if word not in text}
    assert wanted == set()


def test_a_local_client_has_a_database_and_a_servers_has_none(home):
    engine = private.database_of(connect(home.mlflow_uri))
    assert "experiments" in inspect(engine).get_table_names()
    assert private.database_of(mlflow.MlflowClient("http://127.0.0.1:1")) is None
    for table, column in private.LOCATIONS:
        assert column in {found["name"] for found in inspect(engine).get_columns(table)}
    with engine.connect() as connection:
        version = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    assert version in private.known_schemas()


def test_monitors_collect_and_aggregate():
    (cpu, *rest) = private.system_monitors()
    assert len(rest) >= 2
    cpu.collect_metrics()
    assert cpu.aggregate_metrics()["cpu_utilization_percentage"] >= 0
    cpu.clear_metrics()
    assert not cpu.metrics
