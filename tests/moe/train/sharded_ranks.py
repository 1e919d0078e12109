"""Sharded gloo workers go through the scenarios of test_sharded.py, one after the other.

    python sharded_ranks.py CONFIG.json TOKENS FOLDER SIZE:SCENARIO,SCENARIO...

Workers of each SIZE write FOLDER/rankN.SIZE.json: what each scenario ended with.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # AdamW imports it: once, before the forks
import torch.distributed as dist
import torch.multiprocessing as mp

from moe.config import TrialConfig
from moe.data.token_store import TokenStore
from moe.train import run_folder
from moe.train.training_run import World, train


def one_decision(config: TrialConfig) -> TrialConfig:
    """Blocks of LLaMA's kind that follow the first one's router."""
    moe = dataclasses.replace(
        config.moe,
        routing_scope="global",
        balance="switch",
        shared_experts=1,
    )
    model = dataclasses.replace(
        config.model, norm="rmsnorm", position="rope", activation="swiglu", tied_embeddings=False
    )
    return dataclasses.replace(config, moe=moe, model=model)


def scenario(name: str, config: TrialConfig, store: TokenStore, folder: Path, rank: int) -> Any:
    """The outcome as JSON: status and curve, or the exception's name and text."""
    size = dist.get_world_size()
    if name == "global":
        config = one_decision(config)
    if name == "muon":
        config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, name="muon"))
    sync = run_folder._sync
    if name == "full disk" and rank == 1:  # the other worker's part
        run_folder._sync = _full

    def report(metrics, checkpoint):
        assert rank == 0, "only rank 0 reports"
        if name == "exit" and metrics["step"] == 4:
            raise SystemExit("stopped by its scheduler")

    try:
        world = World(rank=rank, size=size, shard=True)
        out = folder / {"resume": "exit"}.get(name, name)
        result = train(config, store, report=report, out=out, world=world, checkpoint_every=2)
    except (SystemExit, ValueError, OSError, RuntimeError) as error:
        return [type(error).__name__, str(error)]
    finally:
        run_folder._sync = sync
    return [result.status, result.curve]


def _full(path: str) -> None:
    raise OSError(28, "No space left on device")


def work(
    rank: int, size: int, config_file: str, tokens: str, folder: str, names: list[str]
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting{size}.{os.getppid()}",
        rank=rank,
        world_size=size,
    )
    config = TrialConfig.from_json(Path(config_file).read_text())
    store = TokenStore.open(tokens)
    outcomes = {name: scenario(name, config, store, Path(folder), rank) for name in names}
    Path(folder, f"rank{rank}.{size}.json").write_text(json.dumps(outcomes))
    dist.destroy_process_group()


if __name__ == "__main__":
    config_file, tokens, folder, *groups = sys.argv[1:]
    for group in groups:
        size, _, names = group.partition(":")
        arguments = (int(size), config_file, tokens, folder, names.split(","))
        mp.start_processes(work, args=arguments, nprocs=int(size), start_method="fork")
