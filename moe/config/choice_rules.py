"""What cannot go together in who chooses whom: experts that choose, room for few, learned noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moe.config.checks import require
from moe.config.router_kinds import routers_that

if TYPE_CHECKING:
    from moe.config.mixture import MoEConfig


def check_choice(moe: MoEConfig) -> None:
    """Raises ConfigError; of a mixture, not of a dense model."""
    scoring = ", ".join(routers_that(lambda kind: kind.scores))
    if moe.selection == "expert":
        require(
            moe.router_kind.scores,
            f"experts choose by scores, which routers of other kinds than {scoring} have none of",
            moe.router,
            "Set moe.selection=token.",
        )
        require(
            moe.routing_unit == "token",
            "experts choose among the tokens of a micro-batch, so the unit is the token",
            moe.routing_unit,
            "Set moe.routing_unit=token, or moe.selection=token.",
        )
        require(
            moe.gate in ("switch", "sigmoid"),
            "where experts choose, a token has any number of them, so its gates are not "
            "normalised over the chosen",
            moe.gate,
            "Use moe.gate=switch (2202.09368) or sigmoid, or moe.selection=token.",
        )
        require(
            moe.balance == "none",
            "where experts choose, all have the same load, and nothing is left to balance",
            moe.balance,
            "Set moe.balance=none, or moe.selection=token.",
        )
        require(
            moe.chosen_groups == moe.expert_groups,
            "moe.chosen_groups limits the experts that a token chooses, and here experts choose",
            (moe.chosen_groups, moe.expert_groups),
            "Set both to 1, or moe.selection=token.",
        )
        require(
            moe.capacity_factor == 0,
            "where experts choose, each takes exactly what it has room for, and drops nothing",
            moe.capacity_factor,
            "Set moe.capacity_factor=0, or moe.selection=token.",
        )
    require(
        not (moe.limits_capacity and moe.dropping == "probability") or moe.router_kind.scores,
        f"dropping by probability needs a router that has some ({scoring})",
        moe.router,
        "Set moe.dropping=order.",
    )
    require(
        not moe.noisy_top_k or moe.router_kind.trains,
        "moe.noisy_top_k learns how wide the noise is, with a router that is trained "
        f"({', '.join(routers_that(lambda kind: kind.trains))})",
        moe.router,
        "Set moe.noisy_top_k=false, or use moe.router_jitter.",
    )
