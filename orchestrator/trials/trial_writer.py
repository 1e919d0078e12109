"""How a change of a trial is written, to Optuna and to MLflow.

The order of writes is chosen so that a kill between any two leaves something that `reconcile` can
mend: what MLflow is to have is in the outbox before Optuna is told that a trial ended, and a run
carries its trial's number before the trial carries its run. Optuna changes nothing of a trial that
waits but its state: what is learnt of one meanwhile is written once it starts, or ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.trial import TrialState

from moe.code_digest import moe_digest
from moe.metrics import DEVICE_S, STEP
from orchestrator.stores.enqueued import Enqueued
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
    STATE_OF,
    TOKENS,
    WORKERS,
    WORKERS_BEFORE,
    TrialRecord,
)
from orchestrator.stores.trial_record import (
    DEVICE_S as DEVICE_S_ATTRIBUTE,
)
from orchestrator.study.launch import Launch, Point
from orchestrator.study.run_note import run_note
from orchestrator.trials.spending import Spending
from orchestrator.trials.trial_table import TrialTable

_DEVICE_S_EVERY_S = 60.0
_OPTUNA_STATE = {state: of_optuna for of_optuna, state in STATE_OF.items()}

Listener = Callable[[TrialRecord, Mapping[str, Any] | None], None]


class TrialWriter:
    """Every method leaves the trial, in both stores and in the table, as it is from now on."""

    def __init__(
        self,
        launch: Launch,
        search: OptunaTrials,
        tracking: MlflowRuns,
        *,
        trials: TrialTable,
        spending: Spending,
        run_tags: Mapping[str, str],
        point_tags: Callable[[Point], Mapping[str, str]],
        listener: Listener | None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._launch = launch
        self._search = search
        self._tracking = tracking
        self._trials = trials
        self._spending = spending
        self._run_tags = dict(run_tags)
        self._point_tags = point_tags
        differs = "-dirty" if run_tags.get("git.dirty") == "true" else ""
        self._commit = f"{run_tags[COMMIT]}{differs}" if COMMIT in run_tags else None
        self._listener = listener or (lambda record, metrics: None)
        self._now = now
        self._unwritten: dict[int, dict[str, Any]] = {}  # of trials that wait
        self._device_s: dict[int, float] = {}
        self._device_s_written: dict[int, float] = {}

    # Before it runs ------------------------------------------------------------------------------

    def add(
        self, point: Point, distributions: Mapping[str, BaseDistribution], note: str
    ) -> TrialRecord:
        """A new trial, waiting."""
        record = self._search.add_waiting(point, distributions=distributions, note=note)
        self._trials.put(record)
        return record

    def take_in(
        self,
        asked: Enqueued,
        point: Point,
        *,
        distributions: Mapping[str, BaseDistribution],
        note: str,
    ) -> TrialRecord:
        """The trial of a point that somebody enqueued, as one of the launch."""
        record = self._search.take_in(asked, point, distributions=distributions, note=note)
        self._trials.put(record)
        return record

    def ensure_run(
        self, record: TrialRecord, point: Point, patience_s: float | None = None
    ) -> TrialRecord:
        """With its MLflow run. Raises StoreUnavailable as `Ledger.next`."""
        if record.run_id is not None:
            return record
        run_id = self._tracking.create_run(
            point,
            number=record.number,
            note=run_note(self._launch, point),
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

    def run_with(self, workers: int) -> None:
        """Runs that are made or go on from now on are of so many workers."""
        self._run_tags[WORKERS] = str(workers)

    def annotate(self, record: TrialRecord, attributes: Mapping[str, Any]) -> TrialRecord:
        self._tracking.set_tags(record.run_id, attributes)
        return self._update(record, attributes=attributes)

    # While it runs -------------------------------------------------------------------------------

    def start(self, record: TrialRecord) -> TrialRecord:
        self._spending.heard(record.number)
        now = {ATTEMPT: record.attempt + 1, MOE_DIGEST: moe_digest()}
        now |= {COMMIT: self._commit} if self._commit else {}
        now |= self._workers_of(record)
        # What a driver wrote before it was killed between an ending's attributes and its state.
        kinds = (ERROR, DIVERGED_AT, METRICS, ORIGIN, REUSED_FROM)
        stale = {key: None for key in kinds if record.attributes.get(key)}
        self._search.set_state(record.trial_id, TrialState.RUNNING)
        self._tracking.set_status(record.run_id, "RUNNING")
        cleared = dict.fromkeys(stale.keys() - {METRICS}, "")
        self._tracking.set_tags(record.run_id, {**cleared, **now, **self._run_tags})
        return self._update(record, state="running", attributes={**stale, **now})

    def _workers_of(self, record: TrialRecord) -> dict[str, Any]:
        """How many train it from now on, and where these are not as many as before, how far it came
        with how many."""
        workers, before = self._run_tags.get(WORKERS), record.attributes.get(WORKERS)
        if workers is None or (workers == "1" and before is None):
            return {}  # what is not said is one: each attribute is a transaction
        if before in (None, workers) or not record.curve:
            return {WORKERS: workers}
        parts = [record.attributes.get(WORKERS_BEFORE), f"{before} to step {max(record.curve)}"]
        return {WORKERS: workers, WORKERS_BEFORE: ", ".join(filter(None, parts))}

    def start_from_result(self, record: TrialRecord, source: Finished) -> TrialRecord:
        """A trial that has another launch's result: its values until the last, and whose it is."""
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
        return record

    def begin_attempt(self, record: TrialRecord) -> TrialRecord:
        self._spending.heard(record.number)
        return self.annotate(record, {ATTEMPT: record.attempt + 1})

    def evaluated(self, record: TrialRecord, entry: Mapping[str, Any]) -> TrialRecord:
        """One evaluation, of a step that the record does not have."""
        self._tracking.log(record.run_id, [entry])
        if DEVICE_S in entry:
            record = self._note_device_s(record, entry)
        value, step = entry.get(self._launch.study.metric), int(entry[STEP])
        if value is not None:
            self._search.report(record.trial_id, step, float(value))
            record = replace(record, curve={**record.curve, step: float(value)})
        self._trials.put(record)
        self._listener(record, entry)
        return record

    def _note_device_s(self, record: TrialRecord, entry: Mapping[str, Any]) -> TrialRecord:
        """Written now and then: the launch of a killed driver still knows what it spent."""
        number = record.number
        self._device_s[number] = float(entry[DEVICE_S])
        self._spending.heard(number, entry)
        now = self._now()
        if now - self._device_s_written.setdefault(number, now) < _DEVICE_S_EVERY_S:
            return record
        self._device_s_written[number] = now
        return self._update(record, attributes=self._spent(number))

    def _spent(self, number: int) -> dict[str, float]:
        known = self._device_s.get(number)
        return {} if known is None else {DEVICE_S_ATTRIBUTE: known}

    # When it ends --------------------------------------------------------------------------------

    def release(self, record: TrialRecord) -> TrialRecord:
        """Waiting again: it will go on under the same number, from its checkpoint."""
        spent = self._spent(record.number)
        limited = self._spending.limits.any
        if limited and record.state == "running":  # the time since the last report counts too
            spent = {DEVICE_S_ATTRIBUTE: self._spending.device_s_of(record)}
        self._spending.ended(record.number)
        self._tracking.set_status(record.run_id, MLFLOW_STATUS_OF["waiting"])
        record = self._update(record, attributes=spent)
        self._search.set_state(record.trial_id, TrialState.WAITING)
        return self._update(record, state="waiting")

    def complete(
        self,
        record: TrialRecord,
        values: Sequence[float],
        final: Mapping[str, float],
        *,
        entries: Sequence[Mapping[str, Any]],
        artifacts: Sequence[tuple[str, str | None]],
        attributes: Mapping[str, Any],
    ) -> TrialRecord:
        """`values` are those of the objectives, or of the metric alone; `entries` the evaluations
        that MLflow does not have yet, `final` the metrics."""
        self._tracking.log(record.run_id, entries)
        for path, folder in artifacts:
            self._tracking.log_artifact(record.run_id, path, folder)
        self._tracking.set_tags(record.run_id, attributes)
        return self._end(record, "complete", {METRICS: final, **attributes}, values)

    def prune(self, record: TrialRecord, *, tokens: int) -> TrialRecord:
        last = max(record.curve, default=None)
        whole = last is not None and not self._launch.study.objectives
        values = [record.curve[last]] if whole else None
        return self._end(record, "pruned", {TOKENS: tokens, **self._spent(record.number)}, values)

    def fail(self, record: TrialRecord, why: Mapping[str, Any], *, tokens: int) -> TrialRecord:
        self._tracking.set_tags(record.run_id, why)
        attributes = {**why, TOKENS: tokens, **self._spent(record.number)}
        return self._end(record, "failed", attributes)

    def _end(
        self,
        record: TrialRecord,
        state: str,
        attributes: Mapping[str, Any],
        values: Sequence[float] | None = None,
    ) -> TrialRecord:
        if record.state == "waiting":  # it ended before it began
            self._search.set_state(record.trial_id, TrialState.RUNNING)
        attributes = {**self._unwritten.pop(record.number, {}), **attributes}
        self._search.set_attributes(record.trial_id, attributes)
        self._tracking.end(record.run_id, MLFLOW_STATUS_OF[state])
        self._search.set_state(record.trial_id, _OPTUNA_STATE[state], values)
        self._spending.ended(record.number)
        return self._update(
            record,
            state=state,
            value=values[0] if state == "complete" else None,
            values=tuple(values) if state == "complete" and len(values) > 1 else (),
            attributes=attributes,
            written=True,
        )

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
            tokens=merged.get(TOKENS) or 0,
            **changes,
        )
        self._trials.put(record)
        self._listener(record, None)
        return record
