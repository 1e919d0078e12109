"""A model whose weights, gradients and moments are spread over the workers (FSDP2, 2304.11277).

Each block is gathered before its passes and let go of after them; what lies outside of the blocks
(embeddings, last norm, head) stays whole from a micro-batch's beginning to its end.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

if TYPE_CHECKING:
    from moe.train.distributed import World


def shard(model: nn.Module, world: World) -> nn.Module:
    """The model, sharded in place over all workers of the process group, experts among the rest.

    Gradients are averaged over the workers while they are made, and each keeps its part of them.
    Buffers are each worker's own, as under data parallelism.
    """
    # Of blocks that return views: no operation here writes into what a block returned.
    warnings.filterwarnings("ignore", r"FSDP2-wrapped module .* returned a view", UserWarning)
    mesh = init_device_mesh(torch.device(world.device).type, (world.size,))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)
