"""The MLflow side: the record of results.

One experiment a launch, one parent run in it, one child run a trial. The driver creates and ends
every run; metrics go through an outbox (`orchestrator.stores.outbox_files`), so that they outlive
driver and server. Whatever a reader of Optuna needs to find here is a tag.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
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
from orchestrator.stores.mlflow_private import NOTE_TAG, PARENT_RUN_TAG, TRAINING_VIEW
from orchestrator.stores.mlflow_refusals import reason
from orchestrator.stores.moved_home import artifact_folder
from orchestrator.stores.outbox import Outbox, outbox_path
from orchestrator.stores.outbox_files import OutboxFile, OutboxHeld
from orchestrator.stores.parent_run import (
    OWNER,
    NamedLaunch,
    begin_parent,
    open_experiment,
    open_parent,
)
from orchestrator.stores.run_requests import RunRequests
from orchestrator.study.launch import Point
from search_spaces.overlay import flatten

TRIAL_NUMBER = "optuna.trial_number"
LOCAL_PAGE = "http://127.0.0.1:5000"  # the first port that `moe-study ui` takes
CLOSE_TIMEOUT_S = 30.0
_OUTBOX_POINTS = 1000


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


class MlflowRuns:
    """One launch's experiment. `close` says whether all metrics were delivered."""

    def __init__(
        self, client: MlflowClient, outbox: Outbox, experiment_id: str, parent: Run, owner: str
    ) -> None:
        self._client = client
        self._outbox = outbox
        self._owner = owner
        self._requests = RunRequests(self._runs_of)
        self._ends = _EndTimes()
        self.experiment_id = experiment_id
        self._parent = parent
        self._ends.saw(self.parent_run_id, parent.info.start_time)

    @classmethod
    def open(
        cls, client: MlflowClient, launch: NamedLaunch, home: Home, *, owner: str, uri: str
    ) -> MlflowRuns:
        """`owner` is the record of the search that these runs belong to: several homes may share
        one server, and neither may touch the other's runs.

        Raises StudyError where the store goes away, LaunchHeld where its outbox is being delivered.
        """
        try:
            outbox = Outbox(client, OutboxFile(outbox_path(home, launch.name, uri)))
        except OutboxHeld as error:
            raise LaunchHeld(f"{error}. Wait for it, then run again.") from None
        with absence_named(client):
            # What a dead driver left goes first: it may still hold the end of a run.
            outbox.deliver_pending()
            artifacts = home.artifacts / artifact_folder(launch.name)
            experiment_id = open_experiment(client, launch, artifacts)
            parent = open_parent(client, experiment_id, launch, owner)
        outbox.start()
        return cls(client, outbox, experiment_id, parent, owner)

    def begin(self) -> None:
        """The parent run goes on. Raises StudyError where the store goes away."""
        with absence_named(self._client):
            begin_parent(self._client, self._parent)

    def abandon(self) -> None:
        """What could not begin leaves the parent run as it ended last; a new one ends as KILLED."""
        if self._parent.info.status == "RUNNING":
            self.close("KILLED")
        else:
            self._outbox.close(CLOSE_TIMEOUT_S)

    @property
    def parent_run_id(self) -> str:
        return self._parent.info.run_id

    @property
    def has_server(self) -> bool:
        return self._client.tracking_uri.startswith("http")

    @property
    def page(self) -> str:
        """Address of MLflow's page: its server's, or of a local store where `ui` shows it."""
        if self.has_server:
            return without_credentials(self._client.tracking_uri).rstrip("/")
        return LOCAL_PAGE

    def link(self, run_id: str) -> str:
        """Of a run on MLflow's page."""
        return f"{self.page}/#/experiments/{self.experiment_id}/runs/{run_id}?{TRAINING_VIEW}"

    @property
    def outbox_path(self) -> Path:
        return self._outbox.file.path

    @property
    def reachable(self) -> bool:
        return self._outbox.reachable

    @property
    def rejected(self) -> list[str]:
        return self._outbox.rejected

    def runs(self) -> list[RunInfo]:
        """All runs of trials. Seconds for thousands: for reconciling only."""
        query = f"tags.`{TRIAL_NUMBER}` LIKE '%' AND tags.`{OWNER}` = '{self._owner}'"
        with absence_named(self._client):
            found = search_runs(self._client, self.experiment_id, query)
        for run in found:
            self._ends.saw(run.info.run_id, run.info.start_time)
        return [
            RunInfo(
                run_id=run.info.run_id,
                status=run.info.status,
                tags=run.data.tags,
                metrics=run.data.metrics,
            )
            for run in found
        ]

    def create_run(
        self,
        point: Point,
        *,
        number: int,
        note: str,
        tags: Mapping[str, str],
        patience_s: float | None = None,
    ) -> str:
        """A run that knows its trial, with a note for its page; what else is known before it starts
        is on its way there.

        Raises StoreUnavailable and StudyError as `RunRequests.run_of` does, whose `patience_s` is.
        """
        run_id = self._requests.run_of(
            number,
            lambda: self._new_run(point, number, {NOTE_TAG: note, **tags}),
            patience_s=patience_s,
        )
        self._outbox.send(
            {
                "op": "inputs",
                "run_id": run_id,
                "params": {path: str(v) for path, v in flatten(point.config).items()},
                "dataset": _dataset(point),
            }
        )
        config = {"file": "config.json", "text": point.config.to_json()}
        self._outbox.send({"op": "text", "run_id": run_id, **config})
        self.set_status(run_id, "SCHEDULED")
        return run_id

    def _new_run(self, point: Point, number: int, tags: Mapping[str, str]) -> str:
        accounting = point.accounting
        run = self._client.create_run(
            self.experiment_id,
            run_name=f"{point.cell}-seed{point.seed}",
            tags={
                PARENT_RUN_TAG: self.parent_run_id,
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
        """A run that ended in another store, with its own times; what it has goes to the outbox.

        Raises StudyError where the store does not answer.
        """
        own = {
            PARENT_RUN_TAG: self.parent_run_id,
            OWNER: self._owner,
            TRIAL_NUMBER: str(number),
        }
        with absence_named(self._client):
            run_id = self._client.create_run(
                self.experiment_id,
                start_time=run.start_ms,
                run_name=run.name,
                tags={**run.tags, **tags, **own},
            ).info.run_id
        for params, dataset in zip_longest([run.params], run.datasets, fillvalue=None):
            entry = {"params": dict(params or {}), "dataset": dataset}
            self._outbox.send({"op": "inputs", "run_id": run_id, **entry})
        if config is not None:
            text = {"file": "config.json", "text": config}
            self._outbox.send({"op": "text", "run_id": run_id, **text})
        for start in range(0, len(run.points), _OUTBOX_POINTS):
            points = [list(point) for point in run.points[start : start + _OUTBOX_POINTS]]
            self._outbox.send({"op": "metrics", "run_id": run_id, "points": points})
        for path, folder in artifacts:
            self.log_artifact(run_id, path, folder)
        end = {"status": run.status, "end_time": run.end_ms}
        self._outbox.send({"op": "end", "run_id": run_id, **end})
        return run_id

    def _runs_of(self, number: int) -> list[str]:
        query = f"tags.`{TRIAL_NUMBER}` = '{number}' AND tags.`{OWNER}` = '{self._owner}'"
        return [run.info.run_id for run in search_runs(self._client, self.experiment_id, query)]

    def discard(self, run_id: str) -> None:
        self._client.set_terminated(run_id, "KILLED")
        self._client.delete_run(run_id)

    def set_status(self, run_id: str, status: str) -> None:
        self._outbox.send({"op": "status", "run_id": run_id, "status": status})

    def set_tags(self, run_id: str, tags: Mapping[str, Any]) -> None:
        self._outbox.send({"op": "tags", "run_id": run_id, "tags": dict(tags)})

    def describe_parent(
        self, note: str, params: Mapping[str, str], metrics: Mapping[str, float], step: int
    ) -> None:
        """What the parent run's page says of the launch so far."""
        run_id = self.parent_run_id
        self.set_tags(run_id, {NOTE_TAG: note})
        inputs = {"params": dict(params), "dataset": None}
        self._outbox.send({"op": "inputs", "run_id": run_id, **inputs})
        self.log(run_id, [{**metrics, STEP: step, TIMESTAMP_MS: self._ends.now_ms(run_id)}])

    def log(self, run_id: str, entries: Sequence[Mapping[str, Any]]) -> None:
        """Entries of a curve, each with its step and the timestamp of its first writing."""
        points = [
            [key, float(value), int(entry[TIMESTAMP_MS]), int(entry[STEP])]
            for entry in entries
            for key, value in entry.items()
            if key not in (STEP, TIMESTAMP_MS) and _is_number(value)
        ]
        if points:
            self._ends.saw(run_id, max(timestamp_ms for _, _, timestamp_ms, _ in points))
            self._outbox.send({"op": "metrics", "run_id": run_id, "points": points})

    def log_artifact(self, run_id: str, path: str | Path, folder: str | None = None) -> None:
        """A path within the home is written down from there: the home may move before it goes."""
        root = self.outbox_path.parent.parent
        path = Path(path).relative_to(root) if Path(path).is_relative_to(root) else path
        self._outbox.send({"op": "artifact", "run_id": run_id, "path": str(path), "folder": folder})

    def end(self, run_id: str, status: str) -> None:
        end_time = self._ends.now_ms(run_id)
        self._outbox.send({"op": "end", "run_id": run_id, "status": status, "end_time": end_time})

    def close(self, parent_status: str) -> bool:
        """Whether all that was to be delivered is; what is not stays in the outbox."""
        try:
            self.end(self.parent_run_id, parent_status)
        finally:
            delivered = self._outbox.close(CLOSE_TIMEOUT_S)
        if delivered:
            with suppress(MlflowException, OSError):
                for run_id in self._requests.strays():
                    self.discard(run_id)
        return delivered


@contextmanager
def absence_named(client: MlflowClient) -> Iterator[None]:
    """Raises StudyError where the store stops answering while a launch begins."""
    try:
        yield
    except (MlflowException, OSError) as error:
        raise StudyError(
            f"the MLflow store {redact(client.tracking_uri)} stopped answering: {reason(error)}. "
            "What was begun is kept: once it answers, the same command goes on."
        ) from None


class _EndTimes:
    """When a run may end: clocks are set back, and no run ends before it began or before its last
    point."""

    def __init__(self) -> None:
        self._offset_ns = time.time_ns() - time.monotonic_ns()
        self._latest_ms: dict[str, int] = {}

    def saw(self, run_id: str, timestamp_ms: int) -> None:
        self._latest_ms[run_id] = max(timestamp_ms, self._latest_ms.get(run_id, 0))

    def now_ms(self, run_id: str) -> int:
        self.saw(run_id, (time.monotonic_ns() + self._offset_ns) // 10**6)
        return self._latest_ms[run_id]


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
