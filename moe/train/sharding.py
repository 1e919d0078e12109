"""A model whose weights, gradients and moments are spread over the workers (FSDP2, 2304.11277).

Each block is gathered before its passes and let go of after them; what lies outside of the blocks
(embeddings, last norm, head) stays whole from a micro-batch's beginning to its end.
"""

from __future__ import annotations

import contextlib
import ctypes
import warnings
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

_M_MMAP_THRESHOLD = -3  # mallopt(3)

if TYPE_CHECKING:
    from moe.train.distributed import World


def shard(model: nn.Module, world: World) -> nn.Module:
    """The model, sharded in place over all workers of the process group, experts among the rest.

    Gradients are averaged over the workers while they are made, and each keeps its part of them.
    Buffers are each worker's own, as under data parallelism.
    """
    # Of blocks that return views: no operation here writes into what a block returned.
    warnings.filterwarnings("ignore", r"FSDP2-wrapped module .* returned a view", UserWarning)
    if torch.device(world.device).type == "cpu":
        _give_back_at_once()
    mesh = init_device_mesh(torch.device(world.device).type, (world.size,))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
        if torch.device(world.device).type == "cpu":
            # Nothing overlaps there, so gathering the block before during a block's backward pass
            # costs its memory for nothing. An empty list would leave torch's own choice on.
            block.set_modules_to_backward_prefetch([block])
    return fully_shard(model, mesh=mesh)


def _give_back_at_once() -> None:
    """Has glibc map each large tensor by itself: a block's memory then goes back with it. Left to
    itself it keeps them in a heap that grows with every step: 2.0 of unsharded memory where it is
    0.4 so, measured (docs/log.md). Other allocators are left alone."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 1 << 18)
