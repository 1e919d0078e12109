"""When an axis exists at all: conditions on other axes, and those that the model itself implies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moe.config import ConfigError, routers_that
from search_spaces.axes import axis_info, describe_axes
from search_spaces.domains import check_values


@dataclass(frozen=True, kw_only=True)
class Condition:
    """`axis` exists only where the axis `on` does, with a value in `is_in` or not in `not_in`.

    Raises ConfigError for an unknown path, or values that `on` cannot have.
    """

    axis: str
    on: str
    is_in: tuple[Any, ...] = ()
    not_in: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        axis_info(self.axis)
        if bool(self.is_in) == bool(self.not_in):
            raise ConfigError(
                f"a condition has values in either is_in or not_in; received {self!r}. Give one."
            )
        check_values(axis_info(self.on), self.is_in or self.not_in)

    def allows(self, value: Any) -> bool:
        return value in self.is_in if self.is_in else value not in self.not_in

    def holds(self, point: Mapping[str, Any]) -> bool:
        return self.on in point and self.allows(point[self.on])

    def __str__(self) -> str:
        values = " or ".join(map(str, self.is_in or self.not_in))
        verb = "is" if self.is_in else "is not"
        return f"{self.axis} has an effect only where {self.on} {verb} {values}"


def _only(axes: str, on: str, **values: tuple[Any, ...]) -> tuple[Condition, ...]:
    return tuple(Condition(axis=f"moe.{name}", on=on, **values) for name in axes.split())


_FOLLOW_LABELS = routers_that(lambda kind: kind.follows_labels)

# The fields that a run ignores (moe.identity.canonical). Without these a search would pay for the
# same run under many names, and a sampler would learn from differences that are noise.
NATURAL_CONDITIONS: tuple[Condition, ...] = (
    Condition(axis="optim.decay_fraction", on="optim.schedule", is_in=("wsd",)),
    Condition(axis="optim.parametrization", on="optim.name", not_in=("muon",)),
    *(
        Condition(axis=f"optim.{name}", on="optim.parametrization", is_in=("mup",))
        for name in ("base_d_model", "base_d_head")
    ),
    Condition(axis="model.rope_theta", on="model.position", is_in=("rope",)),
    Condition(axis="model.ffn_multiple", on="moe.num_experts", is_in=(0,)),
    *(
        Condition(axis=axis.path, on="moe.num_experts", not_in=(0,))
        for axis in describe_axes()
        if axis.path.startswith("moe.") and axis.path != "moe.num_experts"
    ),
    *_only(
        "gate gate_scale score score_temperature router_precision router_jitter expert_groups "
        "chosen_groups router_init_std z_loss_coefficient sequence_representation prefix_length "
        "selection",
        on="moe.router",
        not_in=routers_that(lambda kind: not kind.scores),
    ),
    *_only("noisy_top_k", on="moe.router", is_in=routers_that(lambda kind: kind.trains)),
    *_only(
        "routing_unit balance expert_groups chosen_groups capacity_factor",
        on="moe.selection",
        not_in=("expert",),
    ),
    *_only("dropping", on="moe.capacity_factor", not_in=(0.0,)),
    *_only("score_temperature", on="moe.score", is_in=("cosine",)),
    *_only("chosen_groups", on="moe.expert_groups", not_in=(1,)),
    *_only("routing_unit routing_scope", on="moe.router", not_in=_FOLLOW_LABELS),
    *_only("label_column", on="moe.router", is_in=_FOLLOW_LABELS),
    *_only("sequence_representation prefix_length", on="moe.routing_unit", is_in=("sequence",)),
    *_only("prefix_length", on="moe.sequence_representation", is_in=("prefix",)),
    *_only("balance_coefficient", on="moe.balance", not_in=("none",)),
    *_only("balance_scope", on="moe.balance", not_in=("none", "sequence")),
    *_only("router_precision", on="train.precision", not_in=("fp32",)),
)
