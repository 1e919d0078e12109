"""The section `moe`: what the study of arXiv 2402.13089 varies, and what others have since."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from moe.config.checks import axis, check_types, require
from moe.config.choice_rules import check_choice
from moe.config.router_kinds import ROUTER_KINDS, RouterKind, routers_that

RoutingUnit = Literal["token", "sequence"]
RoutingScope = Literal["layer", "global"]
Router = Literal[tuple(ROUTER_KINDS)]
SequenceRepresentation = Literal["mean", "prefix"]
Gate = Literal["switch", "softmax_topk", "double_softmax", "sigmoid", "sigmoid_topk"]
Score = Literal["linear", "cosine"]
Selection = Literal["token", "expert"]
Dropping = Literal["order", "probability"]
RouterPrecision = Literal["fp32", "run"]
Balance = Literal["none", "switch", "sequence", "loss_free", "loss_free_logits"]
BalanceScope = Literal["micro_batch", "global_batch"]

# The grouped matrix products of bfloat16 on a GPU take rows of whole 16 bytes, so widths in
# multiples of 8 (torch.nn.functional.grouped_mm; CUTLASS aligns its loads so).
GROUPED_WIDTH = 8


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
    first_dense_layers: int = axis(
        0, "dense blocks before the first that layer_stride counts", "2401.06066"
    )
    routing_unit: RoutingUnit = axis("token", "what chooses: a token or its sequence", "2402.13089")
    routing_scope: RoutingScope = axis(
        "layer", "a router in each block, or the first block's choice for all", "2402.13089"
    )
    router: Router = axis(
        "learned",
        "; ".join(kind.meaning for kind in ROUTER_KINDS.values()),
        ", ".join(dict.fromkeys(kind.source for kind in ROUTER_KINDS.values() if kind.source)),
    )
    router_init_std: float = axis(0.02, "standard deviation of the router's initial weights")
    sequence_representation: SequenceRepresentation = axis(
        "mean", "a sequence's router input: mean over all positions, or its causal prefix"
    )
    prefix_length: int = axis(0, "positions P of the causal prefix; used by `prefix` only")
    selection: Selection = axis(
        "token",
        "who chooses: a unit its top_k experts (token); or an expert, of the tokens of a "
        "micro-batch, those that it gives the largest gates, tokens * top_k / num_experts of them, "
        "so that a token has any number of experts, from none on (expert): later tokens decide "
        "with, which leaks from the future of a text",
        "2202.09368",
    )
    gate: Gate = axis(
        "softmax_topk",
        "weights of the chosen: softmax over all (switch), over the chosen (softmax_topk), "
        "softmax of the chosen's softmax over all (double_softmax), sigmoid of the logit "
        "(sigmoid), that over the sum of the chosen's (sigmoid_topk)",
        "2101.03961, 2401.04088, 2402.13089, 2103.16716, 2412.19437",
    )
    gate_scale: float = axis(1.0, "factor on the weights of the chosen", "2412.19437")
    score: Score = axis(
        "linear",
        "an expert's score: product of input and its router row, or their cosine over the "
        "temperature",
        "2402.13089, 2204.09179",
    )
    score_temperature: float = axis(0.07, "temperature of cosine scores", "2204.09179")
    router_precision: RouterPrecision = axis(
        "fp32", "scores in float32, or in the precision of the run", "2101.03961"
    )
    router_jitter: float = axis(
        0.0,
        "e: in training the router's input is multiplied by uniform noise of [1-e, 1+e]",
        "2101.03961",
    )
    noisy_top_k: bool = axis(
        False,
        "in training scores get normal noise, whose width is the softplus of a second linear map "
        "of the input that is learned too",
        "1701.06538",
    )
    expert_groups: int = axis(1, "equal groups of the experts, for a limited choice", "2412.19437")
    chosen_groups: int = axis(
        1,
        "groups that a unit may choose experts of, by the sum of their two best scores",
        "2412.19437",
    )
    capacity_factor: float = axis(
        0.0,
        "room of an expert: this many times an even share of a micro-batch's assignments; what "
        "finds none is dropped, and passes by the residual connection. 0 is no limit",
        "2006.16668, 2101.03961",
    )
    dropping: Dropping = axis(
        "order",
        "who finds room: what comes first in the micro-batch (order); or what has the largest "
        "router probability, on which later tokens decide with, a leak from the future of a text "
        "(probability)",
        "2101.03961, 2106.05974",
    )
    balance: Balance = axis(
        "none",
        "auxiliary loss over a batch (switch), over each sequence (sequence), each the mean over "
        "the blocks that route; or a bias that moves who is chosen and no gate: on the gating "
        "scores, which are sigmoids or a softmax as moe.gate says (loss_free), or on the logits "
        "before them (loss_free_logits)",
        "2101.03961, 2412.19437, 2408.15664",
    )
    balance_coefficient: float = axis(
        0.01,
        "weight of the auxiliary loss, or update rate of the loss-free bias (0.001 in 2408.15664)",
    )
    balance_scope: BalanceScope = axis(
        "micro_batch", "over which tokens the load is counted", "2501.11873"
    )
    z_loss_coefficient: float = axis(0.0, "weight of the router z-loss", "2202.08906")
    upcycled_from: str = axis(
        "",
        "config hash of a finished dense trial, whose weights the mixture starts from: each expert "
        "is a copy of its FFN, of the same width, the router is fresh, all else is copied. All "
        "seeds start from that one trial, and differ in router and order of the text; its tokens "
        "are told beside the mixture's own, and count among no trial's",
        "2212.05055",
    )
    label_column: str = axis("language", "label router: the corpus column that it follows")

    def __post_init__(self) -> None:
        check_types(self, "moe")
        for name, least in (
            ("num_experts", 0),
            ("top_k", 1),
            ("granularity", 1),
            ("d_expert", 0),
            ("shared_experts", 0),
            ("layer_stride", 1),
            ("first_dense_layers", 0),
            ("prefix_length", 0),
            ("router_init_std", 0),
            ("balance_coefficient", 0),
            ("expert_groups", 1),
            ("chosen_groups", 1),
            ("router_jitter", 0),
            ("capacity_factor", 0),
            ("z_loss_coefficient", 0),
        ):
            value = getattr(self, name)
            require(value >= least, f"moe.{name} must be at least {least}", value, "Raise it.")
        for name in ("gate_scale", "score_temperature"):
            value = getattr(self, name)
            require(value > 0, f"moe.{name} must be above 0", value, "Raise it.")
        require(
            self.router_jitter < 1,
            "moe.router_jitter must be below 1",
            self.router_jitter,
            "2101.03961 uses 0.01.",
        )
        if self.num_experts == 0:
            return
        require(
            not self.upcycled_from or bool(re.fullmatch("[0-9a-f]{16}", self.upcycled_from)),
            "moe.upcycled_from is a config hash, 16 hexadecimal digits",
            self.upcycled_from,
            "`moe-study status STUDY --json` tells those of finished trials.",
        )
        require(
            not (self.upcycled_from and self.shared_experts),
            "an upcycled mixture has no shared experts: of what the dense FFN is copied to, a "
            "token would have it twice over",
            self.shared_experts,
            "Set moe.shared_experts=0, or moe.upcycled_from= to start afresh.",
        )
        require(
            self.top_k <= self.num_experts,
            "moe.top_k must not exceed moe.num_experts",
            (self.top_k, self.num_experts),
            "Choose fewer experts or offer more.",
        )
        require(
            not (
                self.router_kind.trains
                and self.top_k * self.granularity == 1
                and self.gate in ("softmax_topk", "double_softmax", "sigmoid_topk")
            ),
            "a learned Top-1 router needs a gate that is not normalised over the chosen "
            "(its one weight would be 1, and no gradient would reach the router)",
            self.gate,
            "Use moe.gate=switch or sigmoid.",
        )
        require(
            self.balance == "none" or self.router_kind.stores_weights,
            "balancing needs a router that persists and reads the hidden states "
            f"({', '.join(routers_that(lambda kind: kind.stores_weights))})",
            (self.balance, self.router),
            "Set moe.balance=none.",
        )
        require(
            not (self.router_kind.reads_token_ids and self.routing_unit == "sequence"),
            f"a {self.router} router works on token ids, so its unit is the token",
            self.routing_unit,
            "Set moe.routing_unit=token.",
        )
        require(
            not (self.follows_labels and (self.top_k > 1 or self.granularity > 1)),
            f"a {self.router} router sends a label to one expert, so top_k and granularity are 1",
            (self.top_k, self.granularity),
            "Set moe.top_k=1 and moe.granularity=1.",
        )
        require(
            not self.follows_labels or self.label_column != "",
            f"a {self.router} router needs moe.label_column",
            self.label_column,
            "Name a label column of the corpus.",
        )
        require(
            self.chosen_groups <= self.expert_groups
            and self.total_experts % self.expert_groups == 0,
            "moe.chosen_groups of moe.expert_groups are chosen, which part the experts (after "
            "granularity) evenly",
            (self.chosen_groups, self.expert_groups, self.total_experts),
            "Choose at most all groups, and a number of groups that divides the experts.",
        )
        group_size = self.total_experts // self.expert_groups
        require(
            self.active_experts <= self.chosen_groups * group_size,
            "the chosen groups must hold all the experts that a unit chooses",
            (self.active_experts, self.chosen_groups * group_size),
            "Raise moe.chosen_groups, or lower moe.top_k.",
        )
        require(
            not (self.balance == "sequence" and self.routing_unit == "sequence"),
            "moe.balance=sequence evens the load within a sequence, whose tokens choose",
            self.routing_unit,
            "Use moe.balance=switch, or moe.routing_unit=token.",
        )
        check_choice(self)
        if self.uses_prefix:
            require(
                self.prefix_length >= 1,
                "sequence_representation=prefix needs moe.prefix_length of at least 1",
                self.prefix_length,
                "Set it, and train.loss_start to the same number in all cells of the study.",
            )

    @property
    def is_dense(self) -> bool:
        return self.num_experts == 0

    @property
    def router_kind(self) -> RouterKind:
        return ROUTER_KINDS[self.router]

    @property
    def follows_labels(self) -> bool:
        """Whether the label of a sequence, `label_column`, decides its experts."""
        return self.num_experts > 0 and self.router_kind.follows_labels

    @property
    def routes_sequences(self) -> bool:
        """Whether all tokens of a sequence have the same experts."""
        return self.routing_unit == "sequence" or self.follows_labels

    @property
    def uses_prefix(self) -> bool:
        """Whether a sequence's route is read from its first `prefix_length` positions."""
        return (
            self.num_experts > 0
            and self.routing_unit == "sequence"
            and self.router_kind.scores
            and self.sequence_representation == "prefix"
        )

    @property
    def starts_from(self) -> str:
        """Config hash of the dense trial whose weights a run begins with; "" where it begins
        afresh, as every dense model does."""
        return "" if self.is_dense else self.upcycled_from

    @property
    def experts_choose(self) -> bool:
        """Whether experts choose tokens; where each takes all of them, nobody chooses."""
        return self.num_experts > 0 and self.selection == "expert" and self.top_k < self.num_experts

    @property
    def limits_capacity(self) -> bool:
        """Whether an expert may have too little room: with room for every unit it never has."""
        return self.num_experts > 0 and 0 < self.capacity_factor * self.top_k < self.num_experts

    @property
    def balances_by_bias(self) -> bool:
        return self.balance in ("loss_free", "loss_free_logits")

    @property
    def reads_whole_sequences(self) -> bool:
        """Whether a sequence's route is read from all of its positions, later ones too."""
        scores = self.num_experts > 0 and self.router_kind.scores
        return scores and self.routing_unit == "sequence" and not self.uses_prefix

    @property
    def leaks_future(self) -> bool:
        """Whether later tokens of a text decide which experts an earlier one passes.

        Such a decoder reads, in training and in evaluation, what it could not read while it writes:
        its loss is none of a language model, and compares with that of its like only.
        """
        if self.num_experts == 0 or not self.router_kind.scores:
            return False
        by_rank = self.limits_capacity and self.dropping == "probability"
        leaks_by_room = by_rank and self.routing_unit == "token"
        return self.reads_whole_sequences or self.experts_choose or leaks_by_room

    @property
    def total_experts(self) -> int:
        """Experts that a block holds, after granularity (shared ones apart)."""
        return self.num_experts * self.granularity

    @property
    def active_experts(self) -> int:
        """Experts that a routed unit passes, after granularity (shared ones apart)."""
        return self.top_k * self.granularity
