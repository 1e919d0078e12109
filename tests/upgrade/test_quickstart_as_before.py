"""A trial of quickstart ends with the value that commit 016369d came to, before the rooms moved.

`docs/results/quickstart.moe-study` is that commit's. To the bit with the torch and on the kind of
processor that it was trained on; others round otherwise, and 150 steps make of it what they make.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from moe.data.prepare import prepare
from moe.data.token_store import TokenStore
from moe.metrics import VAL_LOSS
from moe.train.training_run import train
from orchestrator.archive.archived_launch import read, records_of
from orchestrator.study.library import load_study
from orchestrator.study.resolve import resolve

EXPORT = Path(__file__).parents[2] / "docs" / "results" / "quickstart.moe-study"
CELL = "token-learned"
TORCH, PROCESSOR = "2.13.0", {"vendor_id": "AuthenticAMD", "cpu family": "25", "model": "1"}


def same_machine() -> bool:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return False
    told = dict(
        reversed([[p.strip() for p in line.split(":", 1)] for line in lines if ":" in line])
    )
    return torch.__version__.startswith(TORCH) and PROCESSOR.items() <= told.items()


def test_a_trial_of_quickstart_ends_as_before_the_move(tmp_path):
    with records_of(read(EXPORT)) as launch:
        before = next(r for r in launch.trials if (r.cell, r.seed) == (CELL, 0))
    study = load_study("quickstart")
    asked = resolve(study, scale="smoke", seeds=(0,), corpus_spec="stdlib")
    (point,) = [point for point in asked.points() if point.cell == CELL]
    if point.config_hash != before.config_hash:
        pytest.skip("this Python's standard library is another text")
    store = TokenStore.open(prepare(point.config.data, tmp_path))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        ended = train(point.config, store, report=lambda *_: None, out=tmp_path / "run")
    finally:
        torch.set_num_threads(threads)
    found = ended.metrics[VAL_LOSS]
    assert found == (before.value if same_machine() else pytest.approx(before.value, abs=0.02))
