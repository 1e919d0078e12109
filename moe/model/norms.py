"""Normalisation of a vector, by the name that the config gives it."""

from __future__ import annotations

from torch import nn

from moe.config import ModelConfig
from moe.model.initialisation import ONES, ZEROS

EPS = 1e-5  # torch's for LayerNorm; also that of LLaMA, Mixtral and OLMoE


def build_norm(model: ModelConfig, width: int) -> nn.Module:
    """Over the last dimension, of `width`: layernorm (1607.06450) subtracts the mean and divides by
    the standard deviation; rmsnorm (1910.07467) divides by the root of the mean square, and never
    has a bias."""
    if model.norm == "layernorm":
        norm = nn.LayerNorm(width, eps=EPS, bias=model.bias)
        norm.rules = {"weight": ONES, "bias": ZEROS}
    else:
        norm = nn.RMSNorm(width, eps=EPS)
        norm.rules = {"weight": ONES}
    return norm
