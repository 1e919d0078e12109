"""Few feasible points among many: all are found, and draws that find nothing prove nothing."""

from __future__ import annotations

import dataclasses

import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution

from moe.config import ConfigError
from orchestrator.base.errors import BadInput
from orchestrator.study import Study
from orchestrator.study.plan import plan
from orchestrator.study.resolve import resolve
from orchestrator.trials import asked_points, sampling
from orchestrator.trials.asked_points import completed_point
from search_spaces import space as space_module
from search_spaces.domains import Choice, Float, Int
from search_spaces.space import Rule, Space
from tests.fixtures.studies import TINY

BETAS = tuple(round(0.80 + 0.01 * i, 2) for i in range(20))


def make_study(axes, holds, trials):
    return Study(
        name="sparse", question="Are they all found?", baseline="the best point",
        held_fixed="the rest", scales={"smoke": TINY}, trials=trials, seeds=(0,),
        space=Space(axes=axes, rules=(Rule(holds=holds, reason="on a line"),)),
    )  # fmt: skip


@pytest.fixture
def sparse_study():
    """800 points, 20 of them feasible."""
    axes = {
        "optim.beta1": Choice(BETAS),
        "optim.beta2": Choice(BETAS),
        "optim.warmup_steps": Int(low=1, high=2),
    }

    def holds(c):
        return c.optim.beta1 == c.optim.beta2 and c.optim.warmup_steps == 1

    return make_study(axes, holds, trials=30)


def finish_all(session):
    while assignment := session.ledger.next():
        number = assignment.record.number
        session.ledger.started(number)
        entry = {"step": 8, "tokens": 1024, "timestamp_ms": 1, "val/loss": 3.0}
        session.ledger.completed(number, entry, tokens=1024)


def test_every_feasible_point_is_found_and_only_then_is_the_space_exhausted(
    hold, sparse_study, said
):
    with hold(sparse_study, trials=12) as session:
        finish_all(session)
        assert len(session.records) == 12
        assert session.ledger.queue.exhausted is None
    with hold(sparse_study) as session:
        finish_all(session)
    found = [record.params["optim.beta1"] for record in session.records]
    assert sorted(found) == list(BETAS)
    assert "exhausted: all of its 20 feasible points" in said[-1]
    assert session.exit_code == 0
    last = session.records[-1].distributions
    assert last["optim.beta2"] == CategoricalDistribution(BETAS)
    assert last["optim.warmup_steps"] == IntDistribution(1, 2)


def test_an_enumerated_point_hangs_on_no_earlier_driver(sparse_study, corpus):
    """A restarted driver draws what the dead one would have."""
    first, second = (resolve(sparse_study, corpus_spec=corpus) for _ in range(2))
    taken = set()
    for index in range(5):
        point, _ = sampling.propose(
            first, [], index=index, is_new=lambda p: p.cell_hash not in taken
        )
        taken.add(point.cell_hash)
    again = [
        sampling.propose(launch, [], index=5, is_new=lambda p: p.cell_hash not in taken)[0]
        for launch in (first, second)
    ]
    assert again[0] == again[1]


def test_draws_that_find_nothing_say_so_and_the_next_try_draws_others(hold, said, monkeypatch):
    monkeypatch.setattr(sampling, "DRAWS", 20)
    monkeypatch.setattr(sampling, "DRAWS_OF_SAMPLER", 5)
    drawn = []

    def holds(c):
        drawn.append(c.optim.learning_rate)
        return c.optim.learning_rate > 0.0098

    study = make_study({"optim.learning_rate": Float(low=1e-3, high=1e-2)}, holds, trials=1)
    study = dataclasses.replace(study, sampler="random")  # the others look at more points
    tries = []
    for _ in range(60):
        with hold(study) as session:
            drawn.clear()
            finish_all(session)
            tries.append(set(drawn))
        if session.records:
            break
        assert "not found in 20 draws, which proves nothing (20 x on a line)" in said[-1]
        assert not any("exhausted" in line for line in said)
        assert session.exit_code == 1
    assert session.records, "other draws find the one point in fifty"
    assert session.exit_code == 0
    assert len(tries) > 1
    assert len(set.union(*tries)) == sum(map(len, tries)), "no try draws what another drew"


def test_a_space_too_large_to_enumerate_is_drawn_from(sparse_study, monkeypatch, corpus):
    monkeypatch.setattr(space_module, "ENUMERATION_LIMIT", 799)
    launch = resolve(sparse_study, corpus_spec=corpus)
    assert launch.feasible_points is None
    with pytest.raises(sampling.PointNotFound):
        sampling.propose(launch, [], index=0, is_new=lambda point: False)


def test_a_plan_counts_the_feasible_points_and_prices_them(sparse_study, corpus):
    planned = plan(resolve(sparse_study, corpus_spec=corpus, seeds=(0, 1)))
    assert planned["trials"] == 2 * 20
    assert planned["tokens_total"] == 40 * 8 * 128


def test_a_space_where_draws_find_nothing_is_refused_as_that(corpus):
    study = make_study(
        {"optim.learning_rate": Float(low=1e-3, high=1e-2)}, lambda c: False, trials=1
    )
    with pytest.raises(
        BadInput, match=r"none was found in 5000 random draws, which proves nothing"
    ):
        resolve(study, corpus_spec=corpus)
    finite = Space(axes={"optim.warmup_steps": Choice((1, 2))}, rules=study.space.rules)
    with pytest.raises(BadInput, match="all 2 points are refused"):
        resolve(dataclasses.replace(study, space=finite), corpus_spec=corpus)


def test_a_part_of_a_point_is_completed_where_any_point_completes_it(corpus, sparse_study):
    """One of 40 completes it; the draws of the sampler seldom find that one."""
    launch = resolve(sparse_study, corpus_spec=corpus)
    for beta in BETAS[:5]:
        point = completed_point(launch, [], {"optim.beta1": beta}, index=0)
        assert point.overrides["optim.beta2"] == beta
    with pytest.raises(ConfigError, match=r"no new feasible point has the values.*warmup_steps"):
        completed_point(launch, [], {"optim.warmup_steps": 2}, index=0)
    whole = {"optim.beta1": 0.8, "optim.beta2": 0.9, "optim.warmup_steps": 1}
    with pytest.raises(ConfigError, match=r"^on a line; received"):
        completed_point(launch, [], whole, index=0)


def test_what_is_in_the_launch_completes_no_part_of_a_point(corpus, sparse_study):
    launch = resolve(sparse_study, corpus_spec=corpus)
    found = set()
    for _ in BETAS:
        point = completed_point(
            launch,
            [],
            {"optim.warmup_steps": 1},
            index=0,
            known_as=lambda p: p.cell if p.cell_hash in found else None,
        )
        found.add(point.cell_hash)
    assert len(found) == len(BETAS)
    with pytest.raises(ConfigError, match="no point is trained twice"):
        completed_point(launch, [], {"optim.warmup_steps": 1}, index=0, known_as=lambda p: "there")


def test_draws_that_complete_no_part_of_a_point_prove_nothing(corpus, monkeypatch):
    monkeypatch.setattr(asked_points, "DRAWS_OF_THE_REST", 20)
    axes = {"optim.learning_rate": Float(low=1e-4, high=1e-2), "optim.warmup_steps": Choice((1, 2))}
    study = make_study(axes, lambda c: c.optim.warmup_steps == 1, trials=2)
    launch = resolve(study, corpus_spec=corpus)
    assert completed_point(launch, [], {"optim.warmup_steps": 1}, index=0)
    with pytest.raises(ConfigError, match="in 20 draws of the rest, which proves nothing"):
        completed_point(launch, [], {"optim.warmup_steps": 2}, index=0)


def test_an_axis_that_another_draw_has_is_not_refused(corpus):
    """top_k exists where there are experts: a dense draw of the rest proves nothing."""
    axes = {"moe.num_experts": Choice((0, 4)), "moe.top_k": Choice((1, 2))}
    launch = resolve(make_study(axes, lambda c: True, trials=2), corpus_spec=corpus)
    for index in range(6):
        point = completed_point(launch, [], {"moe.top_k": 2}, index=index)
        assert point.overrides["moe.num_experts"] == 4
