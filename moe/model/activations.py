"""What lies between the two products of a feed-forward network, alone and in written-out passes.

Shapes:  ... any   F width of the FFN   P = columns * F, what the first product makes
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from moe.config import Activation


class Nonlinearity(NamedTuple):
    """One activation.

    columns: how many columns of the first product make one of the hidden width.
    apply: [..., P] to [..., F], under autograd.
    forward(pre, act): the same, written into `act`.
    backward(dact, pre, dpre): the gradient of `pre`, written into `dpre`, which may be `dact`
        where columns is 1. What `dact` holds afterwards means nothing.
    """

    columns: int
    apply: Callable[[Tensor], Tensor]
    forward: Callable[[Tensor, Tensor], None]
    backward: Callable[[Tensor, Tensor, Tensor], None]


def _gelu_forward(pre_F: Tensor, act_F: Tensor) -> None:
    torch.ops.aten.gelu.out(pre_F, out=act_F)


def _gelu_backward(dact_F: Tensor, pre_F: Tensor, dpre_F: Tensor) -> None:
    torch.ops.aten.gelu_backward.grad_input(dact_F, pre_F, grad_input=dpre_F)


def _swiglu(pre_P: Tensor) -> Tensor:
    gate_F, up_F = pre_P.chunk(2, dim=-1)
    return F.silu(gate_F) * up_F


def _swiglu_forward(pre_P: Tensor, act_F: Tensor) -> None:
    gate_F, up_F = pre_P.chunk(2, dim=-1)
    torch.ops.aten.silu.out(gate_F, out=act_F)
    act_F.mul_(up_F)


def _swiglu_backward(dact_F: Tensor, pre_P: Tensor, dpre_P: Tensor) -> None:
    (gate_F, up_F), (dgate_F, dup_F) = pre_P.chunk(2, dim=-1), dpre_P.chunk(2, dim=-1)
    torch.ops.aten.silu.out(gate_F, out=dup_F)
    dup_F.mul_(dact_F)
    dact_F.mul_(up_F)
    torch.ops.aten.silu_backward.grad_input(dact_F, gate_F, grad_input=dgate_F)


# GELU is the exact one: on CPUs the tanh form takes three times as long. SwiGLU's columns are all
# gates, then all that they multiply, as in the experts of transformers.
NONLINEARITIES: dict[Activation, Nonlinearity] = {
    "gelu": Nonlinearity(1, F.gelu, _gelu_forward, _gelu_backward),
    "swiglu": Nonlinearity(2, _swiglu, _swiglu_forward, _swiglu_backward),
}
