"""What makes two runs the same run: a hash of all that decides the result, and nothing else."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from moe.config import TrialConfig

HASH_LENGTH = 16

# The fields of version 1 with their defaults, as of 2026-11-25. They are hashed in full, so that
# every hash of a home made before an axis was added stays what it was. Never edited: a default in
# moe/config may change, and what it was here goes on standing for "no effect".
_VERSION_1: dict[str, dict[str, Any]] = {
    "model": {
        "num_layers": 4,
        "d_model": 64,
        "num_heads": 4,
        "d_ff": 256,
        "context_length": 128,
        "dropout": 0.0,
        "ffn_multiple": 1.0,
    },
    "moe": {
        "num_experts": 0,
        "top_k": 1,
        "granularity": 1,
        "d_expert": 0,
        "shared_experts": 0,
        "layer_stride": 1,
        "routing_unit": "token",
        "routing_scope": "layer",
        "router": "learned",
        "router_init_std": 0.02,
        "sequence_representation": "mean",
        "prefix_length": 0,
        "gate": "softmax_topk",
        "balance": "none",
        "balance_coefficient": 0.01,
        "balance_scope": "micro_batch",
        "z_loss_coefficient": 0.0,
        "label_column": "language",
    },
    "data": {
        "corpus": "stdlib",
        "tokenizer": "byte",
        "vocab_size": 257,
        "holdout_fraction": 0.05,
        "digest": "",
    },
    "optim": {
        "learning_rate": 1e-3,
        "min_learning_rate_fraction": 0.1,
        "warmup_steps": 20,
        "weight_decay": 0.1,
        "beta1": 0.9,
        "beta2": 0.95,
        "grad_clip": 1.0,
    },
    "train": {
        "num_steps": 200,
        "batch_tokens": 2048,
        "micro_batch_tokens": 2048,
        "precision": "fp32",
        "seed": 0,
        "eval_every": 50,
        "eval_tokens": 16384,
        "loss_start": 0,
        "max_loss": 100.0,
    },
}

# Axes added since, each with the default under which runs are what they were before it: a config
# that has this value is hashed as if the axis did not exist. A line is added with its axis, and
# never edited after.
_LATER: dict[str, Any] = {
    "data.test_fraction": 0.0,
    "moe.upcycled_from": "",
    "data.sequence_labels": "",
    "data.text_column": "",
    "moe.gate_scale": 1.0,
    "moe.score": "linear",
    "moe.score_temperature": 0.07,
    "moe.router_precision": "fp32",
    "moe.router_jitter": 0.0,
    "moe.selection": "token",
    "moe.capacity_factor": 0.0,
    "moe.dropping": "order",
    "moe.noisy_top_k": False,
    "moe.expert_groups": 1,
    "moe.chosen_groups": 1,
    "model.norm": "layernorm",
    "model.position": "learned",
    "model.rope_theta": 10000.0,
    "model.num_kv_heads": 0,
    "model.qk_norm": "none",
    "model.tied_embeddings": True,
    "model.activation": "gelu",
    "model.bias": True,
    "moe.first_dense_layers": 0,
    "optim.name": "adamw",
    "optim.schedule": "cosine",
    "optim.decay_fraction": 0.2,
    "optim.parametrization": "standard",
    "optim.base_d_model": 64,
    "optim.base_d_head": 0,
}

# Values as they are hashed, where a name was taken over by another meaning: what was `loss_free`
# until November 2026 keeps its hash.
_HASHED_AS: dict[str, dict[Any, Any]] = {
    "moe.balance": {"loss_free_logits": "loss_free", "loss_free": "loss_free_scores"},
}

# What says where tokens came from: their digest is the identity.
_ORIGIN = ("data.corpus", "data.tokenizer", "data.sequence_labels", "data.text_column")


def defaults(config: TrialConfig) -> dict[str, dict[str, Any]]:
    """Of every field the value that changes nothing, as of the version that it came with."""
    return {section: dict(values) for section, values in _defaults(config).items()}


def _defaults(config: TrialConfig) -> dict[str, dict[str, Any]]:
    names = (field.name for field in dataclasses.fields(config))
    return _defaults_of(tuple((name, type(getattr(config, name))) for name in names))


@cache
def _defaults_of(sections: tuple[tuple[str, type], ...]) -> dict[str, dict[str, Any]]:
    found = {}
    for section, kind in sections:
        now = {f.name: _default(f) for f in dataclasses.fields(kind)}
        later = {name: _LATER.get(f"{section}.{name}", value) for name, value in now.items()}
        found[section] = later | _VERSION_1.get(section, {})
    return found


def _default(field: dataclasses.Field[Any]) -> Any:
    made = field.default_factory is not dataclasses.MISSING
    return field.default_factory() if made else field.default


def canonical(config: TrialConfig) -> dict[str, dict[str, Any]]:
    """The values of a run, with every field that has no effect set to its default.

    A dense model has no router, a token router no sequence representation: two configs that differ
    only there train the same weights, and must not be paid for twice.
    """
    default = defaults(config)
    values = {
        section: default[section] | {f.name: getattr(own, f.name) for f in dataclasses.fields(own)}
        for section, own in ((f.name, getattr(config, f.name)) for f in dataclasses.fields(config))
    }
    moe, model = config.moe, config.model

    def neutral(*names: str, section: str = "moe") -> None:
        values[section].update({name: default[section][name] for name in names})

    if model.kv_heads == model.num_heads:
        neutral("num_kv_heads", section="model")
    if model.position != "rope":
        neutral("rope_theta", section="model")
    if config.optim.schedule != "wsd":
        neutral("decay_fraction", section="optim")

    if config.attention_scale is None:
        neutral("base_d_head", section="optim")
        if config.width_ratio == 1:
            neutral("parametrization", "base_d_model", section="optim")

    if moe.is_dense:
        neutral(*default["moe"])
        values["model"] |= {"d_ff": config.d_ff_dense, "ffn_multiple": 1.0}
        return values
    values["moe"]["d_expert"] = config.d_expert
    stride, first = config.fewest_first_dense
    values["moe"] |= {"layer_stride": stride, "first_dense_layers": first}
    if moe.routing_unit == "token" or not moe.router_kind.scores:
        neutral("sequence_representation")
    if not moe.uses_prefix:
        neutral("prefix_length")
    if not moe.router_kind.scores:
        neutral("gate", "gate_scale", "score", "router_precision", "router_jitter")
        neutral("router_init_std", "z_loss_coefficient")
    if not moe.router_kind.scores or moe.score == "linear":
        neutral("score_temperature")
    if not moe.router_kind.scores or moe.chosen_groups == moe.expert_groups:
        neutral("expert_groups", "chosen_groups")  # all groups may be chosen: no limit
    if config.train.precision == "fp32":
        neutral("router_precision")
    if not moe.experts_choose:
        neutral("selection")
    if not moe.limits_capacity:
        neutral("capacity_factor", "dropping")
    if moe.follows_labels:
        values["moe"] |= {"routing_unit": "sequence", "routing_scope": "global"}
    else:
        neutral("label_column")
    if moe.balance == "none":
        neutral("balance_coefficient", "balance_scope")
    elif moe.balance == "sequence":
        neutral("balance_scope")
    return values


def _hashed(config: TrialConfig) -> dict[str, dict[str, Any]]:
    """What identity is made of, the seed included."""
    default = _defaults(config)
    hashed: dict[str, dict[str, Any]] = {}
    for section, values in canonical(config).items():
        first = _VERSION_1.get(section, {})
        for name, value in values.items():
            told = name in first or not _is_alike(value, default[section][name])
            if told and f"{section}.{name}" not in _ORIGIN:
                renamed = _HASHED_AS.get(f"{section}.{name}", {})
                hashed.setdefault(section, {})[name] = renamed.get(value, value)
    return hashed


def _hash(hashed: Mapping[str, Any]) -> str:
    return hashlib.sha256(_text(hashed).encode()).hexdigest()[:HASH_LENGTH]


def _without_seed(hashed: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    train = {name: value for name, value in hashed["train"].items() if name != "seed"}
    return {**hashed, "train": train}


def _is_alike(value: Any, default: Any) -> bool:
    """Whether both are the same text, which is not asked of what is the same value."""
    is_same = value is default or (type(value) is type(default) is not float and value == default)
    return is_same or _text(value) == _text(default)


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def told(config: TrialConfig) -> dict[str, Any]:
    """What tells a configuration from others: the values that are not their axis's default, by
    path, without the seed and without where tokens came from."""
    default = _defaults(config)
    left_out = {*_ORIGIN, "train.seed"}
    return {
        path: value
        for section, values in config.to_dict().items()
        for name, value in values.items()
        if (path := f"{section}.{name}") not in left_out
        and not _is_alike(value, default[section][name])
    }


def config_told(values: Mapping[str, Any]) -> TrialConfig:
    """The configuration that `told` tells, of seed 0 and without where tokens came from. Raises
    ConfigError for values that no run of this version has."""
    sections = defaults(TrialConfig())
    for path, value in values.items():
        section, _, name = path.partition(".")
        sections.setdefault(section, {})[name] = value
    return TrialConfig.from_dict(sections)


def config_hash(config: TrialConfig) -> str:
    """Identity of a run. Needs `data.digest`; raises ValueError without it."""
    if not config.data.digest:
        raise ValueError("config_hash needs data.digest: resolve the corpus first")
    return _hash(_hashed(config))


def cell_hash(config: TrialConfig) -> str:
    """Identity of a cell: all seeds of one configuration share it."""
    return _hash(_without_seed(_hashed(config)))


def config_and_cell_hash(config: TrialConfig) -> tuple[str | None, str]:
    """Both, the first None without `data.digest`: most of the work is the same."""
    hashed = _hashed(config)
    own = _hash(hashed) if config.data.digest else None
    return own, _hash(_without_seed(hashed))
