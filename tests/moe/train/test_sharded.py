"""Weights spread over gloo workers: the result of one, going on from any checkpoint."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING, Metadata

from moe.train.checkpoint import load_checkpoint
from moe.train.run_folder import DamagedError
from moe.train.training_run import train
from tests.moe.train.sharded_ranks import one_decision

_SCRIPT = Path(__file__).with_name("sharded_ranks.py")
_TOLERANCE = {"rtol": 1e-3, "atol": 1e-4}  # that of test_distributed.py


@pytest.fixture(scope="module")
def config(make_config):
    """Three batches of an evaluation, which two workers do not share evenly."""
    return make_config(
        num_experts=4,
        top_k=2,
        balance="loss_free",
        balance_coefficient=0.01,
        micro_batch_tokens=32,
        eval_tokens=96,
        num_steps=6,
        eval_every=2,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory, config, store):
    """The run of one worker, and what it had at step 4."""
    out = tmp_path_factory.mktemp("whole") / "run"
    return train(config, store, report=_nothing, out=out, checkpoint_every=2, keep_checkpoints=9)


def _nothing(metrics, checkpoint):
    return None


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokens_dir, config, whole) -> Path:
    folder = tmp_path_factory.mktemp("sharded")
    (folder / "config.json").write_text(config.to_json())
    shutil.copytree(whole.checkpoint.parent, folder / "unsharded")
    shutil.rmtree(folder / "unsharded" / "final")
    shutil.rmtree(folder / "unsharded" / "evaluations")
    arguments = [folder / "config.json", tokens_dir, folder]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}

    def launch(*groups):
        command = [sys.executable, _SCRIPT, *arguments, *groups]
        subprocess.run(command, check=True, timeout=200, env=environment)

    launch("2:alone,global,exit,full disk,unsharded,muon")
    (folder / "rank0.2.json").rename(folder / "rank0.first.json")
    for name in ("by one", "by four"):
        shutil.copytree(folder / "exit", folder / name)
    launch("2:resume", "4:by four")
    return folder


def outcomes(folder, size=2):
    ranks = [json.loads((folder / f"rank{rank}.{size}.json").read_text()) for rank in range(size)]
    return {name: [rank[name] for rank in ranks] for name in ranks[0]}


def same_run(folder: Path, curve: list[dict[str, float]], whole) -> None:
    found = load_checkpoint(folder / "final")
    for name, weight in load_checkpoint(whole.checkpoint).model.items():
        torch.testing.assert_close(found.model[name], weight, msg=name, **_TOLERANCE)
    for a, b in zip(whole.curve, curve, strict=True):
        for name in ("val/loss", "train/loss", "train/grad_norm", "router/load_entropy"):
            assert b[name] == pytest.approx(a[name], rel=1e-3), name


def test_two_sharded_workers_compute_what_one_does(folder, whole):
    manifest = json.loads((folder / "alone/final/manifest.json").read_text())
    assert {"state/__0_0.distcp", "state/__1_0.distcp"} <= set(manifest["files"])
    assert not list((folder / "alone").glob(".tmp-*"))
    curve = [json.loads(p.read_text())["entry"] for p in notes(folder / "alone")]
    same_run(folder / "alone", curve, whole)


def test_blocks_that_share_a_decision_go_through_shards_too(folder, config, store, tmp_path):
    config = one_decision(config)
    one = train(config, store, report=_nothing, out=tmp_path / "one")
    curve = [json.loads(p.read_text())["entry"] for p in notes(folder / "global")]
    same_run(folder / "global", curve, one)


def notes(run: Path) -> list[Path]:
    return sorted((run / "evaluations").glob("*.json"))


def test_a_stopped_run_goes_on_sharded_over_as_many(folder, whole):
    (status, curve), other = outcomes(folder)["resume"]
    assert status == "complete"
    assert other == [status, curve]
    same_run(folder / "exit", curve, whole)


def test_it_goes_on_over_four(folder, whole):
    (status, curve), *_ = outcomes(folder, 4)["by four"]
    assert status == "complete"
    same_run(folder / "by four", curve, whole)


def test_it_goes_on_unsharded(folder, config, store, whole):
    result = train(config, store, report=_nothing, out=folder / "by one", checkpoint_every=2)
    assert result.status == "complete"
    assert result.curve[0]["step"] == 2
    same_run(folder / "by one", result.curve, whole)
    assert (folder / "by one" / "final" / "model.pt").exists()


def test_an_unsharded_run_goes_on_sharded(folder, whole):
    curve = [json.loads(p.read_text())["entry"] for p in notes(folder / "unsharded")]
    assert [entry["step"] for entry in curve] == [6], "the others are in its checkpoint"
    same_run(folder / "unsharded", [*whole.curve[:2], *curve], whole)


def test_a_damaged_shard_is_passed_over_for_the_step_before(folder, config, store, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(folder / "exit", run)
    shutil.rmtree(run / "final")
    steps = sorted(run.glob("step_*"))
    shard = next((steps[-1] / "state").glob("__1_*.distcp"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with pytest.raises(DamagedError, match=r"__1_0\.distcp should be"):
        load_checkpoint(steps[-1])
    result = train(config, store, report=_nothing, out=run)
    assert result.status == "complete"


def test_metadata_that_wants_code_to_run_is_not_loaded(folder, tmp_path):
    from moe.train.run_folder import Storage
    from moe.train.sharded_state import read_whole

    run = tmp_path / "final"
    shutil.copytree(folder / "exit" / "final", run)
    for wanted, told in (
        (os.getcwd, r"wants code to run \(posix\.getcwd\)"),
        (_ByGetattr(Metadata, "__init__"), r"wants an attribute of .*Metadata.* \(__init__\)"),
    ):
        (run / "state" / ".metadata").write_bytes(pickle.dumps(wanted))
        with pytest.raises(ValueError, match=told):
            read_whole(Storage.at(run), "")


class _ByGetattr:
    """Pickled as Python 3.11.2, Debian 12's, pickles members of enumerations."""

    def __init__(self, of, name):
        self._asked = of, name

    def __reduce__(self):
        return getattr, self._asked


def test_an_enumeration_pickled_by_getattr_is_read():
    from moe.train.sharded_state import _PlainUnpickler

    for member in _MEM_FORMAT_ENCODING:
        pickled = pickle.dumps(_ByGetattr(_MEM_FORMAT_ENCODING, member.name))
        assert _PlainUnpickler(io.BytesIO(pickled)).load() is member


def test_a_disk_full_of_one_worker_ends_both_and_leaves_nothing(folder):
    first = json.loads((folder / "rank0.first.json").read_text())["full disk"]
    assert first[0] == "OSError"
    assert "No space left" in first[1]
    assert not list((folder / "full disk").glob("step_*"))
    assert not list((folder / "full disk").glob(".tmp-*"))


def test_muon_is_refused(folder):
    refused = json.loads((folder / "rank0.first.json").read_text())["muon"]
    assert refused[0] == "ValueError"
    assert "optim.name=adamw" in refused[1]
    assert not (folder / "muon").exists()
