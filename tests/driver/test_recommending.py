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
from orchestrator.driver.recommending import (
    Asked,
    best_points,
    effects_of,
    ends_of,
    require_raceable,
)
from orchestrator.report.follow_up import require_writable, write_follow_up
from orchestrator.report.race import CONFIRM_SEEDS, RACE_SEEDS, SEEDS_END, is_fresh, searched
from orchestrator.report.recommendation_text import finalist_rows, lines_of
from orchestrator.stores.optuna_launches import RECOMMENDATION
from orchestrator.stores.trial_record import MOE_DIGEST
from orchestrator.study.library import load_study
from orchestrator.study.resolve import resolve
from orchestrator.surrogate.effects import Effect, Effects
from search_spaces.domains import Choice, Float, Int
from search_spaces.space import Space
from tests.fixtures.studies import search_file
from tests.trials.test_search_state import record

RATE = "optim.learning_rate"

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
    code, out, err = moe_study(
        "run", "search", "--seeds", "0,1001", "--home", tmp_path / "none", "--corpus", corpus
    )
    assert (code, out) == (2, "")
    assert "seeds 1000 to 2999 are those of `recommend`" in err
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
            require_writable(path, resolve(study, corpus_spec=corpus))


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
    assert "effects of 3 axes and conditions need 16 points" in out, "all it has"
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
    assert set(follow_up.seeds).isdisjoint(range(SEEDS_END)), "the search's and the race's"
    assert f"moe-study run next.py --corpus {corpus} --home {home.root}" in " ".join(err.split())
    code, _, _ = moe_study("recommend", "mine.py", *where, *more)
    assert code == 0, "the file says it already"
    for text in ("edited", (tmp_path / "next.py").read_text() + "# edited"):
        (tmp_path / "next.py").write_text(text)
        code, _, err = moe_study("recommend", "mine.py", *where, *more)
        assert code == 2
        assert "overwrites nothing" in err
        assert (tmp_path / "next.py").read_text() == text


def test_a_race_that_was_broken_off_writes_no_study_and_continues(
    home, corpus, moe_study, tmp_path, monkeypatch
):
    """Neither does a trial of the search that failed make a race fail."""
    monkeypatch.setattr("orchestrator.driver.publish.publish", lambda session: None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(FILE)
    where = ("--home", home.root, "--corpus", corpus)

    def search(session):
        work(session, 7)
        number = session.ledger.next().record.number
        session.ledger.started(number)
        session.ledger.failed(number, "diverged", diverged_at=4)

    monkeypatch.setattr("orchestrator.driver.tune_loop.run", search)
    assert moe_study("run", "mine.py", *where)[0] == 1

    def broken_off(session):
        """All of the race and one of two confirming trials: somebody is left, and not confirmed."""
        while (assignment := session.ledger.next()) is not None:
            number, point = assignment.record.number, assignment.point
            session.ledger.started(number)
            entry = {"step": 8, "tokens": 1024, "timestamp_ms": 1000}
            entry[VAL_LOSS] = loss_of(point.overrides, point.seed)
            session.ledger.completed(number, entry, tokens=1024)
            if point.seed >= CONFIRM_SEEDS:
                break
        session.interrupted = True

    monkeypatch.setattr("orchestrator.driver.tune_loop.run", broken_off)
    asked = ("recommend", "mine.py", *where, "--trainings", "8", "--write-study", "next.py")
    code, out, err = moe_study(*asked)
    assert code == 130
    assert "not confirmed yet" in out or "one fresh seed" in out
    assert "the same command continues" in err
    assert not (tmp_path / "next.py").exists()
    monkeypatch.setattr("orchestrator.driver.tune_loop.run", work)
    code, _, err = moe_study(*asked)
    assert code == 0, err
    assert (tmp_path / "next.py").read_text().startswith('"""Does what ')


def test_who_draws_is_no_matter_of_a_race(home, corpus, moe_study, tmp_path, monkeypatch):
    """Points that `run --sampler gp` drew by a prior are raced though the file's sampler takes
    none, and nothing is said of who draws."""
    monkeypatch.setattr("orchestrator.driver.tune_loop.run", work)
    monkeypatch.setattr("orchestrator.driver.publish.publish", lambda session: None)
    monkeypatch.chdir(tmp_path)
    more = 'sampler="qmc", prior={"moe.top_k": 2},'
    (tmp_path / "mine.py").write_text(search_file(trials=8, more=more))
    where = ("--home", home.root, "--corpus", corpus)
    assert moe_study("run", "mine.py", *where)[0] == 2
    assert moe_study("run", "mine.py", *where, "--sampler", "gp")[0] == 0
    code, _, err = moe_study("recommend", "mine.py", *where, "--trainings", "8")
    assert code == 0, err
    (tmp_path / "mine.py").write_text(FILE)
    code, _, err = moe_study("recommend", "mine.py", *where, "--trainings", "8")
    assert code == 0, err
    assert "points are drawn by" not in err


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

    edited = FILE.replace('scales={"smoke": TINY}', 'scales={"smoke": overlay(TINY, LATER)}')
    assert edited != FILE
    (tmp_path / "mine.py").write_text('LATER = {"train.loss_start": 2}\n' + edited)
    assert moe_study("run", "mine.py", *where)[0] == 0
    text = page()
    assert "the study was edited since this was told, and has these points no more" in text
    assert "more trials have ended" not in text


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


def test_points_that_are_all_but_equal_take_no_place_in_a_race(hold, study):
    """A search ends among such: its two best ones, a rate apart by 2%, were raced once."""
    space = Space(
        axes={"moe.num_experts": Choice((2, 4)), RATE: Float(low=1e-3, high=1e-2, log=True)}
    )
    asked = [(4, 9e-3), (4, 9.2e-3), (2, 9e-3), (4, 5e-3), (2, 9.3e-3)]
    first = [{"moe.num_experts": n, RATE: rate} for n, rate in asked]
    study = dataclasses.replace(study, space=space, first=first, trials=5, seeds=(0,))
    with hold(study) as session:
        while (assignment := session.ledger.next()) is not None:
            number, point = assignment.record.number, assignment.point.overrides
            session.ledger.started(number)
            value = 2.0 + 0.1 * (point["moe.num_experts"] == 2) + 20 * (1e-2 - point[RATE])
            entry = {"step": 8, "tokens": 1024, "timestamp_ms": 1000, VAL_LOSS: value}
            session.ledger.completed(number, entry, tokens=1024)
        ranked = best_points(session.launch, searched(session.records))
        params = {
            r.cell_hash: (r.params["moe.num_experts"], r.params[RATE]) for r in session.records
        }
    assert [params[point] for point in ranked[:3]] == [(4, 9.2e-3), (4, 5e-3), (2, 9.3e-3)]
    assert {params[point] for point in ranked[3:]} == {(4, 9e-3), (2, 9e-3)}


def test_no_effect_is_told_of_a_point_that_no_run_can_have(study, corpus):
    """Three of two experts cannot be chosen, whatever the process would say of it."""
    axes = {**study.space.axes, "moe.top_k": Choice((1, 2, 3))}
    launch = resolve(dataclasses.replace(study, space=Space(axes=axes)), corpus_spec=corpus)
    feasible = launch.feasible_points * 2
    trials = [
        record(i, v, launch.space, value=loss_of(v, i)) for i, v in enumerate(map(dict, feasible))
    ]
    reference = {"moe.num_experts": 4, "moe.top_k": 3, "moe.router": "frozen"}
    told = {(one.path, one.value) for one in effects_of(launch, trials, reference).main}
    assert {("moe.num_experts", 6), ("moe.num_experts", 8), ("moe.top_k", 2)} <= told
    assert ("moe.num_experts", 2) not in told


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


def test_what_an_axis_costs_for_sure_is_a_claim_of_the_study_that_follows(hold, study, tmp_path):
    effects = Effects(
        main=(
            Effect(path="moe.num_experts", value=6, cost=0.2, low=0.1, high=0.3),
            Effect(path="moe.top_k", value=1, cost=-0.1, low=-0.2, high=-0.05),
            Effect(path="moe.router", value="frozen", cost=0.01, low=-0.1, high=0.2),
        )
    )
    with hold(study) as session:
        work(session)
        launch = session.launch
    with hold(study, options=RACE) as session:
        work(session)
        found = dataclasses.replace(_recommendation(session), effects=effects)
    write_follow_up(tmp_path / "next.py", "search", launch, found)
    follow_up = load_study(str(tmp_path / "next.py"))
    cells = {cell.name: cell.overrides for cell in follow_up.cells}
    winner = cells["recommended"]
    assert cells["with-num_experts-6"] == {**winner, "moe.num_experts": 6}
    claims = {claim.id: (claim.a, claim.b) for claim in follow_up.claims}
    assert claims["recommended-over-with-num_experts-6"] == ("recommended", "with-num_experts-6")
    assert claims["with-top_k-1-over-recommended"] == ("with-top_k-1", "recommended")
    assert not any("frozen" in name for name in cells)


def test_a_race_is_of_one_code(hold, study, monkeypatch):
    """What another code has trained of it is trained again."""
    with hold(study) as session:
        work(session)
    with hold(study, options=RACE) as session:
        for _ in range(2):
            assignment = session.ledger.next()
            session.ledger.started(assignment.record.number)
            value = loss_of(assignment.point.overrides, assignment.point.seed)
            entry = {"step": 8, "tokens": 1024, "timestamp_ms": 1000, VAL_LOSS: value}
            digest = {MOE_DIGEST: "of another code"}
            number = assignment.record.number
            session.ledger.completed(number, entry, tokens=1024, attributes=digest)
    begun = fresh(session)
    with hold(study, options=RACE) as session:
        work(session)
        assert session.race.is_over
        assert sum(len(one.values) for one in session.race.finalists) <= 6
    again = fresh(session)
    assert all(again.count(one) == 2 for one in begun), "once by each code"


@pytest.mark.parametrize(
    ("values", "ends"),
    [
        ({"moe.num_experts": 8}, {"moe.num_experts": (2, 8)}),
        ({"moe.num_experts": 2}, {"moe.num_experts": (2, 8)}),
        ({"moe.num_experts": 4}, {}),
        ({"moe.top_k": 1}, {}),  # there is no K below 1
        ({"moe.top_k": 3}, {"moe.top_k": (1, 3)}),
        ({"moe.granularity": 2}, {}),  # two values have no order
        ({"moe.router": "random"}, {}),
        ({"optim.learning_rate": 0.0098}, {"optim.learning_rate": (1e-3, 1e-2)}),
        ({"optim.learning_rate": 0.005}, {}),
        ({"optim.weight_decay": 0.0}, {}),
        ({"optim.weight_decay": 0.1}, {"optim.weight_decay": (0.0, 0.1)}),
        ({"optim.warmup_steps": 5}, {}),  # the only one
    ],
)
def test_a_number_at_an_end_of_its_domain_is_found(values, ends):
    space = Space(
        axes={
            "moe.num_experts": Choice((2, 4, 8)),
            "moe.top_k": Choice((1, 2, 3)),
            "moe.granularity": Choice((1, 2)),
            "moe.router": Choice(("learned", "random")),
            "optim.learning_rate": Float(low=1e-3, high=1e-2, log=True),
            "optim.weight_decay": Float(low=0.0, high=0.1),
            "optim.warmup_steps": Int(low=5, high=5),
        }
    )
    assert ends_of(space, values) == ends
