"""Random feasible configs: `st.from_type(TrialConfig)` draws one, in any test of this folder."""

from __future__ import annotations

from typing import get_args

import hypothesis.strategies as st
from hypothesis import assume

from moe import config as c
from moe.config import ConfigError, TrialConfig


@st.composite
def trial_configs(draw: st.DrawFn) -> TrialConfig:
    def choice(literal: object) -> str:
        return draw(st.sampled_from(get_args(literal)))

    context, heads = draw(st.sampled_from((16, 32))), draw(st.integers(1, 4))
    tokenizer = draw(st.sampled_from(("byte", "bpe")))
    dense = draw(st.booleans())
    granularity = draw(st.sampled_from((1, 2, 4)))
    model = {
        "num_layers": draw(st.integers(1, 4)),
        "d_model": heads * 8 * draw(st.integers(1, 4)),
        "num_heads": heads,
        "d_ff": 16 * draw(st.integers(1, 16)),
        "context_length": context,
        "dropout": draw(st.sampled_from((0.0, 0.1))),
        "ffn_multiple": draw(st.floats(0.1, 8)) if dense else 1.0,
        "norm": choice(c.Norm),
        "position": choice(c.Position),
        "rope_theta": draw(st.sampled_from((1e4, 1e6))),
        "num_kv_heads": draw(st.sampled_from((0, 1, heads))),
        "qk_norm": choice(c.QKNorm),
        "tied_embeddings": draw(st.booleans()),
        "activation": choice(c.Activation),
        "bias": draw(st.booleans()),
    }
    moe = {
        "num_experts": 0 if dense else draw(st.integers(1, 8)),
        "top_k": draw(st.integers(1, 4)),
        "granularity": granularity,
        "d_expert": draw(st.sampled_from((0, 8, 24))),
        "shared_experts": draw(st.integers(0, 1)),
        "layer_stride": draw(st.sampled_from((1, 1, 2))),
        "first_dense_layers": draw(st.sampled_from((0, 0, 1, 2))),
        "routing_unit": choice(c.RoutingUnit),
        "routing_scope": choice(c.RoutingScope),
        "router": choice(c.Router),
        "router_init_std": draw(st.sampled_from((0.02, 1.0))),
        "sequence_representation": choice(c.SequenceRepresentation),
        "prefix_length": draw(st.sampled_from((0, 4))),
        "gate": choice(c.Gate),
        "gate_scale": draw(st.sampled_from((1.0, 2.5))),
        "score": choice(c.Score),
        "score_temperature": draw(st.sampled_from((0.07, 1.0))),
        "router_precision": choice(c.RouterPrecision),
        "router_jitter": draw(st.sampled_from((0.0, 0.01))),
        "noisy_top_k": draw(st.sampled_from((False, False, True))),
        "selection": draw(st.sampled_from(("token", "token", "expert"))),
        "capacity_factor": draw(st.sampled_from((0.0, 0.0, 0.5, 1.25))),
        "dropping": choice(c.Dropping),
        "expert_groups": draw(st.sampled_from((1, 1, 2, 4))),
        "chosen_groups": draw(st.sampled_from((1, 1, 2))),
        "balance": choice(c.Balance),
        "balance_coefficient": draw(st.sampled_from((0.0, 0.01))),
        "balance_scope": choice(c.BalanceScope),
        "z_loss_coefficient": draw(st.sampled_from((0.0, 1e-3))),
    }
    if moe["selection"] == "expert" and draw(st.integers(0, 3)):
        # What is left of all others where experts choose: mostly refused, so drawn by itself.
        moe |= {"routing_unit": "token", "balance": "none", "expert_groups": 1, "chosen_groups": 1}
        moe |= {"capacity_factor": 0.0, "gate": draw(st.sampled_from(("switch", "sigmoid")))}
        moe["router"] = draw(st.sampled_from(c.routers_that(lambda kind: kind.scores)))
    values = {
        "model": model,
        "moe": moe,
        "data": {"tokenizer": tokenizer, "vocab_size": 257 if tokenizer == "byte" else 512},
        "optim": {
            "learning_rate": draw(st.floats(1e-6, 1)),
            "name": choice(c.Optimizer),
            "schedule": choice(c.Schedule),
            "parametrization": choice(c.Parametrization),
            "base_d_model": draw(st.sampled_from((16, 64))),
            "base_d_head": draw(st.sampled_from((0, 8))),
            "decay_fraction": draw(st.sampled_from((0.2, 1.0))),
            "warmup_steps": draw(st.sampled_from((0, 2))),
            "weight_decay": draw(st.sampled_from((0.0, 0.1))),
            "grad_clip": draw(st.sampled_from((0.0, 1.0))),
        },
        "train": {
            "batch_tokens": 4 * context,
            "micro_batch_tokens": context * draw(st.sampled_from((1, 2, 4))),
            "precision": choice(c.Precision),
            "seed": draw(st.integers(0, 2**31 - 1)),
            "loss_start": draw(st.sampled_from((0, 4))),
        },
    }
    try:
        return TrialConfig.from_dict(values)
    except ConfigError:
        assume(False)


st.register_type_strategy(TrialConfig, trial_configs())
