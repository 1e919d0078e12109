"""A copied or moved home works where it stands, and its old place is left alone."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from mlflow.tracking._tracking_service.utils import _artifact_repos_cache

from moe.metrics import VAL_LOSS
from orchestrator.base.home import Home
from orchestrator.driver.options import Options
from orchestrator.driver.publish import publish_analysis
from orchestrator.driver.session import opened
from orchestrator.report.records import read_launch
from orchestrator.stores.moved_home import former_places, settle
from orchestrator.stores.outbox import deliver_outboxes, outbox_suffix, own_outbox_suffix
from orchestrator.stores.outbox_files import OutboxFile
from orchestrator.study.resolve import resolve


def tree(home):
    """Every file of a home with the digest of its content."""
    return {
        path.relative_to(home.root): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(home.root.rglob("*"))
        if path.is_file()
    }


def names(home, place):
    """Files of a home in which a path stands."""
    return [
        p for p in home.root.rglob("*") if p.is_file() and str(place).encode() in p.read_bytes()
    ]


def complete_one(session):
    """The next trial of a held launch, with an artifact, as a run that went well."""
    ledger = session.ledger
    record = ledger.next().record
    kept = session.options.home.checkpoints / f"trial-{record.number}" / "notes.txt"
    kept.parent.mkdir(parents=True)
    kept.write_text(f"of trial {record.number}")
    ledger.started(record.number)
    entry = {"step": 8, "tokens": 1024, "timestamp_ms": 1000, VAL_LOSS: 2.5}
    ledger.progressed(record.number, entry)
    return ledger.completed(record.number, entry, tokens=1024, artifacts=[(str(kept), "notes")])


@pytest.fixture(scope="module")
def original(tmp_path_factory, mlflow_template, grid_study, corpus):
    """A home with one finished trial."""
    home = Home(tmp_path_factory.mktemp("original") / "home")
    home.root.mkdir()
    shutil.copy(mlflow_template, home.root / "mlflow.db")
    launch = resolve(grid_study, corpus_spec=corpus, seeds=(0,))
    with opened(launch, Options(home=home), say=print, start_cluster=False) as session:
        complete_one(session)
    return home


@pytest.fixture
def copied(original, tmp_path):
    """That home, and a copy of it elsewhere."""
    home, copy = original, Home(tmp_path / "copy of it")
    shutil.copytree(home.root, copy.root)
    _artifact_repos_cache.clear()  # of this process: who opens the copy is another one
    return home, copy


def artifact(home, run_id, path, to):
    to.mkdir(exist_ok=True)
    return Path(MlflowClient(home.mlflow_uri).download_artifacts(run_id, path, str(to))).read_text()


def test_what_opens_a_copy_writes_and_reads_there_and_nowhere_else(
    copied, grid_study, corpus, tmp_path
):
    home, copy = copied
    before = tree(home)
    assert former_places(copy) == [home.root]
    assert former_places(home) == []
    said = []
    launch = resolve(grid_study, corpus_spec=corpus, seeds=(0,))
    with opened(launch, Options(home=copy), say=said.append, start_cluster=False) as session:
        done = complete_one(session)
    assert f"this home was at {home.root}" in said[0]
    assert names(copy, home.root) == []
    read = read_launch(grid_study.name, home=copy)
    publish_analysis(read, grid_study, optuna_storage=None, mlflow_uri=None, say=said.append)
    assert tree(home) == before
    for record in read.trials:
        if record.run_id == done.run_id or record.number == 0:
            text = artifact(copy, record.run_id, "notes/notes.txt", tmp_path / "to")
            assert text == f"of trial {record.number}"
    table = artifact(copy, session.tracking.parent_run_id, "table.json", tmp_path / "to")
    assert sum(row["n"] for row in json.loads(table)["rows"]) == 2
    with opened(launch, Options(home=copy), say=said.append, start_cluster=False) as session:
        pass
    assert sum("this home was at" in line for line in said) == 1


def test_readers_of_a_copy_change_nothing_and_doctor_names_it(
    copied, grid_study, monkeypatch, moe_study, tmp_path
):
    home, copy = copied
    before = tree(home), tree(copy)
    monkeypatch.setattr("orchestrator.cli.parameters.load_study", lambda name: grid_study)
    of = (grid_study.name, "--home", copy.root)
    for command in (("table", *of), ("status", *of), ("report", *of, "-o", tmp_path / "r.html")):
        code, _, err = moe_study(*command)
        assert code == 0, err
    code, out, _ = moe_study("doctor", "--home", copy.root, "--no-ray", "--json")
    found = {check["name"]: check for check in json.loads(out)["checks"]}
    assert code == 0
    assert str(home.root) in found["home's place"]["found"]
    assert "2 trials" in found["launch"]["found"]
    assert (tree(home), tree(copy)) == before
    code, out, _ = moe_study("doctor", "--home", home.root, "--no-ray", "--json")
    assert "home's place" not in out


def test_what_waited_for_the_store_goes_out_from_the_new_place(copied, tmp_path):
    """Also from a spool that earlier code named by the home's path."""
    home, copy = copied
    run_id = read_launch("tiny-grid", home=home).trials[0].run_id
    (path,) = copy.spool.glob(f"*-{own_outbox_suffix()}.jsonl")
    old = path.with_name(f"{path.name[:12]}-{outbox_suffix(home.mlflow_uri)}.jsonl")
    waiting = home.spool / "late.txt"  # the copy has it too
    (copy.spool / "late.txt").write_text("late")
    path.unlink()
    spool = OutboxFile(old)
    spool.append({"op": "tags", "run_id": run_id, "tags": {"sent": "already"}})
    spool.mark_delivered(next(spool.pending())[1])
    spool.append({"op": "tags", "run_id": run_id, "tags": {"late": "yes"}})
    spool.append({"op": "artifact", "run_id": run_id, "path": str(waiting), "folder": None})
    spool.set_aside([{"op": "tags"}], "refused once")
    spool.close()
    client = MlflowClient(copy.mlflow_uri)
    said = []
    assert deliver_outboxes(client, copy.mlflow_uri, copy, say=said.append) == (0, 0)
    assert "another store" in said[0]
    settle(copy)
    assert list(copy.spool.glob(f"*-{outbox_suffix(home.mlflow_uri)}*")) == []
    delivered, left = deliver_outboxes(client, copy.mlflow_uri, copy, say=said.append)
    assert (delivered, left) == (1, 1), "the refused entry is kept, and counted as left"
    assert client.get_run(run_id).data.tags["late"] == "yes"
    assert artifact(copy, run_id, "late.txt", tmp_path / "to") == "late"


def test_what_others_keep_in_the_database_stays(copied):
    """Locations of experiments that no launch made, and of artifacts that are not in the home."""
    _, copy = copied
    client = MlflowClient(copy.mlflow_uri)
    location = "s3://bucket/mlartifacts/mine"
    own = client.create_experiment("mine", artifact_location=location)
    run = client.create_run(own).info
    launch = read_launch("tiny-grid", home=copy)
    settle(copy)
    assert client.get_experiment(own).artifact_location == location
    assert client.get_run(run.run_id).info.artifact_uri == run.artifact_uri
    moved = client.get_run(launch.trials[0].run_id).info.artifact_uri
    assert (
        moved
        == f"{copy.artifacts.as_uri()}/{moved.split('/')[-3]}/{launch.trials[0].run_id}/artifacts"
    )
    default = client.get_experiment("0").artifact_location
    assert default == (copy.artifacts / "0").as_uri(), (
        "MLflow's own, in whatever folder was at hand"
    )


def test_a_database_that_cannot_be_written_is_said(copied, moe_study):
    _, copy = copied
    with sqlite3.connect(copy.root / "mlflow.db") as database:
        database.execute(
            "CREATE TRIGGER no BEFORE UPDATE ON experiments BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
    database.close()
    code, out, err = moe_study("deliver", "--home", copy.root)
    assert (code, out) == (0, "")
    assert "cannot be written" in err


@pytest.mark.slow
def test_the_page_of_a_copy_shows_its_own_artifacts(copied, tmp_path):
    home, copy = copied
    run_id = read_launch("tiny-grid", home=home).trials[0].run_id
    shutil.move(home.artifacts, tmp_path / "gone")
    command = [sys.executable, "-m", "orchestrator.cli", "ui", "--home", str(copy.root)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        words = [process.stdout.readline().split() for _ in range(3)]
        (address,) = (line[-1].partition("/#")[0] for line in words if line[0] == "MLflow")
        url = f"{address}/get-artifact?run_uuid={run_id}&path=notes/notes.txt"
        with urllib.request.urlopen(url, timeout=60) as answer:
            assert answer.read() == b"of trial 0"
    finally:
        shutil.move(tmp_path / "gone", home.artifacts)
        os.kill(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert f"this home was at {home.root}" in err
    assert process.returncode == 0
