"""Which mixture is best for its tokens? Optuna over six design choices, stopped early by ASHA.

Sequences are routed by a causal prefix, whose positions count in no loss, at any point: by the mean
over all positions later tokens choose the experts of earlier ones, and a search ends there (seven
of the eight best points of one at the scale `cpu` did, docs/log.md).
"""

from __future__ import annotations

from moe.accounting import account
from moe.config import TrialConfig
from orchestrator.study import EarlyStopping, Study
from search_spaces.domains import Choice, Float
from search_spaces.overlay import overlay
from search_spaces.space import Rule, Space
from studies.scales import SCALES
from studies.sequence_leak import counted_from, read_from_prefix

# A cell may cost at most this many times the FLOPs of the base mixture: more compute is no design.
FLOPS_LIMIT = 1.5


def space(base: TrialConfig) -> Space:
    limit = FLOPS_LIMIT * account(base).flops_per_token
    return Space(
        axes={
            "moe.num_experts": Choice((2, 4, 8, 16)),
            "moe.top_k": Choice((1, 2, 3)),
            "moe.granularity": Choice((1, 2, 4)),
            "moe.router": Choice(("learned", "frozen", "random")),
            "moe.routing_unit": Choice(("token", "sequence")),
            "moe.gate": Choice(("switch", "softmax_topk")),
            "optim.learning_rate": Float(low=1e-3, high=1e-2, log=True),
        },
        rules=(
            Rule(
                holds=lambda config: account(config).flops_per_token <= limit,
                reason=f"a point costs at most {FLOPS_LIMIT} times the base's FLOPs a token",
            ),
        ),
    )


STUDY = Study(
    name="search",
    question="Which experts, top-k, granularity, router, unit and learning rate are best?",
    baseline="the best point",
    held_fixed="tokens, depth, d_model, the positions that count; FLOPs a token are bounded",
    scales={
        name: overlay(base, {**counted_from(base), **read_from_prefix(base)})
        for name, base in SCALES.items()
    },
    space=space,
    trials=20,
    seeds=(0,),
    early_stopping=EarlyStopping(first_rung=0.2, reduction_factor=2),
)
