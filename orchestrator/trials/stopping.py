"""Early stopping as it happens to trials: whose process ends, who waits, who is withdrawn.

What is decided on a point, and when, is `seed_groups`'.
"""

from __future__ import annotations

from orchestrator.stores.trial_record import TrialRecord
from orchestrator.trials.seed_groups import SeedGroups, Verdict
from orchestrator.trials.trial_queue import TrialQueue
from orchestrator.trials.trial_table import TrialTable
from orchestrator.trials.trial_writer import TrialWriter


class Stopping:
    """For the ledger alone."""

    def __init__(
        self, groups: SeedGroups, trials: TrialTable, queue: TrialQueue, writer: TrialWriter
    ) -> None:
        self._groups = groups
        self._trials = trials
        self._queue = queue
        self._writer = writer
        self._to_wait: set[int] = set()  # running trials that are to wait for their other seeds

    def judged(self, number: int, step: int, value: float) -> bool:
        """Whether a trial's process ends after an evaluation before its last: since the point is
        stopped, or until its other seeds have come as far. `stopped` then hears of the end."""
        verdict = self._groups.evaluated(self._trials[number], step, value)
        if verdict is Verdict.WAIT:
            self._to_wait.add(number)
        else:
            self._tell_seeds(self._trials[number], verdict)
        return verdict is not Verdict.GO_ON

    def stopped(self, number: int, *, tokens: int) -> None:
        """A trial's process has ended as `judged` said."""
        record = self._trials[number]
        if number not in self._to_wait:
            self._writer.prune(record, tokens=tokens)
            return
        self._to_wait.discard(number)
        record = self._writer.release(record)
        if self._groups.is_stopped(record.cell_hash):
            self._withdraw(record)
        elif self._groups.waits(record):
            self._queue.hold(number)
        else:  # the others came while the process was ending
            self._trials.put_back(number)
            self._queue.put_first(number)

    def ended(self, record: TrialRecord) -> None:
        """A trial has ended for another reason than early stopping."""
        self._to_wait.discard(record.number)
        self._tell_seeds(record, self._groups.settle(record))

    def end_seeds_of_stopped_points(self) -> None:
        """Those that an earlier driver was killed before it came to."""
        while (number := self._queue.next_stopped()) is not None:
            self._withdraw(self._trials[number])

    def _tell_seeds(self, record: TrialRecord, verdict: Verdict) -> None:
        """What was decided on a point, for its trials that wait."""
        if verdict is Verdict.WAIT:
            return
        for other in self._groups.members(record.cell_hash):
            if other.state != "waiting" or other.number in self._to_wait:
                continue
            if verdict is Verdict.STOP:
                self._withdraw(other)
            elif self._queue.is_held(other.number):
                self._trials.put_back(other.number)
                self._queue.release(other.number)

    def _withdraw(self, record: TrialRecord) -> None:
        """A waiting trial of a stopped point ends as its other seeds did, started or not."""
        record = self._writer.ensure_run(record, self._queue.point_of(record))
        self._queue.withdraw(record.number)
        self._writer.prune(record, tokens=self._trials.tokens_of(record))
