"""SQLite with a write-ahead log while a driver is at work.

A commit costs one write to the disk instead of three, at the same safety against a power cut, and
pages that read do not hold up the driver (sqlite.org/wal.html). The log lies in files of its own
and a reader needs to write beside them, so a driver that leaves folds it up: what is left is one
file that can be copied, and read where nothing may be written.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psutil

# The log is shared memory between processes, which no network file system has.
_LOCAL = {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "tmpfs", "overlay", "apfs", "hfs"}


@contextmanager
def with_log(file: Path, *, let_go: Callable[[], None]) -> Iterator[None]:
    """`let_go` closes this process's own connections: the log is folded up by its last user.

    A database that another program holds keeps the form that it has.
    """
    if _file_system(file) not in _LOCAL:
        yield
        return
    _switch(file, "WAL")
    try:
        yield
    finally:
        let_go()
        _switch(file, "DELETE")


def _switch(file: Path, mode: str) -> None:
    with suppress(sqlite3.Error), closing(sqlite3.connect(file, timeout=1)) as database:
        database.execute(f"PRAGMA journal_mode={mode}")


def _file_system(file: Path) -> str:
    """Its type by the longest mount point above it; empty where the system does not tell."""
    path = os.path.realpath(file)
    above = [
        mount
        for mount in psutil.disk_partitions(all=True)
        if path == mount.mountpoint or path.startswith(mount.mountpoint.rstrip("/") + "/")
    ]
    # Of two on one point the later hides the earlier: `sorted` keeps their order.
    return sorted(above, key=lambda mount: len(mount.mountpoint))[-1].fstype if above else ""
