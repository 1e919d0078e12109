"""What the fault harness breaks: a Ray cluster of several nodes, an MLflow server, a driver.

Everything runs on this machine in processes of its own, so that each can be killed by its pid. The
nodes share the home folder, as a cluster with a network file system does.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from ray.cluster_utils import Cluster

from orchestrator.base.urls import answers
from orchestrator.driver.trial_actors import CLASS

_START_TIMEOUT_S = 180
_TRIES = 5
_STORE_BYTES = 80 * 2**20  # Ray's object store, a node: trials send kilobytes


class Nodes:
    """A head without CPUs, to which the driver belongs, and nodes of one CPU for trials."""

    def __init__(self, count: int) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="fb-"))  # short: Ray puts sockets below it
        head = {
            "num_cpus": 0,
            "include_dashboard": False,
            "include_log_monitor": False,
            "no_monitor": True,
            "temp_dir": str(self._folder),
            "object_store_memory": _STORE_BYTES,
            "wait": False,  # its constructor returns once it is registered
        }
        self._cluster = _tried(lambda: Cluster(initialize_head=True, head_node_args=dict(head)))
        for _ in range(count):
            self._add()

    def _add(self) -> None:
        one = {"num_cpus": 1, "object_store_memory": _STORE_BYTES, "wait": False}
        _tried(lambda: self._cluster.add_node(**one))

    @property
    def address(self) -> str:
        return self._cluster.address

    def kill_worker(self, choice: random.Random) -> bool:
        """A trial's process; False if none runs."""
        workers = sorted(self.trial_processes(), key=lambda process: process.pid)
        if workers:
            choice.choice(workers).kill()
        return bool(workers)

    def trial_processes(self) -> list[psutil.Process]:
        """Those of this cluster alone: descendants of its raylets."""
        found = []
        for node in self._cluster.list_all_nodes():
            with contextlib.suppress(psutil.NoSuchProcess, KeyError):
                raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
                found += [p for p in raylet.children(recursive=True) if _is_trial(p)]
        return found

    def kill_node(self, choice: random.Random) -> None:
        """One node dies, with all that runs on it; another joins before, so that one is left."""
        victims = sorted(self._cluster.worker_nodes, key=lambda node: node.raylet_socket_name)
        self._add()
        self._cluster.remove_node(choice.choice(victims), allow_graceful=False)

    def close(self) -> None:
        self._cluster.shutdown()
        shutil.rmtree(self._folder, ignore_errors=True)


def _tried(start: Callable[[], Any]) -> Any:
    """On a busy machine a node may miss the half minute that Ray gives it to register."""
    for _ in range(_TRIES - 1):
        with contextlib.suppress(Exception):
            return start()
    return start()


_TRIAL = (f"ray::{CLASS}(", "ray::Rank")  # the first worker, and those beside it


def _is_trial(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.cmdline()[:1] != [] and process.cmdline()[0].startswith(_TRIAL)
    return False


class Server:
    """MLflow's own server over one database, at one address, through all its deaths."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.database = f"sqlite:///{folder}/server.db"
        self._artifacts = folder / "artifacts"
        self.uri = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen | None = None
        self.start()
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not answers("127.0.0.1", self._port, 1):
            if time.monotonic() > deadline:
                raise TimeoutError("MLflow's server did not come up")
            time.sleep(0.2)

    def start(self) -> None:
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"),
                *("--port", str(self._port), "--workers", "1"),
                *("--backend-store-uri", self.database),
                *("--default-artifact-root", str(self._artifacts)),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={
                **os.environ,
                "MLFLOW_DISABLE_TELEMETRY": "true",
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # seven processes that nobody asks
            },
        )

    def freeze(self) -> None:
        """It takes connections and answers nothing, until `resume`."""
        os.killpg(self._process.pid, signal.SIGSTOP)

    def stop(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def resume(self) -> None:
        """Ends an outage of either kind."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGCONT)
        else:
            self.start()


class Driver:
    """`moe-study run` in a process of its own."""

    def __init__(self, arguments: list[str], log: Path) -> None:
        self.log = log
        self._began = time.monotonic()
        with log.open("w") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "orchestrator.cli", "run", *arguments, "--json"],
                stdout=subprocess.DEVNULL,
                stderr=stderr,
            )

    @property
    def age_s(self) -> float:
        return time.monotonic() - self._began

    @property
    def exit_code(self) -> int | None:
        return self._process.poll()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def evaluations(database: Path) -> int:
    """How many evaluations the record of the search has; 0 while there is none yet."""
    if not database.exists():
        return 0
    try:
        with contextlib.closing(
            sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=1)
        ) as connection:
            query = "SELECT count(*) FROM trial_intermediate_values"
            return connection.execute(query).fetchone()[0]
    except sqlite3.OperationalError:
        return 0
