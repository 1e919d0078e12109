"""What keeps experts evenly loaded, and how the load is counted.

Shapes:  U routed units   N experts
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from moe.config import MoEConfig
from moe.model.router import Routing


def z_loss(logits_UN: Tensor) -> Tensor:
    """Mean of logsumexp(logits)^2, which keeps router logits small (2202.08906)."""
    return logits_UN.logsumexp(-1).square().mean()


def switch_loss(counts_N: Tensor, probs_UN: Tensor) -> Tensor:
    """N * sum_e f_e p_e (2101.03961): 1 at an even load. At sequence unit a sequence is a unit.

    counts_N: assignments of each expert, over the micro-batch or over more (2501.11873).
    """
    f_N = counts_N / counts_N.sum()
    return len(f_N) * (f_N * probs_UN.mean(0)).sum()


def sequence_loss(routing: Routing, sequence_length: int) -> Tensor:
    """The switch loss within each sequence, averaged over sequences (2412.19437, 2.1.2).

    A sequence's tokens follow one another in the rows of `routing`, whose unit is the token.
    """
    num_experts = routing.probs.shape[1]
    probs_BSN = routing.probs.unflatten(0, (-1, sequence_length))
    index_BA = routing.expert_index.reshape(len(probs_BSN), -1)
    counts_BN = torch.zeros(len(index_BA), num_experts, device=index_BA.device)
    counts_BN.scatter_add_(1, index_BA, torch.ones_like(index_BA, dtype=counts_BN.dtype))
    f_BN = counts_BN / index_BA.shape[1]
    return num_experts * (f_BN * probs_BSN.mean(1)).sum(1).mean()


class LoadBalance(nn.Module):
    """The load of one router, counted over the scope that the config asks for.

    `sequence`: within each sequence (2412.19437). `switch` with scope `global_batch`: f_e is taken
    over the micro-batches so far of this optimiser step, on all workers (2501.11873). Loss-free:
    the bias on the selection moves once a step by the sign of the step's imbalance (2408.15664); a
    bias is shared by all workers, so it always counts the whole step. Counts live within a step
    only, so a checkpoint need not hold them. Each worker counts its own micro-batches.
    """

    def __init__(self, moe: MoEConfig) -> None:
        super().__init__()
        self.global_loss = moe.balance == "switch" and moe.balance_scope == "global_batch"
        self.within_sequences = moe.balance == "sequence"
        self.update_rate = moe.balance_coefficient
        zeros_N = torch.zeros(moe.total_experts)
        self.register_buffer("step_counts_N", zeros_N.clone(), persistent=False)
        self.register_buffer("bias_N", zeros_N.clone() if moe.balances_by_bias else None)

    def begin_step(self) -> None:
        """Forgets the counts of the step before."""
        self.step_counts_N.zero_()

    def forward(self, routing: Routing, sequence_length: int | None = None) -> Tensor:
        """The balance loss of one decision, unweighted; in training its load is counted.

        `sequence_length` is read where the load is evened within sequences.
        """
        if self.within_sequences:
            return sequence_loss(routing, sequence_length)
        counts_N = routing.counts_N
        if self.training and self.global_loss:
            self.step_counts_N += _over_workers(counts_N)
            counts_N = self.step_counts_N.clone()
        elif self.training and self.bias_N is not None:
            self.step_counts_N += counts_N
        return switch_loss(counts_N, routing.probs)

    def end_step(self) -> None:
        """Moves the loss-free bias towards the experts that had too little; else does nothing."""
        if self.bias_N is not None:
            counts_N = _over_workers(self.step_counts_N)
            self.bias_N += self.update_rate * torch.sign(counts_N.mean() - counts_N)


def _over_workers(counts_N: Tensor) -> Tensor:
    if dist.is_available() and dist.is_initialized():
        counts_N = counts_N.clone()
        dist.all_reduce(counts_N)
    return counts_N
