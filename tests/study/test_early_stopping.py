"""Rules that end trials early: against Ray's own scheduler, and one that is not in the project."""

from __future__ import annotations

import random
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from orchestrator.study import EarlyStopping, early_stopping
from orchestrator.study.early_stopping import StoppingRule, rule_of


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
        def stops(trial, step, num_steps, value):
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
