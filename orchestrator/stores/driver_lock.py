"""One driver at a time: a home and a local store have one, a PostgreSQL server one a launch.

SQLite under Optuna is for one writer, and two drivers in one home would share its checkpoints.
"""

from __future__ import annotations

import json
import os
import socket
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from orchestrator.base.errors import BadInput, LaunchHeld
from orchestrator.base.home import Home
from orchestrator.stores.optuna_storage import OPTION, local_store_file
from orchestrator.stores.postgresql import AdvisoryLock


def driver_locks(home: Home, storage_url: str, launch: str) -> list[AbstractContextManager]:
    """What a driver holds while it is at work, in the order in which it is taken."""
    file = local_store_file(storage_url)
    if file is None:
        store_lock = AdvisoryLock(storage_url, launch, option=OPTION)
    else:
        store_lock = DriverLock(file, str(file), launch)
    return [DriverLock(home.root / "home", f"the home {home.root}", launch), store_lock]


def is_held(home: Home) -> bool:
    """Whether a driver is at work in the home. A lock that cannot be tried is none."""
    path = home.root / "home.driver.lock"
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:
        return False


class DriverLock:
    """The kernel drops the lock when its process dies, so a dead driver never blocks a live one.

    Raises LaunchHeld, saying who holds it, and BadInput where no lock can be made beside the store.
    """

    def __init__(self, store: Path, what: str, launch: str) -> None:
        # Not `.lock`: beside a journal that is the name of Optuna's own lock.
        self._lock = FileLock(f"{store}.driver.lock")
        self._holder = store.with_name(store.name + ".holder.json")
        self._what = what
        self._launch = launch

    def __enter__(self) -> DriverLock:
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise LaunchHeld(
                f"another driver holds {self._what}: {self._read_holder()}. "
                "Wait for it, stop it, or use another --home."
            ) from None
        except OSError as error:
            raise BadInput(
                "a driver keeps a lock beside its store; none can be made beside "
                f"{self._what} ({error.strerror or error}). Use a folder that can be written."
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
