"""Families of blocks: one word for the fields of `model` that make a decoder GPT-2's or LLaMA's.

`model.family` is no axis: it stands for several, and is replaced by them before anything is hashed,
named or kept. `--set model.family=llama` asks any study over LLaMA's blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moe.config import ConfigError
from search_spaces.axes import did_you_mean

FAMILY = "model.family"

FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {
        "model.norm": "layernorm",
        "model.position": "learned",
        "model.activation": "gelu",
        "model.bias": True,
        "model.tied_embeddings": True,
    },
    # 2302.13971. Heads of keys and values, and QK-norm, are choices of their own.
    "llama": {
        "model.norm": "rmsnorm",
        "model.position": "rope",
        "model.activation": "swiglu",
        "model.bias": False,
        "model.tied_embeddings": False,
    },
}


def family(name: str) -> dict[str, Any]:
    """The overrides that a family stands for. Raises ConfigError for one that is not known."""
    if name not in FAMILIES:
        raise ConfigError(
            f"{FAMILY} must be one of {', '.join(FAMILIES)}; received {name!r}. "
            + did_you_mean(name, FAMILIES, "Choose one of these.")
        )
    return dict(FAMILIES[name])


def expand(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`overrides` with the family replaced by its fields; a field that is named itself stays so."""
    own = {path: value for path, value in overrides.items() if path != FAMILY}
    return (family(overrides[FAMILY]) if FAMILY in overrides else {}) | own
