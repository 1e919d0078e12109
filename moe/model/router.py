"""Which experts, with which weights: one class a kind of router.

Shapes:  B sequences   S positions   T = B*S tokens   D d_model   V vocabulary
         N experts     K chosen      U routed units: T at token unit, B at sequence unit
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moe.config import Gate, RoutingUnit, TrialConfig
from moe.model.initialisation import Rule, matrix
from moe.model.seeding import named_generator
from moe.model.selection import capacity, choose, taken_by_experts, within_groups


@dataclass(frozen=True, kw_only=True)
class RouterContext:
    """What routers read beside the hidden states.

    step: the optimiser step in training; the batch's number in evaluation.
    routes_causally: a router that would read the mean of a whole sequence routes each position by
        the mean of those up to it.
    """

    ids_BS: Tensor
    label_B: Tensor | None
    step: int
    routes_causally: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Routing:
    """One block's decision; blocks under a global scope hold the same object.

    unit: what a row of the tensors stands for.
    expert_index: [U, K] int64, K different experts of each unit; all of them, in order, where
        experts choose.
    gate: [U, K], the weights of their outputs.
    counts_N: what was chosen, assignments per expert counted in tokens: a sequence counts its
        length.
    logits, probs: [U, N], the scores and their softmax over all experts; None for hash and label.
    kept: [U, K] bool, which of the assignments take place; None for all. The gates of the others
        are 0.
    served_N: `counts_N` of those that take place; the same tensor where none is dropped.
    """

    unit: RoutingUnit
    expert_index: Tensor
    gate: Tensor
    counts_N: Tensor
    logits: Tensor | None = None
    probs: Tensor | None = None
    kept: Tensor | None = None
    served_N: Tensor | None = None

    def __post_init__(self) -> None:
        assert (self.kept is None) == (self.served_N is None)
        if self.served_N is None:
            object.__setattr__(self, "served_N", self.counts_N)

    @property
    def passed(self) -> Tensor:
        """`expert_index`, with -1 for an assignment that does not take place."""
        if self.kept is None:
            return self.expert_index
        return self.expert_index.masked_fill(~self.kept, -1)


def softmax(logits_UN: Tensor) -> Tensor:
    """Over experts. Torch's CPU kernel takes four times as long along a dimension that is shorter
    than a vector register as along the other."""
    return logits_UN.softmax(1) if logits_UN.shape[1] >= 8 else logits_UN.t().softmax(0).t()


def gate_weights(
    gate: Gate, logits_UN: Tensor, probs_UN: Tensor, expert_index_UK: Tensor
) -> Tensor:
    """Weights [U, K] of the chosen experts; `probs_UN` is the softmax of `logits_UN`.

    switch: p = softmax over all, unnormalised (2101.03961). softmax_topk: softmax over the chosen
    logits (2401.04088). double_softmax: e^{p_i} / sum_chosen e^{p_j} (2402.13089).
    sigmoid: sigmoid(logit), unnormalised. sigmoid_topk: the same over the sum of the chosen's
    (2412.19437).
    """
    match gate:
        case "switch":
            return probs_UN.gather(1, expert_index_UK)
        case "softmax_topk":
            return softmax(logits_UN.gather(1, expert_index_UK))
        case "double_softmax":
            return softmax(probs_UN.gather(1, expert_index_UK))
        case "sigmoid":
            return logits_UN.gather(1, expert_index_UK).sigmoid()
        case "sigmoid_topk":
            gate_UK = logits_UN.gather(1, expert_index_UK).sigmoid()
            return gate_UK / gate_UK.sum(-1, keepdim=True)


def count_tokens(expert_index_UK: Tensor, num_experts: int, tokens_per_unit: int) -> Tensor:
    """Assignments [N] in tokens. scatter_add_ and not bincount, which makes a GPU wait."""
    index_A = expert_index_UK.flatten()
    counts_N = torch.zeros(num_experts, device=index_A.device)
    ones_A = torch.ones((), device=index_A.device).expand_as(index_A)
    return counts_N.scatter_add_(0, index_A, ones_A) * tokens_per_unit


class ScoringRouter(nn.Module):
    """A linear map without bias scores every expert (2402.13089); the K best are chosen.

    Subclasses say where the weights come from. Under autocast scores keep the weights' float32,
    unless `router_precision=run`: rounding them moves the choice (2101.03961, section 2.4).
    """

    def __init__(self, config: TrialConfig, layer: int) -> None:
        super().__init__()
        self.moe = config.moe
        self.width_ratio = config.width_ratio
        self.seed = config.train.seed
        self.layer = layer
        self.shape_ND = (config.moe.total_experts, config.model.d_model)
        self.noise_weight = None
        if config.moe.router_kind.stores_weights:
            self.rules = {"weight": matrix(config.moe.router_init_std, "readout")}
        if config.moe.noisy_top_k:
            self.noise_weight = nn.Parameter(torch.empty(self.shape_ND))
            self.rules["noise_weight"] = Rule(value=0.0, decays=True, growth="readout")

    def weight_of(self, context: RouterContext) -> Tensor:
        raise NotImplementedError

    def units(self, x_BSD: Tensor, *, running: bool = False) -> Tensor:
        """What is scored: [U, D]. The mean of the inputs scores as the mean of the scores does.

        `running`: the mean up to each position, which is then a unit.
        """
        if self.moe.routing_unit == "token":
            return x_BSD.flatten(0, 1)
        if running:
            count_S = torch.arange(1, x_BSD.shape[1] + 1, device=x_BSD.device)
            return (x_BSD.cumsum(1) / count_S[:, None]).flatten(0, 1)
        if self.moe.uses_prefix:
            return x_BSD[:, : self.moe.prefix_length].mean(1)
        return x_BSD.mean(1)

    def forward(
        self, x_BSD: Tensor, context: RouterContext, selection_bias_N: Tensor | None = None
    ) -> Routing:
        """`selection_bias_N` moves the choice but not the gate (2408.15664)."""
        moe = self.moe
        device = x_BSD.device.type
        in_run = moe.router_precision == "run" and torch.is_autocast_enabled(device)
        with torch.autocast(device, enabled=False):
            weight_ND = self.weight_of(context)
            running = context.routes_causally and moe.reads_whole_sequences
            x_UD = self.units(self._noisy(x_BSD.to(weight_ND.dtype)), running=running)
            dtype = torch.get_autocast_dtype(device) if in_run else weight_ND.dtype
            logits_UN = self._scores(x_UD, weight_ND, dtype)
            if self.noise_weight is not None and self.training:
                logits_UN = logits_UN + self._noise(x_UD, dtype)
            probs_UN = softmax(logits_UN)
            if moe.experts_choose:
                index_UK = torch.arange(moe.total_experts, device=x_UD.device)
                index_UK = index_UK.expand(len(x_UD), -1)
            else:
                index_UK = self._chosen(logits_UN.detach(), probs_UN.detach(), selection_bias_N)
            gate_UK = gate_weights(moe.gate, logits_UN, probs_UN, index_UK)
            if moe.gate_scale != 1:
                gate_UK = gate_UK * moe.gate_scale
            unit = "token" if running else moe.routing_unit
            routing = {"unit": unit, "logits": logits_UN, "probs": probs_UN}
            if moe.experts_choose:
                num_taken = capacity(moe, len(x_UD))
                kept_UN = taken_by_experts(gate_UK.detach(), num_taken)
                taken_N = torch.full_like(logits_UN[0], num_taken)
                return Routing(
                    expert_index=index_UK,
                    gate=gate_UK.where(kept_UN, 0),
                    counts_N=taken_N,
                    kept=kept_UN,
                    served_N=taken_N,
                    **routing,
                )
            tokens_per_unit = x_BSD.shape[:2].numel() // len(x_UD)
            counts_N = count_tokens(index_UK, moe.total_experts, tokens_per_unit)
            return Routing(expert_index=index_UK, gate=gate_UK, counts_N=counts_N, **routing)

    def _chosen(
        self, logits_UN: Tensor, probs_UN: Tensor, selection_bias_N: Tensor | None
    ) -> Tensor:
        """The experts [U, K] that the units choose."""
        moe, score_UN = self.moe, logits_UN
        if selection_bias_N is not None:
            if moe.balance == "loss_free":
                by_sigmoid = moe.gate in ("sigmoid", "sigmoid_topk")
                score_UN = logits_UN.sigmoid() if by_sigmoid else probs_UN
            score_UN = score_UN + selection_bias_N
        if moe.chosen_groups < moe.expert_groups:
            score_UN = within_groups(score_UN, moe.expert_groups, moe.chosen_groups)
        return choose(score_UN, moe.active_experts)

    def _noisy(self, x_BSD: Tensor) -> Tensor:
        """The input times uniform noise of [1-e, 1+e], in training alone (2101.03961, 2.2)."""
        if not self.training or self.moe.router_jitter == 0:
            return x_BSD
        noise_BSD = torch.rand_like(x_BSD) * 2 - 1
        return x_BSD * (1 + self.moe.router_jitter * noise_BSD)

    def _noise(self, x_UD: Tensor, dtype: torch.dtype) -> Tensor:
        """Normal noise of a width for each score, learned (1701.06538, 2.1); it begins at ln 2."""
        width_UN = F.softplus(F.linear(x_UD.to(dtype), self.noise_weight.to(dtype)).to(x_UD.dtype))
        return torch.randn_like(width_UN) * width_UN

    def _scores(self, x_UD: Tensor, weight_ND: Tensor, dtype: torch.dtype) -> Tensor:
        """Scores [U, N] in float32, whichever precision they were made in."""
        if self.moe.score == "cosine":
            x_UD, weight_ND = F.normalize(x_UD, dim=-1), F.normalize(weight_ND, dim=-1)
        logits_UN = F.linear(x_UD.to(dtype), weight_ND.to(dtype)).to(weight_ND.dtype)
        return logits_UN / self.moe.score_temperature if self.moe.score == "cosine" else logits_UN


class LearnedRouter(ScoringRouter):
    """Trained with the model."""

    def __init__(self, config: TrialConfig, layer: int) -> None:
        super().__init__(config, layer)
        self.weight = nn.Parameter(torch.empty(self.shape_ND))

    def weight_of(self, context: RouterContext) -> Tensor:
        return self.weight


class FrozenRouter(ScoringRouter):
    """Stays as it was initialised: a buffer, so no optimiser and no weight decay can reach it."""

    def __init__(self, config: TrialConfig, layer: int) -> None:
        super().__init__(config, layer)
        self.register_buffer("weight", torch.empty(self.shape_ND))

    def weight_of(self, context: RouterContext) -> Tensor:
        return self.weight


class RandomRouter(ScoringRouter):
    """Drawn anew for each step, f(seed, layer, step); in evaluation for each batch.

    Nothing is stored, so every process and a resumed run draw the same.
    """

    def weight_of(self, context: RouterContext) -> Tensor:
        phase = "train" if self.training else "eval"
        generator = named_generator(self.seed, "random router", self.layer, phase, context.step)
        std = self.moe.router_init_std / self.width_ratio
        weight = torch.randn(self.shape_ND, generator=generator) * std
        return weight.to(context.ids_BS.device, non_blocking=True)


class HashRouter(nn.Module):
    """A fixed function of the token id (2106.04426), with uniform gates.

    Each (id, expert, layer) has a hash, and the K largest win: K different experts, and those of
    a smaller K are among those of a larger.
    """

    def __init__(self, config: TrialConfig, layer: int) -> None:
        super().__init__()
        self.num_experts = config.moe.total_experts
        ids_V = torch.arange(config.data.vocab_size)
        experts_N = torch.arange(self.num_experts)
        hash_VN = _mix(_mix(ids_V)[:, None] + _mix(experts_N + (layer << 32)))
        table_VK = hash_VN.topk(config.moe.active_experts).indices
        self.register_buffer("table_VK", table_VK, persistent=False)

    def forward(
        self, x_BSD: Tensor, context: RouterContext, selection_bias_N: Tensor | None = None
    ) -> Routing:
        index_UK = self.table_VK[context.ids_BS.flatten()]
        return Routing(
            unit="token",
            expert_index=index_UK,
            gate=torch.full(index_UK.shape, 1 / index_UK.shape[1], device=x_BSD.device),
            counts_N=count_tokens(index_UK, self.num_experts, 1),
        )


def _mix(value: Tensor) -> Tensor:
    """Multiplicative hash of int64 (the finaliser of MurmurHash3), wrapping around.

    The masks turn arithmetic right shifts into logical ones.
    """
    value = (value ^ ((value >> 33) & (2**31 - 1))) * -49064778989728563
    value = (value ^ ((value >> 33) & (2**31 - 1))) * -4265267296055464877
    return value ^ ((value >> 33) & (2**31 - 1))


class LabelRouter(nn.Module):
    """Each label to its expert (2402.13089's routing by language); the unit is the sequence."""

    def __init__(self, config: TrialConfig, layer: int) -> None:
        super().__init__()
        self.num_experts = config.moe.total_experts
        self.column = config.moe.label_column

    def forward(
        self, x_BSD: Tensor, context: RouterContext, selection_bias_N: Tensor | None = None
    ) -> Routing:
        """Raises ValueError without labels."""
        if context.label_B is None:
            raise ValueError(
                f"moe.router=label routes by the corpus column {self.column!r}; received no "
                "labels. Pass label_B, the column's value of each sequence."
            )
        index_UK = context.label_B.remainder(self.num_experts)[:, None]
        return Routing(
            unit="sequence",
            expert_index=index_UK,
            gate=torch.ones(index_UK.shape, device=x_BSD.device),
            counts_N=count_tokens(index_UK, self.num_experts, x_BSD.shape[1]),
        )


ROUTERS = {
    "learned": LearnedRouter,
    "frozen": FrozenRouter,
    "random": RandomRouter,
    "hash": HashRouter,
    "label": LabelRouter,
}
