"""Attention against a loop over positions and heads, written from the definitions."""

from __future__ import annotations

import cmath
import math

import pytest
import torch
from torch import Tensor

from moe.config import ConfigError
from moe.model.attention import Attention, Rotation


def naive_rotated(x_E: Tensor, position: int, theta: float) -> Tensor:
    """Pair (i, i + E/2) as a complex number, turned by position * theta^(-2i/E)."""
    half = len(x_E) // 2
    turned = [
        complex(x_E[i], x_E[i + half]) * cmath.exp(1j * position * theta ** (-2 * i / len(x_E)))
        for i in range(half)
    ]
    return torch.tensor([z.real for z in turned] + [z.imag for z in turned], dtype=x_E.dtype)


def naive_normed(norm: torch.nn.Module, x_C: Tensor) -> Tensor:
    mean = x_C.mean() if isinstance(norm, torch.nn.LayerNorm) else 0
    bias = norm.bias if isinstance(norm, torch.nn.LayerNorm) else 0
    square = ((x_C - mean) ** 2).mean()
    return (x_C - mean) / (square + 1e-5).sqrt() * norm.weight + bias


def naive_attention(attention: Attention, x_SD: Tensor, model) -> Tensor:
    heads, kv_heads, width = model.num_heads, model.kv_heads, model.d_head
    rows = [attention.qkv.weight @ x_D + attention.qkv.bias for x_D in x_SD]
    query, key, value = [], [], []
    for position, row in enumerate(rows):
        q_D, k_C, v_C = row.split([heads * width, kv_heads * width, kv_heads * width])
        if model.qk_norm == "full":
            q_D = naive_normed(attention.query_norm, q_D)
            k_C = naive_normed(attention.key_norm, k_C)
        q, k = list(q_D.split(width)), list(k_C.split(width))
        if model.qk_norm == "head":
            q = [naive_normed(attention.query_norm, part) for part in q]
            k = [naive_normed(attention.key_norm, part) for part in k]
        if model.position == "rope":
            q = [naive_rotated(part, position, model.rope_theta) for part in q]
            k = [naive_rotated(part, position, model.rope_theta) for part in k]
        query.append(q), key.append(k), value.append(v_C.split(width))
    y = []
    for t in range(len(x_SD)):
        parts = []
        for h in range(heads):
            g = h // (heads // kv_heads)
            scores = torch.stack(
                [query[t][h] @ key[s][g] / math.sqrt(width) for s in range(t + 1)]
            ).softmax(0)
            parts.append(sum(score * value[s][g] for s, score in enumerate(scores)))
        y.append(attention.project.weight @ torch.cat(parts) + attention.project.bias)
    return torch.stack(y)


@pytest.mark.parametrize("qk_norm", ["none", "head", "full"])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"num_kv_heads": 2},
        {"position": "rope", "num_kv_heads": 1},
        {"position": "rope", "rope_theta": 50.0, "norm": "rmsnorm"},
    ],
    ids=str,
)
def test_attention_equals_the_loop(make_config, fields, qk_norm):
    config = make_config(d_model=16, num_heads=4, context_length=8, qk_norm=qk_norm, **fields)
    attention = Attention(config).double()
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.normal_()

    x_BSD = torch.randn(2, 8, 16, dtype=torch.float64)
    with torch.no_grad():
        naive_BSD = torch.stack([naive_attention(attention, x_SD, config.model) for x_SD in x_BSD])
        torch.testing.assert_close(attention(x_BSD), naive_BSD, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(attention(x_BSD[:, :5]), naive_BSD[:, :5], rtol=1e-5, atol=1e-5)


def test_rotated_products_hang_on_the_distance_alone():
    rotation = Rotation(32, 8, 100.0)
    q_E, k_E = torch.randn(2, 8)
    q_SE, k_SE = (rotation(x_E.expand(1, 1, 32, -1))[0, 0] for x_E in (q_E, k_E))
    score_SS = q_SE @ k_SE.T
    for distance in (0, 1, 7):
        diagonal = score_SS.diagonal(-distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(score_SS[5, 0], score_SS[0, 0])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_heads": 4, "num_kv_heads": 3}, r"num_kv_heads must divide .*received \(3, 4\)"),
        ({"num_kv_heads": -1}, "num_kv_heads must be at least 0"),
        ({"num_kv_heads": 8, "num_heads": 4}, "num_kv_heads must divide"),
        ({"d_model": 9, "num_heads": 3, "position": "rope"}, "width of a head.* is even"),
        ({"rope_theta": 0.0}, "rope_theta must be positive"),
        ({"qk_norm": "each"}, "qk_norm must be one of none, head, full"),
        ({"tied_embeddings": 1}, "tied_embeddings must be true or false"),
    ],
)
def test_what_no_block_can_have_is_refused(make_config, fields, message):

    with pytest.raises(ConfigError, match=message):
        make_config(**{"d_model": 16, **fields})
