"""Whole sequences through their experts: no sort, no gather, no scatter.

The rows of a sequence lie together and share their gates, so a gate scales a product and no row is
moved. One product is made for each sequence and chosen expert, which pays where these are few:
`moe.model.experts` says when. The shapes are those of `moe.model.dispatch`; U are sequences here,
and R their positions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from moe.model.activations import Nonlinearity
from moe.model.dispatch import affine, empty_like


class SequenceMixture(torch.autograd.Function):
    """Keeps the input and the two hidden activations, as a dense FFN of equal active width does."""

    @staticmethod
    def forward(
        ctx: Any,
        x_URD: Tensor,
        gate_UK: Tensor,
        w_in_NDP: Tensor,
        b_in_NP: Tensor | None,
        w_out_NFD: Tensor,
        b_out_ND: Tensor | None,
        nonlinearity: Nonlinearity,
        index_UK: Tensor,
        kept_UK: Tensor | None,
    ) -> Tensor:
        """`kept_UK`: which of the chosen take place, None for all; the others' gates are 0."""
        num_rows, biased = x_URD.shape[1], b_out_ND is not None
        pre_UKRP = x_URD.new_empty(*index_UK.shape, num_rows, w_in_NDP.shape[2])
        act_UKRF = x_URD.new_empty(*index_UK.shape, num_rows, w_out_NFD.shape[1])
        if biased:
            bias_U1D = gate_UK[:, None] @ b_out_ND[index_UK]
            y_URD = bias_U1D.expand(-1, num_rows, -1).contiguous()
        else:
            y_URD = torch.empty_like(x_URD)
        products = _products(index_UK, gate_UK, kept_UK)
        begun = [biased] * len(x_URD)
        for u, k, n, gate in products:
            pre_RP, act_RF = pre_UKRP[u, k], act_UKRF[u, k]
            affine(x_URD[u], w_in_NDP[n], b_in_NP, n, out=pre_RP)
            nonlinearity.forward(pre_RP, act_RF)
            y_URD[u].addmm_(act_RF, w_out_NFD[n], beta=int(begun[u]), alpha=gate)
            begun[u] = True
        _zero_where_not(begun, y_URD)
        ctx.save_for_backward(
            x_URD, gate_UK, w_in_NDP, b_in_NP, w_out_NFD, b_out_ND, index_UK, pre_UKRP, act_UKRF
        )
        ctx.nonlinearity, ctx.products = nonlinearity, products
        return y_URD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_URD: Tensor) -> tuple[Tensor | None, ...]:
        x_URD, gate_UK, w_in_NDP, b_in_NP, w_out_NFD, b_out_ND, index_UK, *hidden = (
            ctx.saved_tensors
        )
        pre_UKRP, act_UKRF = hidden
        dw_in_NDP, dw_out_NFD = empty_like((w_in_NDP, w_out_NFD))
        dx_URD = torch.empty_like(x_URD)
        dgate_UK, biased = torch.zeros_like(gate_UK), b_out_ND is not None
        if biased:
            dy_U1D = dy_URD.sum(1, keepdim=True)
            dgate_UK = (dy_U1D * b_out_ND[index_UK]).sum(-1)
            dpre_UKP = b_in_NP.new_zeros(*index_UK.shape, b_in_NP.shape[1])
        buffer_RF = torch.empty_like(act_UKRF[0, 0])
        dpre_RP = buffer_RF
        if ctx.nonlinearity.columns > 1:
            dpre_RP = torch.empty_like(pre_UKRP[0, 0])
        begun, begun_dx = [False] * len(w_in_NDP), [False] * len(x_URD)
        for u, k, n, gate in ctx.products:
            act_RF = act_UKRF[u, k]
            # A weight's first product is written over what is there: adding it would read zeros.
            add = {"beta": int(begun[n]), "alpha": gate}
            begun[n] = True
            # The gradient before the gate, which multiplies the three products made of it (alpha).
            dhidden_RF = torch.mm(dy_URD[u], w_out_NFD[n].t(), out=buffer_RF)
            if ctx.needs_input_grad[1]:
                dgate_UK[u, k] += torch.dot(dhidden_RF.view(-1), act_RF.view(-1))
            dw_out_NFD[n].addmm_(act_RF.t(), dy_URD[u], **add)
            ctx.nonlinearity.backward(dhidden_RF, pre_UKRP[u, k], dpre_RP)
            dx_RD = dx_URD[u]
            dx_RD.addmm_(dpre_RP, w_in_NDP[n].t(), beta=int(begun_dx[u]), alpha=gate)
            begun_dx[u] = True
            dw_in_NDP[n].addmm_(x_URD[u].t(), dpre_RP, **add)
            if biased:
                torch.sum(dpre_RP, 0, out=dpre_UKP[u, k])
        _zero_where_not(begun, dw_in_NDP, dw_out_NFD)
        _zero_where_not(begun_dx, dx_URD)
        db_in_NP = db_out_ND = None
        if biased:
            db_in_NP = _sum_by_expert(gate_UK[..., None] * dpre_UKP, index_UK, b_in_NP)
            db_out_ND = _sum_by_expert(gate_UK[..., None] * dy_U1D, index_UK, b_out_ND)
        dgate = dgate_UK if ctx.needs_input_grad[1] else None
        return dx_URD, dgate, dw_in_NDP, db_in_NP, dw_out_NFD, db_out_ND, None, None, None


def _products(
    index_UK: Tensor, gate_UK: Tensor, kept_UK: Tensor | None
) -> list[tuple[int, int, int, float]]:
    """Each sequence's place, rank, expert and gate, in order."""
    kept_UK = torch.ones_like(index_UK, dtype=torch.bool) if kept_UK is None else kept_UK
    places = kept_UK.nonzero().tolist()
    experts, gates = index_UK[kept_UK].tolist(), gate_UK[kept_UK].tolist()
    return [(u, k, n, gate) for (u, k), n, gate in zip(places, experts, gates, strict=True)]


def _zero_where_not(begun: list[bool], *tensors: Tensor) -> None:
    """Zeros where no product was written."""
    for i, has_begun in enumerate(begun):
        if not has_begun:
            for tensor in tensors:
                tensor[i].zero_()


def _sum_by_expert(value_UKC: Tensor, index_UK: Tensor, like_NC: Tensor) -> Tensor:
    return torch.zeros_like(like_NC).index_add_(0, index_UK.flatten(), value_UKC.flatten(0, 1))
