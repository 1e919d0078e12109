"""Which experts a unit gets by its scores, or which units an expert; of equal scores the first.

Shapes:  U routed units   N experts   K chosen   M groups of N/M experts
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from moe.config import MoEConfig

# Up to here K passes that each find a maximum cost less than a sort of all experts (a CPU, 2,048
# tokens, 64 experts: a pass takes 0.3 ms, the sort 16, torch.topk 1.6 to 4.3).
_FEW = 16


def choose(score_UN: Tensor, k: int) -> Tensor:
    """The k best experts [U, K] int64, best first; of equal scores the lower index comes first.

    torch.topk leaves that open, and CPU, GPU and versions differ; a maximum's first index and a
    stable sort are promised.
    """
    if k > _FEW:
        return torch.sort(score_UN, dim=-1, descending=True, stable=True).indices[:, :k]
    best = [score_UN.argmax(-1, keepdim=True)]
    for _ in range(k - 1):
        score_UN = score_UN.scatter(1, best[-1], -torch.inf)
        best.append(score_UN.argmax(-1, keepdim=True))
    return torch.cat(best, dim=-1)


def within_groups(score_UN: Tensor, groups: int, chosen: int) -> Tensor:
    """Scores with minus infinity outside the `chosen` best of M equal groups (2412.19437, 2.1.2).

    A group's worth is the sum of its two best scores, as there; of groups of one, its only one.
    """
    score_UMG = score_UN.unflatten(1, (groups, -1))
    worth_UM = score_UMG.topk(min(2, score_UMG.shape[2]), dim=-1).values.sum(-1)
    kept_UM = torch.zeros_like(worth_UM, dtype=torch.bool)
    kept_UM.scatter_(1, choose(worth_UM, chosen), True)
    return score_UMG.masked_fill(~kept_UM[..., None], -torch.inf).flatten(1)


def capacity(moe: MoEConfig, num_units: int, factor: float = 1.0) -> int:
    """Units that an expert has room for: `factor` times an even share of the assignments, rounded
    up, at least one and at most all."""
    share = factor * num_units * moe.top_k / moe.num_experts
    return min(num_units, max(1, math.ceil(round(share, 6))))  # not 12 for 1.1 * 10


def taken_by_experts(gate_UN: Tensor, num_taken: int) -> Tensor:
    """[U, N] bool: of each expert the `num_taken` units with the largest gates (2202.09368); of
    equal ones those that come first."""
    kept_NU = torch.zeros_like(gate_UN.t(), dtype=torch.bool)
    return kept_NU.scatter_(1, choose(gate_UN.t(), num_taken), True).t()
