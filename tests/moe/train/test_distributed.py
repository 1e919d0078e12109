"""Two gloo workers: the same result as one, and none left waiting however a run ends."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from moe.train.checkpoint import load_checkpoint
from moe.train.distributed import World
from moe.train.training_run import resolve, train
from tests.moe.train.two_ranks import with_idle_experts

_SCRIPT = Path(__file__).with_name("two_ranks.py")
_SCENARIOS = (
    "whole",
    "no dropout",
    "idle experts",
    "exit",
    "resume",
    "stop",
    "diverge",
    "full disk",
)


@pytest.fixture(scope="module")
def config(make_config):
    return make_config(
        num_experts=4,
        top_k=2,
        balance="loss_free",
        balance_coefficient=0.01,
        micro_batch_tokens=32,
        eval_tokens=320,
        dropout=0.2,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokens_dir, config) -> Path:
    folder = tmp_path_factory.mktemp("two_ranks")
    (folder / "config.json").write_text(config.to_json())
    subprocess.run(
        [sys.executable, _SCRIPT, folder / "config.json", tokens_dir, folder, *_SCENARIOS],
        check=True,
        timeout=200,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
    )
    return folder


@pytest.fixture(scope="module")
def outcomes(folder):
    """Of both ranks, by scenario."""
    ranks = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    return {name: (ranks[0][name], ranks[1][name]) for name in ranks[0]}


def test_both_ranks_have_the_same_numbers(outcomes):
    first, second = outcomes["whole"]
    assert first == second
    assert first[0] == "complete"
    assert first[2][-1] == 1


@pytest.mark.parametrize("name", ["no dropout", "idle experts"])
def test_two_workers_compute_what_one_does(tmp_path, folder, config, store, name):
    """Without dropout, whose draws differ."""
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, dropout=0.0))
    if name == "idle experts":
        config = with_idle_experts(config)
    one = train(config, store, report=lambda *_: None, out=tmp_path / "one")
    two = load_checkpoint(folder / name / "final")
    for key, weight in load_checkpoint(one.checkpoint).model.items():
        torch.testing.assert_close(two.model[key], weight, rtol=1e-3, atol=1e-4, msg=key)
    for a, b in zip(one.curve, two.curve, strict=True):
        for key in ("val/loss", "train/loss", "train/grad_norm", "router/load_entropy"):
            assert b[key] == pytest.approx(a[key], rel=1e-3), key


def test_resumed_run_equals_the_whole_one_to_the_bit(folder, outcomes, compare):
    (whole, _), (resumed, other) = outcomes["whole"], outcomes["resume"]
    assert resumed == other
    assert compare.clockless(resumed[1]) == compare.clockless(whole[1])
    weights = [load_checkpoint(folder / name / "final").model for name in ("whole", "exit")]
    assert compare.weights(*weights)
    states = load_checkpoint(folder / "whole" / "step_00000008").trainer.generators
    assert len(states) == 2
    assert not torch.equal(states[0]["cpu"], states[1]["cpu"])


def test_true_stops_both(outcomes):
    first, second = outcomes["stop"]
    assert first == second
    assert first[0] == "stopped"
    assert [entry["step"] for entry in first[1]] == [4, 8]


def test_what_report_raises_comes_out_on_rank_0_and_the_other_leaves(outcomes):
    first, second = outcomes["exit"]
    assert first == ["SystemExit", "stopped by its scheduler"]
    assert second[0] == "stopped"


def test_divergence_is_raised_on_both(outcomes):
    first, second = outcomes["diverge"]
    assert first == second
    assert first[0] == "DivergenceError"
    assert "step 1" in first[1]


def test_failure_of_rank_0_to_write_ends_both(outcomes):
    first, second = outcomes["full disk"]
    assert first[0] in ("NotADirectoryError", "OSError")
    assert second[0] == "RuntimeError"
    assert second[1].startswith("rank 0 failed: ")


def test_workers_share_micro_batches_evenly(config, store, monkeypatch):
    monkeypatch.setattr("moe.train.training_run.check_world", lambda world: None)
    with pytest.raises(ValueError, match=r"3 workers for 4 micro-batches.*fewer workers"):
        resolve(config, store, World(rank=0, size=3))


def test_rank_lies_in_the_world():
    with pytest.raises(ValueError, match="received rank 2 of 2"):
        World(rank=2, size=2)
