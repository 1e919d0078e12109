"""Room for a few: which assignments take place where an expert has too many.

Shapes:  U routed units   N experts   K chosen   A = U*K assignments
"""

from __future__ import annotations

import dataclasses

import torch

from moe.config import Dropping
from moe.model.router import Routing


def within_capacity(routing: Routing, room: int, dropping: Dropping, num_rows: int) -> Routing:
    """The decision without the assignments that find no room among the `room` of their expert, for
    units of `num_rows` tokens.

    `order`: earlier units first, whichever rank the expert has for them, so that nothing hangs on
    later tokens; `probability`: those with the largest router probability (2106.05974). The gates
    of what is kept stay what they are, as in Switch (2101.03961).
    """
    expert_A = routing.expert_index.flatten()
    queue_A = torch.arange(len(expert_A), device=expert_A.device)
    if dropping == "probability":
        probability_A = routing.probs.detach().gather(1, routing.expert_index).flatten()
        queue_A = probability_A.argsort(descending=True, stable=True)
    queue_A = queue_A[expert_A[queue_A].argsort(stable=True)]  # expert by expert
    counts_N = (routing.counts_N / num_rows).long()
    before_A = (counts_N.cumsum(0) - counts_N)[expert_A[queue_A]]
    place_A = torch.arange(len(expert_A), device=expert_A.device) - before_A
    kept_A = torch.empty_like(expert_A, dtype=torch.bool)
    kept_A[queue_A] = place_A < room
    kept_UK = kept_A.view_as(routing.expert_index)
    return dataclasses.replace(
        routing,
        gate=routing.gate.where(kept_UK, 0),
        kept=kept_UK,
        served_N=counts_N.clamp(max=room).to(routing.counts_N.dtype) * num_rows,
    )
