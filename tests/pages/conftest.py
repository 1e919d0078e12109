"""A finished launch with a trial of each state, in a home that the tests of this folder share."""

from __future__ import annotations

import json
import os
import shutil
import sys
from types import SimpleNamespace

import pytest
from filelock import FileLock

from moe.metrics import STEP, TIMESTAMP_MS, VAL_LOSS
from orchestrator.base.home import Home

# The documented way to make a study small: what it holds fixed, set on the command line.
SMALL = {
    "model.d_model": 16,
    "model.num_heads": 2,
    "model.d_ff": 32,
    "model.context_length": 32,
    "train.num_steps": 8,
    "train.batch_tokens": 256,
    "train.micro_batch_tokens": 128,
    "train.eval_every": 4,
    "train.eval_tokens": 1024,
}
SET = [word for path, value in SMALL.items() for word in ("--set", f"{path}={value}")]


@pytest.fixture(scope="session")
def small():
    """Options that make any study small."""
    return SET


@pytest.fixture(scope="session")
def finished(tmp_path_factory, request):
    """`quickstart`, trained for real on Ray: 14 trials complete, one failed, one pruned.

    Made once: the processes of pytest-xdist have one parent folder, and nothing here writes to it.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "finished"
    facts = folder / "facts.json"
    with FileLock(f"{folder}.lock"):
        if not facts.exists():
            shutil.rmtree(folder, ignore_errors=True)
            request.getfixturevalue("ray_cluster")
            template, corpus = map(request.getfixturevalue, ("mlflow_template", "corpus"))
            facts.write_text(json.dumps(_train(folder / "moe-runs", template, corpus)))
    return SimpleNamespace(home=Home(folder / "moe-runs"), **json.loads(facts.read_text()))


def _train(root, mlflow_template, corpus):
    """Two endings are told to the ledger, as a driver would; the rest is run and published."""
    from orchestrator.driver.options import Options
    from orchestrator.driver.publish import publish
    from orchestrator.driver.session import opened
    from orchestrator.driver.tune_loop import run
    from orchestrator.study.library import load_study
    from orchestrator.study.resolve import resolve

    root.mkdir(parents=True)
    shutil.copy(mlflow_template, root / "mlflow.db")
    launch = resolve(load_study("quickstart"), overrides=SMALL, corpus_spec=corpus)
    # One process for all trials: each more takes seconds to start.
    options = Options(home=Home(root), concurrency=1)
    # The dense models first: the queries compare mixtures, which so are all complete.
    with opened(launch, options, say=lambda line: None, start_cluster=False) as session:
        ledger = session.ledger
        for ending in ("failed", "pruned"):
            number = ledger.next().record.number
            ledger.started(number)
            ledger.progressed(number, {STEP: 4, TIMESTAMP_MS: 1, VAL_LOSS: 5.5})
            if ending == "failed":
                ledger.failed(number, "OutOfMemoryError: told by the test", tokens=1024)
            else:
                ledger.stopped(number, tokens=1024)
        run(session)
        publish(session)
    assert session.exit_code == 1
    return {"name": launch.name, "said": session.said}


@pytest.fixture
def in_finished(finished, monkeypatch, tmp_path):
    """A folder to work in, whose ./moe-runs is the finished home, as the documentation has it."""
    (tmp_path / "moe-runs").symlink_to(finished.home.root)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def moe_study_command():
    """How a separate process is begun."""
    return [sys.executable, "-m", "orchestrator.cli"], {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
