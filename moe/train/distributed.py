"""Data parallelism over an initialised torch.distributed process group.

A world of one needs no process group: every function here then does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

Result = TypeVar("Result")
FIRST_FAILED = "rank 0 failed"


@dataclass(frozen=True)
class World:
    """This worker's place among the workers of one run, and how it computes.

    compile: through torch.compile, on a CUDA device in bfloat16; left out elsewhere.
    shard: each worker holds a part of every weight, its gradient and its moments
        (`moe.train.sharding`); of one worker there is nothing to shard.
    """

    rank: int = 0
    size: int = 1
    device: str = "cpu"
    compile: bool = False
    shard: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise ValueError(
                f"a world's rank lies in 0..size-1; received rank {self.rank} of {self.size}. "
                "Pass the rank and size of the process group."
            )

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def is_sharded(self) -> bool:
        return self.shard and self.size > 1


def check_world(world: World) -> None:
    """Raises ValueError unless the process group and the device that `world` names are there."""
    if torch.device(world.device).type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"world.device={world.device} needs a CUDA device, and torch finds none. Use cpu."
        )
    if world.size == 1:
        return
    joined = dist.get_world_size() if dist.is_initialized() else 0
    if joined != world.size or dist.get_rank() != world.rank:
        raise ValueError(
            f"a world of {world.size} needs a torch.distributed process group of that size; "
            f"received {'none' if joined == 0 else f'one of {joined}'}. "
            "Call torch.distributed.init_process_group (gloo on CPU, nccl on GPU) first."
        )


def sum_over_ranks(values: Tensor, world: World) -> Tensor:
    """Sums `values` in place over the ranks; all ranks get the same bits."""
    if world.size > 1:
        dist.all_reduce(values)
    return values


def max_over_ranks(value: float, world: World) -> float:
    if world.size == 1:
        return value
    values = torch.tensor([value], dtype=torch.float64, device=world.device)
    dist.all_reduce(values, op=dist.ReduceOp.MAX)
    return values.item()


def replicate(model: nn.Module, world: World) -> nn.Module:
    """The model as every worker calls it: while it goes backward, gradients are averaged over them.

    By torch's own engine. A gradient lies in the bucket that is reduced, so there is no second copy
    (2006.15704, section 4). Experts that no token of a worker reached have no gradient there, so
    the unused are looked for; that also keeps the buckets as they were made, whence a resumed run
    sums in the order of the whole one. Buffers are each worker's own: they agree by what is summed
    in `end_step`.
    """
    if world.size == 1:
        return model
    if world.is_sharded:
        from moe.train.sharding import shard  # a second of imports

        return shard(model, world)
    return DistributedDataParallel(
        model, find_unused_parameters=True, gradient_as_bucket_view=True, forward_sync_buffers=False
    )


def accumulating(replica: nn.Module, *, is_last: bool) -> AbstractContextManager[None]:
    """Around the forward and backward pass of a micro-batch: only the step's last one reduces. Of a
    sharded model each does, since whole gradients would be kept between them."""
    if is_last or not isinstance(replica, DistributedDataParallel):
        return nullcontext()
    return replica.no_sync()


def complete_gradients(parameters: Sequence[Tensor]) -> None:
    """A parameter that no token reached on any worker has no gradient; it counts as zero, with one
    worker as with several, so that AdamW's moments decay alike in both."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


def gather(value: Any, world: World) -> list[Any]:
    """Every rank's `value` in rank order, on all ranks."""
    if world.size == 1:
        return [value]
    values: list[Any] = [None] * world.size
    dist.all_gather_object(values, value)
    return values


def broadcast(value: Any, world: World) -> Any:
    """Rank 0's `value`, on all ranks."""
    if world.size == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, device=torch.device(world.device))
    return box[0]


def on_main(action: Callable[[], Result], world: World) -> Result:
    """Runs `action` on rank 0 and returns its result on all ranks.

    If it raises, rank 0 first tells the others, so that none is left waiting in a collective; then
    it raises the error itself, and the others a RuntimeError that names it.
    """
    if world.size == 1:
        return action()
    if not world.is_main:
        result, failure = broadcast(None, world)
        if failure is not None:
            raise RuntimeError(f"{FIRST_FAILED}: {failure}")
        return result
    try:
        result = action()
    except BaseException as error:
        broadcast((None, f"{type(error).__name__}: {error}"), world)
        raise
    broadcast((result, None), world)
    return result
