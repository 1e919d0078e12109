"""The MLflow side: the record of results.

One experiment a launch, one parent run in it, one child run a trial. The driver creates and ends
every run; metrics go through a spool (see `orchestrator.stores.outbox_files`), so that they outlive
driver and server. Whatever a reader of Optuna needs to find here is a tag.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from moe.metrics import STEP, TIMESTAMP_MS
from orchestrator.base.errors import LaunchHeld, StudyError
from orchestrator.base.home import Home
from orchestrator.base.urls import redact, without_credentials
from orchestrator.stores.finished_run import FinishedRun
from orchestrator.stores.mlflow_client import search_runs
from orchestrator.stores.mlflow_refusals import reason
from orchestrator.stores.moved_home import artifact_folder
from orchestrator.stores.outbox import Courier, is_permanent, spool_path
from orchestrator.stores.outbox_files import Spool, SpoolHeld
from orchestrator.stores.parent_run import (
    OWNER,
    TRAINING_VIEW,
    NamedLaunch,
    begin_parent,
    open_experiment,
    open_parent,
)
from orchestrator.study.launch import Point, mlflow_params

TRIAL_NUMBER = "optuna.trial_number"
_PARENT_RUN_ID = "mlflow.parentRunId"
LOCAL_PAGE = "http://127.0.0.1:5000"  # the first port that `moe-study ui` takes
CLOSE_TIMEOUT_S = 30.0
LOOP_PATIENCE_S = 1.5  # how long Tune's loop, and with it the trials' reports, may wait for a run
_RETRY_S = 1.0
_SPOOLED_POINTS = 1000


class Away(Exception):
    """The store does not answer: what needs it waits."""


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """A trial's run as MLflow has it."""

    run_id: str
    status: str
    tags: Mapping[str, str]
    metrics: Mapping[str, float]

    @property
    def trial_number(self) -> int:
        return int(self.tags[TRIAL_NUMBER])


class Tracking:
    """One launch's experiment. `close` says whether all metrics were delivered."""

    def __init__(
        self, client: MlflowClient, courier: Courier, experiment_id: str, parent: Run, owner: str
    ) -> None:
        self._client = client
        self._courier = courier
        self._owner = owner
        self._requests: dict[int, Future[str]] = {}
        self._made: dict[int, str] = {}
        self._doubtful: set[int] = set()
        self._is_slow = False
        self._retry_at = 0.0
        self.patience_s: float | None = None
        # Clocks are set back, and no run may end before it began or before its last point.
        self._clock_offset_ns = time.time_ns() - time.monotonic_ns()
        self._latest_ms: dict[str, int] = {}
        self.experiment_id = experiment_id
        self._parent = parent
        self._saw(self.parent_run_id, parent.info.start_time)

    @classmethod
    def open(
        cls, client: MlflowClient, launch: NamedLaunch, home: Home, *, owner: str, uri: str
    ) -> Tracking:
        """`owner` is the record of the search that these runs belong to: several homes may share
        one server, and neither may touch the other's runs.

        Raises StudyError where the store goes away, LaunchHeld where its spool is being delivered.
        """
        try:
            courier = Courier(client, Spool(spool_path(home, launch.name, uri)))
        except SpoolHeld as error:
            raise LaunchHeld(f"{error}. Wait for it, then run again.") from None
        with away_named(client):
            # What a dead driver left goes first: it may still hold the end of a run.
            courier.deliver_pending()
            artifacts = home.artifacts / artifact_folder(launch.name)
            experiment_id = open_experiment(client, launch, artifacts)
            parent = open_parent(client, experiment_id, launch, owner)
        courier.start()
        return cls(client, courier, experiment_id, parent, owner)

    def begin(self) -> None:
        """The parent run goes on. Raises StudyError where the store goes away."""
        with away_named(self._client):
            begin_parent(self._client, self._parent)

    def abandon(self) -> None:
        """What could not begin leaves the parent run as it ended last; a new one ends as KILLED."""
        if self._parent.info.status == "RUNNING":
            self.close("KILLED")
        else:
            self._courier.close(CLOSE_TIMEOUT_S)

    @property
    def parent_run_id(self) -> str:
        return self._parent.info.run_id

    @property
    def page(self) -> str:
        """Address of MLflow's page: its server's, or of a local store where `ui` shows it."""
        uri = self._client.tracking_uri
        return without_credentials(uri).rstrip("/") if uri.startswith("http") else LOCAL_PAGE

    def link(self, run_id: str) -> str:
        """Of a run on MLflow's page."""
        return f"{self.page}/#/experiments/{self.experiment_id}/runs/{run_id}?{TRAINING_VIEW}"

    @property
    def spool(self) -> Path:
        return self._courier.spool.path

    @property
    def reachable(self) -> bool:
        return self._courier.reachable

    @property
    def rejected(self) -> list[str]:
        return self._courier.rejected

    def runs(self) -> list[RunInfo]:
        """All runs of trials. Seconds for thousands: for reconciling only."""
        query = f"tags.`{TRIAL_NUMBER}` LIKE '%' AND tags.`{OWNER}` = '{self._owner}'"
        with away_named(self._client):
            found = search_runs(self._client, self.experiment_id, query)
        for run in found:
            self._saw(run.info.run_id, run.info.start_time)
        return [
            RunInfo(
                run_id=run.info.run_id,
                status=run.info.status,
                tags=run.data.tags,
                metrics=run.data.metrics,
            )
            for run in found
        ]

    def _saw(self, run_id: str, timestamp_ms: int) -> None:
        self._latest_ms[run_id] = max(timestamp_ms, self._latest_ms.get(run_id, 0))

    def create_run(self, point: Point, *, number: int, tags: Mapping[str, str]) -> str:
        """A run that knows its trial; what else is known before it starts is on its way there.

        With `patience_s` set, a slow store holds the caller up that long once, and is then asked
        for its answer. Raises Away where it has none yet, StudyError where it refuses for good.
        """
        request = self._requests.get(number)
        wait = 0.0 if self._is_slow and self.patience_s is not None else self.patience_s
        if request is None:
            if wait == 0 and time.monotonic() < self._retry_at:
                raise Away("MLflow is away")
            request = _in_background(lambda: self._create_run(point, number=number, tags=tags))
            self._requests[number] = request
        self._is_slow = True
        try:
            run_id = request.result(timeout=wait)
        except FutureTimeout:
            self._doubtful.add(number)
            raise Away("MLflow has not answered yet") from None
        except (MlflowException, OSError) as error:
            del self._requests[number]
            self._doubtful.add(number)
            self._retry_at = time.monotonic() + _RETRY_S
            if isinstance(error, MlflowException) and is_permanent(error):
                raise StudyError(
                    f"MLflow refuses the run of trial {number} ({error.error_code}). Was the "
                    "experiment deleted? The same command goes on once it is restored."
                ) from None
            raise Away(f"MLflow is away: {reason(error)}") from None
        self._is_slow = False
        del self._requests[number]
        self._made[number] = run_id
        self._courier.send(
            {
                "op": "inputs",
                "run_id": run_id,
                "params": mlflow_params(point.config),
                "dataset": _dataset(point),
            }
        )
        config = {"file": "config.json", "text": point.config.to_json()}
        self._courier.send({"op": "text", "run_id": run_id, **config})
        self.set_status(run_id, "SCHEDULED")
        return run_id

    def _create_run(self, point: Point, *, number: int, tags: Mapping[str, str]) -> str:
        # A store that was away may have made the run all the same: that one is taken then.
        begun = self._runs_of(number) if number in self._doubtful else []
        if begun:
            return begun[0]
        accounting = point.accounting
        run = self._client.create_run(
            self.experiment_id,
            run_name=f"{point.cell}-seed{point.seed}",
            tags={
                _PARENT_RUN_ID: self.parent_run_id,
                OWNER: self._owner,
                TRIAL_NUMBER: str(number),
                "cell": point.cell,
                "seed": str(point.seed),
                "config_hash": point.config_hash,
                "cell_hash": point.cell_hash,
                "params_total": str(accounting.params_total),
                "params_active": str(accounting.params_active),
                "flops_per_token": str(accounting.flops_per_token),
                **tags,
            },
        )
        return run.info.run_id

    def adopt_run(
        self,
        run: FinishedRun,
        *,
        number: int,
        tags: Mapping[str, str],
        config: str | None,
        artifacts: Sequence[tuple[str, str | None]] = (),
    ) -> str:
        """A run that ended in another store, with its own times; all but its making is spooled.

        Raises StudyError where the store does not answer.
        """
        own = {
            _PARENT_RUN_ID: self.parent_run_id,
            OWNER: self._owner,
            TRIAL_NUMBER: str(number),
        }
        with away_named(self._client):
            run_id = self._client.create_run(
                self.experiment_id,
                start_time=run.start_ms,
                run_name=run.name,
                tags={**run.tags, **tags, **own},
            ).info.run_id
        for params, dataset in zip_longest([run.params], run.datasets, fillvalue=None):
            entry = {"params": dict(params or {}), "dataset": dataset}
            self._courier.send({"op": "inputs", "run_id": run_id, **entry})
        if config is not None:
            text = {"file": "config.json", "text": config}
            self._courier.send({"op": "text", "run_id": run_id, **text})
        for start in range(0, len(run.points), _SPOOLED_POINTS):
            points = [list(point) for point in run.points[start : start + _SPOOLED_POINTS]]
            self._courier.send({"op": "metrics", "run_id": run_id, "points": points})
        for path, folder in artifacts:
            self.log_artifact(run_id, path, folder)
        end = {"status": run.status, "end_time": run.end_ms}
        self._courier.send({"op": "end", "run_id": run_id, **end})
        return run_id

    def _runs_of(self, number: int) -> list[str]:
        query = f"tags.`{TRIAL_NUMBER}` = '{number}' AND tags.`{OWNER}` = '{self._owner}'"
        return [run.info.run_id for run in search_runs(self._client, self.experiment_id, query)]

    def _discard_strays(self) -> None:
        """Runs that a store made after all, when it was no longer waited for."""
        with suppress(MlflowException, OSError):
            for number in self._doubtful:
                for run_id in self._runs_of(number):
                    if run_id != self._made.get(number):
                        self.discard(run_id)

    def discard(self, run_id: str) -> None:
        self._client.set_terminated(run_id, "KILLED")
        self._client.delete_run(run_id)

    def set_status(self, run_id: str, status: str) -> None:
        self._courier.send({"op": "status", "run_id": run_id, "status": status})

    def set_tags(self, run_id: str, tags: Mapping[str, Any]) -> None:
        self._courier.send({"op": "tags", "run_id": run_id, "tags": dict(tags)})

    def log(self, run_id: str, entries: Sequence[Mapping[str, Any]]) -> None:
        """Entries of a curve, each with its step and the timestamp of its first writing."""
        points = [
            [key, float(value), int(entry[TIMESTAMP_MS]), int(entry[STEP])]
            for entry in entries
            for key, value in entry.items()
            if key not in (STEP, TIMESTAMP_MS) and _is_number(value)
        ]
        if points:
            self._saw(run_id, max(timestamp_ms for _, _, timestamp_ms, _ in points))
            self._courier.send({"op": "metrics", "run_id": run_id, "points": points})

    def log_artifact(self, run_id: str, path: str | Path, folder: str | None = None) -> None:
        """A path within the home is written down from there: the home may move before it goes."""
        root = self.spool.parent.parent
        path = Path(path).relative_to(root) if Path(path).is_relative_to(root) else path
        self._courier.send(
            {"op": "artifact", "run_id": run_id, "path": str(path), "folder": folder}
        )

    def end(self, run_id: str, status: str) -> None:
        self._saw(run_id, (time.monotonic_ns() + self._clock_offset_ns) // 10**6)
        end_time = self._latest_ms[run_id]
        self._courier.send({"op": "end", "run_id": run_id, "status": status, "end_time": end_time})

    def close(self, parent_status: str) -> bool:
        """Whether all that was to be delivered is; what is not stays in the spool."""
        try:
            self.end(self.parent_run_id, parent_status)
        finally:
            delivered = self._courier.close(CLOSE_TIMEOUT_S)
        if delivered:
            self._discard_strays()
        return delivered


@contextmanager
def away_named(client: MlflowClient) -> Iterator[None]:
    """Raises StudyError where the store stops answering while a launch begins."""
    try:
        yield
    except (MlflowException, OSError) as error:
        raise StudyError(
            f"the MLflow store {redact(client.tracking_uri)} stopped answering: {reason(error)}. "
            "What was begun is kept: once it answers, the same command goes on."
        ) from None


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


def _dataset(point: Point) -> dict[str, str]:
    """As MLflow's `Dataset` takes it, within its limits of length."""
    data = point.config.data
    return {
        "name": data.corpus[:500],
        "digest": data.digest[:36],
        "source_type": "moe-study",
        "source": data.corpus,
        "profile": json.dumps({"tokenizer": data.tokenizer, "vocab_size": data.vocab_size}),
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
