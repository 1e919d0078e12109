"""N feed-forward networks side by side; each routed unit passes the K chosen for it.

No capacity limit and no dropped tokens. The assignments are sorted by expert, so that each
expert is a plain matrix product over rows that lie together. A token and a whole sequence are
handled alike: a unit is R rows, R = 1 token or the S positions of a sequence, and all rows of a
unit are moved, weighted and sorted as one. Long sequences that share few of their wide experts are
not sorted at all (`moe.model.experts_by_sequence`). tests/moe/model/test_experts.py holds
all paths equal to a per-token loop, in values and all gradients.

Shapes:  U routed units   R rows of a unit   K chosen   N experts   D d_model   F d_expert
         P columns of the first product: F, with SwiGLU 2F
         A = U*K assignments, sorted by expert          C = R*D, a unit's rows laid end to end
         c, r: assignments and rows of one expert
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from moe.config import GROUPED_WIDTH, Activation
from moe.model.activations import NONLINEARITIES, Nonlinearity
from moe.model.experts_by_sequence import SequenceMixture
from moe.model.initialisation import INIT_STD, ZEROS, Rule
from moe.model.router import Routing
from moe.model.stacked import Stacked

# Experts' outputs are kept for the backward pass where d_expert is at least this many times
# d_model: that adds at most an eighth to what a dense FFN of equal active width keeps.
_KEEP_OUTPUT_RATIO = 4
# Multiply-adds of one sequence's first product from which on it goes through its experts by itself.
# Below it many small products cost more than gathering sequences by expert (docs/log.md).
_MIN_SEQUENCE_MULTIPLY_ADDS = 1 << 24


class Dispatch(NamedTuple):
    """Assignments sorted by expert. by_expert_A: where the sorted assignment stood in [U*K];
    unit_A: its unit; slot_UK: where each unit's assignments went (the inverse of by_expert_A)."""

    by_expert_A: Tensor
    unit_A: Tensor
    slot_UK: Tensor


def sort_by_expert(expert_index_UK: Tensor) -> Dispatch:
    by_expert_A = expert_index_UK.flatten().argsort(stable=True)
    slot_A = torch.empty_like(by_expert_A)
    slot_A[by_expert_A] = torch.arange(len(slot_A), device=slot_A.device)
    unit_A = by_expert_A // expert_index_UK.shape[1]
    return Dispatch(by_expert_A, unit_A, slot_A.view_as(expert_index_UK))


class Experts(nn.Module):
    """Weights of all experts of a block: out = act(x W_in + b_in) W_out + b_out.

    With SwiGLU the first half of W_in's columns are the gates. Without biases these are None.
    """

    def __init__(
        self,
        *,
        num_experts: int,
        d_model: int,
        d_expert: int,
        activation: Activation = "gelu",
        bias: bool = True,
        out_std: float = INIT_STD,
    ) -> None:
        super().__init__()
        self.nonlinearity = NONLINEARITIES[activation]
        columns = self.nonlinearity.columns * d_expert
        self.weight_in = nn.Parameter(torch.empty(num_experts, d_model, columns))
        self.bias_in = nn.Parameter(torch.empty(num_experts, columns)) if bias else None
        self.weight_out = nn.Parameter(torch.empty(num_experts, d_expert, d_model))
        self.bias_out = nn.Parameter(torch.empty(num_experts, d_model)) if bias else None
        self.rules = {
            "weight_in": Rule(std=INIT_STD, slices=True, decays=True),
            "bias_in": ZEROS,
            "weight_out": Rule(std=out_std, slices=True, decays=True),
            "bias_out": ZEROS,
        }

    def forward(self, x_BSD: Tensor, routing: Routing) -> Tensor:
        """Sum over the chosen experts of gate * output, [B, S, D]."""
        device = x_BSD.device.type
        weights = (self.weight_in, self.bias_in, self.weight_out, self.bias_out)
        x_URD = x_BSD.reshape(len(routing.expert_index), -1, x_BSD.shape[-1])
        autocast = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if autocast else x_URD.dtype
        x_URD, gate_UK, *weights = (
            t if t is None else t.to(dtype) for t in (x_URD, routing.gate, *weights)
        )
        with torch.autocast(device, enabled=False):
            if by_sequence(x_URD, weights[0], routing):
                y_URD = SequenceMixture.apply(
                    x_URD, gate_UK, *weights, self.nonlinearity, routing.expert_index
                )
            else:
                mixture = grouped_mixture if is_grouped(x_URD) else LoopedMixture.apply
                dispatch = sort_by_expert(routing.expert_index)
                y_URD = mixture(
                    x_URD, gate_UK, *weights, self.nonlinearity, dispatch, routing.counts_N
                )
        return y_URD.view_as(x_BSD)

    def matrices(self) -> list[Stacked]:
        """Every expert has its own."""
        parts = self.nonlinearity.columns
        return [
            (self.weight_in, lambda w_NDP: [part for w in w_NDP for part in w.chunk(parts, -1)]),
            (self.weight_out, lambda w_NFD: w_NFD.unbind()),
        ]


def is_grouped(x_URD: Tensor) -> bool:
    """The grouped kernels of CUDA take bfloat16; other types run expert by expert there."""
    return x_URD.is_cuda and x_URD.dtype == torch.bfloat16


def by_sequence(x_URD: Tensor, w_in_NDP: Tensor, routing: Routing) -> bool:
    """Whether to use `SequenceMixture`: each sequence goes through its experts by itself, on a CPU.

    Where a sequence's product is large enough, and most experts have one sequence at most. Where
    several sequences share an expert, adding up their weight gradients costs more than gathering
    their rows by expert.
    """
    num_rows = x_URD.shape[1]
    multiply_adds = num_rows * w_in_NDP[0].numel()
    if x_URD.is_cuda or num_rows == 1 or multiply_adds < _MIN_SEQUENCE_MULTIPLY_ADDS:
        return False
    return routing.expert_index.numel() < 2 * int((routing.counts_N > 0).sum())


class LoopedMixture(torch.autograd.Function):
    """One matrix product after another, expert by expert.

    Written out because autograd would keep a copy of the gathered rows and of each expert's
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
            _affine(x_rD, w_in_NDP[n], b_in_NP, n, out=pre_rP)
            nonlinearity.forward(pre_rP, act_rF)
            _affine(act_rF, w_out_NFD[n], b_out_ND, n, out=y_ARD[group].view(-1, d_model))
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
        return _gated_sum(y_ARD, dispatch.slot_UK, gate_UK)

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
        dw_in_NDP, dw_out_NFD = torch.empty_like(w_in_NDP), torch.empty_like(w_out_NFD)
        db_in_NP, db_out_ND = (
            None if bias is None else torch.empty_like(bias) for bias in (b_in_NP, b_out_ND)
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
        dx_URD = _gated_sum(dx_ARD, dispatch.slot_UK, None)
        return dx_URD, dgate_UK, dw_in_NDP, db_in_NP, dw_out_NFD, db_out_ND, None, None, None


def _affine(x: Tensor, weight: Tensor, bias_N: Tensor | None, n: int, *, out: Tensor) -> None:
    """Expert n's product, with its bias where experts have one."""
    if bias_N is None:
        torch.mm(x, weight, out=out)
    else:
        torch.addmm(bias_N[n], x, weight, out=out)


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
    y_UKC = y_AC.index_select(0, dispatch.slot_UK.flatten()).view(*gate_UK.shape, -1)
    return (gate_UK[..., None] * y_UKC).sum(1).view_as(x_URD)


class _Gather(torch.autograd.Function):
    """Copies units to their sorted assignments; backward gathers instead of adding atomically."""

    @staticmethod
    def forward(ctx: Any, x_URD: Tensor, dispatch: Dispatch) -> Tensor:
        ctx.save_for_backward(dispatch.slot_UK)
        return x_URD.index_select(0, dispatch.unit_A)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dx_ARD: Tensor) -> tuple[Tensor, None]:
        (slot_UK,) = ctx.saved_tensors
        dx_UKRD = dx_ARD.index_select(0, slot_UK.flatten())
        return dx_UKRD.view(*slot_UK.shape, *dx_ARD.shape[1:]).sum(1), None
