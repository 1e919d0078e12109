"""What makes two runs the same run: a hash of all that decides the result, and nothing else."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from functools import cache
from pathlib import Path

from moe.config import MoEConfig, TrialConfig

HASH_LENGTH = 16

# Code that reads what a run left, and cannot change it.
_AFTER_TRAINING = ("analysis/", "data/probes.py", "data/alignment.py", "data/lexical.py")


def canonical(config: TrialConfig) -> TrialConfig:
    """The same run with every field that has no effect set to its default.

    A dense model has no router, a token router no sequence representation: two configs that differ
    only there train the same weights, and must not be paid for twice.
    """
    default = MoEConfig()
    moe, model = config.moe, config.model
    neutral: dict[str, object] = {}
    if moe.is_dense:
        moe = default
        model = dataclasses.replace(model, d_ff=config.d_ff_dense, ffn_multiple=1.0)
    else:
        neutral["d_expert"] = config.d_expert
        if moe.routing_unit == "token" or not moe.router_kind.scores:
            neutral["sequence_representation"] = default.sequence_representation
        if not moe.uses_prefix:
            neutral["prefix_length"] = default.prefix_length
        if not moe.router_kind.scores:
            neutral |= {
                "gate": default.gate,
                "router_init_std": default.router_init_std,
                "z_loss_coefficient": default.z_loss_coefficient,
            }
        if moe.follows_labels:
            neutral |= {"routing_unit": "sequence", "routing_scope": "global"}
        else:
            neutral["label_column"] = default.label_column
        if moe.balance == "none":
            neutral |= {
                "balance_coefficient": default.balance_coefficient,
                "balance_scope": default.balance_scope,
            }
        moe = dataclasses.replace(moe, **neutral)
    return dataclasses.replace(config, moe=moe, model=model)


def _hash(config: TrialConfig, without_seed: bool) -> str:
    values = canonical(config).to_dict()
    for where_it_came_from in ("corpus", "tokenizer"):
        del values["data"][where_it_came_from]
    if without_seed:
        del values["train"]["seed"]
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_LENGTH]


def config_hash(config: TrialConfig) -> str:
    """Identity of a run. Needs `data.digest`; raises ValueError without it."""
    if not config.data.digest:
        raise ValueError("config_hash needs data.digest: resolve the corpus first")
    return _hash(config, without_seed=False)


def cell_hash(config: TrialConfig) -> str:
    """Identity of a cell: all seeds of one configuration share it."""
    return _hash(config, without_seed=True)


@cache
def moe_digest() -> str:
    """Digest of the code that trains: results of different code are not pooled silently."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if not name.startswith(_AFTER_TRAINING):
            digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:HASH_LENGTH]
