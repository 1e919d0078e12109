"""Data parallelism over an initialised torch.distributed process group.

A world of one needs no process group: every function here then does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Result = TypeVar("Result")


@dataclass(frozen=True)
class World:
    """This worker's place among the workers of one run, and how it computes.

    compile: through torch.compile, on a CUDA device in bfloat16; left out elsewhere.
    """

    rank: int = 0
    size: int = 1
    device: str = "cpu"
    compile: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise ValueError(
                f"a world's rank lies in 0..size-1; received rank {self.rank} of {self.size}. "
                "Pass the rank and size of the process group."
            )

    @property
    def is_main(self) -> bool:
        return self.rank == 0


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


def sum_gradients(parameters: Sequence[Tensor], extra: Tensor, world: World) -> Tensor:
    """Sums all gradients and the vector `extra` over the ranks, in one flat all-reduce.

    A parameter that no token reached has no gradient; it counts as zero, with one worker as with
    several, so that AdamW's moments decay alike in both. Returns the summed `extra`.
    """
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    if world.size == 1:
        return extra
    gradients = [parameter.grad for parameter in parameters]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients] + [extra.reshape(-1)])
    dist.all_reduce(flat)
    pieces = flat.split([gradient.numel() for gradient in gradients] + [extra.numel()])
    torch._foreach_copy_(
        gradients,
        [piece.view_as(g) for piece, g in zip(pieces[:-1], gradients, strict=True)],
    )
    return pieces[-1].view_as(extra)


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
            raise RuntimeError(f"rank 0 failed: {failure}")
        return result
    try:
        result = action()
    except BaseException as error:
        broadcast((None, f"{type(error).__name__}: {error}"), world)
        raise
    broadcast((result, None), world)
    return result
