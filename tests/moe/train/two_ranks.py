"""Two gloo workers go through the scenarios of test_distributed.py, one after the other.

    python two_ranks.py CONFIG.json TOKENS FOLDER SCENARIO...

Each worker writes FOLDER/rank{0,1}.json: what each scenario ended with.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # AdamW imports it: once, before the forks
import torch.distributed as dist
import torch.multiprocessing as mp

from moe.config import TrialConfig
from moe.data.token_store import TokenStore
from moe.train.training_run import DivergenceError, World, train


def with_idle_experts(config: TrialConfig) -> TrialConfig:
    """As many experts as a micro-batch has tokens, one for each: most are left without any."""
    moe = dataclasses.replace(config.moe, num_experts=32, top_k=1, gate="switch")
    return dataclasses.replace(config, moe=moe)


def scenario(name: str, config: TrialConfig, store: TokenStore, folder: Path, rank: int) -> Any:
    """The outcome as JSON: status and curve, or the exception's name and text."""

    def report(metrics, checkpoint):
        assert rank == 0, "only rank 0 reports"
        if name == "stop":
            return metrics["step"] == 8
        if name == "exit" and metrics["step"] == 8:
            raise SystemExit("stopped by its scheduler")
        return None

    if name == "diverge":
        config = dataclasses.replace(config, train=dataclasses.replace(config.train, max_loss=4.0))
    if name in ("no dropout", "idle experts"):
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, dropout=0.0))
    if name == "idle experts":
        config = with_idle_experts(config)
    out = folder / {"resume": "exit"}.get(name, name)
    if name == "full disk" and rank == 0:
        out = Path("/dev/null/run")
    try:
        world = World(rank=rank, size=2)
        result = train(config, store, report=report, out=out, world=world, checkpoint_every=4)
    except (SystemExit, DivergenceError, OSError, RuntimeError) as error:
        return [type(error).__name__, str(error)]
    return [
        result.status,
        result.curve,
        [late["router/saturation"] for late in result.late_metrics],
    ]


def work(rank: int, config_file: str, tokens: str, folder: str, *names: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    config = TrialConfig.from_json(Path(config_file).read_text())
    store = TokenStore.open(tokens)
    outcomes = {name: scenario(name, config, store, Path(folder), rank) for name in names}
    Path(folder, f"rank{rank}.json").write_text(json.dumps(outcomes))
    dist.destroy_process_group()


if __name__ == "__main__":
    mp.start_processes(work, args=tuple(sys.argv[1:]), nprocs=2, start_method="fork")
