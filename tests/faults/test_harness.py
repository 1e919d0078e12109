"""Short rounds of benchmarks/faults.py: a driver, a worker and a node are killed, under trials of
one worker, and of two that share the weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

_SCRIPT = Path(__file__).parents[2] / "benchmarks" / "faults.py"


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "granted", [["--cells", "5"], ["--cells", "4", "--workers", "2", "--shard"]], ids=str
)
def test_nothing_is_lost_doubled_or_stuck(granted):
    short = ["--rounds", "1", "--faults", "3", "--steps", "100", *granted]
    short += ["--kinds", "driver,worker,node"]
    done = subprocess.run(
        [sys.executable, _SCRIPT, *short],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["injected"].get("driver") == 1, done.stderr
    zeros = ("lost", "doubled", "stuck", "disagreeing", "points_twice")
    assert {kind: told[kind] for kind in zeros} == dict.fromkeys(zeros, 0)
    assert told["tables_equal"] == 1
