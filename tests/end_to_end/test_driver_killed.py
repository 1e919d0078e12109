"""A driver killed with SIGKILL: the same command continues, and the table is that of no kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from mlflow.tracking import MlflowClient

from moe.metrics import VAL_LOSS
from orchestrator.stores.experiment_names import find_experiment


def arguments(study: Path, home: Path, corpus: str) -> list[str]:
    return ["run", str(study), "--home", str(home), "--corpus", corpus, "--cpus", "2", "--json"]


def process(arguments: list[str]) -> list[str]:
    return [sys.executable, "-c", "from orchestrator.cli import main; main()", *arguments]


def progress(home: Path) -> int:
    """Evaluations that the record has; 0 while there is none yet."""
    database = home / "optuna.db"
    if not database.exists():
        return 0
    import sqlite3

    try:
        with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
            return connection.execute("SELECT count(*) FROM trial_intermediate_values").fetchone()[
                0
            ]
    except sqlite3.OperationalError:
        return 0


@pytest.fixture
def rows(moe_study):
    def read(home: Path, study: Path) -> list[dict]:
        code, out, err = moe_study("table", study, "--home", home, "--format", "json")
        assert code == 0, err
        return [
            {key: value for key, value in row.items() if key not in ("run_ids", "commits")}
            for row in json.loads(out)["rows"]
        ]

    return read


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("no_pdf")
def test_a_killed_driver_costs_nothing(
    tmp_path, corpus, mlflow_template, moe_study, rows, ray_cluster, study_file
):
    study = study_file("killed", num_steps=120, eval_every=10)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for home in (whole, broken):
        home.mkdir()
        shutil.copy(mlflow_template, home / "mlflow.db")
    code, _, err = moe_study(*arguments(study, whole, corpus))
    assert code == 0, err

    driver = subprocess.Popen(
        process(arguments(study, broken, corpus)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 200
    while progress(broken) < 15 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    study_name = optuna.get_all_study_names(f"sqlite:///{broken}/optuna.db")[0]
    left = optuna.load_study(study_name=study_name, storage=f"sqlite:///{broken}/optuna.db")
    assert any(t.state.name == "RUNNING" for t in left.trials), "killed in the middle of a trial"

    code, out, err = moe_study(*arguments(study, broken, corpus))
    assert code == 0, err
    told = json.loads(out)
    states = told["states"]
    assert states == {"complete": 4, "pruned": 0, "failed": 0, "running": 0, "waiting": 0}
    assert rows(broken, study) == rows(whole, study)

    client = MlflowClient(f"sqlite:///{broken}/mlflow.db")
    experiment = find_experiment(client, study_name)
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 5
    assert {run.info.status for run in runs} == {"FINISHED"}
    for trial in left.trials:
        run_id = told["trials"][trial.number]["mlflow_run_id"]
        steps = [m.step for m in client.get_metric_history(run_id, VAL_LOSS)]
        assert steps == list(range(10, 121, 10)), "nothing lost, nothing written twice"
