"""N feed-forward networks side by side; each routed unit passes those chosen for it.

Three ways through them: expert by expert over sorted assignments (`moe.model.experts_by_loop`), all
in one grouped product on a GPU (`moe.model.experts_grouped`), and, of few sequences among so many
experts, sequence by sequence without sorting (`moe.model.experts_by_sequence`).
tests/moe/model/test_experts.py holds all of them equal to a per-token loop, in values and all
gradients. The shapes are those of `moe.model.dispatch`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from moe.config import Activation
from moe.model.activations import NONLINEARITIES
from moe.model.dispatch import sort_by_expert
from moe.model.experts_by_loop import LoopedMixture
from moe.model.experts_by_sequence import SequenceMixture
from moe.model.experts_grouped import grouped_mixture
from moe.model.initialisation import INIT_STD, ZEROS, Rule
from moe.model.router import Routing
from moe.model.stacked import Stacked

# Of one sequence's first product, below which its experts count as narrow (docs/log.md).
_NARROW_MULTIPLY_ADDS = 1 << 25


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
            "weight_in": Rule(std=INIT_STD, slices=True, decays=True, growth="inner"),
            "bias_in": ZEROS,
            "weight_out": Rule(std=out_std, slices=True, decays=True, growth="inner"),
            "bias_out": ZEROS,
        }

    def forward(self, x_BSD: Tensor, routing: Routing) -> Tensor:
        """Sum over the chosen experts of gate * output, [B, S, D]; zero for a unit without any."""
        device = x_BSD.device.type
        weights = (self.weight_in, self.bias_in, self.weight_out, self.bias_out)
        x_URD = x_BSD.reshape(len(routing.expert_index), -1, x_BSD.shape[-1])
        autocast = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if autocast else x_URD.dtype
        x_URD, gate_UK, *weights = (
            t if t is None else t.to(dtype) for t in (x_URD, routing.gate, *weights)
        )
        with torch.autocast(device, enabled=False):
            index_UK, kept_UK = routing.expert_index, routing.kept
            grouped = is_grouped(x_URD)
            if not grouped and by_sequence(x_URD, weights[0], routing):
                y_URD = SequenceMixture.apply(
                    x_URD, gate_UK, *weights, self.nonlinearity, index_UK, kept_UK
                )
            else:
                mixture = grouped_mixture if grouped else LoopedMixture.apply
                dispatch = sort_by_expert(index_UK, kept_UK)
                gate = gate_UK if kept_UK is None else gate_UK[kept_UK]
                y_URD = mixture(
                    x_URD, gate, *weights, self.nonlinearity, dispatch, routing.served_N
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

    Where most experts have one sequence at most: nothing is moved then. Where several sequences
    share an expert, adding up their weight gradients costs more than gathering their rows by
    expert; but of narrow experts less than going through all of them, if their number is as large
    as that of the products, or half of it and each has some. benchmarks/layer_paths.py measures
    both ways on the processor that it runs on.
    """
    num_rows = x_URD.shape[1]
    if x_URD.is_cuda or num_rows == 1:
        return False
    kept_UK, served_N = routing.kept, routing.served_N
    products = routing.expert_index.numel() if kept_UK is None else int(kept_UK.sum())
    served = int((served_N > 0).sum())
    is_narrow = num_rows * w_in_NDP[0].numel() < _NARROW_MULTIPLY_ADDS
    return products < 2 * served or (is_narrow and products <= max(len(served_N), 2 * served))
