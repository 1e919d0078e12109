"""Outcomes that are bounded: what violates a constraint is never the best, wherever a best is told,
and Optuna and its dashboard say the same with their own clients."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil

import optuna
import pytest

from moe.metrics import DEAD_EXPERTS, LOAD_ENTROPY, VAL_LOSS
from orchestrator.archive import container
from orchestrator.archive.archived_launch import pack, read
from orchestrator.archive.export_launch import export_launch
from orchestrator.archive.import_launch import import_launch
from orchestrator.base.errors import BadInput
from orchestrator.base.home import Home
from orchestrator.cli.recommend_command import _recommendation
from orchestrator.driver.publish import publish
from orchestrator.driver.recommending import Asked, best_points
from orchestrator.report.page import render_report
from orchestrator.report.parent_summary import metrics
from orchestrator.report.pareto import pareto_points
from orchestrator.report.race import is_fresh, searched
from orchestrator.report.records import read_launch
from orchestrator.report.table_columns import VIOLATES
from orchestrator.report.table_text import as_json, render
from orchestrator.report.tables import best_row
from orchestrator.stores.mlflow_client import connect
from orchestrator.study import Constraint, Study
from orchestrator.study.cautions import cautions
from orchestrator.study.resolve import resolve
from search_spaces.cells import Cell
from tests.fixtures.studies import TINY

ALIVE = Constraint(DEAD_EXPERTS, at_most=0)
EVEN = Constraint(LOAD_ENTROPY, at_least=0.5)


@pytest.fixture
def study(sampled_study):
    return dataclasses.replace(
        sampled_study,
        trials=8,
        first=[
            {"moe.num_experts": experts, "moe.top_k": 2, "moe.router": "frozen"}
            for experts in (4, 6, 8)
        ],
        early_stopping=None,
        seeds=(0, 1),
        constraints=(ALIVE, EVEN),
    )


def outcome(point, seed):
    """The more experts the lower the loss; from six on some die, at eight in every seed. Six have a
    dead one at every second seed: half a one in the mean."""
    experts = point["moe.num_experts"]
    dead = {2: 0, 4: 0, 6: seed % 2, 8: 2}[experts]
    loss = 4.0 - 0.1 * experts - 0.05 * point["moe.top_k"] + 0.01 * seed
    return {VAL_LOSS: loss, DEAD_EXPERTS: float(dead), LOAD_ENTROPY: 0.9}


def work(session, most=None, outcome=outcome):
    done = 0
    while (most is None or done < most) and (assignment := session.ledger.next()) is not None:
        number, point = assignment.record.number, assignment.point
        session.ledger.started(number)
        entry = {"step": 8, "tokens": 1024, "timestamp_ms": 1000}
        entry |= outcome(point.overrides, point.seed)
        session.ledger.progressed(number, entry)
        session.ledger.completed(number, entry, tokens=1024)
        done += 1
    return done


def experts(record):
    return record.params["moe.num_experts"]


def test_optuna_and_its_dashboard_are_told_with_their_own_words(hold, study, home):
    with hold(study) as session:
        work(session)
        name, study_id = session.info.name, session.info.study_id
    theirs = optuna.load_study(study_name=name, storage=home.optuna_storage)
    for trial in theirs.trials:
        own = outcome(trial.params, trial.user_attrs["seed"])
        assert list(trial.constraints.values()) == [own[DEAD_EXPERTS], 0.5 - own[LOAD_ENTROPY]]
    assert theirs.best_trial.params["moe.num_experts"] in (4, 6)
    assert theirs.best_trial.constraints["0"] == 0
    answer = _dashboard(home, f"/api/studies/{study_id}")
    shown = {t["number"]: t["constraints"] for t in answer["trials"]}
    assert shown == {t.number: list(t.constraints.values()) for t in theirs.trials}
    assert any(values[0] > 0 for values in shown.values())
    assert (
        f"Constraints: {DEAD_EXPERTS} at most 0; {LOAD_ENTROPY} at least 0.5"
        in answer["note"]["body"]
    )


def _dashboard(home, path):
    """What the page asks the server for: without one, through WSGI."""
    from optuna_dashboard import wsgi

    app = wsgi(home.optuna_storage)
    given = {}

    def start(status, headers, exc_info=None):
        given["status"] = status

    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": path, "QUERY_STRING": ""}
    environ |= {"SERVER_NAME": "x", "SERVER_PORT": "80", "SERVER_PROTOCOL": "HTTP/1.1"}
    environ |= {"wsgi.url_scheme": "http", "wsgi.input": io.BytesIO(), "wsgi.errors": io.StringIO()}
    body = b"".join(app(environ, start))
    assert given["status"].startswith("200"), body
    return json.loads(body)


def test_what_violates_is_the_best_nowhere(hold, study, home):
    with hold(study) as session:
        work(session)
        publish(session)
        ranked = best_points(session.launch, searched(session.records))
        params = {r.cell_hash: r.params for r in session.records}
        own = session.launch.study
    assert {params[point]["moe.num_experts"] for point in ranked} <= {2, 4}
    launch = read_launch(study.name, home=home)
    assert best_row(launch.trials, launch.measure)[0].startswith("N4")
    front = [p for p in pareto_points(launch.trials, home, metric=VAL_LOSS) if p.on_front]
    assert front
    assert not any(p.violates for p in front)
    table = launch.table(own)
    kept = [not row.violates for row in table.rows]
    assert kept == sorted(kept, reverse=True), "those that violate stand below"
    assert {row.params["moe.num_experts"] for row in table.rows if row.violates} == {6, 8}
    told = {row.params["moe.num_experts"]: row.violates for row in table.rows}
    assert told[6] == f"{DEAD_EXPERTS} 0.5, at most 0", "by the mean over seeds"
    assert metrics(launch, table)[f"best/{VAL_LOSS}"] == table.rows[0].mean
    assert as_json(table)["rows"][-1]["violates"]
    for text in (render(table, "markdown"), render_report(launch, own)):
        assert f"{VIOLATES} Violates a constraint ({DEAD_EXPERTS} at most 0; {LOAD_ENTROPY}" in text
        assert f"{DEAD_EXPERTS} 2, at most 0" in text
    assert r"$^{\ddagger}$ violates a constraint" in render(table, "latex")
    note = _dashboard(home, f"/api/studies/{launch.info.study_id}")["note"]["body"]
    assert f"{VIOLATES} Violates a constraint" in note
    client = connect(home.mlflow_uri)
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    notes = [run.data.tags.get("mlflow.note.content", "") for run in runs]
    assert sum(f"{VIOLATES} Violates a constraint" in note for note in notes) == 1


def test_a_kill_changes_nothing_of_the_search(hold, study, tmp_path, mlflow_template):
    study, found = dataclasses.replace(study, trials=10), {}
    for name, kills in (("whole", ()), ("killed", (3, 5))):
        (tmp_path / name).mkdir()
        shutil.copy(mlflow_template, tmp_path / name / "mlflow.db")
        options = {"home": Home(tmp_path / name)}
        for most in (*kills, None):
            with hold(study, options=options) as session:
                work(session, most)
                session.ledger.next()  # handed out, and lost
        storage = optuna.storages.get_storage(Home(tmp_path / name).optuna_storage)
        (theirs,) = storage.get_all_studies()
        trials = optuna.load_study(study_name=theirs.study_name, storage=storage).trials
        found[name] = [(t.params, t.user_attrs["seed"], t.state, t.constraints) for t in trials]
    assert found["killed"] == found["whole"]
    assert len(found["whole"]) == 20


def test_no_finalist_violates_and_who_does_on_fresh_seeds_leaves(hold, study):
    """Four experts die on fresh seeds alone: nobody could know from the search."""

    def later(point, seed):
        found = outcome(point, seed)
        dies = point["moe.num_experts"] == 4 and seed >= 1000
        return found | {DEAD_EXPERTS: 3.0 if dies else found[DEAD_EXPERTS]}

    race = {"recommending": Asked(trainings=16)}
    with hold(study) as session:
        work(session)
    with hold(study, options=race) as session:
        work(session, 3, later)
    with hold(study, options=race) as session:  # the same goes on
        work(session, None, later)
        fresh = [record for record in session.records if is_fresh(record)]
        told = _recommendation(session)
        assert work(session) == 0, "over"
    assert {experts(record) for record in fresh} <= {2, 4}
    answer = told.as_json()
    assert answer["is_over"]
    assert answer["winner"]["params"]["moe.num_experts"] == 2
    why = [one["why"] for one in answer["finalists"] if one["params"]["moe.num_experts"] == 4]
    assert why
    assert all(f"violates {DEAD_EXPERTS} 1, at most 0, over 3 seeds" in text for text in why)


def test_nothing_is_recommended_where_the_winner_violates_in_the_end(hold, study):
    def in_the_end(point, seed):
        return outcome(point, seed) | {DEAD_EXPERTS: 9.0 if seed >= 2000 else 0.0}

    with hold(study) as session:
        work(session, outcome=in_the_end)
    with hold(study, options={"recommending": Asked(trainings=12)}) as session:
        work(session, outcome=in_the_end)
        told = _recommendation(session)
        assert session.race.is_over
    assert told.as_json()["winner"] is None
    (line,) = told.lines()
    assert line.startswith("nothing is recommended: N8")
    assert f"won the race, and violates {DEAD_EXPERTS}" in line


def test_too_few_that_satisfy_are_no_race(hold, study):
    with hold(study) as session:
        work(session, outcome=lambda p, s: outcome(p, s) | {DEAD_EXPERTS: 1.0})
    with (
        pytest.raises(BadInput, match="with 0, and 8 more that violate a constraint"),
        hold(study, options={"recommending": Asked(trainings=12)}) as session,
    ):
        session.ledger.next()


def test_rows_of_a_grid_are_marked_and_the_best_is_among_the_others(hold, grid_study, home):
    study = dataclasses.replace(grid_study, constraints=[ALIVE], seeds=(0, 1, 2))
    losses = {"learned": 2.0, "frozen": 3.0, "dense": 4.0}

    with hold(study) as session:
        while (assignment := session.ledger.next()) is not None:
            cell, seed = assignment.point.cell, assignment.point.seed
            session.ledger.started(assignment.record.number)
            entry = {"step": 8, "tokens": 1024, "timestamp_ms": 1000}
            entry[VAL_LOSS] = losses[cell] + 0.001 * seed * len(cell)
            if cell != "dense":
                entry[DEAD_EXPERTS] = float(cell == "learned")
            session.ledger.completed(assignment.record.number, entry, tokens=1024)
    table = read_launch(study.name, home=home).table(study)
    rows = {row.cell: row for row in table.rows}
    assert list(rows) == ["dense", "learned", "frozen"], "a grid keeps its order"
    assert rows["learned"].violates == f"{DEAD_EXPERTS} 1, at most 0"
    assert not rows["dense"].violates, "it has no experts that could be dead"
    assert [cell for cell, row in rows.items() if row.is_best] == ["frozen"]


def test_another_home_has_them_too(hold, study, home, tmp_path, mlflow_template):
    with hold(study, trials=3) as session:
        work(session)
    launch = read_launch(study.name, home=home)
    path = tmp_path / "a.moe-study"
    container.write(path, pack(export_launch(launch, connect(home.mlflow_uri))))
    other = Home(tmp_path / "other")
    other.root.mkdir()
    shutil.copy(mlflow_template, other.root / "mlflow.db")
    import_launch(read(path), other, say=print)
    both = [
        optuna.load_study(study_name=launch.info.name, storage=h.optuna_storage).trials
        for h in (home, other)
    ]
    assert [t.constraints for t in both[0]] == [t.constraints for t in both[1]]
    assert both[0][0].constraints
    assert [r.violates for r in read_launch(study.name, home=other).trials] == [
        r.violates for r in launch.trials
    ]


def test_a_launch_keeps_its_constraints(hold, study, home):
    with hold(study, trials=1) as session:
        work(session)
    for changed in ((), (ALIVE,), (ALIVE, Constraint(LOAD_ENTROPY, at_least=0.6))):
        with (
            pytest.raises(BadInput, match="keeps the constraints that it was begun with"),
            hold(dataclasses.replace(study, constraints=changed)),
        ):
            pass
    with hold(dataclasses.replace(study, constraints=[EVEN, ALIVE])) as session:
        assert session.records, "their order says nothing"


def test_a_study_without_them_says_nothing_of_them(hold, study, home):
    with hold(dataclasses.replace(study, constraints=()), trials=1) as session:
        work(session)
        theirs = session.search.study
    assert "constraints" not in theirs.user_attrs
    assert all(not trial.system_attrs for trial in theirs.trials)
    text = render(read_launch(study.name, home=home).table(study), "markdown")
    assert "onstraint" not in text


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Constraint("router/dead_expert", at_most=0), "Did you mean router/dead_experts"),
        (lambda: Constraint(DEAD_EXPERTS), r"has one bound, .* received at_most=None"),
        (lambda: Constraint(DEAD_EXPERTS, at_most=0, at_least=0), "has one bound"),
        (lambda: Constraint(DEAD_EXPERTS, at_most=float("nan")), "a finite number"),
        (lambda: Constraint(DEAD_EXPERTS, at_most="0"), "a finite number"),
        (lambda: Constraint("test/loss", at_most=3), "nothing goes by the test split"),
        (lambda: Constraint("flops_per_token", at_most=3), "Write a Rule of the space"),
        (lambda: Constraint("params_active", at_most=3), "Write a Rule of the space"),
        (lambda: Constraint("memory", at_most=3), "Write a Rule of the space"),
        (lambda: Constraint([], at_most=3), r"text; received \[\]"),
    ],
)
def test_what_is_no_constraint_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_constraints_are_a_list_each_once(study):
    for wrong in (ALIVE, [DEAD_EXPERTS], (ALIVE, ALIVE)):
        with pytest.raises(ValueError, match="study tiny-search: constraints is a list of"):
            dataclasses.replace(study, constraints=wrong)


def test_one_that_bounds_nothing_is_said(corpus, study):
    dropped = Constraint("router/dropped", at_most=0.1)
    launch = resolve(dataclasses.replace(study, constraints=[dropped, ALIVE]), corpus_spec=corpus)
    (line,) = [line for line in cautions(launch) if "bounds nothing" in line]
    part = Constraint("val/loss/part:code", at_most=2.5)
    one_text = resolve(dataclasses.replace(study, constraints=[part]), corpus_spec=corpus)
    assert any(f"{part} bounds nothing" in line for line in cautions(one_text))
    mixed = resolve(
        dataclasses.replace(study, constraints=[Constraint("val/loss/part:stdlib", at_most=2.5)]),
        corpus_spec=f"mix:{corpus}=1,stdlib=1",
    )
    assert not any("bounds nothing" in line for line in cautions(mixed))
    assert line.startswith("the constraint router/dropped at most 0.1 bounds nothing: none of ")
    grid = Study(
        name="g", question="?", baseline="a", held_fixed="?", scales={"smoke": TINY},
        cells=[Cell(name="a", overrides={"moe.num_experts": 0})], constraints=[ALIVE],
    )  # fmt: skip
    (line,) = cautions(resolve(grid, corpus_spec=corpus))
    assert line.endswith("bounds nothing: no cell has that metric")
