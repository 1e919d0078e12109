"""The one writer of both stores: every change of a trial's state goes through here.

The life of a trial. Arrows are methods of `Ledger`; [in brackets] who calls them:

    TrialQueue plans the cells of a grid, or draws points of a space
        |
        v            next [searcher]: its MLflow run is made
      waiting ------------------------------------------------> handed out
        ^  ^                                                      |      |
        |  |                          started [callback]          |      | _reuse [next]: this home
        |  |                                                      v      | has its result already
        |  +-- released [callback, session] <------------------ running  |
        |        interrupted: out of device time, Ctrl-C        |     |  |
        +----- requeued [callback] <----------------------------+     |  |
                 its node was lost in the middle of a start           |  |
                                                                      |  |
      running stays running: progressed (an evaluation),              |  |
      restarted (a lost process goes on, as a new attempt)            |  |
                                                                      v  v
      complete <-- completed [callback]: its last step <--------------+--+
      pruned   <-- pruned    [callback]: the stopping rule <----------+
      failed   <-- failed    [callback]: diverged, lost too often <---+

| here     | Optuna   | MLflow    | after a kill -9, by `reconcile`                          |
|----------|----------|-----------|----------------------------------------------------------|
| waiting  | WAITING  | SCHEDULED | stays; a run that its trial does not name yet is removed |
| running  | RUNNING  | RUNNING   | waits: it goes on from its checkpoint                    |
| complete | COMPLETE | FINISHED  | MLflow gets its end, and the final metrics if it lacks   |
|          |          |           | them; where the two values differ, both stay and are told|
| pruned   | PRUNED   | KILLED    | MLflow gets its end                                      |
| failed   | FAIL     | FAILED    | MLflow gets its end; `--retry-failed` plans it anew      |

The order of writes is chosen so that a kill between any two leaves something that `reconcile` can
mend: what MLflow is to have is in the outbox before Optuna is told that a trial ended, and a run
carries its trial's number before the trial carries its run. The clock is a parameter: scheduling is
tested without waiting.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.trial import TrialState

from moe.code_digest import moe_digest
from moe.config import ConfigError
from moe.metrics import DEVICE_S, STEP, TIMESTAMP_MS, TOKENS, Metric
from orchestrator.stores.mlflow_runs import MlflowRuns
from orchestrator.stores.optuna_trials import OptunaTrials
from orchestrator.stores.reuse import Finished
from orchestrator.stores.trial_record import (
    ATTEMPT,
    CHECKPOINT_PLACE,
    COMMIT,
    DIVERGED_AT,
    ERROR,
    METRICS,
    MLFLOW_STATUS_OF,
    MOE_DIGEST,
    ORIGIN,
    REUSED_FROM,
    RUN_ID,
    RUN_LINK,
    TrialRecord,
)
from orchestrator.stores.trial_record import (
    DEVICE_S as DEVICE_S_ATTRIBUTE,
)
from orchestrator.stores.trial_record import (
    TOKENS as TOKENS_ATTRIBUTE,
)
from orchestrator.study.launch import Launch, Point
from orchestrator.trials.grid import note_of
from orchestrator.trials.sampling import distributions_at
from orchestrator.trials.seed_groups import SeedGroups, Verdict
from orchestrator.trials.spending import LeftOut, Limits, Spending
from orchestrator.trials.trial_queue import TrialQueue
from orchestrator.trials.trial_table import TrialTable

_DEVICE_S_EVERY_S = 60.0
_ASK_EVERY_S = 1.0

Listener = Callable[[TrialRecord, Mapping[str, Any] | None], None]


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """A trial that is to run now."""

    record: TrialRecord
    point: Point


class Ledger:
    """States of one launch's trials. Not thread-safe: the driver's loop is its only user."""

    def __init__(
        self,
        launch: Launch,
        search: OptunaTrials,
        tracking: MlflowRuns,
        *,
        finished_elsewhere: Mapping[str, Finished],
        run_tags: Mapping[str, str],
        point_tags: Callable[[Point], Mapping[str, str]] = lambda _: {},
        retry_failed: bool = False,
        listener: Listener | None = None,
        say: Callable[[str], None] | None = None,
        limits: Limits | None = None,
        workers: int = 1,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._launch = launch
        self._search = search
        self._tracking = tracking
        self._elsewhere = finished_elsewhere
        self._run_tags = dict(run_tags)
        self._point_tags = point_tags
        differs = "-dirty" if run_tags.get("git.dirty") == "true" else ""
        self._commit = f"{run_tags[COMMIT]}{differs}" if COMMIT in run_tags else None
        self._listener = listener or (lambda record, metrics: None)
        self._say = say or (lambda line: None)
        self._asked_at = -math.inf
        self.trials = TrialTable(launch, search.records())
        self.spending = Spending(limits or Limits(), self.trials, workers=workers, now=now)
        self._now = now
        # Of trials that wait: Optuna changes nothing of one but its state.
        self._unwritten: dict[int, dict[str, Any]] = {}
        self._device_s: dict[int, float] = {}
        self._device_s_written: dict[int, float] = {}
        self._groups = SeedGroups(launch, self.trials, retry_failed=retry_failed)
        self._to_wait: set[int] = set()  # running trials that are to wait for their other seeds
        self.queue = TrialQueue(
            launch,
            self.trials,
            self._add,
            groups=self._groups,
            draws=search,
            reusable=finished_elsewhere,
            spending=self.spending,
            retry_failed=retry_failed,
        )

    @property
    def measure(self) -> Metric:
        """What the trials are judged by."""
        return self._launch.study.measure

    def _add(
        self, point: Point, distributions: Mapping[str, BaseDistribution], note: str
    ) -> TrialRecord:
        record = self._search.add_waiting(point, distributions=distributions, note=note)
        self.trials.put(record)
        self._groups.add(record)
        return record

    # What is handed out --------------------------------------------------------------------------

    def next(self, *, patience_s: float | None = None) -> Assignment | None:
        """The next trial to run, its MLflow run made; None if there is none.

        A trial whose configuration was trained before, in this home, is completed from that result.
        Raises StoreUnavailable while MLflow does not answer within `patience_s` (None: its own
        timeout): no trial starts then.
        """
        self._end_seeds_of_stopped_points()
        self._take_in_enqueued()
        while (number := self.queue.next()) is not None:
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
            record = self._search.take_in(asked, point, distributions=distributions, note=note)
            self.trials.put(record)
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
        record = self._ensure_run(record, point, patience_s)
        self.queue.hand_out(number)
        self.trials.begin(number, point.tokens)
        return Assignment(record=record, point=point)

    def annotate(self, number: int, attributes: Mapping[str, Any]) -> None:
        """Attributes of a trial that has its run, in both stores."""
        record = self.trials[number]
        self._tracking.set_tags(record.run_id, attributes)
        self._update(record, attributes=attributes)

    def _ensure_run(
        self, record: TrialRecord, point: Point, patience_s: float | None = None
    ) -> TrialRecord:
        if record.run_id is not None:
            return record
        run_id = self._tracking.create_run(
            point,
            number=record.number,
            patience_s=patience_s,
            tags={
                "study": self._launch.study.name,
                "scale": self._launch.scale,
                "corpus_digest": str(point.corpus_digest),
                **self._point_tags(point),
                **self._run_tags,
            },
        )
        link = self._tracking.link(run_id)
        return self._update(record, attributes={RUN_ID: run_id, RUN_LINK: link})

    def _reuse(self, record: TrialRecord, source: Finished) -> None:
        self._search.set_state(record.trial_id, TrialState.RUNNING)
        attributes = {
            REUSED_FROM: source.run_id or source.launch,
            MOE_DIGEST: source.moe_digest,
            COMMIT: source.commit,
            **source.machine,
        }
        if source.checkpoint_place:
            attributes[CHECKPOINT_PLACE] = source.checkpoint_place
        record = self._update(record, state="running", attributes=attributes)
        self._tracking.set_tags(
            record.run_id,
            {
                REUSED_FROM: source.run_id,
                "reused_from_launch": source.launch,
                MOE_DIGEST: source.moe_digest,
                COMMIT: source.commit or "",
                **source.machine,
            },
        )
        same_metric = source.metric == self._launch.study.metric
        for step, value in sorted(source.curve.items()) if same_metric else ():
            self._search.report(record.trial_id, step, value)
        entry = {**source.metrics, STEP: source.last_step, TIMESTAMP_MS: source.ended_ms}
        self.completed(record.number, entry, tokens=0)

    # Early stopping ------------------------------------------------------------------------------

    def judged(self, number: int, step: int, value: float) -> bool:
        """Whether a trial's process ends after an evaluation before its last: since the point is
        stopped, or until its other seeds have come as far. `stopped` then hears of the end."""
        verdict = self._groups.evaluated(self.trials[number], step, value)
        if verdict is Verdict.WAIT:
            self._to_wait.add(number)
        else:
            self._tell_seeds(self.trials[number], verdict)
        return verdict is not Verdict.GO_ON

    def stopped(self, number: int, *, tokens: int) -> None:
        """A trial's process has ended as `judged` said."""
        if number not in self._to_wait:
            self.pruned(number, tokens=tokens)
            return
        self._to_wait.discard(number)
        record = self.released(number)
        if self._groups.is_stopped(record.cell_hash):
            self._withdraw(record)
        elif self._groups.waits(record):
            self.queue.hold(number)
        else:  # the others came while the process was ending
            self.trials.put_back(number)
            self.queue.put_first(number)

    def _tell_seeds(self, record: TrialRecord, verdict: Verdict) -> None:
        """What was decided on a point, for its trials that wait."""
        if verdict is Verdict.WAIT:
            return
        for other in self._groups.members(record.cell_hash):
            if other.state != "waiting" or other.number in self._to_wait:
                continue
            if verdict is Verdict.STOP:
                self._withdraw(other)
            elif self.queue.is_held(other.number):
                self.trials.put_back(other.number)
                self.queue.release(other.number)

    def _withdraw(self, record: TrialRecord) -> None:
        """A waiting trial of a stopped point ends as its other seeds did, started or not."""
        record = self._ensure_run(record, self.queue.point_of(record))
        self.queue.withdraw(record.number)
        self.pruned(record.number, tokens=self.trials.tokens_of(record))

    def _end_seeds_of_stopped_points(self) -> None:
        """Those that an earlier driver was killed before it came to."""
        while (number := self.queue.next_stopped()) is not None:
            self._withdraw(self.trials[number])

    # What happens to a trial ---------------------------------------------------------------------

    def started(self, number: int) -> TrialRecord:
        record = self.trials[number]
        self.spending.heard(number)
        now = {ATTEMPT: record.attempt + 1, MOE_DIGEST: moe_digest()}
        now |= {COMMIT: self._commit} if self._commit else {}
        # What a driver wrote before it was killed between an ending's attributes and its state.
        kinds = (ERROR, DIVERGED_AT, METRICS, ORIGIN, REUSED_FROM)
        stale = {key: None for key in kinds if record.attributes.get(key)}
        self._search.set_state(record.trial_id, TrialState.RUNNING)
        self._tracking.set_status(record.run_id, "RUNNING")
        cleared = dict.fromkeys(stale.keys() - {METRICS}, "")
        self._tracking.set_tags(record.run_id, {**cleared, **now, **self._run_tags})
        return self._update(record, state="running", attributes={**stale, **now})

    def restarted(self, number: int) -> TrialRecord:
        """A lost worker's trial goes on under the same number and run, as a new attempt."""
        record = self.trials[number]
        self._tracking.set_tags(record.run_id, {ATTEMPT: record.attempt + 1})
        return self._update(record, attributes={ATTEMPT: record.attempt + 1})

    def progressed(self, number: int, entry: Mapping[str, Any]) -> None:
        """One evaluation. A step that is in the record already is a replay, and changes nothing."""
        record = self.trials[number]
        step = int(entry[STEP])
        if record.state != "running" or step in record.curve:
            return
        self._tracking.log(record.run_id, [entry])
        self._note_device_s(number, entry)
        record = self.trials[number]
        value = entry.get(self._launch.study.metric)
        if value is not None:
            self._search.report(record.trial_id, step, float(value))
            record = replace(record, curve={**record.curve, step: float(value)})
        self.trials.put(record)
        self._listener(record, entry)

    def _note_device_s(self, number: int, entry: Mapping[str, Any]) -> None:
        """Written now and then: the launch of a killed driver still knows what it spent."""
        if DEVICE_S not in entry:
            return
        self._device_s[number] = float(entry[DEVICE_S])
        self.spending.heard(number, entry)
        now = self._now()
        if now - self._device_s_written.setdefault(number, now) >= _DEVICE_S_EVERY_S:
            self._device_s_written[number] = now
            self._update(self.trials[number], attributes=self._spent(number))

    def _spent(self, number: int) -> dict[str, float]:
        known = self._device_s.get(number)
        return {} if known is None else {DEVICE_S_ATTRIBUTE: known}

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
        value = metrics.get(self._launch.study.metric)
        if value is None or not math.isfinite(value):
            reason = f"the final {self._launch.study.metric} is {value}, not a finite number"
            return self.failed(number, reason, diverged_at=metrics.get(STEP))
        final = {
            key: float(v)
            for key, v in metrics.items()
            if key not in (STEP, TIMESTAMP_MS, TOKENS) and math.isfinite(v)
        }
        self._tracking.log(record.run_id, [*late, metrics])
        for path, folder in artifacts:
            self._tracking.log_artifact(record.run_id, path, folder)
        self._tracking.set_tags(record.run_id, {TOKENS_ATTRIBUTE: tokens, **(attributes or {})})
        return self._end(
            record,
            "complete",
            TrialState.COMPLETE,
            value=float(value),
            attributes={METRICS: final, TOKENS_ATTRIBUTE: tokens, **(attributes or {})},
        )

    def pruned(self, number: int, *, tokens: int) -> TrialRecord:
        record = self.trials[number]
        last = max(record.curve, default=None)
        return self._end(
            record,
            "pruned",
            TrialState.PRUNED,
            value=None if last is None else record.curve[last],
            attributes={TOKENS_ATTRIBUTE: tokens, **self._spent(number)},
        )

    def failed(
        self, number: int, reason: str, *, tokens: int = 0, diverged_at: int | None = None
    ) -> TrialRecord:
        """`diverged_at`: the step at which training left the finite numbers or its bound."""
        record = self.trials[number]
        why: dict[str, Any] = {ERROR: reason}
        if diverged_at is not None:
            why[DIVERGED_AT] = diverged_at
        self._tracking.set_tags(record.run_id, why)
        return self._end(
            record,
            "failed",
            TrialState.FAIL,
            attributes={**why, TOKENS_ATTRIBUTE: tokens, **self._spent(number)},
        )

    def released(self, number: int) -> TrialRecord:
        """An interrupted trial: it will go on under the same number, from its checkpoint."""
        record = self.trials[number]
        spent = self._spent(number)
        limited = self.spending.limits.any
        if limited and record.state == "running":  # the time since the last report counts too
            spent = {DEVICE_S_ATTRIBUTE: self.spending.device_s_of(record)}
        self.spending.ended(number)
        self._tracking.set_status(record.run_id, MLFLOW_STATUS_OF["waiting"])
        record = self._update(record, attributes=spent)
        self._search.set_state(record.trial_id, TrialState.WAITING)
        return self._update(record, state="waiting")

    def requeued(self, number: int) -> None:
        """A lost trial that is to be handed out again before all others, as a new attempt."""
        self.released(number)
        self.trials.put_back(number)
        self.queue.put_first(number)

    def release_running(self) -> None:
        for record in self.trials.running:
            self.released(record.number)

    @property
    def left_out(self) -> LeftOut | None:
        """What the limits kept from running; None where they kept nothing."""
        reason = self.spending.refused or self.spending.exhausted()
        unknown = {record.number for record in self.queue.unknown}
        waiting = [r.number for r in self.trials.waiting() if r.number not in unknown]
        not_drawn = self.queue.expected - len(self.trials)
        if not reason or not (waiting or not_drawn):
            return None
        return LeftOut(reason=reason, trials=waiting, trials_not_drawn=not_drawn)

    def _end(
        self,
        record: TrialRecord,
        state: str,
        optuna_state: TrialState,
        *,
        value: float | None = None,
        attributes: Mapping[str, Any],
    ) -> TrialRecord:
        if record.state == "waiting":  # it ended before it began
            self._search.set_state(record.trial_id, TrialState.RUNNING)
        attributes = {**self._unwritten.pop(record.number, {}), **attributes}
        self._search.set_attributes(record.trial_id, attributes)
        self._tracking.end(record.run_id, MLFLOW_STATUS_OF[state])
        self._search.set_state(record.trial_id, optuna_state, value)
        self.spending.ended(record.number)
        record = self._update(
            record,
            state=state,
            value=value if state == "complete" else None,
            attributes=attributes,
            written=True,
        )
        self._to_wait.discard(record.number)
        if state != "pruned":
            self._tell_seeds(record, self._groups.settle(record))
        return record

    def _update(
        self,
        record: TrialRecord,
        *,
        attributes: Mapping[str, Any] | None = None,
        written: bool = False,
        **changes: Any,
    ) -> TrialRecord:
        attributes = dict(attributes or {})
        if changes.get("state", record.state) == "waiting":
            self._unwritten.setdefault(record.number, {}).update(attributes)
        elif not written:
            attributes = {**self._unwritten.pop(record.number, {}), **attributes}
            self._search.set_attributes(record.trial_id, attributes)
        merged = {**record.attributes, **attributes}
        record = replace(
            record,
            attributes=merged,
            run_id=merged.get(RUN_ID),
            error=merged.get(ERROR),
            attempt=merged.get(ATTEMPT, 0),
            tokens=merged.get(TOKENS_ATTRIBUTE) or 0,
            **changes,
        )
        self.trials.put(record)
        self._listener(record, None)
        return record
