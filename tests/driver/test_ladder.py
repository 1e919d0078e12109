"""A ladder: the best points of one scale are trained at the next, and the ranks are compared."""

from __future__ import annotations

import dataclasses
import json
import shutil

import optuna
import pytest

from moe.metrics import VAL_LOSS
from orchestrator.base.errors import BadInput
from orchestrator.base.home import Home
from orchestrator.driver.ladder import known_pairs
from orchestrator.driver.recommending import Asked
from orchestrator.report.records import read_launch
from orchestrator.stores.optuna_launches import LADDER, POINTS_ASKED
from orchestrator.study.library import load_study
from orchestrator.study.resolve import resolve
from search_spaces.domains import Choice
from search_spaces.overlay import overlay
from search_spaces.space import Rule, Space
from tests.fixtures.studies import TINY, search_file

SCALES = {
    "smoke": TINY,
    "wide": overlay(TINY, {"model.d_ff": 64}),
    "long": overlay(TINY, {"train.num_steps": 16}),
}


def space_over(base):
    """At the wide scale, what has eight experts and two chosen does not fit."""
    axes = {
        "moe.num_experts": (2, 4, 6, 8),
        "moe.top_k": (1, 2),
        "moe.router": ("frozen", "random"),
    }

    def fits(config):
        return base.model.d_ff == 32 or config.moe.num_experts * config.moe.top_k < 16

    return Space(
        axes={path: Choice(values) for path, values in axes.items()},
        rules=(Rule(holds=fits, reason="it does not fit"),),
    )


@pytest.fixture
def study(sampled_study):
    return dataclasses.replace(
        sampled_study,
        space=space_over,
        scales=SCALES,
        trials=10,
        ladder=("smoke", "wide", "long"),
        ladder_points=4,
        scale_seeds={"wide": (5, 6)},
    )


def loss_of(values, seed=0):
    """More experts are better, two chosen as well; seeds move less than any axis does."""
    experts, k = values["moe.num_experts"], values["moe.top_k"]
    noise = 0.0005 * ((seed * 7919 + experts * 31 + k) % 11)
    return 3.0 - 0.1 * experts - 0.15 * (k == 2) + 0.02 * (values["moe.router"] == "random") + noise


def work(session, most=None, loss=loss_of):
    done = 0
    while (most is None or done < most) and (assignment := session.ledger.next()) is not None:
        session.ledger.started(assignment.record.number)
        entry = {"step": session.launch.base.train.num_steps, "tokens": 1024, "timestamp_ms": 1000}
        entry[VAL_LOSS] = loss(assignment.point.overrides, assignment.point.seed)
        session.ledger.completed(assignment.record.number, entry, tokens=1024)
        done += 1
    return done


def ranked(session):
    points = {r.cell_hash: dict(r.params) for r in session.records}
    return sorted(points.values(), key=loss_of)


def test_the_best_that_can_be_run_are_trained_at_the_next_rung_with_its_own_seeds(
    study, hold, said, home
):
    with hold(study) as session:
        work(session)
        below, best = session.launch.name, ranked(session)
    said.clear()
    with hold(study, scale="wide") as session:
        assert work(session) == 8
        assert {record.seed for record in session.records} == {5, 6}
        points = [dict(r.params) for r in session.records if r.seed == 5]
        kept = session.info.attributes[LADDER]
        assert session.launch.study.early_stopping is None
        assert session.exit_code == 0
    fits = [p for p in best if p["moe.num_experts"] * p["moe.top_k"] < 16]
    assert len(fits) < len(best), "some do not fit"
    assert {loss_of(p) for p in points} == {loss_of(p) for p in fits[:4]}
    assert kept["from"] == below
    assert kept["points"] == points
    assert all("it does not fit" in line for line in kept["passed_over"])
    assert len(kept["passed_over"]) >= 1
    assert any("passed over, since it cannot be run at this scale" in line for line in said)
    (line,) = [line for line in said if f"the best 4 points of {below}" in line]
    assert all(record.cell in line for record in session.records)
    launch = read_launch(study.name, home=home, scale="wide")
    order = [text for text in launch.table(study).origin if text.startswith("Order here and in")]
    assert len(order) == 1
    assert f"{below}: Kendall's tau 1.00 [" in order[0]
    assert "over the 4 points that both ran" in order[0]
    (note,) = launch.judgement(study).notes
    assert note.startswith("points were chosen by values at the rung smoke, and none by these")


def test_a_kill_and_what_the_lower_rung_does_since_change_nothing(
    study, hold, tmp_path, mlflow_template
):
    found = {}
    for name, kills in (("whole", ()), ("killed", (0, 3))):
        (tmp_path / name).mkdir()
        shutil.copy(mlflow_template, tmp_path / name / "mlflow.db")
        options = {"home": Home(tmp_path / name)}
        with hold(study, options=options) as session:
            work(session)
        for most in kills:
            with hold(study, scale="wide", options=options) as session:
                work(session, most)
                session.ledger.next()  # handed out, and lost
            with hold(study, trials=12 + most, options=options) as session:
                work(session, loss=lambda values, seed: -loss_of(values))
        with hold(study, scale="wide", options=options) as session:
            work(session)
            found[name] = [(dict(r.params), r.seed, r.state) for r in session.records]
    assert found["whole"] == found["killed"]


def test_more_points_may_climb_later_and_a_third_rung_takes_those_of_the_second(study, hold):
    with hold(study) as session:
        work(session)
    with hold(study, scale="wide", trials=2) as session:
        work(session)
        first = session.info.attributes[LADDER]["points"]
    with hold(study, scale="wide", trials=5) as session:
        assert work(session) == 6
        grown = session.info.attributes[LADDER]["points"]
    assert len(first) == 2
    assert grown[:2] == first
    assert len(grown) == 5
    with hold(study, scale="long", trials=3) as session:
        assert work(session) == 3
        kept = session.info.attributes[LADDER]
    assert "/wide/" in kept["from"]
    assert all(point in grown for point in kept["points"])


def test_a_race_at_the_lower_rung_is_part_of_what_is_known(study, hold):
    """Fresh seeds say that what looked best is bad: it does not climb."""
    study = dataclasses.replace(study, ladder=("smoke", "long"))
    with hold(study) as session:
        work(session)
        looked = ranked(session)[0]
    turned = lambda values, seed: loss_of(values) + 5.0 * (values == looked)  # noqa: E731
    with hold(study, options={"recommending": Asked(trainings=12)}) as session:
        work(session, loss=turned)
        assert session.race.is_over
    with hold(study, scale="long", trials=3) as session:
        points = session.info.attributes[LADDER]["points"]
    assert len(points) == 3
    assert looked not in points


def test_without_a_finished_launch_below_it_is_refused_and_nothing_made(
    study, hold, home, corpus, tmp_path
):
    empty = {"home": Home(tmp_path / "none")}
    refused = pytest.raises(BadInput, match=r"this home has none\. Run that first, .*--scale smoke")
    with refused, hold(study, scale="wide", options=empty):
        pass
    assert not (tmp_path / "none").exists()
    with hold(study) as session:
        work(session, 4)
        session.ledger.next()
    refused = pytest.raises(BadInput, match="is not finished: 1 of its trials wait or run")
    with refused, hold(study, scale="wide"):
        pass
    with hold(study, trials=14) as session:
        work(session, 2)
    refused = pytest.raises(BadInput, match="is not finished: it has 6 of 14 points")
    with refused, hold(study, scale="wide"):
        pass
    other = dataclasses.replace(study, name="other")
    with pytest.raises(BadInput, match="this home has no such launch"), hold(other, scale="wide"):
        pass


def test_a_search_is_finished_with_the_points_that_were_asked_for(study, hold, home):
    """By `--trials` or by the file; `recommend`, which asks for none, changes nothing of it."""
    with hold(study, trials=6, sampler="random") as session:
        work(session)
    with hold(study, draws=False, options={"recommending": Asked(trainings=6)}) as session:
        assert session.info.attributes["sampler"] == "random"
    with hold(study, scale="wide") as session:
        assert work(session) == 8
    search = optuna.load_study(
        study_name=session.info.attributes[LADDER]["from"], storage=home.optuna_storage
    )
    assert search.user_attrs[POINTS_ASKED] == 6
    search.set_user_attr(POINTS_ASKED, None)
    shorter = dataclasses.replace(study, ladder=("smoke", "long"))
    refused = pytest.raises(BadInput, match="it has 6 of 10 points")
    with refused, hold(shorter, scale="long"):
        pass


def test_options_of_drawing_are_refused_where_nothing_is_drawn(study, corpus):
    for given, option in (({"sampler": "gp"}, "--sampler gp"), ({"warm_start": True}, "--warm-st")):
        with pytest.raises(BadInput, match=f"nothing is drawn.*received {option}.*--scale smoke"):
            resolve(study, corpus_spec=corpus, scale="wide", **given)
        assert resolve(study, corpus_spec=corpus, **given)


def test_rungs_are_scales_of_a_sampled_study_two_at_least_each_once(study, grid_study, corpus):
    for rungs, why in (
        (("smoke", "wid"), "received 'wid' of tiny-search. Did you mean wide"),
        (("smoke",), "two different rungs at least"),
        (("smoke", "wide", "smoke"), "two different rungs at least"),
        ("smoke", "ladder holds names of scales"),
        (3, "ladder holds names of scales"),
    ):
        with pytest.raises(ValueError, match=why):
            dataclasses.replace(study, ladder=rungs)
    with pytest.raises(ValueError, match="ladder_points is how many points climb"):
        dataclasses.replace(study, ladder_points=0)
    with pytest.raises(ValueError, match="climbed by the best points of a search"):
        dataclasses.replace(grid_study, ladder=("smoke", "smoke"))
    texts = {**space_over(TINY).axes, "data.corpus": Choice(("stdlib", corpus))}
    several = dataclasses.replace(study, space=Space(axes=texts))
    with pytest.raises(BadInput, match="a rung of a ladder is of a search on one text"):
        resolve(several, scale="wide")
    assert study.rung_below("smoke") is None
    assert (study.rung_below("wide"), study.rung_above("wide")) == ("smoke", "long")
    assert study.rung_above("long") is None


def test_the_lowest_rung_is_a_search_as_it_was(study, corpus):
    plain = dataclasses.replace(study, ladder=(), ladder_points=5)
    here, there = (resolve(s, corpus_spec=corpus) for s in (study, plain))
    assert here.name == there.name
    assert here.trials == there.trials == 10
    assert here.study.early_stopping == there.study.early_stopping
    assert here.rung_below is None
    above = resolve(study, corpus_spec=corpus, scale="wide")
    assert above.trials == 4
    assert above.sampler_line is None


FILE = search_file(
    trials=8,
    scales='{"smoke": TINY, "wide": overlay(TINY, {"model.d_ff": 64})}',
    more='ladder=("smoke", "wide"), ladder_points=3,',
)


@pytest.mark.parametrize("is_elsewhere", [False, True], ids=["in-the-home", "elsewhere"])
def test_plan_tells_the_points_and_what_is_known_of_both_rungs_before_anything_is_spent(
    home, corpus, moe_study, tmp_path, monkeypatch, is_elsewhere
):
    monkeypatch.setattr("orchestrator.driver.tune_loop.run", work)
    monkeypatch.setattr("orchestrator.driver.publish.publish", lambda session: None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(FILE)
    where = ("--home", home.root, "--corpus", corpus)
    if is_elsewhere:
        where += ("--optuna-storage", f"sqlite:///{tmp_path}/elsewhere.db")
    code, out, _ = moe_study("plan", "mine.py", *where, "--scale", "wide")
    assert code == 0
    assert "Run that first, to its end" in out
    assert "nothing is known yet of whether ranks at smoke hold at wide" in out
    code, _, err = moe_study("run", "mine.py", *where, "--scale", "wide")
    assert code == 2
    assert "Run that first, to its end" in err
    assert moe_study("run", "mine.py", *where)[0] == 0
    code, out, _ = moe_study("plan", "mine.py", *where, "--scale", "wide", "--json")
    planned = json.loads(out)
    assert planned["trials"] == 3
    assert planned["ladder"]["refused"] is None
    assert planned["ladder"]["agreement"] == []
    assert planned["ladder"]["from"].startswith("mine/smoke/")
    points = planned["ladder"]["points"]
    assert len(points) == 3
    code, out, err = moe_study("run", "mine.py", *where, "--scale", "wide", "--json")
    assert code == 0, err
    assert [trial["params"] for trial in json.loads(out)["trials"]] == points
    code, out, _ = moe_study("plan", "mine.py", *where, "--scale", "wide", "--trials", "4")
    assert code == 0
    assert "Kendall's tau 1.00 [" in out
    assert "over the 3 points that both ran" in out


def test_a_recommendation_names_the_next_rung(home, corpus, moe_study, tmp_path, monkeypatch):
    monkeypatch.setattr("orchestrator.driver.tune_loop.run", work)
    monkeypatch.setattr("orchestrator.driver.publish.publish", lambda session: None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(FILE)
    where = ("--home", home.root, "--corpus", corpus)
    assert moe_study("run", "mine.py", *where)[0] == 0
    more = ("--trainings", "8", "--write-study", "next.py")
    code, _, err = moe_study("recommend", "mine.py", *where, *more)
    assert code == 0, err
    assert "next: moe-study run mine.py --scale wide --corpus" in err
    assert ", the next rung of its ladder" in err
    assert load_study("next.py").default_scale == "wide"


def test_pairs_are_of_one_study_and_the_two_rungs(study, hold, home, corpus):
    for scale in ("smoke", "wide"):
        with hold(study, scale=scale) as session:
            work(session)
    with hold(dataclasses.replace(study, name="other", ladder=(), ladder_points=5)) as session:
        work(session)
    launch = resolve(study, corpus_spec=corpus, scale="wide")
    (pair,) = known_pairs(launch, home, home.optuna_storage)
    assert pair.below.startswith("tiny-search/smoke/")
    assert pair.above.startswith("tiny-search/wide/")
    assert pair.agreement.n == 4
    third = resolve(study, corpus_spec=corpus, scale="long")
    assert known_pairs(third, home, home.optuna_storage) == []
