"""Workers that torchrun starts for `python -m moe.train`: one run, that goes on after a kill -9."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from moe.train.command import main
from moe.train.training_run import train

_LIMIT_S = 120


@pytest.fixture(scope="module")
def config(make_config):
    return make_config(
        **{"num_experts": 4, "top_k": 2, "micro_batch_tokens": 32, "eval_tokens": 96},
        **{"num_steps": 40, "eval_every": 4},
    )


def workers_of(launcher: subprocess.Popen) -> list[int]:
    """Process ids by rank."""
    ranks = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            environment = (status.parent / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        told = dict(entry.partition(b"=")[::2] for entry in environment)
        if parent == launcher.pid and b"RANK" in told:
            ranks[int(told[b"RANK"])] = int(status.parent.name)
    return [ranks[rank] for rank in sorted(ranks)]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_sharded_run_whose_worker_is_killed_goes_on(config, store, tokens_dir, tmp_path):
    file, out = tmp_path / "config.json", tmp_path / "out"
    file.write_text(config.to_json())
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *("-m", "moe.train", str(file), "--tokens", str(tokens_dir), "--out", str(out)),
        *("--shard", "--device", "cpu", "--checkpoint-every", "4"),
    ]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    first = subprocess.Popen(command, env=environment, **quiet)
    try:
        deadline = time.monotonic() + _LIMIT_S
        while not list(out.glob("step_*")):
            assert first.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(workers_of(first)[1], signal.SIGKILL)
        assert first.wait(timeout=_LIMIT_S) != 0
    finally:
        first.kill()
        first.wait()
    assert not (out / "final").exists()

    again = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=_LIMIT_S
    )
    assert again.returncode == 0, again.stderr[-2000:]
    told = [json.loads(line) for line in again.stdout.splitlines()]
    result = json.loads((out / "result.json").read_text())
    assert (result["status"], result["workers"], result["sharded"]) == ("complete", 2, True)
    assert result["curve"] == told, "the first worker alone tells"
    one = train(config, store, report=lambda *_: None, out=tmp_path / "one")
    for a, b in zip(one.curve, told, strict=True):
        assert b["val/loss"] == pytest.approx(a["val/loss"], rel=1e-3)


def test_shards_want_workers(config, tokens_dir, tmp_path, capsys):
    file = tmp_path / "config.json"
    file.write_text(config.to_json())
    places = ["--tokens", str(tokens_dir), "--out", str(tmp_path / "out")]
    assert main([str(file), *places, "--shard"]) == 2
    assert "torchrun" in capsys.readouterr().err
    assert main([str(file), *places, "--shard", "--jobs", "2"]) == 2
    assert "for one run" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
