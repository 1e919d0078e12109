"""What is on its way to MLflow: written down first, delivered in order, at least once.

An outbox is a file of JSON lines beside a file with the offset of what was delivered. An entry is
on disk before the driver acts on it, so a killed driver loses nothing, and a server that is away
only makes the file grow. An entry may be sent twice (killed between sending and moving the offset):
metrics carry the timestamp of their first writing, and MLflow drops an identical point.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from orchestrator.base.whole_files import whole


class OutboxHeld(Exception):
    """Another process delivers this outbox."""


class OutboxFile:
    """Held by one process at a time, until `close`. Raises OutboxHeld where another has it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._held = FileLock(path.with_suffix(".lock"))
        try:
            self._held.acquire(timeout=0)
        except Timeout:
            raise OutboxHeld(f"another process delivers {path.name}") from None
        self._offset_path = path.with_suffix(".offset")
        self._lock = threading.Lock()
        path.touch()
        self._drop_torn_line()
        self._delivered = self._read_offset()
        self._emptied = 0

    def _drop_torn_line(self) -> None:
        """A driver killed while writing leaves half a line: what it said was never acted on."""
        content = self.path.read_bytes()
        if content and not content.endswith(b"\n"):
            with self.path.open("r+b") as file:
                file.truncate(content.rfind(b"\n") + 1)

    def append(self, entry: dict[str, Any]) -> None:
        line = json.dumps(entry, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            whole = self.path.stat().st_size
            try:
                with self.path.open("ab") as file:
                    file.write(line)
                    file.flush()
                    os.fsync(file.fileno())  # Optuna's commits are: a power cut must not part them
            except OSError:  # a full disk takes a part of a line
                os.truncate(self.path, whole)
                raise

    def pending(self) -> Iterator[tuple[dict[str, Any], int]]:
        """Entries not yet delivered, each with the offset that follows it."""
        with self.path.open("rb") as file:
            file.seek(self._delivered)
            emptied = self._emptied
            while self._emptied == emptied and (line := file.readline()).endswith(b"\n"):
                yield json.loads(line), file.tell()

    @property
    def undelivered_bytes(self) -> int:
        return self.path.stat().st_size - self._delivered

    def mark_delivered(self, offset: int) -> None:
        """Entries before `offset` need not be sent again. A wholly delivered outbox is emptied."""
        with self._lock:
            if offset == self.path.stat().st_size:
                # The offset goes first: were the driver killed between the two, the entries would
                # be sent again, never skipped.
                self._write_offset(0)
                os.truncate(self.path, 0)
                self._emptied += 1
            else:
                self._write_offset(offset)

    def set_aside(self, entries: list[dict[str, Any]], reason: str) -> None:
        """Keeps what the store refuses for good: another try would not change it."""
        with self.rejected_path.open("a") as file:
            for entry in entries:
                file.write(json.dumps({"refused": reason, **entry}) + "\n")

    @property
    def rejected_path(self) -> Path:
        return self.path.with_suffix(".rejected.jsonl")

    @property
    def rejected(self) -> int:
        return len(self.refused_lines())

    def refused_lines(self) -> list[str]:
        if not self.rejected_path.exists():
            return []
        return self.rejected_path.read_text().splitlines(keepends=True)

    def close(self) -> None:
        self._held.release()

    @staticmethod
    def waiting_bytes(path: Path) -> int:
        """What an outbox has still to deliver, for who looks and changes nothing."""
        try:
            offset = int(path.with_suffix(".offset").read_text())
        except (FileNotFoundError, ValueError):
            offset = 0
        return max(0, path.stat().st_size - offset)

    def _read_offset(self) -> int:
        """After a power cut it may be older than the entries, or be lost: they are sent again."""
        try:
            offset = int(self._offset_path.read_text())
        except (FileNotFoundError, ValueError):
            return 0
        return offset if offset <= self.path.stat().st_size else 0

    def _write_offset(self, offset: int) -> None:
        with whole(self._offset_path) as partial:
            partial.write_text(str(offset))
        self._delivered = offset
