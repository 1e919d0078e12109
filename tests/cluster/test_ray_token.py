"""A cluster with token authentication: who lacks the token is told so at once, in one line."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from orchestrator.base.urls import answers

TOKEN = "0123456789abcdef" * 3
ASK = """
import sys
from orchestrator.cluster.connection import connected
from orchestrator.base.errors import Unreachable
from orchestrator.cluster.ray_token import require_token

try:
    if sys.argv[2] == "join":
        connected(sys.argv[1]).__enter__()
    require_token(sys.argv[1])
    print("taken")
except Unreachable as error:
    print(error)
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def protected():
    """HOST:PORT of a head node of its own, and the file with its token."""
    folder = Path(tempfile.mkdtemp(prefix="moe-ray-", dir="/tmp"))  # sockets: a short path
    token = folder / "token"
    token.write_text(TOKEN)
    port = free_port()
    head = subprocess.Popen(
        [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
            *("--port", str(port), "--ray-client-server-port", str(free_port())),
            *("--num-cpus", "1", "--include-dashboard=false", "--temp-dir", str(folder / "s")),
        ],
        env={
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not answers("127.0.0.1", port, 1) and time.monotonic() < deadline:
        time.sleep(0.2)
    yield f"127.0.0.1:{port}", token
    with contextlib.suppress(ProcessLookupError):
        os.killpg(head.pid, signal.SIGKILL)
    head.wait()
    shutil.rmtree(folder, ignore_errors=True)


def ask(address, how, **variables):
    """What a new process is told: Ray reads its token once."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")}
    told = subprocess.run(
        [sys.executable, "-c", ASK, address, how],
        env={**environment, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    return told.stdout.strip()


@pytest.mark.slow
def test_the_absence_of_a_token_is_explained_in_one_line(protected, tmp_path):
    address, token = protected
    said = ask(address, "join")
    assert said.splitlines() == [said]
    assert "wants its token; this driver has no token. Set RAY_AUTH_MODE=token" in said
    wrong = ask(address, "join", RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="f" * 48)
    assert "this driver has another token" in wrong
    assert "f" * 48 not in wrong
    right = ask(address, "probe", RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token))
    assert right == "taken"
    none = ask(address, "probe", RAY_AUTH_MODE="token", HOME=str(tmp_path))
    assert "this driver has no token" in none
