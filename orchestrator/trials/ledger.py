"""The writer of both stores: every change of a trial of a running launch goes through here.

The life of a trial is drawn in docs/map.md: its states, who moves it, what each store says. The
ledger's arrows are its methods. Whom early stopping ends or lets wait is in `stopping`, how a
change is written in `trial_writer`. Two others write trials, and never beside a ledger at work:
`reconcile` what a driver left that died, before the next one starts, and `adoption` what an import
brings. The clock is a parameter: scheduling is tested without waiting.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution

from moe.config import ConfigError
from moe.metrics import STEP, TIMESTAMP_MS, TOKENS, Metric
from orchestrator.stores.mlflow_runs import MlflowRuns
from orchestrator.stores.optuna_trials import OptunaTrials
from orchestrator.stores.reuse import Finished
from orchestrator.stores.trial_record import DIVERGED_AT, ERROR, TrialRecord
from orchestrator.stores.trial_record import TOKENS as TOKENS_ATTRIBUTE
from orchestrator.study.constraints import Constraint
from orchestrator.study.launch import Launch, Point
from orchestrator.study.objectives import FIGURES, values_of
from orchestrator.trials.grid import note_of
from orchestrator.trials.sampling import distributions_at
from orchestrator.trials.seed_groups import SeedGroups
from orchestrator.trials.spending import LeftOut, Limits, Spending
from orchestrator.trials.stopping import Stopping
from orchestrator.trials.trained_again import TrainedAgain
from orchestrator.trials.trial_queue import More, TrialQueue
from orchestrator.trials.trial_table import TrialTable
from orchestrator.trials.trial_writer import Listener, TrialWriter

_ASK_EVERY_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """A trial that is to run now."""

    record: TrialRecord
    point: Point


class Ledger:
    """States of one launch's trials. Not thread-safe: the driver's loop is its only user.

    `records` are those that the launch has, with older configurations told apart.
    """

    def __init__(
        self,
        launch: Launch,
        search: OptunaTrials,
        tracking: MlflowRuns,
        *,
        records: Iterable[TrialRecord],
        finished_elsewhere: Mapping[str, Finished],
        run_tags: Mapping[str, str],
        point_tags: Callable[[Point], Mapping[str, str]] = lambda _: {},
        again: TrainedAgain | None = None,
        listener: Listener | None = None,
        say: Callable[[str], None] | None = None,
        limits: Limits | None = None,
        workers: int = 1,
        more: More | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._launch = launch
        self._search = search
        measured = [name for name in launch.study.objectives if name not in FIGURES]
        finished_elsewhere = {
            config_hash: found
            for config_hash, found in finished_elsewhere.items()
            if all(name in found.metrics for name in measured)
        }
        self._elsewhere = finished_elsewhere
        self._say = say or (lambda line: None)
        self._asked_at = -math.inf
        self._now = now
        self.trials = TrialTable(launch, records)
        self.spending = Spending(limits or Limits(), self.trials, workers=workers, now=now)
        self._writer = TrialWriter(
            launch,
            search,
            tracking,
            trials=self.trials,
            spending=self.spending,
            run_tags=run_tags,
            point_tags=point_tags,
            listener=listener,
            now=now,
        )
        self._groups = SeedGroups(launch, self.trials, again=again)
        self.queue = TrialQueue(
            launch,
            self.trials,
            self._add,
            groups=self._groups,
            draws=search,
            reusable=finished_elsewhere,
            spending=self.spending,
            again=again or TrainedAgain(),
            more=more,
        )
        self._stopping = Stopping(self._groups, self.trials, self.queue, self._writer)

    @property
    def measure(self) -> Metric:
        """What the trials are judged by."""
        return self._launch.study.measure

    @property
    def constraints(self) -> Sequence[Constraint]:
        """What bounds what the trials come to."""
        return self._launch.study.constraints

    def _add(
        self, point: Point, distributions: Mapping[str, BaseDistribution], note: str
    ) -> TrialRecord:
        record = self._writer.add(point, distributions, note)
        self._groups.add(record)
        return record

    # What is handed out --------------------------------------------------------------------------

    def next(
        self, *, patience_s: float | None = None, draw_patience_s: float | None = None
    ) -> Assignment | None:
        """The next trial to run, its MLflow run made; None if there is none, and, while others are
        under way, if its point is not drawn within `draw_patience_s` (None: it is waited for).

        A trial whose configuration was trained before, in this home, is completed from that result.
        Raises StoreUnavailable while MLflow does not answer within `patience_s` (None: its own
        timeout): no trial starts then.
        """
        self._stopping.end_seeds_of_stopped_points()
        self._take_in_enqueued()
        while (number := self.queue.next(draw_patience_s)) is not None:
            assignment = self._hand_out(number, patience_s)
            source = self._elsewhere.get(assignment.record.config_hash)
            if source is None:
                return assignment
            self._reuse(assignment.record, source)
        return None

    def _take_in_enqueued(self) -> None:
        """Points that somebody asked for since, by `moe-study enqueue` or in Optuna's own way."""
        now = self._now()
        if self.queue.has_waiting and now - self._asked_at < _ASK_EVERY_S:
            return
        self._asked_at = now
        for asked in self._search.enqueued():
            try:
                point = self.queue.asked_point(asked.values)
            except ConfigError as error:
                self._search.refuse(asked, str(error))
                self._say(f"trial {asked.number}, enqueued in Optuna, is refused: {error}")
                continue
            note = note_of(point, self._launch.base_point())
            distributions = distributions_at(self._launch, point.overrides)
            record = self._writer.take_in(asked, point, distributions=distributions, note=note)
            self._groups.add(record)
            self.queue.put_asked(record, point)
            self._say(f"trial {record.number} is the enqueued point {point.cell}: tried next")

    def take(self, config_hash: str) -> Assignment | None:
        """The waiting trial of one configuration, its MLflow run made; None if there is none."""
        number = self.queue.waiting_with(config_hash)
        return None if number is None else self._hand_out(number)

    def _hand_out(self, number: int, patience_s: float | None = None) -> Assignment:
        record = self.trials[number]
        point = self.queue.point_of(record)
        record = self._writer.ensure_run(record, point, patience_s)
        self.queue.hand_out(number)
        self.trials.begin(number, point.tokens)
        return Assignment(record=record, point=point)

    def annotate(self, number: int, attributes: Mapping[str, Any]) -> None:
        """Attributes of a trial that has its run, in both stores."""
        self._writer.annotate(self.trials[number], attributes)

    def _reuse(self, record: TrialRecord, source: Finished) -> None:
        record = self._writer.start_from_result(record, source)
        entry = {**source.metrics, STEP: source.last_step, TIMESTAMP_MS: source.ended_ms}
        self.completed(record.number, entry, tokens=0)

    # What happens to a trial ---------------------------------------------------------------------

    def started(self, number: int) -> TrialRecord:
        return self._writer.start(self.trials[number])

    def restarted(self, number: int) -> TrialRecord:
        """A lost worker's trial goes on under the same number and run, as a new attempt."""
        return self._writer.begin_attempt(self.trials[number])

    def progressed(self, number: int, entry: Mapping[str, Any]) -> None:
        """One evaluation. A step that is in the record already is a replay, and changes nothing."""
        record = self.trials[number]
        if record.state == "running" and int(entry[STEP]) not in record.curve:
            self._writer.evaluated(record, entry)

    def judged(self, number: int, step: int, value: float) -> bool:
        """Whether early stopping ends a trial's process after an evaluation before its last: for
        good, or until its other seeds have come as far. `stopped` then hears of the end."""
        return self._stopping.judged(number, step, value)

    def stopped(self, number: int, *, tokens: int) -> None:
        """A trial's process has ended as `judged` said: it is pruned, or waits."""
        self._stopping.stopped(number, tokens=tokens)

    def completed(
        self,
        number: int,
        metrics: Mapping[str, Any],
        *,
        tokens: int,
        late: Sequence[Mapping[str, Any]] = (),
        artifacts: Sequence[tuple[str, str | None]] = (),
        attributes: Mapping[str, Any] | None = None,
    ) -> TrialRecord:
        """Raises nothing for a non-finite value: such a trial has failed, and says so."""
        record = self.trials[number]
        study = self._launch.study
        objectives = study.objectives or (study.metric,)
        values = values_of(objectives, metrics, self.queue.point_of(record).config)
        for name, value in values.items():
            if value is None or not math.isfinite(value):
                reason = f"the final {name} is {value}, not a finite number"
                return self.failed(number, reason, diverged_at=metrics.get(STEP))
        final = {
            key: float(v)
            for key, v in metrics.items()
            if key not in (STEP, TIMESTAMP_MS, TOKENS) and math.isfinite(v)
        }
        record = self._writer.complete(
            record,
            [float(value) for value in values.values()],
            final,
            entries=[*late, metrics],
            artifacts=artifacts,
            attributes={TOKENS_ATTRIBUTE: tokens, **(attributes or {})},
        )
        self._stopping.ended(record)
        return record

    def failed(
        self, number: int, reason: str, *, tokens: int = 0, diverged_at: int | None = None
    ) -> TrialRecord:
        """`diverged_at`: the step at which training left the finite numbers or its bound."""
        why: dict[str, Any] = {ERROR: reason}
        if diverged_at is not None:
            why[DIVERGED_AT] = diverged_at
        record = self._writer.fail(self.trials[number], why, tokens=tokens)
        self._stopping.ended(record)
        return record

    def released(self, number: int) -> TrialRecord:
        """An interrupted trial: it will go on under the same number, from its checkpoint."""
        return self._writer.release(self.trials[number])

    def requeued(self, number: int) -> None:
        """A lost trial that is to be handed out again before all others, as a new attempt."""
        self.released(number)
        self.trials.put_back(number)
        self.queue.put_first(number)

    def lost(self, number: int) -> None:
        """A trial's process is gone, and has yet to be started again: it spends nothing."""
        self.spending.lost(number)

    def go_on_with(self, workers: int) -> None:
        """Trials have another number of workers from now on: those that were handed out wait to be
        handed out again, before all others. Who waits at a rung for other seeds waits on."""
        for number in reversed([r.number for r in self.trials if self.trials.has_begun(r.number)]):
            if self.trials[number].state == "running":
                self.requeued(number)
            elif not self.queue.is_held(number):
                self.trials.put_back(number)
                self.queue.put_first(number)
        self.spending.workers = workers
        self._writer.run_with(workers)

    def release_running(self) -> None:
        for record in self.trials.running:
            self.released(record.number)

    @property
    def left_out(self) -> LeftOut | None:
        """What the limits kept from running; None where they kept nothing."""
        reason = self.queue.kept_back or self.spending.exhausted()
        unknown = {record.number for record in self.queue.unknown}
        waiting = [r.number for r in self.trials.waiting() if r.number not in unknown]
        not_drawn = self.queue.expected - len(self.trials)
        if not reason or not (waiting or not_drawn):
            return None
        return LeftOut(reason=reason, trials=waiting, trials_not_drawn=not_drawn)
