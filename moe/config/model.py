"""The section `model`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from moe.config.checks import axis, check_types, require

Norm = Literal["layernorm", "rmsnorm"]
Position = Literal["learned", "rope"]
QKNorm = Literal["none", "head", "full"]
Activation = Literal["gelu", "swiglu"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The decoder around the MoE blocks: GPT-2's by default, LLaMA's and its kin by its axes."""

    num_layers: int = axis(4, "transformer blocks")
    d_model: int = axis(64, "width of the residual stream")
    num_heads: int = axis(4, "attention heads")
    d_ff: int = axis(256, "width of the dense FFN, and of an expert at granularity 1")
    context_length: int = axis(128, "tokens of a training sequence")
    dropout: float = axis(0.0, "dropout after embeddings, attention and FFN")
    ffn_multiple: float = axis(1.0, "dense blocks only: the FFN is this many times d_ff wide")
    norm: Norm = axis(
        "layernorm", "before attention and FFN, and at the end", "1607.06450, 1910.07467"
    )
    position: Position = axis(
        "learned",
        "learned embeddings, or queries and keys rotated by their position (rope)",
        "2104.09864",
    )
    rope_theta: float = axis(
        10000.0, "rope: base of the wavelengths, the longest 2 pi theta positions", "2104.09864"
    )
    num_kv_heads: int = axis(
        0,
        "heads of keys and values, each shared by num_heads / num_kv_heads queries' heads; "
        "0 is num_heads",
        "2305.13245",
    )
    activation: Activation = axis(
        "gelu",
        "of FFN and experts; swiglu has a third matrix, and 2/3 of the width (rounded to a "
        "multiple of 8, at least 8), so that d_ff and ffn_multiple ask for the same parameters",
        "1606.08415, 2002.05202",
    )
    qk_norm: QKNorm = axis(
        "none",
        "queries and keys normalised before their product (and before rope): none; each head by "
        "itself, with weights that the heads share (head); all heads at once (full)",
        "2302.05442, 2409.02060",
    )
    tied_embeddings: bool = axis(
        True, "the head's weight is the token embedding's; else a matrix of its own", "1608.05859"
    )
    bias: bool = axis(
        True, "attention, FFNs, experts and layernorms have biases; routers and heads never"
    )

    def __post_init__(self) -> None:
        check_types(self, "model")
        for name in ("num_layers", "d_model", "num_heads", "d_ff"):
            require(
                getattr(self, name) >= 1,
                f"model.{name} must be at least 1",
                getattr(self, name),
                "Give a positive size.",
            )
        require(
            self.context_length >= 2,
            "model.context_length must be at least 2",
            self.context_length,
            "A sequence needs a token and a target.",
        )
        require(
            self.d_model % self.num_heads == 0,
            "model.num_heads must divide model.d_model",
            (self.num_heads, self.d_model),
            "Change one of the two.",
        )
        require(
            0 <= self.dropout < 1,
            "model.dropout must be in [0, 1)",
            self.dropout,
            "Use 0 to switch it off.",
        )
        require(
            self.num_kv_heads >= 0,
            "model.num_kv_heads must be at least 0",
            self.num_kv_heads,
            "0 gives every head keys and values of its own.",
        )
        require(
            self.num_heads % self.kv_heads == 0,
            "model.num_kv_heads must divide model.num_heads",
            (self.num_kv_heads, self.num_heads),
            "Change one of the two, or set model.num_kv_heads=0.",
        )
        require(
            self.rope_theta > 0,
            "model.rope_theta must be positive",
            self.rope_theta,
            "10000 is usual.",
        )
        require(
            self.position != "rope" or self.d_head % 2 == 0,
            "rope rotates pairs, so the width of a head, model.d_model / model.num_heads, is even",
            (self.d_model, self.num_heads),
            "Change one of the two, or set model.position=learned.",
        )
        require(
            self.ffn_multiple > 0,
            "model.ffn_multiple must be positive",
            self.ffn_multiple,
            "1 is the plain FFN.",
        )

    @property
    def d_ff_of_activation(self) -> int:
        """Hidden width of an FFN that has the parameters of `d_ff` under GELU.

        Three matrices of 2/3 of the width have as many weights as two of the whole (2002.05202).
        Rounded once, to a multiple of 8 for the matrix units of a GPU: experts and multiples are
        shares of this width, so that matched budgets stay matched to the weight.
        """
        if self.activation == "gelu":
            return self.d_ff
        return max(8, round(self.d_ff / 12) * 8)

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.num_kv_heads or self.num_heads

    @property
    def d_head(self) -> int:
        """Width of a head."""
        return self.d_model // self.num_heads
