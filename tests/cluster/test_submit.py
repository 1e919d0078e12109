"""A launch as a Ray job on a real head: submitted, watched, stopped in order, and gone on with.

The same head has one logical GPU, which two trials share.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import optuna
import pytest

from orchestrator.base.urls import answers


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def token_of(folder):
    """The settings that Ray's token authentication reads, and the token itself."""
    token = Path(folder, "token")
    if not token.exists():
        token.write_text(secrets.token_hex(32))
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}


@pytest.fixture
def head(tmp_path):
    """The address of the job server of a head that wants a token and has no path to this code."""
    ports = [str(free_port()) for _ in range(3)]
    with tempfile.TemporaryDirectory(prefix="head-", dir="/tmp") as short:  # Ray's sockets: < 107
        processes = [start_head(short, ports, token_of(tmp_path))]

        def is_up():
            if processes[-1].poll() is not None:  # Ray gives a node 30 s to start, loaded or not
                processes.append(start_head(short, ports, token_of(tmp_path)))
            return answers("127.0.0.1", int(ports[1]))

        try:
            assert wait_for(is_up)
            yield f"http://127.0.0.1:{ports[1]}"
        finally:
            processes[-1].send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                processes[-1].wait(timeout=60)
            for process in processes:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


def start_head(folder, ports, token):
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
        *("--port", ports[0], "--dashboard-port", ports[1], "--ray-client-server-port", ports[2]),
        *("--dashboard-agent-listen-port", "0", "--temp-dir", folder),
        *("--num-cpus", "4", "--num-gpus", "1", "--disable-usage-stats"),
    ]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **token, "PYTHONPATH": "", "PATH": path},
        cwd=folder,
        start_new_session=True,
    )


def trials(home: Path):
    url = f"sqlite:///{home}/optuna.db"
    names = optuna.get_all_study_names(url)
    return optuna.load_study(study_name=names[0], storage=url).trials if names else []


def wait_for(what, timeout_s=400):
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with contextlib.suppress(Exception):
            if found := what():
                return found
        time.sleep(1)
    return what()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_submitted_launch_is_stopped_in_order_and_goes_on(head, tmp_path, corpus, study_file):
    study, home = study_file("sent", num_steps=2000, eval_every=100, seeds=[0]), tmp_path / "home"
    options = [
        *("--address", head, "--home", home, "--corpus", corpus, "--json"),
        *("--gpus-per-worker", "0.5", "--device", "cpu", "--cpus-per-worker", "1"),
    ]

    def moe_study(*arguments, token=True):
        """In a process of its own: Ray reads its token once."""
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator.cli", *map(str, arguments)],
            capture_output=True,
            text=True,
            env={**os.environ, **(token_of(tmp_path) if token else {"RAY_AUTH_MODE": "disabled"})},
        )
        return done.returncode, done.stdout, done.stderr

    def submit(*more):
        code, out, err = moe_study("submit", study, *options, *more)
        assert code == 0, err
        return json.loads(out)["submission_id"]

    unknown = ["job", "logs", "none", "--address", head]
    assert wait_for(lambda: "submission id" in moe_study(*unknown)[2]), "the job server answers"
    code, out, err = moe_study(*unknown, token=False)
    assert (code, out) == (2, "")
    assert "RAY_AUTH_TOKEN_PATH" in err
    assert "Traceback" not in err

    first = submit()
    running = wait_for(lambda: [t for t in trials(home) if t.state.name == "RUNNING"] or None)
    wait_for(lambda: len([t for t in trials(home) if t.intermediate_values]) == 2)
    assert running
    assert len([t for t in trials(home) if t.state.name == "RUNNING"]) == 2, "they share the GPU"
    code, out, _ = moe_study("job", "status", first, "--address", head, "--json")
    assert (code, json.loads(out)["status"], json.loads(out)["study"]) == (0, "RUNNING", "sent")

    assert json.loads(out)["name"].startswith("moe-study sent/smoke/files:"), "as Ray shows it"

    code, out, _ = moe_study("job", "stop", first, "--address", head, "--json")
    assert (code, json.loads(out)["status"]) == (0, "STOPPED")
    left = {t.state.name for t in trials(home)}
    assert "WAITING" in left <= {"WAITING", "COMPLETE"}, "the driver left in order"
    code, out, _ = moe_study("job", "logs", first, "--address", head)
    assert "stopping" in out
    steps = {t.number: max(t.intermediate_values) for t in trials(home)}

    second = submit("--max-tokens", str(2 * 2000 * 128))
    wait_for(lambda: {t.state.name for t in trials(home)} == {"COMPLETE"})
    status = ["job", "status", second, "--address", head, "--json"]
    told = wait_for(
        lambda: (s := json.loads(moe_study(*status)[1]))["status"] in ("SUCCEEDED", "FAILED") and s
    )
    assert told["status"] == "SUCCEEDED", moe_study("job", "logs", second, "--address", head)[1]
    assert {t.state.name for t in trials(home)} == {"COMPLETE"}
    assert all(max(t.intermediate_values) == 2000 > steps[t.number] for t in trials(home))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--home", "/x"], "nothing answers"),
        (["--home", "here"], "absolute folder"),
        ([], "absolute folder"),
        (["--home", "/x", "--corpus", "files:a/*.txt"], "absolute"),
        (["--home", "/x", "--checkpoint-uri", "ckpt"], "absolute"),
        (["--home", "/x", "--set", "moe.topk=2"], "moe.top_k"),
        (["--home", "/x", "--seeds", "a"], "whole numbers"),
        (["--home", "/x", "--cpus", "2"], "--cpus"),
        (["--home", "/x", "--nonsense", "2"], "No such option"),
        (["--home", "/x", "--share", "0.2"], "No such option"),
        (["--home", "/x", "--sampler", "qmc"], "is for sampled studies"),
        (["--recommend", "--home", "/x", "--trials", "2"], "No such option"),
        (["--recommend", "--home", "/x", "--share", "0.2"], "nothing answers"),
        (["--recommend", "--home", "/x", "--write-study", "next.py"], "--write-study"),
    ],
)
def test_a_submission_that_cannot_be_is_refused_here(moe_study, arguments, told):
    address = f"http://127.0.0.1:{free_port()}"
    code, out, err = moe_study("submit", "quickstart", "--address", address, *arguments)
    assert (code, out) == (2, "")
    assert told in " ".join(err.split())
    assert "Traceback" not in err


def test_the_address_of_a_submission_is_that_of_a_job_server(moe_study):
    code, _, err = moe_study("submit", "quickstart", "--address", "head:6379", "--home", "/x")
    assert code == 2
    assert "http://HEAD:8265" in err
