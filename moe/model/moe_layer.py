"""The feed-forward half of a block: dense, or a mixture of experts.

Shapes:  B sequences   S positions   D d_model   F width of the FFN
"""

from __future__ import annotations

from torch import Tensor, nn

from moe.config import ModelConfig, TrialConfig
from moe.model.activations import NONLINEARITIES
from moe.model.balance import LoadBalance
from moe.model.expert_capacity import within_capacity
from moe.model.experts import Experts
from moe.model.initialisation import linear, residual_std
from moe.model.router import ROUTERS, RouterContext, Routing
from moe.model.selection import capacity
from moe.model.stacked import Stacked, one_matrix


class FeedForward(nn.Module):
    """A dense FFN: GPT-2's, or with SwiGLU, whose gates are the first half of `expand`'s rows."""

    def __init__(self, model: ModelConfig, d_ff: int) -> None:
        super().__init__()
        self.nonlinearity = NONLINEARITIES[model.activation]
        columns = self.nonlinearity.columns * d_ff
        self.expand = linear(model.d_model, columns, bias=model.bias)
        self.project = linear(d_ff, model.d_model, bias=model.bias, std=residual_std(model))

    def forward(self, x_BSD: Tensor) -> Tensor:
        return self.project(self.nonlinearity.apply(self.expand(x_BSD)))

    def matrices(self) -> list[Stacked]:
        return [
            (self.expand.weight, lambda rows: rows.chunk(self.nonlinearity.columns)),
            one_matrix(self.project.weight),
        ]


class MoELayer(nn.Module):
    """Router, load balance, experts, and the shared experts that every token passes.

    Under a global scope only the first MoE block has a router; the others are given its decision.
    s shared experts are one FFN of s times the width, which is the same function (2401.06066).
    """

    def __init__(self, config: TrialConfig, layer: int) -> None:
        super().__init__()
        moe = self.moe = config.moe
        decides = moe.routing_scope == "layer" or layer == config.moe_layers[0]
        scores = decides and moe.router_kind.scores
        self.router = ROUTERS[moe.router](config, layer) if decides else None
        self.balance = LoadBalance(moe) if scores else None
        self.experts = Experts(
            num_experts=moe.total_experts,
            d_model=config.model.d_model,
            d_expert=config.d_expert,
            activation=config.model.activation,
            bias=config.model.bias,
            out_std=residual_std(config.model),
        )
        width = moe.shared_experts * config.d_expert
        self.shared = FeedForward(config.model, width) if width else None

    def forward(
        self, x_BSD: Tensor, context: RouterContext, decision: Routing | None
    ) -> tuple[Tensor, Routing]:
        """`decision`: the first block's, for blocks that have no router of their own."""
        if self.router is None:
            assert decision is not None, "a block without router follows one that has it"
            routing = decision
        else:
            bias_N = self.balance.bias_N if self.balance is not None else None
            routing = self._with_room(self.router(x_BSD, context, bias_N), x_BSD)
        y_BSD = self.experts(x_BSD, routing)
        if self.shared is not None:
            y_BSD = y_BSD + self.shared(x_BSD)
        return y_BSD, routing

    def _with_room(self, routing: Routing, x_BSD: Tensor) -> Routing:
        if not self.moe.limits_capacity:
            return routing
        num_units = len(routing.expert_index)
        room = capacity(self.moe, num_units, self.moe.capacity_factor)
        num_rows = x_BSD.shape[:2].numel() // num_units
        return within_capacity(routing, room, self.moe.dropping, num_rows)

    def matrices(self) -> list[Stacked]:
        found = self.experts.matrices()
        if self.shared is not None:
            found += self.shared.matrices()
        routers = [] if self.router is None else list(self.router.parameters())
        return found + [one_matrix(weight) for weight in routers]
