"""Two drivers at once against what a lab has: Optuna and MLflow in PostgreSQL, MLflow behind HTTP,
its artifacts in S3. Both stores are read with their own clients."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest
from mlflow.tracking import MlflowClient

from moe.metrics import VAL_LOSS
from orchestrator.stores.experiment_names import find_experiment


def drive(study: Path, arguments: list[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr. A machine too busy to start Ray is asked again, as it says."""
    code = "from orchestrator.cli import main; main()"
    command = [sys.executable, "-c", code, "run", str(study), "--home", str(study.with_suffix(""))]
    for _ in range(4):
        done = subprocess.run(
            [*command, *arguments, "--cpus", "1", "--json"],
            capture_output=True,
            text=True,
            timeout=300,
        )
        if "too busy for it" not in done.stderr:
            break
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def optuna_record():
    """Optuna's own client of a PostgreSQL storage, its connections closed at the end."""
    opened = []

    def read(url: str) -> optuna.storages.RDBStorage:
        opened.append(optuna.storages.RDBStorage(url.replace("postgresql:", "postgresql+psycopg:")))
        return opened[-1]

    yield read
    for storage in opened:
        storage.remove_session()
        storage.engine.dispose()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_drivers_at_once_on_a_server_with_postgresql_and_s3(
    lab, postgres, s3, corpus, optuna_record, study_file
):
    storage = postgres.url(postgres.new_database())
    arguments = ["--optuna-storage", storage, "--mlflow-uri", lab.uri, "--corpus", corpus]
    studies = [
        study_file(name, num_steps=20, eval_every=10, routers=["learned", other], seeds=[0])
        for name, other in (("first", "frozen"), ("second", "random"))
    ]
    told = {}
    with ThreadPoolExecutor() as threads:
        for ended in [threads.submit(drive, study, arguments) for study in studies]:
            code, out, err = ended.result()
            assert code == 0, err
            assert "secretpw" not in out + err
            assert postgres.PASSWORD not in out + err
            told[json.loads(out)["study"]] = json.loads(out)
    assert set(told) == {"first", "second"}

    client = MlflowClient(lab.uri)
    stored = s3.keys()
    searches = optuna_record(storage)
    names = {n.split("/")[0]: n for n in optuna.get_all_study_names(searches)}
    for name, run in told.items():
        assert run["states"]["complete"] == 2
        record = optuna.load_study(study_name=names[name], storage=searches)
        experiment = find_experiment(client, names[name])
        assert experiment.artifact_location.startswith("mlflow-artifacts:/")
        for trial in record.trials:
            kept = client.get_run(trial.user_attrs["mlflow.run_id"])
            assert kept.info.experiment_id == experiment.experiment_id
            assert (kept.info.status, trial.state.name) == ("FINISHED", "COMPLETE")
            assert kept.data.metrics[VAL_LOSS] == trial.value
            assert kept.data.tags["config_hash"] == trial.user_attrs["config_hash"]
            in_s3 = [key for key in stored if f"/{kept.info.run_id}/artifacts/" in key]
            assert any(key.endswith("/config.json") for key in in_s3)
    shared = [t["config_hash"] for run in told.values() for t in run["trials"]]
    assert len(shared) == len(set(shared)) + 1, "both studies have the learned cell"
