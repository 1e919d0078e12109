"""Many runs on one machine: their order, their ends, and how the same command goes on."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from moe.config import TrialConfig
from moe.identity import config_hash
from moe.train.command import main
from moe.train.many_runs import Jobs, find_configs, find_runs, slice_of
from moe.train.results_archive import pack, unpack

# Notes its start and its end, and does what its name says.
_FAKE = """
import json, os, pathlib, signal, sys, time
out, name = pathlib.Path(sys.argv[1]), sys.argv[2]
log = open(out.parent / "order", "a", buffering=1)
log.write(f"+{name}\\n")
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
if "endless" in name:
    while not asked:
        time.sleep(0.02)
    sys.exit(130)
if "deaf" in name:
    time.sleep(60)
if "killed" in name:
    os.kill(os.getpid(), signal.SIGKILL)
if "wrong" in name:
    sys.exit("error: its last words")
time.sleep(0.3)
status = "failed" if "failing" in name else "complete"
log.write(f"-{name}\\n")
(out / "result.json").write_text(json.dumps({"status": status, "error": "its reason"}))
sys.exit(status == "failed")
"""


@pytest.fixture
def runs_of(tmp_path, make_config, tokens_dir):
    """Runs by name, each with as many steps as are given."""

    def make(**num_steps):
        folder = tmp_path / "configs"
        folder.mkdir(exist_ok=True)
        for name, steps in num_steps.items():
            config = make_config(num_steps=steps, seed=steps)
            (folder / f"{name}.json").write_text(config.to_json())
        return find_runs(find_configs([folder]), tokens=tokens_dir, out=tmp_path / "out")

    return make


@pytest.fixture
def jobs(tmp_path):
    said = []

    def make(runs, at_once=1, **options):
        def command(run):
            return [sys.executable, "-S", "-c", _FAKE, str(run.out), run.name]

        made = Jobs(runs, command, at_once=at_once, say=said.append, **options)
        made.said = said
        return made

    return make


def order(tmp_path):
    return (tmp_path / "out" / "order").read_text().split()


def test_the_longest_run_is_first_and_no_more_than_asked_for_run_at_once(runs_of, jobs, tmp_path):
    runs = runs_of(short=4, longer=12, middle=8)
    assert [run.name for run in runs] == ["longer", "middle", "short"]
    assert not (tmp_path / "out").exists(), "nothing is created by looking"
    assert jobs(runs, at_once=2).train() == 0
    steps = order(tmp_path)
    running = [sum(1 if s[0] == "+" else -1 for s in steps[: i + 1]) for i in range(len(steps))]
    assert max(running) == 2
    assert {*steps[:2]} == {"+longer", "+middle"}


def test_a_failed_run_is_named_and_takes_no_other_with_it(runs_of, jobs, tmp_path):
    runs = runs_of(failing=16, killed=12, wrong=8, fine=4)
    first = jobs(runs)
    assert first.train() == 1
    text = "\n".join(first.said)
    assert "failing failed: its reason" in text
    assert "killed failed: its process was killed by SIGKILL" in text
    assert "wrong failed: error: its last words" in text
    assert first.said[-1].startswith("1 of 4 complete, 3 failed")

    (tmp_path / "out" / "order").unlink()
    again = jobs(runs)
    assert again.train() == 1
    assert {*order(tmp_path)} == {"+killed", "+wrong"}, "what has a result is passed by"
    assert "--retry-failed" in "\n".join(again.said)
    (tmp_path / "out" / "order").unlink()
    jobs(runs, retry_failed=True).train()
    assert "+failing" in order(tmp_path)
    assert "+fine" not in order(tmp_path)


def test_a_deadline_stops_in_order_and_the_rest_waits(runs_of, jobs, tmp_path):
    runs = runs_of(endless=12, fine=8, later=4)
    stopped = jobs(runs, until_s=0.5)
    assert stopped.train() == 130
    assert order(tmp_path) == ["+endless"]
    assert "--until" in "\n".join(stopped.said)
    assert "3 of 3 runs are not at their end; the same command goes on" in stopped.said


def test_a_second_signal_kills(runs_of, jobs):
    runs = runs_of(deaf=4)
    before = signal.getsignal(signal.SIGINT)
    started = time.monotonic()

    def press_twice():
        for _ in range(2):
            time.sleep(0.7)
            os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press_twice).start()
    assert jobs(runs).train() == 130
    assert time.monotonic() - started < 30
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("a", "a"), "named by its config's file"),
        ((), "holds none"),
    ],
)
def test_what_cannot_be_told_apart_or_is_not_there_is_refused(
    tmp_path, make_config, tokens_dir, capsys, names, told
):
    folders = []
    for i, name in enumerate(names or ("",)):
        folders.append(tmp_path / f"configs{i}")
        folders[-1].mkdir()
        if name:
            (folders[-1] / f"{name}.json").write_text(make_config().to_json())
    out = tmp_path / "out"
    code = main([*map(str, folders), "--jobs", "2", "--tokens", str(tokens_dir), "--out", str(out)])
    assert code == 2
    assert told in capsys.readouterr().err
    assert not out.exists()


def test_a_folder_of_another_config_is_not_gone_on_in(runs_of, tmp_path, make_config):
    (run,) = runs_of(only=4)
    run.out.mkdir(parents=True)
    (run.out / "config.json").write_text(make_config(num_steps=8).to_json())
    with pytest.raises(ValueError, match="goes on in the folder of its own config"):
        runs_of(only=4)


def test_slices_are_disjoint_and_make_the_whole(runs_of):
    runs = runs_of(a=4, b=8, c=12, d=16, e=20)
    parts = [slice_of(runs, (k, 3)) for k in range(3)]
    assert sorted(r.name for part in parts for r in part) == list("abcde")
    assert [len(part) for part in parts] == [2, 2, 1]


def test_many_trained_stopped_and_gone_on_with_are_as_each_alone(
    tmp_path, make_config, tokens_dir, store, compare
):
    """Real runs; tokens by digest; the archive holds what `ingest` reads, twice to the byte."""
    folder, out, alone = tmp_path / "configs", tmp_path / "out", tmp_path / "alone"
    folder.mkdir()
    tokens = tmp_path / "tokens"
    tokens.mkdir()
    (tokens / store.digest).symlink_to(tokens_dir)
    for seed in (0, 1):
        made = make_config(num_experts=4, top_k=2, seed=seed)
        made = dataclasses.replace(made, data=dataclasses.replace(made.data, digest=store.digest))
        (folder / f"seed{seed}.json").write_text(made.to_json())
    archive = tmp_path / "results.tar.gz"
    command = [str(folder), "--tokens", str(tokens), "--out", str(out), "--jobs", "2"]
    assert main([*command, "--archive", str(archive), "--until", "0"]) == 130
    assert not list(out.glob("*/result.json")), "nothing was begun"

    stopped = [str(folder / "seed0.json"), "--tokens", str(tokens), "--out", str(out / "seed0")]
    assert main([*stopped, "--until", "0"]) == 130
    result = json.loads((out / "seed0" / "result.json").read_text())
    assert (result["status"], result["metrics"]["step"]) == ("stopped", 4)

    assert main([*command, "--archive", str(archive)]) == 0
    first = archive.read_bytes()
    assert main([*command, "--archive", str(archive)]) == 0
    assert archive.read_bytes() == first
    unpack(archive, tmp_path / "unpacked")
    for seed in (0, 1):
        config = folder / f"seed{seed}.json"
        assert main([str(config), "--tokens", str(tokens), "--out", str(alone / str(seed))]) == 0
        ours, theirs = (
            json.loads((place / "result.json").read_text())
            for place in (tmp_path / "unpacked" / f"seed{seed}", alone / str(seed))
        )
        assert ours["config_hash"] == config_hash(TrialConfig.from_json(config.read_text()))
        for mine, other in zip(ours["curve"], theirs["curve"], strict=True):
            assert mine["val/loss"] == other["val/loss"]
    assert not list((tmp_path / "unpacked").rglob("*.pt")), "no checkpoints"


def test_killed_in_the_middle_it_leaves_no_run_behind_and_goes_on_to_the_same_bits(
    tmp_path, make_config, tokens_dir
):
    """kill -9 of the command: its runs end with it, and the same command comes to what an
    undisturbed one does."""
    folder = tmp_path / "configs"
    folder.mkdir()
    for seed in (0, 1):
        made = make_config(num_experts=4, top_k=2, seed=seed, num_steps=400, eval_every=20)
        (folder / f"seed{seed}.json").write_text(made.to_json())

    def command(out):
        words = [sys.executable, "-m", "moe.train", str(folder), "--tokens", str(tokens_dir)]
        return [*words, "--out", str(out), "--jobs", "2", "--checkpoint-every", "20"]

    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    out = tmp_path / "out"
    with subprocess.Popen(command(out), env=env, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not all((out / f"seed{s}" / "metrics.jsonl").exists() for s in (0, 1)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        children = psutil.Process(process.pid).children()
        process.kill()
    assert len(children) == 2
    assert psutil.wait_procs(children, timeout=20)[1] == [], "they end with the command"
    for place in (out, tmp_path / "whole"):
        assert subprocess.run(command(place), env=env, stderr=subprocess.DEVNULL).returncode == 0
    for seed in (0, 1):
        ours, theirs = (
            json.loads((place / f"seed{seed}" / "result.json").read_text())["curve"]
            for place in (out, tmp_path / "whole")
        )
        assert [e["val/loss"] for e in ours] == [e["val/loss"] for e in theirs]


def test_memory_is_shared_by_the_runs_beside_each_other(monkeypatch, runs_of, tokens_dir, tmp_path):
    (run,) = runs_of(one=4)
    asked = []
    monkeypatch.setattr("moe.train.command.host_bytes", lambda: 8e9)
    monkeypatch.setattr(
        "moe.train.command.misfit", lambda config, most, **_: asked.append(most) or "too much"
    )
    words = [str(run.file), "--tokens", str(tokens_dir), "--out", str(tmp_path / "alone")]
    assert main([*words, "--device", "cpu"]) == 2
    assert main([*words, "--device", "cpu", "--beside", "4"]) == 2
    assert asked == [8e9, 2e9]


@pytest.mark.parametrize("content", [b"no archive", b""])
def test_an_archive_that_is_none_is_refused_whole(tmp_path, content):
    file = tmp_path / "results.tar.gz"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"moe\.train --archive"):
        unpack(file, tmp_path / "into")
    assert not list((tmp_path / "into").rglob("*"))


def test_an_archive_with_other_files_is_refused_whole(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "result.json").write_text("{}")
    assert pack([run, tmp_path / "none"], tmp_path / "good.tar.gz") == 1
    (tmp_path / "evil").write_text("x")
    subprocess.run(
        ["tar", "czf", "bad.tar.gz", "run/result.json", "evil"], cwd=tmp_path, check=True
    )
    with pytest.raises(ValueError, match="it holds evil"):
        unpack(tmp_path / "bad.tar.gz", tmp_path / "into")
    assert not (tmp_path / "into").exists()
