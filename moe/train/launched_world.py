"""The workers that `torchrun` started for one run, as its environment tells them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from moe.train.distributed import World


def launched_workers() -> int:
    """How many workers there are; 1 where nothing launched any."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def workers_here() -> int:
    """How many of them share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def is_first() -> bool:
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def joined(device: str, *, compile: bool = False, shard: bool = False) -> Iterator[World]:
    """This worker's world, with its process group for the time of the context. On GPUs each worker
    of a machine has its own.

    Raises ValueError for `shard` without other workers.
    """
    size = launched_workers()
    if size == 1:
        if shard:
            raise ValueError(
                "--shard spreads a run over several workers; received one. Start them: torchrun "
                "--nproc-per-node N -m moe.train CONFIG.json ... --shard."
            )
        yield World(device=device, compile=compile)
        return
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device != "cpu" else "gloo")
    try:
        yield World(rank=dist.get_rank(), size=size, device=device, compile=compile, shard=shard)
    finally:
        dist.destroy_process_group()
