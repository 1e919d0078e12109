"""Logits of transformers' own models with our weights: the blocks are what their names say.

Each case fills a small model of ours with noise, copies its weights under the names that they have
in transformers, and compares in float32. Nothing is downloaded.
"""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import Tensor, nn

from moe.model.transformer import MoETransformer

SIZES = {"num_layers": 2, "d_model": 32, "num_heads": 4, "d_ff": 48, "context_length": 16}
LLAMA = {
    "norm": "rmsnorm",
    "position": "rope",
    "activation": "swiglu",
    "bias": False,
    "tied_embeddings": False,
}
MIXTURE = {"num_experts": 4, "top_k": 2}
VOCAB = 257


def noisy(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)


def gpt2_weights(model: MoETransformer) -> dict[str, Tensor]:
    """Conv1D keeps its weights as [in, out]."""
    state, named = model.state_dict(), {}
    names = {
        "attention_norm": "ln_1",
        "attention.qkv": "attn.c_attn",
        "attention.project": "attn.c_proj",
        "ffn_norm": "ln_2",
        "ffn.expand": "mlp.c_fc",
        "ffn.project": "mlp.c_proj",
    }
    for i in range(model.config.model.num_layers):
        for ours, theirs in names.items():
            for leaf in ("weight", "bias"):
                value = state[f"blocks.{i}.{ours}.{leaf}"]
                named[f"transformer.h.{i}.{theirs}.{leaf}"] = value.t() if value.ndim > 1 else value
    named["transformer.wte.weight"] = named["lm_head.weight"] = state["token_embedding.weight"]
    named["transformer.wpe.weight"] = state["position_embedding.weight"]
    named |= {
        f"transformer.ln_f.{leaf}": state[f"final_norm.{leaf}"] for leaf in ("weight", "bias")
    }
    return named


def llama_weights(model: MoETransformer) -> dict[str, Tensor]:
    """LLaMA and what follows its names; experts as [N, out, in], gates above what they multiply."""
    state, config = model.state_dict(), model.config.model
    d_kv = config.kv_heads * config.d_head
    named = {
        "model.embed_tokens.weight": state["token_embedding.weight"],
        "model.norm.weight": state["final_norm.weight"],
        "lm_head.weight": model.head_weight.detach(),
    }
    for i in range(config.num_layers):
        ours, theirs = f"blocks.{i}", f"model.layers.{i}"
        qkv = state[f"{ours}.attention.qkv.weight"].split([config.d_model, d_kv, d_kv])
        for letter, part in zip("qkv", qkv, strict=True):
            named[f"{theirs}.self_attn.{letter}_proj.weight"] = part
        named[f"{theirs}.self_attn.o_proj.weight"] = state[f"{ours}.attention.project.weight"]
        named[f"{theirs}.input_layernorm.weight"] = state[f"{ours}.attention_norm.weight"]
        named[f"{theirs}.post_attention_layernorm.weight"] = state[f"{ours}.ffn_norm.weight"]
        if config.qk_norm != "none":
            named[f"{theirs}.self_attn.q_norm.weight"] = state[
                f"{ours}.attention.query_norm.weight"
            ]
            named[f"{theirs}.self_attn.k_norm.weight"] = state[f"{ours}.attention.key_norm.weight"]
        if f"{ours}.ffn.expand.weight" in state:
            gate, up = state[f"{ours}.ffn.expand.weight"].chunk(2)
            named[f"{theirs}.mlp.gate_proj.weight"] = gate
            named[f"{theirs}.mlp.up_proj.weight"] = up
            named[f"{theirs}.mlp.down_proj.weight"] = state[f"{ours}.ffn.project.weight"]
        else:
            experts = f"{theirs}.mlp.experts"
            named[f"{theirs}.mlp.gate.weight"] = state[f"{ours}.ffn.router.weight"]
            named[f"{experts}.gate_up_proj"] = state[f"{ours}.ffn.experts.weight_in"].mT
            named[f"{experts}.down_proj"] = state[f"{ours}.ffn.experts.weight_out"].mT
    return named


def sizes_of(width: str = "intermediate_size", **others: object) -> dict[str, object]:
    """A configuration of transformers for SIZES, whose d_ff of 48 is 32 under SwiGLU."""
    return {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        width: 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "head_dim": 8,
        "max_position_embeddings": 16,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    } | others


CASES = {
    "GPT2": (
        {},
        gpt2_weights,
        {
            "vocab_size": VOCAB, "n_positions": 16, "n_embd": 32, "n_layer": 2, "n_head": 4,
            "n_inner": 48, "activation_function": "gelu", "bos_token_id": None,
            "eos_token_id": None,
        },
    ),
    "Llama": (
        LLAMA | {"num_kv_heads": 2, "rope_theta": 500.0},
        llama_weights,
        sizes_of(
            num_key_value_heads=2,
            rope_parameters={"rope_type": "default", "rope_theta": 500.0},
        ),
    ),
    "Qwen3": (
        LLAMA | {"num_kv_heads": 1, "qk_norm": "head", "tied_embeddings": True},
        llama_weights,
        sizes_of(num_key_value_heads=1, tie_word_embeddings=True),
    ),
    "Mixtral": (
        LLAMA | MIXTURE | {"num_kv_heads": 2},
        llama_weights,
        sizes_of(num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2),
    ),
    "Olmoe": (
        LLAMA | MIXTURE | {"qk_norm": "full", "gate": "switch"},
        llama_weights,
        sizes_of(
            num_key_value_heads=4, num_experts=4, num_experts_per_tok=2, norm_topk_prob=False
        ),
    ),
    "Qwen3Moe": (
        LLAMA | MIXTURE | {"qk_norm": "head", "num_kv_heads": 2},
        llama_weights,
        sizes_of(
            "moe_intermediate_size",
            num_key_value_heads=2, num_experts=4, num_experts_per_tok=2, norm_topk_prob=True,
            intermediate_size=32,
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_transformers(make_config, name):
    fields, weights, settings = CASES[name]
    ours = MoETransformer(make_config(**SIZES, **fields, batch_tokens=16, micro_batch_tokens=16))
    noisy(ours)
    config = getattr(transformers, f"{name}Config")(**settings)
    class_name = "GPT2LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM"
    theirs = getattr(transformers, class_name)(config).eval()
    theirs.load_state_dict(weights(ours))
    ids_BS = torch.randint(0, VOCAB, (3, 16))
    with torch.no_grad():
        expected = theirs(ids_BS).logits
        got = ours.eval().logits(ids_BS)
    assert expected.std() > 0.1
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
