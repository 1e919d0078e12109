"""Studies small enough to run for real in a test, a launch of them that is held open, and servers
for its stores: PostgreSQL and MLflow."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from moe.config import DataConfig, ModelConfig, MoEConfig, OptimConfig, TrainConfig, TrialConfig
from orchestrator.base.urls import answers
from orchestrator.driver.options import Options
from orchestrator.driver.session import opened
from orchestrator.study import EarlyStopping, Study
from orchestrator.study.launch import resolve
from search_spaces.cells import Cell
from search_spaces.domains import Choice
from search_spaces.space import Space

TINY = TrialConfig(
    model=ModelConfig(num_layers=1, d_model=16, num_heads=2, d_ff=32, context_length=16),
    moe=MoEConfig(num_experts=4, top_k=2),
    data=DataConfig(),
    optim=OptimConfig(learning_rate=1e-2, warmup_steps=2),
    train=TrainConfig(
        num_steps=8, batch_tokens=128, micro_batch_tokens=64, eval_every=2, eval_tokens=256
    ),
)


@pytest.fixture(scope="session")
def grid_study():
    return Study(
        name="tiny-grid",
        question="Does the suite see every state?",
        baseline="learned",
        held_fixed="all but the router",
        scales={"smoke": TINY},
        cells=[
            Cell(name="dense", overrides={"moe.num_experts": 0}),
            Cell(name="learned", overrides={"moe.router": "learned"}),
            Cell(name="frozen", overrides={"moe.router": "frozen"}),
        ],
        seeds=(0, 1),
    )


@pytest.fixture(scope="session")
def sampled_study():
    return Study(
        name="tiny-search",
        question="Does the sampler repeat itself?",
        baseline="the best point",
        held_fixed="all but two axes",
        scales={"smoke": TINY},
        space=Space(
            axes={
                "moe.num_experts": Choice((2, 4, 6, 8)),
                "moe.top_k": Choice((1, 2)),
                "moe.router": Choice(("frozen", "random")),
            }
        ),
        trials=6,
        seeds=(0,),
        early_stopping=EarlyStopping(first_rung=0.25, reduction_factor=2),
    )


@pytest.fixture
def said():
    return []


@pytest.fixture
def hold(home, corpus, said):
    """A context manager: a study's launch in this test's home, held by this process."""

    @contextmanager
    def hold_study(study, *, listener=None, start_cluster=False, options=None, **asked):
        launch = resolve(study, corpus_spec=corpus, **asked)
        with opened(
            launch,
            Options(home=home, **(options or {})),
            say=said.append,
            listener=listener,
            start_cluster=start_cluster,
        ) as session:
            yield session

    return hold_study


class PostgresServer:
    """Debian's PostgreSQL, of this test session alone: loopback, its own folder, a password.

    PostgreSQL refuses to run as root; then it runs as the user that its package made.
    """

    USER, PASSWORD = "moe", "s3cret-pw"

    def __init__(self, binaries: Path) -> None:
        self._binaries = binaries
        self._counter = itertools.count()
        self._folder = Path(tempfile.mkdtemp(prefix="moe-pg-"))
        self.port = _free_port()
        password = self._folder / "password"
        password.write_text(self.PASSWORD)
        if os.getuid() == 0:
            shutil.chown(self._folder, "postgres")
            shutil.chown(password, "postgres")
        self._call(
            *("initdb", "--pgdata", self._data, "--username", self.USER, "--no-sync"),
            *("--auth-local", "trust", "--auth-host", "scram-sha-256", "--pwfile", password),
            *("--encoding", "UTF8"),
        )
        self.start()

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def start(self) -> None:
        settings = f"-h 127.0.0.1 -p {self.port} -k {self._folder} -F"
        log = self._folder / "log"
        self._call("pg_ctl", "start", "-w", "-D", self._data, "-l", log, "-o", settings)

    def stop(self) -> None:
        self._call("pg_ctl", "stop", "-w", "-m", "immediate", "-D", self._data)

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self._folder)

    def url(self, database: str, user: str = f"{USER}:{PASSWORD}") -> str:
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def socket_url(self, database: str) -> str:
        return f"postgresql://{self.USER}@/{database}?host={self._folder}&port={self.port}"

    def new_database(self) -> str:
        name = f"moe_{next(self._counter)}"
        self.sql("postgres", f"CREATE DATABASE {name}")
        return name

    def sql(self, database: str, statement: str) -> None:
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True) as connection:
            connection.execute(statement)

    def _call(self, program: str, *arguments: object) -> None:
        command = [str(self._binaries / program), *map(str, arguments)]
        if os.getuid() == 0:
            command = ["runuser", "-u", "postgres", "--", *command]
        subprocess.run(
            command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd="/"
        )


@pytest.fixture(scope="session")
def postgres():
    """Skips where the server's or the driver's package is not installed."""
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install '.[postgresql]'")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    initdb = str(found[-1]) if found else shutil.which("initdb")
    if initdb is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    server = PostgresServer(Path(initdb).resolve().parent)
    yield server
    server.remove()


@pytest.fixture(params=["sqlite", "journal", "postgresql"])
def storage_url(request, tmp_path):
    """An empty Optuna storage of each kind."""
    if request.param == "postgresql":
        server = request.getfixturevalue("postgres")
        return server.url(server.new_database())
    prefix = {"sqlite": "sqlite:///", "journal": "journal:"}[request.param]
    return f"{prefix}{tmp_path / 'record of a search'}"


class MlflowServer:
    """A real tracking server on loopback, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.port = _free_port()
        self.folder = folder
        self.start()

    @property
    def uri(self) -> str:
        return f"http://user:secretpw@127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"),
            *("--port", str(self.port), "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{self.folder}/server.db"),
            *("--default-artifact-root", "mlflow-artifacts:/"),
            *("--artifacts-destination", f"{self.folder}/artifacts"),
        ]
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
        )
        deadline = time.monotonic() + 150
        while not answers("127.0.0.1", self.port, 1) and time.monotonic() < deadline:
            time.sleep(0.3)

    def stop(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory, mlflow_template):
    """One server for the session; a test that stops it starts it again."""
    folder = tmp_path_factory.mktemp("mlflow-server")
    shutil.copy(mlflow_template, folder / "server.db")
    server = MlflowServer(folder)
    yield server
    server.stop()
