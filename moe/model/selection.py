"""Which experts a unit gets by its scores, and in which order where scores are equal.

Shapes:  U routed units   N experts   K chosen   M groups of N/M experts
"""

from __future__ import annotations

import torch
from torch import Tensor

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
