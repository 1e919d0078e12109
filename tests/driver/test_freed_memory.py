"""Memory that a trial has freed is its machine's again, while its process serves others."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from orchestrator.driver.freed_memory import give_back
from orchestrator.driver.worker import Job, _reporter

# Blocks below the size from which glibc maps each by itself, with a small one kept after each: the
# heap cannot shrink from its end.
_HOLES = """
import ctypes
from orchestrator.driver.freed_memory import give_back

def resident_mb():
    with open("/proc/self/smaps_rollup") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Rss")) / 1024

blocks, kept = [], []
for _ in range(2000):
    blocks.append(bytearray(100_000))
    kept.append(bytearray(600))
blocks.clear()
before = resident_mb()
give_back()
print(before - resident_mb())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is not glibc's")
def test_freed_memory_between_what_is_kept_goes_back():
    run = subprocess.run(
        [sys.executable, "-c", _HOLES], capture_output=True, text=True, check=True, timeout=60
    )
    assert float(run.stdout) > 150, "of 200 MB"


def test_another_allocator_is_left_alone(monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    give_back()


def test_a_trial_gives_back_at_each_evaluation(monkeypatch):
    given = []
    monkeypatch.setattr("orchestrator.driver.worker.give_back", lambda: given.append(1))
    monkeypatch.setattr("orchestrator.driver.worker.tune.report", lambda told: None)
    monkeypatch.setattr("orchestrator.driver.worker.failure_cause.here", dict)
    fields = dict.fromkeys(Job.__dataclass_fields__)
    job = Job(**{**fields, "config": {"train": {"num_steps": 8, "seed": 0}}})
    report = _reporter(job, None)
    for step in (4, 8):
        report({"step": step, "val/loss": 2.0}, None)
    assert len(given) == 2
