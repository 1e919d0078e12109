"""Points are drawn beside the driver's loop, which waits for a moment only."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator

import pytest

from orchestrator.driver.tune_adapters import LedgerSearcher
from orchestrator.study import Study
from orchestrator.study.samplers import Random, Sampler
from orchestrator.trials.drawn_beside import Drawing
from orchestrator.trials.sampling import propose
from search_spaces.domains import Choice, Float
from search_spaces.space import Space
from tests.fixtures.studies import TINY

LONG_S = 20.0


@dataclasses.dataclass
class Job:
    number: int


@dataclasses.dataclass(frozen=True)
class Held(Sampler):
    """Draws at random once `gate` is open; `begun` counts draws."""

    gate: threading.Event
    begun: list[int]

    def suggestions(self, search, *, seed, index) -> Iterator:
        self.begun.append(index)
        assert self.gate.wait(LONG_S)
        return Random().suggestions(search, seed=seed, index=index)

    def __str__(self) -> str:
        return "held"


def make_study(sampler):
    return Study(
        name="slow", question="?", baseline="?", held_fixed="?", scales={"smoke": TINY}, trials=6,
        seeds=(0,), sampler=sampler,
        space=Space(axes={"optim.learning_rate": Float(low=1e-3, high=1e-2)}),
    )  # fmt: skip


@pytest.fixture
def held():
    sampler = Held(threading.Event(), [])
    sampler.gate.set()
    yield sampler
    sampler.gate.set()


def report(session, number, step, loss=3.0):
    entry = {"step": step, "tokens": step * 128, "timestamp_ms": step, "val/loss": loss}
    session.ledger.progressed(number, entry)


def begin(session, **patience):
    assignment = session.ledger.next(**patience)
    session.ledger.started(assignment.record.number)
    return assignment.record


def test_reports_are_taken_while_a_point_is_drawn(hold, held):
    with hold(make_study(held)) as session:
        first = begin(session)
        held.gate.clear()
        for step in (2, 4):
            assert session.ledger.next(draw_patience_s=0.01) is None
            report(session, first.number, step)
        assert session.ledger.trials[first.number].curve == {2: 3.0, 4: 3.0}
        assert held.begun == [0, 1]  # one draw, asked for twice
        queue = session.ledger.queue
        assert queue.may_have_more
        assert not queue.is_all_started
        held.gate.set()
        second = begin(session, draw_patience_s=LONG_S)
        at_once, _ = propose(session.launch, [], index=1, is_new=lambda point: True)
    assert second.params == at_once.overrides != first.params


def test_where_nothing_is_under_way_a_point_is_waited_for(hold, held):
    """Tune sleeps for a second between its questions then."""
    held.gate.clear()
    with hold(make_study(held)) as session:
        threading.Timer(0.3, held.gate.set).start()
        assert session.ledger.next(draw_patience_s=0.01) is not None


def test_a_point_that_came_meanwhile_is_part_of_what_is_drawn(hold, held):
    with hold(make_study(held)) as session:
        begin(session)
        held.gate.clear()
        assert session.ledger.next(draw_patience_s=0.01) is None
        session.search.enqueue(session.launch, {"optim.learning_rate": 0.004})
        session.ledger._asked_at = float("-inf")  # a second has passed
        found = begin(session, draw_patience_s=0.01)
        assert found.params == {"optim.learning_rate": 0.004}
        held.gate.set()
        begin(session, draw_patience_s=LONG_S)
        assert held.begun == [0, 1, 2]  # the draw of point 1 came to nothing
        assert len(session.records) == 3


def test_tune_is_told_to_ask_again(hold, held):
    with hold(make_study(held)) as session:
        first = session.ledger.next()
        held.gate.clear()

        def job(found):
            return Job(found.record.number)

        searcher = LedgerSearcher(session.ledger, job, first=first, may_start=lambda: True)
        assert searcher.suggest("a")["job"]["number"] == 0
        assert searcher.suggest("b") is None
        held.gate.set()
        while (suggested := searcher.suggest("b")) is None:
            pass
        assert suggested["job"]["number"] == 1


def test_an_exhausted_space_says_so_when_its_draw_has_ended(hold, held):
    study = dataclasses.replace(
        make_study(held), space=Space(axes={"optim.beta1": Choice((0.8, 0.9))})
    )
    with hold(study) as session:
        begin(session), begin(session)
        held.gate.clear()
        assert session.ledger.next(draw_patience_s=0.01) is None
        assert session.ledger.queue.exhausted is None
        held.gate.set()
        assert session.ledger.next(draw_patience_s=LONG_S) is None
        assert "exhausted" in session.ledger.queue.exhausted


def test_what_a_draw_raises_is_raised_where_it_is_asked_for():
    drawing = Drawing()

    def raises():
        raise TimeoutError("the sampler's own")

    with pytest.raises(TimeoutError, match="own"):
        drawing.drawn(1, raises, patience_s=LONG_S)
    assert drawing.drawn(1, lambda: "next", patience_s=None) == "next"
