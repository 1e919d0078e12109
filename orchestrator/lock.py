"""One driver at a time for a local store: SQLite under Optuna is for one writer."""

from __future__ import annotations

import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from orchestrator.errors import LaunchHeld


class DriverLock:
    """The kernel drops the lock when its process dies, so a dead driver never blocks a live one.

    Raises LaunchHeld, saying who holds it.
    """

    def __init__(self, store: Path, launch: str) -> None:
        self._lock = FileLock(f"{store}.lock")
        self._holder = store.with_name(store.name + ".holder.json")
        self._launch = launch

    def __enter__(self) -> DriverLock:
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise LaunchHeld(
                f"another driver holds this store: {self._read_holder()}. "
                "Wait for it, stop it, or use another --home."
            ) from None
        self._holder.write_text(
            json.dumps(
                {
                    "launch": self._launch,
                    "pid": os.getpid(),
                    "host": socket.gethostname(),
                    "since": datetime.now(UTC).isoformat(timespec="seconds"),
                }
            )
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._holder.unlink(missing_ok=True)
        self._lock.release()

    def _read_holder(self) -> str:
        try:
            holder = json.loads(self._holder.read_text())
            return (
                f"process {holder['pid']} on {holder['host']}, since {holder['since']}, "
                f"launch {holder['launch']}"
            )
        except (OSError, ValueError, KeyError):
            return "a process that has not yet said which"
