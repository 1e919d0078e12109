"""Counted twice: from the config, and from the built module."""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys

import pytest

from moe.accounting import account
from moe.config import ConfigError, DataConfig, ModelConfig, MoEConfig, TrialConfig
from moe.model.transformer import MoETransformer

GRID = [
    {"num_experts": 0, "ffn_multiple": 1.5},
    *(
        {"num_experts": 4, "top_k": 2, "granularity": g, "router": r, "routing_scope": s}
        for g, r, s in itertools.product(
            (1, 2), ("learned", "frozen", "random", "hash"), ("layer", "global")
        )
    ),
    {"num_experts": 3, "top_k": 1, "router": "label"},
    {"num_experts": 4, "top_k": 3, "routing_unit": "sequence"},
    {"num_experts": 4, "top_k": 2, "shared_experts": 2, "granularity": 2},
    {"num_experts": 4, "top_k": 2, "noisy_top_k": True, "capacity_factor": 1.0},
    {"num_experts": 4, "top_k": 2, "selection": "expert", "gate": "switch"},
    {"num_experts": 4, "top_k": 2, "layer_stride": 2, "num_layers": 5},
    {"num_experts": 2, "top_k": 2, "d_expert": 11, "balance": "loss_free"},
    {"num_experts": 4, "top_k": 2, "first_dense_layers": 1, "num_layers": 3, "ffn_multiple": 2.0},
    {"norm": "rmsnorm", "position": "rope", "tied_embeddings": False},
    {"bias": False},
    {"activation": "swiglu", "ffn_multiple": 1.5, "qk_norm": "head", "bias": False},
    {"activation": "swiglu", "num_experts": 4, "top_k": 2, "granularity": 2, "shared_experts": 1},
    {"activation": "swiglu", "num_experts": 4, "top_k": 2, "bias": False, "layer_stride": 2},
    {"num_heads": 4, "num_kv_heads": 2, "qk_norm": "head", "num_experts": 4, "top_k": 2},
    {"num_heads": 4, "num_kv_heads": 1, "qk_norm": "full", "norm": "rmsnorm"},
]


@pytest.mark.parametrize("fields", GRID, ids=str)
def test_equals_the_built_module(make_config, fields):
    config = make_config(**fields)
    model, counted = MoETransformer(config), account(config)
    routers = {
        name: tensor.numel() for name, tensor in model.state_dict().items() if ".router." in name
    }
    sizes = {name: p.numel() for name, p in model.named_parameters()} | routers
    experts = {name: size for name, size in sizes.items() if ".experts." in name}
    embedding = sum(n for name, n in sizes.items() if "embedding" in name or name == "head.weight")
    unchosen = sum(experts.values())
    if experts:
        unchosen -= unchosen * config.moe.active_experts // config.moe.total_experts

    assert counted.params_total == sum(sizes.values())
    assert counted.params_router == sum(routers.values())
    assert counted.params_embedding == embedding
    assert counted.params_active == sum(sizes.values()) - unchosen
    assert counted.params_non_embedding_active == counted.params_active - embedding


@pytest.mark.parametrize("fields", [f for f in GRID if f.get("router") != "random"], ids=str)
def test_flops_are_six_times_the_matrices_that_a_token_meets(make_config, fields):
    config = make_config(**fields)
    model = MoETransformer(config)
    token_unit = config.moe.routing_unit == "token"
    matrices = 0
    for name, tensor in model.state_dict().items():
        leaf = name.rsplit(".", 1)[-1]
        if "weight" not in leaf or tensor.ndim < 2 or "embedding" in name:
            continue
        if name == "head.weight":
            continue  # counted below, tied or not
        if ".experts." in name:
            matrices += tensor[: config.moe.active_experts].numel()
        elif ".router." not in name or token_unit:
            matrices += tensor.numel()
    attention = 12 * config.model.num_layers * config.model.d_model * config.model.context_length
    head = 6 * config.model.d_model * config.data.vocab_size
    assert account(config).flops_per_token == 6 * matrices + attention + head


def test_a_random_router_costs_the_compute_of_a_learned_one(make_config):
    learned, random = (
        account(make_config(num_experts=4, top_k=2, router=r)) for r in ("learned", "random")
    )
    assert random.flops_per_token == learned.flops_per_token
    assert random.params_router == 0


def gpt2_small(ffn_multiple: float = 1.0, **moe: object) -> TrialConfig:
    return TrialConfig(
        model=ModelConfig(
            num_layers=12,
            d_model=768,
            num_heads=12,
            d_ff=3072,
            context_length=1024,
            ffn_multiple=ffn_multiple,
        ),
        moe=MoEConfig(**moe),
        data=DataConfig(tokenizer="gpt2", vocab_size=50257),
        train=dataclasses.replace(TrialConfig().train, batch_tokens=1024, micro_batch_tokens=1024),
    )


def test_the_sizes_of_the_paper():
    """2402.13089: 124M, 182M, 295M. The dense 4x model is 294.42M; 294.48M are the four experts
    with their routers: they differ by three more output biases and one router in each block."""
    layers, d = 12, 768
    dense = {m: account(gpt2_small(m)).params_total for m in (1, 2, 4)}
    assert dense == {1: 124_439_808, 2: 181_099_776, 4: 294_419_712}

    moe = account(gpt2_small(num_experts=4, top_k=2))
    routers = layers * 4 * d
    assert moe.params_router == routers
    assert moe.params_total == dense[4] + layers * 3 * d + routers == 294_484_224
    assert moe.params_active == dense[2] + layers * d + routers == 181_145_856
    assert moe.params_embedding == (50257 + 1024) * d

    top1 = account(gpt2_small(num_experts=4, top_k=1, gate="switch"))
    assert top1.params_total == moe.params_total
    assert top1.params_active == dense[1] + routers

    one_router = account(gpt2_small(num_experts=4, top_k=2, routing_scope="global"))
    assert moe.params_total - one_router.params_total == (layers - 1) * 4 * d
    no_router = account(gpt2_small(num_experts=4, top_k=2, router="random"))
    assert no_router.params_total == moe.params_total - routers


def test_granularity_keeps_the_active_matrices(make_config):
    coarse, fine = (
        account(make_config(num_experts=4, top_k=2, granularity=g, router="hash")) for g in (1, 4)
    )
    assert fine.flops_per_token == coarse.flops_per_token
    # Only output biases differ: K*G of them are active in each of the two blocks.
    assert fine.params_active - coarse.params_active == 2 * (8 - 2) * 8


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("multiple", [1, 2, 4])
@pytest.mark.parametrize("d_ff", [256, 1536, 3072])
def test_swiglu_has_the_parameters_of_gelu(make_config, d_ff, multiple, bias):
    """Within what rounding the width to a multiple of 8 leaves, and the biases of one more part."""
    gelu, swiglu = (
        make_config(d_model=128, d_ff=d_ff, ffn_multiple=multiple, activation=a, bias=bias)
        for a in ("gelu", "swiglu")
    )
    assert swiglu.d_ff_dense % 8 == 0
    assert swiglu.d_ff_dense == multiple * swiglu.model.d_ff_of_activation
    off = account(swiglu).params_total - account(gelu).params_total
    assert abs(off) <= 2 * multiple * (3 * 128 * 4 + (d_ff if bias else 0))
    assert abs(off) / account(gelu).params_total < 0.02


def test_granularity_shares_out_the_rounded_width(make_config):
    """256 under GELU is 168 under SwiGLU: four experts of 42 have the weights of one of 168."""
    fields = {"num_experts": 4, "top_k": 2, "d_ff": 256, "activation": "swiglu", "bias": False}
    counted = [account(make_config(**fields, granularity=g, router="hash")) for g in (1, 2, 4, 8)]
    sizes = {(size.params_total, size.params_active, size.flops_per_token) for size in counted}
    assert len(sizes) == 1
    with pytest.raises(ConfigError, match="the FFN's width under swiglu; received"):
        make_config(**fields, granularity=5)


def test_needs_no_torch():
    code = "import sys; sys.modules['torch'] = None; import moe.accounting"
    subprocess.run([sys.executable, "-c", code], check=True)
