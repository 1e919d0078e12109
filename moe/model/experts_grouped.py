"""All experts in one grouped matrix product, under autograd: the way through them on a GPU.

The shapes are those of `moe.model.dispatch`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from moe.config import GROUPED_WIDTH
from moe.model.activations import Nonlinearity
from moe.model.dispatch import Dispatch, gated_sum


def grouped_mixture(
    x_URD: Tensor,
    gate_UK: Tensor,
    w_in_NDP: Tensor,
    b_in_NP: Tensor | None,
    w_out_NFD: Tensor,
    b_out_ND: Tensor | None,
    nonlinearity: Nonlinearity,
    dispatch: Dispatch,
    counts_N: Tensor,
) -> Tensor:
    """All experts in one grouped matrix product: the group sizes stay on the GPU, which never
    waits for the host. Biases are added by a product with one-hot rows, whose backward pass is a
    product too; indexing would scatter with atomics, in another order each time.

    The kernels take widths in multiples of GROUPED_WIDTH: others are padded with zeros, through
    which neither a value nor a gradient passes (an activation of 0 is 0, and what follows it is 0).
    """
    d_expert, d_model = w_out_NFD.shape[1:]
    more_D, more_F = -d_model % GROUPED_WIDTH, -d_expert % GROUPED_WIDTH
    if more_D or more_F:

        def pad_columns(t: Tensor) -> Tensor:
            """SwiGLU's gates and what they multiply are padded each."""
            return F.pad(t.unflatten(-1, (-1, d_expert)), (0, more_F)).flatten(-2)

        y_URD = grouped_mixture(
            F.pad(x_URD, (0, more_D)),
            gate_UK,
            F.pad(pad_columns(w_in_NDP), (0, 0, 0, more_D)),
            None if b_in_NP is None else pad_columns(b_in_NP),
            F.pad(w_out_NFD, (0, more_D, 0, more_F)),
            None if b_out_ND is None else F.pad(b_out_ND, (0, more_D)),
            nonlinearity,
            dispatch,
            counts_N,
        )
        return y_URD[..., :d_model].contiguous()
    num_rows = x_URD.shape[1]
    offsets_N = counts_N.cumsum(0).to(torch.int32)
    x_ArD = _Gather.apply(x_URD, dispatch).view(-1, d_model)
    pre_ArP = F.grouped_mm(x_ArD, w_in_NDP, offs=offsets_N)
    one_hot_ArN = None
    if b_in_NP is not None:
        row_Ar1 = torch.arange(num_rows * len(dispatch.unit_A), device=x_URD.device)[:, None]
        starts_N = F.pad(offsets_N[:-1], (1, 0))
        one_hot_ArN = ((row_Ar1 >= starts_N) & (row_Ar1 < offsets_N)).to(x_URD.dtype)
        pre_ArP = pre_ArP + one_hot_ArN @ b_in_NP
    y_ArD = F.grouped_mm(nonlinearity.apply(pre_ArP), w_out_NFD, offs=offsets_N)
    if b_out_ND is not None:
        y_ArD = y_ArD + one_hot_ArN @ b_out_ND
    y_AC = y_ArD.view(-1, num_rows * d_model)
    if dispatch.is_ragged:
        weighted_AC = gate_UK[:, None] * y_AC.index_select(0, dispatch.slot_UK)
        return _SumOfUnits.apply(weighted_AC, dispatch).view_as(x_URD)
    y_UKC = y_AC.index_select(0, dispatch.slot_UK.flatten()).view(*gate_UK.shape, -1)
    return (gate_UK[..., None] * y_UKC).sum(1).view_as(x_URD)


class _Gather(torch.autograd.Function):
    """Copies units to their sorted assignments; backward gathers instead of adding atomically."""

    @staticmethod
    def forward(ctx: Any, x_URD: Tensor, dispatch: Dispatch) -> Tensor:
        ctx.save_for_backward(*dispatch)
        return x_URD.index_select(0, dispatch.unit_A)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dx_ARD: Tensor) -> tuple[Tensor, None]:
        dispatch = Dispatch(*ctx.saved_tensors)
        if dispatch.is_ragged:
            return gated_sum(dx_ARD, dispatch, None), None
        slot_UK = dispatch.slot_UK
        dx_UKRD = dx_ARD.index_select(0, slot_UK.flatten())
        return dx_UKRD.view(*slot_UK.shape, *dx_ARD.shape[1:]).sum(1), None


class _SumOfUnits(torch.autograd.Function):
    """Sums of the rows of each unit, which follow one another; backward copies."""

    @staticmethod
    def forward(ctx: Any, y_AC: Tensor, dispatch: Dispatch) -> Tensor:
        ctx.save_for_backward(dispatch.unit_A[dispatch.slot_UK])
        row_A = torch.arange(len(y_AC), device=y_AC.device)
        return F.embedding_bag(row_A, y_AC, dispatch.start_U, mode="sum")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_UC: Tensor) -> tuple[Tensor, None]:
        (unit_A,) = ctx.saved_tensors
        return dy_UC.index_select(0, unit_A), None
