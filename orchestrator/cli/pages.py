"""The index of launches, MLflow's page and Optuna Dashboard on a home, on loopback, until Ctrl-C.

Each is its own program in a process group of its own, since both start workers: a group is ended
as one, and leaves nothing behind.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryFile, gettempdir
from typing import IO

from filelock import FileLock, Timeout
from mlflow.exceptions import MlflowException

from orchestrator.base.errors import BadInput, StudyError
from orchestrator.base.home import Home
from orchestrator.base.urls import answers, redact, without_credentials
from orchestrator.cli.launch_index import IndexServer, LaunchIndex, lines_of
from orchestrator.stores.driver_lock import is_held
from orchestrator.stores.experiment_names import find_experiment
from orchestrator.stores.mlflow_client import connect
from orchestrator.stores.mlflow_private import TABLE_VIEW, TRAINING_VIEW, VIEW_TAG
from orchestrator.stores.moved_home import settle_unheld
from orchestrator.stores.optuna_private import DASHBOARD_MODULE
from orchestrator.stores.optuna_storage import open_storage

HOST = "127.0.0.1"
INDEX_PORT, MLFLOW_PORT, OPTUNA_PORT = 8000, 5000, 8080
_LINKS = 20  # launches that are listed on a terminal; the index page has all
START_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 10.0
_PORTS_TRIED = 50
_EXPERIMENTS = f"/#/experiments?{TRAINING_VIEW}"


@dataclass(kw_only=True)
class Page:
    """One program and its address; `start` is where to begin on it.

    `process` is None where somebody else serves the page.
    """

    name: str
    address: str
    start: str = ""
    process: subprocess.Popen[bytes] | None = None
    output: IO[bytes] | None = field(default=None, repr=False)

    def last_words(self) -> str:
        if self.output is None:
            return ""
        self.output.seek(0)
        lines = self.output.read().decode(errors="replace").strip().splitlines()
        return redact(lines[-1]) if lines else "it said nothing"


def serve(
    home: Home,
    *,
    optuna_storage: str | None,
    mlflow_uri: str | None,
    mlflow_port: int | None,
    optuna_port: int | None,
    index_port: int | None = None,
    ready: Callable[[list[Page], list[str]], None],
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Returns after Ctrl-C or SIGTERM, with everything stopped. `ready` is told the addresses,
    and a line a launch.

    Raises BadInput where a store is not there or a port that was named is taken, StudyError where
    a program does not start or ends by itself.
    """
    if optuna_storage is None or mlflow_uri is None:
        home.require_exists()
    storage, uri = optuna_storage or home.optuna_storage, mlflow_uri or home.mlflow_uri
    open_storage(storage, create=False)
    connect(uri)
    settle_unheld(home, say)  # MLflow reads and writes where its database says
    previous = {number: signal.signal(number, _interrupt) for number in _ending_signals()}
    pages: list[Page] = []
    ports = ExitStack()
    try:
        pages.append(_mlflow(uri, home, mlflow_port, ports))
        pages.append(_dashboard(storage, home, optuna_port, ports))
        _wait_until_ready(pages)
        index = LaunchIndex(
            home=home,
            optuna_storage=optuna_storage,
            mlflow=pages[0].address,
            optuna=pages[1].address,
            experiment_of=_experiments(uri),
            is_held=lambda: is_held(home),
        )
        server = IndexServer(HOST, _port(index_port, INDEX_PORT, "--index-port", ports), index)
        ports.callback(server.close)
        first = Page(name="Launches", address=server.address, start="/")
        ready([first, *pages], list(lines_of(index, _LINKS)))
        while True:
            _require_alive(pages)
            time.sleep(0.5)
    except KeyboardInterrupt:
        return
    finally:
        _stop(pages)
        ports.close()
        for number, handler in previous.items():
            signal.signal(number, handler)


def _experiments(uri: str) -> Callable[[str], tuple[str, bool] | None]:
    """A launch's experiment by name; None where MLflow has none, or is away."""
    client = connect(uri)

    def of(name: str) -> tuple[str, bool] | None:
        try:
            found = find_experiment(client, name)
        except MlflowException:
            return None
        return (found.experiment_id, VIEW_TAG + TABLE_VIEW in found.tags) if found else None

    return of


def _mlflow(uri: str, home: Home, port: int | None, ports: ExitStack) -> Page:
    if uri.startswith("http"):
        if port is not None:
            raise BadInput(
                f"--mlflow-port is for a page that `ui` starts; {redact(uri)} has its own. Leave "
                "it out."
            )
        return Page(name="MLflow", address=without_credentials(uri).rstrip("/"), start=_EXPERIMENTS)
    port = _port(port, MLFLOW_PORT, "--mlflow-port", ports)
    command = ["mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", _driver_named(uri)]
    command += ["--artifacts-destination", str(home.artifacts)]
    # Its job queue is for evaluating language models; here it would be three more processes.
    page = _start("MLflow", command, port, home, {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"})
    return replace(page, start=_EXPERIMENTS)


def _dashboard(storage: str, home: Home, port: int | None, ports: ExitStack) -> Page:
    port = _port(port, OPTUNA_PORT, "--optuna-port", ports)
    command = [DASHBOARD_MODULE, "--host", HOST, "--port", str(port), "--quiet"]
    if storage.startswith("journal:"):
        command += ["--storage-class", "JournalFileStorage"]
        storage = storage.removeprefix("journal:")
    home.optuna_artifacts.mkdir(parents=True, exist_ok=True)
    command += ["--artifact-dir", str(home.optuna_artifacts), _driver_named(storage)]
    return _start("Optuna Dashboard", command, port, home, {})


def _start(
    name: str, module: Sequence[str], port: int, home: Home, variables: Mapping[str, str]
) -> Page:
    output = TemporaryFile()  # noqa: SIM115  (it lives as long as the program)
    process = subprocess.Popen(
        [sys.executable, "-m", *module],
        cwd=home.root if home.root.is_dir() else Path.cwd(),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **variables},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    return Page(name=name, address=f"http://{HOST}:{port}", process=process, output=output)


def _driver_named(url: str) -> str:
    """A PostgreSQL URL with the driver that this project installs."""
    kind, separator, rest = url.partition("://")
    return f"postgresql+psycopg{separator}{rest}" if kind == "postgresql" else url


def _port(asked: int | None, usual: int, option: str, ports: ExitStack) -> int:
    """The port asked for, or the first free one from the usual on, held until `ports` closes.

    Raises BadInput if none is.
    """
    if asked is not None:
        if not 1 <= asked < 2**16:
            raise BadInput(f"{option} is from 1 to 65535; received {asked}. Choose another.")
        if not _hold(asked, ports):
            raise BadInput(
                f"{option} names a free port; received {asked}, which is in use. Name another, or "
                "leave it out to take the next free one."
            )
        return asked
    for port in range(usual, usual + _PORTS_TRIED):
        if _hold(port, ports):
            return port
    raise BadInput(
        f"`ui` needs a free port; {usual} to {usual + _PORTS_TRIED - 1} are in use. Name one with "
        f"{option}."
    )


def _hold(port: int, ports: ExitStack) -> bool:
    """A program binds its port seconds after it was chosen: another `ui` must not choose it too,
    and show the first one's page as its own."""
    lock = FileLock(Path(gettempdir()) / f"moe-study-ui-{os.getuid()}-{port}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    if _is_free(port):
        ports.callback(_let_go, lock)
        return True
    _let_go(lock)
    return False


def _let_go(lock: FileLock) -> None:
    Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the servers do
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _wait_until_ready(pages: Sequence[Page]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    for page in pages:
        if page.process is None:
            continue
        host, port = page.address.removeprefix("http://").split(":")
        while not answers(host, int(port), timeout_s=1.0):
            _require_alive(pages)
            if time.monotonic() > deadline:
                raise StudyError(
                    f"{page.name} did not answer at {page.address} within {START_TIMEOUT_S:.0f} s: "
                    f"{page.last_words()}. Try again on a less busy machine."
                )
            time.sleep(0.2)


def _require_alive(pages: Sequence[Page]) -> None:
    for page in pages:
        if page.process is not None and page.process.poll() is not None:
            raise StudyError(
                f"{page.name} ended with exit code {page.process.returncode}: {page.last_words()}"
            )


def _stop(pages: Sequence[Page]) -> None:
    started = [page.process for page in pages if page.process is not None]
    for process in started:
        _signal_group(process, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    for process in started:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.1, deadline - time.monotonic()))
        _signal_group(process, signal.SIGKILL)
        process.wait()


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _ending_signals() -> list[signal.Signals]:
    """A terminal that closes ends the pages too, unless they were begun under nohup."""
    kept = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM, *([] if kept else [signal.SIGHUP])]


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
