"""`analyze` on models that a launch trained: rows for scripts, kept where claims find them."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import optuna
import pyarrow.parquet as pq
import pytest
from mlflow.tracking import MlflowClient
from optuna.artifacts import get_all_artifact_meta

from orchestrator import cli
from orchestrator.driver.publish import publish_analysis
from orchestrator.driver.tune_loop import run
from orchestrator.report.judge import analysis_folder, read_analysis
from orchestrator.report.records import read_launch
from orchestrator.stores.optuna_storage import open_storage
from search_spaces.cells import Cell

KEYS = {
    "cell", "seed", "layer", "nmi", "nmi_null_mean", "nmi_null_high", "p_value", "purity", "n_units"
}  # fmt: skip


@pytest.mark.usefixtures("ray_cluster", "no_pdf")
def test_rows_of_every_cell_with_experts_against_planted_labels(
    home, hold, grid_study, monkeypatch, capsys, tmp_path
):
    label = {"moe.router": "label", "moe.top_k": 1, "moe.routing_unit": "sequence"}
    cells = [*grid_study.cells, Cell(name="by-label", overrides=label)]
    study = dataclasses.replace(grid_study, cells=cells)
    with hold(study, seeds=(0,), overrides={"data.holdout_fraction": 0.4}) as session:
        run(session)
    assert session.exit_code == 0
    monkeypatch.setattr("orchestrator.cli.parameters.load_study", lambda name: study)
    arguments = ["analyze", "tiny-grid", "--probe", "corpus:language", "--home", str(home.root)]
    monkeypatch.setattr(sys, "argv", ["moe-study", *arguments, "--permutations", "99", "--json"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    told = json.loads(capsys.readouterr().out)
    assert told["study"] == "tiny-grid"
    assert told["probe"] == "corpus:language"
    assert {row["cell"] for row in told["rows"]} == {"learned", "frozen", "by-label"}
    assert all(set(row) >= KEYS for row in told["rows"])
    planted = [row for row in told["rows"] if row["cell"] == "by-label" and row["layer"] is None]
    assert planted[0]["nmi"] == pytest.approx(1.0)
    assert read_analysis(home, session.launch.name) == told["rows"]
    (kept,) = analysis_folder(home, session.launch.name).glob("*.shares.parquet")
    shares = pq.read_table(kept).to_pylist()
    of_one = [row for row in shares if row["cell"] == "by-label" and row["key"] in ("en", "xx")]
    assert {row["share"] for row in of_one} == {0.0, 1.0}, "each language to its expert"
    # Nothing was published before: what the pages show is of `analyze`.
    client = MlflowClient(home.mlflow_uri)
    parent = session.tracking.parent_run_id
    names = {file.path for file in client.list_artifacts(parent)}
    assert names >= {"claims.json", "figures", "report.html", "table.md"}
    figures = {file.path for file in client.list_artifacts(parent, "figures")}
    assert any("specialization" in path for path in figures), figures
    storage = open_storage(home.optuna_storage, create=False)
    shown = optuna.load_study(study_name=session.launch.name, storage=storage)
    files = {a.filename for a in get_all_artifact_meta(shown)}
    assert {"claims.json", "report.html"} <= files


@pytest.mark.usefixtures("no_pdf")
def test_a_driver_at_work_or_a_store_without_the_launch_is_said(
    home, hold, grid_study, tmp_path, mlflow_template
):
    shutil.copy(mlflow_template, tmp_path / "other.db")
    said = []

    def publish(launch, **named):
        publish_analysis(
            launch, grid_study, **{"optuna_storage": None, "mlflow_uri": None, **named},
            say=said.append,
        )  # fmt: skip

    with hold(grid_study, seeds=(0,)) as session:
        number = session.ledger.next().record.number
        session.ledger.started(number)
        entry = {"step": 8, "tokens": 1024, "timestamp_ms": 1, "val/loss": 2.0}
        session.ledger.completed(number, entry, tokens=1024)
        launch = read_launch("tiny-grid", home=home)
        publish(launch)
    assert "a driver is at work" in said.pop()
    publish(launch, mlflow_uri=f"sqlite:///{tmp_path}/other.db")
    assert "has no run of this launch" in said.pop()
    publish(launch, mlflow_uri=f"sqlite:///{tmp_path}/none.db")
    assert "no such file" in said.pop()
    assert not (tmp_path / "none.db").exists()
    with hold(grid_study, seeds=(0,)) as session:  # another driver goes on meanwhile
        number = session.ledger.next().record.number
        session.ledger.started(number)
        session.ledger.completed(number, entry, tokens=1024)
    publish(launch)
    assert said == []
    client = MlflowClient(home.mlflow_uri)
    table = client.download_artifacts(session.tracking.parent_run_id, "table.json", str(tmp_path))
    rows = json.loads(Path(table).read_text())["rows"]
    assert {row["cell"]: row["n"] for row in rows} == {"dense": 1, "learned": 1, "frozen": 0}


def test_a_store_or_home_that_cannot_take_it_is_refused_before_the_work(
    home, hold, grid_study, monkeypatch, moe_study
):
    with hold(grid_study, seeds=(0,)):
        pass
    monkeypatch.setattr("orchestrator.cli.parameters.load_study", lambda name: grid_study)
    asked = ("analyze", "tiny-grid", "--probe", "corpus:language", "--home", home.root)
    for uri in ("./mlruns", "sqlite:///none.db"):
        code, out, err = moe_study(*asked, "--mlflow-uri", uri)
        assert (code, out) == (2, "")
        assert "analysed" not in err


def test_a_probe_that_cannot_be_read_is_one_message(home, hold, grid_study, monkeypatch, capsys):
    with hold(grid_study, seeds=(0,)):
        pass
    monkeypatch.setattr("orchestrator.cli.parameters.load_study", lambda name: grid_study)
    arguments = ["analyze", "tiny-grid", "--probe", "table:no.tsv:a:b", "--home", str(home.root)]
    monkeypatch.setattr(sys, "argv", ["moe-study", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "moe-study:" in capsys.readouterr().err
