"""The typed configuration of one training run: every design choice is one independent field.

Nothing here imports torch, so a study can be planned, costed and hashed on any machine.
Infeasible combinations are refused when a `TrialConfig` is built, each with its reason.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, get_args, get_type_hints

RoutingUnit = Literal["token", "sequence"]
RoutingScope = Literal["layer", "global"]
Router = Literal["learned", "frozen", "random", "hash", "label"]
SequenceRepresentation = Literal["mean", "prefix"]
Gate = Literal["switch", "softmax_topk", "double_softmax", "sigmoid"]
Balance = Literal["none", "switch", "loss_free"]
BalanceScope = Literal["micro_batch", "global_batch"]
Precision = Literal["fp32", "bf16"]

BYTE_VOCAB_SIZE = 257  # 256 bytes and the end-of-document token
GPT2_VOCAB_SIZE = 50257


class ConfigError(ValueError):
    """A value or combination that no run can have; the message holds rule, value and remedy."""


def axis(default: Any, meaning: str, source: str = "") -> Any:
    """A dataclass field with the text that the axes reference is generated from."""
    return field(default=default, metadata={"meaning": meaning, "source": source})


def _require(condition: bool, rule: str, received: Any, remedy: str) -> None:
    if not condition:
        raise ConfigError(f"{rule}; received {received!r}. {remedy}")


_hints = cache(get_type_hints)


def _check_types(config: Any, section: str) -> None:
    hints = _hints(type(config))
    for f in dataclasses.fields(config):
        value, expected = getattr(config, f.name), hints[f.name]
        path = f"{section}.{f.name}"
        if choices := get_args(expected):
            _require(
                value in choices,
                f"{path} must be one of {', '.join(map(str, choices))}",
                value,
                "Choose one of these values.",
            )
        elif expected is int:
            _require(
                type(value) is int, f"{path} must be an integer", value, "Write a whole number."
            )
        elif expected is float:
            _require(
                type(value) in (int, float) and abs(value) <= sys.float_info.max,
                f"{path} must be a finite number",
                value,
                "Write a number such as 0.001.",
            )
            object.__setattr__(config, f.name, float(value))
        elif expected is str:
            _require(type(value) is str, f"{path} must be text", value, "Write a string.")


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
        _check_types(self, "model")
        for name in ("num_layers", "d_model", "num_heads", "d_ff"):
            _require(
                getattr(self, name) >= 1,
                f"model.{name} must be at least 1",
                getattr(self, name),
                "Give a positive size.",
            )
        _require(
            self.context_length >= 2,
            "model.context_length must be at least 2",
            self.context_length,
            "A sequence needs a token and a target.",
        )
        _require(
            self.d_model % self.num_heads == 0,
            "model.num_heads must divide model.d_model",
            (self.num_heads, self.d_model),
            "Change one of the two.",
        )
        _require(
            0 <= self.dropout < 1,
            "model.dropout must be in [0, 1)",
            self.dropout,
            "Use 0 to switch it off.",
        )
        _require(
            self.ffn_multiple > 0,
            "model.ffn_multiple must be positive",
            self.ffn_multiple,
            "1 is the plain FFN.",
        )


@dataclass(frozen=True, kw_only=True)
class MoEConfig:
    """The mixture that replaces the FFN. `num_experts` and `top_k` are before granularity."""

    num_experts: int = axis(0, "experts N in a block; 0 is a dense model", "2402.13089")
    top_k: int = axis(1, "experts K chosen for each routed unit", "2402.13089")
    granularity: int = axis(1, "G: N*G experts of width d_ff/G, K*G of them chosen", "2402.07871")
    d_expert: int = axis(
        0, "width of an expert; 0 derives d_ff/G (set by budget matching)", "2402.07871"
    )
    shared_experts: int = axis(
        0, "experts that every token passes, beside the chosen", "2401.06066"
    )
    layer_stride: int = axis(1, "an MoE block in every n-th layer, the last of each n")
    routing_unit: RoutingUnit = axis("token", "what chooses: a token or its sequence", "2402.13089")
    routing_scope: RoutingScope = axis(
        "layer", "a router in each block, or the first block's choice for all", "2402.13089"
    )
    router: Router = axis(
        "learned",
        "learned; frozen at initialisation; random anew each step; hash of the token id; "
        "the label of the sequence",
        "2402.13089, 2106.04426",
    )
    router_init_std: float = axis(0.02, "standard deviation of the router's initial weights")
    sequence_representation: SequenceRepresentation = axis(
        "mean", "a sequence's router input: mean over all positions, or its causal prefix"
    )
    prefix_length: int = axis(0, "positions P of the causal prefix; used by `prefix` only")
    gate: Gate = axis(
        "softmax_topk",
        "weights of the chosen: softmax over all (switch), over the chosen (softmax_topk), "
        "softmax of the chosen's softmax over all (double_softmax), sigmoid of the logit (sigmoid)",
        "2101.03961, 2401.04088, 2402.13089, 2103.16716",
    )
    balance: Balance = axis(
        "none",
        "auxiliary loss (switch) or bias on the selection (loss_free)",
        "2101.03961, 2408.15664",
    )
    balance_coefficient: float = axis(
        0.01, "weight of the auxiliary loss, or update rate of the loss-free bias"
    )
    balance_scope: BalanceScope = axis(
        "micro_batch", "over which tokens the load is counted", "2501.11873"
    )
    z_loss_coefficient: float = axis(0.0, "weight of the router z-loss", "2202.08906")
    label_column: str = axis("language", "label router: the corpus column that it follows")

    def __post_init__(self) -> None:
        _check_types(self, "moe")
        for name, least in (
            ("num_experts", 0),
            ("top_k", 1),
            ("granularity", 1),
            ("d_expert", 0),
            ("shared_experts", 0),
            ("layer_stride", 1),
            ("prefix_length", 0),
            ("router_init_std", 0),
            ("balance_coefficient", 0),
            ("z_loss_coefficient", 0),
        ):
            value = getattr(self, name)
            _require(value >= least, f"moe.{name} must be at least {least}", value, "Raise it.")
        if self.num_experts == 0:
            return
        _require(
            self.top_k <= self.num_experts,
            "moe.top_k must not exceed moe.num_experts",
            (self.top_k, self.num_experts),
            "Choose fewer experts or offer more.",
        )
        _require(
            not (
                self.router == "learned"
                and self.top_k * self.granularity == 1
                and self.gate in ("softmax_topk", "double_softmax")
            ),
            "a learned Top-1 router needs a gate that is not normalised over the chosen "
            "(its one weight would be 1, and no gradient would reach the router)",
            self.gate,
            "Use moe.gate=switch or sigmoid.",
        )
        _require(
            self.balance == "none" or self.router in ("learned", "frozen"),
            "balancing needs a router that persists and reads the hidden states (learned, frozen)",
            (self.balance, self.router),
            "Set moe.balance=none.",
        )
        _require(
            not (self.router == "hash" and self.routing_unit == "sequence"),
            "a hash router works on token ids, so its unit is the token",
            self.routing_unit,
            "Set moe.routing_unit=token.",
        )
        _require(
            not (self.router == "label" and (self.top_k > 1 or self.granularity > 1)),
            "a label router sends a label to one expert, so top_k and granularity are 1",
            (self.top_k, self.granularity),
            "Set moe.top_k=1 and moe.granularity=1.",
        )
        _require(
            self.router != "label" or self.label_column != "",
            "a label router needs moe.label_column",
            self.label_column,
            "Name a label column of the corpus.",
        )
        if self.uses_prefix:
            _require(
                self.prefix_length >= 1,
                "sequence_representation=prefix needs moe.prefix_length of at least 1",
                self.prefix_length,
                "Set it, and train.loss_start to the same number in all cells of the study.",
            )

    @property
    def is_dense(self) -> bool:
        return self.num_experts == 0

    @property
    def uses_prefix(self) -> bool:
        """Whether a sequence's route is read from its first `prefix_length` positions."""
        return (
            self.num_experts > 0
            and self.routing_unit == "sequence"
            and self.router in ("learned", "frozen", "random")
            and self.sequence_representation == "prefix"
        )

    @property
    def total_experts(self) -> int:
        """Experts that a block holds, after granularity (shared ones apart)."""
        return self.num_experts * self.granularity

    @property
    def active_experts(self) -> int:
        """Experts that a routed unit passes, after granularity (shared ones apart)."""
        return self.top_k * self.granularity


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which tokens. `digest` is the identity; `corpus` and `tokenizer` say where it came from."""

    corpus: str = axis("stdlib", "CORPUS SPEC: stdlib, files:GLOB, hub:NAME[,CONFIG[+CONFIG...]]")
    tokenizer: str = axis("byte", "byte, bpe (trained on the corpus), gpt2, or file:PATH")
    vocab_size: int = axis(BYTE_VOCAB_SIZE, "rows of the embedding")
    holdout_fraction: float = axis(0.05, "share of documents, by hash, held out for evaluation")
    digest: str = axis("", "digest of corpus, tokenizer and split; filled when a study is resolved")

    def __post_init__(self) -> None:
        _check_types(self, "data")
        known = self.tokenizer in ("byte", "bpe", "gpt2") or self.tokenizer.startswith("file:")
        _require(
            known,
            "data.tokenizer must be byte, bpe, gpt2 or file:PATH",
            self.tokenizer,
            "Choose one of these.",
        )
        fixed = {"byte": BYTE_VOCAB_SIZE, "gpt2": GPT2_VOCAB_SIZE}.get(self.tokenizer)
        if fixed is not None:
            _require(
                self.vocab_size == fixed,
                f"data.vocab_size of the {self.tokenizer} tokenizer is {fixed}",
                self.vocab_size,
                f"Set data.vocab_size={fixed}.",
            )
        _require(
            self.vocab_size >= BYTE_VOCAB_SIZE,
            f"data.vocab_size must be at least {BYTE_VOCAB_SIZE} (the bytes and end of document)",
            self.vocab_size,
            "Raise it.",
        )
        _require(
            0 < self.holdout_fraction < 1,
            "data.holdout_fraction must lie between 0 and 1",
            self.holdout_fraction,
            "0.05 is usual.",
        )


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW with linear warmup and cosine decay."""

    learning_rate: float = axis(1e-3, "peak learning rate")
    min_learning_rate_fraction: float = axis(0.1, "last learning rate over the peak", "2402.13089")
    warmup_steps: int = axis(20, "steps of linear warmup")
    weight_decay: float = axis(0.1, "decay of matrices; biases, norms and embeddings have none")
    beta1: float = axis(0.9, "AdamW beta1")
    beta2: float = axis(0.95, "AdamW beta2")
    grad_clip: float = axis(1.0, "bound on the gradient's norm; 0 is none")

    def __post_init__(self) -> None:
        _check_types(self, "optim")
        _require(
            self.learning_rate > 0,
            "optim.learning_rate must be positive",
            self.learning_rate,
            "Try 0.001.",
        )
        for name in ("min_learning_rate_fraction", "warmup_steps", "weight_decay", "grad_clip"):
            value = getattr(self, name)
            _require(value >= 0, f"optim.{name} must not be negative", value, "Use 0 or more.")
        for name in ("beta1", "beta2"):
            value = getattr(self, name)
            _require(0 <= value < 1, f"optim.{name} must be in [0, 1)", value, "0.9 is usual.")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The budget, and what changes the bits of a result."""

    num_steps: int = axis(200, "optimiser steps")
    batch_tokens: int = axis(2048, "tokens of an optimiser step, over all workers")
    micro_batch_tokens: int = axis(2048, "tokens of one forward and backward pass of one worker")
    precision: Precision = axis("fp32", "fp32, or bf16 autocast with fp32 weights")
    seed: int = axis(0, "initialisation, data order, dropout and random routers")
    eval_every: int = axis(50, "optimiser steps between evaluations; the last step always has one")
    eval_tokens: int = axis(16384, "held-out tokens of an evaluation, the same for every cell")
    loss_start: int = axis(
        0, "first position that counts in training and evaluation loss (see prefix_length)"
    )
    max_loss: float = axis(100.0, "a training loss above this many nats ends the run as diverged")

    def __post_init__(self) -> None:
        _check_types(self, "train")
        for name in (
            "num_steps",
            "batch_tokens",
            "micro_batch_tokens",
            "eval_every",
            "eval_tokens",
        ):
            value = getattr(self, name)
            _require(value >= 1, f"train.{name} must be at least 1", value, "Raise it.")
        _require(
            0 <= self.seed < 2**31,
            "train.seed must be a non-negative 31-bit integer",
            self.seed,
            "Use 0, 1, 2, ...",
        )
        _require(
            self.batch_tokens % self.micro_batch_tokens == 0,
            "train.micro_batch_tokens must divide train.batch_tokens",
            (self.micro_batch_tokens, self.batch_tokens),
            "Change one of the two.",
        )
        _require(
            self.loss_start >= 0, "train.loss_start must not be negative", self.loss_start, "Use 0."
        )
        _require(self.max_loss > 0, "train.max_loss must be positive", self.max_loss, "Raise it.")


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """One trial, resolved: what `config_hash` is the hash of (see `moe.identity`)."""

    model: ModelConfig = field(default_factory=ModelConfig)
    moe: MoEConfig = field(default_factory=MoEConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        m, moe, train = self.model, self.moe, self.train
        _require(
            train.micro_batch_tokens % m.context_length == 0,
            "model.context_length must divide train.micro_batch_tokens",
            (m.context_length, train.micro_batch_tokens),
            "A micro-batch holds whole sequences.",
        )
        _require(
            train.loss_start < m.context_length,
            "train.loss_start must lie inside the context",
            (train.loss_start, m.context_length),
            "Lower it.",
        )
        if moe.is_dense:
            return
        _require(
            m.ffn_multiple == 1.0,
            "model.ffn_multiple is for dense models only",
            m.ffn_multiple,
            "Set it to 1, or moe.num_experts=0.",
        )
        _require(
            moe.d_expert > 0 or m.d_ff % moe.granularity == 0,
            "moe.granularity must divide model.d_ff",
            (moe.granularity, m.d_ff),
            "Change one of the two, or set moe.d_expert.",
        )
        _require(
            moe.layer_stride <= m.num_layers,
            "moe.layer_stride must not exceed model.num_layers (no block would hold experts)",
            (moe.layer_stride, m.num_layers),
            "Lower it, or set moe.num_experts=0 for a dense model.",
        )
        if moe.uses_prefix:
            _require(
                moe.prefix_length < m.context_length,
                "moe.prefix_length must lie inside the context",
                (moe.prefix_length, m.context_length),
                "Lower it.",
            )
            _require(
                train.loss_start >= moe.prefix_length,
                "with sequence_representation=prefix, positions before the prefix's end count in "
                "no loss, so train.loss_start must be at least moe.prefix_length",
                (train.loss_start, moe.prefix_length),
                "Set both to the same number, in all cells of the study.",
            )

    @property
    def d_ff_dense(self) -> int:
        """Width of the FFN of a dense block."""
        return max(1, round(self.model.d_ff * self.model.ffn_multiple))

    @property
    def d_expert(self) -> int:
        """Width of one expert."""
        return self.moe.d_expert or self.model.d_ff // self.moe.granularity

    @property
    def moe_layers(self) -> tuple[int, ...]:
        """Indices of the blocks that hold experts."""
        if self.moe.is_dense:
            return ()
        stride = self.moe.layer_stride
        return tuple(i for i in range(self.model.num_layers) if i % stride == stride - 1)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """Indented, stable text: two configs are compared by diffing it."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @classmethod
    def from_dict(cls, values: dict[str, dict[str, Any]]) -> TrialConfig:
        """Raises ConfigError on an unknown section or field: a typo must not become a default."""
        sections = {f.name: f.default_factory for f in dataclasses.fields(cls)}
        _require(
            isinstance(values, dict) and set(values) <= set(sections),
            f"a config has the sections {', '.join(sections)}",
            sorted(values) if isinstance(values, dict) else values,
            "Remove or rename the others.",
        )
        built = {}
        for name, section in sections.items():
            given = values.get(name, {})
            known = {f.name for f in dataclasses.fields(section)}
            _require(
                isinstance(given, dict) and set(given) <= known,
                f"section {name} has the fields {', '.join(sorted(known))}",
                sorted(set(given) - known) if isinstance(given, dict) else given,
                "Remove or rename the others.",
            )
            built[name] = section(**given)
        return cls(**built)

    @classmethod
    def from_json(cls, text: str) -> TrialConfig:
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise ConfigError(
                f"a config is a JSON object; received text that is not: {error}."
            ) from None
        return cls.from_dict(values)
