"""Two drivers, one launch: real processes, of which one dies without a word."""

from __future__ import annotations

import subprocess
import sys

import pytest

_HOLD = """
import sys, time
from pathlib import Path
from orchestrator.lock import DriverLock

with DriverLock(Path(sys.argv[1]), "the launch of another driver"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def other_driver(home):
    """A process that holds the home's lock, as `run` does from its start to its end."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(home.root / "driver")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_the_second_is_refused_and_told_who_holds_the_launch(other_driver, home, corpus, moe_study):
    asked = ("run", "quickstart", "--home", home.root, "--corpus", corpus, "--cpus", 1)
    code, out, err = moe_study(*asked)
    assert code == 3
    assert f"process {other_driver.pid}" in err.replace("\n", " ")
    assert "the launch of another driver" in err.replace("\n", " ")
    assert "Traceback" not in err
    assert out == ""
    assert not (home.root / "optuna.db").exists()


def test_a_lock_left_by_a_dead_driver_is_taken_over(other_driver, home):
    from orchestrator.lock import DriverLock

    other_driver.kill()
    other_driver.wait()
    assert (home.root / "driver.holder.json").exists(), "it died without tidying up"
    with DriverLock(home.root / "driver", "mine"):
        pass
    assert not (home.root / "driver.holder.json").exists()
