"""Parameters and FLOPs of a config, counted without building the model.

tests/moe/model/test_accounting.py holds these equal to the built module's over a grid of configs.
"""

from __future__ import annotations

from dataclasses import dataclass

from moe.config import TrialConfig


@dataclass(frozen=True, kw_only=True)
class Accounting:
    """Sizes in parameters; compute in floating-point operations.

    params_total: every weight of the model. A head that is tied to the token embedding counts
        once; positions, routers and shared experts are in.
    params_active: the same, with only the chosen experts of each block: top_k of them, also where
        experts choose (the mean of a token) or have no room for all (the most that it passes).
    params_embedding: token embedding, learned positions, and a head of its own.
    params_router: routers that are stored: learned and frozen, with the map of learned noise.
        `random` redraws its weights, `hash` and `label` have none.
    params_router_stored: the same if every kind of router stored what a learned one does: by it
        budgets are matched, so that kinds of router are compared at one width.
    params_non_embedding_active: params_active - params_embedding.
    flops_per_token: forward and backward, for one token of a full context,
            6 * M + 12 * num_layers * d_model * context_length + 6 * d_model * vocab_size
        where M are the weights that multiply the token: attention and FFN matrices (the chosen
        and the shared experts), and the router's at token unit. Left out: biases, norms,
        activations, gates, the optimiser, and the router at sequence unit (one product a sequence).
        The attention term ignores the causal mask, as is customary (2204.02311, appendix B).
    """

    params_total: int
    params_active: int
    params_embedding: int
    params_router: int
    params_router_stored: int
    params_non_embedding_active: int
    flops_per_token: int


def account(config: TrialConfig) -> Accounting:
    """Sizes and compute of the model that `config` describes."""
    model, moe = config.model, config.moe
    d, num_moe = model.d_model, len(config.moe_layers)
    num_dense = model.num_layers - num_moe

    # Matrices of an FFN: SwiGLU's first product makes the gates beside what they multiply.
    matrices = 3 if model.activation == "swiglu" else 2

    def ffn(width: int) -> int:
        biases = (matrices - 1) * width + d if model.bias else 0
        return matrices * d * width + biases

    def norm(width: int) -> int:
        return 2 * width if model.norm == "layernorm" and model.bias else width

    rows = config.data.vocab_size * (1 if model.tied_embeddings else 2)
    embedding = (rows + (model.context_length if model.position == "learned" else 0)) * d
    d_kv = model.kv_heads * model.d_head
    attention_matrices = 2 * d * d + 2 * d * d_kv
    attention = attention_matrices + (2 * d + 2 * d_kv if model.bias else 0)
    attention += {
        "none": 0,
        "head": 2 * norm(model.d_head),
        "full": norm(d) + norm(d_kv),
    }[model.qk_norm]
    trunk = embedding + norm(d) + model.num_layers * (attention + 2 * norm(d))

    num_routers = min(num_moe, 1) if moe.routing_scope == "global" else num_moe
    router_weights = num_routers * moe.total_experts * d * (2 if moe.noisy_top_k else 1)
    stored_router = router_weights if moe.router_kind.stores_weights else 0

    shared_width = moe.shared_experts * config.d_expert
    shared = ffn(shared_width) if shared_width else 0
    everywhere = trunk + num_dense * ffn(config.d_ff_dense) + num_moe * shared + stored_router
    expert = ffn(config.d_expert)
    total = everywhere + num_moe * moe.total_experts * expert
    active = everywhere + num_moe * moe.active_experts * expert

    widths = num_dense * config.d_ff_dense
    if num_moe:
        widths += num_moe * (moe.active_experts * config.d_expert + shared_width)
    scores_tokens = moe.routing_unit == "token" and moe.router_kind.scores
    multiplied = (
        model.num_layers * attention_matrices
        + matrices * d * widths
        + (router_weights if scores_tokens else 0)
    )
    return Accounting(
        params_total=total,
        params_active=active,
        params_embedding=embedding,
        params_router=stored_router,
        params_router_stored=router_weights,
        params_non_embedding_active=active - embedding,
        flops_per_token=6 * multiplied
        + 12 * model.num_layers * d * model.context_length
        + 6 * d * config.data.vocab_size,
    )
