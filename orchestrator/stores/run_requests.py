"""Runs of trials, asked of an MLflow that may be slow or away, without holding up the driver.

Each request has a thread of its own: it may hang for its whole timeout. A store that was away may
have made the run all the same, so what was in doubt is looked for before it is made again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout

from mlflow.exceptions import MlflowException

from orchestrator.base.errors import StudyError
from orchestrator.stores.mlflow_refusals import reason
from orchestrator.stores.outbox import is_permanent

LOOP_PATIENCE_S = 1.5  # how long Tune's loop, and with it the trials' reports, may wait for a run
_RETRY_S = 1.0


class StoreUnavailable(Exception):
    """The store does not answer: what needs it waits."""


class RunRequests:
    """One request a trial at a time. `find` gives the ids of the runs that a trial has already."""

    def __init__(self, find: Callable[[int], list[str]]) -> None:
        self._find = find
        self._pending: dict[int, Future[str]] = {}
        self._made: dict[int, str] = {}
        self._doubtful: set[int] = set()
        self._is_slow = False
        self._retry_at = 0.0

    def run_of(self, number: int, make: Callable[[], str], *, patience_s: float | None) -> str:
        """The id of the trial's new run.

        With `patience_s` a slow store holds the caller up that long once, and is then asked for its
        answer; None waits for it. Raises StoreUnavailable where there is none yet, StudyError where
        the store refuses for good.
        """
        request = self._pending.get(number)
        wait = 0.0 if self._is_slow and patience_s is not None else patience_s
        if request is None:
            if wait == 0 and time.monotonic() < self._retry_at:
                raise StoreUnavailable("MLflow is away")
            request = _in_background(lambda: self._found_or_made(number, make))
            self._pending[number] = request
        self._is_slow = True
        try:
            run_id = request.result(timeout=wait)
        except FutureTimeout:
            self._doubtful.add(number)
            raise StoreUnavailable("MLflow has not answered yet") from None
        except (MlflowException, OSError) as error:
            del self._pending[number]
            self._doubtful.add(number)
            self._retry_at = time.monotonic() + _RETRY_S
            raise _named(error, number) from None
        self._is_slow = False
        del self._pending[number]
        self._made[number] = run_id
        return run_id

    def _found_or_made(self, number: int, make: Callable[[], str]) -> str:
        begun = self._find(number) if number in self._doubtful else []
        return begun[0] if begun else make()

    def strays(self) -> Iterator[str]:
        """Runs that the store made after all, when it was no longer waited for."""
        for number in self._doubtful:
            for run_id in self._find(number):
                if run_id != self._made.get(number):
                    yield run_id


def _named(error: Exception, number: int) -> Exception:
    if isinstance(error, MlflowException) and is_permanent(error):
        return StudyError(
            f"MLflow refuses the run of trial {number} ({error.error_code}). Was the experiment "
            "deleted? The same command goes on once it is restored."
        )
    return StoreUnavailable(f"MLflow is away: {reason(error)}")


def _in_background(work: Callable[[], str]) -> Future[str]:
    """In a thread that nobody waits for when the process ends: it may hang for its timeout."""
    future: Future[str] = Future()

    def answer() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=answer, name="mlflow-run", daemon=True).start()
    return future
