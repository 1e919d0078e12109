"""`transformers` opens what is written, and computes our logits; what it writes, we compute too.

Nothing is downloaded: models are small and filled with noise.
"""

from __future__ import annotations

import dataclasses
import json
import typing

import pytest
import torch
import transformers
from torch import nn

from moe.config import DataConfig, ModelConfig, MoEConfig, OptimConfig, TrainConfig, TrialConfig
from moe.data.tokenizer import ByteTokenizer
from moe.interchange.architectures import ARCHITECTURES, architecture_named, architecture_of
from moe.interchange.read_hf import read_hf
from moe.interchange.write_hf import hf_folder
from moe.model.transformer import MoETransformer

SIZES = {"num_layers": 3, "d_model": 32, "num_heads": 4, "d_ff": 48, "context_length": 16}
LLAMA = SIZES | {
    "norm": "rmsnorm",
    "position": "rope",
    "activation": "swiglu",
    "bias": False,
    "tied_embeddings": False,
}
MIXTURE = {"num_experts": 4, "top_k": 2}
DEEPSEEK = {"gate": "sigmoid_topk", "gate_scale": 2.5, "balance": "sequence"}

# What each name should hold, one or more of a kind: (architecture, fields of model, of moe).
CASES = [
    ("GPT2", SIZES, {}),
    ("GPT2", SIZES | {"tied_embeddings": False, "ffn_multiple": 2.0, "dropout": 0.1}, {}),
    ("Llama", LLAMA | {"num_kv_heads": 2, "rope_theta": 500.0}, {}),
    ("Qwen3", LLAMA | {"num_kv_heads": 1, "qk_norm": "head", "tied_embeddings": True}, {}),
    ("Mixtral", LLAMA | {"num_kv_heads": 2}, MIXTURE),
    ("Mixtral", LLAMA, MIXTURE | {"router": "frozen", "granularity": 2, "balance": "switch"}),
    ("Olmoe", LLAMA | {"qk_norm": "full", "num_kv_heads": 2}, MIXTURE | {"gate": "switch"}),
    ("Olmoe", LLAMA | {"qk_norm": "full"}, MIXTURE),
    ("Qwen2Moe", LLAMA, MIXTURE | {"gate": "switch", "top_k": 1}),
    ("Qwen2Moe", LLAMA, MIXTURE | {"shared_experts": 2, "d_expert": 24}),
    ("Qwen3Moe", LLAMA | {"qk_norm": "head", "num_kv_heads": 2}, MIXTURE),
    ("Qwen3Moe", LLAMA | {"qk_norm": "head"}, MIXTURE | {"gate": "switch", "layer_stride": 2}),
    ("Dots1", LLAMA | {"qk_norm": "head"}, MIXTURE | DEEPSEEK | {"shared_experts": 1}),
    ("Dots1", LLAMA | {"qk_norm": "head"}, MIXTURE | {"gate": "sigmoid", "first_dense_layers": 1}),
    ("Glm4Moe", LLAMA | {"num_kv_heads": 2}, MIXTURE | DEEPSEEK | {"first_dense_layers": 1}),
]


def config_of(model: dict, moe: dict, **others) -> TrialConfig:
    train = TrainConfig(batch_tokens=16, micro_batch_tokens=16)
    return TrialConfig(model=ModelConfig(**model), moe=MoEConfig(**moe), train=train, **others)


def noisy(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.eval()


def logits(model: nn.Module, vocab_size: int = 257) -> torch.Tensor:
    ids_BS = torch.randint(0, vocab_size, (3, 16), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        made = model.logits(ids_BS) if isinstance(model, MoETransformer) else model(ids_BS).logits
    assert made.std() > 0.1
    return made


def assert_close(one, other):
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("number", range(len(CASES)))
def test_transformers_opens_what_is_written_and_it_reads_back(tmp_path, number):
    name, model, moe = CASES[number]
    config = config_of(model, moe)
    ours = noisy(MoETransformer(config))
    folder = tmp_path / "model"
    hf_folder(config, ours.state_dict(), ByteTokenizer()).write(folder)
    theirs, told = transformers.AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True
    )
    assert type(theirs).__name__.startswith(name)
    assert not any(told.values()), "every weight is read, and none is made up"
    assert_close(logits(theirs.eval()), logits(ours))
    again, weights = read_hf(folder)
    assert again.moe.active_experts == config.moe.active_experts
    back = MoETransformer(again)
    back.load_state_dict(weights)
    assert_close(logits(back.eval()), logits(ours))
    for key, value in ours.state_dict().items():
        assert torch.equal(value, weights[key]), f"{key} comes back as it was"


def test_every_architecture_is_tried():
    assert {name for name, _, _ in CASES} == {found.name for found in ARCHITECTURES}


THEIR_SIZES = {
    "vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 20,
    "max_position_embeddings": 16, "rms_norm_eps": 1e-5, "hidden_act": "silu",
    "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
}  # fmt: skip
THEIR_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 12}
THEIRS = {
    "GPT2": {
        "vocab_size": 300, "n_positions": 16, "n_embd": 32, "n_layer": 2, "n_head": 4,
        "activation_function": "gelu", "bos_token_id": None, "eos_token_id": None,
    },
    "Llama": {},
    "Qwen3": {"tie_word_embeddings": True},
    "Mixtral": THEIR_EXPERTS | {"num_local_experts": 4},
    "Olmoe": THEIR_EXPERTS | {"num_experts": 4, "norm_topk_prob": False},
    "Qwen3Moe": THEIR_EXPERTS | {"num_experts": 4, "decoder_sparse_step": 2},
    "Qwen2Moe": THEIR_EXPERTS
    | {"num_experts": 4, "shared_expert_intermediate_size": 24, "qkv_bias": False},
    "Dots1": THEIR_EXPERTS
    | {
        "n_routed_experts": 4, "n_shared_experts": 2, "first_k_dense_replace": 1,
        "norm_topk_prob": True, "routed_scaling_factor": 2.5,
    },
    "Glm4Moe": THEIR_EXPERTS
    | {
        "n_routed_experts": 4, "n_shared_experts": 1, "first_k_dense_replace": 2,
        "use_qk_norm": True,
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 1.0,
        },
    },
}  # fmt: skip


def their_checkpoint(name: str, folder, **settings) -> nn.Module:
    """A small random model of transformers, saved as it saves one."""
    sizes = {} if name == "GPT2" else THEIR_SIZES
    config = getattr(transformers, f"{name}Config")(**{**sizes, **THEIRS[name], **settings})
    class_name = "GPT2LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM"
    model = noisy(getattr(transformers, class_name)(config))
    if name == "Qwen2Moe":  # its gate on the shared expert, which none of our models has
        for layer in model.model.layers:
            nn.init.zeros_(layer.mlp.shared_expert_gate.weight)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("name", THEIRS)
def test_random_checkpoint_of_transformers_is_read(tmp_path, name):
    theirs = their_checkpoint(name, tmp_path)
    config, weights = read_hf(tmp_path)
    ours = MoETransformer(config)
    ours.load_state_dict(weights)
    assert_close(logits(ours.eval(), 300), logits(theirs, 300))
    assert not architecture_named(theirs.config.model_type).misfits(config)
    shorter, weights = read_hf(tmp_path, context_length=8)
    assert shorter.model.context_length == 8
    MoETransformer(shorter).load_state_dict(weights)


def test_checkpoint_in_several_files_is_read(tmp_path):
    theirs = their_checkpoint("Olmoe", tmp_path / "one")
    theirs.save_pretrained(tmp_path / "many", max_shard_size="20KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 1
    one, many = read_hf(tmp_path / "one")[1], read_hf(tmp_path / "many")[1]
    assert all(torch.equal(value, many[name]) for name, value in one.items())


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("Olmoe", {"rms_norm_eps": 1e-6}, "rms_norm_eps=1e-06"),
        ("Olmoe", {"clip_qkv": 8.0}, "clip_qkv=8.0"),
        ("Olmoe", {"attention_bias": True}, "attention_bias=True"),
        ("Mixtral", {"sliding_window": 8}, "sliding_window=8"),
        ("Mixtral", {"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ("Mixtral", {"head_dim": 16}, "head_dim=16"),
        ("Dots1", {"n_group": 2}, "n_group=2"),
        ("GPT2", {"activation_function": "gelu_new"}, "activation_function='gelu_new'"),
        ("Glm4Moe", {"rope_parameters": None}, "partial_rotary_factor"),
        ("Qwen2Moe", {"qkv_bias": True}, "qkv_bias=True"),
        ("Llama", {"mlp_bias": True}, "mlp_bias=True"),
    ],
)
def test_setting_that_ours_cannot_be_is_named(tmp_path, name, settings, said):
    their_checkpoint(name, tmp_path, **settings)
    with pytest.raises(ValueError, match=said.replace(".", r"\.")):
        read_hf(tmp_path)


def test_weights_that_ours_cannot_be_are_named(tmp_path):
    theirs = their_checkpoint("Qwen2Moe", tmp_path)
    nn.init.ones_(theirs.model.layers[0].mlp.shared_expert_gate.weight)
    theirs.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"a gate on the shared expert.*must be zero"):
        read_hf(tmp_path)


def test_folder_that_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a folder with config\.json"):
        read_hf(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match="model_type is one of gpt2, llama"):
        read_hf(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "olmoe"}))
    with pytest.raises(ValueError, match="states its sizes"):
        read_hf(tmp_path)
    their_checkpoint("Llama", tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(ValueError, match="weights are read from"):
        read_hf(tmp_path)


def test_scales_of_mup_are_in_no_architecture():
    """At its base width there are none, and the same config opens."""
    ratio_2, ratio_1 = (
        config_of(LLAMA, MIXTURE, optim=OptimConfig(parametrization="mup", base_d_model=d_model))
        for d_model in (LLAMA["d_model"] // 2, LLAMA["d_model"])
    )
    with pytest.raises(ValueError, match=r"has optim\.parametrization=mup"):
        architecture_of(ratio_2)
    assert architecture_of(ratio_1).name == "Mixtral"


@pytest.mark.parametrize(
    ("model", "moe", "said"),
    [
        (SIZES, MIXTURE, "model.activation=gelu, model.bias=True, model.norm=layernorm"),
        (LLAMA, MIXTURE | {"routing_unit": "sequence"}, "has moe.routing_unit=sequence"),
        (LLAMA, MIXTURE | {"router": "hash", "top_k": 1}, "moe.router=hash"),
        (LLAMA, MIXTURE | {"balance": "loss_free"}, "has moe.balance=loss_free"),
        (LLAMA, MIXTURE | {"gate": "double_softmax"}, "has moe.gate=double_softmax"),
        (LLAMA, MIXTURE | {"routing_scope": "global"}, "has moe.routing_scope=global"),
        (LLAMA, MIXTURE | {"score": "cosine"}, "has moe.score=cosine"),
        (LLAMA, MIXTURE | {"expert_groups": 2, "num_experts": 8}, "has moe.expert_groups=2"),
        (LLAMA | {"qk_norm": "full"}, MIXTURE | {"gate": "sigmoid"}, "Olmoe lacks moe.gate"),
        (SIZES | {"norm": "rmsnorm"}, {}, "GPT2 lacks model.norm=rmsnorm"),
        (SIZES | {"num_kv_heads": 2}, {}, "GPT2 lacks model.num_kv_heads=2"),
    ],
)
def test_config_that_nobody_computes_is_refused_by_its_axis(model, moe, said):
    with pytest.raises(ValueError, match="an architecture that computes a config exactly") as told:
        architecture_of(config_of(model, moe))
    assert said in str(told.value)


def values_of(section, field):
    hint = typing.get_type_hints(type(section))[field.name]
    choices = {int: (2, 3), float: (0.5, 2.0), bool: (True, False), str: ("topic",)}
    return typing.get_args(hint) or choices[hint]


def test_every_axis_is_refused_or_written_or_computes_nothing():
    """A new axis that is passed over would make an export another model: each value of each axis
    must be refused, or show in what is written, or leave the logits as they are."""
    base = config_of(LLAMA, MIXTURE | {"gate": "switch"})
    model = noisy(MoETransformer(base))
    expected, state = logits(model), model.state_dict()
    written = hf_folder(base, state, ByteTokenizer()).settings
    seen = set()
    for name in ("model", "moe"):
        section = getattr(base, name)
        for field in dataclasses.fields(section):
            for value in values_of(section, field):
                try:
                    changed = dataclasses.replace(section, **{field.name: value})
                    config = dataclasses.replace(base, **{name: changed})
                    other = MoETransformer(config).eval()
                    settings = hf_folder(config, other.state_dict(), ByteTokenizer()).settings
                except ValueError:
                    continue
                seen.add(field.name)
                if settings == written:
                    other.load_state_dict(state)
                    assert torch.equal(logits(other), expected), f"{field.name}={value}"
    assert seen > {"dropout", "top_k", "gate", "balance", "router_jitter", "num_kv_heads"}


def test_tokenizer_of_another_model_is_refused():
    config = config_of(LLAMA, MIXTURE, data=DataConfig(tokenizer="bpe", vocab_size=300))
    with pytest.raises(ValueError, match=r"received 257 tokens for data\.vocab_size=300"):
        hf_folder(config, MoETransformer(config).state_dict(), ByteTokenizer())
