"""A warm start: earlier launches tell the sampler what is worth a try, and count nowhere."""

from __future__ import annotations

import dataclasses
import json
import shutil

import optuna
import pytest
from optuna_dashboard._note import get_note_from_system_attrs

from moe.metrics import VAL_BITS_PER_BYTE, VAL_LOSS
from orchestrator.base.errors import BadInput
from orchestrator.base.home import Home
from orchestrator.report.records import read_launch
from orchestrator.stores.optuna_launches import WARM_START
from orchestrator.study.constraints import Constraint
from orchestrator.study.resolve import resolve
from orchestrator.surrogate.earlier_searches import WEIGHT
from orchestrator.trials.search_state import Search
from search_spaces.domains import Choice, Float
from search_spaces.overlay import overlay
from search_spaces.space import Space
from tests.fixtures.studies import TINY, search_file

SPACE = Space(
    axes={
        "moe.num_experts": Choice((2, 4, 6, 8)),
        "moe.top_k": Choice((1, 2)),
        "optim.learning_rate": Float(low=1e-4, high=1e-1, log=True),
    }
)
DEAD = "router/dead_experts"
SCALES = {"smoke": TINY, "wide": overlay(TINY, {"model.d_ff": 64})}


@pytest.fixture
def study(sampled_study):
    return dataclasses.replace(
        sampled_study, space=SPACE, scales=SCALES, trials=10, early_stopping=None
    )


@pytest.fixture
def warm(study):
    return dataclasses.replace(study, name="warm", warm_start=True, trials=8)


def loss_of(values):
    """Best at eight experts, two chosen."""
    return 3.0 - 0.1 * values["moe.num_experts"] - 0.2 * (values["moe.top_k"] == 2)


def work(session, most=None, loss=loss_of, dead=lambda values: 0.0):
    done = 0
    while (most is None or done < most) and (assignment := session.ledger.next()) is not None:
        session.ledger.started(assignment.record.number)
        entry = {"step": 8, "tokens": 1024, "timestamp_ms": 1000}
        entry[VAL_LOSS] = loss(assignment.point.overrides)
        entry[DEAD] = dead(assignment.point.overrides)
        session.ledger.completed(assignment.record.number, entry, tokens=1024)
        done += 1
    return done


def points(session):
    return [dict(record.params) for record in session.records]


def as_optuna_has(home, name):
    return optuna.load_study(study_name=name, storage=f"sqlite:///{home.root}/optuna.db")


@pytest.mark.parametrize("sampler", ["gp", "tpe"])
def test_the_same_points_after_a_kill_whatever_earlier_launches_do_since(
    study, warm, hold, tmp_path, mlflow_template, sampler
):
    found = {}
    for name, kills in (("whole", ()), ("killed", (0, 3, 1))):
        (tmp_path / name).mkdir()
        shutil.copy(mlflow_template, tmp_path / name / "mlflow.db")
        options = {"home": Home(tmp_path / name)}
        with hold(study, scale="wide", options=options) as session:
            work(session)
            before, hashes = session.launch.name, {r.config_hash for r in session.records}
        for most in kills:
            with hold(warm, sampler=sampler, options=options) as session:
                work(session, most)
                session.ledger.next()  # handed out, and lost
            with hold(study, scale="wide", trials=11 + most, options=options) as session:
                work(session, loss=lambda values: 9.0)
        with hold(warm, sampler=sampler, options=options) as session:
            work(session)
            (told,) = session.launch.earlier
            assert told.launch == before
            assert len(told.seen) == 10
            assert max(one.cost for one in told.seen) < 9
            assert set(session.info.attributes[WARM_START][before]["trials"]) == hashes
            found[name] = points(session)
    assert found["whole"] == found["killed"]
    assert len(found["whole"]) == 8


def test_it_is_told_of_and_counts_nowhere(study, warm, hold, home, said, moe_study, tmp_path):
    with hold(study) as session:
        work(session)
        before = session.launch.name
    with hold(warm) as session:
        work(session)
        name = session.launch.name
        assert loss_of(points(session)[0]) <= 2.2, "the first point is one that was good before"
    (line,) = [line for line in said if line.startswith("warm start: ")]
    assert before in line
    assert "(10 trials)" in line
    stored = as_optuna_has(home, name)
    assert len(stored.trials) == 8
    notes = session.search.study_attributes()
    note = get_note_from_system_attrs(notes, None)["body"]
    assert f"told of {before} (10 trials)" in note
    launch = read_launch("warm", home=home)
    table = launch.table(warm)
    assert sum(row.n for row in table.rows) == 8
    assert any(before in text and "none of these trials counts" in text for text in table.origin)
    assert any(text.startswith(f"Order here and in {before}: ") for text in table.origin)


def test_a_home_without_any_starts_cold_and_stays_so(study, warm, hold, said, corpus):
    with hold(warm) as session:
        work(session, 2)
        assert session.launch.earlier == ()
        assert session.info.attributes[WARM_START] == {}
    assert any("the search starts cold" in line for line in said)
    with hold(study) as session:
        work(session)
    with hold(warm) as session:
        work(session)
        drawn = points(session)
        name = session.launch.name
    cold = dataclasses.replace(warm, warm_start=False)
    launch = resolve(cold, corpus_spec=corpus)
    assert launch.name == name, "a warm start is no part of a launch's name"
    assert len(drawn) == 8


def test_other_axes_domains_metrics_and_few_points_are_not_told(study, warm, hold, said):
    domain = {**SPACE.axes, "optim.learning_rate": Float(low=1e-4, high=1e-2, log=True)}
    fewer = {path: domain for path, domain in SPACE.axes.items() if path != "moe.top_k"}
    others = {
        "domain": dataclasses.replace(study, name="domain", space=Space(axes=domain)),
        "axes": dataclasses.replace(study, name="axes", space=Space(axes=fewer)),
        "few": dataclasses.replace(study, name="few", trials=4),
    }
    for other in others.values():
        with hold(other) as session:
            work(session, loss=lambda values: 2.0 + values["optim.learning_rate"])
    with hold(
        dataclasses.replace(study, name="bits", metric=VAL_BITS_PER_BYTE), trials=6
    ) as session:
        while (assignment := session.ledger.next()) is not None:
            session.ledger.started(assignment.record.number)
            entry = {"step": 8, "tokens": 1024, "timestamp_ms": 1000, VAL_LOSS: 2.0}
            entry[VAL_BITS_PER_BYTE] = assignment.point.overrides["optim.learning_rate"]
            session.ledger.completed(assignment.record.number, entry, tokens=1024)
    with hold(warm) as session:
        assert session.info.attributes[WARM_START] == {}
    with hold(study) as session:
        work(session)
    with hold(dataclasses.replace(warm, name="later")) as session:
        (told,) = session.launch.earlier
        assert told.launch.startswith("tiny-search/")


def test_a_trial_that_still_runs_is_not_told(study, warm, hold):
    with hold(study) as session:
        work(session, 6)
        session.ledger.next()
    with hold(warm) as session:
        (told,) = session.launch.earlier
        assert len(told.seen) == 6
        (kept,) = session.info.attributes[WARM_START].values()
        assert len(kept["trials"]) == len(kept["costs"]) == 6


def test_a_misleading_launch_is_let_go(study, warm, hold):
    with hold(study) as session:
        work(session, loss=lambda values: -loss_of(values))
    with hold(warm) as session:
        work(session)
        search = Search(
            space=SPACE,
            records=session.records,
            earlier=session.launch.earlier,
            is_open=lambda values: True,
        )
        assert search.told.weight < WEIGHT / 4
        assert min(loss_of(values) for values in points(session)) <= 2.1


def test_earlier_trials_are_measured_by_this_studys_constraints(study, warm, hold):
    """The best of a launch that had none kills experts: it is not what this one begins with."""
    bounds = (Constraint(DEAD, at_most=0), Constraint(VAL_LOSS, at_most=4))
    bounded = dataclasses.replace(warm, constraints=bounds)
    with hold(dataclasses.replace(study, trials=16)) as session:
        work(session, dead=lambda values: 3.0 * (values["moe.num_experts"] == 8))
    with hold(bounded) as session:
        (told,) = session.launch.earlier
        kills = [one.values["moe.num_experts"] == 8 for one in told.seen]
        assert [one.excess[0] for one in told.seen] == [3.0 * killed for killed in kills]
        assert {one.excess[1] > 0 for one in told.seen} == {False}
        assert 0 < sum(kills) < 16
        work(session, 1)
        assert points(session)[0]["moe.num_experts"] != 8
        fixed = session.info.attributes[WARM_START]
        search = Search(space=SPACE, records=[], earlier=(told,), is_open=lambda values: True)
        shown = search.as_optuna_study(optuna.samplers.RandomSampler()).trials
        assert all(
            (t.system_attrs["constraints"][0] > 0) == (t.params["moe.num_experts"] == 3)
            for t in shown
        ), "by rank, tpe is told so too"
    turned = dataclasses.replace(bounded, constraints=bounds[::-1])
    with hold(turned) as session:
        assert session.info.attributes[WARM_START] == fixed
        (again,) = session.launch.earlier
        assert [one.excess[::-1] for one in again.seen] == [one.excess for one in told.seen]
        older = {name: {key: of[key] for key in ("trials", "costs")} for name, of in fixed.items()}
        session.search.keep(WARM_START, older)
    with hold(bounded) as session:
        (before,) = session.launch.earlier
        assert {one.excess for one in before.seen} == {None}, "a record of before reads as it did"
        assert [one.cost for one in before.seen] == [one.cost for one in told.seen]


def test_what_cannot_be_told_is_refused_with_the_reason(study, warm, grid_study, corpus):
    for sampler in ("random", "qmc", "nsga2"):
        with pytest.raises(BadInput, match=f"samplers gp and tpe.*where {sampler} draws"):
            resolve(warm, corpus_spec=corpus, sampler=sampler)
    optunas = dataclasses.replace(warm, sampler=optuna.samplers.GPSampler())
    with pytest.raises(BadInput, match="where GPSampler draws"):
        resolve(optunas, corpus_spec=corpus)
    with pytest.raises(BadInput, match="--warm-start is for sampled studies"):
        resolve(grid_study, corpus_spec=corpus, warm_start=True)
    with pytest.raises(ValueError, match="warm_start is for sampled studies; received it for the"):
        dataclasses.replace(grid_study, warm_start=True)
    texts = {**SPACE.axes, "data.corpus": Choice((corpus, "stdlib"))}
    several = dataclasses.replace(warm, space=Space(axes=texts))
    with pytest.raises(BadInput, match="a warm start is of a search on one text"):
        resolve(several)
    assert resolve(study, corpus_spec=corpus, warm_start=True).is_warm_started
    assert not resolve(study, corpus_spec=corpus).is_warm_started


FILE = search_file(trials=6)


def test_plan_tells_what_run_will_and_creates_nothing(
    home, corpus, moe_study, tmp_path, monkeypatch
):
    monkeypatch.setattr("orchestrator.driver.tune_loop.run", work)
    monkeypatch.setattr("orchestrator.driver.publish.publish", lambda session: None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(FILE)
    where = ("--home", home.root, "--corpus", corpus)
    code, out, _ = moe_study("plan", "mine.py", *where, "--warm-start")
    assert code == 0
    assert "the search starts cold" in out
    assert not (home.root / "optuna.db").exists()
    assert moe_study("run", "mine.py", *where)[0] == 0
    again = ("--warm-start", "--set", "train.num_steps=16")
    code, out, _ = moe_study("plan", "mine.py", *where, *again, "--json")
    planned = json.loads(out)
    assert code == 0
    (name,) = planned["warm_start"]
    assert len(planned["warm_start"][name]["trials"]) == 6
    code, out, err = moe_study("run", "mine.py", *where, *again, "--json")
    assert code == 0, err
    assert f"told of {name} (6 trials)" in err
    assert len(json.loads(out)["trials"]) == 6
    code, out, _ = moe_study("table", "mine.py", *where, "--set", "train.num_steps=16")
    assert code == 0
    assert "none of these trials counts here" in out
