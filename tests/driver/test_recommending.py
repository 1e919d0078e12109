"""A search that ends in a recommendation: fresh seeds of its best points, the same after a kill."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil

import pytest

from moe.metrics import VAL_LOSS
from orchestrator.archive.archived_launch import read
from orchestrator.base.errors import BadInput
from orchestrator.base.home import Home
from orchestrator.cli.recommend_command import _recommendation
from orchestrator.driver.recommending import Asked, best_points, require_raceable
from orchestrator.report.follow_up import require_new
from orchestrator.report.race import CONFIRM_SEEDS, RACE_SEEDS, is_fresh, searched
from orchestrator.report.recommendation_text import finalist_rows, lines_of
from orchestrator.stores.optuna_launches import RECOMMENDATION
from orchestrator.study.library import load_study
from orchestrator.study.resolve import resolve
from search_spaces.domains import Choice
from search_spaces.space import Space
from tests.fixtures.studies import search_file

RACE = {"recommending": Asked(trainings=8)}


@pytest.fixture
def study(sampled_study):
    return dataclasses.replace(sampled_study, trials=8, early_stopping=None)


def loss_of(point, seed):
    """Eight experts, two chosen, is the best by 0.2; seeds move it by up to 0.05."""
    experts, k = point["moe.num_experts"], point["moe.top_k"]
    noise = 0.05 * ((seed * 7919 + experts * 31 + k) % 11 - 5) / 5
    return 2.0 + 0.2 * (experts != 8) + 0.1 * (k != 2) + noise


def work(session, most=None):
    done = 0
    while (most is None or done < most) and (assignment := session.ledger.next()) is not None:
        number, point = assignment.record.number, assignment.point
        session.ledger.started(number)
        value = loss_of(point.overrides, point.seed)
        entry = {"step": 8, "tokens": 1024, "timestamp_ms": 1000, VAL_LOSS: value}
        session.ledger.completed(number, entry, tokens=1024)
        done += 1
    return done


def fresh(session):
    return sorted((r.cell, r.seed, r.state) for r in session.records if is_fresh(r))


def test_the_best_points_are_raced_on_fresh_seeds_and_a_kill_changes_nothing(
    hold, study, tmp_path, mlflow_template
):
    found = {}
    for name, kills in (("whole", []), ("killed", [2])):
        (tmp_path / name).mkdir()
        shutil.copy(mlflow_template, tmp_path / name / "mlflow.db")
        options = {"home": Home(tmp_path / name)}
        with hold(study, options=options) as session:
            assert work(session) == 8
        for most in kills:
            with hold(study, options={**options, **RACE}) as session:
                work(session, most)
                session.ledger.next()  # handed out, and lost
        with hold(study, options={**options, **RACE}) as session:
            work(session)
            assert session.race.is_over
            found[name] = fresh(session), _recommendation(session)
            assert work(session) == 0, "over"
    with hold(study, options=options) as session:
        assert work(session) == 0, "run finds nothing to do beside it"
        assert session.exit_code == 0
    assert found["whole"][0] == found["killed"][0]
    trials, told = found["whole"]
    assert len(trials) <= 8
    assert {seed for _, seed, _ in trials} >= {RACE_SEEDS, RACE_SEEDS + 1, CONFIRM_SEEDS}
    answer = told.as_json()
    assert answer == found["killed"][1].as_json()
    assert answer["winner"]["params"]["moe.num_experts"] == 8
    assert answer["winner"]["confirmed"]["n"] == 2
    assert answer["winner"]["confirmed"]["metric"] == VAL_LOSS
    assert any("seeds that nothing was chosen by" in line for line in told.lines())
    json.dumps(answer, allow_nan=False)


def test_what_cannot_be_raced_is_refused_before_anything_is_made(
    study, grid_study, corpus, moe_study, tmp_path
):
    with pytest.raises(BadInput, match="a recommendation is of a search; received the grid"):
        require_raceable(resolve(grid_study, corpus_spec=corpus))
    with pytest.raises(BadInput, match="seeds 1000 to 2999 are those of the race"):
        require_raceable(resolve(study, corpus_spec=corpus, seeds=(0, 1001)))
    with pytest.raises(BadInput, match=r"--share, .* received 1"):
        Asked(share=1.0)
    new_home = tmp_path / "none"
    code, out, _ = moe_study("recommend", "search", "--home", new_home, "--corpus", corpus)
    assert (code, out) == (2, "")
    assert not new_home.exists()
    for path, why in (
        (tmp_path / "x.txt", r"names a \.py file"),
        (tmp_path / "a/b.py", "no folder"),
    ):
        with pytest.raises(BadInput, match=why):
            require_new(path)


FILE = search_file(trials=8)


def test_the_command_tells_and_writes_a_study_that_resolves(
    home, corpus, moe_study, tmp_path, monkeypatch
):
    """Training is left out: the ledger is told what each trial came to."""
    monkeypatch.setattr("orchestrator.driver.tune_loop.run", work)
    monkeypatch.setattr("orchestrator.driver.publish.publish", lambda session: None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(FILE)
    where = ("--home", home.root, "--corpus", corpus)
    code, _, err = moe_study("recommend", "mine.py", *where)
    assert code == 2
    assert "Run a study first" in err
    assert moe_study("run", "mine.py", *where)[0] == 0
    code, _, err = moe_study("recommend", "mine.py", *where)
    assert code == 2
    assert "need 6 trainings at least" in err
    more = ("--trainings", "8", "--write-study", "next.py")
    code, out, err = moe_study("recommend", "mine.py", *where, *more)
    assert code == 0, err
    assert out.startswith("recommended: N8-K2")
    assert "over 2 seeds that nothing was chosen by" in out
    assert "every other finalist is decided against" in out
    assert "effects of 3 axes and conditions need 24 trials" in out
    monkeypatch.chdir(tmp_path.parent)
    follow_up = load_study(str(tmp_path / "next.py"))
    monkeypatch.chdir(tmp_path)
    cells = {c.name: c.overrides for c in resolve(follow_up, corpus_spec=corpus).cells}
    assert cells["recommended"]["moe.num_experts"] == 8
    assert {claim.a for claim in follow_up.claims} == {"recommended"}
    assert {claim.b for claim in follow_up.claims} == set(cells) - {"recommended"}
    code, out, _ = moe_study("recommend", "mine.py", *where, "--trainings", "8", "--json")
    answer = json.loads(out)
    assert (code, answer["is_over"]) == (0, True)
    assert answer["winner"]["params"] == cells["recommended"]
    code, _, err = moe_study("recommend", "mine.py", *where, *more)
    assert code == 2
    assert "overwrites nothing" in err


def test_what_was_recommended_stays_with_the_launch(home, corpus, moe_study, tmp_path, monkeypatch):
    """Readers that have no space at hand tell it: the page, and an export."""
    monkeypatch.setattr("orchestrator.driver.tune_loop.run", work)
    monkeypatch.setattr("orchestrator.driver.publish.publish", lambda session: None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(FILE)
    where = ("--home", home.root, "--corpus", corpus)

    def page():
        code, _, err = moe_study("report", "mine.py", "--home", home.root, "-o", "report.html")
        assert code == 0, err
        return re.sub(r"\s+", " ", (tmp_path / "report.html").read_text())

    assert moe_study("run", "mine.py", *where)[0] == 0
    assert "Recommendation" not in page()
    code, said, _ = moe_study("recommend", "mine.py", *where, "--trainings", "8")
    assert code == 0
    text = page()
    assert said.partition(" (")[0] in text
    assert "seeds that nothing was chosen by" in text
    assert "every other finalist is decided against" in text
    assert "more trials have ended" not in text

    code, _, err = moe_study("export", "mine.py", "--home", home.root, "-o", "mine.moe-study")
    assert code == 0, err
    told = read(tmp_path / "mine.moe-study").attributes[RECOMMENDATION]
    assert lines_of(told)[0].startswith("recommended: N8-K2")
    assert len(finalist_rows(told)) == len(told["finalists"]) > 1

    assert moe_study("run", "mine.py", *where, "--trials", "9")[0] == 0
    assert "since this was told more trials have ended (1): " in page()


def test_one_finalist_a_design_and_its_rate_is_no_answer(hold, study):
    """Designs differ in what is no nuisance; of each the best rate is raced."""
    space = Space(axes={"moe.num_experts": Choice((2, 4))})
    rate = {"optim.learning_rate": Choice((1e-3, 2e-3, 4e-3))}
    study = dataclasses.replace(study, space=space, nuisance=rate, trials=6)
    with hold(study) as session:
        assert set(session.launch.space.axes) == {*space.axes, *rate}
        while (assignment := session.ledger.next()) is not None:
            number, point = assignment.record.number, assignment.point.overrides
            session.ledger.started(number)
            best = {2: 1e-3, 4: 4e-3}[point["moe.num_experts"]]
            value = 2.0 + (point["optim.learning_rate"] != best) + 0.1 * point["moe.num_experts"]
            entry = {"step": 8, "tokens": 1024, "timestamp_ms": 1000, VAL_LOSS: value}
            session.ledger.completed(number, entry, tokens=1024)
        ranked = best_points(session.launch, searched(session.records))
        params = {r.cell_hash: dict(r.params) for r in session.records}
    assert [params[point] for point in ranked] == [
        {"moe.num_experts": 2, "optim.learning_rate": 1e-3},
        {"moe.num_experts": 4, "optim.learning_rate": 4e-3},
    ]


def test_what_is_tuned_is_no_part_of_the_design(study, grid_study, corpus):
    rate = {"optim.learning_rate": Choice((1e-3, 2e-3))}
    with pytest.raises(ValueError, match="nuisance is for sampled studies; received it for the g"):
        dataclasses.replace(grid_study, nuisance=rate)
    with pytest.raises(ValueError, match="nuisance maps paths to domains"):
        dataclasses.replace(study, nuisance=["optim.learning_rate"])
    both = dataclasses.replace(study, nuisance={"moe.top_k": Choice((1, 2))})
    with pytest.raises(BadInput, match=r"received moe\.top_k of tiny-search as both"):
        resolve(both, corpus_spec=corpus)


def test_finalists_are_ranked_by_what_all_trials_say_of_them(hold, study):
    """One lucky seed of a point whose neighbours are all bad does not lead."""
    study = dataclasses.replace(study, trials=14)
    with hold(study) as session:
        while (assignment := session.ledger.next()) is not None:
            number, point = assignment.record.number, assignment.point.overrides
            session.ledger.started(number)
            value = 2.0 + 0.05 * abs(point["moe.num_experts"] - 8)
            entry = {"step": 8, "tokens": 1024, "timestamp_ms": 1000, VAL_LOSS: value}
            session.ledger.completed(number, entry, tokens=1024)
        ranked = best_points(session.launch, searched(session.records))
        experts = {r.cell_hash: r.params["moe.num_experts"] for r in session.records}
    assert len(ranked) == 14
    values = [experts[point] for point in ranked]
    assert values == sorted(values, reverse=True)
