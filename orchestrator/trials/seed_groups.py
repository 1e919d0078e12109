"""Early stopping of points, not of trials: the seeds of a point go on together, or end together.

A point is judged at a rung once all of the launch's seeds have come there, on the mean of their
values there; a seed that comes first waits at its checkpoint for the others. So points are compared
by means over the same seeds, and no mean over those that were left is ranked against a whole one.
With one seed a trial is judged as it comes.

A point of which a seed diverged is stopped: it can have no mean. One of which a seed failed for
another reason, or has run to its end already (another seed was asked for later), is judged no more.
A point that the rule guards is compared like any other, and goes on whatever comes of it.
What was decided is read from the record: a restarted driver decides as the dead one did, or once
more where no seed has gone on since.
"""

from __future__ import annotations

import statistics
from dataclasses import replace
from enum import Enum

from orchestrator.stores.trial_record import TrialRecord
from orchestrator.study.early_stopping import Judge, StoppingRule
from orchestrator.study.launch import Launch
from orchestrator.trials.trained_again import TrainedAgain
from orchestrator.trials.trial_table import Trials


class Verdict(Enum):
    GO_ON = "go on"
    WAIT = "wait for the other seeds"
    STOP = "stop"


class SeedGroups:
    """The points of one launch under its stopping rule; without one, everything goes on.

    A point is named by its `cell_hash`. Trials that are to be trained again count as not run, and
    nothing stops a promoted point.
    """

    def __init__(
        self, launch: Launch, trials: Trials, *, again: TrainedAgain | None = None
    ) -> None:
        self._trials = trials
        again = again or TrainedAgain()
        self._promoted = again.promoted
        self._launch = launch.name
        self._seeds = frozenset(launch.seeds)
        self._cost = launch.study.measure.cost
        self._num_steps = launch.base.train.num_steps  # of records that do not say
        self._members: dict[str, dict[int, int]] = {}  # point -> seed -> number of the trial
        self._ids: dict[str, int] = {}
        self._passed: dict[str, int] = {}  # rungs that a point has gone on from
        self._stopped: set[str] = set()
        rule = launch.study.early_stopping
        self._rule: StoppingRule | None = rule
        # A judge for each corpus: on easier text every loss is lower
        self._judges: dict[str | None, Judge] = {}
        for record in trials:
            if not again.has(record):
                self.add(record)
        if rule is not None:
            self._read_record()

    def add(self, record: TrialRecord) -> None:
        """A trial of the launch, new or read; one of an older configuration is of no point."""
        if record.is_older:
            return
        self._ids.setdefault(record.cell_hash, len(self._ids))
        self._members.setdefault(record.cell_hash, {})[record.seed] = record.number

    def members(self, point: str) -> list[TrialRecord]:
        return [self._trials[number] for number in self._members.get(point, {}).values()]

    def is_stopped(self, point: str) -> bool:
        return point in self._stopped

    def waits(self, record: TrialRecord) -> bool:
        """Whether a trial stands at a rung where its point is not judged yet."""
        rung = self._next_rung(record)
        return (
            rung is not None
            and record.seed in self._seeds
            and self._settled(self._of_launch(record.cell_hash)) is None
            and self._arrival(record, rung) is not None
        )

    def evaluated(self, record: TrialRecord, step: int, value: float) -> Verdict:
        """What follows from an evaluation before the last one, which `record` may not hold yet."""
        if record.cell_hash in self._stopped:
            return Verdict.STOP
        rung = self._next_rung(record)
        if rung is None or step < rung or record.seed not in self._seeds:
            return Verdict.GO_ON
        return self._decide(replace(record, curve={step: value, **record.curve}), rung)

    def settle(self, record: TrialRecord) -> Verdict:
        """What follows for the other seeds from the end of a trial."""
        if record.cell_hash in self._stopped:
            return Verdict.STOP
        rung = self._next_rung(record)
        return Verdict.GO_ON if rung is None else self._decide(record, rung)

    # A point at its next rung --------------------------------------------------------------------

    def _decide(self, newest: TrialRecord, rung: int) -> Verdict:
        """`newest` is one of the point's trials as it is now."""
        point = newest.cell_hash
        members = self._of_launch(point)
        if newest.seed in members:
            members[newest.seed] = newest
        if (settled := self._settled(members)) is not None:
            if settled is Verdict.STOP:
                self._stopped.add(point)
            return settled
        if not self._have_come(members, rung):
            return Verdict.WAIT
        if self._judged(point, members, rung):
            self._stopped.add(point)
            return Verdict.STOP
        return Verdict.GO_ON

    @staticmethod
    def _settled(members: dict[int, TrialRecord]) -> Verdict | None:
        """The verdict on a point that no rung is to judge, whatever its values there."""
        if any(record.diverged or record.state == "pruned" for record in members.values()):
            return Verdict.STOP
        if any(record.state in ("complete", "failed") for record in members.values()):
            return Verdict.GO_ON
        return None

    def _have_come(self, members: dict[int, TrialRecord], rung: int) -> bool:
        arrivals = [self._arrival(record, rung) for record in members.values()]
        return self._seeds <= members.keys() and None not in arrivals

    def _judged(self, point: str, members: dict[int, TrialRecord], rung: int) -> bool:
        """Shows the rule the mean at a rung that all seeds have come to; whether it stops there."""
        assert self._rule is not None
        corpus = next(iter(members.values())).corpus_digest
        judge = self._judges.setdefault(corpus, self._rule.judge())
        arrivals = [self._arrival(record, rung) for record in members.values()]
        step = max(step for step, _ in arrivals)
        mean = statistics.fmean(value for _, value in arrivals)
        num_steps = self._length(next(iter(members.values())))
        rungs = self._rule.rungs(num_steps)
        self._passed[point] = sum(reached <= step for reached in rungs)
        params = next(iter(members.values())).params
        stops = judge.stops(self._ids[point], step, num_steps, self._cost(mean), params)
        spared = point in self._promoted or self._rule.guards(self._launch, point)
        return stops and not spared

    def _of_launch(self, point: str) -> dict[int, TrialRecord]:
        return {r.seed: r for r in self.members(point) if r.seed in self._seeds}

    def _next_rung(self, record: TrialRecord) -> int | None:
        """The first that the point has not gone on from; None where none is left."""
        if self._rule is None:
            return None
        left = self._rule.rungs(self._length(record))[self._passed.get(record.cell_hash, 0) :]
        return left[0] if left else None

    def _arrival(self, record: TrialRecord, rung: int) -> tuple[int, float] | None:
        """Step and value of the trial's first evaluation at or past a rung, before the last one."""
        last = self._length(record)
        steps = [step for step in record.curve if rung <= step < last]
        return (min(steps), record.curve[min(steps)]) if steps else None

    def _length(self, record: TrialRecord) -> int:
        return record.num_steps or self._num_steps

    # What earlier drivers saw --------------------------------------------------------------------

    def _read_record(self) -> None:
        """Points that have ended first: those still open are judged among all of them."""
        opened = []
        for point in self._members:
            members = self._of_launch(point)
            if not members:
                continue
            settled = self._settled(members)
            if settled is Verdict.STOP:
                self._stopped.add(point)
            if settled is None:
                opened.append(point)
            else:
                self._pass_rungs(point, members, only_left=False)
        for point in opened:
            self._pass_rungs(point, self._of_launch(point), only_left=True)
        for point in opened:
            members = self._of_launch(point)
            record = next(iter(members.values()))
            rung = self._next_rung(record)
            if rung is not None and self._have_come(members, rung):
                self._decide(record, rung)

    def _pass_rungs(self, point: str, members: dict[int, TrialRecord], *, only_left: bool) -> None:
        """Shows the rule the rungs that all seeds have come to; `only_left`: and one has left."""
        record = next(iter(members.values()))
        while (rung := self._next_rung(record)) is not None and self._have_come(members, rung):
            came = max(self._arrival(r, rung)[0] for r in members.values())
            if only_left and not any(max(r.curve) > came for r in members.values()):
                return
            self._judged(point, members, rung)
