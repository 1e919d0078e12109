"""Architectures of `transformers`, and which of our configurations each computes exactly.

An architecture states the values that it can have of every axis that moves what is computed. An
axis that none of this names must have the value that changes nothing: a new one is refused here
until somebody says which architecture has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from moe.config import TrialConfig
from moe.identity import canonical, defaults

# Widths, counts and what a bias-free linear map of any size can be.
_SIZES = frozenset(
    {
        *(f"model.{name}" for name in ("num_layers", "d_model", "num_heads", "num_kv_heads")),
        *(f"model.{name}" for name in ("d_ff", "ffn_multiple", "context_length", "rope_theta")),
        *(f"moe.{name}" for name in ("num_experts", "top_k", "granularity", "d_expert")),
    }
)
# What shapes training alone: a trained model computes the same whatever these were.
_TRAINING = frozenset(
    {
        *("model.dropout", "moe.router_init_std", "moe.router_jitter", "moe.router_precision"),
        "moe.upcycled_from",
        *(f"moe.{name}" for name in ("balance_coefficient", "balance_scope")),
        *("moe.z_loss_coefficient", "moe.label_column"),
    }
)
# Judged by the blocks that hold experts, not by their values.
_PLACES = frozenset({"moe.layer_stride", "moe.first_dense_layers"})

_SOFTMAX_GATES = ("switch", "softmax_topk")
_SIGMOID_GATES = ("sigmoid", "sigmoid_topk")
NORMALISED = ("softmax_topk", "sigmoid_topk")

_LLAMA_BLOCKS: dict[str, tuple[Any, ...]] = {
    "model.norm": ("rmsnorm",),
    "model.position": ("rope",),
    "model.activation": ("swiglu",),
    "model.bias": (False,),
    "model.tied_embeddings": (True, False),
    "model.qk_norm": ("none",),
}
# A loss-free bias moves logits here and sigmoid scores there (2412.19437), so it is no part.
_MIXTURE: dict[str, tuple[Any, ...]] = {
    "moe.router": ("learned", "frozen"),
    "moe.balance": ("none", "switch", "sequence"),
}


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One architecture.

    name: as classes of transformers begin; model_type: as its config.json says.
    has: of each axis, the values that it can have.
    dense_blocks: which blocks of a mixture may be dense.
    experts: its name for their number, and for their width.
    absent: what a key that its config.json lacks stands for, where that is not what we have.
    """

    name: str
    model_type: str
    has: Mapping[str, tuple[Any, ...]]
    is_mixture: bool = True
    dense_blocks: Literal["none", "first", "any"] = "none"
    experts: tuple[str, str] = ("num_experts", "intermediate_size")
    absent: Mapping[str, Any] = field(default_factory=dict)

    @property
    def class_name(self) -> str:
        return "GPT2LMHeadModel" if self.model_type == "gpt2" else f"{self.name}ForCausalLM"

    @property
    def has_shared(self) -> bool:
        """Whether every mixture of it has a shared expert, be it one that adds nothing."""
        return "moe.shared_experts" in self.has

    @property
    def has_sigmoid_router(self) -> bool:
        """DeepSeek-V3's (2412.19437)."""
        return self.has.get("moe.gate") == _SIGMOID_GATES

    def misfits(self, config: TrialConfig) -> dict[str, Any]:
        """Axes by path whose values it cannot have; empty where it holds the config exactly."""
        values, neutral = canonical(config), defaults(config)
        found = {}
        for section in ("model", "moe"):
            for name, value in values[section].items():
                path = f"{section}.{name}"
                allowed = self.has.get(path, (neutral[section][name],))
                free = path in _SIZES | _TRAINING | _PLACES or allowed == ANY
                if not free and value not in allowed:
                    found[path] = value
        if config.moe.is_dense == self.is_mixture:
            found["moe.num_experts"] = config.moe.num_experts
        if config.width_ratio != 1 or config.attention_scale is not None:
            found["optim.parametrization"] = config.optim.parametrization  # divides logits, scores
        if self.has_sigmoid_router and config.moe.total_experts == 1:
            found["moe.num_experts"] = 1  # a group is judged by its two best
        if self.model_type == "gpt2" and config.model.kv_heads < config.model.num_heads:
            found["model.num_kv_heads"] = config.model.num_kv_heads
        return found | self._misplaced(config)

    def _misplaced(self, config: TrialConfig) -> dict[str, Any]:
        if not self.is_mixture or config.moe.is_dense or self.dense_blocks == "any":
            return {}
        first = 0 if self.dense_blocks == "none" else config.moe_layers[0]
        if config.moe_layers == tuple(range(first, config.model.num_layers)):
            return {}
        every, first_dense = config.moe.layer_stride, config.moe.first_dense_layers
        found = {"moe.layer_stride": every} if every > 1 else {}
        return found | ({"moe.first_dense_layers": first_dense} if first_dense else {})


ANY: tuple[Any, ...] = ("any value",)
_DENSE = {"is_mixture": False}
_EPS = {"rms_norm_eps": 1e-6}

_DEEPSEEK_ROUTER: dict[str, Any] = {
    "moe.gate": _SIGMOID_GATES,
    "moe.gate_scale": ANY,
    "moe.shared_experts": ANY,
}

ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        name="GPT2",
        model_type="gpt2",
        has={"model.tied_embeddings": (True, False)},
        absent={"activation_function": "gelu_new", "tie_word_embeddings": True},
        **_DENSE,
    ),
    Architecture(
        name="Llama",
        model_type="llama",
        has=_LLAMA_BLOCKS,
        absent=_EPS,
        **_DENSE,
    ),
    Architecture(
        name="Qwen3",
        model_type="qwen3",
        has=_LLAMA_BLOCKS | {"model.qk_norm": ("head",)},
        absent=_EPS,
        **_DENSE,
    ),
    Architecture(
        name="Mixtral",
        model_type="mixtral",
        has=_LLAMA_BLOCKS | _MIXTURE | {"moe.gate": ("softmax_topk",)},
        experts=("num_local_experts", "intermediate_size"),
        absent={"rope_theta": 1e6},
    ),
    Architecture(
        name="Olmoe",
        model_type="olmoe",
        has=_LLAMA_BLOCKS | _MIXTURE | {"model.qk_norm": ("full",), "moe.gate": _SOFTMAX_GATES},
    ),
    Architecture(
        name="Qwen3Moe",
        model_type="qwen3_moe",
        has=_LLAMA_BLOCKS | _MIXTURE | {"model.qk_norm": ("head",), "moe.gate": _SOFTMAX_GATES},
        dense_blocks="any",
        experts=("num_experts", "moe_intermediate_size"),
        absent=_EPS,
    ),
    Architecture(
        name="Qwen2Moe",
        model_type="qwen2_moe",
        has=_LLAMA_BLOCKS | _MIXTURE | {"moe.gate": _SOFTMAX_GATES, "moe.shared_experts": ANY},
        dense_blocks="any",
        experts=("num_experts", "moe_intermediate_size"),
        absent=_EPS | {"qkv_bias": True},
    ),
    Architecture(
        name="Dots1",
        model_type="dots1",
        has=_LLAMA_BLOCKS | _MIXTURE | _DEEPSEEK_ROUTER | {"model.qk_norm": ("head",)},
        dense_blocks="first",
        experts=("n_routed_experts", "moe_intermediate_size"),
        absent=_EPS,
    ),
    Architecture(
        name="Glm4Moe",
        model_type="glm4_moe",
        has=_LLAMA_BLOCKS | _MIXTURE | _DEEPSEEK_ROUTER | {"model.qk_norm": ("none", "head")},
        dense_blocks="first",
        experts=("n_routed_experts", "moe_intermediate_size"),
        absent={"partial_rotary_factor": 0.5, "norm_topk_prob": True},
    ),
)


def architecture_of(config: TrialConfig) -> Architecture:
    """The first that holds the config exactly; raises ValueError, naming what stands against it."""
    same_kind = [found for found in ARCHITECTURES if found.is_mixture != config.moe.is_dense]
    misfits = {found.name: found.misfits(config) for found in same_kind}
    for found in same_kind:
        if not misfits[found.name]:
            return found
    everywhere = set.intersection(*(set(own) for own in misfits.values()))
    names = ", ".join(misfits)
    if everywhere:
        values = {path: misfits[same_kind[0].name][path] for path in everywhere}
        said = f"none of {names} has {_named(values)}"
    else:
        each = "; ".join(f"{name} lacks {_named(own)}" for name, own in misfits.items())
        said = f"no one has all that this has: {each}"
    raise ValueError(
        "transformers must have an architecture that computes a config exactly; "
        f"{said}. Export a trial without it: --set model.family=llama asks for the blocks that "
        "its mixtures have, and the gate softmax_topk for Mixtral's."
    )


def _named(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{path}={value}" for path, value in sorted(values.items()))


def architecture_named(model_type: Any) -> Architecture:
    """Raises ValueError for a model_type that is not ours to read."""
    for found in ARCHITECTURES:
        if found.model_type == model_type:
            return found
    known = ", ".join(found.model_type for found in ARCHITECTURES)
    raise ValueError(
        f"a folder that can be read has a config.json whose model_type is one of {known}; "
        f"received {model_type!r}. Give a checkpoint of one of these."
    )
