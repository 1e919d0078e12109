"""The Optuna storage behind a URL: a SQLite or journal file of one driver, or a PostgreSQL server.

Whatever is wrong with it is said in one message, without its credentials, and before anything is
created in it.
"""

from __future__ import annotations

import os
import sqlite3
import weakref
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, get_storage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from sqlalchemy import inspect
from sqlalchemy.exc import SQLAlchemyError

from orchestrator.base.errors import BadInput, StudyError, Unreachable, halted, is_disk_trouble
from orchestrator.base.home import require_plain
from orchestrator.base.urls import redact
from orchestrator.stores import postgresql
from orchestrator.stores.optuna_private import (
    JOURNAL_LINE,
    STUDIES_TABLE,
    VERSION_TABLE,
    locked,
)

OPTION = "--optuna-storage"
_SQLITE, _JOURNAL = "sqlite:///", "journal:"
# Only a writer that died still holds a journal's lock after this; Optuna's own wait is 30 s.
_JOURNAL_GRACE_S = 5
_newest_tables: dict[str, str] = {}  # the schema, by Optuna's version


class NoRecordYet(BadInput):
    """Nothing was ever run there: no file, or no tables, which the first driver makes."""


def local_store_file(url: str) -> Path | None:
    """The file of a storage that lives on this machine's disk; None for a server."""
    for prefix in (_SQLITE, _JOURNAL):
        if url.startswith(prefix):
            return Path(url.removeprefix(prefix)).absolute()
    return None


def require_usable(url: str) -> None:
    """Raises BadInput on an unknown kind of URL and on what is there, but no storage of Optuna's;
    Unreachable where no server answers. Creates nothing."""
    file = local_store_file(url)
    if file is None:
        with _server(url, create=True):
            pass
        return
    require_plain(url.partition(":")[2], f"the file of {OPTION}")
    if os.path.isdir(file) or not file.name:
        raise BadInput(f"{OPTION} names a file; received {redact(url)}. Add a file's name.")
    if os.path.exists(file) and file.stat().st_size and not _is_half_made(url, file):
        open_storage(url, create=False)


def open_storage(url: str, *, create: bool) -> BaseStorage:
    """With `create` for the driver that holds the storage; without for readers, who change nothing.

    Raises BadInput where it cannot be used, NoRecordYet where (a reader) it is not there,
    Unreachable where no server answers.
    """
    file = local_store_file(url)
    if file is None:
        with _server(url, create=create) as engine_url:
            return _relational(engine_url, create=create, connect_args=postgresql.CONNECT_ARGS)
    if not create and not os.path.isfile(file):
        raise NoRecordYet(
            f"there is no record of a search yet; looked for {file}. Run a study first, or name "
            f"another --home or {OPTION}."
        )
    try:
        if url.startswith(_JOURNAL):
            return _journal(file, create=create)
        if file.exists():
            _require_ours(sqlite_tables(file), str(file), create=create)
        return _relational(f"{_SQLITE}{file}", create=create, connect_args={})
    except (SQLAlchemyError, StorageInternalError, RuntimeError, sqlite3.Error, OSError) as error:
        kind = "journal" if url.startswith(_JOURNAL) else "SQLite database"
        raise BadInput(
            f"an Optuna storage is a {kind} that can be used; received {file} ({_why(error)}). "
            "Mend it or move it away, or name another."
        ) from None


def storage_if_any(url: str) -> BaseStorage | None:
    """For a reader to whom no record is an answer too. Raises as `open_storage` does."""
    try:
        return open_storage(url, create=False)
    except NoRecordYet:
        return None


@contextmanager
def trouble_named(url: str) -> Iterator[None]:
    """Turns what a storage raises while it is used into one message.

    Raises StudyError (exit code 1).
    """
    try:
        yield
    except OSError as error:
        if not is_disk_trouble(error):
            raise
        raise StudyError(halted(error)) from None
    except (SQLAlchemyError, StorageInternalError) as error:
        raise StudyError(
            f"the Optuna storage {redact(url)} cannot be used any more: {_why(error)}. "
            "What was done is kept; mend it, and the same command continues."
        ) from None


def _relational(url: str, *, create: bool, connect_args: dict[str, int]) -> BaseStorage:
    kwargs = {"connect_args": connect_args, "hide_parameters": True}
    database = _database(url, engine_kwargs=kwargs, skip_table_creation=not create)
    storage = get_storage(database)
    weakref.finalize(storage, database.engine.dispose)  # Optuna leaves its connections open
    return storage


def _database(url: str, **options: Any) -> RDBStorage:
    """Raises RuntimeError, as Optuna does, where the tables are not of this version of it.

    For that check it reads its migrations, some thirty Python files, each time that a storage is
    opened; what is newest stays so for the life of a process.
    """
    database = RDBStorage(url, skip_compatibility_check=True, **options)
    if optuna.__version__ not in _newest_tables:
        _newest_tables[optuna.__version__] = database.get_head_version()
    if database.get_current_version() == _newest_tables[optuna.__version__]:
        return database
    database.engine.dispose()
    return RDBStorage(url, **options)


@contextmanager
def _server(url: str, *, create: bool) -> Iterator[str]:
    """The URL of a server that answers, for SQLAlchemy; one process at a time makes its tables."""
    if not postgresql.is_postgresql(url):
        raise BadInput(
            "an Optuna storage is sqlite:///FILE, journal:FILE or postgresql://...; received "
            f"{redact(url)}. Use one of these."
        )
    with postgresql.connected(url, option=OPTION) as connection:
        try:
            if create:
                postgresql.wait_for(connection, "optuna tables")
            tables = inspect(connection).get_table_names()
            _require_ours(tables, redact(url), create=create)
            if STUDIES_TABLE not in tables and not postgresql.may_create_tables(connection):
                raise BadInput(
                    f"the first driver makes Optuna's tables; the user of {redact(url)} may not "
                    "create any there. Grant it CREATE on the schema, or name another."
                )
            yield postgresql.usable(url, option=OPTION)
        except (SQLAlchemyError, StorageInternalError, RuntimeError) as error:
            raise Unreachable(
                f"the Optuna storage {redact(url)} cannot be used: {_why(error)}. Check what its "
                "user may do, or name another."
            ) from None


def _require_ours(tables: list[str], shown: str, *, create: bool) -> None:
    """Optuna and MLflow keep the version of their tables in one of the same name: a database holds
    one of them, and the second is refused before it makes its tables."""
    if STUDIES_TABLE in tables:
        return
    if VERSION_TABLE in tables:
        raise BadInput(
            f"Optuna needs a database of its own; received {shown}, which holds another program's "
            f"tables (MLflow's, perhaps). Name another with {OPTION}."
        )
    if not create:
        raise NoRecordYet(
            f"there is no record of a search yet in {shown}. Run a study first, or name another "
            f"{OPTION}."
        )


def _is_half_made(url: str, file: Path) -> bool:
    """By a driver that was killed while it made the tables: the next one goes on with them."""
    if url.startswith(_JOURNAL):
        return False
    try:
        return VERSION_TABLE not in sqlite_tables(file)
    except sqlite3.Error:
        return False  # `open_storage` says what it is


def sqlite_tables(file: Path) -> list[str]:
    """What a file holds, before Optuna or MLflow would make tables of their own in it."""
    # Not mode=ro: what a killed writer left half-written is rolled back as the file is opened.
    address = f"{file.absolute().as_uri()}?mode=rw"
    with closing(sqlite3.connect(address, uri=True)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        return [name for (name,) in tables]


def _journal(file: Path, *, create: bool) -> BaseStorage:
    lock = JournalFileSymlinkLock(str(file), grace_period=_JOURNAL_GRACE_S)
    if file.exists():
        _require_log(file, lock, mend=create)
    try:
        return JournalStorage(JournalFileBackend(str(file), lock_obj=lock))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise RuntimeError(f"not the log that Optuna writes: {error}") from None


def _require_log(file: Path, lock: JournalFileSymlinkLock, *, mend: bool) -> None:
    """Optuna itself passes over a last line that it cannot read, whatever it is.

    A writer killed while writing leaves half a line, which the next one would go on with: from then
    on the file could not be read. What the half line said was never acted on.
    """
    whole, newline, torn = file.read_bytes().rpartition(b"\n")
    last = whole.rpartition(b"\n")[2]
    begin = JOURNAL_LINE
    if (newline and not last.startswith(begin)) or not torn.startswith(begin[: len(torn)]):
        raise RuntimeError("not the log that Optuna writes")
    if torn and mend:
        with locked(lock), file.open("r+b") as stream:
            stream.truncate(stream.read().rfind(b"\n") + 1)


def _why(error: BaseException) -> str:
    if isinstance(error, StorageInternalError):  # Optuna's own words hide those of the database
        error = error.__cause__ or error
    if isinstance(error, SQLAlchemyError):
        return postgresql.reason(error)
    return str(error).strip().partition("\n")[0] or type(error).__name__
