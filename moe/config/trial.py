"""A whole configuration: its sections, and the combinations of them that no run can have."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from moe.config.checks import ConfigError, require
from moe.config.data import DataConfig
from moe.config.mixture import GROUPED_WIDTH, MoEConfig
from moe.config.model import ModelConfig
from moe.config.training import OptimConfig, TrainConfig


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
        require(
            train.micro_batch_tokens % m.context_length == 0,
            "model.context_length must divide train.micro_batch_tokens",
            (m.context_length, train.micro_batch_tokens),
            "A micro-batch holds whole sequences.",
        )
        require(
            train.loss_start < m.context_length,
            "train.loss_start must lie inside the context",
            (train.loss_start, m.context_length),
            "Lower it.",
        )
        if moe.is_dense:
            return
        require(
            moe.d_expert > 0 or m.d_ff_of_activation % moe.granularity == 0,
            "moe.granularity must divide "
            + ("model.d_ff" if m.activation == "gelu" else "the FFN's width under swiglu"),
            (moe.granularity, m.d_ff_of_activation),
            "Change one of the two, or set moe.d_expert.",
        )
        require(
            moe.first_dense_layers + moe.layer_stride <= m.num_layers,
            "moe.first_dense_layers and moe.layer_stride together must not exceed model.num_layers "
            "(no block would hold experts)",
            (moe.first_dense_layers, moe.layer_stride, m.num_layers),
            "Lower one, or set moe.num_experts=0 for a dense model.",
        )
        require(
            m.ffn_multiple == 1.0 or len(self.moe_layers) < m.num_layers,
            "model.ffn_multiple is for dense blocks, and every block of this mixture has experts",
            m.ffn_multiple,
            "Set it to 1, or moe.num_experts=0.",
        )
        if moe.uses_prefix:
            require(
                moe.prefix_length < m.context_length,
                "moe.prefix_length must lie inside the context",
                (moe.prefix_length, m.context_length),
                "Lower it.",
            )
            require(
                train.loss_start >= moe.prefix_length,
                "with sequence_representation=prefix, positions before the prefix's end count in "
                "no loss, so train.loss_start must be at least moe.prefix_length",
                (train.loss_start, moe.prefix_length),
                "Set both to the same number, in all cells of the study.",
            )

    @property
    def d_ff_dense(self) -> int:
        """Width of the FFN of a dense block."""
        return max(1, round(self.model.d_ff_of_activation * self.model.ffn_multiple))

    @property
    def d_expert(self) -> int:
        """Width of one expert."""
        return self.moe.d_expert or self.model.d_ff_of_activation // self.moe.granularity

    @property
    def d_expert_on_gpu(self) -> int:
        """Width that a GPU computes an expert at: in bfloat16 the grouped kernels' next width."""
        if self.moe.is_dense or self.train.precision != "bf16":
            return self.d_expert
        return self.d_expert + -self.d_expert % GROUPED_WIDTH

    @property
    def width_ratio(self) -> float:
        """r of mup: the model's width over that of its base; 1 under the standard parametrization,
        which does not heed it (2203.03466)."""
        if self.optim.parametrization == "standard":
            return 1.0
        return self.model.d_model / self.optim.base_d_model

    @property
    def attention_scale(self) -> float | None:
        """Factor on the product of queries and keys: sqrt(base_d_head) / d_head under mup, where
        both grow alike (2203.03466, definition 4.1); None is the usual 1 / sqrt(d_head)."""
        base, d_head = self.optim.base_d_head, self.model.d_head
        if self.optim.parametrization == "standard" or base in (0, d_head):
            return None
        return base**0.5 / d_head

    @property
    def leaks_future(self) -> bool:
        """Whether later tokens of a text reach earlier ones (`MoEConfig.leaks_future`)."""
        return bool(self.moe_layers) and self.moe.leaks_future

    @property
    def moe_layers(self) -> tuple[int, ...]:
        """Indices of the blocks that hold experts."""
        if self.moe.is_dense:
            return ()
        return self._every(self.moe.layer_stride, self.moe.first_dense_layers)

    @property
    def fewest_first_dense(self) -> tuple[int, int]:
        """moe.layer_stride and moe.first_dense_layers of the same blocks, the second least: of two
        layers, (2, 0) is what (1, 1) is."""
        moe = self.moe
        for first in range(moe.first_dense_layers):
            stride = self.moe_layers[0] + 1 - first
            if self._every(stride, first) == self.moe_layers:
                return stride, first
        return moe.layer_stride, moe.first_dense_layers

    def _every(self, stride: int, first: int) -> tuple[int, ...]:
        return tuple(range(first + stride - 1, self.model.num_layers, stride))

    def to_dict(self) -> dict[str, dict[str, Any]]:
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """Indented, stable text: two configs are compared by diffing it."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @classmethod
    def from_dict(cls, values: dict[str, dict[str, Any]]) -> TrialConfig:
        """Raises ConfigError on an unknown section or field: a typo must not become a default."""
        sections = {f.name: f.default_factory for f in dataclasses.fields(cls)}
        require(
            isinstance(values, dict) and set(values) <= set(sections),
            f"a config has the sections {', '.join(sections)}",
            sorted(values) if isinstance(values, dict) else values,
            "Remove or rename the others.",
        )
        built = {}
        for name, section in sections.items():
            given = values.get(name, {})
            known = {f.name for f in dataclasses.fields(section)}
            require(
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
