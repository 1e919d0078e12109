"""PostgreSQL as a store: its URL checked before use, and an advisory lock for one driver a launch.

The lock belongs to a connection of its own: the server drops it when the driver dies, however it
dies. Behind a pooler that shares connections between clients (PgBouncer's transaction mode) such a
lock means nothing: connect to the server itself.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import parse_qs

from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from orchestrator.base.errors import BadInput, LaunchHeld, Unreachable
from orchestrator.base.urls import redact, require_reachable

_FORMS = ("postgresql://", "postgresql+psycopg://")
_CONNECT_TIMEOUT_S = 10
# A driver whose machine is gone without a farewell is noticed in about a minute, not in two hours.
_KEEPALIVE = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
_SERVER_SETTINGS = {
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    "idle_session_timeout": "0",
}
_SET_IF_KNOWN = text("SELECT set_config(name, :value, false) FROM pg_settings WHERE name = :name")
CONNECT_ARGS = {"connect_timeout": _CONNECT_TIMEOUT_S, **_KEEPALIVE}
_NAMED_USER = re.compile(r'\b(user|role) "[^"]*"')


def is_postgresql(url: str) -> bool:
    return url.startswith(_FORMS)


def usable(url: str, *, option: str) -> str:
    """The URL as SQLAlchemy wants it. Raises BadInput where the driver's package is missing or the
    URL is none, Unreachable where nothing listens there."""
    if importlib.util.find_spec("psycopg") is None:
        raise BadInput(
            f"{redact(url)} is read through psycopg, which is not installed. Install it with "
            "`pip install 'moe-study[postgresql]'`."
        )
    _require_listening(url, option)
    return "postgresql+psycopg://" + url.split("://", 1)[1]


def _require_listening(url: str, option: str) -> None:
    query = parse_qs(url.partition("?")[2])
    folder = query.get("host", [""])[-1]
    if not folder.startswith("/"):
        require_reachable(url, default_port=5432, option=option)
        return
    port = query.get("port", ["5432"])[-1]
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_CONNECT_TIMEOUT_S)
        try:
            probe.connect(f"{folder}/.s.PGSQL.{port}")
        except OSError as error:
            raise Unreachable(
                f"nothing answers at the socket in {folder}, port {port}, which {option} names "
                f"({error.strerror or error}). Start the server, or correct the address."
            ) from None


@contextmanager
def connected(url: str, *, option: str, name: str = "moe-study") -> Iterator[Connection]:
    """A connection of its own, each statement at once, under a name that other drivers can read.

    Raises Unreachable, with the server's reason and without credentials.
    """
    target = usable(url, option=option)
    try:
        engine = create_engine(
            target,
            poolclass=NullPool,
            isolation_level="AUTOCOMMIT",
            hide_parameters=True,
            connect_args={**CONNECT_ARGS, "application_name": name},
        )
        connection = engine.connect()
    except (SQLAlchemyError, ValueError) as error:
        raise Unreachable(refusal(url, error, option=option)) from None
    try:
        yield connection
    finally:
        connection.close()
        engine.dispose()


def refusal(url: str, error: Exception, *, option: str) -> str:
    """One message for what a server, or the URL's own form, raised."""
    if isinstance(error, (ArgumentError, ValueError)):
        return (
            f"{option} is a URL such as postgresql://USER@HOST:5432/DATABASE; received "
            f"{redact(url)}, which cannot be read as one. Correct it."
        )
    return (
        f"the PostgreSQL server at {redact(url)} answers, but cannot be used: {reason(error)}. "
        "Check user, password and database."
    )


def reason(error: Exception) -> str:
    """The server's own words, without the user they name; else the kind of error."""
    cause = getattr(error, "orig", None) or error
    # With an SQL state it is a server that speaks; what a client says may hold an address.
    by_server = getattr(cause, "sqlstate", None) or isinstance(cause, sqlite3.Error)
    said = str(cause) if by_server else str(cause).partition("FATAL:")[2]
    line = _NAMED_USER.sub(r"\1 ***", said).strip().splitlines()
    return line[0] if line else type(cause).__name__


class AdvisoryLock:
    """One driver a launch, by a lock of the server; others drive other launches beside it.

    Raises LaunchHeld, saying who holds it as far as the server tells.
    """

    def __init__(self, url: str, launch: str, *, option: str) -> None:
        self._key = _key(launch)
        self._launch = launch
        self._connecting = connected(url, option=option, name=_own_name())

    def __enter__(self) -> AdvisoryLock:
        connection = self._connecting.__enter__()
        try:
            for name, value in _SERVER_SETTINGS.items():
                connection.execute(_SET_IF_KNOWN, {"name": name, "value": value})
            taken = connection.execute(
                text("SELECT pg_try_advisory_lock(:key)"), {"key": self._key}
            ).scalar_one()
            if not taken:
                raise LaunchHeld(
                    f"another driver holds the launch {self._launch}: "
                    f"{_holder(connection, self._key)}. Wait for it, or stop it."
                )
        except BaseException as error:
            self._connecting.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._connecting.__exit__(None, None, None)


def wait_for(connection: Connection, task: str) -> None:
    """Until the connection is closed, no other process does `task` on this database.

    Two that first touch an empty database race on its tables (measured with Optuna and MLflow).
    """
    connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _key(task)})


def may_create_tables(connection: Connection) -> bool:
    allowed = text("SELECT has_schema_privilege(current_schema(), 'CREATE')")
    return bool(connection.execute(allowed).scalar_one())


def _key(name: str) -> int:
    digest = hashlib.sha256(f"moe-study {name}".encode()).digest()
    return int.from_bytes(digest[:8], signed=True)


def _own_name() -> str:
    """PostgreSQL cuts the name of a session at 63 bytes, and takes printable ASCII only."""
    host = re.sub(r"[^\x21-\x7e]", "_", socket.gethostname())
    return f"moe-study process {os.getpid()} on {host}"[:63]


def _holder(connection: Connection, key: int) -> str:
    found = connection.execute(
        text(
            "SELECT a.application_name, a.backend_start, l.pid FROM pg_locks l"
            " LEFT JOIN pg_stat_activity a ON a.pid = l.pid"
            " WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1"
            " AND l.classid::bigint = :high AND l.objid::bigint = :low"
            " AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        ),
        {"high": key >> 32 & 0xFFFFFFFF, "low": key & 0xFFFFFFFF},
    ).first()
    if found is None:
        return "one that has just left"
    name, since, backend = found
    if since is None:  # the server shows a role the sessions of its own only
        return f"a session of another role (server process {backend})"
    return f"{name.removeprefix('moe-study ')}, since {since:%Y-%m-%dT%H:%M:%S%z}"
