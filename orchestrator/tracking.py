"""The MLflow side: the record of results.

One experiment a launch, one parent run in it, one child run a trial. The driver creates and ends
every run; metrics go through a spool (see `orchestrator.spool`), so that they outlive driver and
server. Whatever a reader of Optuna needs to find here is a tag.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy import Engine, inspect

from moe.metrics import STEP, TIMESTAMP_MS
from orchestrator import postgresql
from orchestrator.courier import Courier, fingerprint, is_permanent, spool_path
from orchestrator.errors import BadInput, LaunchHeld, StudyError, Unreachable
from orchestrator.home import Home, require_plain
from orchestrator.launch import Launch, Point, mlflow_params
from orchestrator.net import redact, require_reachable
from orchestrator.spool import Spool, SpoolHeld
from orchestrator.storage import sqlite_tables

TRIAL_NUMBER = "optuna.trial_number"
PARENT = "moe_study.parent"
STOPPED_BY = "stopped_by"
OWNER = "moe_study.owner"
_PARENT_RUN_ID = "mlflow.parentRunId"
_NOTE = "mlflow.note.content"
# Without the two MLflow 3 opens on its pages for traces of language models, which are empty here.
_TRAINING = {"mlflow.experimentKind": "custom_model_development"}
TRAINING_VIEW = "workflowType=machine_learning"
_PAGE = 1000
OPTION = "--mlflow-uri"
LOCAL_PAGE = "http://127.0.0.1:5000"  # the first port that `moe-study ui` takes
CLOSE_TIMEOUT_S = 30.0
LOOP_PATIENCE_S = 1.5  # how long Tune's loop, and with it the trials' reports, may wait for a run
_RETRY_S = 1.0


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


def require_usable(uri: str, *, must_exist: bool = False) -> None:
    """Raises as `connect` does, and makes no tables: what else is refused must leave nothing."""
    if postgresql.is_postgresql(uri):
        with postgresql.connected(uri, option=OPTION) as connection:
            _require_no_optuna(inspect(connection).get_table_names(), uri)
    elif uri.startswith("sqlite:///"):
        file = Path(uri.removeprefix("sqlite:///"))
        require_plain(str(file), f"the file of {OPTION}")
        if os.path.exists(file):
            try:
                _require_no_optuna(sqlite_tables(file), uri)
            except sqlite3.Error as error:
                raise _unusable(uri, str(error)) from None
        elif must_exist:
            raise _unusable(uri, "there is no such file")
    else:
        connect(uri)


def connect(uri: str) -> MlflowClient:
    """A client whose store answers, its schema made before any worker could race for it.

    Raises BadInput on an unknown kind of URI, Unreachable where nothing answers within seconds.
    """
    if uri.startswith(("http://", "https://")):
        default_port = 443 if uri.startswith("https") else 80
        require_reachable(uri, default_port=default_port, option=OPTION)
    elif postgresql.is_postgresql(uri):
        with postgresql.connected(uri, option=OPTION) as connection:
            _require_no_optuna(inspect(connection).get_table_names(), uri)
            postgresql.wait_for(connection, "mlflow tables")
            return _client(postgresql.usable(uri, option=OPTION))
    elif not uri.startswith("sqlite:///"):
        raise BadInput(
            "an MLflow URI is sqlite:///FILE, http(s)://HOST:PORT or postgresql://...; received "
            f"{redact(uri)}. (MLflow 3 no longer writes to a plain folder.)"
        )
    return _client(uri)


def _require_no_optuna(tables: list[str], uri: str) -> None:
    """Both keep the version of their tables in one of the same name."""
    if "study_directions" in tables:
        raise BadInput(
            f"MLflow needs a database of its own; received {redact(uri)}, which holds Optuna's "
            f"tables. Name another with {OPTION}."
        )


def _client(uri: str) -> MlflowClient:
    try:
        client = MlflowClient(uri)
        client.search_experiments(max_results=1)
    except Exception as error:
        raise _unusable(uri, type(error).__name__) from None
    return client


def database_of(client: MlflowClient) -> Engine | None:
    """The database that a client writes to by itself; None behind a server."""
    return getattr(client._tracking_client.store, "engine", None)


def _unusable(uri: str, why: str) -> Unreachable:
    return Unreachable(
        f"the MLflow store {redact(uri)} cannot be used: {why}. Check that it is an MLflow "
        "tracking server or database, and that you may write to it."
    )


class Tracking:
    """One launch's experiment. `close` says whether all metrics were delivered."""

    def __init__(
        self, client: MlflowClient, courier: Courier, experiment_id: str, owner: str
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
        self.parent_run_id = ""

    @classmethod
    def open(
        cls, client: MlflowClient, launch: Launch, home: Home, *, owner: str, uri: str
    ) -> Tracking:
        """`owner` is the record of the search that these runs belong to: several homes may share
        one server, and neither may touch the other's runs.

        Raises Unreachable where the store goes away, LaunchHeld where its spool is being delivered.
        """
        try:
            courier = Courier(client, Spool(spool_path(home.spool, launch.name, uri)))
            # What a dead driver left goes first: it may still hold the end of a run.
            courier.deliver_pending()
            artifacts = home.artifacts / fingerprint(launch.name)[:12]
            tracking = cls(client, courier, cls._experiment(client, launch, artifacts), owner)
            tracking._open_parent(launch)
        except SpoolHeld as error:
            raise LaunchHeld(f"{error}. Wait for it, then run again.") from None
        except (MlflowException, OSError) as error:
            raise Unreachable(
                f"the MLflow store {redact(uri)} went away ({type(error).__name__}). Start it "
                "again, then run again."
            ) from None
        courier.start()
        return tracking

    @staticmethod
    def _experiment(client: MlflowClient, launch: Launch, artifacts: Path) -> str:
        experiment = client.get_experiment_by_name(launch.name)
        if experiment is None:
            # A server has artifacts of its own; beside a database they lie in the home.
            local = not client.tracking_uri.startswith(("http://", "https://"))
            return client.create_experiment(
                launch.name,
                artifact_location=artifacts.as_uri() if local else None,
                tags={
                    "study": launch.study.name,
                    "scale": launch.scale,
                    "corpus": launch.corpus_spec,
                    "corpus_digest": str(launch.corpus_digest),
                    _NOTE: _description(launch),
                    **_TRAINING,
                },
            )
        if not _TRAINING.items() <= experiment.tags.items():
            for key, value in _TRAINING.items():
                client.set_experiment_tag(experiment.experiment_id, key, value)
        return experiment.experiment_id

    @staticmethod
    def require_usable(client: MlflowClient, launch: Launch) -> None:
        """Raises BadInput where the launch's experiment was deleted."""
        experiment = client.get_experiment_by_name(launch.name)
        if experiment is not None and experiment.lifecycle_stage == "deleted":
            raise BadInput(
                f"the experiment {launch.name!r} was deleted in MLflow, and its name is still "
                "taken. Restore it there, or use another store."
            )

    def _open_parent(self, launch: Launch) -> None:
        found = self._search(f"tags.`{PARENT}` = 'true' AND tags.`{OWNER}` = '{self._owner}'")
        if found:
            self.parent_run_id = found[0].info.run_id
            self._saw(self.parent_run_id, found[0].info.start_time)
            if STOPPED_BY in found[0].data.tags:
                self._client.delete_tag(self.parent_run_id, STOPPED_BY)
        else:
            run = self._client.create_run(
                self.experiment_id,
                run_name=launch.study.name,
                tags={
                    PARENT: "true",
                    OWNER: self._owner,
                    "study": launch.study.name,
                    _NOTE: _description(launch),
                },
            )
            self.parent_run_id = run.info.run_id
        self._client.update_run(self.parent_run_id, status="RUNNING")

    @property
    def page(self) -> str:
        """Address of MLflow's page: its server's, or of a local store where `ui` shows it."""
        uri = self._client.tracking_uri
        return redact(uri).rstrip("/") if uri.startswith("http") else LOCAL_PAGE

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
        found = self._search(f"tags.`{TRIAL_NUMBER}` LIKE '%' AND tags.`{OWNER}` = '{self._owner}'")
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

    def _search(self, query: str) -> list[Run]:
        runs: list[Run] = []
        token = None
        while True:
            page = self._client.search_runs(
                [self.experiment_id],
                query,
                run_view_type=ViewType.ACTIVE_ONLY,
                max_results=_PAGE,
                page_token=token,
            )
            runs += page
            if not (token := page.token):
                return runs

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
            if not isinstance(error, MlflowException):
                raise Away(f"MLflow is away ({type(error).__name__})") from None
            if is_permanent(error):
                raise StudyError(
                    f"MLflow refuses the run of trial {number} ({error.error_code}). Was the "
                    "experiment deleted? The same command goes on once it is restored."
                ) from None
            raise Away(f"MLflow is away ({error.error_code})") from None
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

    def _runs_of(self, number: int) -> list[str]:
        query = f"tags.`{TRIAL_NUMBER}` = '{number}' AND tags.`{OWNER}` = '{self._owner}'"
        return [run.info.run_id for run in self._search(query)]

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


def quiet() -> None:
    """MLflow's own traffic and retries, set before its first use."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # Its lines on stdout would stand between a script and its JSON, credentials and all.
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    # Its own retry would send a request whose answer was lost again, and begin a run twice.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")


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


def _description(launch: Launch) -> str:
    return (
        f"{launch.study.question}\n\nBaseline: {launch.study.baseline}. "
        f"Held fixed: {launch.study.held_fixed}"
    )
