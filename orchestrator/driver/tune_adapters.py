"""Ray Tune's side of a launch: what Tune asks and tells is passed to the ledger, and nothing else.

Three small adapters around one ledger: a searcher (what runs next), a callback (what happened), a
scheduler (who is stopped early). Tune's own searcher for Optuna is not used: it leaves a trial that
ASHA stopped COMPLETE with its partial value and a trial with NaN RUNNING for ever, and never sends
the report at which a trial was stopped (measured).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ray.tune import Callback, Stopper
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from moe.metrics import STEP, TOKENS
from orchestrator.base.errors import BadInput, StudyError, halted
from orchestrator.base.run_files import artifacts_in
from orchestrator.cluster import failure_cause
from orchestrator.cluster.ray_private import last_failure
from orchestrator.driver.worker import EVENT, FAILED, FINAL, HALTED, PROGRESS, Job
from orchestrator.stores.run_requests import LOOP_PATIENCE_S, StoreUnavailable
from orchestrator.stores.trial_record import MOE_DIGEST, TrialRecord
from orchestrator.study.launch import Launch
from orchestrator.trials.ledger import Assignment, Ledger

log = logging.getLogger(__name__)

DRAW_PATIENCE_S = 0.1  # what the loop waits for an event too, before it asks again


def number_of(trial: Trial) -> int:
    return trial.config["job"]["number"]


class _NotPickled:
    """Tune pickles what it is given, to restore it. Here the stores are what is restored from."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class LedgerSearcher(_NotPickled, Searcher):
    """Asks the ledger for the next trial."""

    def __init__(
        self,
        ledger: Ledger,
        make_job: Callable[[Assignment], Job],
        *,
        first: Assignment,
        may_start: Callable[[], bool],
    ) -> None:
        super().__init__(metric="_", mode="min")
        self._ledger = ledger
        self._first: Assignment | None = first
        self._make_job = make_job
        self._may_start = may_start
        self._is_waiting = False
        self.failure: StudyError | None = None

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """A trial whose text cannot feed it (too short for its context) fails with the reason, and
        the next one is suggested: other points of its space have other text."""
        while True:
            suggested = self._suggest()
            if not isinstance(suggested, Assignment):
                return suggested
            try:
                return {"job": asdict(self._make_job(suggested))}
            except BadInput as error:
                number = suggested.record.number
                self._ledger.started(number)
                self._ledger.failed(number, str(error))

    def _suggest(self) -> Assignment | str | None:
        if not self._may_start():
            # While MLflow is away nothing starts; what runs ends, and the study with the last.
            is_over = self._first is None and self._ledger.queue.is_all_started
            return Searcher.FINISHED if is_over else None
        try:
            assignment = self._first or self._ledger.next(
                patience_s=LOOP_PATIENCE_S, draw_patience_s=DRAW_PATIENCE_S
            )
            self._first = None
        except StoreUnavailable as error:
            if not self._is_waiting:
                log.warning("no new trial starts for now: %s", error)
            self._is_waiting = True
            return None
        except StudyError as error:
            self.failure = error  # raised once Tune has ended its trials in order
            return Searcher.FINISHED
        self._is_waiting = False
        if assignment is None:
            return None if self._ledger.queue.may_have_more else Searcher.FINISHED
        return assignment

    def on_trial_complete(
        self, trial_id: str, result: dict | None = None, error: bool = False
    ) -> None:
        """The callback hears of it with the trial at hand."""

    def save(self, checkpoint_path: str) -> None:
        """The record is Optuna's storage: there is no second one to keep."""

    def restore(self, checkpoint_path: str) -> None:
        """See `save`."""


class StopWhen(_NotPickled, Stopper):
    """Ends all trials at once, and their actors, when `condition` holds.

    Tune tells no callback of it: the trials stay running in the ledger, which puts them back.
    """

    def __init__(self, condition: Callable[[], bool]) -> None:
        self._condition = condition

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._condition()


class LedgerCallback(_NotPickled, Callback):
    """Tells the ledger what happened to each trial."""

    def __init__(self, ledger: Ledger, run_folder: Callable[[TrialRecord], Path | None]) -> None:
        """`run_folder`: where this driver can read what a finished trial has left."""
        self._ledger = ledger
        self._run_folder = run_folder
        self._tokens: dict[int, int] = {}
        self._nodes: dict[int, dict[str, Any]] = {}
        self._recoveries: Counter[int] = Counter()
        self._recovering: set[int] = set()
        self.failure: StudyError | None = None

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        number = number_of(trial)
        self._recovering.discard(number)
        if self._ledger.trials[number].state == "waiting":
            self._ledger.started(number)
        else:
            self._ledger.restarted(number)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict, **_: Any
    ) -> None:
        number = number_of(trial)
        if result.get(EVENT) == PROGRESS:
            self._tokens[number] = int(result["entry"][TOKENS])
            self._nodes[number] = result["node"]
            self._ledger.progressed(number, result["entry"])

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **_: Any
    ) -> None:
        number = number_of(trial)
        result = trial.last_result or {}
        event = result.get(EVENT)
        if event == FAILED:
            tokens = self._tokens.get(number, 0)
            self._ledger.failed(
                number, result["error"], tokens=tokens, diverged_at=result["diverged_at"]
            )
        elif event == HALTED:
            self.failure = StudyError(halted(result["error"]))
            self._ledger.released(number)
        elif event == FINAL and not result["stopped"]:
            record = self._ledger.trials[number]
            folder = self._run_folder(record)
            self._ledger.completed(
                number,
                result["metrics"],
                tokens=int(result["spent_tokens"]),
                late=result["late"],
                artifacts=artifacts_in(folder) if folder is not None else [],
                attributes={MOE_DIGEST: "+".join(result["moe_digests"]), **result["machine"]},
            )
        elif event in (FINAL, PROGRESS):
            self._ledger.stopped(number, tokens=self._tokens.get(number, 0))
        else:
            self._ledger.failed(number, "the trial ended without a report")

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        number = number_of(trial)
        self._recoveries[number] += 1
        self._recovering.add(number)
        self._ledger.lost(number)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        number = number_of(trial)
        # One lost process may fail two of Tune's calls to it. The first has the trial recovered;
        # the second ends it, however many failures it is allowed (tune_controller.py, 2.60).
        if number in self._recovering and self._recoveries[number] <= trial.max_failures:
            self._recovering.discard(number)
            self._ledger.requeued(number)
            return
        reason = failure_cause.reason(last_failure(trial), self._nodes.get(number))
        self._ledger.failed(number, reason, tokens=self._tokens.get(number, 0))


class RuleScheduler(_NotPickled, FIFOScheduler):
    """Ends the processes of the trials that the ledger ends, or lets wait for their other seeds."""

    def __init__(self, launch: Launch, ledger: Ledger) -> None:
        super().__init__()
        self._metric = launch.study.metric
        self._ledger = ledger

    def on_trial_result(self, controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        if STEP not in result or self._metric not in result:
            return TrialScheduler.CONTINUE
        ends = self._ledger.judged(number_of(trial), int(result[STEP]), result[self._metric])
        return TrialScheduler.STOP if ends else TrialScheduler.CONTINUE


def make_scheduler(launch: Launch, ledger: Ledger) -> TrialScheduler:
    return RuleScheduler(launch, ledger) if launch.study.early_stopping else FIFOScheduler()
