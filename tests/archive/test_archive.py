"""A launch that travels as a file: the same in another home, in both stores, or refused whole."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
import signal
import zipfile
from multiprocessing import get_context

import optuna
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow.tracking import MlflowClient

from moe.code_digest import moe_digest
from moe.metrics import VAL_LOSS
from orchestrator.archive import container
from orchestrator.archive.archived_launch import pack, read, records_of
from orchestrator.archive.export_launch import export_launch
from orchestrator.archive.import_launch import import_launch
from orchestrator.archive.merged_analysis import merged_analysis
from orchestrator.base.errors import BadInput, StudyError
from orchestrator.base.home import Home
from orchestrator.cli.parameters import EXPORT_SUFFIX
from orchestrator.driver.options import Options
from orchestrator.driver.session import opened
from orchestrator.report.judge import analysis_folder
from orchestrator.report.page import render_report
from orchestrator.report.records import read_launch
from orchestrator.report.table_text import as_json
from orchestrator.stores.experiment_names import find_experiment
from orchestrator.stores.mlflow_runs import MlflowRuns
from orchestrator.stores.optuna_trials import OptunaTrials
from orchestrator.stores.trial_record import ORIGIN_LAUNCH, ORIGIN_TRIAL
from orchestrator.study.resolve import resolve

ROW = {
    "probe": "corpus:language",
    **{"cell": "learned", "seed": 0, "layer": 0, "nmi": 0.25, "nmi_null_low": 0.01},
    **{"nmi_null_high": 0.02, "nmi_null_mean": 0.015, "nmi_random_router": 0.1, "p_value": 0.01},
}


def new_home(folder, template):
    home = Home(folder)
    home.root.mkdir(parents=True)
    shutil.copy(template, home.root / "mlflow.db")
    return home


def entries(seed):
    """A curve with values whose every digit counts."""
    return [
        {"step": step, "tokens": 128 * step, "timestamp_ms": 10**12 + step, VAL_LOSS: loss}
        | {"cost/device_s": step / 7, "train/loss": loss + 0.1}
        for step, loss in ((4, 2.5 + seed / 3), (8, 2.0 + seed / 7))
    ]


def play(study, home, corpus, seeds, *, ends):
    """A launch whose trials come to the ends that are asked for, in order; the others wait."""
    launch = resolve(study, corpus_spec=corpus, seeds=seeds)
    with opened(launch, Options(home=home), say=lambda line: None, start_cluster=False) as session:
        ledger = session.ledger
        for end in ends:
            record = ledger.next().record
            number = record.number
            ledger.started(number)
            curve = entries(number + record.seed)
            ledger.progressed(number, curve[0])
            if end == "failed":
                ledger.failed(number, "it diverged", tokens=512, diverged_at=6)
            elif end == "pruned":
                ledger.stopped(number, tokens=512)
            else:
                folder = home.run_folder(record.config_hash, moe_digest())
                folder.mkdir(parents=True)
                (folder / "config.json").write_text(json.dumps({"train": {"batch_tokens": 128}}))
                load = {"step": [4, 4, 8, 8], "layer": [0] * 4, "expert": [0, 1] * 2}
                load |= {"load": [0.25, 0.75, 1 / 3, 2 / 3]}
                pq.write_table(pa.table(load), folder / "routing.parquet")
                routing = [(str(folder / "routing.parquet"), "routing")]
                ledger.progressed(number, curve[1])
                ledger.completed(number, curve[1], tokens=1024, artifacts=routing)
    rows = analysis_folder(home, launch.name)
    rows.mkdir(parents=True)
    (rows / "a.json").write_text(json.dumps([ROW]))
    return read_launch(study.name, home=home)


@pytest.fixture(scope="module")
def played(tmp_path_factory, mlflow_template, grid_study, corpus):
    home = new_home(tmp_path_factory.mktemp("origin") / "home", mlflow_template)
    ends = ["complete", "complete", "failed", "complete", "pruned"]
    return play(grid_study, home, corpus, (0, 1), ends=ends)


@pytest.fixture(scope="module")
def file(played, tmp_path_factory):
    return exported(played, tmp_path_factory.mktemp("file") / "tiny.moe-study")


def exported(launch, path):
    client = MlflowClient(launch.home.mlflow_uri)
    container.write(path, pack(export_launch(launch, client)))
    return path


def without_runs(launch, study):
    """Table and report, with each run's id and link as the trial's number."""
    table = as_json(launch.table(study))
    report = render_report(launch, study)
    for record in launch.trials:
        if record.run_id:
            report = report.replace(record.run_id, f"run of trial {record.number}")
    report = report.replace("experiments/1/", "experiments/E/")
    for row in table["rows"]:
        row["run_ids"] = len(row["run_ids"])
    return table, report


def optuna_trials(launch):
    study = optuna.load_study(study_name=launch.info.name, storage=launch.home.optuna_storage)
    return study.get_trials(deepcopy=False)


def mlflow_runs(launch):
    client = MlflowClient(launch.home.mlflow_uri)
    experiment = find_experiment(client, launch.info.name)
    runs = client.search_runs([experiment.experiment_id], "tags.cell != ''", max_results=100)
    return client, {int(run.data.tags["optuna.trial_number"]): run for run in runs}


def test_a_file_makes_the_same_launch_in_another_home(played, file, tmp_path, grid_study):
    home = Home(tmp_path / "other")
    said = []
    done = import_launch(read(file), home, say=said.append)
    assert (done.taken, done.waiting, done.known, done.undelivered) == (5, 1, 0, False)
    launch = read_launch(grid_study.name, home=home)
    assert without_runs(launch, grid_study) == without_runs(played, grid_study)

    before, after = optuna_trials(played), optuna_trials(launch)
    assert len(after) == 6
    for old, new in zip(before, after, strict=True):
        assert (new.state, new.values, new.params) == (old.state, old.values, old.params)
        assert new.distributions == old.distributions
        assert new.intermediate_values == old.intermediate_values
        assert new.datetime_complete == old.datetime_complete
        if old.state.is_finished():
            assert new.datetime_start == old.datetime_start
            assert new.user_attrs[ORIGIN_TRIAL].endswith(f"/{old.number}")
            assert new.user_attrs[ORIGIN_LAUNCH] == played.info.name
        changed = {"mlflow.run_id", "mlflow.link"}
        for key in old.user_attrs.keys() - changed:
            assert new.user_attrs[key] == old.user_attrs[key]

    old_client, old_runs = mlflow_runs(played)
    client, runs = mlflow_runs(launch)
    assert runs.keys() == {0, 1, 2, 3, 4}
    for number, run in runs.items():
        old = old_runs[number]
        assert run.info.status == old.info.status
        assert (run.info.start_time, run.info.end_time) == (old.info.start_time, old.info.end_time)
        assert run.data.params == old.data.params
        own = ("mlflow.", "moe_study.owner", "origin.")
        kept = {k: v for k, v in old.data.tags.items() if not k.startswith(own)}
        assert kept.items() <= run.data.tags.items()
        assert run.inputs.dataset_inputs[0].dataset == old.inputs.dataset_inputs[0].dataset
        for metric in old.data.metrics:
            points, expected = (
                [(p.step, p.timestamp, p.value) for p in which.get_metric_history(of, metric)]
                for which, of in ((client, run.info.run_id), (old_client, old.info.run_id))
            )
            assert points == expected
        found = {f.path for f in client.list_artifacts(run.info.run_id)}
        assert found == {f.path for f in old_client.list_artifacts(old.info.run_id)}

    done = import_launch(read(file), home, say=said.append)
    assert (done.taken, done.waiting, done.known) == (0, 0, 5)
    assert len(optuna_trials(launch)) == 6
    assert len(mlflow_runs(launch)[1]) == 5
    done = import_launch(read(file), played.home, say=said.append)
    assert (done.taken, done.known) == (0, 5), "nor into the home that it came from"
    again = exported(launch, tmp_path / "again.moe-study")
    assert [t.key for t in read(again).trials[:5]] == [t.key for t in read(file).trials[:5]]


def test_a_file_is_read_without_a_home_and_is_the_same_bytes_each_time(
    played, file, grid_study, tmp_path
):
    with records_of(read(file)) as launch:
        assert as_json(launch.table(grid_study)) == as_json(played.table(grid_study))
        assert render_report(launch, grid_study) == render_report(played, grid_study)
        folder = launch.home.root
    assert not folder.exists()
    assert exported(played, tmp_path / "b.moe-study").read_bytes() == file.read_bytes()
    assert pack(read(file)) == container.read(file)[0]


def test_what_is_damaged_or_foreign_is_refused_whole(file, tmp_path, moe_study):
    whole = file.read_bytes()
    bad = tmp_path / "bad.moe-study"
    variants = [b"", b"not a zip", whole[:-1], whole[: len(whole) // 2], whole + b"x"]
    for at in range(0, len(whole), len(whole) // 40):
        variants.append(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    for content in variants:
        bad.write_bytes(content)
        with pytest.raises(BadInput, match="a whole file that"):
            read(bad)
    with zipfile.ZipFile(bad, "w") as foreign:
        foreign.writestr("word/document.xml", "<a/>")
    members = container.read(file)[0]
    head = json.loads(members["launch.json"])
    line = json.loads(members["trials.jsonl"].splitlines()[0])
    for name, content in {
        "launch.json": {**head, "version": 2},
        "trials.jsonl": {**line, "state": "DONE"},
        "home/../../outside": {},
    }.items():
        container.write(bad, {**members, name: json.dumps(content).encode()})
        code, out, err = moe_study("import", bad, "--home", tmp_path / "none")
        assert (code, out) == (2, "")
        assert "Nothing was taken" in err
    assert [path.name for path in tmp_path.iterdir()] == ["bad.moe-study"]


def test_seeds_of_two_homes_merge_and_a_waiting_trial_takes_its_result(
    grid_study, corpus, mlflow_template, tmp_path
):
    a = new_home(tmp_path / "a", mlflow_template)
    b = new_home(tmp_path / "b", mlflow_template)
    play(grid_study, a, corpus, (0, 1), ends=["complete"] * 3)
    second = play(grid_study, b, corpus, (1, 2), ends=["complete", "pruned"])
    path = exported(second, tmp_path / "b.moe-study")
    done = import_launch(read(path), a, say=print)
    assert (done.taken, done.known, done.waiting) == (2, 0, 3)
    launch = read_launch(grid_study.name, home=a)
    states = {(r.cell, r.seed): r.state for r in launch.trials}
    assert len(states) == len(launch.trials) == 9, "no configuration has two trials"
    assert states["dense", 1] == "complete"
    assert states["learned", 1] == "pruned"
    value = {(r.cell, r.seed): r.value for r in second.trials}["dense", 1]
    filled = next(r for r in launch.trials if (r.cell, r.seed) == ("dense", 1))
    assert (filled.value, filled.attributes[ORIGIN_LAUNCH]) == (value, second.info.name)
    dense = launch.table(grid_study).rows[0]
    assert (dense.cell, dense.n, dense.seeds) == ("dense", 2, [0, 1])
    said = []
    done = import_launch(read(exported(launch, tmp_path / "a.moe-study")), a, say=said.append)
    assert (done.taken, done.known) == (0, 5)
    # The same launch goes on here, and trains what neither home has.
    play_more = resolve(grid_study, corpus_spec=corpus, seeds=(0, 1, 2))
    with opened(play_more, Options(home=a), say=said.append, start_cluster=False) as session:
        assert session.ledger.next().record.state == "waiting"
    assert not [line for line in said if "removed" in line or "left alone" in line]


def test_rows_and_shares_of_analyze_merge_by_trial(tmp_path):
    """Of one probe in two homes: what is here stays, what the file has of other trials comes."""

    def rows(*found):
        return json.dumps([{**ROW, "seed": seed, "nmi": nmi} for seed, nmi in found]).encode()

    def shares(*found):
        seeds, of_each = zip(*found, strict=True)
        return parquet({"cell": ["c"] * len(found), "seed": seeds, "share": of_each})

    for name, of in {"a.json": rows, "a.shares.parquet": shares}.items():
        path = tmp_path / name
        here, there = of((0, 0.5)), of((0, 0.25), (1, 0.75))
        path.write_bytes(here)
        merged = merged_analysis(path, there)
        path.write_bytes(merged)
        assert merged_analysis(path, there) == merged
        if path.suffix == ".json":
            found = [(row["seed"], row["nmi"]) for row in json.loads(merged)]
        else:
            table = pq.read_table(path).to_pydict()
            found = list(zip(table["seed"], table["share"], strict=True))
        assert found == [(0, 0.5), (1, 0.75)]


def test_rows_of_two_configurations_of_one_cell_merge_by_their_configuration(tmp_path):
    """A study that was edited between two homes: cell and seed name another trial in each."""

    def rows(*found):
        return json.dumps([{**ROW, "seed": 0, "config_hash": h, "nmi": n} for h, n in found])

    def shares(*found):
        hashes, of_each = zip(*found, strict=True)
        columns = {"cell": ["c"] * len(found), "seed": [0] * len(found), "share": of_each}
        return parquet({**columns, "config_hash": hashes})

    for name, of in {"a.json": rows, "a.shares.parquet": shares}.items():
        path = tmp_path / name
        here, there = of(("old", 0.5)), of(("old", 0.25), ("new", 0.75))
        as_bytes = (lambda x: x.encode()) if path.suffix == ".json" else (lambda x: x)
        path.write_bytes(as_bytes(here))
        path.write_bytes(merged := merged_analysis(path, as_bytes(there)))
        assert merged_analysis(path, as_bytes(there)) == merged
        if path.suffix == ".json":
            found = [(row["config_hash"], row["nmi"]) for row in json.loads(merged)]
        else:
            table = pq.read_table(path).to_pydict()
            found = list(zip(table["config_hash"], table["share"], strict=True))
        assert found == [("old", 0.5), ("new", 0.75)]


def test_rows_that_do_not_say_their_configuration_merge_by_cell_and_seed(tmp_path):
    def unsaid(*seeds):
        return {"cell": ["c"] * len(seeds), "seed": seeds, "share": [0.5] * len(seeds)}

    path = tmp_path / "a.shares.parquet"
    path.write_bytes(parquet(unsaid(0)))
    said = {**unsaid(0, 1), "config_hash": ["x", "y"]}
    path.write_bytes(merged_analysis(path, parquet(said)))
    assert pq.read_table(path).to_pydict() == {
        **{name: list(values) for name, values in unsaid(0, 1).items()},
        "config_hash": [None, "y"],
    }
    assert merged_analysis(path, parquet(unsaid(0, 1))) == path.read_bytes()


def parquet(columns):
    stream = io.BytesIO()
    pq.write_table(pa.table(columns), stream)
    return stream.getvalue()


def import_until_killed(path, home, writes):
    """In a process of its own: ends with SIGKILL before one of its writes."""
    left = writes

    def counted(owner, name):
        real = getattr(owner, name)

        def write(*arguments, **named):
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **named)

        setattr(owner, name, write)

    counted(MlflowRuns, "adopt_run")
    for name in ("add_finished", "set_state", "set_attributes", "report"):
        counted(OptunaTrials, name)
    counted(MlflowClient, "log_batch")
    import_launch(read(path), home, say=print)


@pytest.mark.slow
def test_a_killed_import_goes_on(played, file, grid_study, tmp_path, mlflow_template):
    home = new_home(tmp_path / "other", mlflow_template)
    kills = 0
    for writes in (1, 2, 6, 9):
        process = get_context("fork").Process(target=import_until_killed, args=(file, home, writes))
        process.start()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
    assert kills >= 3
    import_launch(read(file), home, say=print)
    launch = read_launch(grid_study.name, home=home)
    assert without_runs(launch, grid_study) == without_runs(played, grid_study)
    assert len(mlflow_runs(launch)[1]) == 5


def test_what_cannot_be_exported_or_merged_is_said(
    played, file, grid_study, tmp_path, mlflow_template, corpus
):
    archived = read(file)
    other = {**archived.attributes, "metric": "val/bits_per_byte"}
    with pytest.raises(BadInput, match="are one launch"):
        import_launch(dataclasses.replace(archived, attributes=other), played.home, say=print)
    client = MlflowClient(played.home.mlflow_uri)
    run_id = played.trials[0].run_id
    client.update_run(run_id, status="RUNNING")
    try:
        with pytest.raises(StudyError, match="MLflow has its run as RUNNING"):
            export_launch(played, client)
    finally:
        client.update_run(run_id, status="FINISHED")
    empty = new_home(tmp_path / "empty", mlflow_template)
    with pytest.raises(BadInput, match="has no experiment"):
        export_launch(played, MlflowClient(empty.mlflow_uri))


def test_readers_take_a_file_instead_of_a_home(file, tmp_path, monkeypatch, moe_study, grid_study):
    assert EXPORT_SUFFIX == container.SUFFIX
    monkeypatch.setattr("orchestrator.cli.parameters.load_study", lambda name: grid_study)
    monkeypatch.chdir(tmp_path)
    code, out, _ = moe_study("table", file, "--format", "json")
    assert code == 0
    assert [row["n"] for row in json.loads(out)["rows"]] == [2, 1, 0]
    code, out, _ = moe_study("claims", file, "--json")
    assert (code, json.loads(out)["study"]) == (0, "tiny-grid")
    code, out, _ = moe_study("report", file, "-o", "r.html")
    assert (code, out) == (0, "r.html\n")
    code, out, err = moe_study("table", file, "--home", "h", "--scale", "smoke")
    assert (code, out) == (2, "")
    assert "with --scale, --home" in err
    assert [path.name for path in tmp_path.iterdir()] == ["r.html"]


def test_the_commands(played, file, tmp_path, monkeypatch, moe_study, grid_study):
    code, out, err = moe_study("import", file, "--home", tmp_path / "new", "--json")
    assert code == 0, err
    assert json.loads(out) == {
        **{"study": "tiny-grid", "launch": played.info.name, "taken": 5, "known": 0},
        **{"waiting": 1, "undelivered": False},
    }
    assert "tiny-grid.py is not in this folder" in err
    monkeypatch.setattr("orchestrator.cli.parameters.load_study", lambda name: grid_study)
    path = tmp_path / "t.moe-study"
    code, out, err = moe_study("export", "tiny-grid", "--home", tmp_path / "new", "-o", path)
    assert (code, out) == (0, f"{path}\n")
    assert "5 trials, and 1 that have not come to their end" in err
    code, out, err = moe_study("import", path, "--home", played.home.root)
    assert code == 0
    assert "0 trials taken, 5 known already" in err
    code, out, err = moe_study("import", tmp_path / "none", "--home", tmp_path / "no")
    assert (code, out) == (2, "")
    assert not (tmp_path / "no").exists()
