"""N feed-forward networks side by side; each routed unit passes the K chosen for it.

No capacity limit and no dropped tokens. The assignments are sorted by expert, so that each
expert is a plain matrix product over rows that lie together. A token and a whole sequence are
handled alike: a unit is R rows, R = 1 token or the S positions of a sequence, and all rows of a
unit are moved, weighted and sorted as one. Long sequences that share few of their wide experts are
not sorted at all (`moe.model.experts_by_sequence`). tests/moe/model/test_experts.py holds
all paths equal to a per-token loop, in values and all gradients.

Shapes:  U routed units   R rows of a unit   K chosen   N experts   D d_model   F d_expert
         A = U*K assignments, sorted by expert          C = R*D, a unit's rows laid end to end
         c, r: assignments and rows of one expert
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from moe.config import GROUPED_WIDTH
from moe.model.experts_by_sequence import SequenceMixture
from moe.model.router import Routing

# An expert's output counts as narrow below this share of its hidden width: keeping it adds at most
# an eighth to what a dense FFN of equal active width keeps.
_NARROW = 4
# Multiply-adds of a product from which on a sequence goes through its experts by itself. Below it
# more and smaller products cost more than gathering sequences by expert does (benchmarks/).
_WHOLE = 1 << 24


class Order(NamedTuple):
    """Assignments sorted by expert. by_expert_A: where the sorted assignment stood in [U*K];
    unit_A: its unit; slot_UK: where each unit's assignments went (the inverse of by_expert_A)."""

    by_expert_A: Tensor
    unit_A: Tensor
    slot_UK: Tensor


def sort_by_expert(expert_index_UK: Tensor) -> Order:
    by_expert_A = expert_index_UK.flatten().argsort(stable=True)
    slot_A = torch.empty_like(by_expert_A)
    slot_A[by_expert_A] = torch.arange(len(slot_A), device=slot_A.device)
    unit_A = by_expert_A // expert_index_UK.shape[1]
    return Order(by_expert_A, unit_A, slot_A.view_as(expert_index_UK))


class Experts(nn.Module):
    """Weights of all experts of a block: out = gelu(x W_in + b_in) W_out + b_out, exact GELU."""

    def __init__(self, *, num_experts: int, d_model: int, d_expert: int) -> None:
        super().__init__()
        self.weight_in = nn.Parameter(torch.empty(num_experts, d_model, d_expert))
        self.bias_in = nn.Parameter(torch.empty(num_experts, d_expert))
        self.weight_out = nn.Parameter(torch.empty(num_experts, d_expert, d_model))
        self.bias_out = nn.Parameter(torch.empty(num_experts, d_model))

    def forward(self, x_BSD: Tensor, routing: Routing) -> Tensor:
        """Sum over the chosen experts of gate * output, [B, S, D]."""
        device = x_BSD.device.type
        weights = (self.weight_in, self.bias_in, self.weight_out, self.bias_out)
        x_URD = x_BSD.reshape(len(routing.expert_index), -1, x_BSD.shape[-1])
        autocast = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if autocast else x_URD.dtype
        x_URD, gate_UK, *weights = (t.to(dtype) for t in (x_URD, routing.gate, *weights))
        with torch.autocast(device, enabled=False):
            if is_whole(x_URD, weights[0], routing):
                y_URD = SequenceMixture.apply(x_URD, gate_UK, *weights, routing.expert_index)
            else:
                mixture = grouped_mixture if is_grouped(x_URD) else LoopedMixture.apply
                order = sort_by_expert(routing.expert_index)
                y_URD = mixture(x_URD, gate_UK, *weights, order, routing.counts_N)
        return y_URD.view_as(x_BSD)


def is_grouped(x_URD: Tensor) -> bool:
    """The grouped kernels of CUDA take bfloat16; other types run expert by expert there."""
    return x_URD.is_cuda and x_URD.dtype == torch.bfloat16


def is_whole(x_URD: Tensor, w_in_NDF: Tensor, routing: Routing) -> bool:
    """Whether each sequence goes through its experts by itself, on a CPU.

    One makes a product that is large enough to stand alone, and most experts have but one: where
    several share an expert, adding up their weight gradients costs more than gathering their rows.
    """
    num_rows = x_URD.shape[1]
    if x_URD.is_cuda or num_rows == 1 or num_rows * w_in_NDF[0].numel() < _WHOLE:
        return False
    return routing.expert_index.numel() < 2 * int((routing.counts_N > 0).sum())


class LoopedMixture(torch.autograd.Function):
    """One matrix product after another, expert by expert.

    Written out because autograd would keep a copy of the gathered rows and of each expert's
    output, and make a pass over [A, R, F] for each gate and bias. Kept for the backward pass are
    the input and the two hidden activations, as in a dense FFN of equal active width; and the
    experts' outputs where these are narrow, since a gate's gradient is then had from rows of width
    D instead of F.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_URD: Tensor,
        gate_UK: Tensor,
        w_in_NDF: Tensor,
        b_in_NF: Tensor,
        w_out_NFD: Tensor,
        b_out_ND: Tensor,
        order: Order,
        counts_N: Tensor,
    ) -> Tensor:
        _, num_rows, d_model = x_URD.shape
        num_assignments, d_expert = len(order.unit_A), b_in_NF.shape[1]
        pre_ARF = x_URD.new_empty(num_assignments, num_rows, d_expert)
        act_ARF = torch.empty_like(pre_ARF)
        y_ARD = x_URD.new_empty(num_assignments, num_rows, d_model)
        groups = _groups(counts_N, num_rows)
        for n, group in enumerate(groups):
            x_rD = _rows(x_URD, order.unit_A[group])
            pre_rF, act_rF = pre_ARF[group].view(-1, d_expert), act_ARF[group].view(-1, d_expert)
            torch.addmm(b_in_NF[n], x_rD, w_in_NDF[n], out=pre_rF)
            torch.ops.aten.gelu.out(pre_rF, out=act_rF)
            torch.addmm(b_out_ND[n], act_rF, w_out_NFD[n], out=y_ARD[group].view(-1, d_model))
        narrow = ctx.needs_input_grad[1] and d_expert >= _NARROW * d_model
        kept = y_ARD if narrow else None
        ctx.save_for_backward(
            x_URD, gate_UK, w_in_NDF, b_in_NF, w_out_NFD, b_out_ND, pre_ARF, act_ARF, kept, *order
        )
        ctx.groups = groups
        return _gated_sum(y_ARD, order.slot_UK, gate_UK)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_URD: Tensor) -> tuple[Tensor | None, ...]:
        x_URD, gate_UK, w_in_NDF, b_in_NF, w_out_NFD, b_out_ND, *rest = ctx.saved_tensors
        pre_ARF, act_ARF, y_ARD, *order = rest
        order = Order(*order)
        num_rows, d_model, d_expert = *x_URD.shape[1:], b_in_NF.shape[1]
        gate_A = gate_UK.flatten()[order.by_expert_A]
        dgate_A, dx_ARD = torch.empty_like(gate_A), x_URD.new_empty(*act_ARF.shape[:2], d_model)
        dw_in_NDF, db_in_NF = torch.empty_like(w_in_NDF), torch.empty_like(b_in_NF)
        dw_out_NFD, db_out_ND = torch.empty_like(w_out_NFD), torch.empty_like(b_out_ND)
        most = max(group.stop - group.start for group in ctx.groups)
        buffer_rF = x_URD.new_empty(most * num_rows, d_expert)
        for n, group in enumerate(ctx.groups):
            unit_c = order.unit_A[group]
            pre_rF, act_rF = pre_ARF[group].view(-1, d_expert), act_ARF[group].view(-1, d_expert)
            gate_r = gate_A[group, None].expand(-1, num_rows).flatten()
            dy_rD = _rows(dy_URD, unit_c)
            if y_ARD is not None:
                dgate_r = (dy_rD * y_ARD[group].view(-1, d_model)).sum(1)
                dy_rD = dy_rD * gate_r[:, None]
                dhidden_rF = torch.mm(dy_rD, w_out_NFD[n].t(), out=buffer_rF[: len(dy_rD)])
            else:
                dhidden_rF = torch.mm(dy_rD, w_out_NFD[n].t(), out=buffer_rF[: len(dy_rD)])
                if ctx.needs_input_grad[1]:
                    dgate_r = (dhidden_rF * act_rF).sum(1) + dy_rD @ b_out_ND[n]
                dy_rD = dy_rD * gate_r[:, None]
                dhidden_rF *= gate_r[:, None]
            if ctx.needs_input_grad[1]:
                dgate_A[group] = dgate_r.view(-1, num_rows).sum(1)
            torch.mm(act_rF.t(), dy_rD, out=dw_out_NFD[n])
            torch.sum(dy_rD, 0, out=db_out_ND[n])
            torch.ops.aten.gelu_backward.grad_input(dhidden_rF, pre_rF, grad_input=dhidden_rF)
            torch.mm(dhidden_rF, w_in_NDF[n].t(), out=dx_ARD[group].view(-1, d_model))
            x_rD = _rows(x_URD, unit_c)
            torch.mm(x_rD.t(), dhidden_rF, out=dw_in_NDF[n])
            torch.sum(dhidden_rF, 0, out=db_in_NF[n])
        dgate_UK = dgate_A[order.slot_UK] if ctx.needs_input_grad[1] else None
        dx_URD = _gated_sum(dx_ARD, order.slot_UK, None)
        return dx_URD, dgate_UK, dw_in_NDF, db_in_NF, dw_out_NFD, db_out_ND, None, None


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


def _gated_sum(y_ARD: Tensor, slot_UK: Tensor, gate_UK: Tensor | None) -> Tensor:
    """sum_k gate_uk * y[slot_uk], without gates the plain sum: [U, R, D]. An embedding bag gathers
    and sums in one pass."""
    y_UC = F.embedding_bag(slot_UK, y_ARD.flatten(1), per_sample_weights=gate_UK, mode="sum")
    return y_UC.view(-1, *y_ARD.shape[1:])


def grouped_mixture(
    x_URD: Tensor,
    gate_UK: Tensor,
    w_in_NDF: Tensor,
    b_in_NF: Tensor,
    w_out_NFD: Tensor,
    b_out_ND: Tensor,
    order: Order,
    counts_N: Tensor,
) -> Tensor:
    """All experts in one grouped matrix product: the group sizes stay on the GPU, which never
    waits for the host. Biases are added by a product with one-hot rows, whose backward pass is a
    product too; indexing would scatter with atomics, in another order each time.

    The kernels take widths in multiples of GROUPED_WIDTH: others are padded with zeros, through
    which neither a value nor a gradient passes (gelu(0) = 0, and what follows it is 0).
    """
    d_model, d_expert = w_in_NDF.shape[1:]
    more_D, more_F = -d_model % GROUPED_WIDTH, -d_expert % GROUPED_WIDTH
    if more_D or more_F:
        y_URD = grouped_mixture(
            F.pad(x_URD, (0, more_D)),
            gate_UK,
            F.pad(w_in_NDF, (0, more_F, 0, more_D)),
            F.pad(b_in_NF, (0, more_F)),
            F.pad(w_out_NFD, (0, more_D, 0, more_F)),
            F.pad(b_out_ND, (0, more_D)),
            order,
            counts_N,
        )
        return y_URD[..., :d_model].contiguous()
    num_rows = x_URD.shape[1]
    offsets_N = counts_N.cumsum(0).to(torch.int32)
    row_Ar1 = torch.arange(num_rows * len(order.unit_A), device=x_URD.device)[:, None]
    starts_N = F.pad(offsets_N[:-1], (1, 0))
    one_hot_ArN = ((row_Ar1 >= starts_N) & (row_Ar1 < offsets_N)).to(x_URD.dtype)
    x_ArD = _Dispatch.apply(x_URD, order).view(-1, d_model)
    pre_ArF = F.grouped_mm(x_ArD, w_in_NDF, offs=offsets_N) + one_hot_ArN @ b_in_NF
    y_ArD = F.grouped_mm(F.gelu(pre_ArF), w_out_NFD, offs=offsets_N) + one_hot_ArN @ b_out_ND
    y_AC = y_ArD.view(-1, num_rows * d_model)
    y_UKC = y_AC.index_select(0, order.slot_UK.flatten()).view(*gate_UK.shape, -1)
    return (gate_UK[..., None] * y_UKC).sum(1).view_as(x_URD)


class _Dispatch(torch.autograd.Function):
    """Copies units to their sorted assignments; backward gathers instead of adding atomically."""

    @staticmethod
    def forward(ctx: Any, x_URD: Tensor, order: Order) -> Tensor:
        ctx.save_for_backward(order.slot_UK)
        return x_URD.index_select(0, order.unit_A)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dx_ARD: Tensor) -> tuple[Tensor, None]:
        (slot_UK,) = ctx.saved_tensors
        dx_UKRD = dx_ARD.index_select(0, slot_UK.flatten())
        return dx_UKRD.view(*slot_UK.shape, *dx_ARD.shape[1:]).sum(1), None
