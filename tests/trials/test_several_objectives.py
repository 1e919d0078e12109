"""A launch with several objectives through both stores: read by Optuna's own client, killed in the
middle, carried to another home; and what table, claims and report say of its front."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import shutil
import signal
from multiprocessing import get_context

import numpy as np
import optuna
import pytest
from mlflow.tracking import MlflowClient
from optuna.study import StudyDirection
from optuna_dashboard import wsgi

from moe.accounting import account
from moe.metrics import VAL_LOSS
from orchestrator.archive.archived_launch import pack, read, records_of
from orchestrator.archive.container import write
from orchestrator.archive.export_launch import export_launch
from orchestrator.archive.import_launch import import_launch
from orchestrator.base.errors import BadInput
from orchestrator.base.home import Home
from orchestrator.driver.options import Options
from orchestrator.driver.recommending import require_raceable
from orchestrator.driver.session import opened
from orchestrator.driver.tune_loop import run
from orchestrator.report.page import render_report
from orchestrator.report.records import read_launch
from orchestrator.report.table_text import as_json, render
from orchestrator.study.resolve import resolve
from orchestrator.surrogate.dominance import non_dominated

ENTROPY, FLOPS = "router/load_entropy", "flops_per_token"
TRIALS = 12


@pytest.fixture
def study(sampled_study):
    return dataclasses.replace(
        sampled_study,
        name="tiny-front",
        early_stopping=None,
        trials=TRIALS,
        objectives=(VAL_LOSS, ENTROPY, FLOPS),
    )


def final(record):
    """Of a point and a seed, whoever asks."""
    experts, chosen = record.params["moe.num_experts"], record.params["moe.top_k"]
    better = 0.1 * (record.params["moe.router"] == "frozen")
    loss = 3.0 - 0.1 * math.log2(experts) - 0.2 * chosen - better + 0.01 * record.seed
    return {VAL_LOSS: loss, ENTROPY: 1 - 0.05 * experts + 0.001 * record.seed}


def play(session, *, most=10**6, die=False):
    """Ends so many trials, then dies in the middle of one."""
    ledger = session.ledger
    for count in range(most + 1):
        assignment = ledger.next()
        if assignment is None:
            return
        record = assignment.record
        ledger.started(record.number)
        entry = {"step": 4, "tokens": 512, "timestamp_ms": 1000, **final(record)}
        ledger.progressed(record.number, {**entry, VAL_LOSS: entry[VAL_LOSS] + 1})
        if count == most:
            break
        ended = {**entry, "step": 8, "tokens": 1024, "timestamp_ms": 2000, "cost/device_s": 2.0}
        ledger.progressed(record.number, ended)
        ledger.completed(record.number, ended, tokens=1024)
    if die:
        os.kill(os.getpid(), signal.SIGKILL)


def held(study, home, corpus, **asked):
    launch = resolve(study, corpus_spec=corpus, **asked)
    return opened(launch, Options(home=home), say=lambda line: None, start_cluster=False)


def drive_and_die(study, home, corpus, most):
    with held(study, home, corpus) as session:
        play(session, most=most, die=True)


def optunas(launch):
    return optuna.load_study(study_name=launch.info.name, storage=launch.home.optuna_storage)


@pytest.mark.parametrize("sampler", ["auto", "tpe", "nsga2"])
def test_a_killed_driver_is_gone_on_from_with_the_same_result(
    home, tmp_path, mlflow_template, study, corpus, sampler
):
    study = dataclasses.replace(study, sampler=sampler)
    other = Home(tmp_path / "undisturbed")
    shutil.copytree(home.root, other.root)
    with held(study, other, corpus) as session:
        play(session)
    for most in (5, 4):
        driver = get_context("fork").Process(target=drive_and_die, args=(study, home, corpus, most))
        driver.start()
        driver.join()
        assert driver.exitcode == -signal.SIGKILL
    with held(study, home, corpus) as session:
        assert any("interrupted" in line for line in session.said)
        play(session)
    mended, undisturbed = (read_launch(study.name, home=of) for of in (home, other))
    told = [(r.params, r.state, r.value, r.values, r.curve) for r in mended.trials]
    assert told == [(r.params, r.state, r.value, r.values, r.curve) for r in undisturbed.trials]
    assert len(told) == TRIALS
    tables = [as_json(each.table(study)) for each in (mended, undisturbed)]
    for table in tables:
        for row in table["rows"]:
            del row["run_ids"]
        for front in table["fronts"]:
            del front["by_device_s"]  # of the half trials that were paid for twice, too
    assert tables[0] == tables[1]


def test_optunas_own_client_reads_directions_values_and_the_front(home, study, corpus):
    with held(study, home, corpus) as session:
        play(session)
        points = {r.number: session.ledger.queue.point_of(r) for r in session.records}
    launch = read_launch(study.name, home=home)
    found = optunas(launch)
    minimize, maximize = StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE
    assert found.directions == [minimize, maximize, minimize]
    assert found.metric_names == [VAL_LOSS, ENTROPY, FLOPS]
    client = MlflowClient(home.mlflow_uri)
    for trial, record in zip(found.trials, launch.trials, strict=True):
        flops = account(points[trial.number].config).flops_per_token
        assert trial.values == [*final(record).values(), flops] == list(record.values)
        assert trial.intermediate_values.keys() == {4, 8}
        logged = client.get_run(record.run_id).data.metrics
        assert [logged[VAL_LOSS], logged[ENTROPY]] == trial.values[:2]
    table = launch.table(study)
    best = {trial.user_attrs["cell"] for trial in found.best_trials}
    assert {p.cell for p in table.fronts[0].on_front} == best
    assert 1 < len(best) < TRIALS
    assert launch.importances()  # of the first objective

    markdown = render(table, "markdown")
    assert f"Front of {VAL_LOSS}, {ENTROPY} and {FLOPS}: " in markdown
    assert all(f"{cell} (" in markdown for cell in best)
    share = table.fronts[0].hypervolume
    assert f"Hypervolume: {share:.3f} of the box" in markdown
    assert "after 24 s of device time" in markdown
    assert "Points of one seed have no interval" in markdown
    page = render_report(launch, study)
    assert "The front of the objectives" in page
    assert '"front-0-0"' in page
    assert '"hypervolume-0"' in page
    rows = render(table, "csv").splitlines()
    assert f"front_{ENTROPY}_low" in rows[0]
    assert sum(",True," in row for row in rows[1:]) == len(best)


def test_optuna_dashboard_serves_what_its_pareto_page_draws(home, study, corpus):
    with held(study, home, corpus, trials=3) as session:
        play(session)
    launch = read_launch(study.name, home=home)
    answered = []
    body = wsgi(home.optuna_storage)(
        {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": f"/api/studies/{launch.info.study_id}",
            "wsgi.input": io.BytesIO(),
            "wsgi.errors": io.StringIO(),
        },
        lambda status, headers, failed=None: answered.append(status),
    )
    told = json.loads(b"".join(body))
    assert answered == ["200 OK"]
    assert told["directions"] == ["minimize", "maximize", "minimize"]
    assert told["objective_names"] == [VAL_LOSS, ENTROPY, FLOPS]
    assert {trial["number"] for trial in told["best_trials"]} == {
        trial.number for trial in optunas(launch).best_trials
    }
    assert [trial["values"] for trial in told["trials"]] == [list(r.values) for r in launch.trials]


def test_seeds_give_intervals_and_points_over_fewer_are_on_no_front(home, study, corpus):
    with held(study, home, corpus, trials=4) as session:
        play(session)
    with held(study, home, corpus, trials=4, seeds=(0, 1)) as session:
        play(session, most=3)
    launch = read_launch(study.name, home=home)
    (front,) = launch.fronts()
    assert sorted(point.n for point in front.points) == [1, 2, 2, 2]
    assert all(point.n == 2 for point in front.on_front)
    point = front.on_front[0]
    loss = point.estimates[VAL_LOSS]
    of_cell = [r for r in launch.trials if r.cell == point.cell and r.state == "complete"]
    assert loss.mean == pytest.approx(np.mean([r.value for r in of_cell]))
    assert loss.low < loss.mean < loss.high
    costs = np.array([[p.estimates[n].mean for n in front.objectives] for p in front.points])
    whole = costs[[p.n == 2 for p in front.points]] * [1, -1, 1]
    assert non_dominated(whole).sum() == len(front.on_front)
    times = [seconds for seconds, _ in front.by_time]
    shares = [share for _, share in front.by_time]
    assert times == [2.0 * (i + 1) for i in range(7)]
    assert 0 <= min(shares) <= max(shares) <= 1


def test_a_file_carries_it_to_another_home_and_is_read_without_one(
    home, tmp_path, mlflow_template, study, corpus
):
    with held(study, home, corpus) as session:
        play(session, most=7)
    launch = read_launch(study.name, home=home)
    file = tmp_path / "front.moe-study"
    write(file, pack(export_launch(launch, MlflowClient(home.mlflow_uri))))
    with records_of(read(file)) as alone:
        tables = [as_json(each.table(study)) for each in (alone, launch)]
    for table in tables:  # of a trial that has yet to end, a file has what was planned
        table["rows"] = [row for row in table["rows"] if row["n"]]
    assert tables[0] == tables[1]
    assert len(tables[0]["rows"]) == 7
    other = Home(tmp_path / "other")
    other.root.mkdir()
    shutil.copy(mlflow_template, other.root / "mlflow.db")
    done = import_launch(read(file), other, say=lambda line: None)
    assert (done.taken, done.waiting) == (7, 1)
    moved = read_launch(study.name, home=other)
    assert optunas(moved).directions == optunas(launch).directions
    assert [t.values for t in optunas(moved).trials] == [t.values for t in optunas(launch).trials]
    assert moved.fronts() == launch.fronts()
    with held(study, other, corpus) as session:
        play(session)
    assert sum(r.state == "complete" for r in read_launch(study.name, home=other).trials) == TRIALS
    changed = dataclasses.replace(
        read(file), attributes={**launch.info.attributes, "objectives": []}
    )
    with pytest.raises(BadInput, match="has objectives"):
        import_launch(changed, home, say=lambda line: None)


def test_a_missing_or_infinite_objective_fails_the_trial(home, study, corpus):
    with held(study, home, corpus) as session:
        ledger = session.ledger
        for value in (None, math.nan):
            record = ledger.next().record
            ledger.started(record.number)
            entry = {"step": 8, "tokens": 1024, "timestamp_ms": 1000, VAL_LOSS: 2.0}
            entry |= {} if value is None else {ENTROPY: value}
            ended = ledger.completed(record.number, entry, tokens=1024)
            assert ended.state == "failed"
            assert ended.error == f"the final {ENTROPY} is {value}, not a finite number"
        play(session)
    states = [trial.state.name for trial in optunas(read_launch(study.name, home=home)).trials]
    assert states == ["FAIL"] * 2 + ["COMPLETE"] * (TRIALS - 2)


def test_what_another_launch_trained_is_reused_with_all_objectives(home, study, corpus):
    with held(study, home, corpus, trials=3) as session:
        play(session)
    again = dataclasses.replace(study, name="tiny-front-again", sampler="random")
    first = [dict(r.params) for r in read_launch(study.name, home=home).trials]
    with held(dataclasses.replace(again, first=first), home, corpus, trials=3) as session:
        play(session, most=0)
    before, after = (read_launch(name, home=home).trials for name in (study.name, again.name))
    assert all(r.is_reused for r in after)
    assert [r.values for r in after] == [r.values for r in before]


def test_a_launch_keeps_its_objectives(home, study, corpus):
    with held(study, home, corpus, trials=1) as session:
        play(session)
    for objectives in ((), (VAL_LOSS, FLOPS)):
        other = dataclasses.replace(study, objectives=objectives)
        refused = pytest.raises(BadInput, match=r"keeps the objectives that it was begun with")
        with refused, held(other, home, corpus):
            pytest.fail("it was opened")


def test_claims_name_the_front_and_recommend_says_why_not(home, study, corpus, moe_study, tmp_path):
    with held(study, home, corpus, trials=4) as session:
        play(session)
        with pytest.raises(BadInput, match="no point of the front is the best"):
            require_raceable(session.launch)
    launch = read_launch(study.name, home=home)
    file = tmp_path / "front_study.py"
    file.write_text(
        "from tests.fixtures.studies import TINY\n"
        "from orchestrator.study import Study\n"
        "from search_spaces.domains import Choice\n"
        "from search_spaces.space import Space\n"
        f"STUDY = Study(name={study.name!r}, question='?', baseline='none', held_fixed='all',\n"
        "    scales={'smoke': TINY}, trials=4,\n"
        "    space=Space(axes={'moe.top_k': Choice((1, 2))}),\n"
        f"    objectives={study.objectives!r})\n"
    )
    code, out, _ = moe_study("claims", file, "--home", home.root, "--json")
    assert code == 0
    (front,) = json.loads(out)["fronts"]
    assert [p["cell"] for p in front["points"]] == [p.cell for p in launch.fronts()[0].on_front]
    code, out, _ = moe_study("claims", file, "--home", home.root)
    assert "Front of val/loss" in out
    assert "states no claims" not in out
    code, _, err = moe_study("recommend", file, "--home", home.root)
    assert code == 2
    assert "a recommendation is one point" in err


@pytest.mark.usefixtures("ray_cluster")
def test_a_real_launch_ends_with_the_objectives_of_its_runs(home, hold, study):
    study = dataclasses.replace(study, objectives=(VAL_LOSS, FLOPS))
    with hold(study, trials=3) as session:
        run(session)
        assert session.exit_code == 0
    for record in read_launch(study.name, home=home).trials:
        assert record.state == "complete"
        assert list(record.values) == [record.metrics[VAL_LOSS], record.attributes[FLOPS]]
