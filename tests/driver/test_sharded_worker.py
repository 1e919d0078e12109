"""A sharded trial's workers through Ray Train's local mode: the losses of one worker."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from moe.config import DataConfig, ModelConfig, MoEConfig, OptimConfig, TrainConfig, TrialConfig
from moe.data.prepare import prepare
from moe.data.token_store import TokenStore
from moe.train.training_run import train
from orchestrator.base.errors import BadInput
from orchestrator.base.home import Home
from orchestrator.cluster.connection import Resources
from orchestrator.driver.options import Options, require_sane
from orchestrator.study.library import load_study
from orchestrator.study.resolve import resolve

_SCRIPT = Path(__file__).with_name("fit_rank.py")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
def test_two_workers_of_a_trial_share_its_weights(corpus, tmp_path):
    tokens = prepare(DataConfig(corpus=corpus), tmp_path / "tokens")
    store = TokenStore.open(tokens)
    config = TrialConfig(
        model=ModelConfig(num_layers=2, d_model=16, num_heads=2, d_ff=32, context_length=16),
        moe=MoEConfig(num_experts=4, top_k=2),
        data=DataConfig(corpus=corpus, digest=store.digest),
        optim=OptimConfig(warmup_steps=1),
        train=TrainConfig(
            num_steps=4, batch_tokens=64, micro_batch_tokens=32, eval_every=2, eval_tokens=96
        ),
    )
    (tmp_path / "config.json").write_text(config.to_json())
    launched = {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    launched |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    launched |= {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    arguments = [str(tmp_path / "config.json"), str(tokens), str(tmp_path / "out")]
    ranks = [
        subprocess.Popen(
            [sys.executable, _SCRIPT, *arguments],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | launched | {"RANK": str(rank)},
        )
        for rank in range(2)
    ]
    try:
        told = [json.loads(rank.communicate(timeout=200)[0].splitlines()[-1]) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    assert (tmp_path / "out/final/state/__1_0.distcp").exists()
    one = train(config, store, report=lambda *_: None, out=tmp_path / "one")
    (status, curve), (other, silent) = told
    assert (status, other, silent) == ("complete", "complete", [])
    for a, b in zip(one.curve, curve, strict=True):
        assert b["val/loss"] == pytest.approx(a["val/loss"], rel=1e-4)


def test_shards_want_workers_and_adamw(corpus, tmp_path):
    def ask(workers: int, **overrides: str) -> None:
        launch = resolve(
            load_study("quickstart"), corpus_spec=corpus, overrides={**overrides, **halved}
        )
        resources = Resources(workers=workers, shard=True)
        require_sane(launch, Options(home=Home.at(str(tmp_path)), resources=resources))

    halved = {"train.batch_tokens": 1024, "train.micro_batch_tokens": 512}
    ask(2)
    with pytest.raises(BadInput, match=r"--shard spreads .* --workers 1"):
        ask(1)
    with pytest.raises(BadInput, match=r"optim\.name=muon"):
        ask(2, **{"optim.name": "muon"})
