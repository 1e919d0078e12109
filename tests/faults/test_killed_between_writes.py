"""A driver killed after any one of its writes: the next one brings both stores to the truth."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

_SCRIPT = Path(__file__).with_name("killed_ledger.py")
_EVERY = 40  # a second or two for each death: 1 tries them all, by hand


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_kill_after_any_write_leaves_what_the_next_driver_mends(
    tmp_path, corpus, mlflow_template
):
    done = subprocess.run(
        [sys.executable, _SCRIPT, tmp_path, corpus, mlflow_template, str(_EVERY)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    told = json.loads(done.stdout)
    assert told["wrong"] == {}
    assert max(told["tried"]) > 80, "the script no longer sees the writes"
