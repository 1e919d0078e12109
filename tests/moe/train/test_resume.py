"""A run killed at any moment and called again ends with the bits of an undisturbed one."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pyarrow import fs

from moe.train.checkpoint import load_checkpoint
from moe.train.run_folder import Storage, TakenOverError
from moe.train.trainer import Trainer
from moe.train.training_run import train

_SCRIPT = Path(__file__).with_name("killed_run.py")
_FILES_OF_A_CHECKPOINT = 6  # five and the manifest; config.json and a note are written before


@pytest.mark.parametrize(
    "points",
    [
        ("step:2", "step:5", "report:4", "step:11", "report:12"),
        ("note:4", "note:8", "note:12", "report:8"),
        tuple(f"file:{number}" for number in range(1, 3 + _FILES_OF_A_CHECKPOINT, 3)),
    ],
    ids=lambda points: points[0],
)
def test_killed_run_ends_as_an_undisturbed_one(
    tmp_path, store, tokens_dir, make_config, compare, points
):
    config = make_config(
        num_experts=4, top_k=2, dropout=0.2, balance="loss_free", balance_coefficient=0.01
    )
    undisturbed = train(config, store, report=lambda *_: None, out=tmp_path / "undisturbed")
    (tmp_path / "config.json").write_text(config.to_json())
    out = tmp_path / "killed"
    subprocess.run(
        [sys.executable, _SCRIPT, tmp_path / "config.json", tokens_dir, out, *points],
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
    )
    expected, found = load_checkpoint(undisturbed.checkpoint), load_checkpoint(out / "final")
    assert compare.weights(found.model, expected.model)
    assert compare.clockless(found.curve) == compare.clockless(expected.curve)
    assert (out / "routing.parquet").read_bytes() == undisturbed.routing.read_bytes()
    assert not [path for path in out.iterdir() if path.name.startswith(".tmp")]
    told = [json.loads(line) for line in (out / "told.jsonl").read_text().splitlines()]
    assert {entry["step"] for entry in told} == {4, 8, 12}
    assert all(entry == found.curve[entry["step"] // 4 - 1] for entry in told)


def _interrupted(config, store, out, after):
    """Trains until the report of step `after`, which raises."""

    def report(metrics, checkpoint):
        if metrics["step"] == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, store, report=report, out=out, checkpoint_every=1)


@pytest.mark.parametrize(
    "fields",
    [
        {"router": "random", "top_k": 2},
        {"router": "frozen", "balance": "switch", "balance_scope": "global_batch", "top_k": 2},
        {"precision": "bf16", "top_k": 2, "routing_unit": "sequence"},
        {"name": "muon", "top_k": 2, "activation": "swiglu", "schedule": "wsd"},
    ],
    ids=str,
)
def test_every_kind_of_run_goes_on_bit_by_bit(tmp_path, store, make_config, compare, fields):
    config = make_config(num_experts=4, dropout=0.1, **fields)
    whole = train(config, store, report=lambda *_: None, out=tmp_path / "whole")
    _interrupted(config, store, tmp_path / "parts", after=8)
    told = []
    parts = train(config, store, report=lambda m, _: told.append(m), out=tmp_path / "parts")
    weights = [load_checkpoint(result.checkpoint).model for result in (whole, parts)]
    assert compare.weights(*weights)
    assert compare.clockless(parts.curve) == compare.clockless(whole.curve)
    assert told == parts.curve
    assert [late["router/saturation"] for late in parts.late_metrics] == [
        late["router/saturation"] for late in whole.late_metrics
    ]


def test_run_on_an_object_store_goes_on(tmp_path, store, make_config, compare, monkeypatch):
    config = make_config(num_experts=4, top_k=2, dropout=0.1)
    local = train(config, store, report=lambda *_: None, out=tmp_path / "local")
    bucket = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())  # not a LocalFileSystem
    storage = Storage(bucket, "bucket/run", uri="s3://bucket/run")
    bucket_final = tmp_path / "bucket/run/final"
    monkeypatch.setattr(Storage, "at", lambda out: storage)
    _interrupted(config, store, "s3://bucket/run", after=8)
    (tmp_path / "bucket/run/step_00000008/manifest.json").unlink()  # a writer died before it
    remote = train(config, store, report=lambda *_: None, out="s3://bucket/run")
    assert remote.checkpoint == "s3://bucket/run/final"
    assert remote.routing == "s3://bucket/run/routing.parquet"
    monkeypatch.undo()
    weights = [load_checkpoint(folder).model for folder in (bucket_final, local.checkpoint)]
    assert compare.weights(*weights)
    assert compare.clockless(remote.curve) == compare.clockless(local.curve)


def _contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("checkpoint_every", [1, 0], ids=["saving", "evaluating"])
def test_an_attempt_that_was_taken_over_writes_nothing_more(
    tmp_path, store, make_config, checkpoint_every
):
    """As the worker of a dead driver that does not know it yet, while the next one goes on."""
    config, left = make_config(), {}

    def report(metrics, checkpoint):
        if metrics["step"] == 4:
            train(config, store, report=lambda *_: None, out=tmp_path, checkpoint_every=1)
            left.update(_contents(tmp_path))

    with pytest.raises(TakenOverError, match="claimed by another attempt"):
        train(config, store, report=report, out=tmp_path, checkpoint_every=checkpoint_every)
    assert _contents(tmp_path) == left
    assert load_checkpoint(tmp_path / "final").step == 12


def test_device_time_counts_every_attempt_and_timestamps_do_not_go_back(
    tmp_path, store, make_config, monkeypatch
):
    config = make_config()
    _interrupted(config, store, tmp_path, after=8)
    monkeypatch.setattr("time.time_ns", lambda: 0)  # the clock was set back
    result = train(config, store, report=lambda *_: None, out=tmp_path)
    device_s = [entry["cost/device_s"] for entry in result.curve]
    timestamps = [entry["timestamp_ms"] for entry in result.curve]
    assert device_s == sorted(device_s)
    assert timestamps == sorted(timestamps)
    assert timestamps[0] > 0


def test_other_number_of_workers_goes_on_with_new_dropout(tmp_path, store, make_config):
    """The weights are taken over; only the generators cannot be."""
    config = make_config(dropout=0.5)
    _interrupted(config, store, tmp_path, after=4)
    found = load_checkpoint(tmp_path / "step_00000004")
    two_ranks = dataclasses.replace(found.trainer, generators=found.trainer.generators * 2)
    trainer = Trainer(config, store, train.__kwdefaults__["world"])
    trainer.load(found, Storage.at(tmp_path))
    same = torch.get_rng_state()
    trainer.load(dataclasses.replace(found, trainer=two_ranks), Storage.at(tmp_path))
    assert not torch.equal(torch.get_rng_state(), same)
    assert all(
        torch.equal(value, found.model[name]) for name, value in trainer.model.state_dict().items()
    )
