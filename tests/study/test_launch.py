"""What a launch is, and that no reader mixes two."""

from __future__ import annotations

import dataclasses

import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from moe.config import ConfigError
from moe.metrics import VAL_LOSS
from orchestrator.base.errors import BadInput, StudyError
from orchestrator.cli.run_command import print_session
from orchestrator.driver.tune_adapters import make_scheduler
from orchestrator.report.records import read_launch
from orchestrator.study.launch import launch_name
from orchestrator.study.resolve import resolve
from orchestrator.study.run_note import run_note
from search_spaces.cells import Cell


def entry(step, loss):
    return {"step": step, "tokens": step * 128, "timestamp_ms": 1000 + step, VAL_LOSS: loss}


def finish_all(session, loss):
    while assignment := session.ledger.next():
        number = assignment.record.number
        session.ledger.started(number)
        session.ledger.progressed(number, entry(4, loss))
        session.ledger.completed(number, entry(8, loss), tokens=1024)


def test_the_name_carries_study_scale_corpus_and_overrides(grid_study, corpus):
    plain = resolve(grid_study, corpus_spec=corpus)
    changed = resolve(grid_study, corpus_spec=corpus, overrides={"train.num_steps": 9})
    study, scale, text = plain.name.split("/")
    assert (study, scale) == ("tiny-grid", "smoke")
    assert text == f"files:documents.jsonl@{plain.corpus_digest[:8]}"
    assert changed.name == plain.name + "/train.num_steps=9"


def test_a_run_says_on_its_page_in_what_it_is_unlike_the_baseline(home, hold, grid_study):
    with hold(grid_study) as session:
        while assignment := session.ledger.next():
            session.ledger.started(assignment.record.number)
            session.ledger.failed(assignment.record.number, "left")
        runs = {record.cell: record.run_id for record in session.records if record.seed == 1}
    client = MlflowClient(home.mlflow_uri)
    notes = {
        cell: client.get_run(run_id).data.tags["mlflow.note.content"]
        for cell, run_id in runs.items()
    }
    unlike = "Unlike the baseline `learned`:"
    assert notes == {
        "learned": "Seed 1 of the baseline `learned`.",
        "frozen": f"Seed 1 of `frozen`. {unlike} `moe.router` frozen (learned).",
        "dense": f"Seed 1 of `dense`. {unlike} `moe.num_experts` 0 (4).",
    }


def test_a_point_of_a_search_is_unlike_its_scale(sampled_study, corpus):
    launch = resolve(sampled_study, corpus_spec=corpus)
    point = launch.sampled_point({"moe.num_experts": 8, "moe.top_k": 2, "moe.router": "random"}, 0)
    told = run_note(launch, point)
    assert told.startswith(f"Seed 0 of `{point.cell}`. Unlike the scale `smoke`: ")
    assert "`moe.num_experts` 8 (4)" in told
    assert "`moe.router` random (learned)" in told
    assert "seed" not in told.partition("Unlike")[2]


def test_long_overrides_keep_launches_apart(grid_study, corpus):
    many = {f"optim.{n}": 0.5 for n in ("beta1", "beta2", "grad_clip", "weight_decay")}
    many |= {"optim.learning_rate": 0.125, "optim.min_learning_rate_fraction": 0.25}
    first = resolve(grid_study, corpus_spec=corpus, overrides={**many, "train.eval_tokens": 128})
    second = resolve(grid_study, corpus_spec=corpus, overrides={**many, "train.eval_tokens": 256})
    assert first.name != second.name


def test_the_longest_name_fits_both_stores():
    many = {f"optim.{n}": "x" * 100 for n in range(9)}
    name = launch_name("s" * 64, "c" * 64, "files:/corpora/" + "n" * 250, "d" * 8, many)
    assert len(name) <= 500


def test_the_path_of_a_corpus_is_no_part_of_identity(grid_study, corpus, corpus_folder, tmp_path):
    import shutil

    copy = shutil.copy(corpus_folder / "documents.jsonl", tmp_path / "documents.jsonl")
    here = resolve(grid_study, corpus_spec=corpus)
    there = resolve(grid_study, corpus_spec=f"files:{copy}")
    assert here.name == there.name
    assert [p.config_hash for p in here.points()] == [p.config_hash for p in there.points()]


def test_readers_take_the_newest_launch_and_never_two(home, hold, grid_study):
    with hold(grid_study) as first:
        finish_all(first, 2.0)
    with hold(grid_study, overrides={"train.num_steps": 9}) as second:
        finish_all(second, 3.0)
    newest = read_launch("tiny-grid", home=home)
    assert newest.info.name == second.launch.name
    assert {r.value for r in newest.trials} == {3.0}
    assert {row.mean for row in newest.table(grid_study).rows} == {3.0}
    with hold(grid_study):
        pass
    assert read_launch("tiny-grid", home=home).info.name == first.launch.name
    chosen = read_launch("tiny-grid", home=home, overrides={"train.num_steps": 9})
    assert chosen.info.name == second.launch.name


def test_one_seed_has_no_interval(home, hold, grid_study):
    with hold(grid_study, seeds=(0,)) as session:
        finish_all(session, 2.0)
    for row in read_launch("tiny-grid", home=home).table(grid_study).rows:
        assert (row.n, row.ci_low, row.ci_high) == (1, None, None)


def test_results_of_other_code_get_rows_of_their_own(hold, grid_study, monkeypatch):
    with hold(grid_study, seeds=(0,)) as session:
        finish_all(session, 2.0)
    monkeypatch.setattr("orchestrator.trials.trial_writer.moe_digest", lambda: "other")
    with hold(grid_study, seeds=(0, 1)) as session:
        finish_all(session, 3.0)
        rows = session.table().rows
    assert [(row.cell, row.mean) for row in rows] == [
        (cell, mean) for mean in (2.0, 3.0) for cell in ("dense", "learned", "frozen")
    ]


def test_a_label_router_needs_its_column(grid_study, corpus):
    label = {"moe.router": "label", "moe.top_k": 1, "moe.routing_unit": "sequence"}
    study = dataclasses.replace(grid_study, cells=[Cell(name="by-label", overrides=label)])
    study = dataclasses.replace(study, baseline="by-label")
    assert resolve(study, corpus_spec=corpus).points()[0].cell == "by-label"
    with pytest.raises(BadInput, match=r"cell by-label asks for 'topic'.*has language"):
        resolve(study, corpus_spec=corpus, overrides={"moe.label_column": "topic"})


def test_an_override_that_changes_no_trial_is_refused(grid_study, corpus):
    with pytest.raises(BadInput, match="would change no trial"):
        resolve(grid_study, corpus_spec=corpus, overrides={"moe.router": "hash"})


def test_early_stopping_remembers_what_earlier_drivers_saw(hold, sampled_study):
    with hold(sampled_study, trials=4) as session:
        for loss in (2.0, 2.1, 2.2, 2.3):
            number = session.ledger.next().record.number
            session.ledger.started(number)
            session.ledger.progressed(number, entry(2, loss))
            session.ledger.progressed(number, entry(4, loss))
            session.ledger.completed(number, entry(8, loss), tokens=1)
    with hold(sampled_study, trials=6) as session:
        scheduler = make_scheduler(session.launch, session.ledger)
        from types import SimpleNamespace

        for loss, decision in ((9.0, "STOP"), (1.0, "CONTINUE")):
            number = session.ledger.next().record.number
            session.ledger.started(number)
            job = {"number": number, "config": session.launch.base.to_dict()}
            trial = SimpleNamespace(config={"job": job})
            judged = scheduler.on_trial_result(None, trial, {"step": 2, VAL_LOSS: loss})
            assert judged == decision


def test_a_study_says_what_is_wrong_with_it(grid_study):
    with pytest.raises(ValueError, match="either cells"):
        dataclasses.replace(grid_study, cells=None)
    with pytest.raises(ValueError, match="distinct"):
        dataclasses.replace(grid_study, seeds=(1, 1))
    with pytest.raises(ConfigError, match="Rename it"):
        Cell(name="a/b", overrides={})


def test_cells_of_one_configuration_are_one_trial_and_said(corpus):
    from orchestrator.study.library import load_study
    from orchestrator.study.plan import plan

    launch = resolve(load_study("quickstart"), corpus_spec=corpus, overrides={"moe.num_experts": 2})
    assert launch.merged == {"dense-total": "dense-active"}
    planned = plan(launch)
    hashes = {h for cell in planned["cells"] for h in cell["config_hash"].values()}
    assert planned["trials"] == len(hashes) == 14
    assert planned["merged"] == {"dense-total": "dense-active"}


def test_a_launch_that_cannot_begin_leaves_its_parent_run_as_it_ended(
    home, hold, grid_study, monkeypatch
):
    def refuse(*_, **__):
        raise StudyError("the store is damaged")

    def cannot_begin():
        with monkeypatch.context() as patch:
            patch.setattr("orchestrator.driver.session.reconcile", refuse)
            with pytest.raises(StudyError, match="damaged"), hold(grid_study):
                pytest.fail("the launch began")

    client = MlflowClient(home.mlflow_uri)
    cannot_begin()
    (new,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert new.info.status == "KILLED"
    with hold(grid_study) as session:
        assert session.tracking.parent_run_id == new.info.run_id
        assert client.get_run(new.info.run_id).info.status == "RUNNING"
        finish_all(session, 2.0)
    ended = client.get_run(new.info.run_id).info
    assert ended.status == "FINISHED"
    cannot_begin()
    again = client.get_run(new.info.run_id).info
    assert (again.status, again.end_time) == (ended.status, ended.end_time)


@pytest.mark.parametrize(
    "request_", ["get_experiment_by_name", "create_experiment", "search_runs", "update_run"]
)
def test_a_store_that_goes_away_while_a_launch_begins_is_named(
    home, hold, grid_study, monkeypatch, request_
):
    """Whichever request it is that fails: one message, and the same command goes on."""

    def away(*_, **__):
        raise MlflowException("503")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, request_, away)
        with pytest.raises(StudyError, match="stopped answering"), hold(grid_study):
            pytest.fail("the launch began")
    with hold(grid_study) as session:
        finish_all(session, 2.0)
    assert {record.state for record in session.records} == {"complete"}


def test_an_interrupted_launch_says_that_the_same_command_continues(hold, grid_study, capsys):
    with hold(grid_study) as session:
        session.interrupted = True
    print_session(session, as_json=False)
    assert "interrupted; the same command continues" in capsys.readouterr().err
    assert session.exit_code == 130
