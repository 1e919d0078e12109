"""Causal self-attention: heads that may share keys and values, be normalised and be rotated.

Shapes:  B sequences   S positions   D d_model   H heads   G heads of keys and values   E width of a
head   R = H*E + 2*G*E, queries, keys and values side by side
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moe.config import TrialConfig
from moe.model.initialisation import linear, residual_std
from moe.model.norms import build_norm
from moe.model.stacked import Stacked, one_matrix


class Attention(nn.Module):
    """G < H is grouped-query attention (2305.13245): head h reads keys and values h // (H/G).

    The rows of `qkv` are all queries, all keys, all values, each head by head, as in GPT-2 and, one
    after the other, in LLaMA of transformers.
    """

    def __init__(self, config: TrialConfig) -> None:
        super().__init__()
        model = config.model
        self.dropout = model.dropout
        self.widths = (model.d_model, *[model.kv_heads * model.d_head] * 2)
        self.d_head = model.d_head
        self.scale = config.attention_scale
        self.shares = model.kv_heads < model.num_heads
        self.qkv = linear(model.d_model, sum(self.widths), bias=model.bias)
        self.project = linear(
            model.d_model, model.d_model, bias=model.bias, std=residual_std(model)
        )
        self.norm_each_head = model.qk_norm == "head"
        self.query_norm = self.key_norm = None
        if model.qk_norm != "none":
            widths = [model.d_head] * 2 if self.norm_each_head else self.widths[:2]
            self.query_norm, self.key_norm = (build_norm(model, width) for width in widths)
        self.rotation = None
        if model.position == "rope":
            self.rotation = Rotation(model.context_length, model.d_head, model.rope_theta)

    def forward(self, x_BSD: Tensor) -> Tensor:
        q_BHSE, k_BGSE, v_BGSE = self.heads(x_BSD)
        y_BHSE = F.scaled_dot_product_attention(
            q_BHSE,
            k_BGSE,
            v_BGSE,
            is_causal=True,
            dropout_p=self.dropout if self.training else 0.0,
            scale=self.scale,
            enable_gqa=self.shares,
        )
        return self.project(y_BHSE.transpose(1, 2).flatten(2))

    def matrices(self) -> list[Stacked]:
        return [
            (self.qkv.weight, lambda rows: rows.split(self.widths)),
            one_matrix(self.project.weight),
        ]

    def heads(self, x_BSD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [B, H, S, E], keys and values [B, G, S, E], as the product takes them."""
        q_BSD, k_BSC, v_BSC = self.qkv(x_BSD).split(self.widths, dim=-1)
        if self.query_norm is not None and not self.norm_each_head:
            q_BSD, k_BSC = self._normed(q_BSD, k_BSC)
        q_BHSE, k_BGSE, v_BGSE = (
            part.unflatten(-1, (-1, self.d_head)).transpose(1, 2) for part in (q_BSD, k_BSC, v_BSC)
        )
        if self.query_norm is not None and self.norm_each_head:
            q_BHSE, k_BGSE = self._normed(q_BHSE, k_BGSE)
        if self.rotation is not None:
            q_BHSE, k_BGSE = self.rotation(q_BHSE), self.rotation(k_BGSE)
        # Norms and rotations leave the run's precision for float32; the product goes back to it.
        return q_BHSE.to(v_BGSE.dtype), k_BGSE.to(v_BGSE.dtype), v_BGSE

    def _normed(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        dtype = self.query_norm.weight.dtype
        return self.query_norm(query.to(dtype)), self.key_norm(key.to(dtype))


class Rotation(nn.Module):
    """Rotary positions (2104.09864): pair i of a head turns by position * theta^(-2i/E).

    A pair is dimensions i and i + E/2, as in GPT-NeoX and all of transformers, not 2i and 2i + 1 as
    in the paper: the same function of weights in another order.
    """

    def __init__(self, context_length: int, d_head: int, theta: float) -> None:
        super().__init__()
        frequency_e = theta ** -(torch.arange(0, d_head, 2) / d_head)
        angle_Se = torch.arange(context_length)[:, None] * frequency_e
        self.register_buffer("cos_SE", angle_Se.cos().repeat(1, 2), persistent=False)
        self.register_buffer("sin_SE", angle_Se.sin().repeat(1, 2), persistent=False)

    def forward(self, x_BHSE: Tensor) -> Tensor:
        """[B, H, S, E], any number of heads; in float32 at least."""
        length = x_BHSE.shape[-2]
        first, second = x_BHSE.chunk(2, dim=-1)
        turned_BHSE = torch.cat((-second, first), dim=-1)
        return x_BHSE * self.cos_SE[:length] + turned_BHSE * self.sin_SE[:length]
