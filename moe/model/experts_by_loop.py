"""One matrix product after another, expert by expert, over assignments sorted by expert.

The shapes are those of `moe.model.dispatch`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from moe.model.activations import Nonlinearity
from moe.model.dispatch import Dispatch, affine, empty_like, gated_sum

# Experts' outputs are kept for the backward pass where d_expert is at least this many times
# d_model: that adds at most an eighth to what a dense FFN of equal active width keeps.
_KEEP_OUTPUT_RATIO = 4


class LoopedMixture(torch.autograd.Function):
    """Written out because autograd would keep a copy of the gathered rows and of each expert's
    output, and make a pass over [A, R, F] for each gate and bias. Kept for the backward pass are
    the input and the two hidden activations, as in a dense FFN of equal active width; and the
    experts' outputs where d_model is much smaller than d_expert: from these a gate's gradient needs
    rows of width D only, not F.
    """

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
        dispatch: Dispatch,
        counts_N: Tensor,
    ) -> Tensor:
        _, num_rows, d_model = x_URD.shape
        num_assignments, d_expert, columns = (
            len(dispatch.unit_A),
            w_out_NFD.shape[1],
            w_in_NDP.shape[2],
        )
        pre_ARP = x_URD.new_empty(num_assignments, num_rows, columns)
        act_ARF = x_URD.new_empty(num_assignments, num_rows, d_expert)
        y_ARD = x_URD.new_empty(num_assignments, num_rows, d_model)
        groups = _groups(counts_N, num_rows)
        for n, group in enumerate(groups):
            x_rD = _rows(x_URD, dispatch.unit_A[group])
            pre_rP, act_rF = pre_ARP[group].view(-1, columns), act_ARF[group].view(-1, d_expert)
            affine(x_rD, w_in_NDP[n], b_in_NP, n, out=pre_rP)
            nonlinearity.forward(pre_rP, act_rF)
            affine(act_rF, w_out_NFD[n], b_out_ND, n, out=y_ARD[group].view(-1, d_model))
        keeps_output = ctx.needs_input_grad[1] and d_expert >= _KEEP_OUTPUT_RATIO * d_model
        kept = y_ARD if keeps_output else None
        ctx.save_for_backward(
            x_URD,
            gate_UK,
            w_in_NDP,
            b_in_NP,
            w_out_NFD,
            b_out_ND,
            pre_ARP,
            act_ARF,
            kept,
            *dispatch,
        )
        ctx.groups, ctx.nonlinearity = groups, nonlinearity
        return gated_sum(y_ARD, dispatch, gate_UK)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_URD: Tensor) -> tuple[Tensor | None, ...]:
        x_URD, gate_UK, w_in_NDP, b_in_NP, w_out_NFD, b_out_ND, *rest = ctx.saved_tensors
        pre_ARP, act_ARF, y_ARD, *dispatch = rest
        dispatch = Dispatch(*dispatch)
        num_rows, d_model, d_expert = *x_URD.shape[1:], w_out_NFD.shape[1]
        columns = w_in_NDP.shape[2]
        gate_A = gate_UK.flatten()[dispatch.by_expert_A]
        dgate_A, dx_ARD = torch.empty_like(gate_A), x_URD.new_empty(*act_ARF.shape[:2], d_model)
        dw_in_NDP, db_in_NP, dw_out_NFD, db_out_ND = empty_like(
            (w_in_NDP, b_in_NP, w_out_NFD, b_out_ND)
        )
        most = max(group.stop - group.start for group in ctx.groups)
        buffer_rF = x_URD.new_empty(most * num_rows, d_expert)
        buffer_rP = buffer_rF
        if columns != d_expert:
            buffer_rP = x_URD.new_empty(most * num_rows, columns)
        for n, group in enumerate(ctx.groups):
            unit_c = dispatch.unit_A[group]
            pre_rP, act_rF = pre_ARP[group].view(-1, columns), act_ARF[group].view(-1, d_expert)
            gate_r = gate_A[group, None].expand(-1, num_rows).flatten()
            dy_rD = _rows(dy_URD, unit_c)
            if y_ARD is not None:
                dgate_r = (dy_rD * y_ARD[group].view(-1, d_model)).sum(1)
                dy_rD = dy_rD * gate_r[:, None]
                dhidden_rF = torch.mm(dy_rD, w_out_NFD[n].t(), out=buffer_rF[: len(dy_rD)])
            else:
                dhidden_rF = torch.mm(dy_rD, w_out_NFD[n].t(), out=buffer_rF[: len(dy_rD)])
                if ctx.needs_input_grad[1]:
                    dgate_r = (dhidden_rF * act_rF).sum(1)
                    if b_out_ND is not None:
                        dgate_r = dgate_r + dy_rD @ b_out_ND[n]
                dy_rD = dy_rD * gate_r[:, None]
                dhidden_rF *= gate_r[:, None]
            if ctx.needs_input_grad[1]:
                dgate_A[group] = dgate_r.view(-1, num_rows).sum(1)
            torch.mm(act_rF.t(), dy_rD, out=dw_out_NFD[n])
            if db_out_ND is not None:
                torch.sum(dy_rD, 0, out=db_out_ND[n])
            dpre_rP = buffer_rP[: len(dy_rD)]
            ctx.nonlinearity.backward(dhidden_rF, pre_rP, dpre_rP)
            torch.mm(dpre_rP, w_in_NDP[n].t(), out=dx_ARD[group].view(-1, d_model))
            x_rD = _rows(x_URD, unit_c)
            torch.mm(x_rD.t(), dpre_rP, out=dw_in_NDP[n])
            if db_in_NP is not None:
                torch.sum(dpre_rP, 0, out=db_in_NP[n])
        dgate_UK = dgate_A[dispatch.slot_UK] if ctx.needs_input_grad[1] else None
        dx_URD = gated_sum(dx_ARD, dispatch, None)
        return dx_URD, dgate_UK, dw_in_NDP, db_in_NP, dw_out_NFD, db_out_ND, None, None, None


def _groups(counts_N: Tensor, num_rows: int) -> list[slice]:
    """Each expert's range of sorted assignments. An expert without any has an empty one, whose
    matrix products are empty or zero without further ado."""
    stops = [int(tokens) // num_rows for tokens in counts_N.cumsum(0).tolist()]
    return [slice(start, stop) for start, stop in zip([0, *stops[:-1]], stops, strict=True)]


def _rows(x_URD: Tensor, unit_c: Tensor) -> Tensor:
    """Rows of one expert's units, [c*R, D]. Where it has all units, they lie together already."""
    if len(unit_c) == len(x_URD):
        return x_URD.flatten(0, 1)
    return x_URD.index_select(0, unit_c).flatten(0, 1)
