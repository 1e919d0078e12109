"""Rules that end trials early: against Ray's own scheduler, and one that is not in the project."""

from __future__ import annotations

import random
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from orchestrator.base.errors import BadInput
from orchestrator.study import EarlyStopping, early_stopping
from orchestrator.study.early_stopping import StoppingRule, rule_of
from orchestrator.study.resolve import resolve


def rays_own(rule, num_steps):
    from ray.tune.schedulers import AsyncHyperBandScheduler

    return AsyncHyperBandScheduler(
        time_attr="step",
        metric="loss",
        mode="min",
        grace_period=max(1, round(rule.first_rung * num_steps)),
        max_t=num_steps,
        reduction_factor=rule.reduction_factor,
    )


@pytest.mark.parametrize("num_steps", [7, 100, 150])
def test_rungs_are_those_of_rays_scheduler(num_steps):
    rule = EarlyStopping(first_rung=0.2, reduction_factor=2)
    (bracket,) = rays_own(rule, num_steps)._brackets
    milestones = sorted(milestone for milestone, _ in bracket._rungs)
    assert rule.rungs(num_steps) == [step for step in milestones if step < num_steps]


@pytest.mark.parametrize("seed", range(6))
def test_what_it_decides_is_what_rays_scheduler_decides(seed):
    """Curves with ties, evaluations that pass several rungs, trials side by side."""
    draw = random.Random(seed)
    rule = EarlyStopping(
        first_rung=draw.choice((0.1, 0.25)), reduction_factor=draw.choice((2, 3, 4))
    )
    judge, scheduler = rule.judge(), rays_own(rule, 100)
    every = {trial: draw.choice((1, 7, 30)) for trial in range(60)}
    at = dict.fromkeys(every, 0)
    stopped = 0
    for trial in at:
        scheduler.on_trial_add(None, SimpleNamespace(trial_id=trial))
    while at:
        trial = draw.choice(list(at))
        at[trial] += every[trial]
        if at[trial] >= 100:
            del at[trial]
            continue
        loss = round(draw.random(), 1)
        theirs = scheduler.on_trial_result(
            None, SimpleNamespace(trial_id=trial), {"step": at[trial], "loss": loss}
        )
        assert judge.stops(trial, at[trial], 100, loss) == (theirs == "STOP")
        if theirs == "STOP":
            stopped += 1
            del at[trial]
    assert stopped > 10


def test_trials_of_unequal_length_are_compared_rung_by_rung():
    judge = EarlyStopping(first_rung=0.5, reduction_factor=2).judge()
    assert not judge.stops(0, 50, 100, 1.0)
    assert not judge.stops(1, 50, 200, 9.0)  # a quarter of its way: no rung yet
    assert judge.stops(1, 100, 200, 9.0)


def test_a_replayed_curve_is_judged_once():
    judge = EarlyStopping(first_rung=0.5).judge()
    assert not judge.stops(0, 50, 100, 2.0)
    assert not judge.stops(1, 50, 100, 1.0)
    assert not judge.stops(0, 50, 100, 2.0)


def test_a_rule_is_read_back_from_what_a_launch_keeps():
    rule = EarlyStopping(first_rung=0.1, reduction_factor=3)
    assert rule_of({**rule.as_attributes(), "num_steps": 100}) == rule
    before = {"first_rung": 0.1, "reduction_factor": 3, "num_steps": 100}
    assert rule_of(before) == rule


@dataclass(frozen=True, kw_only=True)
class Bound(StoppingRule):
    """Ends what is worse than a bound half-way: written here, and known nowhere else."""

    worst: float

    def rungs(self, num_steps):
        return [num_steps // 2]

    def judge(self):
        def stops(trial, step, num_steps, value, point):
            return step >= num_steps // 2 and value > self.worst

        return SimpleNamespace(stops=stops)


@pytest.fixture
def bound(monkeypatch):
    monkeypatch.setitem(early_stopping.RULES, "bound", Bound)
    return Bound(worst=3.0)


def test_another_rule_is_one_class_and_one_line(bound, hold, sampled_study):
    """The driver's scheduler, the launch's record and the report of rungs all take it."""
    import dataclasses

    from orchestrator.driver.tune_adapters import make_scheduler
    from orchestrator.report.rungs import rungs_of_launch

    study = dataclasses.replace(sampled_study, early_stopping=bound)
    with hold(study, trials=2) as session:
        scheduler = make_scheduler(session.launch, session.ledger)
        for _ in range(2):
            session.ledger.started(session.ledger.next().record.number)
        for number, loss, decision in ((0, 9.0, "STOP"), (1, 1.0, "CONTINUE")):
            job = {"number": number, "config": session.launch.base.to_dict()}
            trial = SimpleNamespace(config={"job": job})
            result = {"step": 4, study.metric: loss}
            assert scheduler.on_trial_result(None, trial, result) == decision
        found, lengths = rungs_of_launch(session.info.attributes, session.records)
    assert ([rung.step for rung in found], lengths) == ([4], [8])


def test_a_band_compares_like_with_like():
    """Against a rule over each trial's own rivals, looked up one by one."""
    draw = random.Random(3)
    rule = EarlyStopping(band={"optim.learning_rate": 2.0, "optim.warmup_steps": 1})
    judge, seen, stopped = rule.judge(), [], 0
    for trial in range(200):
        point = {"optim.learning_rate": draw.choice((1e-3, 2e-3, 4e-3, 8e-3))}
        if draw.random() < 0.5:
            point["optim.warmup_steps"] = draw.choice((0, 10))
        value = draw.random() - 100 * point["optim.learning_rate"]
        own = point["optim.learning_rate"]
        rivals = [
            of
            for of, other in seen
            if 0.499 < other["optim.learning_rate"] / own < 2.001
            and other.get("optim.warmup_steps") == point.get("optim.warmup_steps")
        ]
        expected = bool(rivals) and value > sorted(rivals)[(len(rivals) - 1) // 2]
        if len(rivals) % 2:  # else the cutoff lies between two of them
            assert judge.stops(trial, 25, 100, value, point) == expected
        else:
            judge.stops(trial, 25, 100, value, point)
        seen.append((value, point))
        stopped += expected
    assert 40 < stopped < 160


def test_without_a_band_the_highest_rate_ends_all_others():
    for band, expected in (({}, True), ({"optim.learning_rate": 2.0}, False)):
        judge = EarlyStopping(band=band).judge()
        assert not judge.stops(0, 25, 100, 1.0, {"optim.learning_rate": 8e-3})
        assert judge.stops(1, 25, 100, 2.0, {"optim.learning_rate": 1e-3}) is expected


def test_a_share_is_guarded_by_names_alone():
    rule = EarlyStopping(guarded=0.2)
    points = [f"{i:08x}" for i in range(4000)]
    guarded = [p for p in points if rule.guards("study/smoke/c@1", p)]
    assert 0.18 < len(guarded) / len(points) < 0.22
    assert guarded == [p for p in points if rule.guards("study/smoke/c@1", p)]
    assert guarded != [p for p in points if rule.guards("study/smoke/c@2", p)], "another launch"
    more = EarlyStopping(guarded=0.4)
    assert all(more.guards("study/smoke/c@1", p) for p in guarded), "a larger share has them too"
    assert not any(EarlyStopping().guards("study/smoke/c@1", p) for p in points)


def test_what_uses_neither_is_written_as_before():
    assert EarlyStopping().as_attributes() == {
        "rule": "asha",
        "first_rung": 0.25,
        "reduction_factor": 2,
    }
    rule = EarlyStopping(guarded=0.2, band={"optim.learning_rate": 2.0})
    assert rule_of(rule.as_attributes()) == rule


def test_a_record_of_what_is_refused_now_is_still_read():
    rule = rule_of({"rule": "asha", "first_rung": 0.25, "reduction_factor": 2.5})
    assert rule.rungs(8) == [2, 5.0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"guarded": 1.0}, r"at least 0 and below 1; received 1\.0"),
        ({"guarded": -0.1}, "at least 0 and below 1"),
        ({"guarded": "0.2"}, "at least 0 and below 1; received '0.2'"),
        ({"guarded": float("nan")}, "at least 0 and below 1; received nan"),
        ({"first_rung": "0.25"}, "0 < first_rung < 1 .*received '0.25' and 2"),
        ({"reduction_factor": 2.5}, r"a whole reduction_factor >= 2; received 0\.25 and 2\.5"),
        ({"reduction_factor": float("nan")}, "received 0.25 and nan. The defaults are"),
        ({"band": {"optim.learning_rate": 0.5}}, "a factor, at least 1"),
        ({"band": ["optim.learning_rate"]}, "a factor, at least 1"),
        ({"band": {"optim.learning_rate": float("inf")}}, "a factor, at least 1"),
    ],
)
def test_what_makes_no_rule_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        EarlyStopping(**given)


def test_a_band_is_of_numbers_that_move(sampled_study, grid_study, corpus):
    import dataclasses

    for path in ("optim.learning_rate", "moe.router", "optim.learning_rat"):
        rule = EarlyStopping(band={path: 2.0})
        study = dataclasses.replace(sampled_study, early_stopping=rule)
        with pytest.raises(BadInput, match=r"Choose from moe\.num_experts, moe\.top_k"):
            resolve(study, corpus_spec=corpus)
        with pytest.raises(BadInput, match=r"Choose from moe\.num_experts\."):
            resolve(dataclasses.replace(grid_study, early_stopping=rule), corpus_spec=corpus)
    resolve(
        dataclasses.replace(
            sampled_study, early_stopping=EarlyStopping(band={"moe.num_experts": 2})
        ),
        corpus_spec=corpus,
    )
