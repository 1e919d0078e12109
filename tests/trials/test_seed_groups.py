"""Early stopping judges points: their seeds go on together or end together, whenever they run."""

from __future__ import annotations

import dataclasses

import pytest
from mlflow.tracking import MlflowClient

from orchestrator.base.errors import LaunchHeld
from orchestrator.cluster.connection import Resources
from orchestrator.driver.promoting import promote
from orchestrator.report.records import read_launch
from orchestrator.stores.trial_record import WORKERS, WORKERS_BEFORE, count_states
from orchestrator.study import EarlyStopping, Study
from orchestrator.study.resolve import resolve
from orchestrator.trials.ledger import Ledger
from search_spaces.cells import Cell
from tests.fixtures.studies import TINY

NAMES = ("a", "b", "c", "d")
# Loss of each cell by seed: the mean of c is the best though its first seed is the worst of all.
LOSS = {
    "a": {0: 3.0, 1: 3.2},
    "b": {0: 4.0, 1: 4.2},
    "c": {0: 5.0, 1: 0.0},
    "d": {0: 1.0, 1: 6.1},
}
STEPS = (2, 4, 6)  # evaluations before the last one at 8; rungs at 2 and 4


@pytest.fixture
def study():
    return Study(
        name="grouped", question="?", baseline="a", held_fixed="?", scales={"smoke": TINY},
        cells=[Cell(name=n, overrides={"optim.beta1": 0.8 + i / 100}) for i, n in enumerate(NAMES)],
        seeds=(0, 1), early_stopping=EarlyStopping(first_rung=0.25, reduction_factor=2),
    )  # fmt: skip


def entry(step, loss):
    return {"step": step, "tokens": step * 128, "timestamp_ms": step, "val/loss": loss}


class Driver:
    """Tune's part, with `concurrency` slots: a trial trains a step of STEPS at a time, in turn."""

    def __init__(self, ledger: Ledger, concurrency: int) -> None:
        self.ledger, self.concurrency = ledger, concurrency
        self.slots: dict[int, list[int]] = {}
        self.trained: list[tuple[str, int, int]] = []

    def run(self, rounds: int = 1000) -> None:
        for _ in range(rounds):
            while len(self.slots) < self.concurrency and (found := self.ledger.next()):
                number = found.record.number
                self.ledger.started(number)
                self.slots[number] = list(STEPS)
            if not self.slots:
                return
            for number in list(self.slots):
                self._advance(number)
        if rounds == 1000:
            raise AssertionError("the driver never comes to an end")

    def _advance(self, number: int) -> None:
        record = self.ledger.trials[number]
        loss, left = LOSS[record.cell][record.seed], self.slots[number]
        if not left:
            del self.slots[number]
            self.ledger.completed(number, entry(8, loss), tokens=1024)
            return
        step = left.pop(0)
        if step not in record.curve:
            self.trained.append((record.cell, record.seed, step))
        ends = self.ledger.judged(number, step, loss)
        self.ledger.progressed(number, entry(step, loss))
        if ends:
            del self.slots[number]
            self.ledger.stopped(number, tokens=step * 128)


def states(session):
    found = {}
    for record in session.records:
        found.setdefault(record.cell, {})[record.seed] = record.state
    return found


@pytest.mark.parametrize("concurrency", [1, 2, 3, 8])
def test_seeds_end_together_on_their_mean(hold, study, concurrency):
    with hold(study) as session:
        Driver(session.ledger, concurrency).run()
    for name, found in states(session).items():
        assert len(set(found.values())) == 1, (name, found)
    assert states(session)["c"] == {0: "complete", 1: "complete"}, "its mean is the best"
    assert "pruned" in states(session)["d"].values(), "its mean is the worst"
    for record in session.records:
        assert record.state == "complete" or max(record.curve) in (2, 4)


def test_stores_agree_and_nothing_trains_twice(hold, study, home):
    with hold(study) as session:
        driver = Driver(session.ledger, 1)
        driver.run()
    assert len(set(driver.trained)) == len(driver.trained)
    client = MlflowClient(home.mlflow_uri)
    statuses = {"complete": "FINISHED", "pruned": "KILLED"}
    for record in session.records:
        assert client.get_run(record.run_id).info.status == statuses[record.state]
    assert count_states(session.records)["waiting"] == 0


@pytest.mark.parametrize("rounds", [1, 2, 1000])
def test_a_promoted_point_runs_to_its_end_at_every_seed(hold, study, home, rounds):
    """Though its driver dies in the middle, and though the rule would stop it once more."""
    with hold(study) as session:
        Driver(session.ledger, 2).run()
        with pytest.raises(LaunchHeld):
            promote(read_launch("grouped", home=home), ["d"], home, None)
    before = states(session)
    assert set(before["d"].values()) == {"pruned"}
    (told,) = promote(read_launch("grouped", home=home), ["d"], home, None)
    assert (told.cell, told.seeds) == ("d", (0, 1))
    with hold(study) as session:
        Driver(session.ledger, 1).run(rounds)
    with hold(study) as session:
        Driver(session.ledger, 2).run()
    assert states(session) == {**before, "d": {0: "complete", 1: "complete"}}
    assert len(session.records) == sum(map(len, before.values())) + 2
    with hold(study) as again:
        Driver(again.ledger, 2).run()
    assert len(again.records) == len(session.records)


@pytest.mark.parametrize("concurrency", [1, 2, 3])
@pytest.mark.parametrize("rounds", [1, 2, 3, 5])
def test_fewer_workers_hand_nobody_out_twice(hold, study, concurrency, rounds):
    """Trials lose their processes in the middle, some of them while others wait at a rung."""
    with hold(study) as session:
        driver = Driver(session.ledger, concurrency)
        driver.run(rounds)
        waiting = {r.number for r in session.records if session.ledger.queue.is_held(r.number)}
        driver.slots.clear()
        session.ledger.go_on_with(1)
        assert {r.number for r in session.records if session.ledger.queue.is_held(r.number)} == (
            waiting
        ), "who waits for other seeds waits on"
        driver.run()
    for name, found in states(session).items():
        assert len(set(found.values())) == 1, (name, found)
        assert set(found.values()) <= {"complete", "pruned"}
    assert states(session)["c"] == {0: "complete", 1: "complete"}


def test_a_trial_says_how_far_it_came_with_how_many_workers(hold, study, home):
    study = dataclasses.replace(study, early_stopping=None)
    with hold(study, options={"resources": Resources(workers=2)}) as session:
        ledger = session.ledger
        first, second = (ledger.next().record.number for _ in range(2))
        ledger.started(first)
        ledger.progressed(first, entry(2, 3.0))
        ledger.go_on_with(1)
        assert [ledger.next().record.number for _ in range(2)] == [first, second]
        ledger.started(first)
        ledger.started(second)
        run = session.ledger.trials[first].run_id
        assert WORKERS_BEFORE not in ledger.trials[second].attributes, "it had not begun"
    tags = MlflowClient(home.mlflow_uri).get_run(run).data.tags
    assert (tags[WORKERS_BEFORE], tags[WORKERS]) == ("2 to step 2", "1")
    with hold(study, options={"resources": Resources(workers=2)}) as session:
        assert session.ledger.take(ledger.trials[first].config_hash).record.number == first
        found = session.ledger.started(first)
    assert found.attributes[WORKERS_BEFORE] == "2 to step 2, 1 to step 2", "asked for by hand, too"


def test_a_killed_driver_changes_no_group(hold, study):
    """Whatever the round in which the driver ends, the next one goes on to seeds of one state."""
    with hold(dataclasses.replace(study, name="whole")) as session:
        Driver(session.ledger, 2).run()
        whole = states(session)
    for rounds in (1, 2, 3, 5, 8):
        cut = dataclasses.replace(study, name=f"cut{rounds}")
        with hold(cut) as session:
            Driver(session.ledger, 2).run(rounds)
        with hold(cut) as session:
            Driver(session.ledger, 2).run()
        for name, found in states(session).items():
            assert len(set(found.values())) == 1, (rounds, name, found)
        assert states(session)["c"] == whole["c"]


def test_seeds_of_a_stopped_point_that_wait_are_ended_by_the_next_driver(hold, study):
    """Killed between the endings of two seeds."""
    with hold(study) as session:
        ledger = session.ledger
        first = ledger.next().record.number
        ledger.started(first)
        ledger.progressed(first, entry(2, 9.0))
        ledger.stopped(first, tokens=256)
    with hold(study) as session:
        session.ledger.next()
        assert states(session)["a"] == {0: "pruned", 1: "pruned"}
        never = next(r for r in session.records if (r.cell, r.seed) == ("a", 1))
        assert (never.curve, never.tokens, never.attempt) == ({}, 0, 0)
    with hold(study, seeds=(0, 1, 2)) as session:
        assert set(states(session)["a"]) == {0, 1}, "a stopped point's later seeds are not started"
        assert set(states(session)["b"]) == {0, 1, 2}


def test_a_seed_that_diverges_stops_its_point_and_one_that_is_lost_does_not(hold, study):
    with hold(study) as session:
        ledger = session.ledger
        driver = Driver(ledger, 8)
        driver.run(0)
        handed = {}
        while (found := ledger.next()) is not None:
            handed[found.record.cell, found.record.seed] = found.record.number
            ledger.started(found.record.number)
        assert ledger.judged(handed["a", 0], 2, 3.0), "waits for its other seed"
        ledger.progressed(handed["a", 0], entry(2, 3.0))
        ledger.stopped(handed["a", 0], tokens=256)
        assert ledger.trials[handed["a", 0]].state == "waiting"
        assert ledger.next() is None
        ledger.failed(handed["a", 1], "diverged", diverged_at=1)
        assert ledger.trials[handed["a", 0]].state == "pruned"
        assert ledger.judged(handed["b", 0], 2, 3.0)
        ledger.progressed(handed["b", 0], entry(2, 3.0))
        ledger.stopped(handed["b", 0], tokens=256)
        ledger.failed(handed["b", 1], "its node was lost")
        assert ledger.next().record.number == handed["b", 0], "it goes on, judged no more"
        ledger.started(handed["b", 0])
        assert not ledger.judged(handed["b", 0], 4, 99.0)


def test_what_waits_for_a_seed_that_no_budget_holds_keeps_no_driver(hold, study):
    from orchestrator.trials.spending import Limits

    limits = {"limits": Limits(tokens=4 * 1024)}
    with hold(study, options=limits) as session:
        Driver(session.ledger, 1).run()
        assert session.ledger.next() is None
        assert not session.ledger.queue.may_have_more
        assert session.ledger.left_out.trials
    with hold(study) as session:
        Driver(session.ledger, 1).run()
    assert count_states(session.records)["waiting"] == 0
    assert all(len(set(found.values())) == 1 for found in states(session).values())


def test_a_guarded_point_goes_to_its_end(hold, study, monkeypatch):
    """The worst of all, which is stopped at its first rung otherwise."""
    with hold(dataclasses.replace(study, name="plain")) as session:
        Driver(session.ledger, 1).run()
        assert states(session)["b"] == {0: "pruned", 1: "pruned"}
        (worst,) = {r.cell_hash for r in session.records if r.cell == "b"}
    monkeypatch.setattr(EarlyStopping, "guards", lambda self, launch, point: point == worst)
    with hold(dataclasses.replace(study, name="guarded")) as session:
        Driver(session.ledger, 1).run()
        assert states(session)["b"] == {0: "complete", 1: "complete"}


@pytest.mark.parametrize("rounds", [2, 5])
def test_a_killed_driver_guards_the_same_points(hold, study, corpus, rounds):
    """Of the four points some, and not all: the share is chosen for that."""
    launch = resolve(study, corpus_spec=corpus)
    cells = {p.cell_hash for p in launch.points()}
    shares = (EarlyStopping(first_rung=0.25, reduction_factor=4, guarded=s / 20) for s in range(20))
    rule = next(r for r in shares if 0 < sum(r.guards(launch.name, c) for c in cells) < len(cells))
    study = dataclasses.replace(study, early_stopping=rule)
    with hold(study) as session:
        Driver(session.ledger, 1).run(rounds)
    with hold(study) as session:
        Driver(session.ledger, 1).run()
        name, points = session.launch.name, session.launch.points()
        guarded = {p.cell for p in points if rule.guards(name, p.cell_hash)}
        found = states(session)
    assert guarded
    assert set(found) - guarded
    assert all(set(found[cell].values()) == {"complete"} for cell in guarded)


def test_a_band_is_judged_by_each_points_own_axis(hold, study):
    """Nobody near b has come before it, and a is nearer to d than any other."""
    rates = {"a": 1e-3, "b": 8e-3, "c": 9e-3, "d": 1.1e-3}
    cells = [Cell(name=n, overrides={"optim.learning_rate": rate}) for n, rate in rates.items()]
    found = {}
    for name, band in (("none", {}), ("band", {"optim.learning_rate": 2.0})):
        rule = EarlyStopping(first_rung=0.25, reduction_factor=2, band=band)
        changed = dataclasses.replace(study, cells=cells, early_stopping=rule, name=name)
        with hold(changed) as session:
            Driver(session.ledger, 8).run()
        found[name] = {n for n, of in states(session).items() if of[0] == "complete"}
    assert found == {"none": {"c"}, "band": {"a", "b", "c"}}
