"""Delivers an outbox to MLflow from a thread of its own, so that a slow server slows no trial."""

from __future__ import annotations

import hashlib
import itertools
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from requests import RequestException

from orchestrator.base.home import Home
from orchestrator.base.urls import redact
from orchestrator.stores.mlflow_private import DATASET_CONTEXT_TAG
from orchestrator.stores.mlflow_refusals import reason
from orchestrator.stores.outbox_files import OutboxFile, OutboxHeld

log = logging.getLogger(__name__)

_BATCH_METRICS = 1000  # MLflow's own limit for one call
_BATCH_ENTRIES = 50
_RETRY_S = 1.0
_PERMANENT = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "INVALID_STATE", "BAD_REQUEST"}


def is_permanent(error: MlflowException) -> bool:
    """Whether another try could not succeed, however long the store is given."""
    return error.error_code in _PERMANENT


class Outbox:
    def __init__(self, client: MlflowClient, outbox: OutboxFile) -> None:
        self._client = client
        self.file = outbox
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.reachable = True
        self.rejected: list[str] = []

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="mlflow-outbox", daemon=True)
        self._thread.start()

    def send(self, entry: dict[str, Any]) -> None:
        self.file.append(entry)
        self._wake.set()

    def close(self, timeout_s: float) -> bool:
        """Stops after what is pending was delivered, or at the timeout. True if all was."""
        deadline = time.monotonic() + timeout_s
        while self.file.undelivered_bytes and time.monotonic() < deadline:
            self._wake.set()
            time.sleep(0.01)
        self._stop.set()
        self._wake.set()
        if self._thread:
            self._thread.join(timeout=timeout_s)
        delivered = self.file.undelivered_bytes == 0
        self.file.close()
        return delivered

    def deliver_pending(self) -> None:
        """Sends all that is pending. Raises what the store raises when it is away."""
        entries = self.file.pending()
        for (op, run_id), group in itertools.groupby(
            entries, lambda e: (e[0]["op"], e[0]["run_id"])
        ):
            while batch := list(itertools.islice(group, _BATCH_ENTRIES)):
                self._deliver(op, run_id, [entry for entry, _ in batch])
                self.file.mark_delivered(batch[-1][1])

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.wait(timeout=_RETRY_S)
            self._wake.clear()
            try:
                if not self.file.undelivered_bytes:
                    continue
                self.deliver_pending()
                self.reachable = True
            except Exception as error:
                if self.reachable:
                    log.warning("MLflow is away: %s; metrics wait in the outbox", reason(error))
                self.reachable = False
                self._stop.wait(_RETRY_S)

    def _deliver(self, op: str, run_id: str, entries: list[dict[str, Any]]) -> None:
        try:
            getattr(self, f"_deliver_{op}")(run_id, entries)
        except MlflowException as error:
            if not is_permanent(error):
                raise
            self._set_aside(op, run_id, entries, error.error_code)
        except OSError as error:
            # What `requests` raises of an HTTP store is an OSError too: that store is away.
            if op not in ("artifact", "text") or isinstance(error, RequestException):
                raise
            # An artifact store that cannot be written must not hold up the metrics behind it.
            self._set_aside(op, run_id, entries, type(error).__name__)

    def _set_aside(self, op: str, run_id: str, entries: list[dict[str, Any]], reason: str) -> None:
        self.file.set_aside(entries, reason)
        self.rejected.append(f"{op} of run {run_id}: {reason}")

    def _deliver_metrics(self, run_id: str, entries: list[dict[str, Any]]) -> None:
        metrics = [Metric(*point) for entry in entries for point in entry["points"]]
        for start in range(0, len(metrics), _BATCH_METRICS):
            self._client.log_batch(
                run_id, metrics=metrics[start : start + _BATCH_METRICS], synchronous=True
            )

    def _deliver_tags(self, run_id: str, entries: list[dict[str, Any]]) -> None:
        tags = {key: value for entry in entries for key, value in entry["tags"].items()}
        self._client.log_batch(
            run_id, tags=[RunTag(k, str(v)) for k, v in tags.items()], synchronous=True
        )

    def _deliver_status(self, run_id: str, entries: list[dict[str, Any]]) -> None:
        self._client.update_run(run_id, status=entries[-1]["status"])

    def _deliver_end(self, run_id: str, entries: list[dict[str, Any]]) -> None:
        last = entries[-1]
        self._client.set_terminated(run_id, last["status"], end_time=last["end_time"])

    def _deliver_inputs(self, run_id: str, entries: list[dict[str, Any]]) -> None:
        for entry in entries:
            params = [Param(key, value) for key, value in entry["params"].items()]
            self._client.log_batch(run_id, params=params, synchronous=True)
            context = InputTag(DATASET_CONTEXT_TAG, "training")
            if entry["dataset"] is not None:
                inputs = [DatasetInput(Dataset(**entry["dataset"]), [context])]
                self._client.log_inputs(run_id, datasets=inputs)

    def _deliver_text(self, run_id: str, entries: list[dict[str, Any]]) -> None:
        for entry in entries:
            self._client.log_text(run_id, entry["text"], entry["file"])

    def _deliver_artifact(self, run_id: str, entries: list[dict[str, Any]]) -> None:
        for entry in entries:
            path = self.file.path.parent.parent / entry["path"]  # within the home: from there
            if path.exists():
                self._client.log_artifact(run_id, str(path), entry["folder"])


def outbox_path(home: Home, launch: str, uri: str) -> Path:
    """An outbox belongs to one launch and one store: its run ids mean nothing to another."""
    return home.spool / f"{fingerprint(launch)[:12]}-{suffix_of(home, uri)}.jsonl"


def suffix_of(home: Home, uri: str) -> str:
    """What a store's outboxes end in: the home's own store has one name wherever the home is."""
    return own_outbox_suffix() if uri == home.mlflow_uri else outbox_suffix(uri)


def own_outbox_suffix() -> str:
    return fingerprint("mlflow.db")[:8]


def outbox_suffix(uri: str) -> str:
    return fingerprint(redact(uri))[:8]


def fingerprint(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def deliver_outboxes(
    client: MlflowClient, uri: str, home: Home, say: Callable[[str], None]
) -> tuple[int, int]:
    """Delivers a home's outboxes for one store; how many entries went, and how many are left.

    Entries that the store refuses for good stay in a file of their own, and count as left.
    """
    delivered = left = 0
    for path in sorted(home.spool.glob("*-????????.jsonl")):
        if path.name != f"{path.name[:12]}-{suffix_of(home, uri)}.jsonl":
            say(f"{path.name} is for another store than {redact(uri)}: name it with --mlflow-uri")
            continue
        try:
            outbox = OutboxFile(path)
        except OutboxHeld as error:
            say(str(error))
            continue
        pending = sum(1 for _ in outbox.pending())
        try:
            Outbox(client, outbox).deliver_pending()
        except (MlflowException, OSError) as error:
            say(f"{path.name}: the store is away: {reason(error)}")
        remaining = sum(1 for _ in outbox.pending())
        delivered += pending - remaining - outbox.rejected
        left += remaining + outbox.rejected
        if outbox.rejected:
            say(f"refused for good, and kept: {outbox.rejected_path}")
        outbox.close()
    return max(0, delivered), left
