"""config.json of transformers: written for a configuration of ours, and read as one.

What is written is all that decides what a model of that architecture computes. Reading makes our
configuration of a file, writes it again, and refuses a file that differs: a setting that ours
cannot be is named, and none is passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moe.config import DataConfig, ModelConfig, MoEConfig, TrainConfig, TrialConfig
from moe.interchange.architectures import ARCHITECTURES, NORMALISED, Architecture
from moe.model.norms import EPS

ROPE = "rope_parameters"
_GPT2_NAMES = {
    "vocab_size": "vocab_size",
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
}
_WINDOWED = ("mixtral", "qwen2_moe", "qwen3", "qwen3_moe", "dots1")
_EXPERT_COUNTS = {architecture.experts[0] for architecture in ARCHITECTURES}


def settings_of(config: TrialConfig, architecture: Architecture) -> dict[str, Any]:
    """What decides the function of a model, by the keys of the architecture's config.json."""
    model = config.model
    sizes = {
        "vocab_size": config.data.vocab_size,
        "hidden_size": model.d_model,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "max_position_embeddings": model.context_length,
    }
    if architecture.model_type == "gpt2":
        return {_GPT2_NAMES[key]: value for key, value in sizes.items()} | {
            "n_inner": config.d_ff_dense,
            "activation_function": "gelu",
            "layer_norm_epsilon": EPS,
            "scale_attn_weights": True,
            "scale_attn_by_inverse_layer_idx": False,
            "add_cross_attention": False,
            "tie_word_embeddings": model.tied_embeddings,
        }
    rope = {"rope_type": "default", "rope_theta": model.rope_theta}
    if architecture.model_type == "glm4_moe":
        rope["partial_rotary_factor"] = 1.0
    settings = sizes | {
        "intermediate_size": config.d_ff_dense,
        "num_key_value_heads": model.kv_heads,
        "head_dim": model.d_head,
        "hidden_act": "silu",
        "rms_norm_eps": EPS,
        "tie_word_embeddings": model.tied_embeddings,
        ROPE: rope,
    }
    if architecture.model_type not in ("mixtral", "qwen2_moe"):
        settings["attention_bias"] = False
    if architecture.model_type == "llama":
        settings["mlp_bias"] = False
    if architecture.model_type in _WINDOWED:
        settings["sliding_window"] = None
    return settings | (_mixture_settings(config, architecture) if architecture.is_mixture else {})


def _mixture_settings(config: TrialConfig, architecture: Architecture) -> dict[str, Any]:
    moe = config.moe
    count, width = architecture.experts
    settings: dict[str, Any] = {
        count: moe.total_experts,
        "num_experts_per_tok": moe.active_experts,
        width: config.d_expert,
    }
    if architecture.model_type != "mixtral":  # whose weights always sum to one
        settings["norm_topk_prob"] = moe.gate in NORMALISED
    dense = [i for i in range(config.model.num_layers) if i not in config.moe_layers]
    if architecture.dense_blocks == "any":
        settings |= {"decoder_sparse_step": 1, "mlp_only_layers": dense}
    elif architecture.dense_blocks == "first":
        settings["first_k_dense_replace"] = len(dense)
    shared = moe.shared_experts or 1  # one that adds nothing, where we have none
    match architecture.model_type:
        case "olmoe":
            settings["clip_qkv"] = None
        case "qwen2_moe":
            settings["shared_expert_intermediate_size"] = shared * config.d_expert
            settings["qkv_bias"] = False
        case "dots1" | "glm4_moe":
            settings |= {"n_shared_experts": shared, "routed_scaling_factor": moe.gate_scale}
            settings |= {"n_group": 1, "topk_group": 1}
    if architecture.model_type == "glm4_moe":
        settings["use_qk_norm"] = config.model.qk_norm == "head"
        settings["num_nextn_predict_layers"] = 0
    return settings


def config_of(
    given: Mapping[str, Any],
    architecture: Architecture,
    *,
    tokenizer: str,
    context_length: int | None = None,
) -> TrialConfig:
    """Our configuration of a config.json; `context_length` may cut its positions.

    Raises ValueError, naming the setting, for a file that says what no configuration of ours can.
    """
    try:
        settings = _plain(given, architecture)
        config = _built(settings, architecture, tokenizer, context_length)
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"a config.json of {architecture.name} states its sizes as numbers; received one "
            f"without, or with another kind of, {error}. Give one that transformers wrote."
        ) from None
    _require_same(settings, settings_of(config, architecture), architecture)
    return config


def _built(
    settings: Mapping[str, Any],
    architecture: Architecture,
    tokenizer: str,
    context_length: int | None,
) -> TrialConfig:
    has = architecture.has
    positions = settings["max_position_embeddings"]
    context = min(context_length or positions, positions)
    model: dict[str, Any] = {
        "num_layers": settings["num_hidden_layers"],
        "d_model": settings["hidden_size"],
        "num_heads": settings["num_attention_heads"],
        "context_length": context,
        "tied_embeddings": settings["tie_word_embeddings"],
    }
    if architecture.model_type == "gpt2":
        moe, model["d_ff"] = MoEConfig(), settings["n_inner"] or 4 * model["d_model"]
    else:
        first_of = ("norm", "position", "activation", "bias", "qk_norm")
        model |= {name: has[f"model.{name}"][0] for name in first_of}
        model["num_kv_heads"] = settings["num_key_value_heads"]
        model["rope_theta"] = float(settings[ROPE]["rope_theta"])
        if settings.get("use_qk_norm"):
            model["qk_norm"] = "head"
        moe = _mixture(settings, architecture) if architecture.is_mixture else MoEConfig()
        model |= _widths(settings, architecture, moe, model["num_layers"])
    return TrialConfig(
        model=ModelConfig(**model),
        moe=moe,
        data=DataConfig(tokenizer=tokenizer, vocab_size=settings["vocab_size"]),
        train=TrainConfig(batch_tokens=context, micro_batch_tokens=context),
    )


def _mixture(settings: Mapping[str, Any], architecture: Architecture) -> MoEConfig:
    count, width = architecture.experts
    d_expert = settings[width]
    gates = architecture.has["moe.gate"]
    normalised = architecture.model_type == "mixtral" or settings.get("norm_topk_prob", False)
    shared = settings.get("n_shared_experts") or 0
    if architecture.model_type == "qwen2_moe":
        shared = settings["shared_expert_intermediate_size"] // d_expert
    stride, first = _places(settings, architecture)
    return MoEConfig(
        num_experts=settings[count],
        top_k=settings["num_experts_per_tok"],
        d_expert=d_expert,
        shared_experts=shared,
        layer_stride=stride,
        first_dense_layers=first,
        gate=next(gate for gate in gates if (gate in NORMALISED) == normalised),
        gate_scale=float(settings.get("routed_scaling_factor", 1.0)),
    )


def _places(settings: Mapping[str, Any], architecture: Architecture) -> tuple[int, int]:
    """moe.layer_stride and moe.first_dense_layers of the blocks that hold experts."""
    if architecture.dense_blocks == "none":
        return 1, 0
    if architecture.dense_blocks == "first":
        return 1, settings["first_k_dense_replace"]
    layers, dense = settings["num_hidden_layers"], set(settings["mlp_only_layers"])
    wanted = [i for i in range(layers) if i not in dense]
    for stride in range(1, layers + 1):
        for first in range(layers - stride + 1):
            if list(range(first + stride - 1, layers, stride)) == wanted:
                return stride, first
    raise ValueError(
        "blocks with experts are every n-th from some block on; received mlp_only_layers="
        f"{sorted(dense)} of {layers}. Read another checkpoint."
    )


def _widths(
    settings: Mapping[str, Any], architecture: Architecture, moe: MoEConfig, layers: int
) -> dict[str, Any]:
    """`d_ff` and `ffn_multiple` that give a dense block exactly the width of the file."""
    width = settings["intermediate_size"]
    places = range(moe.first_dense_layers + moe.layer_stride - 1, layers, moe.layer_stride)
    all_mixtures = architecture.is_mixture and len(places) == layers
    nearest = max(8, round(width / 8) * 8)  # what ModelConfig.d_ff_of_activation makes of d_ff
    return {
        "d_ff": nearest * 3 // 2,
        "ffn_multiple": 1.0 if all_mixtures else width / nearest,
    }


def _plain(given: Mapping[str, Any], architecture: Architecture) -> dict[str, Any]:
    """A file's settings under the keys that `settings_of` writes, whatever version wrote it."""
    settings = dict(given)
    if architecture.model_type == "gpt2":
        settings |= {key: given.get(gpt2) for key, gpt2 in _GPT2_NAMES.items()}
        settings.setdefault("n_inner", None)
    else:
        rope = {**(settings.get(ROPE) or settings.get("rope_scaling") or {})}
        rope.setdefault("rope_type", rope.pop("type", "default"))
        for key in ("rope_theta", "partial_rotary_factor"):
            default = architecture.absent.get(key)
            if (value := rope.get(key, settings.get(key, default))) is not None:
                rope[key] = value
        rope.setdefault("rope_theta", 10000.0)
        if architecture.model_type != "glm4_moe" and rope.get("partial_rotary_factor") == 1:
            del rope["partial_rotary_factor"]
        settings[ROPE] = rope
        settings["num_key_value_heads"] = (
            settings.get("num_key_value_heads") or settings["num_attention_heads"]
        )
        if not settings.get("head_dim"):
            settings["head_dim"] = settings["hidden_size"] // settings["num_attention_heads"]
        settings["sliding_window"] = _window(settings)
    if architecture.is_mixture:
        count = architecture.experts[0]
        known = [settings[key] for key in (count, *_EXPERT_COUNTS) if settings.get(key) is not None]
        settings[count] = known[0] if known else None
        if architecture.dense_blocks == "any":
            step = settings.get("decoder_sparse_step", 1)
            only = set(settings.get("mlp_only_layers") or [])
            layers = range(settings["num_hidden_layers"])
            dense = [i for i in layers if i in only or (i + 1) % step]
            settings |= {"mlp_only_layers": dense, "decoder_sparse_step": 1}
    for key, value in architecture.absent.items():
        if settings.get(key) is None:
            settings[key] = value
    settings.setdefault("tie_word_embeddings", False)
    settings["num_nextn_predict_layers"] = 0  # blocks beside the decoder, which none of ours has
    return settings


def _window(settings: Mapping[str, Any]) -> int | None:
    """The window of attention, where it is shorter than all positions."""
    kinds = set(settings.get("layer_types") or [])
    window, first = settings.get("sliding_window"), settings.get("max_window_layers", 0)
    is_off = settings.get("use_sliding_window") is False or kinds == {"full_attention"}
    if not window or is_off or (not kinds and first >= settings["num_hidden_layers"]):
        return None
    return window if window < settings["max_position_embeddings"] else None


def _require_same(
    given: Mapping[str, Any], ours: Mapping[str, Any], architecture: Architecture
) -> None:
    """Raises ValueError where a file says otherwise than what is written for our config."""
    cut = {"max_position_embeddings", "n_positions"}  # a context that is cut computes the same
    if given.get("n_inner", 0) is None:
        cut.add("n_inner")
    other = {
        key: given[key]
        for key, value in ours.items()
        if key not in cut and given.get(key) is not None and given[key] != value
    }
    if ours.get("mlp_only_layers") == [] or ours.get("first_k_dense_replace") == 0:
        other.pop("intermediate_size", None)  # of dense blocks, and there are none
    if other:
        said = ", ".join(f"{key}={value!r} ({ours[key]!r} here)" for key, value in other.items())
        raise ValueError(
            f"our models compute what {architecture.name} does with the settings that they can "
            f"have; received {said}. Read another checkpoint."
        )
