"""Scripts that drive a launch on a cluster of several nodes, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def on_several_nodes(tmp_path, corpus):
    """Runs SCRIPT in a folder of its own; that folder, and what the script printed last."""

    def run(script, study):
        folder = tmp_path / "cluster"
        folder.mkdir()
        path = Path(__file__).with_name(script)
        done = subprocess.run(
            [sys.executable, str(path), str(folder), corpus, str(study)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            # The suite's own cluster has a token, which nodes with a home of their own do not see.
            env={k: v for k, v in os.environ.items() if k != "RAY_AUTH_MODE"},
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return folder, json.loads(done.stdout.splitlines()[-1])

    return run
