"""The section `model`."""

from __future__ import annotations

from dataclasses import dataclass

from moe.config.checks import axis, check_types, require


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The GPT-2-style decoder around the MoE blocks."""

    num_layers: int = axis(4, "transformer blocks")
    d_model: int = axis(64, "width of the residual stream")
    num_heads: int = axis(4, "attention heads")
    d_ff: int = axis(256, "width of the dense FFN, and of an expert at granularity 1")
    context_length: int = axis(128, "tokens of a training sequence")
    dropout: float = axis(0.0, "dropout after embeddings, attention and FFN")
    ffn_multiple: float = axis(1.0, "dense only: the FFN is this many times d_ff wide")

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
            self.ffn_multiple > 0,
            "model.ffn_multiple must be positive",
            self.ffn_multiple,
            "1 is the plain FFN.",
        )
