"""A driver killed after any one of its writes: the next one brings both stores to the truth."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

_FOLDER = Path(__file__).parent
_EVERY = {"killed_ledger": 40, "killed_search": 60}  # 1 to 2 s a death: 1 tries all, by hand


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("script", _EVERY)
def test_a_kill_after_any_write_leaves_what_the_next_driver_mends(
    tmp_path, corpus, mlflow_template, script
):
    """A grid; and a search with its race, which goes on to the same points and recommendation."""
    every = str(_EVERY[script])
    done = subprocess.run(
        [sys.executable, _FOLDER / f"{script}.py", tmp_path, corpus, mlflow_template, every],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    told = json.loads(done.stdout)
    assert told["wrong"] == {}
    assert max(told["tried"]) > 80, "the script no longer sees the writes"
