"""Shared by all tests: a small corpus, a home whose MLflow schema is made once, one Ray cluster."""

from __future__ import annotations

import os
import random
import shutil
import sys

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray's processes run at nice 15 by default: beside other tests a trial waits for minutes.
os.environ.setdefault("RAY_worker_niceness", "0")
# And it starts a Python process a CPU before anything asks for one.
os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
# What only watches a cluster looks every 5 s: some 20 s of CPU time for each in a run of all tests.
os.environ.setdefault("AUTOSCALER_UPDATE_INTERVAL_S", "60")
os.environ.setdefault("REPORTER_UPDATE_INTERVAL_MS", "60000")

from orchestrator.cluster import connection
from orchestrator.stores import mlflow_client

pytest_plugins = ["tests.fixtures.servers", "tests.fixtures.studies"]

connection.quiet()
mlflow_client.quiet()

_WORDS = [
    *("the", "router", "sends", "each", "token", "to", "two", "of", "four", "experts", "and"),
    *("weighs", "what", "they", "return", "by", "a", "gate", "learned", "frozen", "or", "drawn"),
    *("anew", "while", "dense", "layer", "equal", "width", "reads", "every"),
]


def pytest_collection_modifyitems(items):
    """Files with slow tests first: whole files are handed out, and a long one must not be last."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def corpus_folder(tmp_path_factory):
    """Forty short documents in two languages of made-up text, as JSON lines."""
    import json

    folder = tmp_path_factory.mktemp("corpus")
    generator = random.Random(0)
    lines = []
    for i in range(60):
        words = generator.choices(_WORDS, k=200)
        language = ("en", "xx")[i % 2]
        text = " ".join(words if language == "en" else [w[::-1] for w in words])
        lines.append(json.dumps({"text": text, "language": language}))
    (folder / "documents.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="session")
def corpus(corpus_folder):
    """CORPUS SPEC of the small corpus."""
    return f"files:{corpus_folder}/documents.jsonl"


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory):
    """An MLflow database with its schema: made once, since it takes seconds."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    mlflow_client.connect(f"sqlite:///{path}")
    return path


@pytest.fixture
def home(tmp_path, mlflow_template):
    """A home with an MLflow schema and nothing else."""
    from orchestrator.base.home import Home

    root = tmp_path / "home"
    root.mkdir()
    shutil.copy(mlflow_template, root / "mlflow.db")
    return Home(root)


@pytest.fixture(scope="session")
def ray_cluster():
    """One local cluster of four CPUs for all tests that need Ray."""
    with connection.connected(None, cpus=4):
        yield


@pytest.fixture
def no_pdf(monkeypatch):
    """Figures as PNG alone, and a page without pictures for who has no JavaScript: subsetting the
    fonts of a PDF takes half of all drawing, the pictures most of the rest."""
    monkeypatch.setattr("orchestrator.report.print_figures.FORMATS", ("png",))
    monkeypatch.setattr("orchestrator.report.sections._pictures", lambda data, shares: {})


@pytest.fixture(autouse=True)
def few_figures(request):
    """Where tests are not about figures: every launch that ends in order draws them."""
    if request.path.parent.name in ("archive", "cluster", "driver", "stores", "study", "trials"):
        request.getfixturevalue("no_pdf")


@pytest.fixture
def trial_processes():
    """The processes of trials on this process's own local cluster, never on somebody else's."""
    import contextlib

    import psutil

    from orchestrator.driver.trial_actors import CLASS

    def find():
        found = []
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if process.cmdline()[:1] and process.cmdline()[0].startswith(f"ray::{CLASS}("):
                    found.append(process)
        return found

    return find


@pytest.fixture
def moe_study(monkeypatch, capsys):
    """Runs `moe-study ARGUMENTS...`; returns exit code, stdout, stderr."""

    from orchestrator import cli

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["moe-study", *map(str, arguments)])
        try:
            cli.main()
            code = 0
        except SystemExit as exit_:
            code = exit_.code or 0
        out = capsys.readouterr()
        return code, out.out, out.err

    return call
